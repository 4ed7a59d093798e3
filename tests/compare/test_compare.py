"""Runs side by side: read, grouped, judged and written down."""

import copy
import csv
import importlib.util
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import yaml
from omegaconf import OmegaConf
from PIL import Image

from conftest import ROOT
from variata.commands.main import main
from variata.compare import figures, keys, page, pictures, tables
from variata.compare.comparison import compare
from variata.compare.groups import grouped
from variata.compare.importance import importance
from variata.compare.statistics import pareto, ranks, summarise, welch
from variata.config.plain import flat
from variata.errors import RunError
from variata.formatting import brief, order, printable, text
from variata.metrics import LOW_ESS, METRICS
from variata.run import reader
from variata.run.directory import Loader, read_config
from variata.run.reader import QUIET, read, read_below, read_curve

CONFIG = yaml.load((ROOT / "tests" / "run.yaml").read_text(), Loader)  # as a run writes it
PROTOCOL = {"data/protocol": "digits", "test/images": 200, "test/nll_samples": 5}


def make_run(folder, *overrides, status="finished", curve=((10, -100.0), (20, -90.0)), results=None, **config):
    """A run directory; `beta__value=2` sets a key of its configuration."""
    whole = copy.deepcopy(CONFIG)
    for key, value in config.items():
        node, names = whole, key.split("__")
        for name in names[:-1]:
            node = node[name]
        node[names[-1]] = value
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    (folder / "overrides.txt").write_text("".join(f"{word}\n" for word in overrides))
    rows = [f"{step},{elbo},{0.25 * -elbo},{0.75 * -elbo}\n" for step, elbo in curve]
    (folder / "metrics.csv").write_text("step,val/elbo,val/rate,val/distortion\n5,,,\n" + "".join(rows))
    if status:
        (folder / "results.json").write_text(json.dumps({"seed": 1, "status": status, **PROTOCOL, **(results or {})}))
    return folder


def sweep(root, betas=(0.5, 1, 2), seeds=(1, 2, 3), noise=0.1, **more):
    """Runs whose NLL is 80 + 3 beta, and noise by seed."""
    for i, (beta, seed) in enumerate(itertools.product(betas, seeds)):
        nll = 80 + 3 * beta + noise * np.sin(12.9 * seed + 7.1 * beta)
        figure = {
            "val/elbo": -nll - 4,
            "test/nll": nll,
            "test/elbo": -nll - 3,
            "test/rate": 20 / beta,
            "test/distortion": nll + 3 - 20 / beta,
        }
        asked = (f"beta.value={beta}", f"seed={seed}")
        make_run(root / str(i), *asked, beta__value=beta, seed=seed, results={**figure, "train/seconds": 90.0}, **more)
    return root


def answer(monkeypatch, capsys, program, *arguments):
    """Exit code, and what is printed, of a command."""
    monkeypatch.setattr(sys, "argv", ["variata", program, *map(str, arguments)])
    code = main()
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())


def test_the_interval_is_students():
    for n in (2, 3, 5, 30):
        values = np.random.default_rng(n).normal(-80, 2, n)
        low, high = scipy.stats.t.interval(0.95, n - 1, values.mean(), scipy.stats.sem(values))
        summary = summarise(list(values))
        assert (summary.mean - summary.half, summary.mean + summary.half) == pytest.approx((low, high))
    assert summarise([1.0, 3.0]).half == pytest.approx(12.7062)  # t = 12.7062 at one degree, s / sqrt(2) = 1
    assert summarise([4.0]).half is None


def test_the_interval_of_a_difference_is_welchs():
    rng = np.random.default_rng(0)
    for n, m, scale in ((2, 2, 1.0), (3, 8, 0.01), (5, 4, 20.0)):
        one, two = rng.normal(-80, 2, n), rng.normal(-81, 2 * scale, m)
        oracle = scipy.stats.ttest_ind(one, two, equal_var=False).confidence_interval(0.95)
        found = welch(list(one), list(two))
        assert (found.mean - found.half, found.mean + found.half) == pytest.approx(tuple(oracle))
    assert welch([1.0], [2.0, 3.0]).half is None and welch([1.0, 1.0], [3.0, 3.0]).half == 0


def figures_by_seed(root, figures, name="test/nll"):
    """Runs of which group beta has the figures {seed: value}."""
    for beta, seeded in figures.items():
        for seed, value in seeded.items():
            results = {name: value, "val/elbo": -value} if name == "test/nll" else {name: value}
            make_run(root / f"{beta}-{seed}", f"beta.value={beta}", beta__value=beta, seed=seed, results=results)
    return root


@pytest.mark.parametrize("by", ["val/elbo", "test/nll"])
def test_a_group_is_behind_the_best_by_an_interval_over_common_seeds(tmp_path, by):
    rng = np.random.default_rng(0)
    level = {seed: rng.normal(90, 5) for seed in range(1, 6)}  # what a seed does to every group
    gaps = {1: 0.0, 2: 1.0, 4: 8.0}
    figures = {beta: {seed: level[seed] + gap + rng.normal(0, 0.3) for seed in level} for beta, gap in gaps.items()}
    figures[4] = {seed + 10: value for seed, value in figures[4].items()} | {1: 93.0}  # one seed in common
    comparison = compare(read_below([figures_by_seed(tmp_path, figures)]), by=by)
    best, second, third = comparison.groups
    assert [g.values("beta.value") for g in comparison.groups] == ["1", "2", "4"] and comparison.behind(best) is None
    first, other = ([figures[beta][seed] for seed in level] for beta in (1, 2))
    oracle = scipy.stats.ttest_rel(other, first).confidence_interval(0.95)
    found = comparison.behind(second)
    assert found.interval == pytest.approx(tuple(oracle)) and found.pairs == 5 and not found.open
    assert found.gap == pytest.approx(np.mean(other) - np.mean(first))
    assert scipy.stats.ttest_ind(other, first, equal_var=False).pvalue > 0.05  # which pairs tell apart all the same
    welchs = scipy.stats.ttest_ind(list(figures[4].values()), first, equal_var=False).confidence_interval(0.95)
    found = comparison.behind(third)
    assert found.interval == pytest.approx(tuple(welchs)) and found.pairs == 0
    cells = [row[3].text for row in tables.results(comparison).rows]
    assert cells[0] == "–" and re.fullmatch(r"[\d.]+ \[[-\d.]+, [-\d.]+\] p", cells[1]) and cells[2].endswith("] w")
    assert "over 5 pairs of equal seed), leaves out 0" in tables.headline(comparison)


def devices_run(folder, devices, per_device=None, batch=64, **more):
    asked = [f"trainer.devices={devices}", *([f"data.batch_size_per_device={per_device}"] if per_device else [])]
    sizes = {"data__batch_size": batch, "data__batch_size_per_device": per_device, "trainer__devices": devices}
    return make_run(folder, *asked, **sizes, **more)


def test_devices_tell_runs_apart_where_they_change_the_batch(tmp_path):
    for seed in (1, 2):
        devices_run(tmp_path / f"one-{seed}", 1, per_device=64, seed=seed)
        devices_run(tmp_path / f"four-{seed}", 4, per_device=64, seed=seed)
        devices_run(tmp_path / f"all-{seed}", -1, per_device=64, seed=seed, results={"train/batch_size": 128})
        devices_run(tmp_path / f"untold-{seed}", "auto", per_device=64, seed=seed)
    comparison = compare(read_below([tmp_path]))
    assert sorted(group.label for group in comparison.groups) == [
        *("batch_size=128", "batch_size=256", "batch_size=64", "batch_size=64 on each of auto"),
    ]
    assert all(len(group.judged) == 2 for group in comparison.groups) and comparison.warnings == []


def test_devices_that_share_a_batch_are_no_other_experiment(tmp_path):
    devices_run(tmp_path / "one", 1, batch=256, seed=1)
    devices_run(tmp_path / "two", 2, batch=256, seed=2)
    devices_run(tmp_path / "each", [0, 1, 2, 3], per_device=64, seed=3)  # an update of 256 images too
    devices_run(tmp_path / "again", 4, batch=256, seed=1)  # the same first weights and order of data
    (group,) = compare(read_below([tmp_path])).groups
    assert len(group.judged) == 3 and len(group.repeats) == 1


def test_runs_are_paired_by_all_that_differs_within_their_groups(tmp_path):
    figures = {
        (beta, lr, seed): 90 + beta + 50 * lr + 3 * seed + 0.1 * beta * seed
        for beta in (1, 2)
        for lr in (0.1, 0.2)
        for seed in (1, 2)
    }
    for (beta, lr, seed), value in figures.items():
        asked = (f"beta.value={beta}", f"optimizer.lr={lr}")
        changed = {"beta__value": beta, "optimizer__lr": lr, "seed": seed, "results": {"val/elbo": -value}}
        make_run(tmp_path / f"{beta}-{lr}-{seed}", *asked, **changed)
    comparison = compare(read_below([tmp_path]), group_by=["beta.value"])
    one, two = ([value for (beta, *_), value in figures.items() if beta == which] for which in (1, 2))
    oracle = scipy.stats.ttest_rel(two, one).confidence_interval(0.95)
    found = comparison.behind(comparison.groups[1])
    assert found.pairs == 4 and found.interval == pytest.approx(tuple(oracle))


def test_a_difference_lies_within_its_interval_where_only_some_seeds_are_shared(tmp_path):
    figures = {1: {1: 10.0, 2: -101.0, 3: -100.0}, 2: {2: -100.0, 3: -99.1, 4: -200.0}}
    comparison = compare(read_below([figures_by_seed(tmp_path, figures, "val/elbo")]))
    found = comparison.behind(comparison.groups[1])
    assert found.pairs == 0 and found.interval[0] < found.gap < found.interval[1]


def test_the_headline_says_what_a_difference_is_worth(tmp_path):
    def said(name, figures):
        return tables.headline(compare(read_below([figures_by_seed(tmp_path / name, figures, "val/elbo")])))

    assert "there is no interval, which takes two runs of each" in said("one", {1: {1: -90.0}, 2: {1: -91.0}})
    assert "(Welch), holds 0, so either may be better" in said("w", {1: {1: -90.0, 2: -80.0}, 2: {3: -91.0, 4: -81.0}})
    assert "2 pairs of equal seed), leaves out 0" in said("p", {1: {1: -90.0, 2: -80.0}, 2: {1: -91.0, 2: -81.01}})


def test_validation_chooses_and_a_choice_by_the_test_is_cautioned(tmp_path):
    for beta, (elbo, nll) in {1: (-80.0, 95.0), 2: (-81.0, 70.0)}.items():
        for seed in (1, 2):
            figure = {"val/elbo": elbo, "test/nll": nll}
            make_run(tmp_path / f"{beta}-{seed}", f"beta.value={beta}", beta__value=beta, seed=seed, results=figure)
    found = read_below([tmp_path])
    chosen, cautioned = compare(found), compare(found, by="test/nll")
    assert chosen.by.name == "val/elbo" and chosen.groups[0].values("beta.value") == "1" and not chosen.warnings
    assert "Ranked by val/elbo, higher is better. The validation images choose" in tables.results(chosen).caption
    assert cautioned.groups[0].values("beta.value") == "2" and "validation" not in tables.results(cautioned).caption
    assert len(cautioned.warnings) == 1 and "The test images chose the order" in tables.markdown(cautioned)
    make_run(tmp_path / "unvalidated" / "run", curve=(), results={"test/nll": 1.0})
    alone = compare(read_below([tmp_path / "unvalidated"]))
    assert "Nothing to rank by val/elbo" in tables.headline(alone) and "--by test/nll" in tables.headline(alone)


def test_the_front_has_the_points_no_other_beats():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 40):
        points = [tuple(point) for point in rng.integers(0, 8, (n, 2)).tolist()]
        beaten = {i for i, p in enumerate(points) for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]}
        assert sorted(pareto(points)) == sorted(set(range(n)) - beaten)


def test_the_best_is_first_and_equals_share_a_rank():
    assert ranks([-90.0, -80.0, -90.0, -100.0], up=True) == [2, 1, 2, 4]
    assert ranks([90.0, 80.0, 100.0], up=False) == [2, 1, 3]
    assert METRICS["val/elbo"].up and METRICS["test/elbo"].up
    assert not any(METRICS[name].up for name in ("test/nll", "test/rate", "test/distortion", "test/bits_per_dim"))


def test_a_configuration_has_one_level_and_says_everything_once():
    config = {
        "data": {"_target_": "variata.data.digits.digits", "shape": [1, 2, 2]},
        "model": {"_target_": "variata.build.flat", "shape": [1, 2, 2], "prior": {"_target_": "a.B"}, "latent": 2},
        "prior": {"_target_": "a.B", "_partial_": True},
        "logger": {},
    }
    same = {**config, "model": {**config["model"], "prior": config["prior"]}}
    assert flat(config)["model.prior"] == "B"
    assert list(flat(same).items()) == [
        *(("data", "digits"), ("data.shape", [1, 2, 2]), ("model", "flat"), ("model.latent", 2)),
        *(("prior", "B"), ("logger", None)),
    ]
    assert sorted(["10", "2", "1e-05", "word 10", "word 9"], key=order) == ["1e-05", "2", "10", "word 9", "word 10"]


ODD = """
odd: {a: 1e-3, b: '1e-3', c: 2026-01-01, d: yes, e: 1_000, f: .inf, g: null, h: 0x10, i: 1e5, j: 1:30,
      k: [a, {b: ~}], 7: 8}
"""


def test_a_configuration_is_read_as_omegaconf_reads_it(tmp_path):
    path = make_run(tmp_path / "run") / "config.yaml"
    path.write_text(path.read_text() + ODD)
    assert read_config(path.parent) == OmegaConf.to_container(OmegaConf.load(path))
    path.write_text(path.read_text() + "seed: 1\n")  # twice
    with pytest.raises(RunError, match="duplicate key seed"):
        read_config(path.parent)


@pytest.mark.parametrize("seeds", [(12345678, 12345679), (12345678.0, 12345679.0), (10**20, 10**20 + 1)])
def test_whole_numbers_keep_their_digits(tmp_path, monkeypatch, capsys, seeds):
    assert len({brief(str(seed)) for seed in seeds}) == len({text(seed) for seed in seeds}) == 2
    assert brief("0.00123456789") == "0.001235" and text(0.1 + 0.2) == "0.3" and text(1e300) == "1e+300"
    for seed in seeds:
        make_run(tmp_path / str(seed), f"seed={seed}", seed=seed)
    (group,) = compare(read_below([tmp_path])).groups
    assert len(group.judged) == 2
    _, out, _ = answer(monkeypatch, capsys, "ls", tmp_path)
    assert all(f"seed={seed} " in out for seed in seeds)


def test_a_number_no_float_can_hold_is_a_word(tmp_path):
    for i in range(8):
        make_run(tmp_path / str(i), optimizer__lr=10**400 + i, results={"val/elbo": -1.0 - i})
    assert compare(read_below([tmp_path])).importance is not None


def test_figures_of_hundreds_of_digits_are_written_short(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run", results={"test/nll": 1.5e38, "val/elbo": -1234.5})
    _, out, _ = answer(monkeypatch, capsys, "ls", tmp_path)
    assert "1.5e+38" in out and "-1,234.50" in out and "0000" not in out


def test_runs_are_grouped_by_what_differs_but_not_by_seed_and_place(tmp_path):
    sweep(tmp_path, betas=(0.5, 1))
    make_run(tmp_path / "elsewhere", outputs="/elsewhere", log_every=7, evaluate__rows=3, seed=9)
    runs = read_below([tmp_path]).runs
    assert keys.differing(runs) == ["beta.value"]
    groups = grouped(runs, ["beta.value"])
    assert [(group.label, len(group.runs)) for group in groups] == [("beta.value=0.5", 3), ("beta.value=1", 4)]
    assert [group.label for group in grouped(runs, [])] == ["all runs"]


def test_keys_that_follow_from_others_do_not_name_groups(tmp_path):
    mlp = {"model__encoder": {"_target_": "variata.networks.mlp.MLPEncoder", "widths": [4]}, "optimizer__lr": 0.5}
    for seed in (1, 2):
        make_run(tmp_path / f"a{seed}", f"seed={seed}", seed=seed)
        make_run(tmp_path / f"b{seed}", f"seed={seed}", "model=mlp_vae", seed=seed, **mlp)
        make_run(tmp_path / f"c{seed}", "model=mlp_vae", "model.latent=3", seed=seed, model__latent=3, **mlp)
    comparison = compare(read_below([tmp_path]))
    assert comparison.keys == ["model.encoder", "model.latent"] or comparison.keys == ["model.latent", "model.encoder"]
    assert {"model.encoder.widths", "optimizer.lr"} <= set(comparison.followers)
    assert sorted(len(group.runs) for group in comparison.groups) == [2, 2, 2]


def test_options_have_the_names_of_the_command_line_where_all_runs_were_given_one(tmp_path):
    mixture = {"prior": {"_target_": "variata.priors.Mixture", "components": 5}}
    make_run(tmp_path / "a", "prior=normal", "likelihood=bernoulli", results={"test/nll": 2.0})
    make_run(tmp_path / "b", "prior=mixture", "likelihood=bernoulli", results={"test/nll": 1.0}, **mixture)
    comparison = compare(read_below([tmp_path]))
    assert [group.label for group in comparison.groups] == ["prior=mixture", "prior=normal"]
    make_run(tmp_path / "c", seed=2, results={"test/nll": 3.0})
    comparison = compare(read_below([tmp_path]), group_by=["prior._target_"])
    assert [group.label for group in comparison.groups] == ["prior=Mixture", "prior=StandardNormal"]
    assert comparison.warnings == []


def test_groups_are_ranked_by_the_metric_and_unfinished_runs_only_counted(tmp_path):
    sweep(tmp_path / "sweep")
    for status in ("failed", "interrupted", "pruned"):
        make_run(tmp_path / status, status=status, beta__value=2, results={"test/nll": 1.0, "val/elbo": -1.0})
    comparison = compare(read_below([tmp_path]), by="test/nll")
    assert comparison.by.name == "test/nll" and list(comparison.ranks.values()) == [1, 2, 3]
    assert [group.label for group in comparison.groups] == ["beta.value=0.5", "beta.value=1", "beta.value=2"]
    worst = comparison.groups[-1]
    assert worst.counts == {"failed": 1, "finished": 3, "interrupted": 1, "pruned": 1}
    assert worst.summary(comparison.by).n == 3 and worst.summary(comparison.by).mean == pytest.approx(86, abs=0.1)
    by_rate = compare(read_below([tmp_path]), by="test/rate")
    assert by_rate.groups[0].label == "beta.value=2"


def test_the_best_validation_is_taken_from_the_curve_where_results_do_not_say(tmp_path):
    make_run(tmp_path / "a", seed=1, curve=[(10, -50.0), (20, -40.0), (30, -45.0)])
    make_run(tmp_path / "b", seed=2, results={"test/nll": 39.0, "val/elbo": -38.0})
    comparison = compare(read_below([tmp_path]))
    assert comparison.by.name == "val/elbo"
    first, second = comparison.groups[0].runs
    assert (first.figure("val/elbo"), first.figure("val/rate")) == (-40.0, 10.0)
    assert second.figure("val/elbo") == -38.0  # what results.json says goes before


def test_a_figure_of_nought_is_a_figure(tmp_path):
    for i, nll in enumerate((0.0, 5.0)):
        figure = {"test/nll": nll, "val/elbo": -nll, "train/seconds": 0.0, "test/rate": 0.0, "test/distortion": nll}
        run = make_run(tmp_path / str(i), seed=i, results=figure)
        (run / "images").mkdir()
        Image.new("L", (8, 8)).save(run / "images" / "samples.png")
    comparison = compare(read_below([tmp_path]))
    (group,) = comparison.groups
    for metric in ("test/nll", "val/elbo"):
        assert pictures.pictured(group, METRICS[metric]).path.name == "0"
    assert group.summary(METRICS["train/minutes"]).mean == 0
    diamond = next(trace for trace in figures.trade_off(comparison)["data"] if "error_x" in trace)
    assert diamond["error_x"]["array"] == [0.0]


CLEAN, OTHER = "0123456789abcdef" * 2 + "01234567", "fedcba9876543210" * 2 + "01234567"


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ([("0.1.0", CLEAN), ("0.1.0", CLEAN), (None, None)], ()),
        ([("0.1.0", CLEAN), ("0.2.0", CLEAN)], ("0.1.0 at 0123456789ab (1 run)", "0.2.0 at 0123456789ab (1 run)")),
        ([("0.1.0", CLEAN), ("0.1.0", OTHER), ("0.1.0", OTHER)], ("0.1.0 at fedcba987654 (2 runs), 0.1.0 at 01234",)),
        ([("0.1.0", CLEAN), ("0.1.0", f"{CLEAN}-dirty")], ("0.1.0 at 0123456789ab-dirty (1 run)", "is -dirty.")),
        ([(str(i), None) for i in range(7)], (" and 3 more",)),
    ],
)
def test_runs_of_different_code_are_averaged_with_a_warning(tmp_path, codes, said):
    for seed, (version, commit) in enumerate(codes):
        make_run(tmp_path / str(seed), seed=seed, results={"version": version, "git_sha": commit})
    comparison = compare(read_below([tmp_path]))
    assert len(comparison.warnings) == bool(said) and comparison.ranks
    for words in (*said, *(["1 group(s) average it as they do seeds"] if said else [])):
        assert words in comparison.warnings[0]


def test_groups_of_different_code_are_told_too(tmp_path):
    for beta, version in ((1, "0.1.0"), (2, "0.2.0")):
        make_run(tmp_path / version, beta__value=beta, results={"version": version})
    (warning,) = compare(read_below([tmp_path])).warnings
    assert (
        warning.startswith("The code differs between runs, 0.1.0 (1 run), 0.2.0 (1 run)") and "average" not in warning
    )


def test_one_seed_has_no_interval(tmp_path):
    sweep(tmp_path, seeds=(1,))
    comparison = compare(read_below([tmp_path]))
    assert all("±" not in cell.text for row in tables.results(comparison).rows for cell in row)
    assert "one run, so no interval" in tables.headline(comparison)


def test_a_run_that_repeats_a_seed_is_no_further_evidence(tmp_path):
    sweep(tmp_path, betas=(1,), seeds=(1, 2))
    again = make_run(tmp_path / "2026-01-01_00-00-00-abcdef", seed=1, results={"test/nll": 70.0})
    (group,) = compare(read_below([tmp_path])).groups
    assert len(group.judged) == 2 and again not in [run.path for run in group.judged]  # the older by its name
    assert any("repeat" in warning for warning in compare(read_below([tmp_path])).warnings)


@pytest.mark.parametrize(
    ("name", "other", "spoiled"),
    [
        ("data/protocol", {"results": {"data/protocol": "digits static"}}, True),
        ("test/images", {"results": {"test/images": 100}}, True),
        ("test/nll_samples", {"results": {"test/nll_samples": 500}}, True),
        ("likelihood", {"likelihood": {"_target_": "variata.likelihoods.Gaussian"}}, True),
        ("none", {"results": {"version": "9"}}, False),
    ],
)
def test_runs_judged_differently_are_not_ranked(tmp_path, name, other, spoiled):
    make_run(tmp_path / "a", beta__value=1, results={"test/nll": 80.0})
    made = {"test/nll": 70.0, **other.pop("results", {})}
    make_run(tmp_path / "b", beta__value=2, results=made, **other)
    comparison = compare(read_below([tmp_path]), by="test/nll")
    assert bool(comparison.ranks) is not spoiled
    assert any(warning.startswith(f"{name} differs") for warning in comparison.warnings) is spoiled
    together = compare(read_below([tmp_path]), group_by=["objective"])
    assert (together.groups[0].summary(METRICS["test/nll"]) is None) is spoiled
    if name == "test/nll_samples":  # which concerns no bound of one sample
        assert compare(read_below([tmp_path]), by="val/elbo").ranks
        assert "--by val/elbo" in tables.headline(comparison)


def test_likelihoods_that_are_densities_of_the_same_data_compare(tmp_path):
    for kind in ("Gaussian", "DiscretizedLogistic"):
        make_run(tmp_path / kind, likelihood={"_target_": f"variata.likelihoods.{kind}"}, results={"test/nll": 9.0})
    assert compare(read_below([tmp_path])).warnings == []


def test_importance_finds_the_keys_that_matter(tmp_path):
    rng, levels = np.random.default_rng(0), {"ELBO": 0.0, "IWAE": 6.0}
    for i in range(48):
        beta, lr, objective = rng.uniform(0, 2), rng.uniform(1e-4, 1e-2), list(levels)[i % 2]
        nll = 80 + 3 * beta + levels[objective] + rng.normal(0, 0.1)
        changed = {"objective": {"_target_": f"variata.objectives.{objective}"}, "optimizer__lr": float(lr)}
        asked = (f"beta.value={beta}", f"objective={objective}", f"optimizer.lr={lr}")
        make_run(tmp_path / str(i), *asked, seed=i, beta__value=float(beta), results={"test/nll": nll}, **changed)
    found = compare(read_below([tmp_path]), by="test/nll").importance
    assert list(found.shares)[:2] == ["objective", "beta.value"] and found.runs == 48
    parts = {"objective": 9.0, "beta.value": 3.0}  # variances 6^2 / 4 and 3^2 4 / 12
    for key, part in parts.items():
        assert found.shares[key] == pytest.approx(part / sum(parts.values()), abs=0.12)
    assert found.shares["optimizer.lr"] < 0.03 and found.explained > 0.9
    chance = [replace(run, results={"test/nll": rng.normal()}) for run in read_below([tmp_path]).runs]
    assert max(importance(chance, ["beta.value", "objective"], "test/nll").shares.values()) < 0.1
    few = read_below([tmp_path]).runs[:7]
    assert importance(few, ["beta.value"], "test/nll") is None


BREAKAGES = {
    "results cut short": ("results.json", b'{"test/nll": 1', "results.json is cut short"),
    "results empty": ("results.json", b"", "results.json is cut short"),
    "results a list": ("results.json", b"[1]", "does not say how the run ended"),
    "results beyond all figures": ("results.json", b'{"status": "finished", "test/nll": 1e300}', "is no figure"),
    "results with words": ("results.json", b'{"status": "finished", "test/nll": "low"}', "is no figure"),
    "metrics garbage": ("metrics.csv", bytes(range(256)), "metrics.csv"),
    "metrics of another program": ("metrics.csv", b"epoch,loss\n1,2\n", "column named step"),
    "metrics torn": (
        "metrics.csv",
        b"step,val/elbo,val/rate,val/distortion\n1,-2,1\n",
        "metrics.csv is damaged at line 2",
    ),
    "metrics without a step": ("metrics.csv", b"step,val/elbo,val/rate,val/distortion\n,-2,1,1\n", "damaged at line 2"),
    "metrics of an endless step": (
        "metrics.csv",
        b"step,val/elbo,val/rate,val/distortion\n1,-2,1,1\ninf,-2,1,1\n",
        "damaged at line 3: step='inf' is no number of updates",
    ),
    "metrics with words": ("metrics.csv", b"step,val/elbo,val/rate,val/distortion\n1,a,1,1\n", "damaged at line 2"),
    "config garbage": ("config.yaml", os.urandom(300) + b"\xff", "config.yaml is no text"),
    "config cut short": ("config.yaml", b"data: {_target_: 'a", "config.yaml cannot be read"),
    "config deep": ("config.yaml", b"[" * 5000, "config.yaml cannot be read"),
    "config nested": (
        "config.yaml",
        b"data: {_target_: a}\nmodel: {_target_: b}\nx: " + b"[" * 3000 + b"]" * 3000,
        "config.yaml cannot be read",
    ),
    "config foreign": ("config.yaml", b"wandb_version: 1\n", "not the configuration of a run"),
    "config with aliases": ("config.yaml", b"a: &a [1]\nb: [*a, *a]\n", "aliases"),
    "config a list": ("config.yaml", b"- 1\n", "not the configuration of a run"),
    "config empty": ("config.yaml", b"", "not the configuration of a run"),
    "overrides garbage": ("overrides.txt", b"\xff\xfe", "overrides.txt is no text"),
}


@pytest.mark.parametrize(("name", "content", "reason"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_directory_that_cannot_be_read_is_named_and_left_out(tmp_path, monkeypatch, capsys, name, content, reason):
    sweep(tmp_path, betas=(1, 2), seeds=(1, 2))
    broken = make_run(tmp_path / "broken")
    (broken / name).write_bytes(content)
    found = read_below([tmp_path])
    assert len(found.runs) == 4 and [place.path for place in found.left_out] == [broken]
    assert reason in found.left_out[0].reason
    for program in ("compare", "ls"):
        code, out, err = answer(monkeypatch, capsys, program, tmp_path)
        assert code == 0 and "broken" in out and reason.split()[0] in out and "Traceback" not in err


def test_runs_are_found_at_any_depth_once_and_not_within_each_other(tmp_path):
    sweep(tmp_path / "multirun" / "today")
    make_run(tmp_path / "multirun" / "today" / "0" / "copy", results={"test/nll": 1.0})
    make_run(tmp_path / "multirun" / ".hidden" / "0")
    (tmp_path / "multirun" / "config.yaml").write_text("foreign: true\n")  # runs below it are found all the same
    (tmp_path / "empty").mkdir()
    found = read_below([tmp_path, tmp_path / "multirun", tmp_path / "multirun" / "today" / "3"])
    assert len(found.runs) == 9 and len(found.left_out) == 1


def test_a_metrics_file_that_is_being_written_is_read_to_its_last_whole_line(tmp_path):
    run = make_run(tmp_path / "run", status=None)
    with (run / "metrics.csv").open("a") as file:
        file.write("30,-8")
    assert [point[:2] for point in read(run).curve] == [(10, -100), (20, -90)]


def test_what_cannot_be_compared_is_answered_in_a_paragraph(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "run")
    for arguments, said in (
        ([tmp_path / "nowhere"], "is no folder"),
        ([run / "results.json"], "is no folder"),
        ([run, "--group-by", "beta.valu"], "Did you mean beta.value?"),
        ([run, "--by", "loss"], "Allowed: val/elbo"),
        ([run, "--html", tmp_path], "is a folder"),
    ):
        code, out, err = answer(monkeypatch, capsys, "compare", *arguments)
        assert code == 2 and said in err and not out, arguments
    (tmp_path / "empty").mkdir()
    code, _, err = answer(monkeypatch, capsys, "compare", tmp_path / "empty")
    assert code == 2 and "There is no run below" in err


def test_only_running_runs_can_be_shown(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run", status=None, curve=())
    code, out, _ = answer(monkeypatch, capsys, "compare", tmp_path, "--html", tmp_path / "new" / "report.html")
    assert code == 0 and "1 running" in out and (tmp_path / "new" / "report.html").is_file()


def test_the_csv_has_a_row_per_run_and_markdown_the_same_tables(tmp_path, monkeypatch, capsys):
    sweep(tmp_path / "runs")
    make_run(
        tmp_path / "runs" / "f", "a=[b]|*c*", status="failed", beta__value=2, results={"error": "loss | <b>nan</b>"}
    )
    files = ["--csv", tmp_path / "r.csv", "--markdown", tmp_path / "r.md"]
    code, out, _ = answer(monkeypatch, capsys, "compare", tmp_path / "runs", *files)
    assert code == 0 and "a=[b]|*c*" in out
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert len(rows) == 10 and {row["beta.value"] for row in rows} == {"0.5", "1", "2"}
    assert {float(row["test/nll"]) for row in rows if row["status"] == "finished"} == {
        run.figure("test/nll") for run in read_below([tmp_path / "runs"]).runs if run.finished
    }
    text = (tmp_path / "r.md").read_text()
    assert "| group | configuration | n | behind | val ELBO | test NLL |" in text and r"loss \| \<b\>nan\</b\>" in text
    (first,) = re.findall(r"\| 1 \| beta.value=0.5 \| 3 \|.*", text)
    assert f"{read_mean(rows, '0.5'):.2f} ± " in first
    assert not list(tmp_path.glob("*.tmp"))


FORMULAS = {  # and what becomes of them
    **{word: f"'{word}" for word in ("=1+1", "+1+1", "-1+1", "@SUM(1)", '=HYPERLINK("http://x")', "－1+x")},
    **{"\t=1": "'=1", "\r=2": "'=2", "a\r=3": "a =3", "a\n=4": "a =4"},
}


def test_no_cell_of_the_csv_is_a_formula_and_numbers_stay_numbers(tmp_path):
    figures = {f"{word} name": word for word in FORMULAS} | {"test/elbo": -3.5, "note": "-inf", "more": "-1e3"}
    make_run(tmp_path / "a", results=figures, tag="=1+1")
    make_run(tmp_path / "b", tag="-2")
    text = tables.sheet(compare(read_below([tmp_path]), []))
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert {*FORMULAS.values(), *(f"{shown} name" for shown in FORMULAS.values())} <= set(cells)
    assert {"-3.5", "-inf", "-1e3", "-2"} <= set(cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))]


def read_mean(rows, beta):
    return np.mean([float(row["test/nll"]) for row in rows if row["beta.value"] == beta and row["test/nll"]])


EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def test_nothing_a_user_wrote_is_read_as_markup(tmp_path):
    for beta in (1, 2):
        make_run(tmp_path / f"{beta}", beta__value=f"{EVIL}{beta}", results={"data/protocol": EVIL})
    make_run(tmp_path / "failed", EVIL, status="failed", results={"error": EVIL})
    (make_run(tmp_path / "b") / "results.json").write_text(f'{{"status": 1, "{EVIL}')
    html = page.page(compare(read_below([tmp_path])), f"variata compare {EVIL}")
    ours = html.replace(page.plotly(), "")
    assert "<script>alert" not in ours and "<img src=x" not in ours and "&lt;script&gt;alert" in ours
    assert len(re.findall("<script", ours)) == len(re.findall("</script>", ours)) == 3
    assert all("<" not in trace["name"] for trace in figures.curves(compare(read_below([tmp_path])))["data"])
    assert printable("a\x1b[31m\nb") == "a\N{REPLACEMENT CHARACTER}[31m b"


def test_a_page_shows_the_best_run_of_each_group_in_small_pictures(tmp_path):
    sweep(tmp_path, betas=range(1, 11), seeds=(1, 2))
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    for run in tmp_path.iterdir():
        (run / "images").mkdir()
        Image.fromarray(noise[:30, :30]).save(run / "images" / "samples.png")
    Image.fromarray(noise).save(tmp_path / "0" / "images" / "samples.png")
    Image.fromarray(noise).save(tmp_path / "1" / "images" / "samples.png")
    (tmp_path / "2" / "images" / "samples.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    (tmp_path / "3" / "images" / "samples.png").write_bytes(b"<svg onload=alert(1)>")
    comparison = compare(read_below([tmp_path]))
    columns, more = pictures.columns(comparison)
    assert len(columns) == pictures.GROUPS and more == 2
    for column in columns:
        assert column.run.figure("test/nll") == min(run.figure("test/nll") for run in column.group.runs)
    assert len(columns[0].pictures["samples"]) < 500_000 and columns[1].pictures == {}
    assert "2 more groups have pictures" in page.page(comparison, "")


def test_curves_are_thinned_and_framed_by_what_follows_the_start(tmp_path):
    make_run(tmp_path / "run", curve=[(step, -1000 / step - 80) for step in range(1, 2001)])
    figure = figures.curves(compare(read_below([tmp_path])))
    (line,) = figure["data"]
    assert len(line["x"]) == figures.POINTS and line["x"][0] == 1 and line["x"][-1] == 2000
    low, high = figure["layout"]["yaxis"]["range"]
    assert -90 < low < -80.5 < high < -80


def test_the_frame_holds_the_intervals_until_it_is_thrice_as_wide_as_the_points(tmp_path):
    for seed, rate in enumerate((20.0, 22.0, 24.0)):
        figure = {"val/elbo": -80.0, "test/rate": rate, "test/distortion": 60.0 + 5 * seed}
        make_run(tmp_path / str(seed), seed=seed, results=figure)

    def framed(figure):
        diamond = next(trace for trace in figure["data"] if "error_x" in trace)
        for axis, points in (("x", 4.0), ("y", 10.0)) if len(comparison.runs) == 3 else (("x", 2.0), ("y", 5.0)):
            (middle,), (half,) = diamond[axis], diamond[f"error_{axis}"]["array"]
            low, high = figure["layout"][f"{axis}axis"]["range"]
            yield low < middle - half and middle + half < high, (high - low) / 1.16 / points

    comparison = compare(read_below([tmp_path]))
    assert [held for held, _ in framed(figures.trade_off(comparison))] == [True, True]
    shutil.rmtree(tmp_path / "2")
    comparison = compare(read_below([tmp_path]))  # of two values the interval is 12.7 times as wide as they are
    assert list(framed(figures.trade_off(comparison))) == [(False, pytest.approx(3))] * 2


def test_lines_of_equal_elbo_are_where_rate_and_distortion_add_up():
    lines, labels = figures._equal([0.0, 30.0], [50.0, 120.0])
    sums = [r + d for r, d in zip(lines["x"], lines["y"], strict=True) if r is not None]
    assert sums[::2] == pytest.approx(sums[1::2]) and len(labels) == len(sums) / 2
    assert all(-0.01 <= r <= 30.01 and 49.99 <= d <= 120.01 for r, d in zip(lines["x"], lines["y"], strict=True) if r)


def test_ls_tells_how_runs_ended(tmp_path, monkeypatch, capsys):
    for status in ("finished", "failed", "interrupted", "pruned"):
        make_run(tmp_path / status, status=status)
    make_run(tmp_path / "alive", status=None)
    age(make_run(tmp_path / "dead", status=None), 2 * QUIET)
    age(make_run(tmp_path / "evaluated", status=None, checkpoint_every=QUIET), 2 * QUIET)
    age(make_run(tmp_path / "resumed", status="interrupted") / "results.json", 60)
    found = {run.path.name: run.status for run in read_below([tmp_path]).runs}
    assert found.pop("alive") == found.pop("resumed") == found.pop("evaluated") == "running"
    assert found.pop("dead") == "killed" and all(name == status for name, status in found.items())
    code, out, _ = answer(monkeypatch, capsys, "ls", tmp_path, "--status", "failed", "--status", "killed")
    assert code == 0 and "dead" in out and "failed" in out and "alive" not in out
    code, out, _ = answer(monkeypatch, capsys, "ls", tmp_path / "failed", "--status", "killed")
    assert code == 0 and "None of 1 runs is killed" in out


def age(path, seconds):
    for file in [path, *path.glob("*")]:
        os.utime(file, (time.time() - seconds,) * 2)


def test_an_nll_is_at_most_its_figure_and_marked_where_its_weights_are_few(tmp_path, monkeypatch, capsys):
    for beta, size in ((1, LOW_ESS - 0.1), (2, float(LOW_ESS)), (4, None)):
        for seed in (1, 2):
            told = {"test/nll": 80.0 + beta, "test/bits_per_dim": 0.15, "val/elbo": -90.0 - beta}
            told |= {} if size is None else {"test/nll_ess": size if seed == 1 else 50.0}
            asked = (f"beta.value={beta}", f"seed={seed}")
            make_run(tmp_path / f"{beta}-{seed}", *asked, beta__value=beta, seed=seed, results=told)
    comparison = compare(read_below([tmp_path]))
    table = tables.results(comparison)
    columns = [table.headings.index(name) for name in ("test NLL", "bits/dim", "val ELBO")]
    rows = [[row[i].text for i in columns] for row in table.rows]
    assert rows[0] == ["≤ 81.00 ± 0.00†", "≤ 0.1500 ± 0.0000†", "-91.00 ± 0.00"]
    assert rows[1:] == [[f"≤ {nll}.00 ± 0.00", "≤ 0.1500 ± 0.0000", f"-{nll + 10}.00 ± 0.00"] for nll in (82, 84)]
    assert f"fewer than {LOW_ESS} samples" in table.caption and "≤ 81.00" in tables.markdown(comparison)
    assert "† The median image" in page.page(comparison, "")
    assert "lowest test NLL, ≤ 81.00" in tables.headline(compare(read_below([tmp_path]), by="test/nll"))
    for path, marked in ((tmp_path, True), (tmp_path / "2-1", False)):
        _, out, _ = answer(monkeypatch, capsys, "ls", path)
        assert "≤ 82.00 " in out and ("≤ 81.00†" in out) is marked and ("† The median" in out) is marked


def test_ls_reads_the_curve_only_of_runs_whose_results_lack_the_best_of_it(tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(reader, "read_curve", lambda path: opened.append(path.parent.name) or read_curve(path))
    make_run(tmp_path / "done", results={"val/elbo": -81.0})
    make_run(tmp_path / "running", status=None)
    make_run(tmp_path / "failed", status="failed")
    _, out, _ = answer(monkeypatch, capsys, "ls", tmp_path)
    assert sorted(opened) == ["failed", "running"] and out.count("-90.00") == 2 and "-81.00" in out
    opened.clear()
    assert all(run.curve for run in read_below([tmp_path]).runs) and len(opened) == 3


def test_ls_names_data_and_model_and_has_the_newest_last(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "binary_mnist-mlp_vae"
    make_run(folder / "2026-02-01_10-00-00-abcdef", "beta.value=2", results={"test/nll": 81.234})
    make_run(folder / "2025-02-01_10-00-00-abcdef", "data=digits", "model.latent=3")
    code, out, _ = answer(monkeypatch, capsys, "ls", tmp_path)
    first, second = (line for line in out.splitlines() if "finished" in line)
    assert code == 0 and "2025-02-01 10:00" in first and "digits" in first and "mlp_vae" in first
    assert "2026-02-01 10:00" in second and "81.23" in second and "binary_mnist" in second and "beta.value=2" in second


@pytest.mark.parametrize(
    "arguments", [["compare", "{}", "--html", "{}/report.html"], ["ls", "{}"]], ids=["compare", "ls"]
)
def test_neither_torch_nor_lightning_is_imported(tmp_path, arguments):
    sweep(tmp_path)
    argv = ["variata", *(word.format(tmp_path) for word in arguments)]
    heavy = "{name.partition('.')[0] for name in sys.modules} & {'torch', 'lightning', 'matplotlib', 'wandb'}"
    start = f"import sys; sys.argv = {argv!r}; from variata.commands.main import main"
    code = f"{start}; code = main(); assert not {heavy}, {heavy}; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(path):
    """The page after its scripts, and what they wrote to the console."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    place = f"--user-data-dir={path.parent / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *options, place, "--virtual-time-budget=8000", path], capture_output=True, text=True, timeout=120
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium, chromium-browser or google-chrome")
def test_a_browser_draws_the_page_without_an_error_and_without_a_network(tmp_path):
    location = importlib.util.spec_from_file_location("make_runs", ROOT / "scripts" / "make_runs.py")
    make_runs = importlib.util.module_from_spec(location)
    location.loader.exec_module(make_runs)
    folder = tmp_path / "runs"
    for i, (beta, seed) in enumerate(itertools.product((0.5, 1, 2, 4), (1, 2, 3))):
        asked = (f"beta.value={beta}",)
        make_runs.write_run(folder / str(i), {**make_runs.composed(asked), "seed": seed}, [*asked, f"seed={seed}"])
    html = page.page(compare(read_below([folder])), "variata compare runs")
    assert not re.findall(r'(?:src|href)\s*=\s*"?(?!data:)\w', html.replace(page.plotly(), ""))
    pressed = "document.querySelectorAll('table.sortable th button')[4].click();"  # val ELBO, ascending
    broken = "new Image().src = 'http://127.0.0.1:9/x.png'; undefined_function();"
    for name, script in (("good", pressed), ("bad", broken)):
        (tmp_path / f"{name}.html").write_text(html.replace("</body>", f"<script>{script}</script></body>"))
    dom, console = browse(tmp_path / "good.html")
    assert console == []  # the page's policy would have told of a request
    parts = dict(re.findall(r'class="plot[^"]*" id="(\w+)"(.*?)</section>', dom, re.DOTALL))
    assert set(parts) == {"curves", "trade_off", "importance"}
    assert len(re.findall(r'class="trace scatter', parts["curves"])) == 12
    assert len(re.findall(r'class="point"', parts["trade_off"])) == 12 + 4
    assert len(re.findall(r'<g class="point"', parts["importance"])) == 1
    values = [float(v) for v in re.findall(r'class="figure" data-value="(-\d+\.\d+)"', dom)][::2]
    assert len(re.findall("<img ", dom)) == 4 * 3 and values == sorted(values)
    _, console = browse(tmp_path / "bad.html")  # that errors and requests would have been seen
    assert len(console) == 2 and "undefined_function" in "".join(console) and "x.png" in "".join(console)
