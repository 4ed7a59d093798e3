"""`variata ls [PATH ...]`: list runs, newest last: how they ended, what was asked for, and their figures."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich import box
from rich.table import Table

from variata.commands.arguments import command
from variata.commands.compare import console
from variata.formatting import brief, text, visible
from variata.metrics import LOOSE, METRICS
from variata.run.reader import QUIET, LeftOut, Run, read_below

STATUSES = ("finished", "failed", "interrupted", "pruned", "running", "killed")
STYLES = {"failed": "red", "killed": "red", "interrupted": "yellow", "pruned": "yellow", "running": "cyan"}
DATED = re.compile(r"\d{4}-\d\d-\d\d_")  # name of a run that is no job of a sweep
SHOWN = ("val/elbo", "test/nll", "train/minutes")
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
        out.print(listed(sorted(runs, key=lambda run: run.began)))
    else:
        out.print(f"None of {len(found.runs)} runs is {' or '.join(options.status or STATUSES)}.")
    for place in found.left_out:
        out.print(told(place), style="yellow")


def told(place: LeftOut) -> str:
    """A directory that could not be read, and why."""
    return f"Left out: {visible(place.path)}: {place.reason}"


def listed(runs: Sequence[Run]) -> Table:
    """A row per run."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("path", no_wrap=True)
    for heading in ("status", "data", "model", "overrides"):
        table.add_column(heading, overflow="fold")
    for heading in (*(METRICS[name].label for name in SHOWN), "when"):
        table.add_column(heading, justify="right")
    shared = set.intersection(*(set(asked(run)) for run in runs)) if len(runs) > 1 else set()
    for run in runs:
        table.add_row(*row(run, shared), style=STYLES.get(run.status))
    notes = [f"all: {' '.join(sorted(shared))}"] if shared else []
    notes += [LOOSE] if any(METRICS[name].mark([run]) for name in SHOWN for run in runs) else []
    table.caption, table.caption_justify = "\n".join(notes) or None, "left"
    return table


def row(run: Run, shared: set[str]) -> list[str]:
    """What is said of a run, beside the overrides that all share."""
    values = [(METRICS[name], run.figure(name)) for name in SHOWN]
    when = f"{datetime.fromtimestamp(run.began):%Y-%m-%d %H:%M}"
    figures = ["–" if value is None else metric.stated(value) + metric.mark([run]) for metric, value in values]
    return [
        visible(run.path),
        run.status,
        *parts(run),
        " ".join(word for word in asked(run) if word not in shared),
        *figures,
        when,
    ]


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
