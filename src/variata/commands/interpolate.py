"""`variata interpolate RUN`: from one image to another, a row for each pair, as PNG and GIF."""

from argparse import ArgumentParser, Namespace

from variata.commands.arguments import command, of_films, require_run


def parser() -> ArgumentParser:
    """The arguments of the command."""
    return command(__doc__, of_films())


def run(options: Namespace) -> None:
    """Draw, and say where the pictures are."""
    require_run(options.run)
    from variata.commands.pictures import execute

    execute("interpolate", options)
