"""Noise that a seed decides, whatever was drawn before it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stream(seed: int, number: int) -> int:
    """The seed of one of many streams of noise that belong to a seed; stream 0 is the seed itself."""
    return (seed + 1_000_003 * number) % 2**63


@contextmanager
def noise(seed: int) -> Iterator[None]:
    """Draw with a seed of its own; the generators are afterwards where they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
