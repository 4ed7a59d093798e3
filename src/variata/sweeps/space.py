"""What a sweep tries: configuration keys and their values, in the grammar of Hydra's command line.

    beta.value: 0.5,1,2                               a choice
    seed: range(1,6)                                  1, 2, 3, 4, 5
    optimizer.lr: tag(log,interval(1e-4,1e-2))        anything between, on a logarithmic scale
    model.latent: int(interval(8,64))                 any whole number between, both ends included
    beta: glob(*,exclude=c*)                          the options of a group whose names match

A file in conf/sweep says it once, for grids, for Optuna and for W&B; words on the command line add to it or take a
key's place.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer, ValueType

from variata.errors import ConfigError
from variata.messages import say


@dataclass(frozen=True)
class Values:
    """A choice of values, as the command line spells them."""

    texts: tuple[str, ...]

    @property
    def plain(self) -> list[Any]:
        """As Python's numbers, booleans, None and words."""
        return [OverridesParser.create().parse_override(f"x={text}").value() for text in self.texts]


@dataclass(frozen=True)
class Range:
    """low, low + step, ... up to high, which is one of them."""

    low: float
    high: float
    step: float
    texts: tuple[str, ...]

    @property
    def plain(self) -> list[Any]:
        """As Python's numbers."""
        return [type(self.step)(text) for text in self.texts]


@dataclass(frozen=True)
class Interval:
    """Any number between low and high, both included; on a logarithmic scale if `log`; whole ones if both are int."""

    low: float
    high: float
    log: bool


Axis = Values | Range | Interval

MOST = 10_000  # jobs of a grid
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Space:
    """What is varied, and the overrides that all jobs share.

    Args:
        fixed: As on the command line: `data=digits`.
        axes: By configuration key or group.
    """

    fixed: tuple[str, ...]
    axes: dict[str, Axis]

    def grid(self) -> Iterator[list[str]]:
        """The overrides of every combination, the last axis fastest.

        Raises:
            ConfigError: An interval has no end of values.
        """
        varied = []
        for name, axis in self.axes.items():
            if isinstance(axis, Interval):
                raise ConfigError(
                    f"{name} is an interval, of which a grid has no values: name some, like {name}={axis.low},"
                    f"{axis.high}, or search with sweep=optuna or sweep.sampler=random."
                )
            varied.append([f"{name}={text}" for text in axis.texts])
        if (jobs := math.prod(map(len, varied))) > MOST:
            raise ConfigError(f"The grid has {jobs:,} jobs or more. Up to {MOST:,} are run; a sampler draws from more.")
        for combination in itertools.product(*varied):
            yield [*self.fixed, *combination]

    def corners(self) -> Iterator[list[str]]:
        """Points that together show whatever cannot be composed: every word of a choice, and one number of each axis.

        They are as many as the words of the longest choice, since each has a word of every axis that is new.
        """
        rows = [[f"{name}={text}" for text in telling(axis)] for name, axis in self.axes.items()]
        for i in range(max(map(len, rows), default=1)):
            yield [*self.fixed, *(row[min(i, len(row) - 1)] for row in rows)]

    def point(self, chosen: Mapping[str, Any]) -> list[str]:
        """The overrides of one point, by its values: those of a choice as the command line spells them."""
        return [*self.fixed, *(f"{name}={value}" for name, value in chosen.items())]


def telling(axis: Axis) -> list[str]:
    """The values of an axis that are composed to know that all can be: to Hydra a number is as good as another."""
    if isinstance(axis, Interval):
        return [str(axis.low)]
    numbers = [text for text in axis.texts if NUMBER.fullmatch(text)]
    return [*numbers[:1], *(text for text in axis.texts if not NUMBER.fullmatch(text))]


def read(params: Mapping[str, Any], arguments: Sequence[str]) -> Space:
    """The space of a sweep file's `params`, changed by the words of a command line: `seed=1,2` varies, `seed=1` fixes.

    Globs are to be written out before (`written_out`).

    Raises:
        ConfigError: A value is not written in Hydra's grammar.
    """
    parser = OverridesParser.create()
    words = parser.parse_overrides([f"{name}={written(value)}" for name, value in params.items()])
    named = dict(zip(params, words, strict=True))
    given = {word.get_key_element(): word for word in parser.parse_overrides(list(arguments))}
    last = {name.lstrip("+"): name for name in (named | given)}  # seed=1,2 +seed=3: the last word counts
    fixed, axes = [], {}
    for name in last.values():
        word = (named | given)[name]
        if word.is_sweep_override():
            axes[name] = axis(name, word)
        else:
            fixed.append(word.input_line or name)
    return Space(tuple(fixed), axes)


def written_out(words: Sequence[str], loader: ConfigLoader) -> list[str]:
    """Words in which every glob is the choice of options it stands for.

    Raises:
        ConfigError: It stands for none.
    """
    parsed = OverridesParser.create(loader).parse_overrides(list(words))
    return [
        choice(word, loader) if word.value_type == ValueType.GLOB_CHOICE_SWEEP else word.input_line or ""
        for word in parsed
    ]


def choice(word: Override, loader: ConfigLoader) -> str:
    """A glob as the choice it stands for."""
    group, named = word.key_or_group, list(map(Transformer.str, word.sweep_iterator()))
    if not (there := loader.get_group_options(group)):
        raise ConfigError(f"{word.input_line}: {group} is no group, of whose options a glob could name some.")
    if not named:
        raise ConfigError(f"{word.input_line} fits no option of {group}. There are: {', '.join(there)}.")
    return f"{word.get_key_element()}=choice({','.join(named)})"


def axis(name: str, word: Override) -> Axis:
    """What one word varies."""
    sweep = word.value()
    if getattr(sweep, "shuffle", False):
        raise ConfigError(
            f"{name}: shuffle draws another order each time, so a sweep could not be resumed. Leave it out."
        )
    if isinstance(sweep, IntervalSweep):
        if sweep.start is None or sweep.end is None or not sweep.start < sweep.end:
            raise ConfigError(f"{name}: interval({sweep.start},{sweep.end}) holds nothing: the lower end comes first.")
        log = "log" in (sweep.tags or ())
        if log and sweep.start <= 0:
            raise ConfigError(f"{name}: an interval on a logarithmic scale begins above 0, not at {sweep.start}.")
        return Interval(sweep.start, sweep.end, log)
    texts = list(itertools.islice(word.sweep_string_iterator(), MOST + 1))
    if not texts:
        raise ConfigError(f"{name}: {word.input_line} holds no value.")
    if isinstance(sweep, RangeSweep) and (sweep.step or 1) > 0:
        kind = float if isinstance(sweep.start, float) or isinstance(sweep.step, float) else int
        return Range(kind(texts[0]), kind(texts[-1]), kind(sweep.step), tuple(texts))
    if twice := [text for text, number in Counter(texts).items() if number > 1]:
        say(f"{name}: {', '.join(twice)} stands there more than once, and is tried once.")
    return Values(tuple(dict.fromkeys(texts)))


def written(value: Any) -> str:
    """A value of a sweep file in Hydra's grammar; YAML's own lists are choices."""
    if isinstance(value, list):
        if not value:
            raise ConfigError("sweep.params: an empty list holds no value.")
        return ",".join(map(written, value)) if len(value) > 1 else f"choice({written(value[0])})"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
