"""When figures do not compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from variata.compare.config import printable
from variata.compare.read import Run
from variata.metrics import Metric

DENSITY, MASS = "density", "probability"


@dataclass(frozen=True)
class Judgement:
    """A way in which figures are obtained; where it differs, the metrics it concerns do not compare.

    Args:
        name: What differs, in words.
        of: Of a run; None where it does not say.
        why: The figures do not compare.
        metrics: How their names begin.
    """

    name: str
    of: Callable[[Run], object]
    why: str
    metrics: tuple[str, ...]


def kind(run: Run) -> str | None:
    """Whether log p(x | z) is of probabilities, as for binary data, or of densities."""
    likelihood = run.config.get("likelihood", run.config.get("model.likelihood"))
    return None if likelihood is None else MASS if str(likelihood).casefold() == "bernoulli" else DENSITY


JUDGEMENTS = (
    Judgement(
        "data/protocol", lambda run: run.results.get("data/protocol"), "the images are not the same", ("val/", "test/")
    ),
    Judgement("likelihood", kind, "probabilities and densities have no common scale", ("val/", "test/")),
    Judgement("test/images", lambda run: run.results.get("test/images"), "other images were judged", ("test/",)),
    Judgement(
        "test/nll_samples",
        lambda run: run.results.get("test/nll_samples"),
        "a bound with more samples is tighter",
        ("test/nll", "test/bits_per_dim"),
    ),
)


def differences(runs: Sequence[Run], metric: Metric | None = None) -> dict[str, list[str]]:
    """Names of judgements that differ between runs, and their values; all of them, or those that concern a metric."""
    found = {}
    for judgement in JUDGEMENTS:
        values = {printable(str(value)) for run in runs if (value := judgement.of(run)) is not None}
        if len(values) > 1 and (metric is None or metric.name.startswith(judgement.metrics)):
            found[judgement.name] = sorted(values)
    return found
