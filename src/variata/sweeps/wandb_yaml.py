"""A sweep as W&B's agents read it: what `wandb sweep` is given, made of the same search space as grids and Optuna's.

An agent runs `python train.py key=value ...` with each value as Python prints it. Hydra reads numbers, booleans, words
and lists of them as they were; anything else (null, mappings, quoted words) goes through W&B as the text of the command
line.
"""

import re
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from variata.errors import ConfigError
from variata.sweeps.options import Options, direction
from variata.sweeps.space import Axis, Interval, Range, Space, Values

METHODS = {None: "grid", "grid": "grid", "random": "random", "tpe": "bayes", "cmaes": "bayes"}
STOPPING = {"type": "hyperband", "min_iter": 3, "eta": 3}  # after 3, 9, 27 validations the best third goes on
NAMED = re.compile("[A-Za-z_][A-Za-z0-9_.-]*")  # what W&B takes for the name of a parameter

Document = dict[str, Any]


def document(name: str, space: Space, options: Options, project: str, entity: str | None = None) -> Document:
    """The sweep as plain data in W&B's schema.

    Args:
        name: Of the sweep, in W&B.
        space: What is varied; the overrides all runs share go into the command.
        options: How to search, for one objective.
        project: Where the runs go.
        entity: Whose project; None is the user's own.

    Raises:
        ConfigError: W&B has no such search.
    """
    if not space.axes:
        raise ConfigError(f"sweep={name} varies nothing: give a key more than one value, like seed=1,2,3.")
    for key in space.axes:
        if not NAMED.fullmatch(key):
            raise ConfigError(f"W&B takes no parameter of the name {key}: fix it to one value, or use python train.py.")
    method = METHODS[options.sampler]
    if method == "grid":
        next(space.grid())  # refuses intervals
    metric = options.objectives[0]
    return {
        "program": "train.py",
        "name": name,
        "project": project,
        **({"entity": entity} if entity else {}),
        "method": method,
        **({} if method == "grid" else {"run_cap": options.trials}),
        "metric": {"name": metric, "goal": direction(metric)},
        **({"early_terminate": dict(STOPPING)} if options.pruner else {}),
        "parameters": {
            key: choices(axis) if method == "grid" and not isinstance(axis, Interval) else parameter(axis)
            for key, axis in space.axes.items()
        },
        "command": ["${env}", "${interpreter}", "${program}", *space.fixed, "${args_no_hyphens}"],
    }


def parameter(axis: Axis) -> dict[str, Any]:
    """One axis of a search, in W&B's words."""
    if isinstance(axis, Interval):
        return {**distribution(axis), "min": axis.low, "max": axis.high}
    if isinstance(axis, Range) and axis.step == 1 and isinstance(axis.low, int):
        return {"distribution": "int_uniform", "min": axis.low, "max": axis.high}
    return choices(axis)  # q_uniform would round to multiples of the step, whatever the range begins with


def distribution(interval: Interval) -> dict[str, Any]:
    """W&B's name for numbers between two others."""
    if isinstance(interval.low, int) and isinstance(interval.high, int):
        return {"distribution": "q_log_uniform_values", "q": 1} if interval.log else {"distribution": "int_uniform"}
    return {"distribution": "log_uniform_values" if interval.log else "uniform"}


def choices(axis: Values | Range) -> dict[str, Any]:
    """An axis value by value, in W&B's words."""
    return {"values": [sent(text, value) for text, value in zip(axis.texts, axis.plain, strict=True)]}


def sent(text: str, value: Any) -> Any:
    """What W&B is given for a value: itself where `key=value`, as an agent prints it, is read as that value again."""
    try:
        read = OverridesParser.create().parse_override(f"x={value}").value()
    except HydraException:
        return text
    return value if type(read) is type(value) and read == value else text


def dump(sweep: Document) -> str:
    """The sweep as YAML, in which numbers are numbers."""
    return yaml.safe_dump(sweep, sort_keys=False, default_flow_style=None, allow_unicode=True, width=1000)
