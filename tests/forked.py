"""Commands in forks of one process that has imported everything: each costs what it does, not its start.

As a program it is that process: it reads requests as lines of JSON, and answers each with its exit code.
"""

import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.types import RunMode

LIMIT = 60.0  # seconds, after which a command counts as hanging
MEMORY = 8 * 2**30  # bytes of addresses: what a wrong value asks for is refused, not taken from the machine


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, minus the signal that killed it, None where it had to be."""

    code: int | None
    out: str
    err: str
    seconds: float  # of processor time


class Forks:
    """Runs commands as `python train.py` and `variata` would, with the environment given."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, folder: Path, *words: str, program: str = "train", limit: float = LIMIT) -> Ended:
        """The command, in a folder."""
        request = {"folder": str(folder), "words": words, "program": program, "limit": limit}
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        out, err = (Path(f"{folder}.{name}").read_text(errors="replace") for name in ("out", "err"))
        return Ended(answer["code"], out, err, answer["seconds"])

    def close(self) -> None:
        """End the process; it has no commands left."""
        assert self.server.stdin
        self.server.stdin.close()
        self.server.wait()


def serve() -> None:
    """Answer requests until there are no more."""
    warm()
    for line in sys.stdin:
        request = json.loads(line)
        code, seconds = forked(request["folder"], request["program"], request["words"], request["limit"])
        sys.stdout.write(json.dumps({"code": code, "seconds": seconds}) + "\n")
        sys.stdout.flush()
    os._exit(0)  # libraries would tell what they leave


def warm() -> None:
    """Import what commands import. No parallel region may run here: its threads are not there in a fork."""
    import sklearn.datasets  # noqa: F401
    import torch
    import torch.distributed.elastic.multiprocessing

    import variata.commands.compare
    import variata.commands.ls
    import variata.commands.pictures
    import variata.run.run
    import variata.sweeps.sweeper  # noqa: F401

    torch.set_num_threads(1)
    compose_once()
    gc.freeze()  # else a fork copies what its collector looks at


def compose_once() -> None:
    """Hydra composes a first time to learn `hydra.mode`: here only where a word may say it, to save half the time."""
    from hydra._internal.hydra import Hydra

    asked = Hydra.get_mode

    def get_mode(self: Hydra, config_name: str, overrides: list[str]) -> RunMode | None:
        told = any("hydra" in word for word in overrides)
        return asked(self, config_name, overrides) if told else RunMode.RUN

    Hydra.get_mode = get_mode


def forked(folder: str, program: str, words: Sequence[str], limit: float) -> tuple[int | None, float]:
    """The exit code of a command in a fork and a process group of its own, and the processor time it took."""
    child = os.fork()
    if child == 0:
        os._exit(command(folder, program, words))
    with os.fdopen(os.pidfd_open(child)) as ended:
        late = not select.select([ended], [], [], limit)[0]
    if late:
        os.killpg(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    return None if late else os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def command(folder: str, program: str, words: Sequence[str]) -> int:
    """In the fork: be the command."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number, place, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, f"{folder}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, f"{folder}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(place, flags), number)
    os.chdir(folder)
    sys.argv = [program, *words]
    try:
        if program == "train":
            from variata.commands.train import main
        else:
            from variata.commands.main import main
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve()
