"""A sweep from its command to its table. Its directory holds a run directory per job, and

sweep.json    what was asked for, to resume from        best.yaml    the best configuration, for train.py
study.db      Optuna's, of a search                     report.html  all runs compared
"""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from hydra_plugins.variata_plugins import ProcessLauncher
from variata import __version__, runs
from variata.cli.crew import crew
from variata.cli.job import Job
from variata.cli.signals import interrupt, signals_to
from variata.errors import ConfigError, Interrupted, JobsFailed, RunError, UserError
from variata.sweeps import ending, space
from variata.sweeps.jobs import Ended, compose, outcome
from variata.sweeps.options import Options, options
from variata.sweeps.search import Grid, Search, Source
from variata.sweeps.space import Space

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
SLURM = "hydra_plugins.variata_plugins.SubmititSlurm"
OF_SWEEPS = ("sweep", "jobs")  # words of the command line that are not the jobs'
MAY_CHANGE = ("sweep.trials", "sweep.report")  # when resuming


@dataclass(frozen=True)
class Request:
    """What a sweep was asked for.

    Args:
        arguments: Of the command line that are the jobs'.
        options: Of the `sweep` group.
        primary: Flags that choose another primary configuration: --config-dir, --config-name.
    """

    arguments: list[str]
    options: Options
    primary: list[str]

    def save(self, folder: Path) -> None:
        """Write sweep.json, from which it can be resumed."""
        text = json.dumps({**asdict(self), "version": __version__}, indent=2) + "\n"
        runs.write(folder / "sweep.json", text, secret=True)

    @classmethod
    def load(cls, folder: Path) -> "Request":
        """What `save` wrote."""
        try:
            values = json.loads((folder / "sweep.json").read_text())
            arguments, primary = ([str(word) for word in [*values[name]]] for name in ("arguments", "primary"))
            return cls(arguments, options(OmegaConf.create(values["options"])), primary)
        except (OSError, ValueError, KeyError, TypeError, UserError) as error:
            raise RunError(f"sweep.resume={folder} is no directory of a sweep: sweep.json cannot be read.") from error


def sweep(context: HydraContext, task: TaskFunction, config: DictConfig, arguments: list[str]) -> None:
    """Run the jobs of `-m`, show what came of them, and write down the best.

    Raises:
        JobsFailed: At the end, if some did.
        Interrupted: Ctrl-C or SIGTERM; the sweep can be resumed.
    """
    request, folder = asked(config, arguments)
    again = resuming(config, folder, request)
    launcher = launcher_of(context, task, config, request)
    points = space.read(request.options.params, request.arguments)
    with ended_by_signals(again), alone(folder):
        source = source_of(request.options, points, folder, config.jobs, partial(compose, context, config))
        request.save(folder)
        objectives, done = request.options.objectives, source.total - source.left
        told = ending.Progress(folder, points, source.total, done, config.jobs, objectives)

        def ended(job: Job) -> None:
            how = outcome(job.folder)
            source.tell(job, how)
            told.ended(job, how)

        try:
            launch(launcher, source.jobs(), ended)
        finally:
            conclude(context, config, folder, points, request.options, source)
    if failed := [number for number in source.overrides() if not outcome(folder / str(number)).well]:
        raise JobsFailed(failed, len(source.overrides()), folder, None if request.options.sampler else again)


def source_of(options: Options, points: Space, folder: Path, parallel: int, make: Any) -> Source:
    """Every combination, or what a sampler draws."""
    if options.sampler:
        return Search(points, options, folder, parallel, make)
    return Grid(list(points.grid()), make)


def launch(launcher: Any, jobs: Iterable[Job], ended: Ended) -> None:
    """Hand jobs to a launcher: one by one to those of ours, in batches to Hydra's, which composes them again."""
    if isinstance(launcher, ProcessLauncher):
        launcher.run(jobs, ended)
        return
    for batch in consecutive(jobs):
        launcher.launch([job.overrides for job in batch], int(batch[0].folder.name))
        for job in batch:
            ended(job)


def conclude(
    context: HydraContext, config: DictConfig, folder: Path, points: Space, options: Options, source: Source
) -> None:
    """Show all jobs, and write down the best, unless they were judged on different images or likelihoods."""
    words, objectives = source.overrides(), options.objectives
    outcomes = {number: outcome(folder / str(number)) for number in words}
    compared = ending.compared(folder, objectives) if any(how.well for how in outcomes.values()) else None
    apart = compared is not None and bool(compared.apart)
    best = [] if apart else ending.best(outcomes, objectives)
    ending.table(folder, points, outcomes, words, best, objectives)
    primary = config.hydra.job.config_name
    places = [f"file://{p.path}" for p in config.hydra.runtime.config_sources if p.provider == "command-line"]
    for number in best:
        path = folder / ("best.yaml" if len(objectives) == 1 else f"best_{number}.yaml")
        ending.tell(ending.write_best(path, context.config_loader, primary, places, words[number]))
    if compared and options.report:
        ending.tell(ending.write_report(folder, compared))
    if apart:
        ending.tell("The runs were not judged alike, so none is called the best: variata compare says what differs.")


def asked(config: DictConfig, arguments: list[str]) -> tuple[Request, Path]:
    """What to do, and where: a new sweep, or an earlier one gone on with."""
    words = {word: OverridesParser.create().parse_override(word) for word in arguments}
    ours = {word: it.key_or_group for word, it in words.items() if it.key_or_group.split(".")[0] in OF_SWEEPS}
    if varied := [word for word in ours if words[word].is_sweep_override()]:
        raise ConfigError(f"{varied[0]}: what is said of the sweep itself cannot be varied in it.")
    if any(it.key_or_group == "resume" for it in words.values()):
        raise ConfigError(
            "resume= goes on with one run: leave out -m. A sweep goes on by sweep.resume=<its directory>."
        )
    if config.jobs is not None and (not isinstance(config.jobs, int) or config.jobs < 1):
        raise ConfigError(f"jobs={config.jobs} is no whole number from 1.")
    chosen, primary = options(config.sweep), [word for word in sys.argv[1:] if word.startswith("--config")]
    if chosen.resume is None:
        folder = Path(config.hydra.sweep.dir)
        if folder.is_dir() and any(folder.iterdir()):
            raise RunError(
                f"{folder} is not empty. Choose another hydra.sweep.dir, or go on with sweep.resume={folder}."
            )
        return Request([word for word in arguments if word not in ours], chosen, primary), folder
    may = {"sweep.resume", "jobs", *MAY_CHANGE}
    if foreign := [word for word in arguments if ours.get(word) not in may]:
        raise ConfigError(
            f"sweep.resume goes on with what {chosen.resume} was started with: leave out {' '.join(foreign)}. "
            f"You may give jobs, {', '.join(MAY_CHANGE)} and hydra.launcher options."
        )
    folder = Path(chosen.resume)
    request = Request.load(folder)
    if primary != request.primary:
        raise ConfigError(
            f"{folder} was started with {shlex.join(request.primary) or 'no --config flags'}: give the same."
        )
    changed = {key.split(".")[1]: getattr(chosen, key.split(".")[1]) for key in MAY_CHANGE if key in ours.values()}
    with read_write(config), open_dict(config):
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(folder)}")
        config.hydra.sweep.dir = str(folder)
    return Request(request.arguments, Options(**{**asdict(request.options), **changed}), primary), folder


def quoted(path: Path) -> str:
    """A path as a value in Hydra's grammar."""
    if re.fullmatch(r"[\w./-]+", str(path)):
        return str(path)
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", str(path)).replace("'", "\\'")
    return f"'{escaped}'"


def resuming(config: DictConfig, folder: Path, request: Request) -> str:
    """The command that goes on with a sweep as it was launched."""
    launching = [word for word in config.hydra.overrides.hydra if word.startswith(("hydra/launcher", "hydra.launcher"))]
    jobs = [f"jobs={config.jobs}"] if config.jobs is not None else []
    words = [*request.primary, f"sweep.resume={quoted(folder)}", *jobs, *launching]
    return f"python train.py -m {shlex.join(words)}"


def launcher_of(context: HydraContext, task: TaskFunction, config: DictConfig, request: Request) -> Any:
    """The launcher Hydra was told to use. Where one started several processes already, they do the jobs in turn."""
    if crew():
        with read_write(config), open_dict(config):
            config.hydra.launcher = {"_target_": BASIC}
    with read_write(config):
        config.jobs = at_a_time(config, request.options)
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    if not isinstance(launcher, ProcessLauncher) and (request.options.sampler or config.jobs != 1):
        raise ConfigError("jobs and sweep.sampler need hydra/launcher=joblib (the default) or submitit_slurm.")
    return launcher


def at_a_time(config: DictConfig, options: Options) -> int:
    """Jobs at a time: as `jobs` says; else one here, on a cluster all, or a fifth of a search that learns from them."""
    if config.jobs is not None:
        return config.jobs
    if config.hydra.launcher._target_ != SLURM:
        return 1
    return max(1, options.trials // 5) if options.sampler in ("tpe", "cmaes") else sys.maxsize


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
    """Nobody else runs this sweep meanwhile. A directory in which it does not even begin is not left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise RunError(f"Another process is at the sweep {folder}. Wait for it, or stop it, then resume.") from None
    except BaseException:
        if not (folder / "sweep.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # at the first that is not empty
                for parent in list(folder.absolute().parents)[:2]:
                    parent.rmdir()
        raise


@contextmanager
def ended_by_signals(command: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end a sweep alike, and name the command that goes on."""
    try:
        with signals_to(interrupt):
            yield
    except Interrupted as error:
        raise Interrupted(error.signum, command=command) from None
