"""Files that are whole or not there, whenever the process, the machine or the room on the disk comes to an end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".tmp"  # of a file that is being written


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


def write(path: Path, text: str, secret: bool = False) -> None:
    """A whole file or none, see `replacing`. A secret one is for its owner's eyes alone."""
    with replacing(path, secret) as file:
        file.write(text.encode())


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
