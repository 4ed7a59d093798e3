"""Tables of text: of runs, of groups of runs; and how a terminal shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rich import box
from rich import table as drawing
from rich.console import Console
from rich.measure import Measurement
from rich.text import Text

from variata.compare.metrics import Metric
from variata.formatting import ABSENT
from variata.statuses import Status

LEAST = 20  # characters of a column that are not broken, where it has them
PIPED = 1000  # columns, where the output is no terminal: lines stay whole


class Cell(NamedTuple):
    """Text, the number it is sorted by, and its colour in a terminal."""

    text: str
    value: float | None = None
    colour: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells below headings; left of `words` are words, the others figures.

    Args:
        whole: Heading of a column that is never broken, for what is copied from it.
    """

    title: str
    headings: list[str]
    rows: list[list[Cell]]
    caption: str = ""
    words: int = 1
    whole: str = ""


def status_cell(status: Status) -> Cell:
    """How a run ended."""
    return Cell(status, colour=status.colour)


def figure_cells(run: Any, metrics: Sequence[Metric]) -> list[Cell]:
    """Figures of one run, or of one job."""
    values = [(metric, run.figure(metric.name)) for metric in metrics]
    return [Cell(ABSENT) if v is None else Cell(metric.stated(v) + metric.mark([run]), v) for metric, v in values]


def console(stderr: bool = False) -> Console:
    """Where to print; what users wrote is never read as markup."""
    plain: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False, "stderr": stderr}
    return Console(**plain) if Console(stderr=stderr).is_terminal else Console(**plain, width=PIPED)


def show(table: Table) -> None:
    """Print a table with as many columns of figures as there is room for without breaking one."""
    out, columns = console(), len(table.headings)
    if table.title:
        out.print(table.title, style="italic")
    unbounded = out.options.update(max_width=100 * PIPED)
    while columns > table.words + 1 and Measurement.get(out, unbounded, drawn(table, columns)).minimum > out.width:
        columns -= 1
    out.print(drawn(table, columns))
    if hidden := table.headings[columns:]:
        out.print(f"Not shown, for want of room: {', '.join(hidden)}.", style="dim")
    out.print(f"{table.caption}\n" if table.caption else "", style="dim")


def drawn(table: Table, columns: int) -> drawing.Table:
    """The first columns of a table."""
    grid = drawing.Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(table.headings[:columns]):
        figure, texts = i >= table.words, [heading, *(row[i].text for row in table.rows)]
        whole, least = figure or heading == table.whole, max(map(len, " ".join(texts).split()))
        width = max(map(len, texts)) if whole else min(least, LEAST)
        justify: Literal["left", "right"] = "right" if figure else "left"
        grid.add_column(heading, justify=justify, overflow="fold", no_wrap=whole, min_width=width)
    for row in table.rows:
        grid.add_row(*(Text(cell.text, cell.colour) for cell in row[:columns]))
    return grid
