"""Start a run from the command line: compose, check names, then train; every error one paragraph and an exit code."""

import logging
import os
import secrets
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from variata.cli.crew import crew
from variata.cli.lock import COMMAND, WRITER, alone
from variata.cli.signals import end_in_time, interrupt, signals_to
from variata.errors import ConfigError, Interrupted, RunError, UserError

INSTALLED, CHECKOUT = Path(__file__).parents[1] / "conf", Path(__file__).parents[3] / "conf"
CONF = INSTALLED if INSTALLED.is_dir() else CHECKOUT


failed: list[UserError] = []  # jobs that ended with an error already told


def guarded(command: Callable[[], Any]) -> int:
    """Run a command; answer what the user can mend with a paragraph on stderr. Returns the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions over instead of printing and exiting
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True, use_cache=True)
    try:
        with signals_to(interrupt):
            command()
        return failed[0].exit_code if failed else 0
    except (KeyboardInterrupt, Interrupted) as error:
        say("Interrupted." if isinstance(error, KeyboardInterrupt) else str(error))
        return getattr(error, "exit_code", 130)
    except (UserError, HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        known = mendable(error)
        ours = isinstance(error, ValueError) and not isinstance(error, OmegaConfBaseException)
        if ours and known is None and not raised_by_hydra(error):
            raise  # a defect of ours
        if debugging() or (
            known is None and isinstance(error, InstantiationException)
        ):  # the latter is a defect of ours
            raise
        say(str(known or explain(error)))
        return known.exit_code if known else UserError.exit_code


def run_dir(outputs: str, data: str, model: str, resume: str | None) -> str:
    """outputs/<data>-<model>/<date>_<time>-<6 hex>, or the directory of the run to resume."""
    if resume:
        if not (Path(resume) / "config.yaml").is_file():
            raise RunError(f"resume={resume} is no run directory: it has no config.yaml. Give the path of a run.")
        return resume
    return f"{outputs}/{data}-{model}/{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(3)}"


def say(message: str) -> None:
    """One paragraph on stderr."""
    width = max(40, min(120, shutil.get_terminal_size((100, 24)).columns))
    sys.stderr.write(textwrap.fill(f"variata: {message}", width, break_long_words=False, break_on_hyphens=False) + "\n")


def debugging() -> bool:
    """Whether the command line asks for tracebacks."""
    return any(word.removeprefix("+") in ("debug=true", "debug=True") for word in sys.argv[1:])


def mendable(error: BaseException | None) -> UserError | None:
    """The error of ours that a library wrapped, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def explain(error: Exception) -> str:
    """What Hydra, OmegaConf or the operating system found wrong, in our words."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option} is unknown. {suggestion(option, error.options)}"
    if isinstance(error, OSError):
        place = error.filename or "A file of the run"
        return f"{place} cannot be used: {error.strerror or error}. Choose another folder with outputs=..."
    if "Config group override" in str(error):
        return "A group takes the name of an option, not null: scheduler=none, logger=none, callbacks=[]."
    key = unknown_key(error)
    if key is not None:
        return f"{key} is not in the configuration. {suggestion(key, known_keys(), listed=8)}"
    return " ".join(str(error).split() or str(error.__cause__).split())


def raised_by_hydra(error: Exception) -> bool:
    """Whether an exception of a common type comes from reading the command line."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and Path(hydra.__file__).parent in Path(frame.tb_frame.f_code.co_filename).parents


def unknown_key(error: Exception) -> str | None:
    """The key of an override that matches nothing."""
    words = str(error).split("'")
    return words[1] if str(error).startswith("Could not override '") and len(words) > 2 else None


def suggestion(given: str, allowed: Iterable[str], listed: int = 100) -> str:
    """A did-you-mean and the choices nearest to what was given."""
    from difflib import get_close_matches

    allowed = sorted(allowed)
    close = get_close_matches(given, allowed, n=1)
    if len(allowed) > listed:
        close_ones = get_close_matches(given, allowed, n=listed, cutoff=0.4)
        tail = f"Near it: {', '.join(close_ones)}. " if close_ones else ""
        tail += "See `python train.py --cfg job` for all keys."
    else:
        tail = f"Allowed: {', '.join(allowed)}."
    return (f"Did you mean {close[0]}? " if close else "") + tail


def known_keys() -> list[str]:
    """Every key and group of the configuration the command line chose, leaving out what it overrides."""
    GlobalHydra.instance().clear()
    choices = [word for word in sys.argv[1:] if "=" in word and "." not in word.split("=")[0]]
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        for overrides in (choices, []):
            try:
                return sorted(keys(hydra.compose("config", overrides)))
            except (HydraException, OmegaConfBaseException):
                continue
    return []


def keys(node: DictConfig, prefix: str = "") -> Iterable[str]:
    """Dotted names of all keys below a node."""
    for name in node:
        yield f"{prefix}{name!s}"
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from keys(child, f"{prefix}{name!s}.")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(config: DictConfig) -> None:
    """What Hydra calls for a run, and for each of several that its own launchers start."""
    if HydraConfig.get().mode == RunMode.MULTIRUN and not crew():
        from variata.sweeps.local import apart

        apart(config)
        return
    try:
        folder = Path(HydraConfig.get().runtime.output_dir)
        with alone(folder), clean_start(folder, Path(config.outputs), new=not config.resume):
            if HydraConfig.get().mode == RunMode.RUN and (config.sweep.params or config.sweep.resume):
                raise ConfigError("A sweep is several runs: add -m, as in python train.py -m sweep=beta.")
            from variata.cli.train import train

            train(config)
    except (UserError, OSError) as error:
        if config.debug is True:
            raise
        told = error if isinstance(error, UserError) else RunError(explain(error))
        say(str(told))
        failed.append(told)
        if (others := crew()) and others.alone:  # they wait for this process, until their launcher ends them
            raise SystemExit(told.exit_code) from None


@contextmanager
def clean_start(folder: Path, outputs: Path, new: bool) -> Iterator[None]:
    """Remove the run directory, and folders below outputs that it leaves empty, if the run cannot even start.

    A run has started when its config.yaml is there. Whoever calls this holds the run's lock.
    """
    if new and {path.name for path in folder.iterdir()} - {"train.log", ".hydra", COMMAND, WRITER}:
        raise RunError(f"{folder} is not empty. Choose another hydra.run.dir, or leave it out for a new one each time.")
    try:
        yield
    except BaseException:
        if not (folder / "config.yaml").is_file():
            logging.shutdown()
            remove(folder)
            with suppress(OSError):  # at the first that is not empty
                for parent in folder.parents:
                    if outputs.resolve() in (parent.resolve(), *parent.resolve().parents):
                        parent.rmdir()
        raise


def remove(folder: Path) -> None:
    """Remove a run directory, the lock last: with it, the directory may be another's."""
    with suppress(OSError):  # as far as it goes
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != COMMAND:
                path.unlink()
        (folder / COMMAND).unlink()
        folder.rmdir()


def main() -> int:
    """`train.py`, and `variata train`: where a launcher started several processes, the first of them leads."""
    others = crew()
    if others is None:
        return guarded(job)
    end_in_time(os.getppid())
    from variata.cli.worker import begin, follow

    begin(others.rank, others.devices)
    if others.rank > 0:
        return follow(others)
    code = guarded(job)
    if code < 128:  # a signal reaches the others too
        others.dismiss()
    return code
