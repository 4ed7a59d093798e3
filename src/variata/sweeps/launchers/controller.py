"""What SLURM is asked and told, by its own commands. That it does not answer is no news: it says nothing of jobs."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from variata.messages import say

OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
OVER |= {"REVOKED", "TIMEOUT", "FORGOTTEN"}
UNKNOWN = "Invalid job id"  # an answer too
BUSY = ("Unable to contact", "Socket timed out", "try again", "temporarily")  # what a controller does not do for now
LARGEST = 1001  # jobs of an array, where a site does not say otherwise
ANSWER = 60.0  # seconds a command may take
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds before asking again


def states(numbers: Iterable[str]) -> dict[str, str] | None:
    """What SLURM makes of each job, and why; None where it does not answer."""
    arrays = ",".join(sorted({number.split("_")[0] for number in numbers}))
    listed = asked("squeue", "--noheader", "--array", "--states=all", f"--jobs={arrays}", "--format=%i %T %r")
    if listed is None:
        return None
    known = dict(line.split(maxsplit=1) for line in listed.splitlines())
    # an array cancelled before it began is listed as a whole, and what ended long ago not at all
    return {one: known.get(one) or known.get(one.split("_")[0]) or "FORGOTTEN" for one in numbers}


def alive(numbers: Iterable[str], logs: Path) -> set[str]:
    """Which jobs, handed over from a folder, wait or run; another cluster may have given their numbers again."""
    arrays = ",".join(sorted({number.split("_")[0] for number in numbers}))
    question = ("squeue", "--noheader", "--array", "--states=all", f"--jobs={arrays}", "--format=%i|%T|%o")
    found = set()
    for line in patiently(lambda: asked(*question)).splitlines():
        number, state, script = line.split("|", 2)
        if state not in OVER and Path(script).is_relative_to(logs.absolute()):
            found.add(number)
    return found & set(numbers)


def largest_array() -> int:
    """How many jobs the site takes as one array."""
    settings = patiently(lambda: asked("scontrol", "show", "config"))
    largest = re.search(r"^MaxArraySize\s*=\s*(\d+)", settings, re.MULTILINE)
    return max(1, int(largest[1])) if largest else LARGEST


def cancel(*words: str) -> bool:
    """Tell SLURM to end jobs, or send them a signal; some may have ended meanwhile. Returns whether it heard."""
    for pause in (*PAUSES[:3], None):
        done = run("scancel", "--quiet", *words)
        if done is not None and not busy(done.stderr):
            return True
        if pause:
            time.sleep(pause)
    return False


def busy(words: str) -> bool:
    """Whether SLURM's error says that it may answer later."""
    return any(said in words for said in BUSY)


def patiently(question: Callable[[], str | None]) -> str:
    """Ask until there is an answer."""
    pauses = iter(PAUSES)
    while (answer := question()) is None:
        if (pause := next(pauses, PAUSES[-1])) == PAUSES[2]:
            say("SLURM does not answer. It is asked again until it does; Ctrl-C ends that.")
        time.sleep(pause)
    return answer


def asked(*question: str) -> str | None:
    """What a command of SLURM's prints; None where it fails for another reason than a job it does not know."""
    done = run(*question)
    return done.stdout if done is not None and (done.returncode == 0 or UNKNOWN in done.stderr) else None


def run(*command: str) -> subprocess.CompletedProcess[str] | None:
    """A command of SLURM's as it ended, without what a user has squeue leave out; None where it did not in time."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        return subprocess.run(command, env=plain, capture_output=True, text=True, check=False, timeout=ANSWER)
    except subprocess.TimeoutExpired:
        return None
