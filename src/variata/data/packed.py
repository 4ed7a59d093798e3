"""Photographs as one file of raw pixels: decoded, cropped and resized once, memory-mapped ever after.

The file is a header of 4096 bytes, JSON padded with spaces, then the pixels, uint8 [N, C, H, W], split after split. The
header says from what and how they were made, how many there are of each split, and what their SHA-256 is.
"""

import hashlib
import io
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from variata.errors import ConfigError, DataError

HEADER = 4096
CHUNK = 64  # images decoded in a row by one thread
FILTERS = {name.lower(): Image.Resampling[name] for name in ("BOX", "BILINEAR", "BICUBIC", "LANCZOS")}

Box = tuple[int, int, int, int]
Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Preparation:
    """How an encoded photograph becomes pixels: cropped, then resized with antialiasing as Pillow does it.

    Args:
        size: Height and width of the result.
        crop: Left, top, right and bottom; None keeps the whole image.
        filter: Of the resizing: box, bilinear, bicubic or lanczos.
        channels: 3 for colour, 1 for grey.
    """

    size: int
    crop: Box | None
    filter: str
    channels: int = 3

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ConfigError(f"data.filter={self.filter} is unknown. Use one of {', '.join(FILTERS)}.")

    def __call__(self, encoded: bytes) -> np.ndarray:
        """Bytes of an image file -> uint8 [C, H, W]."""
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = image.convert("RGB" if self.channels == 3 else "L").crop(self.crop)
        resized = np.asarray(pixels.resize((self.size, self.size), FILTERS[self.filter]))
        return resized.reshape(self.size, self.size, self.channels).transpose(2, 0, 1)


def packed(
    path: Path,
    splits: Mapping[str, Sequence[str]],
    sizes: Mapping[str, int],
    read: Read,
    prepare: Preparation,
    on_corrupt: str = "stop",
) -> dict[str, Tensor]:
    """The images of each split, uint8 [N, C, H, W], memory-mapped from path.

    The file is built where it is missing, cut short, altered, or made from other images or in another way.

    Args:
        path: Of the packed file.
        splits: Names of the images of each split, in order.
        sizes: Bytes of each image's file: with the names they tell whether the images are still the same.
        read: From a name to the bytes of its file.
        prepare: From those bytes to pixels.
        on_corrupt: What an image that cannot be decoded does: "stop", or "skip" it.

    Raises:
        DataError: An image cannot be decoded, or the disk is too small.
    """
    made = {"from": fingerprint(splits, sizes), "how": asdict(prepare), "on_corrupt": on_corrupt}
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):  # of two jobs that start together one builds and the other waits
        header = whole(path, made)
        if header is None:
            build(path, splits, made, read, prepare, on_corrupt == "skip")
            header = whole(path, made)
    if header is None:
        raise DataError(f"{path} was written and reads back differently: the disk or file system is faulty.")
    pixels = np.memmap(path, np.uint8, "c", HEADER, tuple(header["shape"]))
    return dict(zip(splits, torch.from_numpy(pixels).split(list(header["images"].values())), strict=True))


def fingerprint(splits: Mapping[str, Sequence[str]], sizes: Mapping[str, int]) -> str:
    """A hash of the names and sizes of all images, split by split."""
    lines = (f"{split} {name} {sizes[name]}\n" for split, names in splits.items() for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def whole(path: Path, made: dict[str, Any]) -> dict[str, Any] | None:
    """The header of a packed file that was made from and in what `made` says and is as it was written; else None."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(HEADER))
            wanted = json.loads(json.dumps(made))
            same = {name: header.get(name) for name in made} == wanted
            return header if same and hashlib.file_digest(file, "sha256").hexdigest() == header["sha256"] else None
    except (FileNotFoundError, ValueError):
        return None


def build(
    path: Path,
    splits: Mapping[str, Sequence[str]],
    made: dict[str, Any],
    read: Read,
    prepare: Preparation,
    skip: bool,
) -> None:
    """Write the packed file beside its place, over all cores, then rename it."""
    image = (prepare.channels, prepare.size, prepare.size)
    total = sum(len(names) for names in splits.values())
    require_space(path.parent, HEADER + total * int(np.prod(image)))
    temporary = path.with_suffix(".tmp")
    counts, skipped, digest = dict.fromkeys(splits, 0), [], hashlib.sha256()
    try:
        with temporary.open("wb") as file, tqdm(total=total, desc=f"Packing {path.name}", unit=" images") as bar:
            write_header(file, {})
            for split, name, pixels in decoded(splits, read, prepare):
                bar.update()
                if isinstance(pixels, Exception):
                    refuse(name, pixels, skip)
                    skipped.append(name)
                    continue
                data = pixels.tobytes()
                digest.update(data)
                file.write(data)
                counts[split] += 1
            shape = [sum(counts.values()), *image]
            about = {"shape": shape, "images": counts, "skipped": skipped[:20], "sha256": digest.hexdigest()}
            write_header(file, {**made, **about})
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def decoded(
    splits: Mapping[str, Sequence[str]], read: Read, prepare: Preparation
) -> Iterator[tuple[str, str, np.ndarray | Exception]]:
    """Split, name and pixels of every image in order, decoded by a thread per core; an exception for a broken one."""
    work = [(split, names[i : i + CHUNK]) for split, names in splits.items() for i in range(0, len(names), CHUNK)]
    threads = os.cpu_count() or 1  # Pillow lets go of the interpreter while it decodes and resizes
    ahead = 4 * threads  # chunks held in memory
    with ThreadPoolExecutor(threads) as pool:
        try:
            pending = deque(pool.submit(decode, read, prepare, names) for _, names in work[:ahead])
            for i, (split, names) in enumerate(work):
                pixels = pending.popleft().result()
                pending.extend(pool.submit(decode, read, prepare, more) for _, more in work[i + ahead : i + ahead + 1])
                yield from ((split, name, image) for name, image in zip(names, pixels, strict=True))
        finally:
            pool.shutdown(cancel_futures=True)


def decode(read: Read, prepare: Preparation, names: Sequence[str]) -> list[np.ndarray | Exception]:
    """The pixels of some images, or why there are none."""
    results: list[np.ndarray | Exception] = []
    for name in names:
        try:
            results.append(prepare(read(name)))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:  # what Pillow raises
            results.append(error)
    return results


def refuse(name: str, error: Exception, skip: bool) -> None:
    """Stop at an image that cannot be decoded, unless told to skip it."""
    if not skip:
        raise DataError(
            f"{name} cannot be decoded ({error}). Fetch it again, or leave such images out with data.on_corrupt=skip."
        ) from error


def require_space(folder: Path, size: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DataError(
            f"{folder} has {free / 2**30:.1f} GiB free; the packed images need {size / 2**30:.1f}. "
            "Set data.cache (or VARIATA_CACHE) to a larger disk."
        )


def write_header(file: BinaryIO, values: dict[str, Any]) -> None:
    """JSON padded to the header's length, at the file's beginning."""
    text = json.dumps(values).encode()
    if len(text) > HEADER:
        raise DataError(f"The header of a packed file holds {HEADER} bytes, these names need {len(text)}.")
    file.seek(0)
    file.write(text.ljust(HEADER))
