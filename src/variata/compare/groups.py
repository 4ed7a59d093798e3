"""Runs of one configuration and different seeds, and what they say together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from variata.compare.keys import column, identity, value
from variata.compare.metrics import differences
from variata.compare.statistics import Summary, ranks, summarise
from variata.formatting import order
from variata.metrics import Metric
from variata.run.reader import Run

LISTED = 4  # values of a key within a group
UNSAID = ("value", "samples", "scale", "over", "start", "final")  # names that need their group's


@dataclass(frozen=True)
class Group:
    """Runs that agree in the keys of the comparison.

    Args:
        label: The keys and their values.
        runs: All of them.
        repeats: Finished runs that a newer one with the same configuration and seed replaces.
    """

    label: str
    runs: list[Run]
    repeats: frozenset[Path]

    @property
    def judged(self) -> list[Run]:
        """The runs that are averaged."""
        return [run for run in self.runs if run.finished and run.path not in self.repeats]

    @property
    def counts(self) -> dict[str, int]:
        """How many runs ended in which way."""
        return dict(sorted(Counter(run.status for run in self.runs).items()))

    def mixed(self, metric: Metric) -> bool:
        """Whether its runs' figures were obtained in different ways."""
        return bool(differences(self.judged, metric))

    def summary(self, metric: Metric) -> Summary | None:
        """Over the judged runs; None where there is no figure or they do not compare."""
        values = self.figures(metric)
        return summarise(values) if values and not self.mixed(metric) else None

    def figures(self, metric: Metric) -> list[float]:
        """Of the judged runs that have one."""
        return [v for run in self.judged if (v := run.figure(metric.name)) is not None]

    def values(self, key: str) -> str:
        """What its runs have for a key."""
        found = sorted(set(column(self.runs, key)), key=order)
        return ", ".join(found) if len(found) <= LISTED else f"{len(found)} values"


def grouped(runs: Sequence[Run], keys: Sequence[str]) -> list[Group]:
    """Runs that agree in all keys, together."""
    members: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        members.setdefault(tuple(value(run, key) for key in keys), []).append(run)
    groups = []
    for values, those in sorted(members.items(), key=lambda item: [order(v) for v in item[0]]):
        label = ", ".join(f"{name}={v}" for name, v in zip(shortened(keys), values, strict=True))
        groups.append(Group(label or "all runs", those, repeated(those)))
    return groups


def shortened(keys: Sequence[str]) -> list[str]:
    """The last part of each key, where it is no other's and says what it is of: `latent`, but `beta.value`."""
    last = [key.rpartition(".")[2] for key in keys]
    return [key if name in UNSAID or last.count(name) > 1 else name for key, name in zip(keys, last, strict=True)]


def repeated(runs: Sequence[Run]) -> frozenset[Path]:
    """Finished runs of which a later one has the same configuration and seed: they are no further evidence."""
    newest: dict[tuple[object, ...], Run] = {}
    finished = sorted((run for run in runs if run.finished), key=lambda run: run.began)
    for run in finished:
        newest[identity(run)] = run
    return frozenset(run.path for run in finished) - {run.path for run in newest.values()}


def ranked(groups: Sequence[Group], metric: Metric) -> dict[str, int]:
    """Rank of each group that has the figure, by label."""
    means = {group.label: summary.mean for group in groups if (summary := group.summary(metric))}
    return dict(zip(means, ranks(list(means.values()), metric.up), strict=True))
