"""A W&B workspace that compares the runs of a group: curves, the frontier of rate and distortion, what mattered."""

from collections.abc import Sequence

import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as ws

STEP, BEST = "trainer/global_step", "val/elbo"  # whose value in the summary is the best one
SHOWN = (
    "status",
    BEST,
    "test/nll",
    "test/nll_stderr",
    "test/elbo",
    "test/rate",
    "test/distortion",
    "test/active_units",
)


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
        sections=[curves(), frontier(), results(), settings(keys), pictures()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=ws.And(ws.Metric("Group") == group),
            order=[ws.Ordering(ws.Summary(BEST), ascending=False)],
            pinned_columns=[f"summary:{name}" for name in SHOWN],
        ),
    )


def curves() -> ws.Section:
    """How training went."""
    return section(
        "Training", [lines(y) for y in ("val/elbo", "train/elbo", "train/rate", "train/distortion", "train/beta")]
    )


def frontier() -> ws.Section:
    """Rate against distortion: what is paid for, and what is bought."""
    return section(
        "Rate and distortion",
        [
            panels.ScatterPlot(
                title="Distortion against rate, test, nats per image",
                x=panels.SummaryMetric("test/rate"),
                y=panels.SummaryMetric("test/distortion"),
            ),
            panels.ScatterPlot(
                title="NLL against rate, test, nats per image",
                x=panels.SummaryMetric("test/rate"),
                y=panels.SummaryMetric("test/nll"),
            ),
        ],
    )


def results() -> ws.Section:
    """Figures of the test set, run by run."""
    return section(
        "Results",
        [
            panels.BarPlot(title="NLL, test, nats per image", metrics=["test/nll"], max_bars_to_show=50),
            panels.BarPlot(title="Active units, test", metrics=["test/active_units"], max_bars_to_show=50),
            panels.ScalarChart(title="Lowest NLL", metric=panels.SummaryMetric("test/nll"), groupby_aggfunc="min"),
        ],
    )


def settings(keys: Sequence[str]) -> ws.Section:
    """Which settings moved the bound."""
    columns = [panels.ParallelCoordinatesPlotColumn(panels.Config(key), log=key.endswith(".lr")) for key in keys]
    columns.append(panels.ParallelCoordinatesPlotColumn(panels.SummaryMetric(BEST), display_name="best val/elbo"))
    return section(
        "Settings",
        [
            panels.ParallelCoordinatesPlot(title="Settings and best val/elbo", columns=columns),
            panels.ParameterImportancePlot(with_respect_to=BEST),
            panels.RunComparer(diff_only="split"),
        ],
    )


def pictures() -> ws.Section:
    """Samples and reconstructions side by side."""
    names = ("images/samples", "images/reconstructions")
    return section("Pictures", [panels.MediaBrowser(title=name, num_columns=2, media_keys=[name]) for name in names])


def section(name: str, shown: list) -> ws.Section:
    """Panels under a heading, open."""
    return ws.Section(name=name, panels=shown, is_open=True)


def lines(metric: str) -> panels.LinePlot:
    """A metric over optimizer updates, a line per run."""
    return panels.LinePlot(title=metric, x=STEP, y=[metric], max_runs_to_show=50)
