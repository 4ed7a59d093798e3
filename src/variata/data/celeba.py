"""CelebA: 202,599 aligned faces, or some of them.

Liu et al. 2015, https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html
"""

import threading
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from variata.core import Size
from variata.data.files import fetch
from variata.data.module import ImageDataModule
from variata.data.packed import Box, Packed, Preparation, Read, read_file
from variata.data.pixels import dequantise
from variata.data.source import ImageSource, Labels
from variata.errors import ConfigError, DataError

CROPS: dict[str, Box] = {  # of the 178x218 image: left, top, right, bottom
    "nvae": (15, 40, 163, 188),  # Vahdat & Kautz 2020, five pixels below the centre
    "center148": (15, 35, 163, 183),
    "center140": (19, 39, 159, 179),  # Tolstikhin et al. 2018
}
SPLITS = {"0": "train", "1": "val", "2": "test"}
IMAGES, PARTITION, ATTRIBUTES = "img_align_celeba", "list_eval_partition.txt", "list_attr_celeba.txt"


def celeba(
    root: str,
    cache: str,
    shape: Size = (3, 64, 64),
    crop: str = "nvae",
    filter: str = "bilinear",
    flip: bool = True,
    on_corrupt: str = "stop",
    download: bool = True,
    batch_size: int = 64,
    eval_batch_size: int = 200,
    eval_seed: int = 777,
) -> ImageDataModule:
    """Faces as 8-bit colour images, dequantised, in the official split.

    Args:
        root: Folder of `celeba/`, which holds `img_align_celeba/` or `img_align_celeba.zip` and the official lists; any
            part of the images will do.
        cache: Folder of the packed images.
        shape: [3, S, S].
        crop: "nvae", "center148" or "center140".
        filter: Of the resizing, as Pillow names it.
        flip: Whether to mirror half of the training images, at random.
        on_corrupt: "stop" at an image that cannot be decoded, or "skip" it.
        download: Fetch the whole set through torchvision where it is missing.
    """
    source = CelebA(Path(root).expanduser(), cache, shape, crop, filter, flip, on_corrupt, download, eval_seed)
    return ImageDataModule(source, batch_size, eval_batch_size, eval_seed)


class CelebA(ImageSource):
    """Faces, as `celeba` says."""

    kind = "8-bit"
    draw = staticmethod(dequantise)

    def __init__(
        self,
        root: Path,
        cache: str,
        shape: Size,
        crop: str,
        filter: str,
        flip: bool,
        on_corrupt: str,
        download: bool,
        eval_seed: int,
    ) -> None:
        if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2] or shape[1] < 8:
            raise ConfigError(
                f"Images of data=celeba have shape [3, S, S] with S from 8, got data.shape={list(shape)}."
            )
        if crop not in CROPS:
            raise ConfigError(f"data.crop={crop} is unknown. Use one of {', '.join(CROPS)}.")
        self.shape, self.flip = shape, flip
        prepare = Preparation(shape, CROPS[crop], filter)
        self.folder = locate(root, download)
        sizes, read = images(self.folder)
        splits = partition(self.folder / PARTITION, sizes)
        path = Path(cache).expanduser() / f"celeba-{shape[1]}-{crop}-{filter}-{sum(map(len, splits.values()))}.pack"
        self.packed = Packed(path, splits, sizes, read, prepare, on_corrupt)
        how = f"crop={crop} filter={filter} flip={str(flip).lower()}"
        self.protocol = f"celeba {shape[1]}x{shape[1]} {how}, eval_seed={eval_seed}"

    def load(self) -> dict[str, Tensor]:
        return self.packed.load()

    def labels(self) -> Labels:
        return attributes(self.folder / ATTRIBUTES, self.packed.names())


def locate(root: Path, download: bool) -> Path:
    """The folder of the lists and images, downloaded if missing.

    Raises:
        DataError: It is not there; says where it was looked for and what to put where.
    """
    if found := present(root):
        return found
    reason = "data.download=false"
    if download:
        try:
            fetch(root, fetch_celeba)
            reason = "the download left them missing"
        except Exception as error:  # torchvision raises whatever the network gave it
            reason = f"the download failed: {error}"
    if found := present(root):
        return found
    raise DataError(
        f"Missing data: CelebA. Looked in {root.resolve()} and its folder celeba for {PARTITION} and {IMAGES}/ or "
        f"{IMAGES}.zip; {reason}. Download img_align_celeba.zip and the lists by hand from "
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or point data.root (or VARIATA_DATA) to where they are. "
        "data=digits runs without any file."
    )


def present(root: Path) -> Path | None:
    """The first place that holds the partition and images."""
    for folder in (root / "celeba", root):
        if (folder / PARTITION).is_file() and any((folder / name).exists() for name in (IMAGES, f"{IMAGES}.zip")):
            return folder
    return None


def fetch_celeba(root: Path) -> None:
    """All of it through torchvision, to root/celeba."""
    from torchvision.datasets import CelebA

    CelebA(str(root), split="all", download=True)


def images(folder: Path) -> tuple[dict[str, int], Read]:
    """The size in bytes of every image, by name, and how to read one."""
    directory = folder / IMAGES
    if directory.is_dir():
        return {path.name: path.stat().st_size for path in directory.glob("*.jpg")}, partial(read_file, directory)
    return zipped(folder / f"{IMAGES}.zip")


def zipped(path: Path) -> tuple[dict[str, int], Read]:
    """The same for a zip archive.

    Raises:
        DataError: The archive is cut short, or a page of the download service under its name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {Path(info.filename).name: info for info in archive.infolist() if not info.is_dir()}
    except zipfile.BadZipFile as error:
        size = path.stat().st_size
        raise DataError(
            f"{path} is no whole zip archive ({error}; {size / 2**20:.1f} MiB of 1,376 in the published one). A broken "
            "download or a quota page of the download service looks like this: delete it and fetch it again."
        ) from error
    own = threading.local()  # an open archive may not be shared by threads

    def read(name: str) -> bytes:
        if not hasattr(own, "archive"):
            own.archive = zipfile.ZipFile(path)
        return own.archive.read(entries[name])

    return {name: info.file_size for name, info in entries.items()}, read


def partition(path: Path, sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """The names of the images there are, by split, in the list's order.

    Raises:
        DataError: The list is malformed, or knows an image's split not, or leaves a split empty.
    """
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    if bad := [row for row in rows if len(row) != 2 or row[1] not in SPLITS]:
        raise DataError(f"{path} is no partition list: a row is {' '.join(bad[0])!r}, expected a name and 0, 1 or 2.")
    splits: dict[str, list[str]] = {split: [] for split in SPLITS.values()}
    for name, number in rows:
        if name in sizes:
            splits[SPLITS[number]].append(name)
    if missing := sizes.keys() - {name for name, _ in rows}:
        raise DataError(f"{path} has no row for {len(missing)} of the images, such as {min(missing)}. Fetch it again.")
    if empty := [split for split, names in splits.items() if not names]:
        raise DataError(f"There are no images of the split {empty[0]} among the {len(sizes)} at {path.parent}.")
    return splits


def attributes(path: Path, names: Mapping[str, Sequence[str]]) -> Labels:
    """The official list: a line with the number of images, one with the names, and of each image its name and 1 or -1s.

    Args:
        path: Of the list.
        names: Of the images of each split.

    Raises:
        DataError: There is no list, or it is malformed, or lacks one of the images.
    """
    if not path.is_file():
        raise DataError(
            f"Missing data: {path}, the attributes of CelebA. Only what evaluates attributes needs them. "
            f"Put {path.name} of https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html there."
        )
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    known, rows = tuple(lines[1]) if len(lines) > 1 else (), {row[0]: row[1:] for row in lines[2:]}
    if bad := [name for name, row in rows.items() if len(row) != len(known) or not {*row} <= {"1", "-1"}]:
        raise DataError(
            f"{path} is damaged: its row of {bad[0]} is not one of {len(known)} values 1 or -1. Fetch it again."
        )
    if missing := [name for split in names.values() for name in split if name not in rows]:
        raise DataError(f"{path} has no row for {len(missing)} of the images, such as {missing[0]}. Fetch it again.")
    return Labels(
        known,
        {split: torch.tensor([[v == "1" for v in rows[name]] for name in of]) for split, of in names.items()},
    )
