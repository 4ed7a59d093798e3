"""`variata compare PATH ...`: runs side by side, with intervals over seeds, and what their figures depend on.

Figures are given by configuration; a random forest tells which options explain them.
"""

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path

from variata.commands.arguments import command
from variata.compare import table, tables
from variata.compare.comparison import Comparison, compare
from variata.errors import ConfigError
from variata.metrics import DEFAULT, METRICS
from variata.run.reader import read_below


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
        table.console().print(str(path), soft_wrap=True)


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


def show(comparison: Comparison) -> None:
    """Print the tables, the warnings and the outcome."""
    for one in tables.tables(comparison):
        table.show(one)
    out = table.console()
    for warning in comparison.warnings:
        out.print(f"Warning: {warning}", style="yellow")
    out.print(tables.headline(comparison), style="bold")
