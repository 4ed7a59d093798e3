"""Runs whose processes torchrun or srun started: the first one composes, the others take the jobs it hands out."""

import os
import time
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

PATIENCE = timedelta(seconds=20)  # until all devices are where one is
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

    def hand_out(self, job: Job) -> None:
        """Give every process its next job."""
        self.store.set(f"job/{self.jobs}", job.dumps())
        self.jobs += 1

    def dismiss(self) -> None:
        """Send the others home, and let them go first: what they hear it from may end with this process."""
        self.store.set(f"job/{self.jobs}", "")
        self._all_reach("home")

    def receive(self) -> Job | None:
        """The next job, when it is there; None when there are no more."""
        text = self.store.get(f"job/{self.jobs}").decode()
        self.jobs += 1
        if text:
            return Job.loads(text)
        self.store.set(f"home/{self.rank}", "")
        return None

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Learn whether all met an error: then the next job can begin; if not, some wait for this process in vain."""
        try:
            yield
        except (UserError, OSError):
            self.alone = not self._all_reach(f"failed/{self.jobs}")
            raise

    def gather(self) -> None:
        """Wait until all are ready for a job's first update. A signal can end this; torch's own waiting is deaf."""
        self.store.set(f"ready/{self.jobs}/{self.rank}", "")
        while not self.store.check([f"ready/{self.jobs}/{rank}" for rank in range(self.nodes * self.devices)]):
            time.sleep(0.05)

    def _all_reach(self, point: str) -> bool:
        from torch.distributed import DistStoreError

        self.store.set(f"{point}/{self.rank}", "")
        try:
            self.store.wait([f"{point}/{rank}" for rank in range(self.nodes * self.devices)], PATIENCE)
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
        return PrefixStore(f"variata/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


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
