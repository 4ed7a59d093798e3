"""`variata schedules [KEY=VALUE ...]`: draw beta and the learning rate over training, in the terminal.

They are drawn as train.py would take them with the same words:

  variata schedules beta=cyclical beta.cycles=8 scheduler=warmup
"""

from argparse import ArgumentParser, Namespace

from variata.commands.arguments import command
from variata.errors import UserError

COLUMNS, ROWS = 64, 10


def parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = command(__doc__)
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="words of python train.py")
    return parser


def run(options: Namespace) -> None:
    """Compose the configuration and print both curves."""
    import hydra
    from rich.console import Console

    from variata.config.compose import CONF
    from variata.config.plain import plain

    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        config = plain(hydra.compose("config", options.overrides))
    if config["trainer"]["max_epochs"] in (None, -1):
        raise UserError("The curves are drawn over epochs: set trainer.max_epochs.")
    for part, scale in (("beta", 1.0), ("scheduler", config["optimizer"]["lr"])):
        title = f"{'learning rate' if part == 'scheduler' else part}, {config['trainer']['max_epochs']} epochs"
        Console().print(f"\n{title}\n{curve(values(config, part, scale))}")


def values(config: dict, part: str, scale: float) -> list[float]:
    """What a schedule says at each column, a beta that learns from training before it has.

    Spans given in updates are read as hundredths of an epoch.
    """
    from variata.config.targets import build, check
    from variata.schedules import Progress

    check(config[part], part)
    schedule, total = build(config[part], part), config["trainer"]["max_epochs"] * 100
    places = [Progress(i * total // COLUMNS, total, 100) for i in range(COLUMNS + 1)]
    return [scale * schedule(place).mean().item() for place in places]


def curve(values: list[float]) -> str:
    """A line of values as rows of characters, the highest row on top."""
    top = max(*values, 1e-12)
    lines = []
    for row in range(ROWS, 0, -1):
        low, label = (row - 1) / ROWS * top, f"{row / ROWS * top:10.4g} "
        lines.append(label + "".join("█" if v > low + top / ROWS / 2 else "▄" if v > low else " " for v in values))
    return "\n".join(lines)
