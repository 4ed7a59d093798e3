"""How far one group is behind another, and what the runs say of that."""

from collections.abc import Sequence
from dataclasses import dataclass

from variata.compare.groups import Group
from variata.compare.keys import value
from variata.compare.statistics import summarise, welch
from variata.metrics import Metric
from variata.run.reader import Run

FEWEST = 2  # pairs of runs that say how the difference varies


@dataclass(frozen=True)
class Behind:
    """By how much a group is worse than another.

    Args:
        gap: Between their means, at least 0 where the other is ranked before it.
        interval: Of the difference, 95%; None where there are too few runs to tell.
        pairs: Runs of equal seed it is taken over; 0 where it is Welch's, of all runs of both.
    """

    gap: float
    interval: tuple[float, float] | None
    pairs: int

    @property
    def open(self) -> bool:
        """Whether the interval leaves it open which is better."""
        return self.interval is not None and self.interval[0] <= 0 <= self.interval[1]


def behind(best: Group, group: Group, metric: Metric, within: Sequence[str]) -> Behind | None:
    """How far a group is behind the best; None where one of them has no figure to compare.

    Runs of equal seed share data order, noise and first weights, so the difference within such pairs varies less than
    the runs do. Where both groups are of the same two or more seeds the interval is that of their pairs, else that of
    independent runs; either way it is around the difference of the means.

    Args:
        best: The group it is compared with.
        group: The group.
        metric: Of which figure.
        within: Keys that runs of one group differ in, which a pair agrees in.
    """
    first, second = best.summary(metric), group.summary(metric)
    if first is None or second is None:
        return None
    sign = 1 if metric.up else -1
    pairs = paired(best, group, metric, within)
    matched = len(pairs) >= FEWEST and len(pairs) == first.n == second.n
    if matched:
        difference = summarise([sign * (a - b) for a, b in pairs])
    else:
        difference = welch([sign * v for v in best.figures(metric)], [sign * v for v in group.figures(metric)])
    half, middle = difference.half, difference.mean
    interval = None if half is None else (middle - half, middle + half)
    return Behind(sign * (first.mean - second.mean), interval, len(pairs) if matched else 0)


def paired(first: Group, second: Group, metric: Metric, within: Sequence[str]) -> list[tuple[float, float]]:
    """Figures of a run of each group that have their seed, and the keys within groups, in common."""
    one, two = (_by_seed(group.judged, metric, within) for group in (first, second))
    return [(one[key], two[key]) for key in one if key in two]


def _by_seed(runs: Sequence[Run], metric: Metric, within: Sequence[str]) -> dict[tuple[str, ...], float]:
    """What tells the runs of a group apart, which is each its own: repeats are not judged."""
    seeded = [run for run in runs if run.config.get("seed") is not None]
    figures = {tuple(value(run, key) for key in ("seed", *within)): run.figure(metric.name) for run in seeded}
    return {key: figure for key, figure in figures.items() if figure is not None}
