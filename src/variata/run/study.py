"""The Optuna study of a sweep: a file of JSON lines, to which processes of several machines append.

Reading it runs nothing of it: Optuna unpickles snapshots of other stores, and the state of its CMA-ES (`sweeps.cmaes`).
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

NAME = "sweep"  # of the study
JOURNAL = "study.journal"  # in the directory of the sweep


def storage(path: str) -> "optuna.storages.JournalStorage":
    """What keeps a study in a file. One process at a time appends, also where the file system has no locks."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    return JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))


def mend(path: Path) -> None:
    """Drop a last line that a full disk or a machine that went down cut short: the next would be lost with it.

    Raises:
        ValueError: There is no whole line.
    """
    from optuna.storages.journal import JournalFileOpenLock

    lock = JournalFileOpenLock(str(path))
    lock.acquire()  # jobs may append meanwhile
    try:
        text = path.read_bytes()
        if text and b"\n" not in text:
            raise ValueError("there is no whole line in it")
        os.truncate(path, text.rfind(b"\n") + 1)
    finally:
        lock.release()
