"""Where figures and pictures go: a CSV file in the run directory, and W&B."""

import csv
import os
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from variata.errors import RunError

Mode = Literal["online", "offline", "disabled"]


class CSV(Logger):
    """Appends to one CSV file, a row per call; when a new name appears the file is rewritten with one more column.

    Args:
        path: Of the file.
        until: When resuming: rows after this update belong to training that is done again, and are dropped.
    """

    def __init__(self, path: Path, until: int | None = None) -> None:
        super().__init__()
        self.path, self.columns = path, ["step"]
        if until is not None and path.is_file():
            try:
                self._rewrite([row for row in self.rows() if int(row["step"]) <= until])
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{path} is damaged ({error}). Delete it to go on without what it recorded.") from error

    name, version = "csv", ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step or 0, **{name: f"{float(value):.8g}" for name, value in metrics.items()}}
        if not row.keys() <= set(self.columns) or not self.path.is_file():
            self._rewrite([*self.rows(), row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration has a file of its own, config.yaml."""

    def rows(self) -> list[dict[str, str]]:
        """What was logged so far; an empty string where a row has no such value."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        names = dict.fromkeys(name for row in rows for name in row)
        self.columns = ["step", *(name for name in names if name != "step")]
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.path)


def wandb(
    run_dir: Path,
    config: dict[str, Any],
    group: str | None,
    project: str = "variata",
    entity: str | None = None,
    mode: Mode | None = None,
    tags: list[str] | None = None,
) -> WandbLogger:
    """A W&B run whose identity is the run directory's name, so that a resumed run goes on in the same one.

    Args:
        run_dir: Its `wandb/` receives the files.
        config: The resolved configuration.
        group: Shared by the jobs of a multirun.
        mode: "online", "offline" or "disabled"; None is online where the user is logged in, else offline.
    """
    import wandb as client

    mode = (
        mode
        or cast(Mode | None, os.environ.get("WANDB_MODE"))
        or ("online" if client.login(prompt=False) else "offline")
    )
    name = "-".join(run_dir.parts[-2:])
    try:
        run = client.init(
            project=project,
            entity=entity,
            mode=mode,
            tags=tags,
            group=group,
            job_type="train",
            name=name,
            id=name[-64:],
            resume="allow",
            dir=run_dir,
            config=config,
            settings=client.Settings(console="off", silent=True),
        )
    except client.Error as error:
        raise RunError(
            f"W&B cannot start the run: {error} Use logger.mode=offline and `wandb sync` later, or logger=none."
        ) from error
    run.define_metric("val/elbo", summary="max")
    return WandbLogger(experiment=run)
