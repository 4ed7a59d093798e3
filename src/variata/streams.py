"""Standard streams that cannot end a run: their reader may leave, may never have been there, or may know ASCII only."""

import io
import os
import sys
from typing import Any, TextIO


class Unheard(io.FileIO):
    """A file descriptor to write to; what cannot arrive there, as after `| head -1`, is lost without an error."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def audible() -> None:
    """Make stdout and stderr such; what somebody else put in their place is left alone."""
    while (opened := os.open(os.devnull, os.O_RDWR)) < 3:  # one is closed, and a file would be opened in its place
        os.set_inheritable(opened, True)
    os.close(opened)
    if sys.stdout is sys.__stdout__:
        sys.stdout = sys.__stdout__ = tolerant(sys.stdout, 1)  # type: ignore[misc, assignment]
    if sys.stderr is sys.__stderr__:
        sys.stderr = sys.__stderr__ = tolerant(sys.stderr, 2)  # type: ignore[misc, assignment]


def tolerant(stream: TextIO | None, number: int) -> TextIO:
    """What writes to a file descriptor as its stream did, None if it was closed, but always succeeds."""
    if stream is not None and (
        not isinstance(stream, io.TextIOWrapper) or isinstance(getattr(stream.buffer, "raw", None), Unheard)
    ):
        return stream
    file, encoding, lines = io.BufferedWriter(Unheard(number, "wb", closefd=False)), "utf-8", number == 2
    if stream is not None:
        stream.flush()
        encoding, lines = stream.encoding, lines or stream.line_buffering
    return io.TextIOWrapper(file, encoding, "replace", line_buffering=lines)  # an error is told when it is met
