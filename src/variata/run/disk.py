"""A full disk, told: which place is full, and how to make room."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk, a quota, a limit on files answer
SAID = (os.strerror(errno.ENOSPC), "No usable temporary directory")  # where a library keeps nothing but the words
SCARCE = 2**20  # bytes; a disk with fewer free is taken for the full one, where an error names no file


def full(error: BaseException | None) -> BaseException | None:
    """The error of a full disk among those that led to an error, if there is one; libraries wrap it as they like."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or any(words in str(error) for words in SAID):
            return error
        error = error.__cause__ or error.__context__
    return None


def full_disk(error: BaseException, run: Path) -> str:
    """One sentence on which place is full, and one on how to make room.

    Args:
        error: Found by `full`.
        run: The run directory.
    """
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)  # the former is a copy's target
    place = Path(named) if named else _full_place(run) or run
    reason = getattr(error, "strerror", None) or os.strerror(errno.ENOSPC)
    where = f"{place} cannot be written: {reason}."
    for temporary in _temporary_folders():
        if temporary in (place, *place.parents) and temporary not in run.resolve().parents:
            return f"{where} Free space in {temporary}, or set TMPDIR to a folder on another disk."
    return f"{where} Free space there."


def require_room(run: Path) -> None:
    """Find out whether a full disk is why a program ended that does not say why.

    Args:
        run: The run directory.

    Raises:
        OSError: Its disk is full, or that of temporary files.
    """
    if place := _full_place(run):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))


def _full_place(run: Path) -> Path | None:
    places = filter(Path.exists, [run, *_temporary_folders()])
    return next((place for place in places if shutil.disk_usage(place).free < SCARCE), None)


def _temporary_folders() -> list[Path]:
    """Where this process and those it starts may keep temporary files; Python leaves out a TMPDIR that is full."""
    names = (os.environ.get("TMPDIR"), tempfile.tempdir, "/tmp")
    return [Path(name) for name in dict.fromkeys(filter(None, names))]
