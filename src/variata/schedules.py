"""The weight of the KL and the learning rate over training.

A `Beta` gives the weight; a controller learns from each update and keeps what it learns in buffers. A `Schedule` is a
pure function of training progress: having no state, it needs nothing in a checkpoint, can be plotted, and serves as
beta and as factor of the learning rate. Spans of training are given as a fraction of it (`0.1`), as optimizer updates
(`2000`) or as epochs (`"5ep"`).
"""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from variata.core import Part, Terms

Span = float | int | str


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    Args:
        step: Optimizer updates done.
        total: Optimizer updates in the whole training.
        per_epoch: Optimizer updates in an epoch.
    """

    step: int
    total: int
    per_epoch: int

    def of(self, span: Span) -> float:
        """The part of the span that is done, from 0 to 1; an empty span is done at once."""
        updates = self.updates(span)
        return min(1.0, self.step / updates) if updates > 0 else 1.0

    def updates(self, span: Span) -> float:
        """The span in optimizer updates."""
        if isinstance(span, str):
            return float(span.removesuffix("ep")) * self.per_epoch
        return span * self.total if isinstance(span, float) else span


class Beta(Part, ABC):
    """The weight of the KL. What a controller remembers are buffers, so that a resumed run goes on with it."""

    @abstractmethod
    def forward(self, progress: Progress) -> Tensor:
        """The weight of the next update: a scalar, or one for each rung, [L]."""

    @abstractmethod
    def update(self, terms: Terms) -> None:
        """Learn from the terms of an update, means over its images on all devices, without gradient."""


class Schedule(Beta):
    """A number for every moment of training, whatever comes of it."""

    def forward(self, progress: Progress) -> Tensor:
        return torch.tensor(float(self.at(progress)))

    @abstractmethod
    def at(self, progress: Progress) -> float:
        """The number itself."""

    def update(self, terms: Terms) -> None:
        """Nothing: it follows progress alone."""


class Constant(Schedule):
    """The same value throughout."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = value

    def at(self, progress: Progress) -> float:
        return self.value


class Ramp(Schedule):
    """From start to value along a curve on [0, 1], then constant.

    Args:
        value: Reached at the end of the ramp.
        over: Span of the ramp.
        start: Where the ramp begins.
    """

    def __init__(self, value: float = 1.0, over: Span = 0.1, start: float = 0.0) -> None:
        super().__init__()
        self.value, self.over, self.start = value, checked(over), start

    def at(self, progress: Progress) -> float:
        return self.start + (self.value - self.start) * self.curve(progress.of(self.over))

    @abstractmethod
    def curve(self, t: float) -> float:
        """Rises from 0 at t = 0 to 1 at t = 1."""


class Linear(Ramp):
    """The straight line (Bowman et al., 2016, https://arxiv.org/abs/1511.06349)."""

    def curve(self, t: float) -> float:
        return t


class Cosine(Ramp):
    """Half a cosine wave, (1 - cos(pi t)) / 2."""

    def curve(self, t: float) -> float:
        return (1 - math.cos(math.pi * t)) / 2


class Sigmoid(Ramp):
    """The logistic function of 12 t - 6, stretched to meet 0 and 1 exactly."""

    def curve(self, t: float) -> float:
        return 0.5 + 0.5 * math.tanh(3 * (2 * t - 1)) / math.tanh(3)  # logistic(2u) = (1 + tanh u) / 2


class Cyclical(Schedule):
    """Equal cycles, each a linear ramp from 0 followed by a plateau (Fu et al., 2019, https://arxiv.org/abs/1903.10145).

    Args:
        value: Of the plateau.
        cycles: M, in the whole training.
        ramp: R, the part of a cycle that rises.
    """

    def __init__(self, value: float = 1.0, cycles: int = 4, ramp: float = 0.5) -> None:
        if cycles < 1 or not 0 < ramp <= 1:
            raise ValueError(f"beta=cyclical needs cycles >= 1 and 0 < ramp <= 1, got cycles={cycles}, ramp={ramp}.")
        super().__init__()
        self.value, self.cycles, self.ramp = value, cycles, ramp

    def at(self, progress: Progress) -> float:
        position = progress.step * self.cycles % progress.total / progress.total  # within the cycle, exact
        return self.value * min(1.0, position / self.ramp)


class Warmup(Schedule):
    """A straight line that ends at 1: update s of n takes (s + 1) / (n + 1), so that the first one is not lost.

    Args:
        over: Span of the warm-up.
    """

    def __init__(self, over: Span = 0.05) -> None:
        super().__init__()
        self.over = checked(over)

    def at(self, progress: Progress) -> float:
        return min(1.0, (progress.step + 1) / (progress.updates(self.over) + 1))


class CosineDecay(Schedule):
    """`Warmup`, then half a cosine wave down (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983).

    Args:
        warmup: Span of the warm-up.
        final: Factor at the end of training.
    """

    def __init__(self, warmup: Span = 0.01, final: float = 0.0) -> None:
        super().__init__()
        self.warmup, self.final = Warmup(warmup), final

    def at(self, progress: Progress) -> float:
        start = progress.updates(self.warmup.over)
        if progress.step < start:
            return self.warmup.at(progress)
        t = (progress.step - start) / max(1, progress.total - start)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(1.0, t))) / 2


def checked(span: Span) -> Span:
    """The span itself, if it is one."""
    fraction = isinstance(span, float) and 0 <= span <= 1
    updates = isinstance(span, int) and span >= 0
    epochs = isinstance(span, str) and re.fullmatch(r"\d+(\.\d*)?ep", span) is not None
    if not (fraction or updates or epochs):
        raise ValueError(
            f"A span of training is a fraction (0.1), a number of updates (2000) or of epochs ('5ep'), got {span!r}."
        )
    return span
