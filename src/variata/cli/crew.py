"""Runs whose processes torchrun or srun started: the first one composes, the others take the jobs it hands out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from variata.cli.job import Job
from variata.errors import ConfigError, UserError

if TYPE_CHECKING:
    from torch.distributed import Store

AGREE = timedelta(seconds=20)  # for all devices to meet the error that one met
FOREVER = timedelta(days=365)


@dataclass
class Crew:
    """The processes a launcher started, as one of them sees them.

    Args:
        rank: Of this process.
        nodes: Machines.
        devices: Processes on each.
    """

    rank: int
    nodes: int
    devices: int
    jobs: int = 0  # handed out so far
    alone: bool = False  # whether the last job ended in an error that not all met

    def require(self, nodes: int, devices: Any) -> None:
        """Refuse a configuration made for another number of processes; `auto` and -1 are as many as there are."""
        number = len(devices) if isinstance(devices, list) else devices
        if nodes != self.nodes or str(number) not in (str(self.devices), "auto", "-1"):
            raise ConfigError(
                f"The launcher started {self.devices} processes on each of {self.nodes} machines, the configuration "
                f"asks for trainer.devices={number} and trainer.num_nodes={nodes}. Give trainer.devices={self.devices} "
                f"trainer.num_nodes={self.nodes}, or start with {torchrun(nodes, number)} train.py ..."
            )

    def hand_out(self, job: Job | None) -> None:
        """Give every process its next job; None sends them home."""
        self.store.set(f"job/{self.jobs}", job.dumps() if job else "")
        self.jobs += 1

    def receive(self) -> Job | None:
        """The next job, when it is there."""
        text = self.store.get(f"job/{self.jobs}").decode()
        self.jobs += 1
        return Job.loads(text) if text else None

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Learn whether all met an error: then the next job can begin; if not, some wait for this process in vain."""
        try:
            yield
        except (UserError, OSError):
            self.alone = not self._all_failed()
            raise

    def _all_failed(self) -> bool:
        from torch.distributed import DistStoreError

        self.store.set(f"failed/{self.jobs}/{self.rank}", "")
        try:
            self.store.wait([f"failed/{self.jobs}/{rank}" for rank in range(self.nodes * self.devices)], AGREE)
        except DistStoreError:
            return False
        return True

    @cached_property
    def store(self) -> "Store":
        """Shared by all processes: torchrun's own, or one that the first process keeps."""
        from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
        from torch.distributed import PrefixStore, TCPStore

        launcher = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else SLURMEnvironment()
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
        return PrefixStore("variata", store)


def torchrun(nodes: int, devices: Any) -> str:
    """The command that starts a process for each device."""
    return f"torchrun --nnodes={nodes} --nproc-per-node={devices}"


@cache
def crew() -> Crew | None:
    """The processes a launcher started with this one; None where there is no launcher."""
    get = os.environ.get
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        return Crew(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]) // devices, devices)
    if int(get("SLURM_NTASKS", 1)) > 1 and get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(get("SLURM_NNODES", 1))
        return Crew(int(os.environ["SLURM_PROCID"]), nodes, int(os.environ["SLURM_NTASKS"]) // nodes)
    return None
