"""The figures that are compared, and when they do not compare. A metric is added with one line in METRICS."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from variata.formatting import printable
from variata.run.directory import LOW_ESS
from variata.run.reader import Run

NATS = "nats per image"
AT_MOST, DAGGER = "≤ ", "†"
LOOSE = (  # what the dagger says
    f"{DAGGER} The median image's importance weights are worth fewer than {LOW_ESS} samples, so the NLL is well above "
    "the true one; more evaluate.samples bring it nearer."
)
LARGE = 1e9  # from here on figures are written with an exponent


@dataclass(frozen=True)
class Metric:
    """A figure of results.json.

    Args:
        name: Its key.
        label: Heading of its column.
        unit: Of the figure.
        up: Whether higher is better.
        digits: Written after the point.
        bound: Whether the true figure is lower, in expectation.
    """

    name: str
    label: str
    unit: str = NATS
    up: bool = False
    digits: int = 2
    bound: bool = False

    def text(self, value: float) -> str:
        """The figure as it is written; one of a run that diverged may have hundreds of digits."""
        return f"{value:,.{self.digits}f}" if abs(value) < LARGE else f"{value:.4g}"

    def stated(self, value: float) -> str:
        """The figure and, where the true one is lower, that it is at most this."""
        return f"{AT_MOST if self.bound else ''}{self.text(value)}"

    def mark(self, runs: Iterable[Run]) -> str:
        """A dagger where the bound is loose in one of the runs: few of its samples have nearly all the weight."""
        sizes = (run.figure("test/nll_ess") for run in runs if run.figure(self.name) is not None)
        return DAGGER if self.bound and any(size is not None and size < LOW_ESS for size in sizes) else ""


METRICS = {
    metric.name: metric
    for metric in (
        Metric("val/elbo", "val ELBO", up=True),
        Metric("test/nll", "test NLL", bound=True),
        Metric("test/elbo", "test ELBO", up=True),
        Metric("test/rate", "test rate"),
        Metric("test/distortion", "test distortion"),
        Metric("test/bits_per_dim", "bits/dim", "bits per dimension", digits=4, bound=True),
        Metric("train/minutes", "minutes", "minutes"),
    )
}
DEFAULT = "val/elbo"  # that ranks: what is chosen by test images is judged on them too kindly
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
