"""What an evaluation is, and what it finds: `(vae, data) -> Findings`."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from variata import atomic
from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.errors import ConfigError, RunError
from variata.evaluation.pictures import save, save_moving
from variata.metrics import METRICS, OTHERS, Metric

PICTURES = frozenset({"binary", "8-bit"})  # kinds of data that can be looked at


class Moving(NamedTuple):
    """A picture that moves.

    Args:
        images: [R, T, C, H, W], a row for each of R, which all have T steps.
        labels: Of the steps; none for no line above them.
    """

    images: Tensor
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """Words in rows and columns, to be read beside the figures."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Findings:
    """What is found of a model.

    Args:
        figures: By their keys in results.json. That of a standard error is its figure's and `_stderr`; besides numbers
            there are words that say how they were obtained.
        rows: What the table at the end says, by heading; without any, the figures of known metrics.
        tables: Printed below it.
        pictures: By name, [H, W, C] in bytes; those that move are written as PNG and GIF.
        files: JSON objects by the name of their file. A key takes the place of an earlier one; the others stay.
    """

    figures: Mapping[str, float | int | str | None] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    pictures: Mapping[str, Tensor | Moving] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def said(self, metrics: Iterable[Metric] = ()) -> Mapping[str, str]:
        """`rows`, or a row for each figure of a metric, these or known ones."""
        known = {**METRICS, **OTHERS, **{metric.name: metric for metric in metrics}}
        numbers = {name: value for name, value in self.figures.items() if isinstance(value, int | float)}
        return self.rows or {
            known[name].label: stated(known[name], value, numbers.get(f"{name}_stderr"))
            for name, value in numbers.items()
            if name in known
        }

    def write(self, folder: Path, pictures: Path) -> list[Path]:
        """Write files into a folder and pictures into another; where they are.

        Raises:
            RunError: A file to be added to is damaged.
        """
        paths: list[Path] = []
        for name, picture in self.pictures.items():
            if isinstance(picture, Moving):
                paths += save_moving(picture.images, pictures / name, picture.labels)
            else:
                paths.append(save(picture, pictures / f"{name}.png"))
        for name, found in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(path, json.dumps({**_earlier(path), **found}, indent=2) + "\n")
            paths.append(path)
        return paths


def stated(metric: Metric, value: float, stderr: float | None = None) -> str:
    """A figure in words, with its standard error and unit."""
    words = [metric.stated(value), *([] if stderr is None else [f"± {metric.text(stderr)}"]), metric.unit]
    return " ".join(filter(None, words))


def _earlier(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text()) if path.is_file() else {}
        return {**found}
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}). Delete it to go on without what it holds.") from error


class Evaluation(ABC):
    """Judges a trained model on data.

    A subclass with a file in `conf/evaluate` runs after training, `evaluate=[nll,<name>]`, and on any finished run,
    `variata evaluate RUN evaluate=[<name>]`. It is called in evaluation mode, without gradients.

    Attributes:
        shared: Whether several devices each take their part of the test batches: it is then called on all of them,
            and finds the same on all; others are called on the first one alone.
        accepts: Kinds of data that it judges.
        metrics: Of its figures, besides those every run knows (`variata.metrics`).
    """

    shared: ClassVar[bool] = False
    accepts: ClassVar[frozenset[str]] = PICTURES | {"real"}
    metrics: Sequence[Metric] = ()

    def require(self, data: ImageDataModule) -> None:
        """Refuse data that it cannot judge, before training begins."""
        if data.kind not in self.accepts:
            kinds = " or ".join(sorted(self.accepts))
            raise ConfigError(f"evaluate: {self} takes {kinds} data, and {data.protocol} is {data.kind}. Leave it out.")

    @abstractmethod
    def __call__(self, vae: VAE, data: ImageDataModule) -> Findings:
        """Judge a model on data, which have been read and are on the model's device or on the CPU."""

    def __str__(self) -> str:
        """What it is, for the plan of a run."""
        return type(self).__name__
