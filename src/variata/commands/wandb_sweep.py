"""`variata wandb-sweep NAME [OVERRIDE ...]`: print a file of conf/sweep as the YAML of a sweep for W&B's agents.

Overrides change it: seed=1,2 varies a key, data=digits fixes one, sweep.sampler=random, sweep.trials=50 and so on say
how to search.

  variata wandb-sweep optuna data=digits > sweep.yaml
  wandb sweep sweep.yaml          # creates the sweep and prints what its agents are started with
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra

from variata.commands.arguments import command
from variata.config.compose import CONF
from variata.errors import ConfigError
from variata.messages import did_you_mean
from variata.sweeps import wandb_yaml
from variata.sweeps.options import Options, options
from variata.sweeps.space import Space, read, written, written_out

HERE = ("jobs", "resume", "sweep.resume", "sweep.report")  # keys that mean something on this machine alone


def parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = command(__doc__)
    parser.add_argument("name", metavar="NAME", help="of a file in conf/sweep")
    parser.add_argument("overrides", nargs="*", default=[], metavar="OVERRIDE", help="words of python train.py -m")
    return parser


def run(options: Namespace) -> None:
    """Print the YAML."""
    sys.stdout.write(convert(options.name, options.overrides))


def convert(name: str, words: Sequence[str]) -> str:
    """The YAML of a file in conf/sweep and words of the command line, checked by composing what it would run.

    Raises:
        ConfigError: A word is wrong, or means nothing to W&B's agents.
    """
    known = [path.stem for path in (CONF / "sweep").glob("*.yaml")]
    if name not in known:
        raise ConfigError(f"sweep={name} is unknown. {did_you_mean(name, known)}")
    require_sendable(words)
    about = [word for word in words if key(word).split(".")[0] == "sweep"]
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        chosen = options(hydra.compose("config", [f"sweep={name}", *about]).sweep)
        require_one(chosen.objectives, name)
        space = tried(chosen, [word for word in words if word not in about])
        for point in space.corners():
            logger = hydra.compose("config", point).logger
    if not logger:
        raise ConfigError("logger=none leaves nothing for W&B to compare. Leave it out.")
    return wandb_yaml.dump(wandb_yaml.document(name, space, chosen, logger.project, logger.entity))


def tried(chosen: Options, words: Sequence[str]) -> Space:
    """What is varied, by the file and the words."""
    loader = GlobalHydra.instance().config_loader()
    params = written_out([f"{name}={written(value)}" for name, value in chosen.params.items()], loader)
    return read(dict(word.split("=", 1) for word in params), written_out(words, loader))


def require_sendable(words: Sequence[str]) -> None:
    """Refuse words that say how a command on this machine runs its jobs: an agent's command runs a single one."""
    for word in words:
        if key(word) in HERE or key(word).startswith(("hydra.", "hydra/")):
            raise ConfigError(f"{word} is for python train.py; W&B's agents run one job at a time, anew. Leave it out.")


def require_one(objectives: Sequence[str], name: str) -> None:
    """Refuse a search for a front: W&B's have one metric."""
    if len(objectives) > 1:
        raise ConfigError(
            f"W&B's sweeps have one objective, this one has {' and '.join(objectives)}: choose one, like "
            f"sweep.objectives=[{objectives[0]}], or search here with python train.py -m sweep={name}."
        )


def key(word: str) -> str:
    """What an override is for."""
    return word.partition("=")[0].lstrip("+~")
