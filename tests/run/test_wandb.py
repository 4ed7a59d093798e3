"""W&B: sweeps for its agents, runs read back from their own files, workspaces."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args
from wandb.wandb_agent import Agent

from conftest import ROOT, environment, train_command
from variata.commands.wandb_sweep import convert
from variata.errors import ConfigError
from variata.run import directory, secrets
from variata.run import wandb as loggers
from variata.run.job import Job
from variata.sweeps.options import Options
from variata.sweeps.space import read
from variata.sweeps.wandb_yaml import document, dump
from wandb_file import records

QUICK = ["data=digits", "model=mlp_vae", "trainer.max_epochs=1", "evaluate.nll.samples=2", "trainer.accelerator=cpu"]
QUICK += ["trainer.check_val_every_n_epoch=1", "compile=false"]
SWEEPS = sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml"))


def variata(*words):
    """The console script as a user runs it."""
    code = "import sys; from variata.commands.main import main; sys.exit(main())"
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


def of(params, words=(), **changed):
    search = {"sampler": None, "trials": 20, "objectives": ["val/elbo"], "pruner": None, "seed": 1, "resume": None}
    return document("name", read(params, words), Options(params=params, report=False, **{**search, **changed}), "here")


# --- the YAML of a sweep ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SWEEPS if name != "pareto"])  # which has two objectives
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
    search = of({"x": "1,2"}, ["y=3"], sampler="tpe", trials=7, pruner="median")
    assert (search["method"], search["run_cap"]) == ("bayes", 7)
    assert search["metric"] == {"name": "val/elbo", "goal": "maximize"}
    assert of({"x": "1,2"}, objectives=["test/nll"])["metric"] == {"name": "test/nll", "goal": "minimize"}
    assert search["early_terminate"]["type"] == "hyperband"
    assert search["command"] == ["${env}", "${interpreter}", "${program}", "y=3", "${args_no_hyphens}"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"x": "interval(0,1)"}, "sweep.sampler=random"),
        ({"x": "1"}, "varies nothing"),
        ({"+x": "1,2"}, "no parameter of the name"),
    ],
)
def test_what_wandb_cannot_search_is_refused(params, words):
    with pytest.raises(ConfigError, match=words):
        of(params)


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


def test_a_glob_is_sent_as_the_options_it_fits():
    betas = [path.stem for path in (ROOT / "conf" / "beta").glob("*.yaml")]
    sweep = yaml.safe_load(convert("seeds", ["beta=glob(*,exclude=c*)"]))
    assert sweep["parameters"]["beta"]["values"] == sorted(name for name in betas if name[0] != "c")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pareto"], "W&B's sweeps have one objective, this one has val/rate and val/distortion"),
        (["beta", "sweep.objectives=[test/rate,test/distortion]"], "choose one, like sweep.objectives=[test/rate]"),
        (["beta", "sweep.resume=outputs/multirun/x"], "sweep.resume=outputs/multirun/x is for python train.py"),
        (["beta", "jobs=2"], "jobs=2 is for python train.py"),
        (["beta", "hydra.sweep.dir=x"], "hydra.sweep.dir=x is for python train.py"),
        (["beta", "hydra/launcher=basic"], "hydra/launcher=basic is for python train.py"),
    ],
)
def test_what_means_nothing_to_wandbs_agents_is_refused(words, said):
    with pytest.raises(ConfigError) as error:
        convert(words[0], words[1:])
    assert said in str(error.value)


def test_a_sweep_is_printed_without_torch():
    code = "import sys; from variata.commands.main import main; sys.argv[1:] = ['wandb-sweep', 'optuna']; main(); "
    code += "sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), cwd=ROOT).returncode == 0
    )


# --- runs of an agent -------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """A run started by W&B's agent."""

    run_id: str
    chosen: dict[str, Any]
    code: int
    run: Path


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Two runs that W&B's search suggests and W&B's agent starts; only the server between them is not there."""
    folder = tmp_path_factory.mktemp("agents")
    varied = ["beta.value=0.25,0.5,1,2", "seed=range(1,9)", "model=mlp_vae,mlp_vae", "model.encoder.widths=[16],[16,8]"]
    fixed = [word for word in QUICK if not word.startswith("model=")]
    fixed += ["logger.tags=[mine]", f"outputs={folder / 'outputs'}"]
    done = variata("wandb-sweep", "beta", "sweep.sampler=random", *fixed, *varied)
    assert done.returncode == 0, done.stderr
    sweep = yaml.safe_load(done.stdout)
    here = {"WANDB_SWEEP_ID": "sweep123", "WANDB_PROJECT": "elsewhere", "WANDB_ENTITY": "us", "WANDB_DIR": str(folder)}
    here["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found: list[Trial] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            patch.delenv(name)
        for name, value in {**environment(), **here}.items():
            patch.setenv(name, value)
        patch.chdir(ROOT)
        for number, config in enumerate(suggested(sweep, 2)):
            agent, run_id = Agent(None, None, sweep_id="sweep123"), f"trial{number}"
            agent._sweep_command = list(sweep["command"])
            agent._command_run({"run_id": run_id, "args": config, "program": sweep["program"]})
            code = agent._run_processes[run_id].wait()
            before = {trial.run for trial in found}
            (run,) = {path.parent for path in (folder / "outputs").rglob("config.yaml")} - before
            found.append(Trial(run_id, {key: entry["value"] for key, entry in config.items()}, code, run))
        patch.delenv("WANDB_RUN_ID")
        patch.delenv("WANDB_SWEEP_PARAM_PATH")
    return found


def wandb_files(run):
    return sorted((run / "wandb").rglob("*.wandb"))


@pytest.mark.slow
def test_runs_of_an_agent_are_the_runs_it_names_with_the_values_it_suggests(trials):
    assert [trial.code for trial in trials] == [0, 0]
    for trial in trials:
        (path,) = wandb_files(trial.run)
        kept = records(path)
        run, config = kept["run"], {key: json.loads(value) for key, value in kept["config"].items()}
        assert (run.run_id, run.sweep_id, run.run_group) == (trial.run_id, "sweep123", "sweep123")
        assert (run.project, run.entity) == ("elsewhere", "us")
        assert {key: config[key] for key in trial.chosen} == trial.chosen
        assert config["beta"]["value"] == trial.chosen["beta.value"] and config["seed"] == trial.chosen["seed"]
        assert config["model_options"]["encoder"]["widths"] == trial.chosen["model.encoder.widths"]
        assert config["model"] == "mlp_vae" and config["data"]["_target_"] == "variata.data.digits.digits"
        assert {"mine", "data=digits", f"beta.value={trial.chosen['beta.value']}"} <= set(run.tags)
        assert run.display_name.startswith("digits-mlp_vae ") and f"seed={trial.chosen['seed']}" in run.display_name
        assert kept["exit_code"] == 0


@pytest.mark.slow
def test_a_resumed_run_of_an_agent_goes_on_in_its_wandb_run(trials, train):
    trial = trials[0]
    for epochs in (2, 3):
        answer = train(f"resume={trial.run}", f"trainer.max_epochs={epochs}")
        assert answer.code == 0, answer.err
    first, *later = [records(path) for path in wandb_files(trial.run)]
    assert len(later) == 2
    for kept in later:
        for part in ("run_id", "sweep_id", "run_group", "project", "entity", "display_name"):
            assert getattr(kept["run"], part) == getattr(first["run"], part)
        assert set(first["run"].tags) < set(kept["run"].tags) and kept["exit_code"] == 0
        assert "model" not in kept["config"]  # there the sweep's word is


# --- runs read back ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """A multirun whose second job diverges, with a secret nobody asked for."""
    outputs = tmp_path_factory.mktemp("jobs")
    words = [*QUICK, "scheduler=none", "optimizer=adam", "logger.tags=[mine,digits]", "+remote.hf_token=sesame"]
    words += ["+remote.copy='${oc.env:MY_TOKEN}'"]
    words += ["+remote.user=me", f"+remote.note={'long' * 20}", "optimizer.lr=1e-3,1e30"]
    secret = {**environment(), "MY_TOKEN": "sesame-open"}
    done = subprocess.run(train_command(outputs, "-m", *words), capture_output=True, text=True, env=secret, cwd=outputs)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return sorted(path.parent for path in outputs.rglob("results.json"))


@pytest.fixture(scope="module")
def kept(jobs):
    return [records(path) for job in jobs for path in wandb_files(job)]


@pytest.mark.slow
def test_jobs_of_a_multirun_are_told_apart_and_belong_together(jobs, kept):
    assert {job["run"].run_group for job in kept} == {jobs[0].parent.name}
    assert [job["run"].run_id for job in kept] == [f"{jobs[0].parent.name}-{number}" for number in (0, 1)]
    for job, lr in zip(kept, (1e-3, 1e30), strict=True):
        name = job["run"].display_name
        assert name.startswith("digits-mlp_vae …") and float(name.rpartition("optimizer.lr=")[2]) == lr
        tags = list(job["run"].tags)
        assert tags[:4] == ["mine", "digits", "data=digits", "model=mlp_vae"] and len(set(tags)) == len(tags)
        assert all(1 <= len(tag) <= 64 for tag in tags) and not any(tag.startswith("outputs=") for tag in tags)
        (long,) = (tag for tag in tags if tag.startswith("+remote.note="))
        assert "…" in long and long.endswith("longlong") and len(name) == 128


@pytest.mark.slow
def test_a_run_that_diverged_has_failed(kept):
    assert [job["exit_code"] for job in kept] == [0, 1]
    assert [job["summary"]["status"] for job in kept] == ["finished", "failed"]
    assert "results.path" not in kept[1]["summary"]


@pytest.mark.slow
def test_summaries_hold_the_best_bound_and_the_results(jobs, kept):
    summary, results = kept[0]["summary"], json.loads((jobs[0] / "results.json").read_text())
    bounds = [row["val/elbo"] for row in kept[0]["history"] if "val/elbo" in row]
    assert summary["val/elbo"] == pytest.approx(max(bounds), abs=1e-4)
    assert {name: summary[name] for name in results} == results


@pytest.mark.slow
def test_results_are_a_table_of_one_row(jobs, kept):
    (path,) = wandb_files(jobs[0])
    table = json.loads((path.parent / "files" / kept[0]["summary"]["results.path"]).read_text())
    (row,) = (dict(zip(table["columns"], values, strict=True)) for values in table["data"])
    results = json.loads((jobs[0] / "results.json").read_text())
    assert {name: row[name] for name in results} == results and row["run"] == kept[0]["run"].display_name


@pytest.mark.slow
def test_secrets_are_in_no_file_of_a_run(jobs, kept):
    for job in jobs:
        files = [path for path in job.rglob("*") if path.is_file()]
        assert len(files) > 5 and not [path for path in files if b"sesame" in path.read_bytes()]
        assert directory.read_config(job)["remote"]["hf_token"] is None
    assert json.loads(kept[0]["config"]["remote"])["user"] == "me"


@pytest.mark.slow
def test_pictures_in_wandb_have_the_pixels_of_those_on_disk(jobs, kept):
    (path,) = wandb_files(jobs[0])
    pictures = sorted((jobs[0] / "images").glob("*.png"))
    assert len(pictures) >= 4
    for picture in pictures:
        *_, (name,) = (row[key] for row in kept[0]["history"] if (key := f"images/{picture.stem}.filenames") in row)
        pixels = np.asarray(Image.open(picture))
        assert np.array_equal(np.asarray(Image.open(path.parent / "files" / name).convert("L")), pixels)
        assert len(np.unique(pixels)) > 20


@pytest.mark.slow
def test_wandb_leet_reads_the_same_summary(jobs, kept):
    core = Path(wandb.__file__).parent / "bin" / "wandb-core"
    if not core.is_file():
        pytest.skip("this installation of W&B has no wandb-core")
    (path,) = wandb_files(jobs[0])
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    told, mine = json.loads(done.stdout), kept[0]["summary"]
    assert told["exit_code"] == 0 and told["run_id"] == kept[0]["run"].run_id and told["tags"] == kept[0]["run"].tags
    for name in ("val/elbo", "test/elbo", "test/nll", "test/rate", "status", "train/steps"):
        assert told["summary"][name] == mine[name]


# --- one run, piece by piece ------------------------------------------------------------------------------------------


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """What W&B keeps of a run without training, by how it ended."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)

    def log(status, history=()):
        run_dir = tmp_path / "data-model" / "run"
        config = {part: {"_target_": f"variata.{part}"} for part in ("data", "model")}
        logger = loggers.wandb(run_dir, config, Job(config, run_dir, [], "digits-mlp_vae", None, {}), mode="offline")
        for step, row in enumerate(history):
            logger.log_metrics(row, step)
        loggers.finish(logger.experiment, {"status": status, "train/steps": len(history)})
        wandb.teardown()  # now the file is whole
        (path,) = wandb_files(run_dir)
        return records(path)

    return log


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("pruned", 0), ("failed", 1), ("interrupted", 1)])
def test_how_a_run_ended_is_its_exit_code(logged, status, code):
    kept = logged(status)
    assert kept["exit_code"] == code and kept["summary"]["status"] == status
    assert kept["run"].display_name == kept["run"].run_id == "data-model-run"


def test_an_identity_says_where_a_run_of_a_sweep_goes_on_and_that_is_told(tmp_path, caplog):
    path, place = tmp_path / loggers.IDENTITY, {"sweep": "s1", "project": "elsewhere", "entity": "us"}
    path.parent.mkdir()
    identity = {"id": "a", "name": "b", "group": None, "tags": ["c"], "taken": ["model"]}
    path.write_text(json.dumps(identity))
    assert loggers._identity(tmp_path, None, "title") == identity and not caplog.text
    path.write_text(json.dumps({**identity, **place}))
    assert loggers._identity(tmp_path, None, "title") == {**identity, **place}
    assert f"sweep s1 of us/elsewhere, as {path} says" in caplog.text


def test_while_a_run_goes_on_its_best_values_are_its_summary(logged):
    kept = logged("failed", [{"val/elbo": value, "test/nll": -value, "val/rate": -value} for value in (-3, -1, -2)])
    assert kept["summary"]["val/elbo"] == {"max": -1} and kept["summary"]["test/nll"] == {"min": 1}
    assert kept["summary"]["val/rate"] == 2  # neither less nor more of it is better
    assert {metric.step_metric for metric in kept["metrics"][1:]} == {"trainer/global_step"}


def test_a_shortened_text_keeps_its_ends():
    assert loggers.shortened("key=" + "v" * 100 + ".end", 64) == "key=" + "v" * 27 + "…" + "v" * 28 + ".end"
    assert loggers.shortened("short", 64) == "short"


@pytest.mark.parametrize("key", ["token", "hf_token", "apiKey", "api_key", "password", "AWS_SECRET_ACCESS_KEY"])
def test_a_secret_is_known_by_its_key(key):
    config = {"a": {key: "sesame", "b": [{key: {"deep": "sesame"}}]}}
    assert secrets.public(config) == {"a": {key: None, "b": [{key: None}]}}
    words = [f"+a.{key}=sesame", f"+a={{{key}:sesame}}", "b=1"]
    assert secrets.public_words(words) == [f"+a.{key}=null", "+a=null", "b=1"]


@pytest.mark.parametrize("key", ["tokens", "token_dim", "monkey", "key", "latent", "secretary"])
def test_other_keys_are_no_secrets(key):
    assert secrets.public({key: 3}) == {key: 3} and secrets.public_words([f"{key}=3"]) == [f"{key}=3"]


# --- workspaces -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")  # the package's own
def test_a_workspace_compares_the_runs_of_its_group():
    from variata.sweeps.workspace import workspace

    model = workspace("2026-01-31_12-00-00", "variata", "us", ["beta.value", "seed"])._to_model()
    spec = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))["spec"]["section"]
    (rule,) = spec["runSets"][0]["filters"]["filters"]
    assert (rule["key"]["name"], rule["op"], rule["value"]) == ("group", "=", "2026-01-31_12-00-00")
    panels = [panel for section in spec["panelBankConfig"]["sections"] for panel in section["panels"]]
    drawn = {metric for panel in panels for metric in panel["config"].get("metrics", [])}
    assert {"val/elbo", "train/elbo", "train/rate", "train/distortion", "train/beta", "test/nll"} <= drawn
    (scatter,) = (panel["config"] for panel in panels if panel["config"].get("yAxis") == "summary:test/distortion")
    assert scatter["xAxis"] == "summary:test/rate"
    (parallel,) = (panel["config"] for panel in panels if panel["viewType"] == "Parallel Coordinates Plot")
    accessors = [column["accessor"] for column in parallel["columns"]]
    assert accessors == ["config:beta.value.value", "config:seed.value", "summary:val/elbo"]
    assert {key for panel in panels for key in panel["config"].get("mediaKeys", [])} == {
        *("images/samples", "images/reconstructions")
    }
    assert "Parameter Importance" in {panel["viewType"] for panel in panels}


def test_a_workspace_without_an_account_is_a_paragraph():
    done = variata("wandb-workspace", "2026-01-31_12-00-00")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("variata:") == 1
    said = " ".join(done.stderr.split())
    assert "wandb login" in said and "variata compare outputs/multirun/2026-01-31_12-00-00" in said
