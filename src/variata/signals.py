"""What ends a command and its processes: signals, and the end of the process they belong to. Light: it comes first."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from select import select

from variata.errors import Interrupted

ECHO = 2.0  # seconds in which signals are one: `timeout` sends two, SLURM and torch's agent may both send theirs
PATIENCE = 15.0  # seconds from a signal to a second one, which does not wait
CLOSING = 5.0  # seconds from that to the end: together less than the agent's 30, after which it kills

_heard: list[float] = []  # when signals were


@contextmanager
def signals_to(act: Callable[[int], None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM call `act`, once for those that come together."""

    def hear(signum: int, frame: object) -> None:
        now = time.monotonic()
        if not _heard or now - _heard[-1] > ECHO:
            _heard.append(now)
            act(signum)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(signum: int) -> None:
    """End whatever is being done."""
    raise Interrupted(signum)


def end_in_time(parent: int, patience: float = PATIENCE) -> None:
    """End this process when a signal has not done so after a while, and when the process it belongs to is gone.

    Python's handlers first hear a second signal, with which a run ends wherever it is, as in a compiler. It may also be
    waiting in a library for a device that is gone, where no handler of Python's runs; a thread does. Until somebody
    handles signals there is nothing to save, and they end the process at once.

    Args:
        parent: Started this process; if it is another one's child by now, that is over.
        patience: Seconds from a signal to a second one.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)

    def watch() -> None:
        asked = set[int]()
        while not asked:
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
            signals = os.read(read, 64) if select([read], [], [], 0.5)[0] else b""
            asked = {int(signal.SIGINT), int(signal.SIGTERM)} & set(signals)
        time.sleep(patience)
        os.kill(os.getpid(), min(asked))
        time.sleep(CLOSING)
        os._exit(128 + min(asked))

    threading.Thread(target=watch, daemon=True).start()
