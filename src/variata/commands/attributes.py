"""`variata attributes RUN --attribute NAME`: directions such as Smiling, applied to images and judged by probes."""

from argparse import ArgumentParser, Namespace

from variata.commands.arguments import command, number, of_pictures
from variata.commands.evaluate import judged


def parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = command(__doc__, of_pictures(8))
    add = parser.add_argument
    add(
        "--attribute",
        action="append",
        required=True,
        metavar="NAME",
        help="such as Smiling; may be given several times",
    )
    strengths = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    add("--strengths", type=float, nargs="+", default=strengths, metavar="S", help="of the edits (%(default)s)")
    limit = "training images the directions are computed from (%(default)s)"
    add("--limit", type=number(2, 10**9), default=20_000, metavar="N", help=limit)
    return parser


def run(options: Namespace) -> None:
    """Judge, and say where the pictures are: `variata evaluate RUN evaluate=[attributes]`, with options of its own."""
    values = {name: getattr(options, name) for name in ("strengths", "limit", "images", "split", "seed")}
    values["names"] = options.attribute
    judged(options, ["evaluate=[attributes]"], {"attributes": values}, out=options.out)
