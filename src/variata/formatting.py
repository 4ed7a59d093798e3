"""Values and names as text: on one line, in few digits, in an order that people expect."""

import json
import math
import re
import zlib
from typing import Any

ABSENT = "–"
LONGEST = 60  # characters of a value, after which its checksum tells it from others


def text(value: Any) -> str:
    """A value as it is written in tables; two values are the same if they are written the same."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 2**53 else f"{value:.6g}"
    words = printable(json.dumps(value, default=str) if isinstance(value, list | dict) else str(value))
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}… {zlib.crc32(words.encode()):08x}"


def brief(value: str) -> str:
    """A fraction a sampler drew, in four digits; whole numbers, which a seed may be, and anything else as they are."""
    size = number(value) if len(value) >= 7 else None
    return value if size is None or not math.isfinite(size) or size.is_integer() else f"{size:.4g}"


def number(value: Any) -> float | None:
    """A value as a number, where it is one that a float can hold."""
    try:
        return None if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        return None


def printable(words: str) -> str:
    """Text on one line that a terminal does not obey."""
    return visible(" ".join(words.split()))


def visible(words: object) -> str:
    """Text without control characters and undecoded bytes."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(words))


def order(words: str) -> tuple[int, float, list[Any]]:
    """Sorts written values: numbers by size, then words."""
    size = number(words)
    return (1, 0, natural(words)) if size is None or size != size else (0, size, [])


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts 10 after 9."""
    digits = [(part.isdecimal(), part.lstrip("0") if part.isdecimal() else part) for part in re.split(r"(\d+)", name)]
    return [(len(part) if decimal else -1, part) for decimal, part in digits]
