"""`variata ls [PATH ...]`: list runs, newest last: how they ended, what was asked for, and their figures."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from variata.commands.arguments import command
from variata.compare import table
from variata.compare.table import Cell, Table, console, figure_cells, status_cell
from variata.formatting import brief, text, visible
from variata.metrics import LOOSE, METRICS
from variata.run.reader import QUIET, LeftOut, Run, read_below
from variata.statuses import Status

STATUSES = [str(status) for status in Status if status != Status.NOT_BEGUN]
DATED = re.compile(r"\d{4}-\d\d-\d\d_")  # name of a run that is no job of a sweep
SHOWN = [METRICS[name] for name in ("val/elbo", "test/nll", "train/minutes")]
HELP = f"""\
A run without results.json is running or was killed. It counts as running where config.yaml, metrics.csv, train.log or
checkpoints/last.ckpt, which training writes every checkpoint_every seconds, was written in the last {QUIET // 60}
minutes (or five times checkpoint_every, if that is longer); a longer silence, as in a very long evaluation, counts as
killed. An interrupted or failed run whose config.yaml is newer than its results.json was resumed: the same signs tell.
"""


def parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = command(__doc__, epilog=HELP)
    add = parser.add_argument
    add("path", nargs="*", type=Path, default=[Path("outputs")], metavar="PATH", help="run, sweep or folder (outputs)")
    add("--status", action="append", choices=STATUSES, help="show only these; may be given several times")
    return parser


def run(options: Namespace) -> None:
    """Read and print."""
    found = read_below(options.path, curves=False)
    runs = [run for run in found.runs if not options.status or run.status in options.status]
    out = console()
    if runs:
        table.show(listed(sorted(runs, key=lambda run: run.began)))
    else:
        out.print(f"None of {len(found.runs)} runs is {' or '.join(options.status or STATUSES)}.")
    for place in found.left_out:
        out.print(told(place), style="yellow")


def told(place: LeftOut) -> str:
    """A directory that could not be read, and why."""
    return f"Left out: {visible(place.path)}: {place.reason}"


def listed(runs: Sequence[Run]) -> Table:
    """A row per run; overrides that all share are said once."""
    shared = set.intersection(*(set(asked(run)) for run in runs)) if len(runs) > 1 else set()
    notes = [f"all: {' '.join(sorted(shared))}"] if shared else []
    notes += [LOOSE] if any(metric.mark([run]) for metric in SHOWN for run in runs) else []
    headings = ["path", "status", "data", "model", "overrides", *(metric.label for metric in SHOWN), "when"]
    return Table("", headings, [row(run, shared) for run in runs], "\n".join(notes), words=5, whole="path")


def row(run: Run, shared: set[str]) -> list[Cell]:
    """What is said of a run, beside the overrides that all share."""
    words = [*parts(run), " ".join(word for word in asked(run) if word not in shared)]
    when = Cell(f"{datetime.fromtimestamp(run.began):%Y-%m-%d %H:%M}", run.began)
    return [Cell(visible(run.path)), status_cell(run.status), *map(Cell, words), *figure_cells(run, SHOWN), when]


def asked(run: Run) -> list[str]:
    """What the command line asked for, numbers in a few digits, beside data, model and where the run is kept."""
    words = [word for word in run.overrides if not word.startswith(("data=", "model=", "outputs=", "logger"))]
    return [f"{name}{sign}{brief(value)}" for name, sign, value in (word.partition("=") for word in words)]


def parts(run: Run) -> tuple[str, str]:
    """Names of data and model: as asked for, by the folder `<data>-<model>`, or by what is built."""
    asked = {key: name for key, _, name in (word.partition("=") for word in run.overrides)}
    place = run.path.resolve()
    data, dash, model = place.parent.name.partition("-")
    folder = {"data": data, "model": model} if dash and DATED.match(place.name) else {}
    built = {"data": text(run.config.get("data")), "model": text(run.config.get("model.encoder", run.config["model"]))}
    first, second = ({**built, **folder, **asked}[part] for part in ("data", "model"))
    return first, second
