"""The run directory: config.yaml, overrides.txt, checkpoints/, metrics.csv, results.json, images/, wandb/.

Nothing here imports torch: what only looks at runs answers at once.
"""

import json
import math
import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from variata import __version__, atomic
from variata.config.plain import Config, unresolved
from variata.config.renamed import renamed
from variata.errors import RunError
from variata.formatting import printable
from variata.metrics import METRICS, OTHERS, declared
from variata.run.secrets import public, public_words
from variata.statuses import RECORDED, Status

BUSY = 75  # exit code of a process that found another at its job
CACHE = "~/.cache/variata"  # of packed images, where VARIATA_CACHE names none
LARGEST = 1e100  # of a figure: no float32 holds more, and the squares of far more overflow
MINUTES = "train/minutes"
DEEPEST = 50  # levels of a configuration

FILES = (
    *("config.yaml", "overrides.txt", "metrics.csv", "results.json", "train.log"),
    *("checkpoints/last.ckpt", "checkpoints/best.ckpt", "wandb/identity.json"),
)
FOLDERS = ("checkpoints", "images", "wandb")
WRITTEN = (*FOLDERS, *FILES, ".lock", ".lock.0", ".stop", "output.log", "attributes.json")
SWEEP = (".jobs", ".submitit", "best.yaml", "report.html", "study.journal", "sweep.json")  # beside the runs of a sweep


def require_whole(run: Path) -> None:
    """Refuse a directory in which something else is in the place of one of a run's files or folders.

    A pipe would be waited for without end, a device read without end; a link that leads nowhere hides what was there.

    Raises:
        RunError: Names the first.
    """
    for name in (*FOLDERS, *FILES):
        path, kind = run / name, "folder" if name in FOLDERS else "file"
        if (path.is_symlink() or path.exists()) and not (path.is_dir() if name in FOLDERS else path.is_file()):
            what = "a link that leads nowhere" if path.is_symlink() and not path.exists() else f"no {kind}"
            raise RunError(f"{path} is {what}. Put the run's {kind} back, or remove it to go on without.")


def require_own(folder: Path, names: Iterable[str] = (*WRITTEN, *SWEEP)) -> None:
    """Refuse a directory whose files or folders are links that lead out of it, before anything is written there.

    Whoever made it would choose what is changed or deleted. The directory itself may be a link, or lie below one. Of a
    sweep, the directories of its jobs are looked at too.

    Args:
        folder: A run directory, or that of a sweep.
        names: Of what is written in it.

    Raises:
        RunError: Names the first.
    """
    jobs = [path.name for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    _require_within(folder, (*names, *jobs))
    for job in jobs:
        _require_within(folder / job, names)


def _require_within(folder: Path, names: Iterable[str]) -> None:
    home = Path(os.path.realpath(folder))
    for path in (folder / name for name in names):
        if not (target := Path(os.path.realpath(path))).is_relative_to(home):
            raise RunError(
                f"{path} leads out of the directory, to {target}, and would be written there. Put what it leads to in "
                "its place, or remove the link; the directory as a whole may lie elsewhere."
            )


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader), get_yaml_loader()):  # type: ignore[misc]
    """OmegaConf's YAML, read in C: ten times as fast."""


class ForeignError(RunError):
    """The configuration of another program."""


def read_text(path: Path) -> str | None:
    """A text file; None where there is none.

    Raises:
        RunError: It is something else; the message names file and reason.
    """
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is no file.")  # a pipe would be waited for
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is no text (byte {error.start}).") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from error


def read_config(run: Path) -> Config:
    """The configuration of a run: its own values only, whoever wrote it; it reads no environment and has no aliases.

    Raises:
        ForeignError: It belongs to another program.
        RunError: There is none, or a damaged one.
    """
    path = run / "config.yaml"
    if (words := read_text(path)) is None:
        raise RunError(f"{run} is no run directory: it has no config.yaml. Give one like outputs/<data>-<model>/<run>.")
    try:
        if "&" in words and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(words, Loader)):
            raise ForeignError(f"{path} has aliases, which no run writes.")  # they can grow without bound
        config = yaml.load(words, Loader)  # of safe values
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {printable(str(error))[:200]}.") from error
    _require_own_values(path, config)
    return renamed(config)


def _require_own_values(path: Path, config: Any) -> None:
    """Refuse what no run writes."""
    if _deeper(config, DEEPEST):
        raise RunError(f"{path} cannot be read: it is nested more than {DEEPEST} levels deep.")
    parts = [config.get(part) for part in ("data", "model")] if isinstance(config, dict) else [None]
    if not all(isinstance(part, dict) and "_target_" in part for part in parts):
        raise ForeignError(f"{path} is not the configuration of a run: data and model have no _target_.")
    if (found := unresolved(config)) is not None:
        raise RunError(
            f"{path} holds {found[:80]}, which would be something else once resolved. What a run writes is resolved: "
            "write the value in its place, if you trust the file."
        )


def _deeper(node: Any, levels: int) -> bool:
    """Whether a node has more levels below it."""
    below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return levels < 0 or any(_deeper(item, levels - 1) for item in below)


def read_results(run: Path) -> dict[str, Any]:
    """results.json; empty where the run has not written it.

    Raises:
        RunError: It does not say how the run ended, or a figure is none.
    """
    path = run / "results.json"
    if (words := read_text(path)) is None:
        return {}
    try:
        results = json.loads(words)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is cut short or no JSON: {error}.") from error
    if not isinstance(results, dict) or results.get("status") not in RECORDED:
        raise RunError(f"{path} does not say how the run ended: it has no status of ours.")
    figures = {*METRICS, *OTHERS, *declared(results)}
    for name, value in results.items():
        counts = name.startswith(("val/", "test/", "train/")) or name in figures
        if counts and value is not None and not _figure(value):
            raise RunError(f"{path} has {name}={str(value)[:40]!r}, which is no figure: a number up to {LARGEST:g}.")
    return {**results, "status": Status(results["status"])}


def _figure(value: Any) -> bool:
    """Whether a value is a number, among them NaN and infinity, but none that overflows when it is averaged."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not LARGEST < abs(value) < math.inf


def at_home(node: Any, root: str | None = None, cache: str | None = None) -> Any:
    """The data of somebody's run, as it is read here: nothing is written where the run's configuration says.

    Its files are read from `data.root`, but downloaded only to a root named here, and packed into the cache of whoever
    reads, not into that of the run.
    """
    if not isinstance(node, dict):
        return node
    places: dict[str, Any] = {"cache": cache or os.environ.get("VARIATA_CACHE", CACHE)}
    places |= {"download": False} if root is None else {"root": root}
    return {name: places.get(name, value) for name, value in node.items()}


def require_last(run: Path) -> None:
    """Refuse to go on with a run that has no last.ckpt, rather than begin it again where another state is expected.

    Raises:
        RunError: With what can be done.
    """
    last, best, overrides = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt", run / "overrides.txt"
    if last.is_file():
        return
    lines = overrides.read_text().splitlines() if overrides.is_file() else []
    command = shlex.join(["python", "train.py", *takewhile(lambda line: not line.startswith("resume="), lines)])
    why = "was removed" if best.is_file() else "was removed, or the run ended before it began to train"
    go_on = f"`cp {best} {last}` goes on from the best validation; " if best.is_file() else ""
    raise RunError(f"{run} has no checkpoints/last.ckpt to go on from: it {why}. {go_on}`{command}` starts anew.")


def write_config(run: Path, config: Config, overrides: list[str]) -> None:
    """config.yaml, and the overrides of this command at the end of overrides.txt; secrets stand in neither."""
    atomic.write(run / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(public(config))))
    path = run / "overrides.txt"
    earlier = path.read_text(errors="replace") if path.is_file() else ""  # a resumed run adds its own
    atomic.write(path, earlier + "".join(f"{line}\n" for line in public_words(overrides)))


def write_results(run: Path, results: dict[str, Any], name: str = "results.json") -> None:
    """Figures, how they were obtained and, in results.json, how the run ended; null where one is not finite."""
    results = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in results.items()}
    atomic.write(run / name, json.dumps(results, indent=2) + "\n")


def mark_failed(run: Path, config: Config, overrides: list[str], error: str, status: Status = Status.FAILED) -> None:
    """Say in results.json how the run ended and why, in place of a process that can not; if there is room for it."""
    with suppress(OSError):  # why it failed is told all the same
        if not (run / "config.yaml").is_file():
            write_config(run, config, overrides)
        known = outcome(run).results or provenance(config, None)
        write_results(run, {**known, "status": status, "error": error})


def provenance(config: Config, protocol: str | None) -> dict[str, Any]:
    """What a result needs beside its figures: data protocol, seed, version, commit."""
    return {"data/protocol": protocol, "seed": config["seed"], "version": __version__, "git_sha": git_sha()}


def git_sha() -> str | None:
    """The commit the code is at, with `-dirty` where it was changed since; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        status: As results.json says, or "not begun".
        results: What it holds.
    """

    status: Status = Status.NOT_BEGUN
    results: dict[str, Any] = field(default_factory=dict)

    def figure(self, name: str) -> float | None:
        """A number of results.json, or None."""
        return figure(self.results, name)

    def values(self, names: Sequence[str]) -> list[float]:
        """Some figures; none of them if one is missing."""
        values = [value for name in names if (value := self.figure(name)) is not None]
        return values if len(values) == len(names) else []

    @property
    def well(self) -> bool:
        """Whether there is nothing left to do."""
        return self.status.well


def figure(results: dict[str, Any], name: str) -> float | None:
    """A number of results.json, or minutes for its seconds; None where there is none, or one that is not finite."""
    if name == MINUTES and name not in results:
        seconds = figure(results, "train/seconds")
        return None if seconds is None else seconds / 60
    value = results.get(name)
    return float(value) if value is not None and _figure(value) and math.isfinite(value) else None


def outcome(folder: Path) -> Outcome:
    """How the job of a run directory ended, by its results.json; a damaged one says nothing."""
    try:
        results = read_results(folder)
    except RunError:
        return Outcome()
    return Outcome(results["status"], results) if results else Outcome()


def mark_refused(folder: Path, why: str) -> None:
    """Say in results.json that a job failed because its configuration cannot be composed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, {"status": Status.FAILED, "error": why})
