"""A sweep for W&B's agents, printed as YAML."""

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from variata.cli.launch import CONF, guarded, say, suggestion
from variata.errors import ConfigError
from variata.sweeps import wandb_yaml
from variata.sweeps.space import Interval, Space, read

HELP = """usage: variata wandb-sweep NAME [OVERRIDE ...]

prints conf/sweep/NAME.yaml as the YAML of a W&B sweep. Overrides change it: seed=1,2 varies a key, data=digits fixes
one, sweep.sampler=random, sweep.trials=50 and so on say how to search.

  variata wandb-sweep optuna data=digits > sweep.yaml
  wandb sweep sweep.yaml          # creates the sweep and prints what its agents are started with
"""
DEFAULTS: dict[str, Any] = {
    "sampler": None,
    "trials": 20,
    "objectives": {"val/elbo": "maximize"},
    "pruner": None,
    "seed": 1,
    "resume": None,
}


def main() -> int:
    """`variata wandb-sweep optuna data=digits > sweep.yaml`."""
    if not sys.argv[1:] or sys.argv[1] in ("-h", "--help"):
        (sys.stdout if sys.argv[1:] else sys.stderr).write(HELP)
        return 0 if sys.argv[1:] else 2
    return guarded(lambda: sys.stdout.write(convert(sys.argv[1], sys.argv[2:])))


def convert(name: str, words: Sequence[str]) -> str:
    """The YAML of a file in conf/sweep and words of the command line, checked by composing what it would run."""
    search, params, overrides = settings(name, words)
    space = read(params, overrides)
    for point in corners(space):
        config = compose(point)
    if not (logger := config.logger):
        raise ConfigError("logger=none leaves nothing for W&B to compare. Leave it out.")
    if len(search["objectives"]) > 1:
        first, *others = search["objectives"]
        say(f"A sweep of W&B has one objective: {first} is taken, {', '.join(others)} is not. sweep=... has them all.")
    return wandb_yaml.dump(wandb_yaml.document(name, space, search, logger.project, logger.entity))


def settings(name: str, words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """How to search, what the file varies, and the words that are not about either.

    Raises:
        ConfigError: There is no such file, or no such setting.
    """
    path = CONF / "sweep" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"sweep={name} is unknown. {suggestion(name, [p.stem for p in path.parent.glob('*.yaml')])}")
    file = yaml.safe_load(path.read_text()) or {}
    params = file.pop("params", {})
    search, overrides = DEFAULTS | file, []
    for word in words:
        key, _, _ = word.partition("=")
        if not key.startswith("sweep."):
            overrides.append(word)
        elif key.removeprefix("sweep.") not in DEFAULTS:
            raise ConfigError(f"{key} is unknown. {suggestion(key, [f'sweep.{known}' for known in DEFAULTS])}")
        else:
            search[key.removeprefix("sweep.")] = OverridesParser.create().parse_override(word).value()
    return search, params, overrides


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
