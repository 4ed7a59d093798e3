"""From a configuration to objects: what may be built, with which arguments, of which types.

A `_target_` is code. Only what stands below can be built, judged by what the name turns out to be, not by how it is
spelt; a configuration found in somebody's run directory passes the same gate.
"""

import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from variata.errors import ConfigError

PARTS = ("build", "encoders", "decoders", "posteriors", "priors", "likelihoods", "objectives", "schedules", "callbacks")
FOLDERS = (
    *(f"variata.{part}." for part in (*PARTS, "loggers", "data")),
    "torch.optim.",
    *(f"lightning.pytorch.{x}." for x in ("callbacks", "loggers", "strategies", "profilers")),
)
NAMES = ("lightning.pytorch.Trainer", "lightning.pytorch.trainer.trainer.Trainer")
RESERVED = ("_target_", "_partial_")

Node = dict[str, Any]


def build(node: Node, key: str, **more: Any) -> Any:
    """The object a checked node describes.

    Raises:
        ConfigError: A constructor refused its arguments.
    """
    with constructing(key):
        try:
            return instantiate(node, _convert_="all", **more)
        except InstantiationException as error:
            raise (error.__cause__ or error) from None


@contextmanager
def constructing(key: str) -> Iterator[None]:
    """Tell where the arguments stand that a constructor refuses."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, OverflowError, MisconfigurationException) as error:
        raise ConfigError(f"{key} cannot be built: {error}") from error


def check(node: Any, key: str, extra: Mapping[str, Any] | None = None) -> None:
    """Check every target below node: that it may be built, and that its arguments exist and have the right types.

    Args:
        node: A resolved configuration node.
        key: Where it stands, for messages.
        extra: Names and types accepted besides the target's own.

    Raises:
        ConfigError: At the first thing that is wrong.
    """
    if isinstance(node, dict):
        for name, value in node.items():
            check(value, f"{key}.{name}")
        if "_target_" in node:
            _check_call(node, key, extra or {})
    elif isinstance(node, list):
        for i, value in enumerate(node):
            check(value, f"{key}[{i}]")


def check_values(values: Mapping[str, Any], hints: Mapping[str, Any], key: str, owner: str) -> None:
    """Check names and types of values against type hints."""
    prefix = f"{key}." if key else ""
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"{prefix}{name} is no option of {owner}. {suggest(name, hints)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{prefix}{name}={value} is not a finite number.")
        if not matches(value, hints[name]):
            raise ConfigError(f"{prefix}{name}={value!r} has the wrong type: expected {describe(hints[name])}.")


def suggest(given: str, allowed: Mapping[str, Any] | Sequence[str]) -> str:
    """A did-you-mean, and what there is to choose from."""
    close = get_close_matches(given, list(allowed), n=1)
    return (f"Did you mean {close[0]}? " if close else "") + f"There are: {', '.join(allowed)}."


def locate(path: str, key: str) -> Callable[..., Any]:
    """The class or function a target names.

    Raises:
        ConfigError: It may not be built or does not exist.
    """
    if not _allowed(path):
        raise ConfigError(f"{key}._target_={path} may not be built. Only these may: {', '.join([*FOLDERS, *NAMES])}.")
    try:
        found = get_object(path)
    except Exception as error:
        raise ConfigError(f"{key}._target_={path} does not exist ({error}).") from error
    identity = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if not _allowed(identity) or not (inspect.isclass(found) or inspect.isfunction(found)):
        raise ConfigError(f"{key}._target_={path} may not be built: it is {identity}.")
    return found


def matches(value: Any, hint: Any) -> bool:
    """Whether a plain value fits a type hint; whole numbers are floats too, and what a node builds fits anything."""
    origin, options = get_origin(hint), get_args(hint)
    if hint is Any or (isinstance(value, dict) and hint is not dict):
        return True
    if origin in (Union, types.UnionType):
        return any(matches(value, option) for option in options)
    if origin is Literal:
        return value in options
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is tuple and options and options[-1] is not Ellipsis:
        return isinstance(value, list) and len(value) == len(options) and all(map(matches, value, options))
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return isinstance(value, list) and all(matches(item, options[0]) for item in value)
    if origin is not None:
        return isinstance(value, origin) if inspect.isclass(origin) else False
    return isinstance(value, hint) if inspect.isclass(hint) else hint is None and value is None


def describe(hint: Any) -> str:
    """A type hint in words."""
    return hint.__name__ if inspect.isclass(hint) else str(hint).replace("typing.", "").replace("NoneType", "None")


def _check_call(node: Node, key: str, extra: Mapping[str, Any]) -> None:
    target = locate(node["_target_"], key)
    parameters = inspect.signature(target).parameters
    try:
        known = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):
        known = {}
    hints = {name: known.get(name, Any) for name in parameters} | dict(extra)
    given = {name: value for name, value in node.items() if name not in RESERVED}
    check_values(given, hints, key, node["_target_"])


def _allowed(path: str) -> bool:
    return path.startswith(FOLDERS) or path in NAMES
