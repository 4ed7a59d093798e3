"""A sweep from its command to its table. Its directory holds a run directory per job, and

sweep.json    what was asked for, to resume from        best.yaml    the best configuration, for train.py
study.journal Optuna's, of a search                     report.html  all runs compared
primary_*     a copy of the primary configuration, where it is not ours, for best.yaml
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write
from omegaconf.errors import OmegaConfBaseException

from variata.config.explain import mendable
from variata.errors import ConfigError, Interrupted, JobsFailed, UserError
from variata.run.directory import mark_refused, outcome
from variata.run.job import Job
from variata.run.lock import alone
from variata.run.ranks import ranks
from variata.signals import interrupt, signals_to
from variata.sweeps import space, summary
from variata.sweeps.jobs import compose
from variata.sweeps.options import Options
from variata.sweeps.request import Request, asked, recomposed, resuming
from variata.sweeps.search import Grid, Point, Search, Source, mind_validations
from variata.sweeps.space import Space

SLURM = "hydra_plugins.variata_plugins.SubmititSlurm"
REFUSALS = (UserError, HydraException, OmegaConfBaseException)  # of what cannot be composed

Make = Callable[[list[str], int], Job]
Ended = Callable[[int, list[str]], None]


def sweep(context: HydraContext, task: TaskFunction, config: DictConfig, arguments: list[str]) -> None:
    """Run the jobs of `-m`, show what came of them, and write down the best.

    Raises:
        JobsFailed: At the end, if some did.
        Interrupted: Ctrl-C or SIGTERM; the sweep can be resumed.
    """
    if others := ranks():
        raise ConfigError(
            "-m under torchrun or srun would start every job once for each process. Leave them out: python train.py -m "
            f"... trainer.devices={others.devices}, on a cluster with hydra/launcher=submitit_slurm."
        )
    request, folder = asked(config, arguments)
    context = replace(context, config_loader=request.origin.loader(context.config_loader))
    if config.sweep.resume is not None:
        config = recomposed(context, config, request, folder)
    request = request.written_out(context)
    command = resuming(config, folder)
    launcher = launcher_of(context, task, config, request.options)
    tried = space.read(request.options.params, request.arguments)
    make: Make = partial(compose, context, config)
    with ended_by_signals(command), alone(folder), gone_unless_begun(folder):
        source = source_of(request.options, tried, folder, config.jobs)
        check(tried, request.options, make)
        request.save(folder)
        objectives, done, one = request.options.objectives, source.total - source.left, Lock()
        progress = summary.Progress(folder, tried, source.total, done, config.jobs, objectives)

        def ended(number: int, words: list[str]) -> None:
            how = outcome(folder / str(number))
            with one:
                source.tell(number, how)
                progress.ended(number, words, how)

        try:
            launch(launcher, source, composed(source.points(), folder, make, ended), ended)
        finally:
            conclude(context, folder, tried, request, source)
    if failed := [number for number in source.overrides() if not outcome(folder / str(number)).well]:
        raise JobsFailed(failed, len(source.overrides()), folder, None if request.options.sampler else command)


def source_of(options: Options, tried: Space, folder: Path, parallel: int) -> Source:
    """Every combination, or what a sampler draws."""
    if options.sampler:
        return Search(tried, options, folder, parallel)
    return Grid(list(tried.grid()), folder)


def check(tried: Space, options: Options, make: Make) -> None:
    """Compose what shows whether all can be composed, so that a wrong word is told before any job begins."""
    for words in tried.corners():
        job = make(words, 0)
    if options.pruner:
        mind_validations(job, options.pruner)


def composed(points: Iterator[Point], folder: Path, make: Make, ended: Ended) -> Iterator[Job]:
    """The jobs of points, as they are asked for. One that cannot be composed has failed, and the others go on."""
    for point in points:
        try:
            job = make(point.overrides, point.number)
        except REFUSALS as error:
            mark_refused(folder / str(point.number), " ".join(str(mendable(error) or error).split()))
            ended(point.number, point.overrides)
        else:
            yield replace(job, trial=point.trial)


def launch(launcher: Any, source: Source, jobs: Iterator[Job], ended: Ended) -> None:
    """Hand jobs to a launcher of ours; to Hydra's the words of those that follow each other, which it composes."""

    def over(job: Job) -> None:
        ended(int(job.folder.name), job.overrides)

    if not takes_jobs(launcher):
        for batch in consecutive(source.points()):
            launcher.launch([point.overrides for point in batch], batch[0].number)
            for point in batch:
                ended(point.number, point.overrides)
    elif source.known and launcher.together:
        while some := list(islice(jobs, launcher.together)):
            launcher.run(some, over)
    else:
        launcher.run(jobs, over)


def conclude(context: HydraContext, folder: Path, tried: Space, request: Request, source: Source) -> None:
    """Show all jobs, and write down the best, unless they were judged on different images or likelihoods."""
    words, objectives = source.overrides(), request.options.objectives
    outcomes = {number: outcome(folder / str(number)) for number in words}
    compared = summary.compared(folder, objectives) if any(how.well for how in outcomes.values()) else None
    apart = compared is not None and bool(compared.apart)
    best = [] if apart else summary.best(outcomes, objectives)
    summary.table(folder, tried, outcomes, words, best, objectives)
    chosen = {("best" if len(objectives) == 1 else f"best_{number}"): words[number] for number in best}
    for path in summary.write_best(folder, context.config_loader, request.origin, chosen):
        summary.tell(path)
    if compared and request.options.report:
        summary.tell(summary.write_report(folder, compared))
    if apart:
        summary.tell("The runs were not judged alike, so none is called the best: variata compare says what differs.")


def launcher_of(context: HydraContext, task: TaskFunction, config: DictConfig, options: Options) -> Any:
    """The launcher Hydra was told to use."""
    with read_write(config):
        config.jobs = at_a_time(config, options)
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    if not takes_jobs(launcher) and (options.sampler or config.jobs != 1):
        raise ConfigError("jobs and sweep.sampler need hydra/launcher=joblib (the default) or submitit_slurm.")
    return launcher


def at_a_time(config: DictConfig, options: Options) -> int:
    """Jobs at a time: as `jobs` says; else one here, on a cluster all, or a fifth of a search that learns from them."""
    if config.jobs is not None:
        return config.jobs
    if config.hydra.launcher._target_ != SLURM:
        return 1
    return max(1, options.trials // 5) if options.sampler in ("tpe", "cmaes") else sys.maxsize


def takes_jobs(launcher: Any) -> bool:
    """Whether a launcher is one of ours. Hydra imports plugins when it starts, whatever was imported before."""
    from hydra_plugins.variata_plugins import ProcessLauncher

    return isinstance(launcher, ProcessLauncher)


def consecutive(points: Iterator[Point]) -> Iterator[list[Point]]:
    """Points in batches whose numbers follow each other, as Hydra numbers them."""
    batch: list[Point] = []
    for point in points:
        if batch and point.number != batch[-1].number + 1:
            yield batch
            batch = []
        batch.append(point)
    if batch:
        yield batch


@contextmanager
def gone_unless_begun(folder: Path) -> Iterator[None]:
    """A directory in which a sweep does not even begin is not left behind."""
    try:
        yield
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
