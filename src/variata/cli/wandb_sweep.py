"""A sweep for W&B's agents, printed as YAML."""

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import hydra
from omegaconf import DictConfig

from variata.cli.launch import CONF, guarded, say, suggestion
from variata.errors import ConfigError
from variata.sweeps import wandb_yaml
from variata.sweeps.options import options
from variata.sweeps.space import Interval, Space, read

HELP = """usage: variata wandb-sweep NAME [OVERRIDE ...]

prints conf/sweep/NAME.yaml as the YAML of a W&B sweep. Overrides change it: seed=1,2 varies a key, data=digits fixes
one, sweep.sampler=random, sweep.trials=50 and so on say how to search.

  variata wandb-sweep optuna data=digits > sweep.yaml
  wandb sweep sweep.yaml          # creates the sweep and prints what its agents are started with
"""
OF_SWEEPS = ("sweep", "jobs")  # words that are not the runs'


def main() -> int:
    """`variata wandb-sweep optuna data=digits > sweep.yaml`."""
    if not sys.argv[1:] or sys.argv[1] in ("-h", "--help"):
        (sys.stdout if sys.argv[1:] else sys.stderr).write(HELP)
        return 0 if sys.argv[1:] else 2
    return guarded(lambda: sys.stdout.write(convert(sys.argv[1], sys.argv[2:])))


def convert(name: str, words: Sequence[str]) -> str:
    """The YAML of a file in conf/sweep and words of the command line, checked by composing what it would run."""
    known = [path.stem for path in (CONF / "sweep").glob("*.yaml")]
    if name not in known:
        raise ConfigError(f"sweep={name} is unknown. {suggestion(name, known)}")
    about = [word for word in words if word.partition("=")[0].split(".")[0] in OF_SWEEPS]
    chosen = options(compose([f"sweep={name}", *about]).sweep)
    space = read(chosen.params, [word for word in words if word not in about])
    for point in corners(space):
        logger = compose(point).logger
    if not logger:
        raise ConfigError("logger=none leaves nothing for W&B to compare. Leave it out.")
    if others := chosen.objectives[1:]:
        say(f"W&B's sweeps have one objective: {chosen.objectives[0]} is taken, {others[0]} is not.")
    return wandb_yaml.dump(wandb_yaml.document(name, space, chosen, logger.project, logger.entity))


def corners(space: Space) -> Iterator[list[str]]:
    """Points of a space that show every unknown key, and every option of the groups it varies."""
    columns = [
        [f"{key}={axis.low}"] if isinstance(axis, Interval) else [f"{key}={text}" for text in axis.texts]
        for key, axis in space.axes.items()
    ]
    first = [column[0] for column in columns]
    varied = [column if (CONF / key).is_dir() else column[:1] for key, column in zip(space.axes, columns, strict=True)]
    yield [*space.fixed, *first]
    for row in list(zip_longest(*varied))[1:]:
        yield [*space.fixed, *(word or default for word, default in zip(row, first, strict=True))]


def compose(overrides: list[str]) -> DictConfig:
    """The configuration of one run; Hydra refuses what is unknown."""
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return hydra.compose("config", overrides)
