"""Libraries that few need, each installed with an extra of the package."""

from importlib import import_module

from variata.errors import ConfigError

EXTRAS = {"optuna": "sweep", "cmaes": "sweep", "submitit": "slurm", "torch_fidelity": "quality"}


def require(library: str, what: str) -> None:
    """Refuse what needs a library that is not installed.

    Args:
        library: Its name in Python.
        what: Needs it.

    Raises:
        ConfigError: With the command that installs it.
    """
    try:
        import_module(library)
    except ImportError as error:
        raise ConfigError(
            f"{what} needs {library}, which cannot be imported ({error}). "
            f"Install it: pip install 'variata[{EXTRAS[library]}]'."
        ) from error
