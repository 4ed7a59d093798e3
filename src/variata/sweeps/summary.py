"""What a sweep says: a line when a job has ended, a table when all have, the best configuration, a report."""

import re
import shlex
import time
from hashlib import sha256
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from rich.text import Text

from variata import atomic
from variata.compare.comparison import Comparison, compare
from variata.compare.page import page
from variata.compare.statistics import pareto
from variata.compare.table import Cell, Table, console, figure_cells, show, status_cell
from variata.formatting import brief
from variata.metrics import METRICS, Metric
from variata.run import secrets
from variata.run.directory import MINUTES, Outcome
from variata.run.reader import read_below
from variata.statuses import Status
from variata.sweeps.options import direction
from variata.sweeps.origin import PRIMARY, Origin
from variata.sweeps.space import Space

FIGURES = ("val/elbo", "test/nll", MINUTES)

Outcomes = dict[int, Outcome]


class Progress:
    """Tells of each job as it ends.

    Args:
        folder: Of the sweep.
        space: What is varied.
        total: Jobs there will be, done ones included.
        done: Of them, before it began.
        parallel: Jobs at a time.
        objectives: Figures to tell of each.
    """

    def __init__(self, folder: Path, space: Space, total: int, done: int, parallel: int, objectives: list[str]) -> None:
        self.space, self.total, self.before, self.done, self.objectives = space, total, done, done, objectives
        self.began = time.monotonic()
        before = f", {done} of them done before" if done else ""
        where = "" if parallel == 1 else f" Each writes what it would show into {folder}/<job>/output.log."
        if done < total:
            together = f"{min(parallel, total)} at a time"
            tell(f"{total} job{'s' * (total > 1)}{before}, {together}, in {folder}.{where}", stderr=True)
        else:
            tell(f"Nothing is left to do: all {total} jobs of {folder} have ended before.", stderr=True)

    def ended(self, number: int, overrides: list[str], how: Outcome) -> None:
        """A line: which, how, how well or why not, and how long the others may take."""
        self.done += 1
        words = " ".join(f"{name}={brief(text)}" for name, text in varied(self.space, overrides).items())
        told = [f"{name} {value:.2f}" for name in self.objectives for value in how.values([name])]
        told += [f"{seconds:.0f} s of training" for seconds in how.values(["train/seconds"])]
        told += [shorten(str(how.results["error"]), 80, placeholder=" …")] if how.results.get("error") else []
        minutes = (time.monotonic() - self.began) / (self.done - self.before) * (self.total - self.done) / 60
        told += [f"about {minutes:.0f} min left"] if minutes >= 1 else []
        line = Text(f"{self.done}/{self.total}  job {number}  {words}  ")
        tell(line.append(how.status, how.status.colour).append(f"  {', '.join(told)}"), stderr=True)


def table(
    folder: Path, space: Space, outcomes: Outcomes, words: dict[int, list[str]], best: list[int], names: list[str]
) -> None:
    """Print all jobs that have begun: what each tried, how it ended, its figures, or why it has none."""
    wanted = dict.fromkeys([*names, *FIGURES])
    known = [name for name in wanted if any(how.figure(name) is not None for how in outcomes.values())]
    figures = [METRICS.get(name, Metric(name, name)) for name in known]
    begun = {number: how for number, how in sorted(outcomes.items()) if how.status != Status.NOT_BEGUN}
    rows = []
    for number, how in begun.items():
        chosen = varied(space, words[number])
        tried = [Cell(brief(chosen.get(name, ""))) for name in space.axes]
        job = Cell(f"{number}{' *' if number in best else ''}", number)
        rows.append([job, *tried, status_cell(how.status), *figure_cells(how, figures)])
    tell(f"jobs of {folder}")
    if begun:
        headings = ["job", *space.axes, "status", *(metric.label for metric in figures)]
        show(Table("", headings, rows, words=len(space.axes) + 2))
    if waiting := len(outcomes) - len(begun):
        tell(f"{waiting} job{'s have' if waiting > 1 else ' has'} not begun.")
    if best:
        tell(f"* the best {names[0]}" if len(names) == 1 else f"* no other is better in both {' and '.join(names)}")
    for number, how in sorted(outcomes.items()):
        if how.results.get("error"):
            tell(f"job {number}: {how.results['error']}")


def tell(line: object, stderr: bool = False) -> None:
    """A whole line, so that a path in it can be copied."""
    console(stderr).print(line if isinstance(line, Text) else str(line), soft_wrap=True)


def varied(space: Space, overrides: list[str]) -> dict[str, str]:
    """The overrides of a job that others have otherwise."""
    pairs = (word.split("=", 1) for word in overrides if "=" in word)
    return {name: text for name, text in pairs if name in space.axes}


def best(outcomes: Outcomes, objectives: list[str]) -> list[int]:
    """The best job; with two objectives those that no other beats in both (the Pareto front)."""
    signs = [1 if direction(name) == "minimize" else -1 for name in objectives]
    points = {}
    for number, how in outcomes.items():
        if how.status == Status.FINISHED and (values := how.values(objectives)):
            points[number] = [sign * value for sign, value in zip(signs, values, strict=True)]
    if len(objectives) == 1:
        return [min(points, key=points.__getitem__)] if points else []
    numbers, front = list(points), pareto([(first, second) for first, second in points.values()])
    return sorted(numbers[i] for i in front)


def write_best(folder: Path, loader: ConfigLoader, origin: Origin, chosen: dict[str, list[str]]) -> list[Path]:
    """Write a configuration for what was best: `python train.py --config-dir=<sweep> --config-name=best`.

    Files of an earlier end of the sweep are replaced or removed.

    Args:
        folder: Of the sweep.
        loader: Knows which words choose an option of a group.
        origin: What jobs were composed from.
        chosen: The words of what was best, by the name of the file.
    """
    for old in folder.glob("best*.yaml"):
        if re.fullmatch(r"best(_\d+)?", old.stem) and old.stem not in chosen:
            old.unlink()
    if not chosen:
        return []
    primary = copied_primary(folder, loader, origin)
    flags = [f"--config-path={origin.main.removeprefix('file://')}"] if origin.main else []
    paths = []
    for name, overrides in chosen.items():
        path = folder / f"{name}.yaml"
        content, unsaid = composing(primary, origin.places, loader, overrides)
        words = ["python", "train.py", *flags, f"--config-dir={folder}", f"--config-name={name}", *unsaid]
        atomic.write(path, f"# Again: {shlex.join(words)}\n{OmegaConf.to_yaml(OmegaConf.create(content))}")
        paths.append(path)
    return paths


def copied_primary(folder: Path, loader: ConfigLoader, origin: Origin) -> str:
    """The name under which the primary configuration is found beside best.yaml: ours as it is, others as a copy.

    It may itself be called best, and only the configuration a command names may say where Hydra looks.
    """
    source = next(source for source in loader.get_sources() if source.is_config(origin.primary))
    content = cast(DictConfig, source.load_config(origin.primary).config)
    looks = OmegaConf.select(content, "hydra.searchpath") is not None
    if origin.primary == PRIMARY and not looks:
        return PRIMARY
    if looks:
        del content.hydra["searchpath"]
    text = f"# @package _global_\n{OmegaConf.to_yaml(content)}"
    name = f"primary_{sha256(text.encode()).hexdigest()[:8]}"  # no other sweep has one of that name
    atomic.write(folder / f"{name}.yaml", text)
    return name


def composing(
    primary: str, places: list[str], loader: ConfigLoader, overrides: list[str]
) -> tuple[dict[Any, Any], list[str]]:
    """The configuration that overrides make of a primary one, and the words no file can say."""
    added: list[Any] = []
    chosen: list[Any] = []
    values, unsaid = OmegaConf.create(), list[str]()
    for word in OverridesParser.create().parse_overrides(secrets.public_words(overrides)):
        if word.is_delete():
            unsaid.append(word.input_line or "")
        elif not loader.get_group_options(word.key_or_group) or isinstance(word.value(), dict):
            OmegaConf.update(values, word.key_or_group, word.value(), force_add=True)
        elif word.is_add():
            added.append({word.get_key_element().lstrip("+"): word.value()})
        else:
            chosen.append({f"override {word.get_key_element().lstrip('+')}": word.value()})
    plain = OmegaConf.to_container(values, resolve=False)  # ${seed} stays ${seed}
    content: dict[Any, Any] = {"defaults": [primary, *added, *chosen, "_self_"], **cast(dict, plain)}
    if places:
        content["hydra"] = {"searchpath": places}
    return content, unsaid


def compared(folder: Path, objectives: list[str]) -> Comparison:
    """All runs of the sweep, ranked by its one objective where that is a figure of reports."""
    by = objectives[0] if len(objectives) == 1 and objectives[0] in METRICS else None
    return compare(read_below([folder]), [], by)


def write_report(folder: Path, comparison: Comparison) -> Path:
    """Write report.html, which ends with the command that writes it again."""
    path = folder / "report.html"
    words = ["variata", "compare", str(folder), "--by", comparison.by.name, "--html", str(path)]
    atomic.write(path, page(comparison, shlex.join(words)))
    return path
