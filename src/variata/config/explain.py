"""Errors of libraries in our words."""

import re
import sys
import traceback
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from variata.config.compose import CONF, known_keys
from variata.config.renamed import said
from variata.errors import Defect, OutOfMemory, RunError, UserError
from variata.messages import did_you_mean

SEE = "See `python train.py --cfg job` for all keys."


def mendable(error: BaseException | None) -> UserError | None:
    """The error of ours that a library wrapped, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def told(error: Exception) -> UserError:
    """Any error as one to be told in a paragraph; one nobody foresaw as a defect."""
    if known := mendable(error):
        return known
    if isinstance(error, MemoryError) or re.search("can't allocate memory|out of memory", str(error), re.IGNORECASE):
        reason = f" ({' '.join(str(error).split())[:200]})" if str(error) else ""
        return OutOfMemory(
            f"There is not enough memory{reason}. A limit may be set, see ulimit -v; less is asked for by smaller "
            "data.batch_size, evaluate.nll.rows, objective.samples or models."
        )
    if isinstance(error, ImportError):
        return RunError(
            f"A library cannot be loaded: {error}. Memory may be limited (ulimit -v; importing PyTorch takes 4 GiB of "
            "addresses), or the installation is not whole: run make setup."
        )
    if isinstance(error, HydraException | OmegaConfBaseException | OSError) or met_by_hydra(error):
        return RunError(explain(error))
    return Defect(error)


def explain(error: Exception) -> str:
    """What Hydra, OmegaConf or the operating system found wrong, in our words."""
    if isinstance(error, MissingConfigException):
        if error.options is None or not error.missing_cfg_file:
            return " ".join(str(error).split())
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option} is unknown. {did_you_mean(option, sorted(error.options))}"
    if isinstance(error, OSError):
        place = error.filename or "A file of the run"
        return f"{place} cannot be used: {error.strerror or error}. Choose another folder with outputs=..."
    if "Config group override" in str(error):
        return "A group takes the name of an option, not null: scheduler=none, logger=none, callbacks=[]."
    key = unknown_key(error)
    if key is not None and (known := said(key)):
        return known
    if key is not None:
        return f"{key or 'A word without a key'} is not in the configuration. {did_you_mean(key, known_keys(), 8, SEE)}"
    if not isinstance(error, HydraException | OmegaConfBaseException):  # what Hydra itself did not foresee
        return f"{blamed(sys.argv[1:])}{f' ({error})' if isinstance(error, ValueError) else ''}"
    return " ".join(str(error).split() or str(error.__cause__).split() or [type(error).__name__])


def blamed(words: list[str]) -> str:
    """The word of a command line that Hydra stumbles over, as far as can be said."""
    parse = OverridesParser.create().parse_override
    for override in (parse(word) for word in words if "=" in word and word[0] != "-"):
        value: Any = override.value()
        names = value if isinstance(value, list) else [value]
        if (CONF / override.key_or_group).is_dir() and not all(isinstance(name, str | None) for name in names):
            return (
                f"{override.input_line}: a group takes the name of an option, or a list of names, as in "
                "callbacks=[default,ema]."
            )
    odd = [word for word in words if word.lstrip("+~").startswith("hydra")] or words
    return f"Hydra cannot use {' '.join(odd)}. See `python train.py --hydra-help` for what its options take."


def met_by_hydra(error: Exception) -> bool:
    """Whether an exception comes from Hydra reading the command line, not from what it builds or calls."""
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = max((i for i, name in enumerate(modules) if name.startswith("variata.")), default=-1)
    builds = ours >= 0 and modules[ours] == "variata.config.targets"
    return not builds and any(name.startswith(("hydra.", "omegaconf.")) for name in modules[ours + 1 :])


def unknown_key(error: Exception) -> str | None:
    """The key of an override that matches nothing."""
    words = str(error).split("'")
    return words[1] if str(error).startswith("Could not override '") and len(words) > 2 else None
