"""A run on several devices of this machine: a process for each, started and watched by torch's elastic agent."""

import inspect
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from variata import errors
from variata.errors import DeviceLost, Interrupted, UserError
from variata.run import directory
from variata.run.job import Job
from variata.statuses import Status

log = logging.getLogger("variata")
agents = logging.getLogger("torch.distributed.elastic")
agents.propagate = False  # what it tells of a failure is told here
agents.addHandler(logging.NullHandler())

SIGNALS = ("SIGHUP", "SIGQUIT")  # handed on to all processes by torch's handlers; SIGTERM and SIGINT are by ours


def spread(job: Job, devices: int) -> None:
    """Run a job on several devices. It ends when all have ended, or with the first that fails.

    Raises:
        UserError: What a device met; once, however many met it.
        DeviceLost: A process was killed.
        Interrupted: Ctrl-C or SIGTERM.
    """
    with TemporaryDirectory() as folder, handlers_kept():
        path = Path(folder) / "job.json"
        path.write_text(job.dumps())
        agent = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle=",".join(SIGNALS),
        )
        try:
            elastic_launch(agent, sys.executable)("-P", "-m", "variata.run", str(path), str(os.getpid()))
        except SignalException as error:
            raise interrupted(job, error.sigval) from None
        except Interrupted as error:  # no Exception: torch would take some of those for a failed rendezvous
            raise interrupted(job, error.signum) from None
        except ChildFailedError as error:
            raise told(job, cause(job, error.failures)) from None


def interrupted(job: Job, signum: int) -> Interrupted:
    """What to raise after a signal, written into results.json where the first device could not."""
    error = Interrupted(signum, job.last)
    if (job.folder / "config.yaml").is_file() and not (job.folder / "results.json").is_file():
        directory.mark_failed(job.folder, job.config, job.overrides, str(error), status=Status.INTERRUPTED)
    return error


def cause(job: Job, failures: dict[int, ProcessFailure]) -> BaseException:
    """Why a run ended, from how its processes did: one that fails takes the others with it."""
    for _, failure in sorted(failures.items()):
        if isinstance(failure.message, dict) and (error := recorded(failure.message)) and not job.config["debug"]:
            return error
    for rank, failure in failures.items():
        if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM:  # that may have been the agent
            return DeviceLost(rank, f"was killed by {failure.signal_name()}", job.last)
    for rank, failure in failures.items():  # the first to fail comes first
        if isinstance(failure.message, dict):
            return RuntimeError(f"Device {rank} failed:\n{failure.message['extraInfo']['py_callstack']}")
        if failure.exitcode - 128 in (signal.SIGINT, signal.SIGTERM):
            return Interrupted(failure.exitcode - 128, job.last)
    rank, failure = next(iter(failures.items()))
    return DeviceLost(rank, f"ended with exit code {failure.exitcode}", job.last)


def recorded(message: dict[str, Any]) -> UserError | None:
    """The error of ours that torch's `record` wrote down as `class: text`."""
    name, _, text = message["message"].partition(": ")
    kind = getattr(errors, name, None)
    return kind(text) if inspect.isclass(kind) and issubclass(kind, UserError) else None


def told(job: Job, error: BaseException) -> BaseException:
    """The error, written into train.log, and into results.json, for the first device may have been the one lost."""
    log.error("%s", error)
    if not isinstance(error, Interrupted) and (job.folder / "config.yaml").is_file():
        directory.mark_failed(job.folder, job.config, job.overrides, str(error))
    return error


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the signal handlers back that the agent replaces and leaves."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in SIGNALS}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
