"""One command at a time is at a run. What a process holds is free when it ends, however that happens."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from variata.errors import Busy
from variata.run import directory

COMMAND = ".lock"  # held by the process that leads
WRITER = ".lock.0"  # by that of the first of several devices, which may outlive the command for a moment
PREDECESSOR = 60.0  # seconds it may take to end, when it was killed and its run is gone on with at once


@contextmanager
def alone(
    folder: Path, patience: float = 0.0, name: str = COMMAND, written: Iterable[str] = directory.WRITTEN
) -> Iterator[None]:
    """Nobody else is at this run, or sweep, meanwhile. The file of the lock stays, empty.

    Args:
        folder: Its directory; made where there is none.
        patience: Seconds to wait for another process to end.
        name: Of the lock.
        written: What the command writes there.

    Raises:
        Busy: One is there.
        RunError: What would be written leads out of the folder, see `directory.require_own`.
    """
    directory.require_own(folder, written)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise Busy(
            f"Another command is at {folder}: wait for it or stop it, or give this one a directory of its own. "
            "Nothing in it was changed."
        ) from None
    try:
        yield
    finally:
        lock.release()
