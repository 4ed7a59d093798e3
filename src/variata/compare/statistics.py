"""Means with intervals, ranks, and the points no other beats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean of n values and half the width of its 95% interval, None where too few values tell nothing of it."""

    n: int
    mean: float
    half: float | None


def summarise(values: Sequence[float]) -> Summary:
    r"""Mean \(\bar v\) and \(t_{n-1} s / \sqrt n\), Student's interval for the mean of normal variables."""
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Summary(n, mean, None)
    return Summary(n, mean, _quantile(n - 1) * float(np.std(values, ddof=1)) / n**0.5)


def welch(first: Sequence[float], second: Sequence[float]) -> Summary:
    r"""Difference \(\bar v - \bar w\) of independent means and \(t_\nu \sqrt{a + b}\), where the variances may differ.

    \(a = s_v^2 / n\), \(b = s_w^2 / m\), \(\nu = (a + b)^2 / (a^2 / (n - 1) + b^2 / (m - 1))\). Welch, The
    generalization of Student's problem when several different population variances are involved, 1947,
    https://doi.org/10.1093/biomet/34.1-2.28
    """
    n, m = len(first), len(second)
    total, difference = n + m, float(np.mean(first) - np.mean(second))
    if min(n, m) == 1:
        return Summary(total, difference, None)
    a, b = float(np.var(first, ddof=1)) / n, float(np.var(second, ddof=1)) / m
    if a + b == 0:
        return Summary(total, difference, 0.0)
    freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1))
    return Summary(total, difference, _quantile(freedom) * (a + b) ** 0.5)


def _quantile(freedom: float) -> float:
    """Of Student's t: within it and its negative lies what CONFIDENCE says."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


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
