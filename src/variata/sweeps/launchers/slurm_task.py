"""What a job of SLURM's does: a task for each device keeps company to a process that does the job there.

It hears SLURM's signals, which reach all tasks and all processes below them: SIGUSR2 asks a job to make room, SIGTERM
says that SIGKILL follows. It lets the process save, and the first task asks SLURM for another turn, through submitit:
in time, also where the process does not come to a point at which it can save, as in a long validation. Of a delay of d
seconds the process has 0.8 d to get there, and then goes on later from its last checkpoint.
"""

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission

from variata.sweeps.launchers.slurm_listen import SIGNALS

STOPPED = 128 + signal.SIGTERM  # exit code of a process that can go on later
STOP = ".stop"  # in a run directory: there is to be no next turn
GRACE = 600.0  # seconds from a SIGTERM of SLURM's to its SIGKILL, at most
LOOK = 0.2  # seconds between two looks at a process
SAVING, ASKING = 0.8, 0.9  # of the delay, when a process that has not saved is to end without, and when SLURM is asked


class Task:
    """Starts the process of a job, and lets it save and come back when it has to make room.

    Args:
        command: That does the job, from its last checkpoint if there is one.
        folder: The run directory.
        delay: Seconds from SIGUSR2 to the end of the turn.
    """

    def __init__(self, command: list[str], folder: Path, delay: float) -> None:
        self.command, self.folder, self.delay = command, folder, delay
        self.process: subprocess.Popen | None = None
        self.told = False  # by SLURM, that it is going to kill

    def __call__(self) -> None:
        """Do the job. The task ends as its process does."""
        if self._cancelled:
            sys.exit(STOPPED)
        first = os.environ.get("SLURM_PROCID", "0") == "0"
        for number in (signal.SIGTERM,) if first else SIGNALS:  # it is for the first to make room
            signal.signal(number, self._hear)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # what came before is heard now
        if self.told:
            self._wait()
            sys.exit(STOPPED)
        with (self.folder / "output.log").open("a") if first else nullcontext() as output:
            self.process = subprocess.Popen(
                [*self.command, str(os.getpid()), str(SAVING * self.delay)],
                env=environment(),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),  # which is the task's to answer
            )
        code = self._end()
        # of several, one that stops takes away what the others wait for: they fail
        stopped = code == STOPPED or (code != 0 and self.told and not first)
        if stopped and (self.told or not first):
            self._wait()  # a task that ended now would end the job, which SLURM or the first task puts in line again
        sys.exit(code)

    def checkpoint(self) -> DelayedSubmission:
        """Called in the first task to make room: what to do in the next turn. The other tasks' processes follow."""
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # to ask again would ask the process not to wait
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGTERM)
            code = self._end(within=ASKING * self.delay)
            if code not in (STOPPED, None):
                sys.exit(code)  # done, or failed: there is no next turn
        if self._cancelled:
            sys.exit(STOPPED)
        return DelayedSubmission(Task(self.command, self.folder, self.delay))

    @property
    def _cancelled(self) -> bool:
        return (self.folder / STOP).is_file()

    def _end(self, within: float = math.inf) -> int | None:
        """Wait for the process, for its exit code as a shell tells it; None where it has not ended in some seconds.

        A signal's handler may wait for it meanwhile.
        """
        assert self.process is not None
        deadline, look = time.monotonic() + within, os.WEXITED | os.WNOWAIT | os.WNOHANG
        while (how := os.waitid(os.P_PID, self.process.pid, look)) is None:
            if time.monotonic() > deadline:
                return None
            time.sleep(LOOK)
        return how.si_status if how.si_code == os.CLD_EXITED else 128 + how.si_status

    def _hear(self, signum: int, frame: Any) -> None:
        self.told = True

    def _wait(self) -> None:
        self.told, deadline = False, time.monotonic() + GRACE
        while not self.told and time.monotonic() < deadline:
            time.sleep(1.0)


def environment() -> dict[str, str]:
    """Of a process: it uses the cores SLURM gave it, where nobody says otherwise."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    return {**({"OMP_NUM_THREADS": cores} if cores else {}), **os.environ}
