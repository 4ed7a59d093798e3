"""What is said to a person: one paragraph on stderr, and what was perhaps meant."""

import shutil
import sys
import textwrap
from collections.abc import Iterable
from difflib import get_close_matches


def say(message: str) -> None:
    """One paragraph on stderr."""
    width = max(40, min(120, shutil.get_terminal_size((100, 24)).columns))
    sys.stderr.write(textwrap.fill(f"variata: {message}", width, break_long_words=False, break_on_hyphens=False) + "\n")


def did_you_mean(given: str, allowed: Iterable[str], listed: int = 100, more: str = "") -> str:
    """The choice nearest to what was given, and what there is to choose from.

    Args:
        listed: Choices up to which all are named; of more only those near to what was given.
        more: Where all choices are shown, said where not all are named.
    """
    allowed = list(allowed)
    close = get_close_matches(given, allowed, n=1)
    if len(allowed) > listed:
        near = get_close_matches(given, sorted(allowed), n=listed, cutoff=0.4)
        choices = " ".join([*([f"Near it: {', '.join(near)}."] if near else []), *([more] if more else [])])
    else:
        choices = f"Allowed: {', '.join(allowed)}."
    return (f"Did you mean {close[0]}? " if close else "") + choices
