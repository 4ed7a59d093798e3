"""What the jobs of a sweep are composed from: a primary configuration, and the places where Hydra looks for its parts.

A command names them with --config-name, --config-path, --config-dir and hydra.searchpath; a sweep remembers them.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathElement
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf

from variata.config.compose import CONF
from variata.errors import ConfigError, RunError
from variata.messages import say

PRIMARY = "config"  # ours
PASSING = ("hydra/launcher", "hydra.launcher", "hydra.sweep.dir", "hydra.searchpath", "hydra.mode")  # of one command


@dataclass(frozen=True)
class Origin:
    """Where configurations come from.

    Args:
        primary: Name of the configuration all others are parts of.
        main: Folder looked into first, in place of ours.
        places: URLs looked into after it, in this order.
        words: Overrides of Hydra's own configuration that all jobs share.
    """

    primary: str = PRIMARY
    main: str | None = None
    places: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, config: DictConfig) -> "Origin":
        """Where Hydra composed a configuration from."""
        sources = config.hydra.runtime.config_sources
        main = next(url(source) for source in sources if source.provider == "main")
        places = [url(s) for s in sources if s.provider.startswith(("command-line", "hydra.searchpath"))]
        return cls(
            str(config.hydra.job.config_name),
            None if main == f"file://{CONF.absolute()}" else main,
            list(dict.fromkeys(places)),
            [word for word in words_of(config.hydra.overrides.hydra) if not word.lstrip("+~").startswith(PASSING)],
        )

    @classmethod
    def load(cls, values: Any) -> "Origin":
        """One of its fields as JSON keeps them.

        Raises:
            TypeError: It is something else.
        """
        origin = cls(**values)
        texts = [origin.primary, *origin.places, *origin.words, *([origin.main] if origin.main else [])]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{values} holds more than text.")
        return origin

    def __str__(self) -> str:
        return " ".join(self.flags) or "variata's own configuration"

    @property
    def flags(self) -> list[str]:
        """Words of a command that name it."""
        named = [f"--config-name={self.primary}"] if self.primary != PRIMARY else []
        main = [f"--config-path={path(self.main)}"] if self.main else []
        first = [f"--config-dir={path(place)}" for place in self.places[:1]]
        others = [f"hydra.searchpath=[{','.join(self.places[1:])}]"] if self.places[1:] else []
        return [*main, *first, *named, *others]

    def loader(self, like: ConfigLoader) -> ConfigLoader:
        """Looks where it says, before what Hydra itself brings along.

        Args:
            like: A loader of this process.
        """
        found = deepcopy(like.get_search_path())
        ours = [it for it in found.get_path() if it.provider != "command-line"]
        named = [SearchPathElement("main", self.main) if self.main and it.provider == "main" else it for it in ours]
        last = next(i for i, it in enumerate(named) if it.provider == "schema")
        named[last:last] = [SearchPathElement("command-line", place) for place in self.places]
        found.get_path()[:] = named
        return ConfigLoaderImpl(found)

    def remembered(self, now: "Origin", folder: Path) -> "Origin":
        """Itself, where a sweep goes on. Only a place that is gone may be replaced by the one a command names now.

        Args:
            now: What the resuming command was composed from; ours where it names nothing.
            folder: Of the sweep.

        Raises:
            ConfigError: The command names another one.
            RunError: A place is gone.
        """
        gone = [place for place in [self.main, *self.places] if place and missing(place)]
        elsewhere = {now.main, *now.places} - {self.main, *self.places, None}
        if now.primary not in (PRIMARY, self.primary) or (elsewhere and not gone):
            raise ConfigError(
                f"{folder} is composed from {self}, this command from {now}. A "
                "sweep remembers where it comes from: leave these words out."
            )
        if gone and not elsewhere:
            raise RunError(
                f"{folder} is composed from {self}, but {', '.join(map(path, gone))} is gone. Put it back, or "
                "say where it is now: --config-dir=<folder>, or --config-path=<folder> if that was given."
            )
        if gone:
            say(f"{', '.join(map(path, gone))} is gone: {folder} goes on from {now}.")
            return Origin(self.primary, now.main, now.places, self.words)
        return self

    def require(self, loader: ConfigLoader, folder: Path) -> None:
        """Refuse to go on with a sweep whose primary configuration is not where it was."""
        if not any(source.is_config(self.primary) for source in loader.get_sources()):
            raise RunError(f"{folder} is composed from {self}, where there is no {self.primary} any more.")


def words_of(overrides: ListConfig) -> list[str]:
    """Words of a command line as they were given: ${seed} stays ${seed}."""
    return cast(list[str], OmegaConf.to_container(overrides, resolve=False))


def latest(words: Sequence[str]) -> list[str]:
    """Words of which the last one counts for each key or group."""
    parser = OverridesParser.create()
    return list({word.key_or_group: word.input_line or "" for word in parser.parse_overrides(list(words))}.values())


def url(source: Any) -> str:
    """Where one of Hydra's sources looks, from anywhere."""
    return f"file://{Path(source.path).absolute()}" if source.schema == "file" else f"{source.schema}://{source.path}"


def path(place: str) -> str:
    """A place as one writes it."""
    return place.removeprefix("file://")


def missing(place: str) -> bool:
    """Whether a folder is gone; a place inside a package is for Hydra to find."""
    return place.startswith("file://") and not Path(path(place)).is_dir()
