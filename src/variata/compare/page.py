"""A comparison as one HTML file that needs nothing else: style, script, plotly, figures and pictures are within."""

import json
import re
from datetime import datetime
from html import escape
from pathlib import Path

from variata import __version__
from variata.compare import figures, pictures, tables
from variata.compare.comparison import Comparison
from variata.compare.config import printable, text

HERE = Path(__file__).parent
LONG = 44  # characters, above which a cell is wrapped
TITLES = {
    "curves": (
        "Learning curves",
        "A line per run, dotted where it did not finish. The frame leaves out the first 15% of "
        "updates; a double click shows all. A click in the legend hides a group.",
    ),
    "trade_off": (
        "Rate and distortion",
        "A point per run, a diamond per group with 95% intervals, cut where they are far wider than the points. Dotted "
        "lines join points of equal ELBO = -(rate + distortion).",
    ),
}


def page(c: Comparison, command: str) -> str:
    """The whole page."""
    drawn = figures.figures(c)
    parts = {
        **{name: (HERE / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")},
        "plotly": plotly(),
        "figures": safe_json(drawn),
        "body": "\n".join(body(c, drawn, command)),
    }
    template = (HERE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def plotly() -> str:
    """plotly.js, for a page that is read without a network."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def safe_json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


def body(c: Comparison, drawn: dict[str, figures.Figure], command: str) -> list[str]:
    """The sections, in the order of reading."""
    matters = tables.importances(c)
    return [
        header(c),
        *(f'<p class="warning">{escape(warning)}</p>' for warning in c.warnings),
        section(tables.results(c), "sortable"),
        section(tables.differences(c), "sortable", details=following(c)),
        *(plot(name, *TITLES[name]) for name in TITLES if name in drawn),
        plot("importance", matters.title, matters.caption) if "importance" in drawn else "",
        gallery(c),
        section(tables.unfinished(c)),
        section(tables.left_out(c)),
        footer(command),
    ]


def header(c: Comparison) -> str:
    """The outcome, and on what it rests."""
    judged = sum(len(group.judged) for group in c.groups)
    counts = f"{len(c.runs)} runs in {len(c.groups)} groups, {judged} of them averaged"
    about = [counts, f"data: {protocols(c)}", f"directories left out: {len(c.left_out)}" if c.left_out else ""]
    lines = " · ".join(escape(words) for words in about if words)
    return f'<header><p class="kind">variata compare</p><h1>{escape(tables.headline(c))}</h1><p>{lines}</p></header>'


def protocols(c: Comparison) -> str:
    """On what runs were judged, and with how many samples."""
    named = {printable(text(run.results["data/protocol"])) for run in c.runs if run.results.get("data/protocol")}
    samples = sorted({k for run in c.runs if (k := run.results.get("test/nll_samples")) is not None})
    bound = f"; NLL with {', '.join(f'{k:,}' for k in samples)} samples per image" if samples else ""
    return ("; ".join(sorted(named)) or "unknown") + bound


def section(table: tables.Table, kind: str = "", details: str = "") -> str:
    """A table with its title and caption; nothing where it has no rows."""
    if not table.rows:
        return ""
    caption = f'<p class="caption">{escape(table.caption)}</p>' if table.caption else ""
    return f"<section><h2>{escape(table.title)}</h2>{grid(table, kind)}{caption}{details}</section>"


def grid(table: tables.Table, kind: str) -> str:
    """A table that scrolls by itself where the page is narrow."""
    heads = "".join(f"<th{figure(i, table)}>{head(h, kind)}</th>" for i, h in enumerate(table.headings))
    rows = "".join(f"<tr>{''.join(cell(c, i, table) for i, c in enumerate(row))}</tr>" for row in table.rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def head(words: str, kind: str) -> str:
    """A heading, to be pressed where the table can be sorted."""
    return f'<button type="button">{escape(words)}</button>' if kind else escape(words)


def figure(i: int, table: tables.Table) -> str:
    """The class of a column of figures."""
    return ' class="figure"' if i >= table.words else ""


def cell(content: tables.Cell, i: int, table: tables.Table) -> str:
    """A cell, and the number it is sorted by."""
    value = "" if content.value is None else f' data-value="{content.value!r}"'
    long = ' class="long"' if i < table.words and len(content.text) > LONG else ""
    words = content.text.replace("-", "\N{MINUS SIGN}") if i >= table.words else content.text
    return f"<td{long or figure(i, table)}{value}>{escape(words)}</td>"


def following(c: Comparison) -> str:
    """Keys that differ as a consequence, folded away."""
    if not c.followers:
        return ""
    rows = [[tables.number_of(c, g), *(tables.Cell(g.values(key)) for key in c.followers)] for g in c.groups]
    table = tables.Table("", ["group", *c.followers], rows, words=len(c.followers) + 1)
    return (
        f"<details><summary>{len(c.followers)} more that follow from these</summary>{grid(table, 'sortable')}</details>"
    )


def plot(name: str, title: str, caption: str) -> str:
    """A place for a figure."""
    return (
        f'<section><h2>{escape(title)}</h2><div class="plot" id="{name}"></div>'
        f'<p class="caption">{escape(caption)}</p></section>'
    )


def gallery(c: Comparison) -> str:
    """Pictures: a row per kind, a column per group."""
    shown, more = pictures.columns(c)
    kinds = [kind for kind in pictures.KINDS if any(kind in column.pictures for column in shown)]
    if not kinds:
        return ""
    heads = "".join(f"<th>{escape(pictured(column))}</th>" for column in shown)
    rows = "".join(f"<tr><th>{kind}</th>{''.join(picture(column, kind) for column in shown)}</tr>" for kind in kinds)
    said = f" {more} more groups have pictures; the first {len(shown)} are shown." if more else ""
    return (
        f'<section><h2>Pictures</h2><div class="wide"><table class="gallery"><thead><tr><th></th>{heads}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="caption">Of the best run of each group by {escape(c.by.name)}. '
        f"Large pictures are scaled down.{said}</p></section>"
    )


def pictured(column: pictures.Column) -> str:
    """Whose pictures they are."""
    return f"{column.group.label}, seed {text(column.run.config.get('seed'))}"


def picture(column: pictures.Column, kind: str) -> str:
    """A picture, or that there is none."""
    if kind not in column.pictures:
        return '<td class="none">none</td>'
    return f'<td><img src="{column.pictures[kind]}" alt="{escape(f"{kind} of {pictured(column)}")}"></td>'


def footer(command: str) -> str:
    """How the page was made."""
    made = f"{datetime.now():%Y-%m-%d %H:%M}, variata {__version__}"
    return f"<footer><p>Written {made} by</p><pre>{escape(command)}</pre></footer>"
