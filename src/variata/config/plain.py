"""Configurations as plain dictionaries."""

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from variata.errors import ConfigError

Config = dict[str, Any]


def plain(config: DictConfig) -> Config:
    """A configuration as plain dictionaries, interpolations resolved.

    Raises:
        ConfigError: A value that only the user knows was not given.
    """
    try:
        return cast(Config, OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no default: give it a value, {error.full_key}=...") from error


def unresolved(value: Any) -> str | None:
    """The first text at any depth that resolving a configuration would turn into something else, ${...} or ???."""
    if isinstance(value, dict | list):
        items = [*value, *value.values()] if isinstance(value, dict) else value
        return next((text for item in items if (text := unresolved(item)) is not None), None)
    return value if isinstance(value, str) and ("${" in value or value == "???") else None
