"""Let the disk of a run fill up at any moment, and see that it says so, and goes on once there is room.

    python scripts/full_disk.py --runs 10

Each run writes into a file system of its own in memory, which is full from one of the run's accesses to a file on. It
has to end with one paragraph that names what is full, with results.json whole or not there, and, resumed, come to the
same as a run that nobody disturbed. Every other run also writes W&B's files. Then the temporary folder fills up, of two
runs with W&B and of one on two devices. Mounting needs root; without it a limit on the size of files does.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from kill_runs import OPTIONS, Blow, outcome, phase, run_of, train
from rich.console import Console

import variata.run.run  # noqa: F401 (each run would import it anew)
from variata.run.launch import quiet

SIZE = 16 * 2**20  # bytes of the file system
ONLINE = ["logger=wandb", "logger.mode=offline"]


@contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """A small file system of its own at a folder, where it may be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no room in a file system."""
    descriptor = os.open(folder / "ballast", os.O_WRONLY | os.O_CREAT)
    for size in (2**20, 2**12, 1):
        try:
            while True:
                os.write(descriptor, b"0" * size)
        except OSError:
            continue
    os.close(descriptor)


def limit(folder: Path) -> None:
    """Let no file of this process grow above 100 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def ending(said: str, run: Path | None) -> list[str]:
    """What is wrong with how a run ended that met a full disk."""
    wrong = {
        "a traceback": "Traceback" in said or "Logging error" in said,
        "no single sentence": said.count("variata:") != 1,
        "the full disk is not named": not any(reason in said for reason in ("No space left", "File too large")),
        "results.json is wrong": run is not None
        and (run / "results.json").is_file()
        and json.loads((run / "results.json").read_text())["status"] != "failed",
    }
    return [name for name, is_so in wrong.items() if is_so]


def fill_and_resume(
    folder: Path, small: Path, outputs: Path, temporary: Path, words: list[str], blow: Blow
) -> list[str]:
    """Run until the small disk is full, make room, go on: where it was, what it said, what is wrong."""
    (folder / "said").unlink(missing_ok=True)
    code, place = train(outputs, temporary, [*words, f"outputs={outputs}"], blow, folder / "said")
    said = " ".join((folder / "said").read_text().split())
    run = run_of(outputs)
    message = said[said.rfind("variata:") :] if code else "it needed no more room"
    wrong = ending(said, run) if code else []
    where = phase(run)
    (small / "ballast").unlink(missing_ok=True)
    resumable = run is not None and (run / "checkpoints" / "last.ckpt").is_file()
    if code and resumable != ("resume=" in message):
        wrong.append("how to go on is not told")
    if code and not resumable and run is not None:  # it had not begun to train
        (run / "config.yaml").unlink()
    if code:
        again = [f"resume={run}"] if resumable else [*words, f"outputs={outputs}"]
        code = train(outputs, temporary, again)[0]
    wrong += [f"exit code {code} after it was resumed"] if code else []
    return [place, where, message.replace(str(outputs.parent), "..."), ", ".join(wrong)]


def main() -> int:
    """Print a line for each run, and how many did as they should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    good, number, console = 0, 0, Console(width=200, highlight=False)

    with TemporaryDirectory() as name:
        folder = Path(name)
        _, last = train(folder / "whole", folder, [*OPTIONS, f"outputs={folder / 'whole'}"])
        expected, events = outcome(run_of(folder / "whole")), int(last.split()[0])

        def attempt(full: str, words: list[str], event: int) -> None:
            nonlocal good, number
            with disk(folder / f"disk{number}") as mounted:
                small = folder / f"disk{number}"
                outputs, temporary = (small / "o", folder) if full == "outputs" else (folder / f"o{number}", small)
                strike = partial(fill if mounted else limit, small)
                row = fill_and_resume(folder, small, outputs, temporary, words, Blow(event, strike))
                found = outcome(run_of(outputs)) if not row[-1] else {}
            if found and "devices" not in " ".join(words):
                row[-1] = ", ".join(name for name in expected if expected[name] != found.get(name))
            good, number = good + (not row[-1]), number + 1
            place, where, message, wrong = row
            console.print(
                f"{number:2} {full}, {where}: {place}\n   {message}\n   {f'WRONG: {wrong}' if wrong else 'good'}"
            )

        for run in range(options.runs):
            event = 1 + round((events - 1) * run / max(1, options.runs - 1))  # spread over the whole run
            attempt("outputs", [*OPTIONS, *(ONLINE if run % 2 else [])], event)
        attempt("TMPDIR", [*OPTIONS, *ONLINE], 10)
        attempt("TMPDIR", [*OPTIONS, *ONLINE], events // 2)
        attempt("TMPDIR", [*OPTIONS, "trainer.devices=2"], 1)
    console.print(f"{good} of {number} did as they should.")
    return 0 if good == number else 1


if __name__ == "__main__":
    quiet()
    sys.exit(main())
