"""Hydra's part: where configurations lie, which words it is given, which keys there are."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from variata.config.plain import Config, plain
from variata.errors import ConfigError

INSTALLED, CHECKOUT = Path(__file__).parents[1] / "conf", Path(__file__).parents[3] / "conf"
CONF = INSTALLED if INSTALLED.is_dir() else CHECKOUT


def arranged(words: list[str]) -> list[str]:
    """The words of a command line with its flags first, where Hydra finds them: `seed=1,2 -m` may stand anywhere.

    Raises:
        ConfigError: A flag that is none, or one that would run what a file says.
    """

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}. See `python train.py --help` and `python train.py --hydra-help`.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    given = parser.parse_intermixed_args(words)
    if given.experimental_rerun is not None:
        refuse("--experimental-rerun reads a pickle, which may hold code. Use resume=<run>, or --config-dir")
    if any(word.lstrip("+~").startswith("hydra.output_subdir") for word in given.overrides):
        refuse("hydra.output_subdir: a run directory has a config.yaml and overrides.txt of its own. Leave it out")
    return [word for word in words if word not in given.overrides] + given.overrides


def evaluations(words: list[str], config: Config, values: Config, folder: Path | None = None) -> Config:
    """What words such as `evaluate=[quality]` choose, by name. In an option's file `${data.root}` is the run's.

    Args:
        words: Overrides of the group `evaluate`.
        config: Of the run.
        values: Of their options, by name, which take the place of those of the files.
        folder: With further options, as `--config-dir` of train.py.
    """
    GlobalHydra.instance().clear()
    more = [] if folder is None else [f"hydra.searchpath=[{json.dumps(f'file://{folder.resolve()}')}]"]
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        chosen = hydra.compose("config", [*words, *more])
    files = cast(Config, OmegaConf.to_container(chosen)).get("evaluate", {})
    nodes = {name: {**node, **values.get(name, {})} if isinstance(node, dict) else node for name, node in files.items()}
    return plain(OmegaConf.create({**config, "evaluate": nodes}).evaluate)


def known_keys() -> list[str]:
    """Every key and group of the configuration the command line chose, leaving out what it overrides."""
    GlobalHydra.instance().clear()
    choices = [word for word in sys.argv[1:] if "=" in word and "." not in word.split("=")[0]]
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        for overrides in (choices, []):
            try:
                return sorted(keys(hydra.compose("config", overrides)))
            except (HydraException, OmegaConfBaseException):
                continue
    return []


def keys(node: DictConfig, prefix: str = "") -> Iterable[str]:
    """Dotted names of all keys below a node."""
    for name in node:
        yield f"{prefix}{name!s}"
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from keys(child, f"{prefix}{name!s}.")
