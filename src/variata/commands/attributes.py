"""Directions of attributes in the latent space of a run."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from variata.commands import evaluate
from variata.errors import ConfigError
from variata.run.guard import guarded

STRENGTHS = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]


def main() -> int:
    """`variata attributes RUN --attribute NAME`: `variata evaluate RUN evaluate=[attributes]`, with its own options."""
    options = parser().parse_args()
    return guarded(lambda: attributes(options))


def parser() -> ArgumentParser:
    """The options of the command."""
    what = "Attributes' directions, applied to held-out images and judged by linear probes."
    parser = ArgumentParser("variata attributes", description=what)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run directory, outputs/<data>-<model>/<run>")
    add("--attribute", action="append", required=True, metavar="NAME", help="such as Smiling; may be repeated")
    add("--strengths", type=float, nargs="+", default=STRENGTHS, help="of the edits (%(default)s)")
    add("--limit", type=int, default=20_000, help="training images the directions are computed from (%(default)s)")
    add("--images", type=int, default=8, help="images or rows shown (%(default)s)")
    add("--split", choices=("val", "test"), default="test", help="of the images shown (%(default)s)")
    add("--seed", type=int, default=0, help="of everything drawn (%(default)s)")
    add("--out", type=Path, help="folder of pictures and attributes.json; if not given, RUN/images and RUN")
    evaluate.add_places(parser)
    return parser


def attributes(options: Namespace) -> None:
    """Refuse what is out of range, judge."""
    if options.images < 1 or options.limit < 2 or not 0 <= options.seed < 2**32:
        raise ConfigError(
            "--images is at least 1, --limit at least 2 and --seed a number from 0 to 2^32 - 1, "
            f"got {options.images}, {options.limit} and {options.seed}."
        )
    values = {name: getattr(options, name) for name in ("strengths", "limit", "images", "split", "seed")}
    values["names"] = options.attribute
    evaluate.run(options, ["evaluate=[attributes]"], {"attributes": values}, out=options.out)
