"""The figures of results.json: what each is called, its unit, which way is better. Light: imports no torch.

A figure is added with one line in METRICS; an evaluation of one's own brings its metrics with it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

NATS = "nats per image"
AT_MOST, DAGGER = "≤ ", "†"
LOW_ESS = 10  # median effective sample size of an NLL, below which it is marked: few samples have all the weight
LOOSE = (  # what the dagger says
    f"{DAGGER} The median image's importance weights are worth fewer than {LOW_ESS} samples, so the NLL is well above "
    "the true one; more evaluate.nll.samples bring it nearer."
)
LARGE = 1e9  # from here on figures are written with an exponent
IMAGES = ("data/protocol", "likelihood")  # on which every log-density rests
TEST = (*IMAGES, "test/images")
NLL = (*TEST, "test/nll_samples")
QUALITY = ("data/protocol", *(f"quality/{name}" for name in ("images", "split", "temperature", "resize")))


class Judged(Protocol):
    """Something that has figures, such as a run."""

    def figure(self, name: str) -> float | None: ...


@dataclass(frozen=True)
class Metric:
    """A figure of results.json.

    Args:
        name: Its key; that of its standard error ends in `_stderr`.
        label: Heading of its column.
        unit: Of the figure.
        up: Whether higher is better.
        digits: Written after the point.
        bound: Whether the true figure is lower, in expectation.
        alike: Keys of results.json, or "likelihood"; where they differ between runs, the figures do not compare.
    """

    name: str
    label: str
    unit: str = NATS
    up: bool = False
    digits: int = 2
    bound: bool = False
    alike: tuple[str, ...] = ("data/protocol",)

    def text(self, value: float) -> str:
        """The figure as it is written; one of a run that diverged may have hundreds of digits."""
        return f"{value:,.{self.digits}f}" if abs(value) < LARGE else f"{value:.4g}"

    def stated(self, value: float) -> str:
        """The figure and, where the true one is lower, that it is at most this."""
        return f"{AT_MOST if self.bound else ''}{self.text(value)}"

    def mark(self, runs: Iterable[Judged]) -> str:
        """A dagger where the bound is loose in one of the runs: few of its samples have nearly all the weight."""
        sizes = (run.figure("test/nll_ess") for run in runs if run.figure(self.name) is not None)
        return DAGGER if self.bound and any(size is not None and size < LOW_ESS for size in sizes) else ""


def table(*metrics: Metric) -> dict[str, Metric]:
    """Metrics by name."""
    return {metric.name: metric for metric in metrics}


METRICS = table(  # that runs are compared by
    Metric("val/elbo", "val ELBO", up=True, alike=IMAGES),
    Metric("test/nll", "test NLL", bound=True, alike=NLL),
    Metric("test/elbo", "test ELBO", up=True, alike=TEST),
    Metric("test/rate", "test rate", alike=TEST),
    Metric("test/distortion", "test distortion", alike=TEST),
    Metric("test/bits_per_dim", "bits/dim", "bits per dimension", digits=4, bound=True, alike=NLL),
    Metric("quality/fid_reconstructions", "FID of reconstructions", "", alike=QUALITY),
    Metric("quality/fid_samples", "FID of samples", "", alike=QUALITY),
    Metric("quality/fid_samples_gmm", "FID of samples_gmm", "", alike=QUALITY),
    Metric("quality/psnr", "PSNR", "dB", up=True, alike=QUALITY[:3]),
    Metric("quality/ms_ssim", "MS-SSIM", "", up=True, digits=4, alike=QUALITY[:3]),
    Metric("train/minutes", "minutes", "minutes", alike=()),
)
DEFAULT = "val/elbo"  # that ranks: what is chosen by test images is judged on them too kindly
DERIVED = ("train/minutes",)  # from others, by whoever reads results.json
OTHERS = table(  # that a sweep may look for too
    Metric("val/rate", "val rate", alike=IMAGES),
    Metric("val/distortion", "val distortion", alike=IMAGES),
    Metric("test/active_units", "active units", "units", up=True, digits=0, alike=TEST),
    Metric("quality/kid_reconstructions", "KID of reconstructions", "", digits=4, alike=QUALITY),
    Metric("quality/kid_samples", "KID of samples", "", digits=4, alike=QUALITY),
    Metric("quality/kid_samples_gmm", "KID of samples_gmm", "", digits=4, alike=QUALITY),
    Metric("train/seconds", "seconds", "seconds", digits=0, alike=()),
    Metric("train/images_per_second", "images/s", "images per second", up=True, digits=0, alike=()),
)
TYPES = {"name": str, "label": str, "unit": str, "up": bool, "digits": int, "bound": bool, "alike": list}  # in JSON
LONGEST, DEEPEST = 60, 12  # characters of a label, digits after the point
OBJECTIVES = {name: metric for name, metric in {**METRICS, **OTHERS}.items() if name not in DERIVED}


def declared(results: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics that evaluations of somebody's own brought with them, as results.json says under `metrics`.

    What is not whole is left out, and so is what has the name of a figure that every run knows.
    """
    said = results.get("metrics")
    options = said.values() if isinstance(said, dict) else ()
    found = table(*(_read(one) for one in options if isinstance(one, dict) and _whole(one)))
    return {name: metric for name, metric in found.items() if name not in METRICS and name not in OTHERS}


def _whole(options: Mapping[str, Any]) -> bool:
    if any(not isinstance(options.get(name), kind) for name, kind in TYPES.items()):
        return False
    words = [options["name"], options["label"], options["unit"], *options["alike"]]
    printed = all(isinstance(word, str) and word.isprintable() and len(word) <= LONGEST for word in words)
    return printed and 0 <= options["digits"] <= DEEPEST


def _read(options: Mapping[str, Any]) -> Metric:
    return Metric(**{**{name: options[name] for name in TYPES}, "alike": tuple(options["alike"])})
