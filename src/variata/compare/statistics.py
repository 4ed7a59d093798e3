"""Means with intervals, ranks, and the points no other beats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean of n values and half the width of its 95% interval, None where one value tells nothing of it."""

    n: int
    mean: float
    half: float | None

    def overlaps(self, other: "Summary") -> bool | None:
        """Whether the intervals have a point in common; None where there is none."""
        if self.half is None or other.half is None:
            return None
        return abs(self.mean - other.mean) <= self.half + other.half


def summarise(values: Sequence[float]) -> Summary:
    r"""Mean \(\bar v\) and \(t_{n-1} s / \sqrt n\), Student's interval for the mean of normal variables."""
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Summary(n, mean, None)
    from scipy.special import stdtrit  # quantiles of Student's t; scipy.stats takes a second to import

    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return Summary(n, mean, quantile * float(np.std(values, ddof=1)) / n**0.5)


def ranks(values: Sequence[float], up: bool) -> list[int]:
    """1 for the best; equal values share a rank."""
    return [1 + sum((other > v) if up else (other < v) for other in values) for v in values]


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places, by the first coordinate, of points of which no other is as small in both and smaller in one."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if not front or points[i][1] < points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front
