"""`python -m variata.run JOB PARENT [PATIENCE]`: do the job in a file, in a process of its own.

It never composes a configuration. What takes seconds to import is imported in functions: first of all a process watches
the one it belongs to.
"""

import logging.config
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from variata.config.explain import told
from variata.errors import Busy, Interrupted, UserError
from variata.messages import say
from variata.run import directory
from variata.run.directory import BUSY, outcome
from variata.run.guard import guarded
from variata.run.job import Job
from variata.run.lock import PREDECESSOR, WRITER, alone
from variata.run.ranks import Ranks, ranks
from variata.signals import PATIENCE, end_in_time, interrupt, signals_to


def main() -> int:
    """Do the job for the process named, which may have started others for the same; returns the exit code."""
    file, parent = Path(sys.argv[1]), int(sys.argv[2])
    end_in_time(parent, float(sys.argv[3]) if len(sys.argv) > 3 else PATIENCE)
    job, others = Job.loads(file.read_text()), ranks()
    if others and others.elastic:
        return part(job, others)
    return guarded(lambda: follow(job, others) if others and others.rank else lead(job, others), others)


def part(job: Job, others: Ranks) -> int:
    """One device's part of a run; how it ended is left to the agent to tell."""
    from torch.distributed.elastic.multiprocessing.errors import record

    try:
        with signals_to(interrupt):
            record(write if others.rank == 0 else launched)(job)
    except (UserError, Interrupted) as error:
        return error.exit_code
    except Exception:  # recorded, with its traceback
        return 1
    return 0


def write(job: Job) -> None:
    """The part of the device that writes: that of a command killed just now may still be at it."""
    with alone(job.folder, PREDECESSOR, WRITER):
        logging.config.dictConfig(job.logging)
        launched(job)


def lead(job: Job, others: Ranks | None) -> None:
    """A sweep's job, while no other process is at it; nothing, where another has just done it."""
    with left_alone(job), alone(job.folder, PREDECESSOR):
        if outcome(job.folder).well:
            say(f"The job {job.folder} was done meanwhile.")
            return
        (job.folder / "results.json").unlink(missing_ok=True)  # of an earlier attempt
        if others:
            others.go_to(job.folder)
        with marked(job):
            logging.config.dictConfig(job.logging)
            launched(job.continued())


def follow(job: Job, others: Ranks) -> None:
    """A device's part of a sweep's job, once the first one leads."""
    others.folder()
    launched(job.continued())


def launched(job: Job) -> None:
    """`launch`, through the same gate as a configuration from elsewhere: another process sent it."""
    from variata.config.schema import checked
    from variata.run.launch import launch

    launch(replace(job, config=checked(job.config)))


@contextmanager
def left_alone(job: Job) -> Iterator[None]:
    """End with a code of its own where another process is at the job: it is not done, and has not failed."""
    try:
        yield
    except Busy as error:
        say(str(error))
        sys.exit(BUSY)


@contextmanager
def marked(job: Job) -> Iterator[None]:
    """Say in results.json why a job failed, also where it could not begin."""
    try:
        yield
    except Exception as error:
        directory.mark_failed(job.folder, job.config, job.overrides, str(told(error)))
        raise


if __name__ == "__main__":
    sys.exit(main())
