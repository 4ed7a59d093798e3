"""Evaluations of one run: built, called in order, and what they find kept in its directory."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from variata import __version__
from variata.config.plain import Config
from variata.config.targets import build, check
from variata.core import VAE, judging
from variata.data.module import ImageDataModule
from variata.evaluation.findings import Evaluation, Findings
from variata.messages import say
from variata.run import directory, loading
from variata.run.lock import COMMAND, alone
from variata.run.report import show

WRITTEN = ("results.json", "images", "attributes.json", COMMAND)  # in a run that has ended
PATIENCE = 10.0  # seconds another command may take to write its results


def built(nodes: Config) -> dict[str, Evaluation]:
    """Evaluations of checked nodes by name, those that devices share first: the others are the first device's alone."""
    every = {name: build(node, f"evaluate.{name}") for name, node in nodes.items() if node}
    return dict(sorted(every.items(), key=lambda item: not item[1].shared))


def found(evaluation: Evaluation, vae: VAE, data: ImageDataModule) -> Findings:
    """What an evaluation finds; the model is left as it was."""
    with torch.no_grad(), judging(vae):
        return evaluation(vae, data)


def results(evaluation: Evaluation, findings: Findings) -> dict[str, Any]:
    """What results.json is to hold of findings: figures, and of metrics that are not known everywhere what they are."""
    metrics = {metric.name: asdict(metric) for metric in evaluation.metrics if metric.name in findings.figures}
    return {**findings.figures, **({"metrics": metrics} if metrics else {})}


def merged(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Two parts of results.json as one; of the same figure the later one."""
    said = [part["metrics"] for part in (earlier, later) if isinstance(part.get("metrics"), dict)]
    metrics = {name: metric for metrics in said for name, metric in metrics.items()}
    return {**earlier, **later, **({"metrics": metrics} if metrics else {})}


def judge(
    run: Path,
    nodes: Config,
    device: str | None = None,
    root: str | None = None,
    cache: str | None = None,
    out: Path | None = None,
) -> None:
    """Judge a run that has ended: print what is found, and keep it in the run or in another folder.

    Args:
        run: The run directory, of which the model and the data are built, and nothing else.
        nodes: Of the group `evaluate`.
        device: "cpu" or "cuda"; the best there is if not given.
        root: Takes the place of `data.root`.
        cache: Folder of packed images.
        out: Takes the place of the run, which is then left as it is.
    """
    for name, node in nodes.items():
        check(node, f"evaluate.{name}")
    evaluations, place = built(nodes), loading.device(device)
    if out is None:
        directory.require_own(run, WRITTEN)
    config, vae = directory.read_config(run), loading.load(run)
    data = loading.open_data(run, root, cache)
    data.limits = tested(config, data)
    for evaluation in evaluations.values():
        evaluation.require(data)
    vae, later, made_by = vae.to(place), dict[str, Any](), f"{__version__} at {directory.git_sha()}"
    for name, evaluation in evaluations.items():
        findings = found(evaluation, vae, data)
        if out is None:
            directory.require_own(run, findings.files)
        paths = findings.write(out or run, out or run / "images")
        show(name, findings.said(evaluation.metrics), paths, findings.tables)
        later = merged(later, {**results(evaluation, findings), f"evaluate/{name}": made_by})
    if out is None:
        keep(run, later)


def keep(run: Path, later: dict[str, Any]) -> None:
    """Add what was found to results.json, once nobody else is at the run."""
    with alone(run, PATIENCE, written=WRITTEN):
        if not (known := directory.outcome(run).results):
            say(
                f"{run / 'results.json'} is not there, or damaged: the run has not ended, and what was found is shown "
                "here alone."
            )
            return
        directory.write_results(run, merged(known, later))


def tested(config: Config, data: ImageDataModule) -> dict[str, int]:
    """Batches of the test that a run was judged on, where that was a part; all where it was judged on none."""
    trainer = config.get("trainer")
    limit = trainer.get("limit_test_batches") if isinstance(trainer, dict) else None
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < math.inf:
        return {}
    return {"test": batches(limit, data, "test")}


def batches(limit: int | float, data: ImageDataModule, split: str) -> int:
    """Batches of a split that Lightning's limit means: a number of them, or a fraction."""
    return limit if isinstance(limit, int) else int(limit * data.batches(split))
