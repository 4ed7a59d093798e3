"""What a comparison says, as tables of text; how they are drawn is up to the terminal, Markdown or HTML."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from variata import atomic
from variata.compare import keys
from variata.compare.behind import Behind
from variata.compare.comparison import Comparison
from variata.compare.groups import Group
from variata.compare.importance import HOW
from variata.compare.metrics import differences as judgements
from variata.compare.statistics import Summary
from variata.compare.table import Cell, Table, status_cell
from variata.errors import ConfigError, RunError
from variata.formatting import number, printable, visible
from variata.metrics import LOOSE, Metric
from variata.run.directory import read_text
from variata.run.reader import Run

BEHIND = (
    "Behind: how far its mean is from that of group 1 in {}, and the 95% interval of the difference: over pairs of "
    "runs of equal seed (p) where both have the same ones, else of independent runs (w, Welch); one run has none. "
    "Each is by itself: of many, some leave out 0 by chance."
)
LOG = 4096  # characters of train.log that are looked through for an error

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # what a formula begins with


def tables(c: Comparison) -> list[Table]:
    """All tables that have something to say."""
    return [table for part in TABLES if (table := part(c)).rows]


def differences(c: Comparison) -> Table:
    """Values of the keys that differ, by group."""
    columns = [*c.keys, *c.within]
    rows = [[number_of(c, g), *(Cell(g.values(key)) for key in columns), Cell(counted(g))] for g in c.groups]
    also = f"From these follow: {shortened(c.followers)}." if c.followers else ""
    return Table("What differs", ["group", *columns, "runs"], rows, also, words=len(columns) + 2)


def followers(c: Comparison) -> Table:
    """Values of the keys that differ as a consequence, by group."""
    rows = [[number_of(c, g), *(Cell(g.values(key)) for key in c.followers)] for g in c.groups]
    return Table("", ["group", *c.followers], rows, words=len(c.followers) + 1)


def results(c: Comparison) -> Table:
    """Means and intervals, by group."""
    columns = [m for m in c.metrics.values() if any(g.summary(m) or g.mixed(m) for g in c.groups)]
    headings = ["group", "configuration", "n"]
    rows = [[number_of(c, g), Cell(g.label), Cell(str(len(g.judged)), len(g.judged))] for g in c.groups]
    caption = f"Mean ± half the 95% interval over seeds (Student's t); one run has none. {ranking(c)}"
    if len(c.ranks) > 1:
        headings, caption = [*headings, "behind"], f"{caption} {BEHIND.format(c.by.label)}"
        rows = [[*row, distance(c.behind(g), c.by)] for row, g in zip(rows, c.groups, strict=True)]
    rows = [[*row, *(figure(g, m) for m in columns)] for row, g in zip(rows, c.groups, strict=True)]
    if any(m.mark(g.judged) for m in columns for g in c.groups):
        caption = f"{caption} {LOOSE}"
    return Table("Results", [*headings, *(m.label for m in columns)], rows, caption, words=2)


def ranking(c: Comparison) -> str:
    """What decides the order."""
    if not c.ranks:
        return "Groups are not ranked."
    chosen = " The validation images choose, so that the test figures are of images that did not."
    return (
        f"Ranked by {c.by.name}, {'higher' if c.by.up else 'lower'} is better.{chosen * c.by.name.startswith('val/')}"
    )


def distance(found: Behind | None, metric: Metric) -> Cell:
    """How far a group is behind the best, and from where to where that may be."""
    if found is None:
        return Cell("–")
    if found.interval is None:
        return Cell(metric.text(found.gap), found.gap)
    low, high = map(metric.text, found.interval)
    return Cell(f"{metric.text(found.gap)} [{low}, {high}] {'p' if found.pairs else 'w'}", found.gap)


def number_of(c: Comparison, group: Group) -> Cell:
    """The rank of a group, or its place in brackets where it has none."""
    if group.label in c.ranks:
        return Cell(str(c.ranks[group.label]), c.ranks[group.label])
    return Cell(f"({c.groups.index(group) + 1})", len(c.groups) + c.groups.index(group))


def figure(group: Group, metric: Metric) -> Cell:
    """Mean ± half an interval; how many runs have the figure, where not all do."""
    summary = group.summary(metric)
    if summary is None:
        return Cell("mixed" if group.mixed(metric) else "–")
    some = f" (n={summary.n})" if summary.n < len(group.judged) else ""
    return Cell(spread(summary, metric) + metric.mark(group.judged) + some, summary.mean)


def spread(summary: Summary, metric: Metric) -> str:
    """A summary in words."""
    half = "" if summary.half is None else f" ± {metric.text(summary.half)}"
    return metric.stated(summary.mean) + half


def counted(group: Group) -> str:
    """How its runs ended: `3 finished, 1 failed`."""
    return ", ".join(f"{n} {status}" for status, n in sorted(group.counts.items(), key=lambda kv: kv[0] != "finished"))


def importances(c: Comparison) -> Table:
    """Shares of the variance, by key."""
    if not c.importance:
        return Table("", [], [])
    rows = [[Cell(key), Cell(f"{100 * share:.0f}%", share)] for key, share in c.importance.shares.items()]
    caption = (
        f"Of {c.by.name} over {c.importance.runs} runs; {100 * c.importance.explained:.0f}% of it is predicted in runs "
        f"held out, the rest is seeds, chance and what so few runs do not show. {HOW}. Keys that act together each "
        "have the whole of it; keys that always change together share it."
    )
    return Table("What explains the variance", ["key", "share"], rows, caption)


def unfinished(c: Comparison) -> Table:
    """Runs that are not averaged."""
    those = sorted((run for run in c.runs if not run.finished), key=lambda run: run.status)
    rows = [
        [Cell(visible(run.path)), status_cell(run.status), *map(Cell, (" ".join(run.overrides), error(run)))]
        for run in those
    ]
    return Table("Not finished", ["run", "status", "overrides", "error"], rows, words=4)


def error(run: Run) -> str:
    """Why a run failed: by results.json, else by the last line of train.log."""
    if run.status != "failed" or run.results.get("error"):
        return printable(str(run.results.get("error") or ""))
    try:
        lines = (read_text(run.path / "train.log") or "")[-LOG:].splitlines()
    except RunError:
        return ""
    raised = [line for line in lines if "Error: " in line and not line.startswith((" ", "\t"))]
    return printable(raised[-1]) if raised else ""


def left_out(c: Comparison) -> Table:
    """Directories that could not be read."""
    rows = [[Cell(visible(place.path)), Cell(place.reason)] for place in c.left_out]
    return Table("Left out", ["directory", "reason"], rows, words=2)


TABLES = (differences, results, importances, unfinished, left_out)


def shortened(names: Sequence[str], most: int = 12) -> str:
    """The first of many names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def headline(c: Comparison) -> str:
    """The outcome in a sentence or two."""
    if c.apart:
        return unranked(c)
    if c.best is None or (first := c.best.summary(c.by)) is None:
        ended = ", ".join(f"{n} {status}" for status, n in Counter(run.status for run in c.runs).items()) or "none"
        remedy = f" Rank by another figure, --by {other.name}." if (other := another(c)) else ""
        return f"Nothing to rank by {c.by.name}; runs: {ended}.{remedy}"
    how = f"mean and 95% interval over {first.n} runs" if first.n > 1 else "one run, so no interval"
    if len(c.groups) == 1:
        return f"{c.by.label} {figure(c.best, c.by).text} {c.by.unit} ({how})."
    extreme = f"the {'highest' if c.by.up else 'lowest'} {c.by.label}"
    return f"{c.best.label} has {extreme}, {figure(c.best, c.by).text} {c.by.unit} ({how}). {runner_up(c)}".strip()


def unranked(c: Comparison) -> str:
    """That figures do not compare, and which would."""
    judged, other = [run for group in c.groups for run in group.judged], another(c)
    remedy = f"Rank by another figure, --by {other.name}, or" if other else "Give only runs judged alike:"
    names = judgements(judged, c.by)
    differ = f"{', '.join(names)} {'differ' if len(names) > 1 else 'differs'}"
    return f"Groups are not ranked by {c.by.label}: {differ} between runs. {remedy} compare each kind by itself."


def another(c: Comparison) -> Metric | None:
    """A figure of the same unit that all runs have and that does compare."""
    judged = [run for group in c.groups for run in group.judged]
    others = [m for m in c.metrics.values() if m.unit == c.by.unit and not judgements(judged, m)]
    return next((m for m in others if judged and all(run.figure(m.name) is not None for run in judged)), None)


def runner_up(c: Comparison) -> str:
    """How far behind the second group is."""
    second = next((g for g in c.groups[1:] if g.label in c.ranks), None)
    if second is None or (found := c.behind(second)) is None:
        return ""
    return f"Next is {second.label}, {c.by.text(found.gap)} behind; {certainty(found, c.by)}."


def certainty(found: Behind, metric: Metric) -> str:
    """Whether seeds alone may make such a difference."""
    if found.interval is None:
        return "there is no interval, which takes two runs of each"
    low, high = map(metric.text, found.interval)
    how = f"over {found.pairs} pairs of equal seed" if found.pairs else "Welch"
    verdict = "holds 0, so either may be better" if found.open else "leaves out 0"
    return f"the 95% interval of the difference, {low} to {high} ({how}), {verdict}"


def markdown(c: Comparison) -> str:
    """The tables as Markdown."""
    parts = ["# Comparison", escaped(headline(c)), *(f"> **Note:** {escaped(w)}" for w in c.warnings)]
    for table in tables(c):
        rows = [table.headings, ["---"] * len(table.headings), *([cell.text for cell in row] for row in table.rows)]
        rows[0] = [escaped(heading) for heading in rows[0]]
        rows[2:] = [[escaped(words) for words in row] for row in rows[2:]]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        parts += [f"## {table.title}", "\n".join(lines), *([escaped(table.caption)] if table.caption else [])]
    return "\n\n".join(parts) + "\n"


def escaped(words: str) -> str:
    """Text that Markdown shows as it is."""
    for mark in "\\`*_[]<>|":
        words = words.replace(mark, f"\\{mark}")
    return words


def sheet(c: Comparison) -> str:
    """CSV, a row per run: how it ended, what differs, all figures, where it is."""
    names = [*c.keys, *c.within, *c.followers]
    figures = list(dict.fromkeys(name for run in c.runs for name, v in run.results.items() if scalar(v)))
    figures = [name for name in figures if name != "status" and name not in names]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rows: list[list[object]] = [["group", "status", *names, *figures, "path"]]
    rows += [[g.label, *record(run, names, figures)] for g in c.groups for run in g.runs]
    writer.writerows([inert(cell) for cell in row] for row in rows)
    return out.getvalue()


def inert(cell: object) -> object:
    """A cell on one line that no spreadsheet takes for a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""
    if not isinstance(cell, str):
        return cell
    words = printable(cell)
    return f"'{words}" if words.startswith(FORMULA) and number(words) is None else words


def record(run: Run, names: Iterable[str], figures: Iterable[str]) -> list[object]:
    """A row of the sheet."""
    values = [run.results.get(name) for name in figures]
    return [
        run.status,
        *(keys.value(run, name) for name in names),
        *("" if v is None or not scalar(v) else v for v in values),
        visible(run.path),
    ]


def scalar(value: object) -> bool:
    """Whether a value fits into a cell."""
    return value is None or isinstance(value, str | int | float)


def write(path: Path, words: str) -> None:
    """A whole file or none, in a folder that is made if need be.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, words)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Give the report another place.") from error
