"""The `sweep` group: what a sweep is asked for."""

from dataclasses import dataclass
from typing import Any, Literal, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from variata.errors import ConfigError
from variata.metrics import OBJECTIVES

SAMPLERS, PRUNERS = ("tpe", "cmaes", "random", "grid"), ("median", "hyperband")
SEEDS = 2**31  # a resumed search adds its trials to the seed, and NumPy's generators end at 2^32


@dataclass(frozen=True)
class Options:
    """How to try what a space holds.

    Args:
        params: Keys and their values, in Hydra's grammar.
        sampler: Of Optuna; None tries every combination, without it.
        trials: Of a sampler; its grid has as many as combinations.
        objectives: One figure of results.json or two.
        pruner: Of Optuna; stops trials that fall behind in the one objective.
        seed: Of the sampler.
        resume: Directory of an earlier sweep, to do what is missing or failed.
        report: Whether to write report.html at the end.
    """

    params: dict[str, Any]
    sampler: str | None
    trials: int
    objectives: list[str]
    pruner: str | None
    seed: int
    resume: str | None
    report: bool

    def __post_init__(self) -> None:
        one_of("sampler", self.sampler, SAMPLERS)
        one_of("pruner", self.pruner, PRUNERS)
        if self.trials < 1:
            raise ConfigError(f"sweep.trials={self.trials} is less than 1.")
        if not 0 <= self.seed < SEEDS:
            raise ConfigError(f"sweep.seed={self.seed} is not between 0 and 2^31 - 1.")
        if len(self.objectives) not in (1, 2):
            raise ConfigError(f"sweep.objectives are one or two, got {', '.join(self.objectives) or 'none'}.")
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise ConfigError(f"sweep.objectives: {name} is unknown. Use one or two of {', '.join(OBJECTIVES)}.")
        if len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"sweep.objectives: {self.objectives[0]} stands there twice. Once is enough.")
        if self.pruner and self.objectives != ["val/elbo"]:
            raise ConfigError(f"sweep.pruner={self.pruner} compares val/elbo alone. Use sweep.pruner=null.")
        if self.pruner and not self.sampler:
            raise ConfigError(f"sweep.pruner={self.pruner} is Optuna's. Choose a sampler too: sweep.sampler=grid.")
        if self.sampler == "cmaes" and len(self.objectives) > 1:
            raise ConfigError("sweep.sampler=cmaes knows one objective. Use sweep.sampler=tpe.")


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """Whether to maximize or to minimize a figure."""
    return "maximize" if OBJECTIVES[objective].up else "minimize"


def options(config: DictConfig) -> Options:
    """The checked options of a composed configuration.

    Raises:
        ConfigError: A value has the wrong type or is unknown, or two do not go together.
    """
    if not isinstance(config, DictConfig) or config._is_none():
        raise ConfigError("The configuration says nothing of sweeps: its `sweep` is no group of options.")
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Options), config)
        return cast(Options, OmegaConf.to_object(typed))
    except MissingMandatoryValue as error:
        raise ConfigError(f"sweep.{error.full_key}=??? has no value. Give it one, or leave it out.") from error
    except OmegaConfBaseException as error:
        key, why = ".".join(filter(None, ("sweep", error.full_key))), str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"{key} cannot be read: {why}.") from error


def one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is none of the allowed ones."""
    if value is not None and value not in allowed:
        raise ConfigError(f"sweep.{name}={value} is unknown. Use null or one of {', '.join(allowed)}.")
