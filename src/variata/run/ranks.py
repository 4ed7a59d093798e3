"""The processes of a run on several devices, as one of them sees them: who it is, and what all have to know."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from variata.errors import ConfigError, RunError

if TYPE_CHECKING:
    from torch.distributed import Store

PATIENCE = 20.0  # seconds until all have ended that end alike
FOREVER = timedelta(days=365)


@dataclass(frozen=True)
class Ranks:
    """The processes that torchrun, srun or the agent of a run started.

    Args:
        rank: Of this process.
        nodes: Machines.
        devices: Processes on each.
        elastic: Whether torch's agent started them.
    """

    rank: int
    nodes: int
    devices: int
    elastic: bool

    def require(self, nodes: int, devices: Any) -> None:
        """Refuse a configuration made for another number of processes; `auto` and -1 are as many as there are."""
        number = len(devices) if isinstance(devices, list) else devices
        if nodes != self.nodes or str(number) not in (str(self.devices), "auto", "-1"):
            raise ConfigError(
                f"The launcher started {self.devices} processes on each of {self.nodes} machines, the configuration "
                f"asks for trainer.devices={number} and trainer.num_nodes={nodes}. Give trainer.devices={self.devices} "
                f"trainer.num_nodes={self.nodes}, or start with {torchrun(nodes, number)} train.py ..."
            )

    def share_machine(self) -> None:
        """Take this process's share of the cores, and leave talking to the first one."""
        import torch

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, torch.get_num_threads() // self.devices))
        if self.rank > 0:
            logging.getLogger().addHandler(logging.NullHandler())

    def go_to(self, folder: Path) -> None:
        """Tell the others the run directory, once it is this run's."""
        self.store.set("folder", str(folder.absolute()))

    def folder(self) -> Path:
        """The run directory, as the first process tells it.

        Raises:
            RunError: It met an error before, which it tells itself.
            SystemExit: It found nothing left to do.
        """
        self._until(lambda: self.store.check(["folder"]) or self.store.check(["left/0"]))
        if self.store.check(["folder"]):
            return Path(self.store.get("folder").decode())
        if error := self.store.get("left/0").decode():
            raise RunError(error)
        raise SystemExit(0)

    def wait_for_all(self) -> None:
        """Wait until all are ready for the first update. A signal can end this; torch's own waiting is deaf."""
        self.store.set(f"ready/{self.rank}", "")
        self._until(lambda: self.store.check([f"ready/{rank}" for rank in range(self.nodes * self.devices)]))

    def leave(self, error: str = "") -> bool:
        """Say how this process ends. The first one, which may keep the store, lets the others go before it.

        Args:
            error: What it met.

        Returns:
            Whether it is to tell of the error: the first one is, another only of what the first did not meet.
        """
        others = [f"left/{rank}" for rank in range(1, self.nodes * self.devices)]
        with suppress(RuntimeError):  # the store's keeper is gone, and so has told
            self.store.set(f"left/{self.rank}", error)
            known = self._until(lambda: self.store.check(others if self.rank == 0 else ["left/0"]), PATIENCE)
            return self.rank == 0 or not known or self.store.get("left/0").decode() != error
        return self.rank == 0

    def _until(self, reached: Callable[[], bool], patience: float = float("inf")) -> bool:
        deadline = time.monotonic() + patience
        while not (is_so := reached()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return is_so

    @cached_property
    def store(self) -> "Store":
        """Shared by all processes: torchrun's own, or one that the first process keeps."""
        from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
        from torch.distributed import PrefixStore, TCPStore

        launcher = TorchElasticEnvironment() if self.elastic else SLURMEnvironment()
        kept = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        # multi_tenant: torch's process group opens the same port later
        store = TCPStore(
            launcher.main_address,
            launcher.main_port,
            is_master=kept,
            timeout=FOREVER,
            wait_for_workers=False,
            multi_tenant=True,
        )
        return PrefixStore(f"variata/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


@cache
def ranks() -> Ranks | None:
    """The processes a launcher started with this one; None where there is no launcher."""
    get = os.environ.get
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]) // devices, devices, elastic=True)
    if int(get("SLURM_NTASKS", 1)) > 1 and get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(get("SLURM_NNODES", 1))
        tasks = int(os.environ["SLURM_NTASKS"])
        return Ranks(int(os.environ["SLURM_PROCID"]), nodes, tasks // nodes, elastic=False)
    return None


def torchrun(nodes: int, devices: Any) -> str:
    """The command that starts a process for each device."""
    return f"torchrun --nnodes={nodes} --nproc-per-node={devices}"


def cores() -> list[int]:
    """The cores this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
