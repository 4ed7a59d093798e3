"""Anybody's own images: every picture below a folder, prepared as CelebA's faces are."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from variata.core import Size
from variata.data.module import ImageDataModule
from variata.data.packed import Packed, Preparation, read_file
from variata.data.pixels import dequantise
from variata.data.source import ImageSource
from variata.errors import ConfigError, DataError

ENDINGS = (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def image_folder(
    root: str,
    cache: str,
    shape: Size = (3, 64, 64),
    crop: str = "center",
    filter: str = "bilinear",
    flip: bool = False,
    fractions: Sequence[float] = (0.9, 0.05, 0.05),
    split_seed: int = 0,
    on_corrupt: str = "stop",
    batch_size: int = 64,
    eval_batch_size: int = 200,
    eval_seed: int = 777,
) -> ImageDataModule:
    """All pictures below a folder as 8-bit images, dequantised.

    Where the folder has the subfolders train, val (or valid, validation) and test, they are the splits; else the images
    are shared out at random. Pictures are turned upright as their EXIF says; transparent parts become white; of 16 bits
    the upper 8 are kept; of an animation the first picture. Hidden files are left alone.

    Args:
        root: The folder; pictures are looked for at any depth.
        cache: Folder of the packed images.
        shape: [C, H, W]; C is 3 for colour, 1 for grey.
        crop: "center" takes the largest centred part with the proportions of shape; "none" squeezes the whole picture.
        filter: Of the resizing, as Pillow names it.
        flip: Whether to mirror half of the training images, at random.
        fractions: Of the images for train, val and test, where subfolders do not tell.
        split_seed: Of that random order.
        on_corrupt: "stop" at an image that cannot be decoded, or "skip" it.
    """
    source = ImageFolder(root, cache, shape, crop, filter, flip, fractions, split_seed, on_corrupt, eval_seed)
    return ImageDataModule(source, batch_size, eval_batch_size, eval_seed)


class ImageFolder(ImageSource):
    """All pictures below a folder, as `image_folder` says."""

    kind = "8-bit"
    draw = staticmethod(dequantise)

    def __init__(
        self,
        root: str,
        cache: str,
        shape: Size,
        crop: str,
        filter: str,
        flip: bool,
        fractions: Sequence[float],
        split_seed: int,
        on_corrupt: str,
        eval_seed: int,
    ) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < 8:
            raise ConfigError(f"data.shape is [C, H, W] with C 1 or 3, H and W from 8, got data.shape={list(shape)}.")
        if crop not in ("center", "none"):
            raise ConfigError(f"data.crop={crop} is unknown. Use center or none.")
        prepare = Preparation(shape, "center" if crop == "center" else None, filter)
        folder = Path(root).expanduser().resolve()
        found = pictures(folder)
        splits, split = split_of(folder, list(found), fractions, split_seed)
        size = "x".join(map(str, shape))
        place = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]  # folders of one name have a file each
        path = Path(cache).expanduser() / f"{folder.name}-{place}-{size}-{crop}-{filter}.pack"
        self.shape, self.flip = shape, flip
        self.packed = Packed(path, splits, found, partial(read_file, folder), prepare, on_corrupt)
        how = f"crop={crop} filter={filter} flip={str(flip).lower()} {split}"
        self.protocol = f"image_folder {folder.name} {size} {how}, eval_seed={eval_seed}"

    def load(self) -> dict[str, Tensor]:
        return self.packed.load()


def pictures(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every picture, by its path below folder, sorted.

    Raises:
        DataError: There is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise DataError(f"data.root={folder} is no folder. Give the one your images are in.")
    shown = {path.relative_to(folder).as_posix(): path for path in files(folder) if path.suffix.lower() in ENDINGS}
    if not shown:
        raise DataError(f"There are no images below data.root={folder}: no file ends in {', '.join(ENDINGS)}.")
    stats = {name: shown[name].stat() for name in sorted(shown)}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def files(folder: Path) -> Iterator[Path]:
    """All files at any depth but hidden ones, through links to folders too; links that lead nowhere are no files."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [f for f in folders if f[0] != "." and os.path.realpath(Path(place, f)) not in seen]
        yield from (path for name in names if name[0] != "." and (path := Path(place, name)).is_file())


def split_of(
    folder: Path, names: Sequence[str], fractions: Sequence[float], seed: int
) -> tuple[dict[str, list[str]], str]:
    """The images of each split, by subfolders where these tell, else by fractions; and which it was, for results.

    Raises:
        UserError: A split is empty, or the subfolders or fractions are none.
    """
    splits = by_subfolder(folder, names)
    how = "split by subfolder" if splits else f"split {'/'.join(map(str, fractions))} split_seed={seed}"
    splits = splits or by_fraction(names, fractions, seed)
    if empty := [split for split, those in splits.items() if not those]:
        raise DataError(
            f"The split {empty[0]} of the {len(names)} images below {folder} is empty ({how}). "
            "Change data.fractions, or the subfolders train, val and test."
        )
    return splits, how


def by_subfolder(folder: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """The images of each split where subfolders tell; nothing where there are none of these names.

    Raises:
        DataError: There are some of the subfolders, but not one for each split.
    """
    found = {split: [name for name in choices if (folder / name).is_dir()] for split, choices in SPLITS.items()}
    if not any(found.values()):
        return {}
    if wrong := [split for split, folders in found.items() if len(folders) != 1]:
        there = ", ".join(name for folders in found.values() for name in folders)
        raise DataError(
            f"{folder} has the subfolders {there}: for the split {wrong[0]} there has to be one of "
            f"{', '.join(SPLITS[wrong[0]])}. Name them train, val and test, or point data.root to a single one of them "
            "to have it split by data.fractions."
        )
    return {split: [name for name in names if name.startswith(f"{sub}/")] for split, (sub,) in found.items()}


def by_fraction(names: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    """The images shared out in a random order; rounding is the training images' gain or loss.

    Raises:
        ConfigError: The fractions are not three positive numbers that sum to 1.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ConfigError(
            f"data.fractions={list(fractions)} are not three positive numbers that sum to 1, for train, val and test."
        )
    if not 0 <= seed < 2**63:
        raise ConfigError(f"data.split_seed={seed} is not between 0 and 2^63 - 1.")
    val, test = (round(fraction * len(names)) for fraction in fractions[1:])
    order = torch.randperm(len(names), generator=Generator().manual_seed(seed))
    parts = dict(zip(SPLITS, order.split([len(names) - val - test, val, test]), strict=True))
    return {split: [names[i] for i in sorted(part.tolist())] for split, part in parts.items()}
