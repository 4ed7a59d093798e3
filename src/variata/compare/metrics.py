"""When figures do not compare."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from variata.formatting import printable
from variata.metrics import METRICS, Metric, declared
from variata.run.reader import Run

DENSITY, MASS = "density", "probability"


@dataclass(frozen=True)
class Judgement:
    """A way in which figures are obtained; where it differs, metrics that have to be alike in it do not compare.

    Args:
        name: What differs, in words: a key of results.json, or "likelihood".
        of: Of a run; None where it does not say.
        why: The figures do not compare.
    """

    name: str
    of: Callable[[Run], object]
    why: str


def kind(run: Run) -> str | None:
    """Whether log p(x | z) is of probabilities, as for binary data, or of densities."""
    likelihood = run.config.get("likelihood", run.config.get("model.likelihood"))
    return None if likelihood is None else MASS if str(likelihood).casefold() == "bernoulli" else DENSITY


WHY = {
    "data/protocol": "the images are not the same",
    "likelihood": "probabilities and densities have no common scale",
    "test/images": "other images were judged",
    "test/nll_samples": "a bound with more samples is tighter",
}


def judgement(name: str) -> Judgement:
    """What has to be alike, by its name."""
    of = kind if name == "likelihood" else lambda run: run.results.get(name)
    return Judgement(name, of, WHY.get(name, "the figures were obtained in other ways"))


def differences(runs: Sequence[Run], metric: Metric | None = None) -> dict[str, list[str]]:
    """Names of judgements that differ between runs, and their values; all of them, or those that concern a metric."""
    metrics = METRICS.values() if metric is None else [metric]
    found = {}
    for name in dict.fromkeys(name for one in metrics for name in one.alike):
        values = {printable(str(value)) for run in runs if (value := judgement(name).of(run)) is not None}
        if len(values) > 1:
            found[name] = sorted(values)
    return found


def known(runs: Iterable[Run]) -> dict[str, Metric]:
    """What runs can be compared by: figures of every run, and those that evaluations of somebody's own brought."""
    return {**METRICS, **{name: metric for run in runs for name, metric in declared(run.results).items()}}
