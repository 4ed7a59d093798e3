"""What can go wrong in ways a user can mend. Each carries the exit code the command line answers with."""

from collections.abc import Sequence
from pathlib import Path


class UserError(Exception):
    """Wrong input: the message says what was given, what is allowed and what to do."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration that cannot be built: unknown name, wrong type, parts that do not fit together."""


class DataError(UserError):
    """Data that is missing, damaged or not what its name says."""


class RunError(UserError):
    """A run directory or checkpoint that cannot be written, read or continued."""


class Busy(RunError):
    """Another process is at the run."""


class DiskFull(RunError):
    """A disk, quota or limit on files leaves no room for what a run writes."""

    exit_code = 1


class Diverged(UserError):
    """The loss became NaN or infinite."""

    exit_code = 1


class OutOfMemory(UserError):
    """The machine, a limit set on it, or a GPU had no memory left for what was asked."""

    exit_code = 1


class Defect(UserError):
    """An error nobody foresaw: ours to mend.

    Args:
        error: That was met.
    """

    exit_code = 1

    def __init__(self, error: BaseException | str) -> None:
        if isinstance(error, BaseException):
            lines = [line for line in str(error).splitlines() if line.strip()]
            error = f"{type(error).__name__}: {lines[-1].strip() if lines else 'without a word'}"
        super().__init__(f"{error}. This is a defect of variata; add debug=true to see where it lies.")


class DeviceLost(UserError):
    """The process of one device ended without a word; the others were stopped.

    Args:
        rank: Of the device.
        how: It ended.
        run: The run directory, where there is something to resume.
    """

    exit_code = 1

    def __init__(self, rank: int, how: str, run: Path | None = None) -> None:
        go_on = f"Go on with: python train.py resume={run}" if run else "There is no checkpoint yet to go on from."
        super().__init__(f"The process of device {rank} {how}; the run was stopped on all devices. {go_on}")


class JobsFailed(UserError):
    """Some jobs of a sweep ended without results; all others were done.

    Args:
        numbers: Of the jobs.
        total: Jobs of the sweep.
        folder: Of the sweep.
        command: That does them again; None for trials of a search, which counts failures.
    """

    exit_code = 1

    def __init__(self, numbers: Sequence[int], total: int, folder: Path, command: str | None) -> None:
        super().__init__(
            f"{len(numbers)} of {total} jobs failed: {', '.join(map(str, numbers))}. See {folder}/<job>/train.log. "
            + (f"Do what is missing or failed with: {command}" if command else "They count as trials.")
        )


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM, met at a point where the run can be continued from; no error, like KeyboardInterrupt.

    Args:
        signum: The signal, 2 or 15.
        run: The run directory, where there is something to resume.
        command: That goes on with something else than a run.
    """

    def __init__(self, signum: int, run: Path | None = None, command: str | None = None) -> None:
        command = f"python train.py resume={run}" if run else command
        super().__init__(f"Interrupted by signal {signum}.{f' Go on with: {command}' if command else ''}")
        self.signum, self.exit_code = signum, 128 + signum
