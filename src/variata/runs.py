"""The run directory: config.yaml, overrides.txt, checkpoints/, metrics.csv, results.json, images/, wandb/.

Nothing here imports torch: what only looks at runs answers at once.
"""

import json
import math
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from variata import __version__, durable
from variata.errors import ConfigError, RunError

Config = dict[str, Any]

LOW_ESS = 10  # median effective sample size of an NLL, below which it is marked: few samples have all the weight

SECRET = re.compile(  # the end of a key and what follows it
    r"(?<![a-z])((auth|access|api)?token|secrets?|passw(or)?ds?|passphrase|credentials?|(api|access|auth|private|secret)_?keys?)"
    r"['\"]?\s*[=:]",
    re.IGNORECASE,
)

SHORTEST = 6  # characters of a secret


FILES = (
    *("config.yaml", "overrides.txt", "metrics.csv", "results.json", "train.log"),
    *("checkpoints/last.ckpt", "checkpoints/best.ckpt", "wandb/identity.json"),
)
FOLDERS = ("checkpoints", "images", "wandb")
WRITTEN = (*FOLDERS, *FILES, ".lock", ".lock.0", ".stop", "output.log", "quality.json", "attributes.json")


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
    return config


def unresolved(value: Any) -> str | None:
    """The first text at any depth that resolving a configuration would turn into something else, ${...} or ???."""
    if isinstance(value, dict | list):
        items = [*value, *value.values()] if isinstance(value, dict) else value
        return next((text for item in items if (text := unresolved(item)) is not None), None)
    return value if isinstance(value, str) and ("${" in value or value == "???") else None


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


def plain(config: DictConfig) -> Config:
    """A configuration as plain dictionaries, interpolations resolved.

    Raises:
        ConfigError: A value that only the user knows was not given.
    """
    try:
        return cast(Config, OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no default: give it a value, {error.full_key}=...") from error


def write_config(run: Path, config: Config, overrides: list[str]) -> None:
    """config.yaml, and the overrides of this command at the end of overrides.txt; secrets stand in neither."""
    write(run / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(public(config))))
    path = run / "overrides.txt"
    earlier = path.read_text(errors="replace") if path.is_file() else ""  # a resumed run adds its own
    write(path, earlier + "".join(f"{line}\n" for line in public_words(overrides)))


def secret(key: str) -> bool:
    """Whether a key is by its name one of a secret: token, hf_token, apiKey, password, ..."""
    return holds_secret(f"{key}=")


def holds_secret(word: str) -> bool:
    """Whether a word of a command line gives a secret's key a value."""
    return bool(SECRET.search(re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", word)))


def public(config: Config) -> Config:
    """A configuration without its secrets, null in their place: whatever is stored or sent passes through here.

    A secret is what stands below a key of that name, in the configuration or in the environment, and every text that
    holds it, however it came there.
    """
    return _public(config, [*_environment(), *_texts(config)])


def public_words(words: Iterable[str]) -> list[str]:
    """Words of a command line, without the values of those that hold a secret."""
    words = list(words)
    known = [*_environment(), *(word.partition("=")[2].strip("'\"") for word in words if holds_secret(word))]
    return [f"{word.partition('=')[0]}=null" if holds_secret(word) or _tells(word, known) else word for word in words]


def _environment() -> list[str]:
    """What the environment holds under the names of secrets."""
    return [value for name, value in os.environ.items() if secret(name)]


def _texts(value: Any, below: bool = False) -> Iterator[str]:
    """Every value below a secret's key, as text."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, below or secret(str(name)))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, below)
    elif below and value is not None:
        yield str(value)


def _public(value: Any, known: list[str]) -> Any:
    if isinstance(value, dict):
        return {name: None if secret(str(name)) else _public(item, known) for name, item in value.items()}
    if isinstance(value, list):
        return [_public(item, known) for item in value]
    return None if _tells(str(value), known) else value


def _tells(text: str, known: list[str]) -> bool:
    """Whether a text holds one of the known secrets; shorter ones are words like any other."""
    return any(len(one) >= SHORTEST and one in text for one in known)


def write_results(run: Path, results: dict[str, Any], name: str = "results.json") -> None:
    """Figures, how they were obtained and, in results.json, how the run ended; null where one is not finite."""
    results = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in results.items()}
    write(run / name, json.dumps(results, indent=2) + "\n")


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


def write(path: Path, text: str, secret: bool = False) -> None:
    """A whole file or none, see `durable.replacing`. A secret one is for its owner's eyes alone."""
    with durable.replacing(path, secret) as file:
        file.write(text.encode())


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


def test_results(metrics: dict[str, float], samples: int, pixels: int, kind: str) -> dict[str, Any]:
    """Figures of the test set by their fixed names.

    bits/dim = NLL / (pixels ln 2); for 8-bit data, whose values are scaled to [0, 1), 8 bits more.
    """
    bound, nll = ("elbo", "elbo_stderr", "rate", "distortion", "active_units"), ("nll_stderr", "nll_ess", "nll_ess_5")
    names = (*bound, "nll", *nll, "images")
    results: dict[str, Any] = {f"test/{name}": round(metrics[f"test/{name}"], 6) for name in names}
    results |= {name: int(results[name]) for name in ("test/active_units", "test/images")}
    bits = results["test/nll"] / (pixels * math.log(2)) + (8 if kind == "8-bit" else 0)
    return {**results, "test/nll_samples": samples, "test/bits_per_dim": round(bits, 6)}
