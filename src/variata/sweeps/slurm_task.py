"""What a job of SLURM's does: a task for each device keeps company to a process that does the job there.

It hears SLURM's signals, which reach all tasks and all processes below them: SIGUSR2 asks a job to make room, SIGTERM
says that SIGKILL follows. It lets the process save, and the first task asks SLURM for another turn, through submitit.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission

STOPPED = 128 + signal.SIGTERM  # exit code of a process that can go on later
STOP = ".stop"  # in a run directory: there is to be no next turn
GRACE = 600.0  # seconds from a SIGTERM of SLURM's to its SIGKILL, at most


class Task:
    """Starts the process of a job, and lets it save and come back when it has to make room.

    Args:
        command: That does the job, from its last checkpoint if there is one.
        folder: The run directory.
    """

    def __init__(self, command: list[str], folder: Path) -> None:
        self.command, self.folder = command, folder
        self.process: subprocess.Popen | None = None
        self.told = False  # by SLURM, that it is going to kill

    def __call__(self) -> None:
        """Do the job. The task ends as its process does."""
        if self._cancelled:
            sys.exit(STOPPED)
        signal.signal(signal.SIGTERM, self._hear)
        first = os.environ.get("SLURM_PROCID", "0") == "0"
        if first:
            (self.folder / "results.json").unlink(missing_ok=True)  # of the turn before
        with (self.folder / "output.log").open("a") if first else nullcontext() as output:
            self.process = subprocess.Popen(
                self.command,
                env=environment(),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),  # which is the task's to answer
            )
        code = self._end()
        if code == STOPPED and (self.told or not first):
            self._wait()  # a task that ended now would end the job, which SLURM or the first task puts in line again
        sys.exit(code)

    def checkpoint(self) -> DelayedSubmission:
        """Called in the first task to make room: what to do in the next turn. The other tasks' processes follow."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGTERM)
            if (code := self._end()) != STOPPED:
                sys.exit(code)  # done, or failed: there is no next turn
        if self._cancelled:
            sys.exit(STOPPED)
        return DelayedSubmission(Task(self.command, self.folder))

    @property
    def _cancelled(self) -> bool:
        return (self.folder / STOP).is_file()

    def _end(self) -> int:
        """Wait for the process, for its exit code as a shell tells it. A signal's handler may wait for it meanwhile."""
        assert self.process is not None
        how = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        assert how is not None
        return how.si_status if how.si_code == os.CLD_EXITED else 128 + how.si_status

    def _hear(self, signum: int, frame: Any) -> None:
        self.told = True

    def _wait(self) -> None:
        self.told, deadline = False, time.monotonic() + GRACE
        while not self.told and time.monotonic() < deadline:
            time.sleep(1.0)


def environment() -> dict[str, str]:
    """Of a process: it uses the cores that SLURM gave it, where nobody says otherwise."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    return {**({"OMP_NUM_THREADS": cores} if cores else {}), **os.environ}
