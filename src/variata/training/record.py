"""What training logs: means of the terms of many updates, taken on the device."""

import time
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from variata.core import Terms


class Record:
    """The terms of the updates since they were last logged.

    Attributes:
        updates: How many.
    """

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.updates, self.waited, self.since = 0, 0.0, 0.0  # seconds before a resume; when the first of them began

    def start(self, device: torch.device) -> None:
        """Begin, or go on, on a device."""
        self.sums = [value.to(device) for value in self.sums]
        self.since = time.perf_counter() - self.waited

    def add(self, terms: Terms) -> None:
        """The terms of one more update, each a scalar; nothing waits for the device."""
        values = list(terms.values())
        if self.updates == 0:
            self.sums = [torch.zeros_like(value) for value in values]
        torch._foreach_add_(self.sums, values)
        self.updates += 1

    def take(self, strategy: Strategy) -> tuple[list[float], float]:
        """The mean of each term over updates and devices, and updates per second; begins anew."""
        means = self._shared(torch.stack(self.sums) / self.updates, strategy)
        now = time.perf_counter()
        rate = self.updates / (now - self.since)
        self.since, self.updates = now, 0
        return means.tolist(), rate

    def state(self, strategy: Strategy) -> dict[str, Any]:
        """What was summed up, on average over devices: they all go on from one checkpoint."""
        sums = list(self._shared(torch.stack(self.sums), strategy).cpu()) if self.updates else []
        return {"sums": sums, "updates": self.updates, "seconds": time.perf_counter() - self.since}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.sums, self.updates, self.waited = state["sums"], state["updates"], state["seconds"]

    def _shared(self, values: Tensor, strategy: Strategy) -> Tensor:
        return strategy.reduce(values, reduce_op="mean")  # type: ignore[return-value]
