"""What a sweep says: a line when a job has ended, a table when all have, and the best configuration."""

import math
import sys
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from variata import runs
from variata.cli.job import Job
from variata.sweeps.jobs import Outcome
from variata.sweeps.options import Options, direction
from variata.sweeps.space import Space

FIGURES = ("val/elbo", "test/nll")
COLOURS = {"finished": "green", "pruned": "yellow", "failed": "red", "missing": "red", "interrupted": "yellow"}

Outcomes = dict[int, Outcome]


class Progress:
    """Tells of each job as it ends.

    Args:
        space: What is varied.
        total: Jobs there will be, done ones included.
        done: Of them, before it began.
    """

    def __init__(self, folder: Path, space: Space, total: int, done: int, parallel: int) -> None:
        self.space, self.total, self.done, self.console = space, total, done, Console(stderr=True, highlight=False)
        before = f", {done} of them done before" if done else ""
        where = "" if parallel == 1 else f" Each writes what it would show into {folder}/<job>/output.log."
        self._say(f"{total} jobs{before}, {parallel} at a time, in {folder}.{where}")

    def ended(self, job: Job, how: Outcome) -> None:
        """A line: which, how, how well."""
        self.done += 1
        words = " ".join(f"{name}={text}" for name, text in varied(self.space, job.overrides).items())
        seconds = how.results.get("train/seconds")
        figures = [f"val/elbo {how.results['val/elbo']:.2f}"] if how.results.get("val/elbo") is not None else []
        figures += [f"{seconds:.0f} s of training"] if seconds else []
        status = f"[{COLOURS[how.status]}]{how.status}[/]"
        self._say(f"{self.done}/{self.total}  job {job.folder.name}  {words}  {status}  {', '.join(figures)}")

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)


def table(folder: Path, space: Space, outcomes: Outcomes, words: dict[int, list[str]], best: list[int]) -> None:
    """Print all jobs: what each tried, how it ended, its figures, or why it has none."""
    shown = Table()
    figures = [name for name in FIGURES if any(how.results.get(name) is not None for how in outcomes.values())]
    for name in ("job", *space.axes, "status", *figures, "minutes"):
        shown.add_column(name, justify="left" if name in ("status", *space.axes) else "right", overflow="fold")
    for number, how in sorted(outcomes.items()):
        chosen = varied(space, words[number])
        shown.add_row(
            f"{number}{' *' if number in best else ''}",
            *(rounded(chosen.get(name, "")) for name in space.axes),
            f"[{COLOURS[how.status]}]{how.status}[/]",
            *(figure(how.results.get(name)) for name in figures),
            figure((how.results.get("train/seconds") or math.nan) / 60),
        )
    tell(f"jobs of {folder}")
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(shown)
    for number, how in sorted(outcomes.items()):
        if how.results.get("error"):
            tell(f"job {number}: {how.results['error']}")


def tell(line: Any) -> None:
    """A line on stdout, whole, so that a path in it can be copied."""
    Console(highlight=False, markup=False, soft_wrap=True).print(str(line))


def varied(space: Space, overrides: list[str]) -> dict[str, str]:
    """The overrides of a job that others have otherwise."""
    pairs = (word.split("=", 1) for word in overrides if "=" in word)
    return {name: text for name, text in pairs if name in space.axes}


def rounded(text: str) -> str:
    """A number a sampler drew, in four digits; anything else as it is."""
    try:
        return text if len(text) < 7 else f"{float(text):.4g}"
    except ValueError:
        return text


def figure(value: float | None) -> str:
    """A figure with two digits, or nothing."""
    return "" if value is None or not math.isfinite(value) else f"{value:.2f}"


def best(outcomes: Outcomes, objectives: list[str]) -> list[int]:
    """The best job; with two objectives those that no other beats in both (the Pareto front)."""
    signs = [1 if direction(name) == "minimize" else -1 for name in objectives]
    points = {}
    for number, how in outcomes.items():
        if how.status == "finished" and (values := how.values(objectives)):
            points[number] = [sign * value for sign, value in zip(signs, values, strict=True)]
    if len(objectives) == 1:
        return [min(points, key=points.__getitem__)] if points else []
    return [n for n, point in points.items() if not any(dominates(other, point) for other in points.values())]


def dominates(a: list[float], b: list[float]) -> bool:
    """Whether a is nowhere worse than b and somewhere better; less is better."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def write_best(folder: Path, loader: ConfigLoader, primary: str, overrides: list[str], options: Options) -> Path:
    """Write best.yaml, a configuration of what was best: `python train.py --config-dir=<sweep> --config-name=best`."""
    defaults: list[Any] = [primary]
    values = OmegaConf.create()
    for word in OverridesParser.create().parse_overrides(runs.public_words(overrides)):
        if word.type == OverrideType.DEL:
            continue
        if loader.get_group_options(word.key_or_group):
            prefix = "" if word.type == OverrideType.ADD else "override "
            defaults.append({prefix + word.key_or_group: word.value()})
        else:
            OmegaConf.update(values, word.key_or_group, word.value(), force_add=True)
    content = {"defaults": [*defaults, "_self_"], **runs.plain(values)}
    path = folder / "best.yaml"
    head = (
        f"# The best {options.objectives[0]} of this sweep: python train.py --config-dir={folder} --config-name=best\n"
    )
    runs.write(path, head + OmegaConf.to_yaml(OmegaConf.create(content)))
    return path


def write_report(folder: Path) -> Path:
    """Write report.html, which compares the runs: `variata compare <sweep> --html report.html` does it again."""
    from variata.compare.comparison import compare
    from variata.compare.page import page
    from variata.compare.read import read_below

    path = folder / "report.html"
    runs.write(path, page(compare(read_below([folder]), [], None), f"variata compare {folder} --html {path}"))
    return path
