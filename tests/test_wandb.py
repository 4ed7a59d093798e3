"""W&B: sweeps for its agents, runs read back from their own files, workspaces."""

import json
import subprocess
import sys
import warnings

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from conftest import ROOT, environment
from variata.cli.wandb_sweep import DEFAULTS
from variata.errors import ConfigError
from variata.sweeps.space import read
from variata.sweeps.wandb_yaml import document, dump

SWEEPS = sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml"))


def variata(*words):
    """The console script as a user runs it."""
    code = "import sys; from variata.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment(), cwd=ROOT
    )


def checker():
    """W&B's own package for sweeps: its schema, and its search."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*have changed in V2", category=UserWarning)  # its use of pydantic
        warnings.filterwarnings("ignore", message=".*class-based `config`", category=DeprecationWarning)
        return pytest.importorskip("sweeps", reason="W&B's package sweeps is not installed (make setup)")


def suggested(sweep, number):
    """The arguments of the first runs W&B's own search suggests, as JSON brings them to an agent."""
    sweeps, runs = checker(), []
    for i in range(number):
        run = sweeps.next_run(sweeps.SweepConfig(sweep), runs, validate=True)
        run.state, run.history = sweeps.RunState.finished, [{"val/elbo": -90.0 - i}]
        runs.append(run)
    return [json.loads(json.dumps(run.config, default=lambda number: number.item())) for run in runs]


def of(params, words=(), **search):
    return document("name", read(params, words), DEFAULTS | search, "project")


# --- the YAML of a sweep ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWEEPS)
def test_wandbs_checker_accepts_every_sweep_and_suggests_runs_of_it(name):
    done = variata("wandb-sweep", name, "data=digits")
    assert done.returncode == 0, done.stderr
    sweep = yaml.safe_load(done.stdout)
    assert sweep["project"] == "variata" and sweep["command"][-2:] == ["data=digits", "${args_no_hyphens}"]
    first, second = suggested(sweep, 2)
    assert first != second and first.keys() == sweep["parameters"].keys()


def test_numbers_of_a_sweep_are_numbers_in_yaml():
    params = {"a": "tag(log,interval(1e-5,1e-2))", "b": "1e-4,3e-7,1", "c": "range(0,1,0.25)", "d": "true,word"}
    sweep = of(params, sampler="tpe")
    assert yaml.safe_load(dump(sweep)) == sweep
    parameters = yaml.safe_load(dump(sweep))["parameters"]
    assert parameters["a"] == {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2}
    assert parameters["b"]["values"] == [1e-4, 3e-7, 1] and parameters["d"]["values"] == [True, "word"]
    assert parameters["c"]["values"] == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("text", "sampler", "expected"),
    [
        ("interval(0.5,2)", "tpe", {"distribution": "uniform", "min": 0.5, "max": 2.0}),
        ("int(interval(1,9))", "cmaes", {"distribution": "int_uniform", "min": 1, "max": 9}),
        ("tag(log,int(interval(1,9)))", "random", {"distribution": "q_log_uniform_values", "q": 1, "min": 1, "max": 9}),
        ("range(1,6)", "tpe", {"distribution": "int_uniform", "min": 1, "max": 5}),
        ("range(1,6)", None, {"values": [1, 2, 3, 4, 5]}),
        ("range(4,15,5)", "tpe", {"values": [4, 9, 14]}),
    ],
)
def test_an_axis_in_wandbs_words(text, sampler, expected):
    sweep = of({"x": text}, sampler=sampler)
    assert sweep["parameters"]["x"] == expected
    for run in suggested(sweep, 3):
        value = run["x"]["value"]
        assert value in expected["values"] if "values" in expected else expected["min"] <= value <= expected["max"]
        assert isinstance(value, int) == ("interval(0.5" not in text)


@pytest.mark.parametrize(
    "text", ["[1,2]", "[a,b]", "null", "true", "1e-07", "{a:1}", "'x y'", "'a,b'", "'True'", "[null]", "word", "''"]
)
def test_a_value_an_agent_prints_is_read_as_the_one_that_was_meant(text):
    sweep = yaml.safe_load(dump(of({"x": f"{text},other"})))
    (argument,) = create_sweep_command_args({"args": {"x": {"value": sweep["parameters"]["x"]["values"][0]}}})[
        "args_no_hyphens"
    ]
    parse = OverridesParser.create().parse_override
    assert parse(argument).value() == parse(f"x={text}").value()


def test_how_to_search_is_said_in_wandbs_words():
    assert of({"x": "1,2"})["method"] == "grid" and "run_cap" not in of({"x": "1,2"})
    search = of({"x": "1,2"}, ["y=3"], sampler="tpe", trials=7, pruner="median", objectives={"test/nll": "minimize"})
    assert (search["method"], search["run_cap"]) == ("bayes", 7)
    assert search["metric"] == {"name": "test/nll", "goal": "minimize"}
    assert search["early_terminate"]["type"] == "hyperband"
    assert search["command"] == ["${env}", "${interpreter}", "${program}", "y=3", "${args_no_hyphens}"]


@pytest.mark.parametrize(
    ("params", "search", "words"),
    [
        ({"x": "interval(0,1)"}, {}, "sweep.sampler=random"),
        ({"x": "1"}, {}, "varies nothing"),
        ({"+x": "1,2"}, {}, "no parameter of the name"),
        ({"x": "1,2"}, {"sampler": "annealing"}, "Use one of null, grid, random, tpe, cmaes"),
        ({"x": "1,2"}, {"trials": 0, "sampler": "tpe"}, "whole one from 1"),
        ({"x": "1,2"}, {"objectives": {"val/elbo": "up"}}, "maximize or minimize"),
    ],
)
def test_what_wandb_cannot_search_is_refused(params, search, words):
    with pytest.raises(ConfigError, match=words):
        of(params, **search)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optna"], "sweep=optna is unknown. Did you mean optuna?"),
        (["optuna", "beta.valu=1,2"], "Did you mean beta.value?"),
        (["optuna", "model=conv_vae,typo"], "model=typo is unknown."),
        (["optuna", "sweep.tials=3"], "Did you mean sweep.trials?"),
        (["optuna", "sweep.sampler=grid"], "optimizer.lr is an interval"),
        (["beta", "logger=none"], "Leave it out"),
    ],
)
def test_wrong_sweeps_are_answered_with_a_paragraph(words, said):
    done = variata("wandb-sweep", *words)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("variata:") == 1
    assert said in " ".join(done.stderr.split())


def test_of_two_objectives_the_first_is_taken_and_said():
    done = variata("wandb-sweep", "beta", "sweep.objectives={test/rate:minimize,test/distortion:minimize}")
    assert done.returncode == 0 and yaml.safe_load(done.stdout)["metric"]["name"] == "test/rate"
    assert "test/distortion is not" in " ".join(done.stderr.split())


def test_a_sweep_is_printed_without_torch():
    code = "import sys; from variata.cli.wandb_sweep import main; sys.argv[1:] = ['optuna']; main(); "
    code += "sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), cwd=ROOT).returncode == 0
    )
