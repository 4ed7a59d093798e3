"""`variata reconstruct RUN`: images of a split, each followed by its reconstruction."""

from argparse import ArgumentParser, Namespace

from variata.commands.arguments import command, of_pictures, require_run


def parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = command(__doc__, of_pictures(64))
    parser.add_argument("--alone", action="store_true", help="leave the originals out")
    return parser


def run(options: Namespace) -> None:
    """Draw, and say where the pictures are."""
    require_run(options.run)
    from variata.commands.pictures import execute

    execute("reconstruct", options)
