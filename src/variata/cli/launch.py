"""Start a run from the command line: compose, check names, then train; every error one paragraph and an exit code."""

import logging
import os
import re
import secrets
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from variata import runs
from variata.cli.crew import crew
from variata.cli.lock import COMMAND, WRITER, alone
from variata.cli.signals import end_in_time, interrupt, signals_to
from variata.cli.streams import audible
from variata.errors import ConfigError, Defect, Interrupted, OutOfMemory, RunError, UserError

INSTALLED, CHECKOUT = Path(__file__).parents[1] / "conf", Path(__file__).parents[3] / "conf"
CONF = INSTALLED if INSTALLED.is_dir() else CHECKOUT


failed: list[UserError] = []  # jobs that ended with an error already told
new: list[Path] = []  # run directories made up so far


def guarded(command: Callable[[], Any]) -> int:
    """Run a command; answer what goes wrong with a paragraph on stderr. Returns the exit code."""
    audible()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions over instead of printing and exiting
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("folder", folder, replace=True)
    try:
        with signals_to(interrupt):
            command()
        return failed[0].exit_code if failed else 0
    except (KeyboardInterrupt, Interrupted) as error:
        say("Interrupted." if isinstance(error, KeyboardInterrupt) else str(error))
        return getattr(error, "exit_code", 130)
    except Exception as error:
        if debugging():
            raise
        say(str(known := told(error)))
        return known.exit_code


def run_dir(outputs: str, data: str, model: str, resume: str | None) -> str:
    """outputs/<data>-<model>/<date>_<time>-<6 hex>, or the directory of the run to resume."""
    if resume is not None:
        if not isinstance(resume, str) or not (Path(resume) / "config.yaml").is_file():
            raise RunError(f"resume={resume} is no run directory: it has no config.yaml. Give the path of a run.")
        runs.require_whole(Path(resume))
        runs.require_own(Path(resume))  # before anything is written into train.log
        return resume
    for group, option in (("data", data), ("model", model)):
        if ".." in Path(option).parts or Path(option).is_absolute():
            raise ConfigError(f"{group}={option} leads out of the group {group}. Give the name of one of its options.")
    new.append(Path(folder(outputs), f"{data}-{model}", f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(3)}"))
    return str(new[-1])


def folder(outputs: Any) -> str:
    """The folder of run directories, if it is one's name."""
    if not isinstance(outputs, str) or not outputs.strip():
        raise ConfigError(f"outputs={outputs} is no folder. Give its path, as in outputs=outputs.")
    return outputs


def say(message: str) -> None:
    """One paragraph on stderr."""
    width = max(40, min(120, shutil.get_terminal_size((100, 24)).columns))
    sys.stderr.write(textwrap.fill(f"variata: {message}", width, break_long_words=False, break_on_hyphens=False) + "\n")


def debugging() -> bool:
    """Whether the command line asks for tracebacks."""
    return any(word.lstrip("+") in ("debug=true", "debug=True") for word in sys.argv[1:])


def mendable(error: BaseException | None) -> UserError | None:
    """The error of ours that a library wrapped, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def told(error: Exception) -> UserError:
    """Any error as one to be told in a paragraph; one nobody foresaw as a defect."""
    if known := mendable(error):
        return known
    if isinstance(error, MemoryError) or re.search("can't allocate memory|out of memory", str(error), re.IGNORECASE):
        reason = f" ({' '.join(str(error).split())[:200]})" if str(error) else ""
        return OutOfMemory(
            f"There is not enough memory{reason}. A limit may be set, see ulimit -v; less is asked for by smaller "
            "data.batch_size, evaluate.rows, objective.samples or models."
        )
    if isinstance(error, ImportError):
        return RunError(
            f"A library cannot be loaded: {error}. Memory may be limited (ulimit -v; importing PyTorch takes 4 GiB of "
            "addresses), or the installation is not whole: run make setup."
        )
    if isinstance(error, HydraException | OmegaConfBaseException | OSError) or met_by_hydra(error):
        return RunError(explain(error))
    return Defect(error)


def explain(error: Exception) -> str:
    """What Hydra, OmegaConf or the operating system found wrong, in our words."""
    if isinstance(error, MissingConfigException):
        if error.options is None or not error.missing_cfg_file:
            return " ".join(str(error).split())
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option} is unknown. {suggestion(option, error.options)}"
    if isinstance(error, OSError):
        place = error.filename or "A file of the run"
        return f"{place} cannot be used: {error.strerror or error}. Choose another folder with outputs=..."
    if "Config group override" in str(error):
        return "A group takes the name of an option, not null: scheduler=none, logger=none, callbacks=[]."
    key = unknown_key(error)
    if key is not None:
        return f"{key or 'A word without a key'} is not in the configuration. {suggestion(key, known_keys(), listed=8)}"
    if not isinstance(error, HydraException | OmegaConfBaseException):  # what Hydra itself did not foresee
        return f"{blamed(sys.argv[1:])}{f' ({error})' if isinstance(error, ValueError) else ''}"
    return " ".join(str(error).split() or str(error.__cause__).split() or [type(error).__name__])


def blamed(words: list[str]) -> str:
    """The word of a command line that Hydra stumbles over, as far as can be said."""
    parse = OverridesParser.create().parse_override
    for override in (parse(word) for word in words if "=" in word and word[0] != "-"):
        value: Any = override.value()
        names = value if isinstance(value, list) else [value]
        if (CONF / override.key_or_group).is_dir() and not all(isinstance(name, str | None) for name in names):
            return (
                f"{override.input_line}: a group takes the name of an option, or a list of names, as in "
                "callbacks=[default,ema]."
            )
    odd = [word for word in words if word.lstrip("+~").startswith("hydra")] or words
    return f"Hydra cannot use {' '.join(odd)}. See `python train.py --hydra-help` for what its options take."


def met_by_hydra(error: Exception) -> bool:
    """Whether an exception comes from Hydra reading the command line, not from what it builds or calls."""
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = max((i for i, name in enumerate(modules) if name.startswith("variata.")), default=-1)
    builds = ours >= 0 and modules[ours] == "variata.targets"
    return not builds and any(name.startswith(("hydra.", "omegaconf.")) for name in modules[ours + 1 :])


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
        run, outputs = Path(HydraConfig.get().runtime.output_dir), Path(folder(config.outputs))
        with alone(run), clean_start(run, outputs, new=config.resume is None):
            if HydraConfig.get().mode == RunMode.RUN and (config.sweep.params or config.sweep.resume):
                raise ConfigError("A sweep is several runs: add -m, as in python train.py -m sweep=beta.")
            from variata.cli.train import train

            train(config)
    except Exception as error:
        if config.get("debug") is True:
            raise
        known = told(error)
        say(str(known))
        failed.append(known)
        if (others := crew()) and others.alone:  # they wait for this process, until their launcher ends them
            raise SystemExit(known.exit_code) from None


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
            remove_empty(*(p for p in folder.parents if outputs.resolve() in (p.resolve(), *p.resolve().parents)))
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


def remove_empty(*folders: Path) -> None:
    """Remove folders up to the first that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def arranged(words: list[str]) -> list[str]:
    """The words of a command line with its flags first, where Hydra finds them: `seed=1,2 -m` may stand anywhere.

    Raises:
        ConfigError: A flag that is none, or one that would run what a file says.
    """

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}. See `python train.py --help` and `python train.py --hydra-help`.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    given = parser.parse_intermixed_args(words)
    if given.experimental_rerun is not None:
        refuse("--experimental-rerun reads a pickle, which may hold code. Use resume=<run>, or --config-dir")
    if any(word.lstrip("+~").startswith("hydra.output_subdir") for word in given.overrides):
        refuse("hydra.output_subdir: a run directory has a config.yaml and overrides.txt of its own. Leave it out")
    return [word for word in words if word not in given.overrides] + given.overrides


def lead() -> None:
    """Hand the command line to Hydra; of a run that could not begin nothing is left."""
    sys.argv[1:] = arranged(sys.argv[1:])
    try:
        job()
    finally:
        for place in new:  # outputs/<data>-<model>/<run>
            remove_empty(place, *list(place.parents)[:2])


def main() -> int:
    """`train.py`, and `variata train`: where a launcher started several processes, the first of them leads."""
    others = crew()
    if others is None:
        return guarded(lead)
    end_in_time(os.getppid())
    from variata.cli.worker import begin, follow

    begin(others.rank, others.devices)
    if others.rank > 0:
        return follow(others)
    code = guarded(lead)
    if code < 128:  # a signal reaches the others too
        others.dismiss()
    return code
