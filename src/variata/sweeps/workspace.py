"""A W&B workspace that compares the runs of a group: curves, the frontier of rate and distortion, what mattered."""

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as ws

STEP, BEST = "trainer/global_step", "val/elbo"  # whose value in the summary is the best one
TEST = ("test/nll", "test/nll_stderr", "test/elbo", "test/rate", "test/distortion", "test/active_units")
CURVES = (BEST, "train/elbo", "train/rate", "train/distortion", "train/beta")
PICTURES = ("images/samples", "images/reconstructions")


def workspace(group: str, project: str, entity: str, keys: Sequence[str]) -> ws.Workspace:
    """The workspace of a group, not yet saved.

    Args:
        group: Of runs: a multirun's folder, or the id of a W&B sweep.
        project: Of the runs.
        entity: Whose project.
        keys: Of the configuration, compared with the best bound.
    """
    return ws.Workspace(
        name=f"variata {group}",
        entity=entity,
        project=project,
        sections=[ws.Section(name=name, panels=shown, is_open=True) for name, shown in sections(keys).items()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=ws.And(ws.Metric("Group") == group),
            order=[ws.Ordering(ws.Summary(BEST), ascending=False)],
            pinned_columns=[f"summary:{name}" for name in ("status", BEST, *TEST)],
        ),
    )


def sections(keys: Sequence[str]) -> dict[str, list[Any]]:
    """Panels by heading: how training went, what is paid for and what is bought, results, settings, pictures."""
    columns = [panels.ParallelCoordinatesPlotColumn(panels.Config(key), log=key.endswith(".lr")) for key in keys]
    best = panels.ParallelCoordinatesPlotColumn(panels.SummaryMetric(BEST), display_name=f"best {BEST}")
    return {
        "Training": [panels.LinePlot(title=y, x=STEP, y=[y], max_runs_to_show=50) for y in CURVES],
        "Rate and distortion": [by_rate("Distortion", "test/distortion"), by_rate("NLL", "test/nll")],
        "Results": [
            panels.BarPlot(title="NLL, test, nats per image", metrics=["test/nll"], max_bars_to_show=50),
            panels.BarPlot(title="Active units, test", metrics=["test/active_units"], max_bars_to_show=50),
            panels.ScalarChart(title="Lowest NLL", metric=panels.SummaryMetric("test/nll"), groupby_aggfunc="min"),
        ],
        "Settings": [
            panels.ParallelCoordinatesPlot(title=f"Settings and best {BEST}", columns=[*columns, best]),
            panels.ParameterImportancePlot(with_respect_to=BEST),
            panels.RunComparer(diff_only="split"),
        ],
        "Pictures": [panels.MediaBrowser(title=name, num_columns=2, media_keys=[name]) for name in PICTURES],
    }


def by_rate(name: str, metric: str) -> panels.ScatterPlot:
    """A figure of the test against the rate, a point per run."""
    return panels.ScatterPlot(
        title=f"{name} against rate, test, nats per image",
        x=panels.SummaryMetric("test/rate"),
        y=panels.SummaryMetric(metric),
    )
