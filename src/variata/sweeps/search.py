"""Where the jobs of a sweep come from: every combination, or a search with Optuna. Both number them from 0.

Each yields jobs and is told how they ended; what it knows outlives the process, in the directory of the sweep.
"""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import URL

from variata.cli.job import Job
from variata.cli.launch import say
from variata.errors import ConfigError, RunError
from variata.sweeps.jobs import Outcome, outcome
from variata.sweeps.options import Options, direction
from variata.sweeps.space import Axis, Range, Space, Values

if TYPE_CHECKING:
    import optuna

Compose = Callable[[list[str], int], Job]
STUDY = "sweep"


class Source(Protocol):
    """Where jobs come from."""

    total: int  # jobs, done or not
    left: int  # of them, to be done

    def jobs(self) -> Iterable[Job]:
        """Those that are left."""

    def tell(self, job: Job, how: Outcome) -> None:
        """How one of them ended."""

    def overrides(self) -> dict[int, list[str]]:
        """What each job so far was asked for, by its number."""


class Grid:
    """Every combination of a space; what has finished before is left out.

    Args:
        points: Overrides of each job.
        compose: Makes a job of overrides and a number.
    """

    def __init__(self, points: list[list[str]], compose: Compose) -> None:
        self.all = [compose(overrides, number) for number, overrides in enumerate(points)]  # errors before any begins
        self.todo = [job for job in self.all if not outcome(job.folder).well]
        self.total, self.left = len(self.all), len(self.todo)

    def jobs(self) -> list[Job]:
        return self.todo

    def tell(self, job: Job, how: Outcome) -> None:
        """A grid learns nothing."""

    def overrides(self) -> dict[int, list[str]]:
        return {number: job.overrides for number, job in enumerate(self.all)}


class Search:
    """Trials of an Optuna study, kept in `study.db`; a trial's number is its job's.

    A trial that was running when everything was killed goes on; one that failed counts.

    Args:
        space: What to try.
        options: Of the sweep.
        folder: Of the sweep.
        parallel: Trials at a time.
    """

    def __init__(self, space: Space, options: Options, folder: Path, parallel: int, compose: Compose) -> None:
        self.space, self.options, self.compose = space, options, compose
        if not space.axes:
            raise ConfigError("A search needs something to vary, like optimizer.lr=interval(1e-4,1e-2).")
        for point in extremes(space):
            job = compose(space.point(point), 0)  # what cannot be composed is told before any trial begins
        if options.pruner:
            mind_validations(job, options.pruner)
        self.distributions = {name: distribution(axis) for name, axis in space.axes.items()}
        self.url = URL.create("sqlite", database=str(folder / "study.db")).render_as_string()
        if (folder / "0").is_dir() and not (folder / "study.db").is_file():
            raise RunError(f"{folder} has jobs, but study.db is gone, without which a search cannot go on.")
        with readable(folder):
            self.study = opened(self.url, options, parallel)
            if options.sampler == "grid" and not self.study.get_trials(deepcopy=False):
                for point in points(space):
                    self.study.enqueue_trial(point)
            for trial in self.begun:  # ended, but killed before the study was told
                if not trial.state.is_finished() and (how := outcome(folder / str(trial.number))).well:
                    self._tell(trial.number, how)
        self.total = len(list(space.grid())) if options.sampler == "grid" else options.trials
        self.running = [trial for trial in self.begun if not trial.state.is_finished()]  # when all was killed
        self.left = self.total - len(self.begun) + len(self.running)

    @property
    def begun(self) -> "list[optuna.trial.FrozenTrial]":
        """All trials but those of a grid that still wait."""
        from optuna.trial import TrialState

        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]

    def jobs(self) -> Iterator[Job]:
        for trial in self.running:
            yield self._job(trial.number, trial.params)
        while len(self.begun) < self.total:
            asked = self.study.ask(self.distributions)
            yield self._job(asked.number, asked.params)

    def tell(self, job: Job, how: Outcome) -> None:
        if how.status not in ("interrupted", "not begun"):  # those can go on when the sweep is resumed
            self._tell(int(job.folder.name), how)

    def _tell(self, number: int, how: Outcome) -> None:
        from optuna.trial import TrialState

        values = how.values(self.options.objectives)
        if how.status == "pruned":
            self.study.tell(number, state=TrialState.PRUNED)
        elif how.status == "finished" and values:
            self.study.tell(number, values)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def overrides(self) -> dict[int, list[str]]:
        return {trial.number: self.space.point(trial.params) for trial in self.begun}

    def _job(self, number: int, params: dict[str, Any]) -> Job:
        job = self.compose(self.space.point(params), number)
        if self.options.pruner is None:
            return job
        return replace(job, trial={"storage": self.url, "number": number, "pruner": self.options.pruner})


def mind_validations(job: Job, pruner: str) -> None:
    """Say so where there is nothing for a pruner to go by."""
    epochs, every = (job.config["trainer"][name] for name in ("max_epochs", "check_val_every_n_epoch"))
    if (epochs or -1) > 0 and every > epochs // 2:
        say(
            f"sweep.pruner={pruner} will stop nothing: {epochs} epochs are validated every {every}. "
            "Use trainer.check_val_every_n_epoch=1."
        )


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """What SQLite cannot read or write is told."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        why = str(error).splitlines()[0]
        raise RunError(
            f"{folder / 'study.db'} cannot be used: {why}. Is the disk full, or the file damaged?"
        ) from error


def opened(url: str, options: Options, parallel: int) -> "optuna.Study":
    """The study of a sweep, new or as it was left."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(
        storage=storage(url),
        study_name=STUDY,
        directions=[direction(name) for name in options.objectives],
        load_if_exists=True,
    )
    seed = options.seed + len(study.get_trials(deepcopy=False))  # resumed, it does not draw the same again
    study.sampler = sampler(options.sampler, seed, parallel)
    return study


def storage(url: str) -> "optuna.storages.BaseStorage":
    """SQLite, patient with the other processes that write."""
    import optuna

    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})


def sampler(name: str | None, seed: int, parallel: int) -> "optuna.samplers.BaseSampler":
    """Optuna's sampler of a name; a grid's trials wait in line and need none."""
    from optuna import samplers

    if name == "tpe":
        return samplers.TPESampler(seed=seed, constant_liar=parallel > 1)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=seed)
    return samplers.RandomSampler(seed=seed)


def distribution(axis: Axis) -> "optuna.distributions.BaseDistribution":
    """What Optuna draws from: numbers in order, or a choice of words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Values):
        return CategoricalDistribution(axis.texts)
    step: dict[str, Any] = {"step": axis.step} if isinstance(axis, Range) else {"log": axis.log}
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return IntDistribution(axis.low, axis.high, **step)
    return FloatDistribution(axis.low, axis.high, **step)


def extremes(space: Space) -> Iterator[dict[str, Any]]:
    """Points that together have every word of a choice, and otherwise the low ends."""
    low = {name: axis.texts[0] if isinstance(axis, Values) else axis.low for name, axis in space.axes.items()}
    yield low
    for name, axis in space.axes.items():
        yield from ({**low, name: text} for text in (axis.texts[1:] if isinstance(axis, Values) else ()))


def points(space: Space) -> Iterator[dict[str, Any]]:
    """The points of a space's grid, in values of its distributions."""
    list(space.grid())  # refuses intervals
    values = [axis.plain if isinstance(axis, Range) else getattr(axis, "texts", ()) for axis in space.axes.values()]
    for combination in itertools.product(*values):
        yield dict(zip(space.axes, combination, strict=True))
