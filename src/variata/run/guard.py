"""Around every command: whatever goes wrong is a paragraph on stderr and an exit code."""

import os
import sys
from collections.abc import Callable
from typing import Any

from variata.config.explain import told
from variata.errors import Interrupted
from variata.messages import say
from variata.run.ranks import Ranks
from variata.signals import interrupt, signals_to
from variata.streams import audible


def guarded(command: Callable[[], Any], others: Ranks | None = None) -> int:
    """Run a command; answer what goes wrong with a paragraph on stderr.

    Args:
        command: To be run.
        others: The processes a launcher started with this one: an error that all meet is told once.

    Returns:
        The exit code.
    """
    audible()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions over instead of printing and exiting
    try:
        with signals_to(interrupt):
            command()
    except (KeyboardInterrupt, Interrupted) as error:
        say("Interrupted." if isinstance(error, KeyboardInterrupt) else str(error))
        return getattr(error, "exit_code", 130)
    except Exception as error:
        if debugging():
            raise
        known = told(error)
        if others is None or others.leave(str(known)):
            say(f"Device {others.rank}: {known}" if others and others.rank else str(known))
        return known.exit_code
    if others:
        others.leave()
    return 0


def debugging() -> bool:
    """Whether the command line asks for tracebacks."""
    return any(word.lstrip("+") in ("debug=true", "debug=True") for word in sys.argv[1:])
