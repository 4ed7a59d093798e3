"""Photographs as one file of raw pixels: decoded, cropped and resized once, memory-mapped ever after.

The file is a header of 4096 bytes, JSON padded with spaces, then the pixels, uint8 [N, C, H, W], split after split. The
header says from what and how they were made, how many there are of each split, which images were left out, and what the
SHA-256 of the pixels is.
"""

import hashlib
import io
import json
import math
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from variata.core import Size
from variata.errors import ConfigError, DataError

HEADER = 4096
CHUNK = 64  # images decoded in a row by one thread
BROKEN = 100  # images left out with on_corrupt=skip before the set counts as damaged
PATIENCE = 5.0  # seconds to wait for another job before saying so
FILTERS = {name.lower(): Image.Resampling[name] for name in ("BOX", "BILINEAR", "BICUBIC", "LANCZOS")}

Box = tuple[int, int, int, int]
Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Preparation:
    """How an encoded photograph becomes pixels: upright, cropped, then resized with antialiasing as Pillow does it.

    Args:
        shape: Of the result, [C, H, W]; C is 3 for colour, 1 for grey.
        crop: Left, top, right and bottom; "center" for the largest centred part of the result's proportions; None
            keeps the whole image.
        filter: Of the resizing: box, bilinear, bicubic or lanczos.
    """

    shape: Size
    crop: Box | Literal["center"] | None
    filter: str

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ConfigError(f"data.filter={self.filter} is unknown. Use one of {', '.join(FILTERS)}.")

    def __call__(self, encoded: bytes) -> np.ndarray:
        """Bytes of an image file -> uint8 [C, H, W]."""
        channels, height, width = self.shape
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = opaque(ImageOps.exif_transpose(image)).convert("RGB" if channels == 3 else "L")
        size, filter = (width, height), FILTERS[self.filter]
        if self.crop == "center":
            resized = ImageOps.fit(pixels, size, filter)
        else:
            resized = pixels.crop(self.crop).resize(size, filter)
        return np.asarray(resized).reshape(height, width, channels).transpose(2, 0, 1)


def opaque(image: Image.Image) -> Image.Image:
    """An image of 8 bits without transparency: what shows through is white; of 16 bits the upper 8 are kept.

    Pillow alone would drop the transparency, and with it uncover colours no one sees, and clip 16 bits at 255.

    Raises:
        ValueError: Grey values have no known range, as those of floating point.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image)
        if image.mode == "F" or grey.min() < 0 or grey.max() >= 2**16:
            raise ValueError("its grey values have neither 8 nor 16 bits")
        return Image.fromarray((grey // 256).astype(np.uint8))
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image


class Packed:
    """Photographs in one packed file, which is built where it is missing, cut short, altered, or made otherwise.

    Args:
        path: Of the packed file.
        splits: Names of the images of each split, in order.
        marks: Of each image's file, what changes when it does, like its size; with the names they tell whether the
            images are still the same.
        read: From a name to the bytes of its file.
        prepare: From those bytes to pixels.
        on_corrupt: What an image that cannot be decoded does: "stop", or "skip" it.
    """

    def __init__(
        self,
        path: Path,
        splits: Mapping[str, Sequence[str]],
        marks: Mapping[str, Any],
        read: Read,
        prepare: Preparation,
        on_corrupt: str = "stop",
    ) -> None:
        if on_corrupt not in ("stop", "skip"):
            raise ConfigError(f"data.on_corrupt={on_corrupt} is unknown. Use stop or skip.")
        self.path, self.splits, self.read, self.prepare = path, splits, read, prepare
        self.skip, self.total = on_corrupt == "skip", sum(map(len, splits.values()))
        self.made = json.loads(json.dumps({"from": fingerprint(splits, marks), "how": asdict(prepare)}))
        self.skipped: set[int] = set()  # places in the list of all images

    def load(self) -> dict[str, Tensor]:
        """The images of each split, uint8 [N, C, H, W], memory-mapped.

        Raises:
            DataError: An image cannot be decoded, or the file cannot be written.
        """
        try:
            found = self._whole() or self._built()
        except OSError as error:  # those of the images themselves are told by `refuse`
            raise DataError(
                f"{self.path} cannot be written or read: {error.strerror or error}. "
                "Set data.cache (or VARIATA_CACHE) to a folder with room for it."
            ) from error
        if found is None:
            raise DataError(f"{self.path} was written and reads back differently: the disk or file system is faulty.")
        header, pixels = found
        self.skipped = set(header["skipped"])
        return dict(zip(self.splits, pixels.split(list(header["images"].values())), strict=True))

    def names(self) -> dict[str, list[str]]:
        """Names of the images `load` returned, in their order."""
        kept, first = {}, 0
        for split, names in self.splits.items():
            kept[split] = [name for place, name in enumerate(names, first) if place not in self.skipped]
            first += len(names)
        return kept

    def _whole(self) -> tuple[dict[str, Any], Tensor] | None:
        """Header and pixels of a file that is as it was written and as it would be written now; else None."""
        try:
            with self.path.open("rb") as file:
                header = json.loads(file.read(HEADER))
                if not self._fits(header) or (header["skipped"] and not self.skip):
                    return None
                if hashlib.file_digest(file, "sha256").hexdigest() != header.get("sha256"):
                    return None
                return header, torch.from_numpy(np.memmap(file, np.uint8, "c", HEADER, tuple(header["shape"])))
        except (FileNotFoundError, ValueError):
            return None

    def _fits(self, header: Any) -> bool:
        """Whether a header is whole, and of these images prepared in this way."""
        if not isinstance(header, dict) or {name: header.get(name) for name in self.made} != self.made:
            return False
        shape, images, skipped = (header.get(name) for name in ("shape", "images", "skipped"))
        counts = list(images.values()) if isinstance(images, dict) and list(images) == list(self.splits) else []
        numbers = [*counts, *(skipped if isinstance(skipped, list) else [None])]
        return all(isinstance(n, int) and n >= 0 for n in numbers) and shape == [sum(counts), *self.prepare.shape]

    def _built(self) -> tuple[dict[str, Any], Tensor] | None:
        """Header and pixels after building; of jobs that start together one builds and the others wait."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with alone(self.path):
            if (found := self._whole()) is None:
                self._build()
                found = self._whole()
            return found

    def _build(self) -> None:
        """Write the file beside its place, then rename it."""
        require_space(self.path.parent, HEADER + self.total * math.prod(self.prepare.shape))
        temporary = self.path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                write_header(file, {})
                about = self._write(file)
                write_header(file, {**self.made, **about})
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _write(self, file: BinaryIO) -> dict[str, Any]:
        """The pixels of all images that can be decoded; returns what there is to say of them."""
        counts, digest = dict.fromkeys(self.splits, 0), hashlib.sha256()
        skipped: list[int] = []
        with tqdm(total=self.total, desc=f"Packing {self.path.name}", unit=" images") as bar:
            for place, (split, name, pixels) in enumerate(decoded(self.splits, self.read, self.prepare)):
                bar.update()
                if isinstance(pixels, Exception):
                    skipped.append(place)
                    refuse(name, pixels, self.skip, len(skipped))
                    continue
                data = pixels.tobytes()
                digest.update(data)
                file.write(data)
                counts[split] += 1
        if empty := [split for split, n in counts.items() if not n]:
            raise DataError(f"None of the images of the split {empty[0]} can be decoded. Replace them.")
        shape = [sum(counts.values()), *self.prepare.shape]
        return {"shape": shape, "images": counts, "skipped": skipped, "sha256": digest.hexdigest()}


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While this job is the only one to write path; waits for others, and says so where that takes long."""
    lock = FileLock(f"{path}.lock")
    with suppress(Timeout):
        lock.acquire(PATIENCE)
    if not lock.is_locked:
        tqdm.write(f"Waiting for another job that packs {path}.", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fingerprint(splits: Mapping[str, Sequence[str]], marks: Mapping[str, Any]) -> str:
    """A hash of the names and marks of all images, split by split."""
    lines = (f"{split} {name} {marks[name]}\n" for split, names in splits.items() for name in names)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


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
        except Exception as error:  # a damaged file makes Pillow and zipfile raise almost any
            results.append(error)
    return results


def refuse(name: str, error: Exception, skip: bool, broken: int) -> None:
    """Stop at an image that cannot be decoded, unless told to skip it and there are few of them."""
    reason = "Pillow knows no such format" if isinstance(error, UnidentifiedImageError) else error
    if not skip:
        raise DataError(
            f"{name} cannot be decoded ({reason}). Replace it, or leave such images out with data.on_corrupt=skip."
        ) from error
    if broken > BROKEN:
        raise DataError(
            f"More than {BROKEN} images cannot be decoded, the last of them {name} ({reason}): the set is damaged. "
            "Fetch or copy it again."
        ) from error
    tqdm.write(f"Left out {name}: it cannot be decoded ({reason}).", file=sys.stderr)


def read_file(folder: Path, name: str) -> bytes:
    """The bytes of folder/name."""
    return (folder / name).read_bytes()


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
