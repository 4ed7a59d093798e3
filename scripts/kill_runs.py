"""Kill runs at any moment, resume them, and compare what they come to with a run that nobody disturbed.

    python scripts/kill_runs.py --runs 50

Each run is a `train.py` of a tiny model that gets SIGKILL at one of its own accesses to a file below its outputs, or
within the milliseconds after it; every third one is killed again while it is resumed. Every other one has its temporary
folder on another file system than its outputs. In the end the weights of best.ckpt and last.ckpt have to be equal bit
for bit, results.json and metrics.csv but for how long things took. Exit code 1 if any differs.

The processes are forked from one that has imported everything, which saves each the 5 seconds of its start.
"""

import argparse
import csv
import json
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sklearn.datasets  # noqa: F401 (each run would import it anew)
import torch
from rich.console import Console

import variata.run.run  # noqa: F401 (as above)
from variata.commands import train as command
from variata.run.launch import quiet

OPTIONS = ["data=digits", "model=mlp_vae", "model.latent=2", "model.encoder.widths=[8]", "trainer.max_epochs=3"]
OPTIONS += ["trainer.check_val_every_n_epoch=1", "trainer.accelerator=cpu", "evaluate.nll.samples=2", "logger=none"]
# a checkpoint at each call: as often in one run as in another, so that an access has the same number in all
OPTIONS += ["updates_per_call=2", "log_every=5", "checkpoint_every=0.0", "callbacks.pictures.every=2"]
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate")
DELAYS = (0.0, 0.0003, 0.003, 0.03)  # seconds from an access to the kill
OTHERS = ("seconds", "images_per_second", "git_sha")  # ends of names of figures that tell of something else
MEMORY = Path("/dev/shm")
NOTES = TemporaryDirectory()
BLANK = "0".ljust(80)  # a note of the last access, before the first


@dataclass
class Blow:
    """What happens to a process from its access number `event` to a file below its outputs on; without one, never."""

    event: float = math.inf
    strike: Callable[[], None] = lambda: None

    def hook(self, outputs: Path, note: Path) -> Callable[[str, tuple], None]:
        """An audit hook, which Python calls at each access to a file; notes the last one."""
        seen, descriptor = 0, os.open(note, os.O_WRONLY)

        def watch(event: str, args: tuple) -> None:
            nonlocal seen
            if event not in EVENTS or not str(args[0]).startswith(f"{outputs}/"):
                return
            seen += 1
            text = f"{seen} {event} {Path(str(args[0])).name}"
            os.pwrite(descriptor, text[: len(BLANK)].ljust(len(BLANK)).encode(), 0)
            if seen >= self.event:
                self.strike()

        return watch


def kill(delay: float) -> None:
    """End this process some seconds from now."""
    if delay:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def train(
    outputs: Path, temporary: Path, words: list[str], blow: Blow | None = None, said: Path = Path(os.devnull)
) -> tuple[int, str]:
    """`train.py` in a process of its own: its exit code, negative where a signal ended it, and its last access.

    Args:
        outputs: The folder of its runs.
        temporary: Its folder of temporary files.
        words: Its arguments.
        blow: What happens to it.
        said: Where what it prints is appended.
    """
    note = Path(NOTES.name) / "last access"
    note.write_text(BLANK)
    if (child := os.fork()) == 0:
        os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
        printed = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        sys.argv = ["train.py", *words]
        sys.addaudithook((blow or Blow()).hook(outputs, note))
        try:
            os._exit(command.main())
        finally:  # an exception of its own: nothing of this process may be cleaned up
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), note.read_text().strip()


def run_of(outputs: Path) -> Path | None:
    """The run below a folder, if one has begun."""
    return next((path.parent for path in outputs.rglob("config.yaml")), None)


def phase(run: Path | None) -> str:
    """How far a run had come when it was killed."""
    if run is None or not (run / "checkpoints" / "last.ckpt").is_file():
        return "start"
    if (run / "results.json").is_file():
        return "closing"
    if any(row.get("test/elbo") for row in rows(run)):
        return "test"
    return "training, validated" if (run / "checkpoints" / "best.ckpt").is_file() else "training"


def rows(run: Path) -> list[dict[str, str]]:
    """Of metrics.csv, without what a clock measured."""
    if not (run / "metrics.csv").is_file():
        return []
    with (run / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if not name.endswith(OTHERS)} for row in found]


def outcome(run: Path) -> dict[str, Any]:
    """All of a finished run that may not depend on how often it was killed."""
    results = json.loads((run / "results.json").read_text())
    found: dict[str, Any] = {
        "results.json": {name: value for name, value in results.items() if not name.endswith(OTHERS)},
        "metrics.csv": rows(run),
        "files": sorted(path.name for path in run.rglob("*") if path.is_file() and "wandb" not in path.parts),
    }
    for name in ("best", "last"):
        state = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        found |= {f"{name}.ckpt {key}": value.numpy().tobytes() for key, value in state["state_dict"].items()}
        found[f"{name}.ckpt update"] = state["variata"]["step"]
    return found


def kill_and_resume(outputs: Path, temporary: Path, deaths: list[Blow]) -> tuple[list[str], list[str], str]:
    """Kill a run, and its resumed self, then let it end: where it was killed, how far it was, how it went on."""
    places, phases, how = list[str](), list[str](), "resumed"
    words = start = [*OPTIONS, f"outputs={outputs}"]
    for death in [*deaths, Blow()]:
        code, place = train(outputs, temporary, words, death)
        run = run_of(outputs)
        if code == 0:
            break
        if code > 0:
            return places, phases, f"FAILED with exit code {code}"
        places.append(place)
        phases.append(phase(run))
        begun = run is not None and (run / "checkpoints" / "last.ckpt").is_file()
        words = [f"resume={run}"] if begun else start
        if not begun and run is not None:  # resume= refuses; the same command begins in a directory of its own
            how, code = "started anew", train(outputs, temporary, [f"resume={run}"])[0]
            if code != 2:
                return places, phases, f"FAILED: a run without a checkpoint was resumed with exit code {code}"
            (run / "config.yaml").unlink()
    return places, phases, how


def main() -> int:
    """Print a line for each run, and how many came to the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice, same, console = random.Random(options.seed), 0, Console(width=200, highlight=False)
    console.print("run  the same  then          phase: last access, of each kill")
    with TemporaryDirectory() as disk, TemporaryDirectory(dir=MEMORY) as memory:
        folder, other = Path(disk), Path(memory)
        _, last = train(folder / "whole", folder, [*OPTIONS, f"outputs={folder / 'whole'}"])
        events = int(last.split()[0])
        expected = outcome(next(path.parent for path in (folder / "whole").rglob("results.json")))
        for number in range(options.runs):
            event = 1 + round((events - 1) * number / max(1, options.runs - 1))  # spread over the whole run
            moments = [event] + ([dice.randint(1, events // 2)] if number % 3 == 2 else [])
            deaths = [Blow(moment, partial(kill, dice.choice(DELAYS))) for moment in moments]
            outputs = folder / str(number)
            places, phases, how = kill_and_resume(outputs, other if number % 2 else folder, deaths)
            run = run_of(outputs)
            found = outcome(run) if run and (run / "results.json").is_file() else {}
            differ = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
            same += not differ
            kills = " | ".join(f"{phase}: {place}" for phase, place in zip(phases, places, strict=True))
            console.print(f"{number:3}  {'NO' if differ else 'yes':8}  {how:12}  {kills or 'it ended earlier'}")
            if differ:
                console.print(f"     differs: {', '.join(sorted(differ)[:5])}")
    console.print(f"{events} accesses; {same} of {options.runs} came to the same as the undisturbed run.")
    return 0 if same == options.runs else 1


if __name__ == "__main__":
    quiet()
    started = time.monotonic()
    code = main()
    sys.stderr.write(f"{time.monotonic() - started:.0f} s\n")
    sys.exit(code)
