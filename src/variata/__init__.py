"""variata: variational autoencoders as compositions of distributions."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from variata.run.loading import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str):  # torch takes seconds to import; a mistyped option should not wait for it
    if name == "load":
        from variata.run.loading import load

        return load
    raise AttributeError(f"module 'variata' has no attribute {name!r}")
