"""Where the jobs of a sweep come from: every combination, or a search with Optuna. Both number them from 0.

Each yields jobs and is told how they ended; what it knows outlives the process, in the directory of the sweep.
"""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from variata import extras
from variata.errors import ConfigError, RunError
from variata.messages import say
from variata.run import study
from variata.run.directory import Outcome, outcome
from variata.run.job import Job
from variata.statuses import Status
from variata.sweeps.options import Options, direction
from variata.sweeps.space import Axis, Range, Space, Values

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Point:
    """A job that is not composed yet.

    Args:
        number: Of the job.
        overrides: What it is asked for.
        trial: Where it may learn that it falls behind, see `pruning`.
    """

    number: int
    overrides: list[str]
    trial: dict[str, Any] | None = None


class Source(Protocol):
    """Where jobs come from."""

    total: int  # jobs, done or not
    left: int  # of them, to be done
    known: bool  # whether which they are does not depend on how others end

    def points(self) -> Iterator[Point]:
        """Those that are left."""

    def tell(self, number: int, how: Outcome) -> None:
        """How one of them ended."""

    def overrides(self) -> dict[int, list[str]]:
        """What each job so far was asked for, by its number."""


class Grid:
    """Every combination of a space; what has finished before is left out.

    Args:
        combinations: Overrides of each job.
        folder: Of the sweep.
    """

    known = True

    def __init__(self, combinations: list[list[str]], folder: Path) -> None:
        self.all = dict(enumerate(combinations))
        self.todo = [number for number in self.all if not outcome(folder / str(number)).well]
        self.total, self.left = len(self.all), len(self.todo)

    def points(self) -> Iterator[Point]:
        return (Point(number, self.all[number]) for number in self.todo)

    def tell(self, number: int, how: Outcome) -> None:
        """A grid learns nothing."""

    def overrides(self) -> dict[int, list[str]]:
        return self.all


class Search:
    """Trials of an Optuna study, kept in `study.journal`; a trial's number is its job's.

    A trial that was running when everything was killed goes on; one that failed counts.

    Args:
        space: What to try.
        options: Of the sweep.
        folder: Of the sweep.
        parallel: Trials at a time.
    """

    known = False

    def __init__(self, space: Space, options: Options, folder: Path, parallel: int) -> None:
        for library in ("optuna", "cmaes") if options.sampler == "cmaes" else ("optuna",):
            extras.require(library, f"sweep.sampler={options.sampler}")
        self.space, self.options = space, options
        if not space.axes:
            raise ConfigError("A search needs something to vary, like optimizer.lr=interval(1e-4,1e-2).")
        self.distributions = {name: distribution(axis) for name, axis in space.axes.items()}
        self.journal = folder.absolute() / study.JOURNAL
        self.study = opened(self.journal, options, parallel)
        if options.sampler == "grid" and not self.study.get_trials(deepcopy=False):
            for point in points(space):
                self.study.enqueue_trial(point)
        self._catch_up(folder)
        self.wanted = len(list(space.grid())) if options.sampler == "grid" else options.trials
        self.running = [trial for trial in self.begun if not trial.state.is_finished()]  # when all was killed
        self.total = max(self.wanted, len(self.begun))  # fewer may be wanted now than were begun
        self.left = self.total - len(self.begun) + len(self.running)

    def _catch_up(self, folder: Path) -> None:
        """Tell the study what it would know, had nothing been killed: how trials ended, and all they were to try."""
        for trial in self.begun:
            if trial.state.is_finished():
                continue
            if (how := outcome(folder / str(trial.number))).status.final:
                self._tell(trial.number, how)
            elif trial.params.keys() != self.distributions.keys():
                draw(self.study, trial, self.distributions)

    @property
    def begun(self) -> "list[optuna.trial.FrozenTrial]":
        """All trials but those of a grid that still wait."""
        from optuna.trial import TrialState

        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]

    def points(self) -> Iterator[Point]:
        for trial in self.running:
            yield self._point(trial.number, trial.params)
        while len(self.begun) < self.wanted:
            asked = self.study.ask(self.distributions)
            yield self._point(asked.number, asked.params)

    def tell(self, number: int, how: Outcome) -> None:
        if how.status.final:  # others can go on when the sweep is resumed
            self._tell(number, how)

    def _tell(self, number: int, how: Outcome) -> None:
        from optuna.trial import TrialState

        values = how.values(self.options.objectives)
        if how.status == Status.PRUNED:
            self.study.tell(number, state=TrialState.PRUNED)
        elif how.status == Status.FINISHED and values:
            self.study.tell(number, values)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def overrides(self) -> dict[int, list[str]]:
        return {trial.number: self.space.point(trial.params) for trial in self.begun}

    def _point(self, number: int, params: dict[str, Any]) -> Point:
        pruner = self.options.pruner
        trial = {"journal": str(self.journal), "number": number, "pruner": pruner} if pruner else None
        return Point(number, self.space.point(params), trial)


def mind_validations(job: Job, pruner: str) -> None:
    """Say so where there is nothing for a pruner to go by."""
    epochs, every = (job.config["trainer"][name] for name in ("max_epochs", "check_val_every_n_epoch"))
    if (epochs or -1) > 0 and every > epochs // 2:
        say(
            f"sweep.pruner={pruner} will stop nothing: {epochs} epochs are validated every {every}. "
            "Use trainer.check_val_every_n_epoch=1."
        )


def opened(journal: Path, options: Options, parallel: int) -> "optuna.Study":
    """The study of a sweep, new or as it was left.

    Raises:
        RunError: It is gone, damaged, or of a version before.
    """
    import optuna

    require_journal(journal)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    try:
        if journal.is_file():
            study.mend(journal)
        trials = optuna.create_study(
            storage=study.storage(str(journal)),
            study_name=study.NAME,
            directions=[direction(name) for name in options.objectives],
            load_if_exists=True,
        )
    except Exception as error:  # whatever Optuna stumbles over in what should be its own
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise RunError(f"{journal} cannot be used ({why}). Is the disk full, or the file damaged?") from error
    seed = options.seed + len(trials.get_trials(deepcopy=False))  # resumed, it does not draw the same again
    trials.sampler = sampler(options.sampler, seed, parallel)
    return trials


def require_journal(journal: Path) -> None:
    """Refuse to begin a search anew where one has been."""
    folder = journal.parent
    if (folder / "study.db").is_file():
        raise RunError(
            f"{folder} was begun by an earlier version, and its study.db is not read any more: the search cannot go "
            "on. Its runs can: python train.py resume=<run>."
        )
    if (folder / "0").is_dir() and not journal.is_file():
        raise RunError(f"{folder} has jobs, but {journal.name} is gone, without which a search cannot go on.")


def draw(
    trials: "optuna.Study",
    trial: "optuna.trial.FrozenTrial",
    distributions: "dict[str, optuna.distributions.BaseDistribution]",
) -> None:
    """Draw what a trial was to try, where all was killed while it was drawn; what was drawn already stays."""
    import optuna

    begun = optuna.Trial(trials, trial._trial_id)
    for name, distribution in distributions.items():
        begun._suggest(name, distribution)  # as `Study.ask` does


def sampler(name: str | None, seed: int, parallel: int) -> "optuna.samplers.BaseSampler":
    """Optuna's sampler of a name; a grid's trials wait in line and need none."""
    from optuna import samplers

    if name == "tpe":
        return samplers.TPESampler(seed=seed, constant_liar=parallel > 1)
    if name == "cmaes":
        from variata.sweeps.cmaes import TrialsCmaEs

        return TrialsCmaEs(seed=seed)
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


def points(space: Space) -> Iterator[dict[str, Any]]:
    """The points of a space's grid, in values of its distributions."""
    list(space.grid())  # refuses intervals
    values = [axis.plain if isinstance(axis, Range) else getattr(axis, "texts", ()) for axis in space.axes.values()]
    for combination in itertools.product(*values):
        yield dict(zip(space.axes, combination, strict=True))
