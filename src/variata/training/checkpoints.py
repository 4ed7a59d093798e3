"""Checkpoints: whole files of tensors and plain values, never code, in which no flipped bit passes unnoticed.

A checkpoint is the zip archive that `torch.save` writes. The archive's comment holds the SHA-256 of every byte before
it, so it stays one file that `torch.load` and zip tools read. The checksums of zip leave out headers and padding.
"""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from variata import atomic
from variata.errors import RunError

TAG = b"sha256:"
COMMENT = len(TAG) + 2 * hashlib.sha256().digest_size  # bytes: the tag and 64 hexadecimal digits
END, END_SIZE = b"PK\x05\x06", 22  # the record that ends an archive; its last two bytes are the length of a comment
CHUNK = 2**22  # bytes hashed at a time


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; an earlier one of the same name stays until the new one is whole and on the disk.

    Raises:
        OSError: It cannot be written, as on a full disk; the earlier one is still there.
    """
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with atomic.replacing(path) as file:
        for part in (buffer.getbuffer()[:-2], COMMENT.to_bytes(2, "little")):
            digest.update(part)
            file.write(part)
        file.write(TAG + digest.hexdigest().encode())


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on the CPU.

    Raises:
        RunError: It is missing, damaged, holds more than tensors and plain values, or is not from this project.
    """
    if not path.is_file():
        raise RunError(f"No checkpoint at {path}.")
    try:
        with path.open("rb") as file:
            _require_intact(file)
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no checkpoint fails in many ways: disk, zip, pickle, unsafe globals
        raise _unreadable(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not isinstance(checkpoint, dict) or "variata" not in checkpoint or "state_dict" not in checkpoint:
        raise RunError(f"{path} is a checkpoint of another program. Give a run directory written by variata.")
    return checkpoint


def newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint to go on from, and what it says of training; all that are there have been read and are whole.

    That is best.ckpt where a run was killed after a validation and before last.ckpt was written again: both are states
    of the whole training, and so neither is of a future that the other does not know.

    Args:
        folder: Of the checkpoints.

    Raises:
        RunError: There is no last.ckpt, or one that cannot be read.
    """
    paths = [folder / "last.ckpt", *filter(Path.is_file, [folder / "best.ckpt"])]
    found = {path: read(path)["variata"] for path in paths}
    path = max(found, key=lambda path: found[path]["step"])  # the first of equals
    return path, found[path]


def weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The VAE's state in a checkpoint; the moving average, where one was kept."""
    return {
        name.removeprefix("vae."): value for name, value in checkpoint["state_dict"].items() if name.startswith("vae.")
    }


class Files(CheckpointIO):
    """How Lightning writes and reads the checkpoints of a run."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The checkpoint on the CPU; whatever is asked for, it holds tensors and plain values only."""
        return read(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def _require_intact(file: BinaryIO) -> None:
    """Refuse a file of which a bit has changed; one without our checksum has only those that zip keeps by itself.

    Raises:
        BadZipFile: It is not what was written.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - COMMENT))
    tail = file.read()
    if tail[-END_SIZE:].startswith(END) and tail.endswith(b"\0\0"):  # no comment: one flipped bit does not look so
        if damaged := zipfile.ZipFile(file).testzip():
            raise zipfile.BadZipFile(f"{damaged} in it has a bad checksum")
        return
    digest, left = hashlib.sha256(), size - len(tail)
    file.seek(0)
    while left and (chunk := file.read(min(CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    if tail != TAG + digest.hexdigest().encode():
        raise zipfile.BadZipFile("its checksum does not match its content")


def _unreadable(path: Path, reason: str) -> RunError:
    last, best = path.with_name("last.ckpt"), path.with_name("best.ckpt")
    remedies = {
        last: f"`cp {best} {last}` goes on from the best validation" if best.is_file() else "",
        best: f"`rm {best}` goes on from last.ckpt, without the best weights so far" if last.is_file() else "",
    }
    remedy = remedies.get(path) or "resume from another run, or start again without resume"
    return RunError(f"{path} cannot be read as a checkpoint ({reason}). It is damaged or not one of ours; {remedy}.")
