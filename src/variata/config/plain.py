"""Configurations as plain dictionaries."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from variata.errors import ConfigError

Config = dict[str, Any]
Flat = dict[str, Any]  # by dotted key

SHARED = ("posterior", "prior", "likelihood", "shape")  # parts that model.* repeats


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


class Choice(str):
    """The name of a `_target_`: one option out of a group."""


def flat(config: Mapping[str, Any]) -> Flat:
    """Dotted keys to leaves; what `model.*` only repeats is left out.

    A node with a `_target_` becomes a key of its own, whose value is the last part of it: `likelihood: Bernoulli`.
    """
    model = config.get("model") or {}
    shape = (config.get("data") or {}).get("shape")
    repeated = {part for part in SHARED if part in model and model[part] == (config.get(part) or shape)}
    own = {name: value for name, value in model.items() if name not in repeated}
    return dict(_leaves({**config, "model": own}))


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if name == "_target_":
            yield prefix.rstrip("."), Choice(str(value).rpartition(".")[2])
        elif name != "_partial_":
            yield from (
                _leaves(value, f"{prefix}{name}.")
                if isinstance(value, dict) and value
                else [(f"{prefix}{name}", value or None if isinstance(value, dict) else value)]
            )
