"""What a sweep was asked for: read off a command, written to sweep.json, and gone on with by a later command."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from variata import __version__, atomic
from variata.errors import ConfigError, RunError, UserError
from variata.sweeps import space
from variata.sweeps.options import Options, options
from variata.sweeps.origin import Origin, latest, words_of

OF_SWEEPS = ("sweep", "jobs")  # words of the command line that are not the jobs'
MAY_CHANGE = ("sweep.trials", "sweep.report")  # when resuming
# parts of Hydra's configuration that it builds or calls, which a file does not choose
CODE = ("launcher", "sweeper", "callbacks", "job_logging", "hydra_logging", "job.env_set", "job.env_copy")


@dataclass(frozen=True)
class Request:
    """What a sweep was asked for.

    Args:
        arguments: Of the command line that are the jobs'.
        options: Of the `sweep` group.
        origin: What jobs are composed from.
    """

    arguments: list[str]
    options: Options
    origin: Origin

    def save(self, folder: Path) -> None:
        """Write sweep.json, from which it can be resumed."""
        text = json.dumps({**asdict(self), "version": __version__}, indent=2) + "\n"
        atomic.write(folder / "sweep.json", text, secret=True)

    @classmethod
    def load(cls, folder: Path) -> "Request":
        """What `save` wrote.

        Raises:
            RunError: There is none, or it is damaged.
        """
        try:
            values = json.loads((folder / "sweep.json").read_text())
            arguments, origin = [str(word) for word in [*values["arguments"]]], Origin.load(values["origin"])
            chosen = options(OmegaConf.create(values["options"]))
            if any(word.lstrip("+~").startswith("hydra") for word in [*arguments, *chosen.params]):
                raise ValueError("words of Hydra's are among those of the jobs")
            return cls(arguments, chosen, origin)
        except OSError as error:
            raise RunError(f"sweep.resume={folder} is no directory of a sweep: it has no sweep.json.") from error
        except (ValueError, KeyError, TypeError, RecursionError, OmegaConfBaseException, UserError) as error:
            raise RunError(
                f"{folder / 'sweep.json'} is damaged, or of another version: a sweep cannot go on from it. "
                "Its runs can: python train.py resume=<run>."
            ) from error

    def written_out(self, context: HydraContext) -> "Request":
        """The same with every glob as the options it stands for, which may be others when the sweep is resumed."""
        loader = context.config_loader
        params = [f"{name}={space.written(value)}" for name, value in self.options.params.items()]
        texts = dict(word.split("=", 1) for word in space.written_out(params, loader))
        arguments = space.written_out(self.arguments, loader)
        return replace(self, arguments=arguments, options=replace(self.options, params=texts))


def asked(config: DictConfig, arguments: Sequence[str]) -> tuple[Request, Path]:
    """What a command asks for, and where: a new sweep, or an earlier one gone on with.

    Args:
        config: Composed by the command.
        arguments: Its words but those of Hydra.

    Raises:
        ConfigError: A word is wrong, or does not go together with another.
        RunError: The directory is taken, or is none of a sweep.
    """
    ours = of_sweeps(arguments)
    require_jobs(config)
    chosen = options(config.sweep)
    if chosen.resume is not None:
        return resumed(config, arguments, ours, chosen)
    folder = Path(config.hydra.sweep.dir)
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty. Choose another hydra.sweep.dir, or go on with sweep.resume={folder}.")
    return Request([word for word in arguments if word not in ours], chosen, Origin.of(config)), folder


def of_sweeps(arguments: Sequence[str]) -> dict[str, str]:
    """The words that are said of the sweep itself, with their keys.

    Raises:
        ConfigError: One has more than one value; one goes on with a single run; one has no value.
    """
    words = {word: OverridesParser.create().parse_override(word) for word in arguments}
    ours = {word: it.key_or_group for word, it in words.items() if it.key_or_group.split(".")[0] in OF_SWEEPS}
    if varied := [word for word in ours if words[word].is_sweep_override()]:
        raise ConfigError(f"{varied[0]}: what is said of the sweep itself cannot be varied in it.")
    if removed := [word for word in ours if words[word].is_delete()]:
        raise ConfigError(f"{removed[0]}: a sweep needs what this takes away. Leave it out.")
    if any(it.key_or_group == "resume" for it in words.values()):
        raise ConfigError(
            "resume= goes on with one run: leave out -m. A sweep goes on by sweep.resume=<its directory>."
        )
    if empty := [word for word in words if re.fullmatch(r"[^=]+=\s*", word)]:
        raise ConfigError(
            f"{empty[0]} has no value: give it one, or several, like seed=1,2,3. An empty text is {empty[0].strip()}''."
        )
    return ours


def require_jobs(config: DictConfig) -> None:
    """Refuse a number of jobs at a time that is none."""
    jobs = "???" if OmegaConf.is_missing(config, "jobs") else config.get("jobs")
    if jobs is not None and (not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1):
        raise ConfigError(f"jobs={jobs} is no whole number from 1.")


def resumed(
    config: DictConfig, arguments: Sequence[str], ours: dict[str, str], chosen: Options
) -> tuple[Request, Path]:
    """What an earlier sweep was asked for, with what may change."""
    may = {"sweep.resume", "jobs", *MAY_CHANGE}
    if foreign := [word for word in arguments if ours.get(word) not in may]:
        raise ConfigError(
            f"sweep.resume goes on with what {chosen.resume} was started with: leave out {' '.join(foreign)}. "
            f"You may give jobs, {', '.join(MAY_CHANGE)} and hydra.launcher options."
        )
    folder = Path(str(chosen.resume))
    request = Request.load(folder)
    changed = {key.split(".")[1]: getattr(chosen, key.split(".")[1]) for key in MAY_CHANGE if key in ours.values()}
    origin = request.origin.remembered(Origin.of(config), folder)
    return replace(request, options=replace(request.options, **changed), origin=origin), folder


def recomposed(context: HydraContext, config: DictConfig, request: Request, folder: Path) -> DictConfig:
    """The configuration an earlier sweep began with, changed by the words of the command that goes on with it."""
    request.origin.require(context.config_loader, folder)
    now, ours = words_of(config.hydra.overrides.hydra), words_of(config.hydra.overrides.task)
    # places the primary configuration names are in the loader already, from wherever the sweep is resumed
    hydra = latest([*request.origin.words, *now, f"hydra.sweep.dir={quoted(folder)}", "hydra.searchpath=[]"])
    words = [*hydra, *request.arguments, *ours]
    composed = context.config_loader.load_configuration(request.origin.primary, words, RunMode.MULTIRUN)
    require_jobs(composed)
    for part in CODE:
        if plain_part(composed, part) != plain_part(config, part):
            raise ConfigError(
                f"{folder / 'sweep.json'} asks for another hydra.{part} than this command, and a file does not choose "
                "what Hydra builds or calls. If the sweep is yours, say it again on the command line."
            )
    return composed


def plain_part(config: DictConfig, part: str) -> Any:
    """A part of Hydra's configuration as it was written."""
    node = OmegaConf.select(config, f"hydra.{part}")
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def quoted(path: Path) -> str:
    """A path as a value in Hydra's grammar."""
    if re.fullmatch(r"[\w./-]+", str(path)):
        return str(path)
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", str(path)).replace("'", "\\'")
    return f"'{escaped}'"


def resuming(config: DictConfig, folder: Path) -> str:
    """The command that goes on with a sweep as it was launched."""
    launching = [word for word in config.hydra.overrides.hydra if word.startswith(("hydra/launcher", "hydra.launcher"))]
    jobs = [f"jobs={config.jobs}"] if config.jobs is not None else []
    return f"python train.py -m {shlex.join([f'sweep.resume={quoted(folder)}', *jobs, *launching])}"
