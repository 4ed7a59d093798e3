"""Which configuration keys tell runs apart."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

from variata.config.plain import Choice
from variata.formatting import ABSENT, text
from variata.run.reader import Run

BATCH, PER_DEVICE = "data.batch_size", "data.batch_size_per_device"
NO_EXPERIMENT = (  # keys, and all below them: where a run is, what it tells, how it is judged and on what it runs
    *(
        "seed",
        "outputs",
        "resume",
        "debug",
        "logger",
        "log_every",
        "checkpoint_every",
        "evaluate",
        "callbacks.pictures",
    ),
    *("data.root", "data.cache", "data.eval_batch_size", "updates_per_call", "compile", "optimizer.fused"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    PER_DEVICE,  # with the number of devices it makes BATCH, which alone changes what is trained
)


def value(run: Run, key: str) -> str:
    """What a run has for a key, as text."""
    return text(run.config[key]) if key in run.config else ABSENT


def column(runs: Iterable[Run], key: str) -> tuple[str, ...]:
    """What the runs have for a key."""
    return tuple(value(run, key) for run in runs)


def with_option_names(runs: Sequence[Run]) -> list[Run]:
    """Runs whose groups have the names of the command line, `model=mlp_vae`, where all of them were given one.

    Where some were not, the default's name is not known, and the groups keep the names of their classes.
    """
    words = [dict(word.split("=", 1) for word in run.overrides if "=" in word) for run in runs]
    given = set.intersection(*map(set, words)) if words else set[str]()
    groups = {key for key in given if any(isinstance(run.config.get(key), Choice) for run in runs)}
    return [
        replace(run, config={**run.config, **{key: Choice(own[key]) for key in groups}})
        for run, own in zip(runs, words, strict=True)
    ]


def differing(runs: Sequence[Run]) -> list[str]:
    """Keys of the experiment that are not the same in all runs, in the configuration's order."""
    keys = dict.fromkeys(chain.from_iterable(run.config for run in runs))
    return [key for key in keys if not below(key, NO_EXPERIMENT) and len(set(column(runs, key))) > 1]


def identity(run: Run) -> tuple[tuple[str, str], ...]:
    """What makes a run the same as another, down to the seed."""
    keys = sorted(key for key in run.config if key == "seed" or not below(key, NO_EXPERIMENT))
    return tuple((key, value(run, key)) for key in keys)


def below(key: str, nodes: Iterable[str]) -> bool:
    """Whether a key is one of the nodes or below one."""
    return any(key == node or key.startswith(f"{node}.") for node in nodes)


def asked(runs: Iterable[Run]) -> set[str]:
    """Keys and groups that the command line of some run gave a value."""
    words = {word.partition("=")[0].lstrip("+~").partition("@")[0] for run in runs for word in run.overrides}
    return words | {BATCH} if PER_DEVICE in words else words


def leading(keys: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The keys that name a group; the others follow from them.

    A key that was asked for leads, unless it always equals one that does. Another leads only if it tells runs apart
    that the keys before it do not: `model=mlp_vae` changes twenty values, of which the first is enough. Keys below
    a group that was asked for come first, among them the choice of a class.
    """
    wanted = asked(runs)
    columns = {key: column(runs, key) for key in keys}
    chosen: list[str] = []
    for key in sorted(keys, key=lambda key: _precedence(key, wanted, runs)):
        if key in wanted:
            leads = columns[key] not in [columns[other] for other in chosen]
        else:
            leads = _classes([columns[other] for other in (*chosen, key)]) > _classes([columns[o] for o in chosen])
        if leads:
            chosen.append(key)
    return [key for key in keys if key in chosen]


def _precedence(key: str, wanted: set[str], runs: Sequence[Run]) -> tuple[int, bool, int]:
    rank = 0 if key in wanted else 1 if below(key, wanted) else 2
    return rank, not any(isinstance(run.config.get(key), Choice) for run in runs), key.count(".")


def _classes(columns: Sequence[Sequence[str]]) -> int:
    """How many kinds of runs the columns tell apart."""
    return len(set(zip(*columns, strict=True))) if columns else 1
