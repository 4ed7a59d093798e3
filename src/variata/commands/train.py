"""`variata train ...`: train and test a model, the same as python train.py.

Compose, check, launch. What goes wrong is one paragraph and an exit code.
"""

import logging
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from variata.config.compose import CONF, arranged
from variata.errors import ConfigError, RunError
from variata.run import directory
from variata.run.guard import guarded
from variata.run.job import composed_job, configuration
from variata.run.lock import COMMAND, WRITER, alone
from variata.run.ranks import Ranks, ranks
from variata.signals import end_in_time
from variata.sweeps.options import options
from variata.sweeps.request import require_jobs

new: list[Path] = []  # run directories made up so far
met: list[Exception] = []  # in a run: Hydra would tell of it too, with the words of the command


def main() -> int:
    """`train.py`, and `variata train`; returns the exit code."""
    if (others := ranks()) is None:
        return guarded(train)
    end_in_time(os.getppid())
    return guarded(lambda: train_together(others), others)


def train() -> None:
    """Hand the command line to Hydra; of a run that could not begin nothing is left."""
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("folder", folder, replace=True)
    sys.argv[1:] = arranged(sys.argv[1:])
    try:
        job()
    finally:
        for place in new:  # outputs/<data>-<model>/<run>
            remove_empty(place, *list(place.parents)[:2])
    if met:
        raise met.pop()


def train_together(others: Ranks) -> None:
    """`train` in one of a launcher's processes. All compose the same words; the first one has the run directory."""
    if others.rank == 0:
        train()
        return
    with TemporaryDirectory() as elsewhere:  # for what Hydra writes
        sys.argv.append(f"hydra.run.dir={elsewhere}")
        train()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(config: DictConfig) -> None:
    """What Hydra calls for a run, and for each of several that its own launchers start."""
    try:
        begin(config)
    except Exception as error:
        met.append(error)


def begin(config: DictConfig) -> None:
    """Do a job in a run directory of its own."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from variata.sweeps.launchers.local import apart

        apart(config)
        return
    require_single(config)
    others = ranks()
    if others and others.rank > 0:
        launched(config, others.folder())
        return
    run, outputs = Path(HydraConfig.get().runtime.output_dir), Path(folder(config.outputs))
    with alone(run), clean_start(run, outputs, new=config.resume is None):
        if others:
            others.go_to(run)
        launched(config, run)


def launched(config: DictConfig, run: Path) -> None:
    """Do what a composed configuration asks for, in a run directory."""
    ready = composed_job(configuration(config), run)
    from variata.run.launch import launch  # after what is quickly refused

    launch(ready)


def require_single(config: DictConfig) -> None:
    """Refuse what is said of many runs where there is one, or said wrongly: it would be found when there are many."""
    require_jobs(config)
    options(config.sweep)
    if config.sweep.params or config.sweep.resume:
        raise ConfigError("A sweep is several runs: add -m, as in python train.py -m sweep=beta.")


def run_dir(outputs: str, data: str, model: str, resume: str | None) -> str:
    """outputs/<data>-<model>/<date>_<time>-<6 hex>, or the directory of the run to resume."""
    if resume is not None:
        if not isinstance(resume, str) or not (Path(resume) / "config.yaml").is_file():
            raise RunError(f"resume={resume} is no run directory: it has no config.yaml. Give the path of a run.")
        directory.require_whole(Path(resume))
        directory.require_own(Path(resume))  # before anything is written into train.log
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
