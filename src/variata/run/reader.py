"""Run directories as records: found below folders, read, or named with the reason why not."""

import csv
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from variata.config.plain import Flat, flat
from variata.errors import ConfigError, RunError
from variata.formatting import natural, number, printable
from variata.run.directory import LARGEST, MINUTES, ForeignError, figure, read_config, read_results, read_text
from variata.statuses import Status

CURVE = ("step", "val/elbo", "val/rate", "val/distortion")  # columns of metrics.csv
QUIET = 600  # seconds without a sign of life after which a run counts as killed
SIGNS = ("config.yaml", "metrics.csv", "train.log", "checkpoints/last.ckpt")
SKIPPED = {"wandb", "checkpoints", "images"}


@dataclass(frozen=True)
class Run:
    """A run directory that could be read.

    Args:
        path: As it was found.
        config: By dotted key.
        overrides: What was asked for on the command line.
        results: results.json; `val/*` at the best validation and `train/minutes` are added.
        curve: Columns of CURVE, a row per validation; empty where nobody asked for it.
        status: How it ended, or whether it still lives.
        began: In seconds since 1970, by the directory's name, else by config.yaml.
    """

    path: Path
    config: Flat
    overrides: tuple[str, ...]
    results: dict[str, Any]
    curve: list[tuple[float, ...]]
    status: Status
    began: float

    @property
    def finished(self) -> bool:
        return self.status == Status.FINISHED

    def figure(self, name: str) -> float | None:
        """A number of results.json, or None."""
        return figure(self.results, name)


@dataclass(frozen=True)
class LeftOut:
    """A directory that looks like a run and cannot be read."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """What lies below some folders."""

    runs: list[Run] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def read_below(roots: Sequence[Path], curves: bool = True) -> Found:
    """All runs below folders, each once.

    Args:
        roots: The folders.
        curves: Whether to read the curves of runs whose results have the best of it, nearly all there is to read.

    Raises:
        ConfigError: A path is no folder, or there is nothing below any of them.
    """
    for root in roots:
        if not root.is_dir():
            raise ConfigError(
                f"{root} is no folder. Give run directories, sweeps, or a folder above them like outputs."
            )
    found, seen = Found(), set[Path]()
    for root in roots:
        for folder, inside in _folders(root, seen, found.left_out):
            _add(folder, inside, found, curves)
    if not found.runs and not found.left_out:
        places = ", ".join(map(str, roots))
        raise ConfigError(
            f"There is no run below {places}: no folder with a config.yaml. Runs are written to outputs=..., "
            "by default outputs/<data>-<model>/<run>."
        )
    return found


def _folders(root: Path, seen: set[Path], left_out: list[LeftOut]) -> Iterator[tuple[Path, list[str]]]:
    """Folders with a config.yaml not seen before, and those inside: a list to be emptied where nobody should descend.

    Links are followed; a folder reached twice is passed over.
    """

    def refused(error: OSError) -> None:
        left_out.append(LeftOut(Path(error.filename), f"cannot be opened: {error.strerror}"))

    for folder, inside, files in os.walk(root, onerror=refused, followlinks=True):
        if (place := Path(folder).resolve()) in seen:
            inside.clear()
            continue
        seen.add(place)
        inside[:] = sorted((name for name in inside if name[0] != "." and name not in SKIPPED), key=natural)
        if "config.yaml" in files:
            yield Path(folder), inside


def _add(folder: Path, inside: list[str], found: Found, curves: bool) -> None:
    """A run, below which there is no other, or why it is none."""
    try:
        found.runs.append(read(folder, curves))
        inside.clear()
    except RunError as error:
        found.left_out.append(LeftOut(folder, str(error).removeprefix(f"{folder}/")))
        if not isinstance(error, ForeignError):
            inside.clear()


def read(folder: Path, curves: bool = True) -> Run:
    """One run, its curve where that is asked for or tells what results.json does not.

    Raises:
        ForeignError: It belongs to another program.
        RunError: One of its files is damaged; the message names file and reason.
    """
    config, results = flat(read_config(folder)), read_results(folder)
    curve = read_curve(folder / "metrics.csv") if curves or "val/elbo" not in results else []
    config = with_batch(config, results)
    overrides = tuple(map(printable, (read_text(folder / "overrides.txt") or "").splitlines()))
    ended, figures = status(folder, results, config), completed(results, curve)
    return Run(folder, config, overrides, figures, curve, ended, began(folder))


def with_batch(config: Flat, results: dict[str, Any]) -> Flat:
    """The configuration with the images of an update, over all devices, as `data.batch_size`.

    Given per device, they grow with the devices. How many `auto` or -1 were only the run knows: where it does not say,
    what was asked for is the value.
    """
    per_device, devices = config.get("data.batch_size_per_device"), config.get("trainer.devices")
    if per_device is None:
        return config
    batch = results.get("train/batch_size")
    if batch is None:
        count, nodes = len(devices) if isinstance(devices, list) else devices, config.get("trainer.num_nodes", 1)
        factors = [number(value) or -1 for value in (per_device, count, nodes)]
        batch = math.prod(factors) if min(factors) > 0 else f"{per_device} on each of {devices}"
    return {**config, "data.batch_size": batch}


def read_curve(path: Path) -> list[tuple[float, ...]]:
    """The validations in metrics.csv. A last line without an end is one being written."""
    lines = (read_text(path) or "").splitlines(keepends=True)
    rows = csv.reader(line for line in lines if line.endswith("\n"))
    try:
        header = next(rows, ["step"])
        if header[:1] != ["step"]:
            raise RunError(f"{path} does not begin with a column named step.")
        return _validations(rows, header)
    except (csv.Error, ValueError) as error:
        raise RunError(f"{path} is damaged at line {rows.line_num}: {printable(str(error))}.") from error


def _validations(rows: Iterator[list[str]], header: list[str]) -> list[tuple[float, ...]]:
    places = [header.index(name) for name in CURVE if name in header]
    if len(places) < len(CURVE):
        return []
    curve = []
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} values for {len(header)} columns")
        if row[places[1]]:
            curve.append(_point([row[place] for place in places]))
    return [point for point in curve if bounded(point[1])]


def _point(words: list[str]) -> tuple[float, ...]:
    """A validation; rate or distortion may be missing, the update it was made at may not."""
    point = tuple(float(word or "nan") for word in words)
    if not bounded(point[0]):
        raise ValueError(f"step={words[0]!r} is no number of updates")
    return point


def completed(results: dict[str, Any], curve: list[tuple[float, ...]]) -> dict[str, Any]:
    """Results with what follows from others: figures at the best validation, minutes; NaN is None."""
    minutes = figure(results, MINUTES)
    every = {**best(curve), **({} if minutes is None else {MINUTES: minutes}), **results}
    return {k: None if isinstance(v, float) and not bounded(v) else v for k, v in every.items()}


def best(curve: Sequence[tuple[float, ...]]) -> dict[str, float]:
    """val/elbo where it was highest, and rate and distortion there; nothing without a validation."""
    point = max(curve, key=lambda point: point[1], default=())
    return dict(zip(CURVE[1:], point[1:], strict=False))


def bounded(value: float) -> bool:
    """Whether a number is one that figures can be computed with."""
    return abs(value) <= LARGEST


def status(folder: Path, results: dict[str, Any], config: Flat) -> Status:
    """How the run ended, or whether it still lives.

    A run that trains writes checkpoints/last.ckpt every `checkpoint_every` seconds, and metrics.csv between. One that
    was resumed has written config.yaml after results.json.
    """
    written = {name: stamp for name in (*SIGNS, "results.json") if (stamp := modified(folder / name)) is not None}
    patience = max(QUIET, 5 * (number(config.get("checkpoint_every")) or 0))
    lives = time.time() - max((written[name] for name in SIGNS if name in written), default=0) < patience
    resumed = written.get("config.yaml", 0) > written.get("results.json", 0) + 2
    if not results or (results["status"] != Status.FINISHED and resumed and lives):
        return Status.RUNNING if lives else Status.KILLED
    return Status(results["status"])


def modified(path: Path) -> float | None:
    """When a file was written last, in seconds; None where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def began(folder: Path) -> float:
    """When a run began."""
    try:
        return datetime.strptime(folder.resolve().name[:19], "%Y-%m-%d_%H-%M-%S").timestamp()
    except ValueError:
        return modified(folder / "config.yaml") or 0
