"""`variata sample RUN`: new images, of the prior or of a mixture fitted to the codes of training images."""

from argparse import ArgumentParser, Namespace

from variata.commands.arguments import command, of_pictures, of_samples, require_run


def parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = command(__doc__, of_pictures(64, split=False), of_samples())
    fitted = "gmm: a mixture fitted to codes (%(default)s)"
    parser.add_argument("--sampler", choices=("prior", "gmm"), default="prior", help=fitted)
    return parser


def run(options: Namespace) -> None:
    """Draw, and say where the pictures are."""
    require_run(options.run)
    from variata.commands.pictures import execute

    execute("sample", options)
