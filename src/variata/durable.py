"""Files that are whole or not there, whenever the process, the machine or the room on the disk comes to an end."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".tmp"  # of a file that is being written
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk, a quota, a limit on files answer
SAID = (os.strerror(errno.ENOSPC), "No usable temporary directory")  # where a library keeps nothing but the words
SCARCE = 2**20  # bytes; a disk with fewer free is taken for the full one, where an error names no file


@contextmanager
def replacing(path: Path, secret: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is whole and on the disk; until then the earlier one stays there.

    It is written in the same folder, because only within a file system a rename is one step.

    Args:
        path: Of the file.
        secret: Whether it is for its owner's eyes alone.

    Raises:
        OSError: It cannot be written; with the name of the file. Nothing of it stays.
    """
    temporary = path.with_name(path.name + SUFFIX)
    temporary.unlink(missing_ok=True)  # of a process that was killed
    mode = 0o600 if secret else 0o666
    try:
        with (
            naming(path),
            open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file,
        ):
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to errors of the operating system, which names it when opening, but not when writing."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _sync_folder(folder: Path) -> None:
    """Have the folder's list of names on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems do this by themselves and refuse the call
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clean(*folders: Path) -> None:
    """Remove what a killed process left half written."""
    for folder in folders:
        for stale in folder.glob(f"*{SUFFIX}"):
            stale.unlink(missing_ok=True)


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
