"""Pictures of runs, small enough to stand in a page."""

import base64
import io
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from variata.compare.comparison import Comparison
from variata.compare.groups import Group
from variata.metrics import Metric
from variata.run.reader import Run

KINDS = ("samples", "reconstructions", "traversal")
GROUPS = 8  # whose pictures are shown
WIDTH, BYTES = 640, 150_000  # of a picture; larger ones are made smaller
LARGEST = 50_000_000  # bytes of a file that is opened at all
PNG = b"\x89PNG\r\n\x1a\n"


class Column(NamedTuple):
    """A group, the run that stands for it, and its pictures as data URIs by kind."""

    group: Group
    run: Run
    pictures: dict[str, str]


def columns(c: Comparison) -> tuple[list[Column], int]:
    """Pictures of the first groups that have some, and how many groups more have them."""
    shown = [(group, run) for group in c.groups if (run := pictured(group, c.by)) is not None]
    return [Column(group, run, dict(_pictures(run))) for group, run in shown[:GROUPS]], len(shown[GROUPS:])


def pictured(group: Group, metric: Metric) -> Run | None:
    """The run with pictures that is best by a metric."""
    runs = [run for run in group.judged or group.runs if any(_path(run, kind).is_file() for kind in KINDS)]
    return max(runs, key=lambda run: _merit(run.figure(metric.name), metric), default=None)


def _merit(figure: float | None, metric: Metric) -> float:
    """The higher the better; a run without the figure comes after all others."""
    if figure is None:
        return -math.inf
    return figure if metric.up else -figure


def _path(run: Run, kind: str) -> Path:
    return run.path / "images" / f"{kind}.png"


def _pictures(run: Run) -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        if (path := _path(run, kind)).is_file() and (uri := embedded(path)):
            yield kind, uri


def embedded(path: Path) -> str | None:
    """A picture as a data URI; None where it cannot be read."""
    try:
        if path.stat().st_size > LARGEST:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    if not data.startswith(PNG) or len(data) < 24:
        return None
    if len(data) > BYTES or struct.unpack(">I", data[16:20])[0] > WIDTH:
        return smaller(data)
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def smaller(data: bytes) -> str | None:
    """The picture in the width of a page, as JPEG."""
    from PIL import Image

    out = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    small.thumbnail((WIDTH, 2 * WIDTH))
    small.save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
