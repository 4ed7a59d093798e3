"""How runs and the jobs of sweeps stand: a status is added with one line here."""

from enum import StrEnum


class Status(StrEnum):
    """A status, by its name in results.json and in tables.

    Args:
        colour: In a terminal.
        exit_code: By which W&B knows it, 0 where there is nothing left to do; None where no run writes it down.
    """

    FINISHED = "finished", "green", 0
    PRUNED = "pruned", "yellow", 0
    FAILED = "failed", "red", 1
    INTERRUPTED = "interrupted", "yellow", 1
    RUNNING = "running", "cyan", None
    KILLED = "killed", "red", None
    NOT_BEGUN = "not begun", "yellow", None

    colour: str
    exit_code: int | None

    def __new__(cls, name: str, colour: str = "", exit_code: int | None = None) -> "Status":
        status = str.__new__(cls, name)
        status._value_, status.colour, status.exit_code = name, colour, exit_code
        return status

    @property
    def well(self) -> bool:
        """Whether there is nothing left to do."""
        return self.exit_code == 0

    @property
    def final(self) -> bool:
        """Whether there is nothing to go on with: what failed is tried again from its beginning, or counts as tried."""
        return self.well or self is Status.FAILED


RECORDED = [status for status in Status if status.exit_code is not None]  # in results.json
