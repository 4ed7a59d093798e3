"""How commands read their arguments, and those that several of them take, in one wording. Light: it comes first."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from variata.errors import ConfigError
from variata.messages import did_you_mean

MANY = 10**6
SEEDS = 2**32 - 1


def command(doc: str, *parents: ArgumentParser, epilog: str | None = None) -> ArgumentParser:
    """The parser of a command, explained by its module's docstring: "`variata NAME ...`: what it does"."""
    called, _, what = doc.partition("`: ")
    name = " ".join(called.lstrip("`").split()[:2])
    shown = RawDescriptionHelpFormatter
    return ArgumentParser(
        name, description=what[0].upper() + what[1:], parents=parents, epilog=epilog, formatter_class=shown
    )


def read(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    """The words of a command line.

    Raises:
        ConfigError: One is wrong; with what was perhaps meant.
    """

    def refuse(message: str) -> NoReturn:
        told = message.removeprefix("argument ").replace(": is ", " is ", 1).rstrip(".")
        raise ConfigError(f"{told}. See `{parser.prog} --help`.")

    parser.error = refuse  # type: ignore[method-assign]
    options, rest = parser.parse_known_intermixed_args(words)
    if rest:
        given, known = rest[0].partition("=")[0], [name for name in parser._option_string_actions if name[:2] == "--"]
        refuse(f"{rest[0]} is no argument of {parser.prog}. {did_you_mean(given, known)}")
    return options


def number(least: float, most: float, kind: Callable[[str], float] = int) -> Callable[[str], float]:
    """The type of an argument that lies between two numbers."""

    def within(word: str) -> float:
        with suppress(ValueError):
            if least <= (value := kind(word)) <= most:
                return value
        raise ArgumentTypeError(f"is a number from {least} to {most}, got {word}")

    return within


def of_a_run(seed: bool = True) -> ArgumentParser:
    """Which run is read, where, and with which noise; and where its data is now.

    Args:
        seed: Whether the noise has one seed.
    """
    parent = ArgumentParser(add_help=False)
    add = parent.add_argument
    add("run", type=Path, metavar="RUN", help="run directory, outputs/<data>-<model>/<run>")
    if seed:
        add("--seed", type=number(0, SEEDS), default=0, help="of everything drawn (%(default)s)")
    add("--device", choices=("cpu", "cuda"), help="where it is computed (cuda where there is one)")
    add("--data-root", metavar="FOLDER", help="where the data is now, if it moved; takes the place of data.root")
    add("--data-cache", metavar="FOLDER", help="of packed images, if it is not VARIATA_CACHE")
    return parent


def of_pictures(images: int, split: bool = True) -> ArgumentParser:
    """What is drawn of a run, and where it goes.

    Args:
        images: Shown if no number is given.
        split: Whether images of the data are shown.
    """
    parent = ArgumentParser(add_help=False, parents=[of_a_run()])
    add = parent.add_argument
    add("--out", type=Path, metavar="FOLDER", help="of the pictures; RUN/images if not given")
    add("--images", type=number(1, MANY), default=images, metavar="N", help="images or rows shown (%(default)s)")
    if split:
        add("--split", choices=("val", "test"), default="test", help="of the images (%(default)s)")
    return parent


def of_films() -> ArgumentParser:
    """What is drawn of a run that moves: a row of pictures, and a film of them."""
    parent = ArgumentParser(add_help=False, parents=[of_pictures(8)])
    steps = "pictures in a row (%(default)s)"
    parent.add_argument("--steps", type=number(2, MANY), default=11, metavar="N", help=steps)
    return parent


def of_samples() -> ArgumentParser:
    """How far from the middle pictures are drawn."""
    parent = ArgumentParser(add_help=False)
    scaled = "factor of the standard deviations of the prior or of a mixture's components (%(default)s)"
    parent.add_argument("--temperature", type=number(0, 100, float), default=1.0, metavar="T", help=scaled)
    return parent


def require_run(run: Path) -> None:
    """Refuse what is no run directory, before torch is imported to read one.

    Raises:
        RunError: It is none, or a damaged one.
    """
    from variata.run.directory import read_config

    read_config(run)
