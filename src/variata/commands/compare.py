"""`variata compare PATH ...`: runs side by side, with intervals over seeds, and what their figures depend on.

Figures are given by configuration; a random forest tells which options explain them.
"""

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from variata.commands.arguments import command
from variata.compare import tables
from variata.compare.comparison import Comparison, compare
from variata.errors import ConfigError
from variata.metrics import DEFAULT, METRICS
from variata.run.reader import read_below

LEAST = 20  # characters of a column that are not broken, where it has them
PIPED = 1000  # columns, where the output is no terminal: lines stay whole


def parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = command(__doc__)
    add = parser.add_argument
    add("path", nargs="+", type=Path, metavar="PATH", help="run directories, sweeps, or any folder above them")
    add(
        "--group-by",
        action="append",
        default=[],
        metavar="KEY",
        help="configuration key, like beta.value or likelihood; may be given several times "
        "(all keys that differ, except the seed and what is no part of the experiment)",
    )
    add("--by", metavar="METRIC", help=f"rank by one of {', '.join(METRICS)} ({DEFAULT})")
    add("--html", type=Path, metavar="FILE", help="write a page with tables, plots and pictures, complete in one file")
    add("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    add("--csv", type=Path, metavar="FILE", help="write a row per run")
    return parser


def run(options: Namespace) -> None:
    """Read, compare, print, write."""
    refuse_folders(options)
    comparison = compare(read_below(options.path), options.group_by, options.by)
    show(comparison)
    for path, words in reports(options, comparison):
        tables.write(path, words)
        console().print(str(path), soft_wrap=True)


def refuse_folders(options: Namespace) -> None:
    """Name a report that cannot be written before anything is read."""
    for name in ("html", "markdown", "csv"):
        path = getattr(options, name)
        if path is not None and path.is_dir():
            raise ConfigError(f"--{name} {path} is a folder. Give the name of a file in it, like {path}/report.{name}.")


def reports(options: Namespace, comparison: Comparison) -> Iterable[tuple[Path, str]]:
    """The files asked for."""
    if options.markdown:
        yield options.markdown, tables.markdown(comparison)
    if options.csv:
        yield options.csv, tables.sheet(comparison)
    if options.html:
        from variata.compare.page import page

        yield options.html, page(comparison, shlex.join(["variata", "compare", *sys.argv[1:]]))


def console() -> Console:
    """Where to print; what users wrote is never read as markup."""
    shown = Console(markup=False, highlight=False, emoji=False)
    return shown if shown.is_terminal else Console(markup=False, highlight=False, emoji=False, width=PIPED)


def show(comparison: Comparison) -> None:
    """Print the tables, the warnings and the outcome."""
    out = console()
    for table in tables.tables(comparison):
        out.print(table.title, style="italic")
        grid = fitting(table, out)
        out.print(grid)
        if hidden := table.headings[len(grid.columns) :]:
            out.print(f"Not shown, for want of room: {', '.join(hidden)}.", style="dim")
        out.print(*([f"{table.caption}\n"] if table.caption else []), style="dim")
    for warning in comparison.warnings:
        out.print(f"Warning: {warning}", style="yellow")
    out.print(tables.headline(comparison), style="bold")


def fitting(table: tables.Table, out: Console) -> Table:
    """A table for the terminal, with as many columns of figures as it has room for without breaking one."""
    columns, unbounded = len(table.headings), out.options.update(max_width=100 * PIPED)
    while columns > table.words + 1 and Measurement.get(out, unbounded, drawn(table, columns)).minimum > out.width:
        columns -= 1
    return drawn(table, columns)


def drawn(table: tables.Table, columns: int) -> Table:
    """The first columns of a table."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(table.headings[:columns]):
        figure, texts = i >= table.words, [heading, *(row[i].text for row in table.rows)]
        least = max(map(len, texts if figure else " ".join(texts).split()))
        justify: Literal["left", "right"] = "right" if figure else "left"
        grid.add_column(heading, justify=justify, overflow="fold", no_wrap=figure, min_width=min(least, LEAST))
    for row in table.rows:
        grid.add_row(*(cell.text for cell in row[:columns]))
    return grid
