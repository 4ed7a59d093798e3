"""From a configuration to objects: what may be built where, with which arguments, of which types.

A `_target_` is code. `SLOTS` says what may stand in each place of a configuration, judged by what the name turns out to
be, not by how it is spelt; there are no targets anywhere else. A configuration found in somebody's run directory passes
the same gate.
"""

import inspect
import math
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import lightning.pytorch
import torch.optim
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import Trainer, callbacks
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from variata.config.plain import unresolved
from variata.config.renamed import said
from variata.core import VAE, Decoder, Encoder
from variata.data.module import ImageDataModule
from variata.errors import ConfigError
from variata.evaluation.findings import Evaluation
from variata.likelihoods import Likelihood
from variata.messages import did_you_mean
from variata.objectives import Objective
from variata.posteriors import Posterior
from variata.priors import Prior
from variata.schedules import Beta, Schedule

Node = dict[str, Any]

COMMANDS = tuple(
    f"variata.{room}." for room in ("commands", "sweeps", "compare", "run", "config")
)  # what uses parts, and is none
SHOWN = 80  # characters of a wrong value


@dataclass(frozen=True)
class Kind:
    """What may stand in a place of the configuration: a class of ours derived from `base`, or one of `others`.

    Args:
        base: Of the classes, or what the functions return.
        factories: Where functions of ours that return base stand; then these may be called, and no classes.
        others: Classes of other packages, by the names they have.
        excluded: Classes of ours that a run makes itself.
        given: Arguments that the program gives itself.
        partial: Whether some arguments are left open, `_partial_: true`.
    """

    base: type
    factories: str | None = None
    others: Mapping[str, type] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    partial: bool = False

    def admits(self, found: Any) -> bool:
        """Whether something of ours may be built here: what it is counts, and where it was defined."""
        place = str(getattr(found, "__module__", ""))
        if self.factories:
            return inspect.isfunction(found) and f"{place}.".startswith(self.factories) and self._made_by(found)
        if not place.startswith("variata.") or place.startswith(COMMANDS):
            return False
        named = inspect.isclass(found) and issubclass(found, self.base) and not inspect.isabstract(found)
        return named and f"{place}.{found.__qualname__}" not in self.excluded

    def __str__(self) -> str:
        one = f"{'an' if self.base.__name__[0] in 'AEIO' else 'a'} {self.base.__name__}"
        ours = f"a function of {self.factories}* that returns {one}" if self.factories else f"{one} of variata's"
        but = f" that is not in every run ({', '.join(self.excluded)})" if self.excluded else ""
        return f"{ours}{but}" + (f", or one of {', '.join(self.others)}" if self.others else "")

    def _made_by(self, function: Any) -> bool:
        made = get_type_hints(function).get("return")
        return inspect.isclass(made) and issubclass(made, self.base)


def named(package: types.ModuleType, *classes: type) -> dict[str, type]:
    """Classes of a package by their full names."""
    return {f"{package.__name__}.{cls.__name__}": cls for cls in classes}


OPTIMIZERS = [cls for cls in vars(torch.optim).values() if inspect.isclass(cls) and issubclass(cls, Optimizer)]

POSTERIOR = Kind(Posterior, given=("features", "state", "event"), partial=True)
PRIOR = Kind(Prior, given=("state", "event", "encode"), partial=True)
LIKELIHOOD = Kind(Likelihood, given=("shape",), partial=True)

SLOTS = {
    "data": Kind(ImageDataModule, factories="variata.data."),
    "model": Kind(VAE, factories="variata.build."),
    "model.encoder": Kind(Encoder, given=("shape",), partial=True),
    "model.decoder": Kind(Decoder, given=("state", "shape"), partial=True),
    **{"posterior": POSTERIOR, "model.posterior": POSTERIOR},
    **{"prior": PRIOR, "model.prior": PRIOR},
    **{"likelihood": LIKELIHOOD, "model.likelihood": LIKELIHOOD},
    "objective": Kind(Objective),
    "beta": Kind(Beta),
    "scheduler": Kind(Schedule),
    "optimizer": Kind(
        Optimizer,
        others=named(torch.optim, *(cls for cls in OPTIMIZERS if cls is not Optimizer)),
        given=("params",),
        partial=True,
    ),
    "trainer": Kind(
        Trainer,
        others=named(lightning.pytorch, Trainer),
        given=(
            *("logger", "callbacks", "plugins", "default_root_dir", "model_registry"),
            *("num_sanity_val_steps", "enable_model_summary", "use_distributed_sampler"),
            "val_check_interval",  # validations are at the ends of epochs, where a run can be gone on with
        ),
    ),
    "logger": Kind(Logger, factories="variata.run.wandb.", given=("run_dir", "config", "job"), partial=True),
    "evaluate.*": Kind(Evaluation),
    # Of Lightning's callbacks these do what they say here: others count calls for updates, need its own optimisation,
    # write where they please, or are in every run.
    "callbacks.*": Kind(
        Callback,
        others=named(callbacks, EarlyStopping, Timer),
        excluded=(
            "variata.training.callbacks.Progress",
            *(f"variata.training.saving.{name}" for name in ("EarlyStops", "Last", "Best")),
        ),
    ),
}


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
    """Check what stands in a place of the configuration: that it may, that its options exist and have the right types.

    Args:
        node: A resolved part of a configuration.
        key: Where it stands. A part without a slot of its own holds no target at any depth.
        extra: Names and types accepted besides the target's own.

    Raises:
        ConfigError: At the first thing that is wrong.
    """
    several = re.fullmatch(r"(callbacks|evaluate)\.[^.]+", key)
    kind = SLOTS.get(f"{several[1]}.*" if several else key)
    if kind is None:
        _check_plain(node, key)
        return
    target = _target(node, key, kind)
    options = {str(name): value for name, value in node.items() if name not in ("_target_", "_partial_")}
    for name, value in options.items():
        if name in kind.given:
            raise ConfigError(f"{key}.{name} is none of your options: the program decides it. Leave it out.")
        check(value, f"{key}.{name}")
    plain = {name: value for name, value in options.items() if f"{key}.{name}" not in SLOTS}
    check_values(plain, _hints(target) | dict(extra or {}), key, node["_target_"])


def check_values(values: Mapping[str, Any], hints: Mapping[str, Any], key: str, owner: str) -> None:
    """Check names and types of values against type hints."""
    prefix = f"{key}." if key else ""
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"{prefix}{name} is no option of {owner}. {did_you_mean(str(name), hints)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{prefix}{name}={value} is not a finite number.")
        if not matches(value, hints[name]):
            raise ConfigError(f"{prefix}{name}={value!r} has the wrong type: expected {describe(hints[name])}.")


def locate(path: Any, key: str, kind: Kind) -> Callable[..., Any]:
    """The class or function a target names, if it may stand there.

    Raises:
        ConfigError: It may not, or does not exist.
    """
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if module and path in kind.others:
        return kind.others[path]
    found: Any = None
    if re.fullmatch(r"variata(\.[a-zA-Z_]\w*)+", module, re.ASCII):  # nothing else is imported
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{key}._target_={path} does not exist ({error}).") from error
    if not kind.admits(found):
        raise ConfigError(f"{key}._target_={shown(path)} may not be built: {key} takes {kind}.")
    return found


def matches(value: Any, hint: Any) -> bool:
    """Whether a plain value fits a type hint; whole numbers are floats too."""
    origin, options = get_origin(hint), get_args(hint)
    if hint is Any:
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


def shown(value: Any) -> str:
    """A wrong value, as much of it as a message can hold."""
    words = str(value)
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}…"


def _check_plain(value: Any, key: str) -> None:
    """Check that there is no target at any depth, nor text that would become something else when it is read again."""
    if isinstance(value, dict):
        for name, item in value.items():
            if re.fullmatch(r"_\w+_", str(name)):
                raise ConfigError(f"{key}.{name}={shown(item)} may not be built: {key} is a plain value. Leave it out.")
            _check_plain(item, f"{key}.{name}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_plain(item, f"{key}[{i}]")
    elif unresolved(value):
        raise ConfigError(f"{key}={shown(value)} would be something else when it is read again. Give the value itself.")


def _target(node: Any, key: str, kind: Kind) -> Callable[..., Any]:
    """What a node builds, if it is one and may."""
    if not isinstance(node, dict) or "_target_" not in node:
        if known := said(key):
            raise ConfigError(known)
        raise ConfigError(f"{key}={shown(node)} builds nothing: {key} takes a _target_, {kind}.")
    for name in node:
        if re.fullmatch(r"_\w+_", str(name)) and name not in ("_target_", "_partial_"):
            raise ConfigError(f"{key}.{name} may not be used. A part is made of _target_, _partial_ and its options.")
    if node.get("_partial_", False) is not kind.partial:
        remedy = "true is needed: the program adds what is missing" if kind.partial else "false is meant. Leave it out"
        raise ConfigError(f"{key}._partial_={remedy}.")
    return locate(node["_target_"], key, kind)


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The types of the options of a class or function, by name."""
    try:
        known = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):
        known = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: known.get(name, Any) for name, it in inspect.signature(target).parameters.items() if it.kind in named}
