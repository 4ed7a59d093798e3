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
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from variata import __version__, atomic
from variata.config.plain import Config, unresolved
from variata.config.renamed import renamed
from variata.errors import RunError
from variata.run.secrets import public, public_words

STATUSES = ("finished", "pruned", "failed", "interrupted")
BUSY = 75  # exit code of a process that found another at its job
CACHE = "~/.cache/variata"  # of packed images, where VARIATA_CACHE names none

FILES = (
    *("config.yaml", "overrides.txt", "metrics.csv", "results.json", "train.log"),
    *("checkpoints/last.ckpt", "checkpoints/best.ckpt", "wandb/identity.json"),
)
FOLDERS = ("checkpoints", "images", "wandb")
WRITTEN = (*FOLDERS, *FILES, ".lock", ".lock.0", ".stop", "output.log", "attributes.json")


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


def require_own(folder: Path, names: Iterable[str] = WRITTEN) -> None:
    """Refuse a directory whose files or folders are links that lead out of it, before anything is written there.

    Whoever made it would choose what is changed or deleted. The directory itself may be a link, or lie below one.

    Args:
        folder: A run directory, or that of a sweep.
        names: Of what is written in it.

    Raises:
        RunError: Names the first.
    """
    home = Path(os.path.realpath(folder))
    for path in (folder / name for name in names):
        if not (target := Path(os.path.realpath(path))).is_relative_to(home):
            raise RunError(
                f"{path} leads out of the directory, to {target}, and would be written there. Put what it leads to in "
                "its place, or remove the link; the directory as a whole may lie elsewhere."
            )


def read_config(run: Path) -> Config:
    """The configuration of a run: its own values only, whoever wrote it; it reads no environment and has no aliases.

    Raises:
        RunError: There is none, or something else is in the place of one of its files.
    """
    require_whole(run)
    path = run / "config.yaml"
    if not path.is_file():
        raise RunError(f"{run} is no run directory: it has no config.yaml. Give one like outputs/<data>-<model>/<run>.")
    try:
        text = path.read_text(encoding="utf-8")
        if "&" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise RunError(f"{path} has aliases, which no run writes.")  # they can grow without bound
        config = cast(Config, OmegaConf.to_container(OmegaConf.load(path)))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}.") from error
    parts = [config.get(part) for part in ("data", "model")] if isinstance(config, dict) else [None]
    if not all(isinstance(part, dict) and "_target_" in part for part in parts):
        raise RunError(f"{path} is not the configuration of a run.")
    if (found := unresolved(config)) is not None:
        raise RunError(
            f"{path} holds {found[:80]}, which would be something else once resolved. What a run writes is resolved: "
            "write the value in its place, if you trust the file."
        )
    return renamed(config)


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


def mark_failed(run: Path, config: Config, overrides: list[str], error: str, status: str = "failed") -> None:
    """Say in results.json how the run ended and why, in place of a process that can not; if there is room for it."""
    path = run / "results.json"
    with suppress(OSError):  # why it failed is told all the same
        if not (run / "config.yaml").is_file():
            write_config(run, config, overrides)
        known = earlier_results(path) or provenance(config, None)
        write_results(run, {**known, "status": status, "error": error})


def earlier_results(path: Path) -> dict[str, Any]:
    """What results.json held; nothing where it is missing or damaged."""
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return results if isinstance(results, dict) else {}


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


def best_validation(rows: list[dict[str, str]]) -> dict[str, float]:
    """val/elbo where it was highest, and rate and distortion there; nothing without a validation.

    Args:
        rows: Of metrics.csv.
    """
    validations = [row for row in rows if row.get("val/elbo") and math.isfinite(float(row["val/elbo"]))]
    if not validations:
        return {}
    best = max(validations, key=lambda row: float(row["val/elbo"]))
    return {name: float(best[name]) for name in ("val/elbo", "val/rate", "val/distortion")}


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        status: "finished", "pruned", "failed", "interrupted", or "not begun".
        results: What results.json holds.
    """

    status: str
    results: dict[str, Any] = field(default_factory=dict)

    def values(self, names: Sequence[str]) -> list[float]:
        """Some figures; none of them if one is missing or not finite."""
        values = [self.results.get(name) for name in names]
        known = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
        return known if len(known) == len(values) else []

    @property
    def well(self) -> bool:
        """Whether there is nothing left to do."""
        return self.status in ("finished", "pruned")


def outcome(folder: Path) -> Outcome:
    """How the job of a run directory ended, by its results.json."""
    results = earlier_results(folder / "results.json")
    return Outcome(results["status"], results) if results.get("status") in STATUSES else Outcome("not begun")


def mark_refused(folder: Path, why: str) -> None:
    """Say in results.json that a job failed because its configuration cannot be composed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, {"status": "failed", "error": why})
