"""What a run starts from."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A run as plain data, so that the processes of all devices start from the same, without composing it again.

    Args:
        config: Resolved and checked.
        folder: The run directory.
        overrides: What the command line asked for.
        group: Of the jobs of a multirun, in W&B.
        logging: Configuration of Python's logging.
    """

    config: Config
    folder: Path
    overrides: list[str]
    group: str | None
    logging: dict[str, Any]

    @property
    def last(self) -> Path | None:
        """The run directory, if there is a checkpoint in it to go on from."""
        return self.folder if (self.folder / "checkpoints" / "last.ckpt").is_file() else None

    def dumps(self) -> str:
        """The job as JSON."""
        return json.dumps({**asdict(self), "folder": str(self.folder)})

    @classmethod
    def loads(cls, text: str) -> "Job":
        """The job that `dumps` wrote."""
        values = json.loads(text)
        return cls(**{**values, "folder": Path(values["folder"])})
