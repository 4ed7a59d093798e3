"""How a run starts: on one device in this process, on several in one for each."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.accelerators import CPUAccelerator

from variata.config.targets import build
from variata.errors import ConfigError, DiskFull, RunError, UserError
from variata.run import disk
from variata.run.job import Job
from variata.run.ranks import cores, ranks, torchrun
from variata.run.run import Run


def launch(job: Job) -> None:
    """Do a job. Where a launcher started a process for each device, this is one of them, and takes its part.

    Raises:
        UserError: Something the user can mend. What is found before training begins leaves nothing behind.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
    """
    quiet()
    options = job.config["trainer"]
    if others := ranks():
        others.require(options["num_nodes"], options["devices"])
        others.share_machine()
        if job.config["resume"] and not job.folder.is_dir():
            raise RunError(f"{job.folder} is not on this machine: to resume, all need a common folder of runs.")
        work(job)
    elif (devices := processes(options)) > 1:
        from variata.run.elastic import spread

        with full_disk_told(job):
            spread(job, devices)
    else:
        work(job)


def work(job: Job) -> None:
    """This process's part of a run."""
    with full_disk_told(job):
        run = Run(job)
        with run.reported(), full_disk_told(job):
            run.fit()
            run.test()


def processes(options: dict[str, Any]) -> int:
    """How many devices trainer= means here: Lightning knows how to read `auto`, -1 and lists."""
    if options["num_nodes"] > 1:
        raise ConfigError(
            f"trainer.num_nodes={options['num_nodes']} needs a launcher that starts the processes of every machine. "
            f"Run on each: {torchrun(options['num_nodes'], options['devices'])} --rdzv-backend=c10d "
            "--rdzv-endpoint=<first machine>:29500 train.py ..., or use srun."
        )
    if options["devices"] in (1, "1"):
        return 1
    chosen = {name: options[name] for name in ("_target_", "accelerator", "devices")}
    trainer = build(chosen, "trainer", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    number, mine = trainer.num_devices, len(cores())
    if isinstance(trainer.accelerator, CPUAccelerator) and number > mine and not options.get("crowded"):
        raise ConfigError(
            f"trainer.devices={options['devices']} on a CPU is {number} processes, more than the cores there are, "
            f"{mine}. Use trainer.devices={mine} or fewer, or insist with trainer.crowded=true."
        )
    return number


@contextmanager
def full_disk_told(job: Job) -> Iterator[None]:
    """Say of a full disk which it is and how to go on, whichever library met it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or (found := disk.full(error)) is None:
            raise
        go_on = f"go on with: python train.py resume={job.last}" if job.last else "start again"
        raise DiskFull(f"{disk.full_disk(found, job.folder)} Then {go_on}") from error


def quiet() -> None:
    """Silence what Lightning says about things that are as they should be, and undo a setting of its that costs time.

    With it every update of a fused optimizer looks for NVIDIA's management library; where there is none, on the disk.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a log that cannot be written prints no traceback
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found" on every CPU
    expected = [
        *("does not have many workers", "not resumable", "LeafSpec", "smaller than the logging interval"),
        "exists and is not empty",  # the checkpoints of a resumed run
        "command is available on your system but is not used",  # srun, on a machine where runs need no SLURM
        "It is recommended to use `self.log",  # what is logged is computed over all devices
        "was called before the ``update`` method",  # by a device for which no batch was left
    ]
    for message in expected:
        warnings.filterwarnings("ignore", f".*{message}")
