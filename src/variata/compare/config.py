"""A configuration as one level of dotted keys, and how its values are written.

A node with a `_target_` becomes a key of its own, whose value is the last part of the target: `likelihood: Bernoulli`.
"""

import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = "–"
LONGEST = 60  # characters of a value, after which its checksum tells it from others
SHARED = ("posterior", "prior", "likelihood", "shape")  # parts that model.* repeats

Flat = dict[str, Any]


class Choice(str):
    """The name of a `_target_`: one option out of a group."""


def flat(config: Mapping[str, Any]) -> Flat:
    """Dotted keys to leaves; what `model.*` only repeats is left out."""
    model = config.get("model") or {}
    shape = (config.get("data") or {}).get("shape")
    repeated = {part for part in SHARED if part in model and model[part] == (config.get(part) or shape)}
    own = {name: value for name, value in model.items() if name not in repeated}
    return dict(_leaves({**config, "model": own}))


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if name == "_target_":
            yield prefix.rstrip("."), Choice(str(value).rpartition(".")[2])
        elif name != "_partial_":
            yield from (
                _leaves(value, f"{prefix}{name}.")
                if isinstance(value, dict) and value
                else [(f"{prefix}{name}", value or None if isinstance(value, dict) else value)]
            )


def text(value: Any) -> str:
    """A value as it is written in tables; two values are the same if they are written the same."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.0f}" if whole(value) else f"{value:.6g}"
    words = printable(json.dumps(value, default=str) if isinstance(value, list | dict) else str(value))
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}… {zlib.crc32(words.encode()):08x}"


def brief(value: str) -> str:
    """A fraction a sampler drew, in four digits; whole numbers, which a seed may be, and anything else as they are."""
    size = number(value) if len(value) >= 7 else None
    return value if size is None or not math.isfinite(size) or size.is_integer() else f"{size:.4g}"


def whole(value: float) -> bool:
    """Whether a float stands for one integer and no other."""
    return value.is_integer() and abs(value) < 2**53


def number(value: Any) -> float | None:
    """A value as a number, where it is one that a float can hold; YAML reads 1e-3 as a word."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or isinstance(value, Choice):
        return None
    try:
        return float(value)
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
