"""Jobs on this machine: some at a time, each with cores or GPUs of its own."""

import os
import queue
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from joblib import Parallel, delayed
from omegaconf import DictConfig

from variata.errors import ConfigError
from variata.run.job import Job, composed_job, resolved
from variata.run.ranks import cores
from variata.sweeps.jobs import Ended, command, ensure_marked

PATIENCE = 40.0  # seconds from a signal to the end of a job

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """What one job at a time has of the machine."""

    cores: list[int]
    gpus: list[str]


class Local:
    """Runs jobs in processes of their own, which write into output.log where there are several at a time.

    Args:
        jobs: At a time.
        gpus: Whether they use GPUs, where there are any.
    """

    def __init__(self, jobs: int, gpus: bool = True) -> None:
        if jobs < 1:
            raise ConfigError(f"jobs={jobs} is less than 1.")
        self.jobs, self.lock, self.running = jobs, threading.Lock(), list[subprocess.Popen]()
        self.free: queue.Queue[Share] = queue.Queue()
        for share in shares(jobs, gpus):
            self.free.put(share)
        self.stopped = False

    def run(self, jobs: Iterable[Job], ended: Ended) -> None:
        """Run jobs as they come: the next one is asked for when there is room. They end with this process.

        Args:
            jobs: A list, or an iterator that decides late.
            ended: Called after each, one at a time.
        """
        at_a_time = Parallel(self.jobs, backend="threading", pre_dispatch="n_jobs", return_as="generator_unordered")
        try:
            for _ in at_a_time(delayed(self._do)(job, ended) for job in jobs):
                pass
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let running jobs save and end; a second signal does not wait."""
        with self.lock:
            self.stopped, running = True, list(self.running)
        for process in running:
            process.terminate()
        try:
            for process in running:
                process.wait(PATIENCE)
        except BaseException:
            for process in running:
                process.kill()

    def _do(self, job: Job, ended: Ended) -> None:
        share = self.free.get()
        process = self._start(job, share)
        if process is None:
            return
        code = process.wait()
        with self.lock:
            self.running.remove(process)
            self.free.put(share)
            if not self.stopped:
                ensure_marked(job, code)
                ended(job)

    def _start(self, job: Job, share: Share) -> subprocess.Popen | None:
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ",".join(share.gpus)} if share.gpus else {})}
        with self.lock, output(job, own=self.jobs > 1) as file:
            if self.stopped:
                return None
            # a session of its own: Ctrl-C reaches a job once, through `stop`
            process = subprocess.Popen(
                [*command(job), str(os.getpid())],
                env=environment,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            self.running.append(process)
        with suppress(AttributeError, OSError):  # not on every system; or it has ended already
            os.sched_setaffinity(process.pid, share.cores)
        return process


def apart(composed: DictConfig) -> None:
    """Do the job Hydra is at in a process of its own."""
    Local(1).run([composed_job(resolved(composed))], lambda job: None)


@contextmanager
def output(job: Job, own: bool) -> Iterator[IO[str] | None]:
    """Where a job writes what it would show: this terminal, or a file of its own."""
    if not own:
        yield None
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / "output.log").open("a") as file:
        yield file


def shares(jobs: int, gpus: bool) -> list[Share]:
    """The machine's cores and GPUs in equal shares; with more jobs than cores, some have the same one."""
    mine, cards = cores(), visible_gpus() if gpus else []
    if cards and jobs > len(cards):
        raise ConfigError(
            f"jobs={jobs} on {len(cards)} GPUs: each has at least one. Use jobs={len(cards)}, or trainer=cpu."
        )
    return [Share(part(mine, i, jobs) or [mine[i % len(mine)]], part(cards, i, jobs)) for i in range(jobs)]


def part(things: list[T], i: int, parts: int) -> list[T]:
    """The i-th of equal parts; what does not divide evenly stays unused."""
    size = len(things) // parts
    return things[i * size : (i + 1) * size]


def visible_gpus() -> list[str]:
    """The GPUs this process may use, without waking them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name not in ("", "-1")]
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
