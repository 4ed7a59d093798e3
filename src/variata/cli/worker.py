"""The process of one device. It never composes a configuration: it is handed the jobs it takes part in."""

import logging
import logging.config
import os
import signal
import sys
import threading
import time
from pathlib import Path
from select import select

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from variata.cli.crew import Crew
from variata.cli.job import Job
from variata.cli.launch import explain, say
from variata.cli.settings import checked
from variata.cli.train import quiet, work
from variata.errors import Interrupted, RunError, UserError

PATIENCE = 20.0  # seconds from a signal to the end of the process: less than the agent's 30, after which it kills


def main() -> int:
    """Do the job in the file the agent names, and leave to the agent to tell how it ended."""
    job, rank = Job.loads(Path(sys.argv[1]).read_text()), int(os.environ["RANK"])
    begin(rank, int(os.environ["LOCAL_WORLD_SIZE"]))
    if rank == 0:
        logging.config.dictConfig(job.logging)
    try:
        record(run)(job)
    except (UserError, Interrupted) as error:
        return error.exit_code
    except Exception:  # recorded, with its traceback
        return 1
    return 0


def follow(crew: Crew) -> int:
    """Do the jobs the first process hands out. It tells errors that all meet; one met here alone ends this process."""
    code = 0
    while (job := crew.receive()) is not None:
        try:
            with crew.agreeing():
                run(job)
        except Interrupted as error:
            return error.exit_code
        except UserError as error:
            code = error.exit_code
            if crew.alone:
                say(f"Device {crew.rank}: {error}")
                return code
    return code


def run(job: Job) -> None:
    """`work`, where what the operating system refuses is an error of the user's too."""
    checked(job.config)  # another process sent it: the same gate as for a configuration from elsewhere
    if job.config["resume"] and not job.folder.is_dir():
        raise RunError(f"{job.folder} is not on this machine: to resume, all machines need a common folder of runs.")
    try:
        work(job)
    except OSError as error:
        raise RunError(explain(error)) from error


def begin(rank: int, devices: int) -> None:
    """What every process of several needs: its share of the cores, an end in sight, one voice."""
    quiet()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // devices))
    end_in_time()
    if rank > 0:
        logging.getLogger().addHandler(logging.NullHandler())


def end_in_time() -> None:
    """End this process when a signal has not done so after a while, and when the process that started it is gone.

    It may be waiting in a library for a device that is gone, where no handler of Python's runs; a thread does.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    parent = os.getppid()

    def watch() -> None:
        signals = b""
        while not {signal.SIGINT, signal.SIGTERM} & set(signals):
            signals = os.read(read, 64) if select([read], [], [], 1.0)[0] else b""
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
