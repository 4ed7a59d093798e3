"""Figures as rows of a file in the run directory."""

import csv
import io
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from variata import atomic
from variata.errors import RunError


class CSV(Logger):
    """Appends to one CSV file, a row per call; when a new name appears the file is rewritten with one more column.

    A row that could not be written whole, because the process was killed or the disk was full, is none.

    Args:
        path: Of the file.
        until: When resuming: rows after this update, and those of the test, are of what is done again, and are dropped.
    """

    def __init__(self, path: Path, until: int | None = None) -> None:
        super().__init__()
        self.path, self.columns = path, ["step"]
        if until is not None and path.is_file():
            try:
                rows = [row for row in self.rows() if int(row["step"]) <= until]
                _ = [float(value) for row in rows for value in row.values() if value]  # all are numbers
                self._rewrite([row for row in rows if not tested(row)])
            except (ValueError, KeyError, TypeError, csv.Error) as error:
                raise RunError(f"{path} is damaged ({error}). Delete it to go on without what it recorded.") from error

    name, version = "csv", ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step or 0, **{name: f"{float(value):.8g}" for name, value in metrics.items()}}
        if not row.keys() <= set(self.columns) or not self.path.is_file():
            self._rewrite([*self.rows(), row])
        else:
            self._append(row)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration has a file of its own, config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        """Have all that was logged on the disk, even if the machine loses power."""
        if self.path.is_file():
            with atomic.naming(self.path), self.path.open("rb") as file:
                os.fsync(file.fileno())

    def rows(self) -> list[dict[str, str]]:
        """What was logged so far; an empty string where a row has no such value."""
        if not self.path.is_file():
            return []
        text = self.path.read_bytes().decode()
        return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))

    def _append(self, row: dict[str, Any]) -> None:
        size = self.path.stat().st_size
        try:
            with atomic.naming(self.path), self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        except OSError:
            os.truncate(self.path, size)  # readers of the file find no half row
            raise

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        names = dict.fromkeys(name for row in rows for name in row)
        self.columns = ["step", *(name for name in names if name != "step")]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        atomic.write(self.path, text.getvalue())


def tested(row: dict[str, str]) -> bool:
    """Whether a row is of the test."""
    return any(value for name, value in row.items() if name.startswith("test/"))
