"""Plots of a comparison, as plotly's plain dictionaries; colours of paper and ink are the page's."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from variata.compare.comparison import Comparison
from variata.compare.groups import Group
from variata.compare.metrics import differences
from variata.compare.statistics import Summary, pareto, summarise
from variata.formatting import text
from variata.metrics import METRICS, NATS
from variata.run.reader import Run

Figure = dict[str, Any]
COLOURS = [
    *("#3b7dd8", "#e07b39", "#2e9e6b", "#c94f7c", "#8a63d2"),
    *("#b8952a", "#29a3b5", "#d1495b", "#7a8b3c", "#8c8c8c"),
]
POINTS = 300  # of a curve, at most
FEW = 5  # points, which a line alone would hide
SETTLED = 0.15  # of training, after which a curve is within the frame
LABEL = {"showarrow": False, "xanchor": "left", "font": {"size": 10}, "opacity": 0.7}  # of a line of equal ELBO
AXES = {"x": f"rate, {NATS}", "y": f"distortion, {NATS}"}


def colours(n: int) -> list[str]:
    """A colour for each group: words where there are few, a scale by rank where there are many."""
    if n <= len(COLOURS):
        return COLOURS[:n]
    from plotly.colors import sample_colorscale

    return list(sample_colorscale("Turbo", [0.08 + 0.84 * i / (n - 1) for i in range(n)]))


def named(words: str) -> str:
    """Text of a user, which plotly would read as markup."""
    return escape(words, quote=False)


def figures(c: Comparison) -> dict[str, Figure]:
    """The plots there is something to draw for, by name."""
    drawn = {"curves": curves(c), "trade_off": trade_off(c), "importance": importances(c)}
    return {name: figure for name, figure in drawn.items() if figure["data"]}


def curves(c: Comparison) -> Figure:
    """val/elbo by update: a thin line per run, a colour per group; dotted where the run did not finish."""
    data = []
    for group, colour in zip(c.groups, colours(len(c.groups)), strict=True):
        for first, run in enumerate(run for run in group.runs if run.curve):
            data.append(_line(run, group, colour, legend=first == 0))
    layout = _layout("update", f"validation ELBO, {NATS}")
    layout["yaxis"]["range"] = _frame([run for run in c.runs if run.curve])
    return {"data": data, "layout": layout}


def _line(run: Run, group: Group, colour: str, legend: bool) -> Figure:
    points = thinned(run.curve)
    return {
        **_group(group, colour, legend),
        **{"mode": "lines" if len(points) > FEW else "lines+markers"},
        **{"x": [p[0] for p in points], "y": [p[1] for p in points]},
        **{"line": {"color": colour, "width": 1.3, "dash": "solid" if run.finished else "dot"}, "opacity": 0.8},
        **{"text": seeded(run, group), "hovertemplate": "%{text}<br>update %{x:,}: %{y:.2f}<extra></extra>"},
    }


def _group(group: Group, colour: str, legend: bool) -> Figure:
    """What all traces of a group share: one entry in the legend shows and hides them."""
    name = named(group.label)
    return {"type": "scatter", "name": name, "legendgroup": name, "showlegend": legend, "marker": {"color": colour}}


def seeded(run: Run, group: Group) -> str:
    """A run's name in a plot."""
    return named(f"{group.label}, seed {text(run.config.get('seed'))}, {run.status}")


def thinned(points: Sequence[tuple[float, ...]], most: int = POINTS) -> list[tuple[float, ...]]:
    """At most so many points, evenly, the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _frame(runs: Sequence[Run]) -> list[float] | None:
    """A range that leaves out the first updates, which are far below all that matters."""
    settled = [p[1] for run in runs for p in run.curve if p[0] >= SETTLED * run.curve[-1][0]]
    if not settled:
        return None
    margin = 0.05 * (max(settled) - min(settled)) or 1.0
    return [min(settled) - margin, max(settled) + margin]


def split(c: Comparison) -> str:
    """Which images rates and distortions are of."""
    return "test" if any(run.figure("test/rate") is not None for g in c.groups for run in g.judged) else "val"


def trade_off(c: Comparison) -> Figure:
    """Rate and distortion: a point per run, a diamond per group, the front of groups, and lines of equal ELBO."""
    pairs = [(g, colour, _points(g, split(c))) for g, colour in zip(c.groups, colours(len(c.groups)), strict=True)]
    pairs = [pair for pair in pairs if pair[2]]
    if not pairs:
        return {"data": []}
    data = [_scatter(*pair) for pair in pairs] + [_mean(*pair) for pair in pairs]
    means = [_means(points) for _, _, points in pairs]
    if len(means) > 1 and not _apart(c):
        data.append(_front([(rate.mean, distortion.mean) for rate, distortion in means]))
    every = [point for _, _, points in pairs for point in points]
    x = _extent([rate for _, rate, _ in every], [rate for rate, _ in means])
    y = _extent([distortion for *_, distortion in every], [distortion for _, distortion in means])
    lines, labels = _equal(x, y)
    layout = _layout(f"{split(c)} {AXES['x']}", f"{split(c)} {AXES['y']}")
    layout["xaxis"]["range"], layout["yaxis"]["range"] = x, y
    return {"data": [lines, *data], "layout": {**layout, "annotations": labels}}


def _apart(c: Comparison) -> bool:
    """Whether rates and distortions do not compare."""
    metric = METRICS["test/rate" if split(c) == "test" else "val/elbo"]
    return bool(differences([run for g in c.groups for run in g.judged], metric))


def _points(group: Group, images: str) -> list[tuple[Run, float, float]]:
    found = ((run, run.figure(f"{images}/rate"), run.figure(f"{images}/distortion")) for run in group.judged)
    return [(run, r, d) for run, r, d in found if r is not None and d is not None]


def _scatter(group: Group, colour: str, points: Sequence[tuple[Run, float, float]]) -> Figure:
    return {
        **_group(group, colour, legend=False),
        **{"mode": "markers", "x": [r for _, r, _ in points], "y": [d for _, _, d in points]},
        **{"marker": {"color": colour, "size": 6, "opacity": 0.55}, "text": [seeded(run, group) for run, *_ in points]},
        "hovertemplate": "%{text}<br>rate %{x:.2f}, distortion %{y:.2f}<extra></extra>",
    }


def _means(points: Sequence[tuple[Run, float, float]]) -> tuple[Summary, Summary]:
    return summarise([r for _, r, _ in points]), summarise([d for _, _, d in points])


def _mean(group: Group, colour: str, points: Sequence[tuple[Run, float, float]]) -> Figure:
    rate, distortion = _means(points)
    return {
        **_group(group, colour, legend=True),
        **{"mode": "markers", "x": [rate.mean], "y": [distortion.mean], "text": [f"{named(group.label)}, mean"]},
        "marker": {"color": colour, "size": 11, "symbol": "diamond", "line": {"width": 1, "color": "white"}},
        **{f"error_{axis}": _bar(s.half, colour) for axis, s in (("x", rate), ("y", distortion)) if s.half is not None},
        "hovertemplate": "%{text}<br>rate %{x:.2f}, distortion %{y:.2f}<extra></extra>",
    }


def _bar(half: float, colour: str) -> Figure:
    return {"type": "data", "array": [half], "color": colour, "thickness": 1, "width": 3}


def _front(means: Sequence[tuple[float, float]]) -> Figure:
    front = [means[i] for i in pareto(means)]
    return {
        **{"type": "scatter", "mode": "lines", "name": "Pareto front of the groups", "hoverinfo": "skip"},
        **{"x": [r for r, _ in front], "y": [d for _, d in front]},
        "line": {"width": 1.5, "dash": "dash", "color": "#888888", "shape": "hv"},
    }


def _extent(values: Sequence[float], means: Sequence[Summary]) -> list[float]:
    """A range around values and the intervals of means, which may make it up to thrice as wide as the values do."""
    low, high = min(values), max(values)
    ends = [mean.mean + sign * (mean.half or 0.0) for mean in means for sign in (-1, 1)]
    width = (high - low) or math.inf  # of one value alone the interval is all there is to see
    low, high = min(low, max(low - width, min(ends))), max(high, min(high + width, max(ends)))
    pad = 0.08 * (high - low) or 1.0
    return [low - pad, high + pad]


def _equal(x: Sequence[float], y: Sequence[float]) -> tuple[Figure, list[Figure]]:
    """Lines -ELBO = rate + distortion through a frame, labelled where they enter it."""
    rates: list[float | None] = []
    distortions: list[float | None] = []
    labels = []
    for level in _levels(x[0] + y[0], x[1] + y[1]):
        left, right = max(x[0], level - y[1]), min(x[1], level - y[0])
        rates, distortions = [*rates, left, right, None], [*distortions, level - left, level - right, None]
        labels.append({**LABEL, "x": left, "y": level - left, "text": f"{-level:g}".replace("-", "\N{MINUS SIGN}")})
    line = {"width": 1, "dash": "dot", "color": "rgba(136,136,136,0.55)"}
    lines = {"type": "scatter", "mode": "lines", "name": "equal ELBO", "hoverinfo": "skip", "line": line}
    return {**lines, "x": rates, "y": distortions}, labels


def _levels(low: float, high: float) -> Iterator[float]:
    """Five to a dozen round numbers within a range."""
    steps = (m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5))
    step = next((s for s in steps if (high - low) / s <= 12), high - low)
    first = int(low // step) + 1
    yield from (i * step for i in range(first, int(high // step) + 1))


def importances(c: Comparison) -> Figure:
    """Bars of shares, the largest above."""
    shares = c.importance.shares if c.importance else {}
    if not shares:
        return {"data": []}
    names = [named(key) for key in shares]
    bars: Figure = {
        "type": "bar",
        "orientation": "h",
        "x": list(shares.values()),
        "y": names,
        "marker": {"color": COLOURS[0]},
    }
    bars |= {"hovertemplate": "%{y}: %{x:.0%}<extra></extra>", "showlegend": False}
    layout = _layout(f"share of the variance of {c.by.name}", "")
    layout["xaxis"] |= {"tickformat": ".0%", "range": [0, 1.02]}
    layout["yaxis"] |= {"autorange": "reversed", "automargin": True}
    return {"data": [bars], "layout": {**layout, "height": 130 + 28 * len(shares)}}


def _layout(x: str, y: str) -> Figure:
    return {
        **{"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}},
        **{"legend": {"orientation": "h", "y": -0.2, "yanchor": "top"}, "hovermode": "closest"},
    }
