"""A sweep from its command to its table. Its directory holds a run directory per job, and

sweep.json    what was asked for, to resume from        best.yaml    the best configuration, for train.py
study.db      Optuna's, of a search                     report.html  all runs compared
"""

import json
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from hydra_plugins.variata_plugins import ProcessLauncher
from variata import __version__, runs
from variata.cli.crew import crew
from variata.cli.job import Job
from variata.errors import ConfigError, Interrupted, JobsFailed, RunError
from variata.sweeps import ending, space
from variata.sweeps.jobs import Ended, compose, outcome
from variata.sweeps.options import Options, options
from variata.sweeps.search import Grid, Search, Source
from variata.sweeps.space import Space

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
OF_SWEEPS = ("sweep", "jobs")  # words of the command line that are not the jobs'
MAY_CHANGE = ("sweep.trials", "sweep.report")  # when resuming


@dataclass(frozen=True)
class Request:
    """What a sweep was asked for.

    Args:
        arguments: Of the command line that are the jobs'.
        options: Of the `sweep` group.
    """

    arguments: list[str]
    options: Options

    def save(self, folder: Path) -> None:
        """Write sweep.json, from which it can be resumed."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**asdict(self), "version": __version__}, indent=2) + "\n"
        runs.write(folder / "sweep.json", text, secret=True)

    @classmethod
    def load(cls, folder: Path) -> "Request":
        """What `save` wrote."""
        try:
            values = json.loads((folder / "sweep.json").read_text())
            return cls(values["arguments"], Options(**values["options"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"sweep.resume={folder} is no directory of a sweep: sweep.json cannot be read.") from error


def sweep(context: HydraContext, task: TaskFunction, config: DictConfig, arguments: list[str]) -> None:
    """Run the jobs of `-m`, show what came of them, and write down the best.

    Raises:
        JobsFailed: At the end, if some did.
        Interrupted: Ctrl-C or SIGTERM; the sweep can be resumed.
    """
    request, folder = asked(config, arguments)
    launcher = launcher_of(context, task, config, request)
    make = partial(compose, context, config)
    points = space.read(request.options.params, request.arguments)
    source: Source
    if request.options.sampler:
        source = Search(points, request.options, folder, config.jobs, make)
    else:
        source = Grid(list(points.grid()), make)
    request.save(folder)
    told = ending.Progress(folder, points, source.total, source.total - source.left, config.jobs)

    def ended(job: Job) -> None:
        how = outcome(job.folder)
        source.tell(job, how)
        told.ended(job, how)

    with alone(folder), ended_by_signals(folder):
        try:
            launch(launcher, source.jobs(), ended)
        finally:
            conclude(folder, points, request.options, source, context.config_loader, config.hydra.job.config_name)
    failed = [number for number in source.overrides() if not outcome(folder / str(number)).well]
    if failed:
        raise JobsFailed(failed, len(source.overrides()), folder, searched=isinstance(source, Search))


def launch(launcher: Any, jobs: Iterable[Job], ended: Ended) -> None:
    """Hand jobs to a launcher: one by one to those of ours, in batches to Hydra's, which composes them again."""
    if isinstance(launcher, ProcessLauncher):
        launcher.run(jobs, ended)
        return
    for batch in consecutive(jobs):
        launcher.launch([job.overrides for job in batch], int(batch[0].folder.name))
        for job in batch:
            ended(job)


def conclude(folder: Path, space: Space, options: Options, source: Source, loader: ConfigLoader, primary: str) -> None:
    """Show all jobs, and write down the best."""
    words = source.overrides()
    outcomes = {number: outcome(folder / str(number)) for number in words}
    best = ending.best(outcomes, options.objectives)
    ending.table(folder, space, outcomes, words, best)
    if len(options.objectives) == 1 and best:
        ending.tell(ending.write_best(folder, loader, primary, words[best[0]], options))
    if options.report and any(how.well for how in outcomes.values()):
        ending.tell(ending.write_report(folder))


def asked(config: DictConfig, arguments: list[str]) -> tuple[Request, Path]:
    """What to do, and where: a new sweep, or an earlier one gone on with."""
    words = {word: OverridesParser.create().parse_override(word).key_or_group for word in arguments}
    jobs = [word for word, key in words.items() if key.split(".")[0] not in OF_SWEEPS]
    chosen = options(config.sweep)
    if "resume" in words.values():
        raise ConfigError(
            "resume= goes on with one run: leave out -m. With a sweep go on by sweep.resume=<its directory>."
        )
    if chosen.resume is None:
        folder = Path(config.hydra.sweep.dir)
        if folder.is_dir() and any(folder.iterdir()):
            raise RunError(
                f"{folder} is not empty. Choose another hydra.sweep.dir, or go on with sweep.resume={folder}."
            )
        return Request(jobs, chosen), folder
    if foreign := [*jobs, *(w for w, key in words.items() if key == "sweep")]:
        raise ConfigError(
            f"sweep.resume goes on with what {chosen.resume} was started with: leave out {' '.join(foreign)}. "
            f"You may give jobs, {', '.join(MAY_CHANGE)} and hydra.launcher options."
        )
    folder = Path(chosen.resume)
    request, keys = Request.load(folder), set(words.values())
    changed = {key.split(".")[1]: getattr(chosen, key.split(".")[1]) for key in MAY_CHANGE if key in keys}
    with read_write(config), open_dict(config):
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")
        config.hydra.sweep.dir = str(folder)
    return Request(request.arguments, Options(**{**asdict(request.options), **changed})), folder


def launcher_of(context: HydraContext, task: TaskFunction, config: DictConfig, request: Request) -> Any:
    """The launcher Hydra was told to use. Where one started several processes already, they do the jobs in turn."""
    if crew():
        with read_write(config), open_dict(config):
            config.hydra.launcher = {"_target_": BASIC}
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    if not isinstance(launcher, ProcessLauncher) and (request.options.sampler or config.jobs != 1):
        raise ConfigError("jobs and sweep.sampler need hydra/launcher=joblib (the default) or submitit_slurm.")
    return launcher


def consecutive(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    """Jobs in batches whose numbers follow each other, as Hydra numbers them."""
    batch: list[Job] = []
    for job in jobs:
        if batch and int(job.folder.name) != int(batch[-1].folder.name) + 1:
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else runs this sweep meanwhile."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise RunError(f"Another process is at the sweep {folder}. Wait for it, or stop it, then resume.") from None


@contextmanager
def ended_by_signals(folder: Path) -> Iterator[None]:
    """SIGTERM ends a sweep as Ctrl-C does, and both say how to go on."""

    def stop(signum: int, frame: Any) -> None:
        raise Interrupted(signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as error:
        signum = error.signum if isinstance(error, Interrupted) else int(signal.SIGINT)
        raise Interrupted(signum, command=f"python train.py -m sweep.resume={folder}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
