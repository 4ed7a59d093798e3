"""The process of one device. It never composes a configuration: it is handed the jobs it takes part in.

What takes seconds to import is imported in functions: first of all a process watches the one it belongs to.
"""

import logging
import logging.config
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from variata import runs
from variata.cli.crew import Crew, crew
from variata.cli.job import Job
from variata.cli.launch import explain, say
from variata.cli.lock import PREDECESSOR, WRITER, alone
from variata.cli.signals import end_in_time, interrupt, signals_to
from variata.errors import Busy, Interrupted, RunError, UserError
from variata.sweeps.jobs import BUSY, outcome


def main() -> int:
    """Do the job in a file for the process named: as one of torch's agent's, as one of a launcher's, or alone."""
    file, parent, others = Path(sys.argv[1]), int(sys.argv[2]), crew()
    end_in_time(parent)
    job = Job.loads(file.read_text())
    begin(others.rank if others else 0, others.devices if others else 1)
    if others is None:
        return whole(job)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return part(job, others.rank)
    if others.rank > 0:
        return follow(others)
    code = whole(job)
    if code < 128 and not others.alone:  # a signal reaches the others too
        others.dismiss()
    return code


def part(job: Job, rank: int) -> int:
    """One device's part of a job; how it ended is left to the agent to tell."""
    from torch.distributed.elastic.multiprocessing.errors import record

    if rank == 0:
        logging.config.dictConfig(job.logging)
    try:
        with signals_to(interrupt):
            record(lead if rank == 0 else run)(job)
    except (UserError, Interrupted) as error:
        return error.exit_code
    except Exception:  # recorded, with its traceback
        return 1
    return 0


def whole(job: Job) -> int:
    """All of a sweep's job, while no other process is at it; nothing, where another has just done it."""
    try:
        with alone(job.folder, PREDECESSOR):
            if outcome(job.folder).well:
                say(f"The job {job.folder} was done meanwhile.")
                return 0
            return attempt(job)
    except Busy as error:
        say(str(error))
        return BUSY


def attempt(job: Job) -> int:
    """Do a job, from its last checkpoint if it was begun before; what goes wrong is marked."""
    from variata.cli.settings import checked
    from variata.cli.train import start

    (job.folder / "results.json").unlink(missing_ok=True)  # of an earlier attempt
    try:
        with signals_to(interrupt):
            logging.config.dictConfig(job.logging)
            start(replace(job, config=checked(job.config)).continued())
        return 0
    except Interrupted as error:
        say(str(error))
        return error.exit_code
    except Exception as error:
        told = (
            error if isinstance(error, UserError) else RunError(explain(error)) if isinstance(error, OSError) else None
        )
        if told is None:
            traceback.print_exc()
        else:
            say(str(told))
        runs.mark_failed(job.folder, job.config, job.overrides, str(told or f"{type(error).__name__}: {error}"))
        return told.exit_code if told else 1


def follow(others: Crew) -> int:
    """Do the jobs the first process hands out. It tells errors that all meet; one met here alone ends this process."""
    code = 0
    while (job := others.receive()) is not None:
        try:
            with others.agreeing(), signals_to(interrupt):
                run(job)
        except Interrupted as error:
            return error.exit_code
        except UserError as error:
            code = error.exit_code
            if others.alone:
                say(f"Device {others.rank}: {error}")
                return code
    return code


def lead(job: Job) -> None:
    """`run` for the process that writes: that of a command killed just now may still be at it."""
    with alone(job.folder, PREDECESSOR, WRITER):
        run(job)


def run(job: Job) -> None:
    """`work`, where what the operating system refuses is an error of the user's too."""
    from variata.cli.settings import checked
    from variata.cli.train import work

    checked(job.config)  # another process sent it: the same gate as for a configuration from elsewhere
    if job.config["resume"] and not job.folder.is_dir():
        raise RunError(f"{job.folder} is not on this machine: to resume, all machines need a common folder of runs.")
    try:
        work(job)
    except OSError as error:
        raise RunError(explain(error)) from error


def begin(rank: int, devices: int) -> None:
    """What every process of several needs: its share of the cores, and one voice.

    Args:
        rank: Of this process.
        devices: Processes that share the machine with it.
    """
    import torch

    from variata.cli.train import quiet

    quiet()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // devices))
    if rank > 0:
        logging.getLogger().addHandler(logging.NullHandler())


if __name__ == "__main__":
    sys.exit(main())
