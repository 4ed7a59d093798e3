"""Draw beta and the learning rate over training, in the terminal."""

import sys

import hydra
from rich.console import Console

from variata.config.compose import CONF
from variata.errors import UserError
from variata.run.guard import guarded

COLUMNS, ROWS = 64, 10


def main() -> int:
    """`variata schedules beta=cyclical scheduler=cosine`: the curves those options mean."""
    return guarded(draw)


def draw() -> None:
    """Compose the configuration and print both curves; of a beta that learns from training, where it starts."""
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        config = hydra.compose("config", sys.argv[1:])
    from variata.config.plain import plain
    from variata.config.targets import build, check
    from variata.schedules import Progress

    options = plain(config)
    epochs = options["trainer"]["max_epochs"]
    if epochs in (None, -1):
        raise UserError("The curves are drawn over epochs: set trainer.max_epochs.")
    for part, scale in (("beta", 1.0), ("scheduler", options["optimizer"]["lr"])):
        check(options[part], part)
        schedule = build(options[part], part)
        total = epochs * 100  # updates; spans given in updates are read as hundredths of an epoch
        places = [Progress(i * total // COLUMNS, total, 100) for i in range(COLUMNS + 1)]
        values = [scale * schedule(progress).mean().item() for progress in places]
        Console().print(f"\n{'learning rate' if part == 'scheduler' else part}, {epochs} epochs\n{curve(values)}")


def curve(values: list[float]) -> str:
    """A line of values as rows of characters, the highest row on top."""
    top = max(*values, 1e-12)
    lines = []
    for row in range(ROWS, 0, -1):
        low, label = (row - 1) / ROWS * top, f"{row / ROWS * top:10.4g} "
        lines.append(label + "".join("█" if v > low + top / ROWS / 2 else "▄" if v > low else " " for v in values))
    return "\n".join(lines)
