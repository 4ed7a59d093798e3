"""Names that have changed: runs made before are read with the new ones; words of a command line are answered with them.

For a release each.
"""

from typing import Any

from variata.config.plain import Config

NETWORKS = {"mlp": "MLP", "conv": "Conv", "resnet": "ResNet"}
RENAMED = {  # what a configuration may build
    **{
        f"variata.{part.lower()}s.{kind}{part}": f"variata.networks.{module}.{kind}{part}"
        for module, kind in NETWORKS.items()
        for part in ("Encoder", "Decoder")
    },
    **{f"variata.callbacks.{name}": f"variata.training.callbacks.{name}" for name in ("Pictures", "EMA")},
    "variata.loggers.wandb": "variata.run.wandb.wandb",
}
KEYS = {  # of a command line
    "evaluate.samples": "evaluate.nll.samples",
    "evaluate.rows": "evaluate.nll.rows",
    "evaluate.quality": "evaluate=[nll,quality]",
}


def renamed(config: Config) -> Config:
    """The configuration of a run made before, with the names of today."""
    config = _targets(config)
    evaluate = config.get("evaluate")
    if isinstance(evaluate, dict) and {"samples", "rows", "quality"} & _values(evaluate):
        config["evaluate"] = _evaluations(evaluate, config.get("data"))
    return config


def said(key: str) -> str | None:
    """The sentence that answers an old key, if it is one."""
    key = key.lstrip("+~")
    return f"{key} is now {KEYS[key]}." if key in KEYS else None


def _targets(node: Any) -> Any:
    if isinstance(node, list):
        return [_targets(item) for item in node]
    if not isinstance(node, dict):
        return node
    name = node.get("_target_")
    new = {"_target_": RENAMED[name]} if isinstance(name, str) and name in RENAMED else {}
    return {key: new.get(key) or _targets(value) for key, value in node.items()}


def _values(node: Config) -> set[str]:
    return {name for name, value in node.items() if not isinstance(value, dict)}


def _evaluations(old: Config, data: Any) -> Config:
    """The test of a run was the NLL, and quality where that was asked for."""
    options = {name: old[name] for name in ("samples", "rows") if name in old}
    found: Config = {"nll": {"_target_": "variata.evaluation.nll.NLL", **options}}
    if old.get("quality"):
        root = data.get("root") if isinstance(data, dict) else None
        found["quality"] = {"_target_": "variata.evaluation.quality.Quality", "root": root}
    return found
