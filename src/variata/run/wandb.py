"""Figures and pictures in W&B."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch.loggers import WandbLogger

from variata import atomic
from variata.errors import RunError
from variata.run import disk, secrets
from variata.run.job import Job
from variata.statuses import Status

log = logging.getLogger("variata")

Mode = Literal["online", "offline", "disabled"]

STEP = "trainer/global_step"  # in optimizer updates
IDENTITY = Path("wandb") / "identity.json"  # of the W&B run, in the run directory
PLACES = ("outputs", "resume", "debug", "data.root", "data.cache")  # overrides that do not tell runs apart
PLACE = ("project", "entity")  # of a W&B run, in its identity only where an agent chose it
TAG, NAME = 64, 128  # characters that W&B takes


def wandb(
    run_dir: Path,
    config: dict[str, Any],
    job: Job,
    project: str = "variata",
    entity: str | None = None,
    mode: Mode | None = None,
    tags: list[str] | None = None,
) -> WandbLogger:
    """A W&B run that a resumed run goes on in: the one its directory knows, else an agent's, else one of its name.

    Args:
        run_dir: Its `wandb/` receives the files.
        config: The resolved configuration; secrets in it stay here.
        job: Its group is shared by the jobs of a multirun; those of a W&B sweep share the sweep. What was asked for
            becomes tags, and the name of a job of many.
        mode: "online", "offline" or "disabled"; None is online where the user is logged in, else offline.
        tags: More of them.
    """
    config, overrides = secrets.public(config), secrets.public_words(job.overrides)
    identity = _identity(run_dir, job.group, _title(job.title, overrides))
    chosen = [*(tags or []), *filter(None, os.environ.get("WANDB_TAGS", "").split(",")), *_asked(overrides)]
    identity["tags"] = list(dict.fromkeys(shortened(tag, TAG) for tag in [*identity.get("tags", []), *chosen]))
    taken = identity.get("taken", [])
    config = {f"{name}_options" if name in taken else name: value for name, value in config.items()}
    place = {} if _agent() else {"project": project, "entity": entity}
    known = place | {name: value for name, value in identity.items() if name not in ("sweep", "taken")}
    mode = mode or cast(Mode | None, os.environ.get("WANDB_MODE"))
    run = _begun(mode, identity.get("sweep"), dir=run_dir, config=config, **known)
    _define(run)
    identity["taken"] = taken + _make_room(run, config)
    if mode != "disabled":
        _remember(run, run_dir, identity)
    return Wandb(experiment=run)


def _begun(mode: Mode | None, sweep: str | None, dir: Path, **known: Any) -> Any:
    """A W&B run, begun or gone on with; without a mode it is online where the user is logged in.

    Raises:
        RunError: It cannot be.
    """
    import wandb as client

    settings = client.Settings(console="off", silent=True, sweep_id=sweep)
    try:
        mode = mode or ("online" if client.login(prompt=False) else "offline")
        with _public_arguments():
            return client.init(mode=mode, job_type="train", resume="allow", dir=dir, settings=settings, **known)
    except client.Error as error:
        disk.require_room(dir)  # its process does not say why it ended
        raise RunError(
            f"W&B cannot start the run: {error} Use logger.mode=offline and `wandb sync` later, or logger=none."
        ) from error


@contextmanager
def reached() -> Iterator[None]:
    """W&B, if its process is still there: a signal that SLURM sends to all of a run's processes ends it at once.

    https://github.com/wandb/wandb/issues/9963
    """
    try:
        yield
    except ConnectionError:
        log.warning("W&B's process has ended before the run; what it does not have is in the run directory.")


class Wandb(WandbLogger):
    """Lightning's logger for W&B, which a run outlives."""

    @reached()
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)

    @reached()
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        super().log_image(key, images, step, **kwargs)


@reached()
def finish(run: Any, results: dict[str, Any]) -> None:
    """Close a W&B run: its results in the summary and, once tested, as a table of one row, which W&B stacks over runs.

    A run that was pruned did what it should; one that failed, diverged or was interrupted did not.
    """
    import wandb as client

    run.summary.update(results)
    if "test/elbo" in results:
        row = {"run": run.name, "tags": ", ".join(run.tags or ()), **results}
        row = {name: value for name, value in row.items() if isinstance(value, int | float | str)}
        run.log({"results": client.Table(list(row), [list(row.values())]), STEP: results["train/steps"]})
    run.finish(exit_code=Status(results["status"]).exit_code)


def shortened(text: str, length: int, head: int | None = None) -> str:
    """A text of at most `length` characters: an ellipsis after the first `head` of them, or in the middle."""
    head = (length - 1) // 2 if head is None else head
    return text if len(text) <= length else f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def _define(run: Any) -> None:
    """The axis of all plots is the update; of a bound the best value counts. Rate and distortion have no best one."""
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    run.define_metric("val/elbo", summary="max", step_metric=STEP)
    run.define_metric("test/nll", summary="min", step_metric=STEP)


def _make_room(run: Any, config: dict[str, Any]) -> list[str]:
    """Where a sweep varies a group, W&B has its word in the options' place: they move, model to model_options."""
    taken = [name for name, node in config.items() if isinstance(node, dict) and isinstance(run.config.get(name), str)]
    run.config.update({f"{name}_options": config[name] for name in taken})
    return taken


def _agent() -> str | None:
    """The sweep for which W&B's agent started this process. It says which run of which project this is."""
    return os.environ.get("WANDB_SWEEP_ID")


def _identity(run_dir: Path, group: str | None, title: str) -> dict[str, Any]:
    """Arguments of `wandb.init` that say which run this is, from an agent, from an earlier start, or new.

    Where the run is of a sweep, its file says to whom figures are sent; that is told.
    """
    label, path = "-".join(run_dir.parts[-2:]), run_dir / IDENTITY
    if sweep := _agent():  # id, project and entity are the agent's, and W&B ignores others
        return {"name": title, "group": os.environ.get("WANDB_RUN_GROUP", sweep)}
    if path.is_file():
        identity = remembered(path)
        if "sweep" in identity:
            place = "/".join(identity[name] or "" for name in PLACE[::-1])
            log.warning("The run goes on in W&B's sweep %s of %s, as %s says.", identity["sweep"], place, path)
        return identity
    return {"id": label[-64:], "name": title if group else label, "group": group}


def remembered(path: Path) -> dict[str, Any]:
    """What `_remember` wrote, and nothing else: what `wandb.init` is told besides is for whoever resumes to say.

    Raises:
        RunError: The file holds something else.
    """
    try:
        identity = json.loads(path.read_text())
        _require_identity(identity)
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}). Delete it to go on in another W&B run.") from error
    return identity


def _require_identity(identity: Any) -> None:
    """Refuse what `_remember` does not write, with a TypeError that says what it is."""
    if not isinstance(identity, dict):
        raise TypeError("it is no object")
    place = {"sweep": str, **dict.fromkeys(PLACE, str | None)}
    kinds = {"id": str, "name": str, "group": str | None, "tags": list, "taken": list, **place}
    if unknown := identity.keys() - kinds.keys():
        raise TypeError(f"{min(unknown)[:40]!r} does not belong there")
    if missing := {"id", *(place if identity.keys() & place.keys() else ())} - identity.keys():
        raise TypeError(f"it has no {min(missing)}")
    for key, value in identity.items():
        texts = not isinstance(value, list) or all(isinstance(item, str) for item in value)
        if not isinstance(value, kinds[key]) or not texts:
            raise TypeError(f"{key} has the wrong type")


def _remember(run: Any, run_dir: Path, identity: dict[str, Any]) -> None:
    """Write down which run this is, so that `resume=` finds it again without the agent."""
    place = {"project": run.project, "entity": run.entity, "sweep": run.sweep_id} if _agent() else {}
    atomic.write(run_dir / IDENTITY, json.dumps({"id": run.id, **identity, **place}, indent=2) + "\n")


def _asked(overrides: Sequence[str]) -> list[str]:
    """The overrides that say what a run is, not where it runs or is kept."""
    keys = {word: word.lstrip("+~").partition("=")[0] for word in overrides}
    return [word for word, key in keys.items() if key not in PLACES and key.split(".")[0] != "logger"]


def _title(names: str, overrides: Sequence[str]) -> str:
    """Data, model and what else was asked for; what varies comes last, and is kept where not all has room."""
    others = [word for word in _asked(overrides) if not word.startswith(("data=", "model="))]
    return shortened(" ".join([names, *others]), NAME, head=len(names) + 1)


@contextmanager
def _public_arguments() -> Iterator[None]:
    """W&B records the command line; meanwhile its secrets are not there."""
    words = sys.argv
    sys.argv = secrets.public_words(words)
    try:
        yield
    finally:
        sys.argv = words
