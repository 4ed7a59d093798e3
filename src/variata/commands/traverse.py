"""`variata traverse RUN`: one image moved along the latent dimensions that carry most, a row for each, as PNG and GIF.

Dimensions are ranked by KL where it is known for each, else by the variance of their posterior means. Each goes from
-3 to 3 standard deviations of the prior around its mean, or of the codes where the prior's are not known.
"""

from argparse import ArgumentParser, Namespace

from variata.commands.arguments import MANY, command, number, of_films, require_run


def parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = command(__doc__, of_films())
    add = parser.add_argument
    add("--dimensions", type=number(1, MANY), default=8, metavar="N", help="rows, those that carry most (%(default)s)")
    add("--index", type=int, default=0, metavar="I", help="number of the image whose code is moved (%(default)s)")
    return parser


def run(options: Namespace) -> None:
    """Draw, and say where the pictures are."""
    require_run(options.run)
    from variata.commands.pictures import execute

    execute("traverse", options)
