"""The console script `variata`: finds a command, reads its arguments, runs it.

A command is a module of this package whose docstring begins with how it is called and what it does,

    `variata NAME ...`: what it does.

and which has `parser()`, that reads its arguments, and `run(options)`, that does it. What takes seconds to import is
imported by `run`: a wrong argument does not wait for it.
"""

import re
import sys
from importlib import import_module
from pathlib import Path

from variata import commands as package
from variata.messages import did_you_mean, say

DOC = re.compile(r'"""`variata (\S+)[^`]*`: (.+?)\.?(?:"""|$)', re.MULTILINE)


def main() -> int:
    """`variata NAME ...`; returns the exit code."""
    name, sys.argv[1:] = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    known = commands()
    if name in ("-h", "--help"):
        sys.stdout.write(usage(known))
        return 0
    if name not in known:
        say(f"{name} is no command. {did_you_mean(name, known)} See `variata --help`.")
        return 2
    if name == "train":  # Hydra reads its words, and explains them
        from variata.commands.train import main as train

        return train()
    from variata.run.guard import guarded

    return guarded(lambda: run(name, sys.argv[1:]))


def commands() -> dict[str, str]:
    """What each command does, by its name."""
    files = sorted(path for folder in package.__path__ for path in Path(folder).glob("*.py"))
    texts = (path.read_text(encoding="utf-8") for path in files)
    return {found[1]: found[2] for text in texts if (found := DOC.match(text))}


def usage(known: dict[str, str]) -> str:
    """All commands, a line for each."""
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {what}" for name, what in known.items()]
    return "\n".join(["usage: variata COMMAND ...", "", *lines, "", "`variata COMMAND --help` says more of one.", ""])


def run(name: str, words: list[str]) -> None:
    """Do what a command is for, with the words given to it."""
    from variata.commands.arguments import read

    command = import_module(f"variata.commands.{name.replace('-', '_')}")
    command.run(read(command.parser(), words))


if __name__ == "__main__":
    sys.exit(main())
