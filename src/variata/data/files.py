"""Find, check, read and, where the network allows, download the files of a data set."""

import contextlib
import gzip
import hashlib
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from variata.errors import DataError


def find(root: Path, folders: Sequence[str], name: str) -> Path | None:
    """The first of root/folder/name[.gz] that exists."""
    places = (root / folder / (name + ending) for folder in folders for ending in ("", ".gz"))
    return next((place for place in places if place.is_file()), None)


def require(
    root: Path, folders: Sequence[str], names: Sequence[str], download: Callable[[Path], None] | None
) -> list[Path]:
    """The paths of all names below root, downloaded if one is missing.

    Raises:
        DataError: Files are missing and could not be downloaded; says which, where they belong, and what runs without.
    """
    found = [find(root, folders, name) for name in names]
    reason = "data.download=false"
    if None in found and download is not None:
        try:
            fetch(root, download)
            reason = "the download left them missing"
        except Exception as error:  # torchvision raises whatever the network gave it
            reason = f"the download failed: {error}"
        found = [find(root, folders, name) for name in names]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing:
        raise DataError(
            f"Missing data: {', '.join(missing)}. Looked in {root.resolve()} and its folders "
            f"{', '.join(folder for folder in folders if folder)}, plain or .gz; {reason}. "
            f"Put the files into {root.resolve() / folders[0]}, or point data.root (or VARIATA_DATA) "
            "to where they are. data=digits runs without any file."
        )
    return [path for path in found if path is not None]


def fetch(root: Path, download: Callable[[Path], None]) -> None:
    """Download into a folder of its own and copy what came: a broken download leaves nothing below root."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints each address it tried in vain
            download(Path(folder))
        shutil.copytree(folder, root, dirs_exist_ok=True)


def content(path: Path) -> bytes:
    """The file's bytes, unzipped if it is gzip.

    Raises:
        DataError: The file cannot be read, or is a gzip file cut short or damaged.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}). Delete it and fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def verify(path: Path, data: bytes, sha256: str | None) -> None:
    """Compare a file's content with the published checksum; None accepts any.

    Raises:
        DataError: They differ.
    """
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise DataError(
            f"{path} is not the published file: SHA-256 of its content is {found[:16]}..., expected {sha256[:16]}... "
            "Delete it and fetch it again; for files of your own in this format set data.verify=false."
        )


def idx_images(path: Path, sha256: str | None) -> Tensor:
    """An IDX file of images as uint8 [N, 1, H, W]: big-endian magic 2051, N, H, W, then the pixels.

    https://yann.lecun.com/exdb/mnist

    Raises:
        DataError: Not such a file, or its length is not what its header says.
    """
    data = content(path)
    magic, n, height, width = (int.from_bytes(data[i : i + 4], "big") for i in range(0, 16, 4))
    if magic != 2051:
        raise DataError(f"{path} is no IDX file of images: it starts with {magic}, expected 2051. Fetch it again.")
    if not n * height * width:
        raise DataError(f"{path} holds no images: its header promises {n} of {height}x{width}. Fetch it again.")
    if len(data) != 16 + n * height * width:
        raise DataError(
            f"{path} is cut short: its header promises {n} images of {height}x{width}, "
            f"it holds {len(data) - 16} bytes of {n * height * width}. Delete it and fetch it again."
        )
    verify(path, data, sha256)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=16).view(n, 1, height, width)


def amat_images(path: Path, sha256: str | None, pixels: int = 784) -> Tensor:
    """Larochelle's text format as uint8 {0, 1} [N, 1, 28, 28]: a row per image, values 0 or 1 separated by one space.

    Raises:
        DataError: Not such a file.
    """
    text = content(path)
    if not text or len(text) % (2 * pixels):
        raise DataError(
            f"{path} is no whole .amat file: {len(text)} bytes, expected {2 * pixels} per image. Fetch it again."
        )
    values = np.frombuffer(text, dtype=np.uint8)[::2] - ord("0")
    if values.max() > 1:
        raise DataError(f"{path} is no binary .amat file: it has values other than 0 and 1. Fetch it again.")
    verify(path, text, sha256)
    side = int(pixels**0.5)
    return torch.from_numpy(values).view(-1, 1, side, side)
