"""Commands of sweeps, in this process, whose jobs end as soon as they begin: what is composed, when, and from where."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from conftest import ROOT
from variata.commands import train
from variata.run import directory
from variata.run.job import Job
from variata.sweeps import jobs
from variata.sweeps import sweeper as sweep
from variata.sweeps.launchers import local

SMALL = ["data=digits", "model=mlp_vae", "sweep.report=false"]


@dataclass
class Command:
    """What came of a command."""

    code: int
    said: str
    begun: list[Job]

    def chosen(self, key: str) -> list:
        """What jobs have for a key."""
        return [OmegaConf.select(OmegaConf.create(job.config), key) for job in self.begun]


@dataclass
class Here:
    """Runs `train.py` in this process.

    Args:
        end: What a job's process leaves in results.json; by default its bound is minus its seed.
    """

    capsys: pytest.CaptureFixture
    patch: pytest.MonkeyPatch
    end: Callable[[Job], dict] = lambda job: {"status": "finished", "val/elbo": -float(job.config["seed"])}
    begun: list[Job] = field(default_factory=list)

    def __call__(self, *words: str) -> Command:
        self.begun = []
        self.patch.setattr(sys, "argv", ["train.py", *words])
        self.capsys.readouterr()
        code = train.main()
        out, err = self.capsys.readouterr()
        return Command(code, " ".join(f"{out} {err}".split()), self.begun)

    def command(self, job: Job) -> list[str]:
        """In place of the process of a job."""
        self.begun.append(job)
        job.folder.mkdir(parents=True, exist_ok=True)
        directory.write_config(job.folder, job.config, job.overrides)
        (job.folder / "results.json").write_text(json.dumps(self.end(job)))
        return ["true"]


@pytest.fixture
def here(monkeypatch, capsys, tmp_path):
    Plugins.instance()  # imports the launchers, whose classes a test may change
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    one = Here(capsys, monkeypatch)
    monkeypatch.setattr(local, "command", one.command)
    return one


def the_sweep(folder: Path) -> Path:
    (found,) = folder.glob("outputs/multirun/*")
    return found


def composed(folder: Path, name: str = "best", main: Path = ROOT / "conf") -> dict:
    """What `--config-dir=folder --config-name=name` means."""
    with hydra.initialize_config_dir(str(main), version_base="1.3"):
        path = GlobalHydra.instance().config_loader().get_search_path()
        path.prepend("command-line", f"file://{folder}", "schema")
        GlobalHydra.instance().hydra.config_loader.repository.initialize_sources(path)
        return OmegaConf.to_container(hydra.compose(name), resolve=True)


# --- where a sweep is composed from -----------------------------------------------------------------------------------


def write_place(folder: Path) -> Path:
    """A folder with a primary configuration, mine, and an option of ours it alone has, beta=odd."""
    (folder / "beta").mkdir(parents=True)
    (folder / "beta" / "odd.yaml").write_text("_target_: variata.schedules.Constant\nvalue: 3.0\n")
    for name in ("mine", "yours"):
        (folder / f"{name}.yaml").write_text("defaults:\n- config\n- override beta: odd\n- _self_\nlog_every: 7\n")
    return folder


@pytest.mark.parametrize(
    "flags",
    [
        ["-cn", "mine", "--config-dir", "place"],
        ["--config-name=mine", "--config-dir=place"],
        ["hydra.searchpath=[place]", "beta=odd", "log_every=7"],
        ["--config-path={}/conf", "-cn", "mine"],
    ],
    ids=["short", "long", "searchpath", "path"],
)
def test_a_sweep_goes_on_from_what_it_was_composed_of_wherever_it_is_resumed(here, tmp_path, monkeypatch, flags):
    write_place(tmp_path / "place")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copytree(tmp_path / "place", tmp_path / "conf", dirs_exist_ok=True)
    here.end = lambda job: {"status": "finished" if job.config["seed"] == 1 else "failed", "val/elbo": -1.0}
    first = here("-m", *SMALL, "seed=1,2", *(word.format(tmp_path) for word in flags))
    assert (first.chosen("beta.value"), first.chosen("log_every")) == ([3.0, 3.0], [7, 7])
    folder = the_sweep(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = here("-m", f"sweep.resume={folder}")
    assert [job.config for job in again.begun] == [first.begun[1].config]
    main = tmp_path / "conf" if "-cn" in flags and "--config-dir" not in flags else ROOT / "conf"
    best = composed(folder, main=main)
    assert (best["beta"]["value"], best["log_every"], best["seed"]) == (3.0, 7, 1)


def test_words_that_name_the_origin_of_a_sweep_may_be_repeated_and_no_others_given(here, tmp_path):
    write_place(tmp_path / "place")
    write_place(tmp_path / "other")
    flags = ["--config-dir=place", "-cn", "mine"]
    here("-m", *SMALL, "seed=1,2", *flags)
    folder = the_sweep(tmp_path)
    assert here("-m", f"sweep.resume={folder}", *flags).code == 0
    assert here("-m", f"sweep.resume={folder}", "--config-dir=place").code == 0
    for others in (["--config-dir=other"], ["--config-dir=place", "-cn", "yours"]):
        refused = here("-m", f"sweep.resume={folder}", *others)
        assert refused.code == 2 and f"composed from --config-dir={tmp_path}/place --config-name=mine" in refused.said


def test_a_place_that_is_gone_is_told_and_may_be_where_the_command_says(here, tmp_path):
    write_place(tmp_path / "place")
    here.end = lambda job: {"status": "failed"}
    here("-m", *SMALL, "seed=1,2", "--config-dir=place", "-cn", "mine")
    folder = the_sweep(tmp_path)
    (tmp_path / "place" / "mine.yaml").rename(tmp_path / "mine.yaml")
    without = here("-m", f"sweep.resume={folder}")
    assert without.code == 2 and "where there is no mine any more" in without.said
    (tmp_path / "mine.yaml").rename(tmp_path / "place" / "mine.yaml")
    (tmp_path / "place").rename(tmp_path / "moved")
    gone = here("-m", f"sweep.resume={folder}")
    assert gone.code == 2 and f"{tmp_path}/place is gone. Put it back" in gone.said and not gone.begun
    moved = here("-m", f"sweep.resume={folder}", "--config-dir=moved")
    assert moved.chosen("log_every") == [7, 7] and "goes on from --config-dir" in moved.said
    assert here("-m", f"sweep.resume={folder}").chosen("log_every") == [7, 7]  # it remembers that


def test_a_resumed_sweep_is_launched_as_its_configuration_says(here, tmp_path, monkeypatch):
    """The launcher sees the words of the first command: jobs on a CPU need no GPU each."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tmp_path / "mine.yaml").write_text("defaults:\n- config\n- _self_\njobs: 2\n")
    here.end = lambda job: {"status": "failed"}
    here("-m", *SMALL, "trainer=cpu", "seed=1,2", "--config-dir=.", "-cn", "mine")
    again = here("-m", f"sweep.resume={the_sweep(tmp_path)}")
    assert "2 jobs, 2 at a time" in again.said and len(again.begun) == 2


def test_a_sweep_of_the_best_of_a_sweep_has_a_best_that_is_composed_too(here, tmp_path):
    write_place(tmp_path / "place")
    flags, expected = ["--config-dir=place", "-cn", "mine"], {"log_every": 7, "seed": 3}
    for generation, words in enumerate((["seed=3,4"], ["trainer.max_epochs=8,9"], ["model.latent=5,6"])):
        done = here("-m", *SMALL, *words, f"hydra.sweep.dir=sweep{generation}", *flags)
        key, value = words[0].split(",")[0].split("=")
        expected[key] = int(value)
        best = OmegaConf.create(composed(tmp_path / f"sweep{generation}"))
        assert done.code == 0 and {key: OmegaConf.select(best, key) for key in expected} == expected
        assert best.beta.value == 3.0
        flags = [f"--config-dir=sweep{generation}", "-cn", "best"]


def test_what_is_the_best_no_more_has_no_file(here, tmp_path):
    points = {1: (1.0, 4.0), 2: (2.0, 2.0), 3: (3.0, 3.0)}
    now = {1: "finished", 2: "failed", 3: "finished"}
    here.end = lambda job: {
        "status": now[job.config["seed"]],
        **dict(zip(("val/rate", "val/distortion"), points[job.config["seed"]], strict=True)),
    }
    here("-m", *SMALL, "seed=1,2,3", "sweep.objectives=[val/rate,val/distortion]")
    folder = the_sweep(tmp_path)
    assert {path.name for path in folder.glob("*.yaml")} == {"best_0.yaml", "best_2.yaml"}
    now[2] = "finished"
    here("-m", f"sweep.resume={folder}")
    assert {path.name for path in folder.glob("*.yaml")} == {"best_0.yaml", "best_1.yaml"}


def test_words_stay_as_they_were_given(here, tmp_path):
    done = here("-m", *SMALL, r"+note='\${seed}'", "log_every=${seed}", "seed=3,4")
    assert [(job.config["note"], job.config["log_every"]) for job in done.begun] == [("${seed}", 3), ("${seed}", 4)]
    assert done.begun[0].overrides[-3:] == [r"+note='\${seed}'", "log_every=${seed}", "seed=3"]
    best = composed(the_sweep(tmp_path))
    assert (best["note"], best["log_every"]) == ("${seed}", 3)


# --- globs ------------------------------------------------------------------------------------------------------------

BETAS = sorted(path.stem for path in (ROOT / "conf" / "beta").glob("*.yaml"))


@pytest.mark.parametrize("extra", [[], ["sweep.sampler=grid"]], ids=["grid", "search"])
def test_a_glob_is_the_options_it_fits(here, extra):
    done = here("-m", *SMALL, "beta=glob(*,exclude=c*)", "prior=glob([normal,mix*])", *extra)
    tried = {tuple(word for word in job.overrides if word.startswith(("beta", "prior"))) for job in done.begun}
    expected = {(f"beta={b}", f"prior={p}") for b in BETAS if b[0] != "c" for p in ("normal", "mixture")}
    assert done.code == 0 and tried == expected and len(done.begun) == len(expected)


def test_a_glob_of_a_sweep_file_sees_options_beside_it_and_stays_what_it_was(here, tmp_path):
    write_place(tmp_path / "place")
    (tmp_path / "place" / "sweep").mkdir()
    (tmp_path / "place" / "sweep" / "betas.yaml").write_text("params:\n  beta: glob(*o*)\n")
    here.end = lambda job: {"status": "failed"}
    first = here("-m", *SMALL, "sweep=betas", "hydra.searchpath=[place]")
    assert [job.overrides[-1] for job in first.begun] == ["beta=constant", "beta=cosine", "beta=odd", "beta=sigmoid"]
    (tmp_path / "place" / "beta" / "another.yaml").write_text("_target_: variata.schedules.Constant\n")
    again = here("-m", f"sweep.resume={the_sweep(tmp_path)}")
    assert [job.overrides for job in again.begun] == [job.overrides for job in first.begun]


@pytest.mark.parametrize(
    ("word", "message"),
    [("beta=glob(x*)", "fits no option of beta. There are: constant"), ("seed=glob(*)", "seed is no group")],
)
def test_a_glob_of_nothing_is_refused(here, tmp_path, word, message):
    answer = here("-m", *SMALL, word)
    assert answer.code == 2 and message in answer.said and not list(tmp_path.iterdir())


# --- when jobs are composed -------------------------------------------------------------------------------------------


@pytest.fixture
def compositions(monkeypatch):
    """The numbers of jobs as they are composed, and "begins" where one begins."""
    seen = []

    def compose(context, config, overrides, number):
        seen.append(number)
        return jobs.compose(context, config, overrides, number)

    monkeypatch.setattr(sweep, "compose", compose)
    return seen


def test_a_job_of_a_grid_begins_before_the_next_is_composed(here, compositions):
    here.end = lambda job: compositions.append("begins") or {"status": "finished", "val/elbo": 0.0}
    done = here("-m", *SMALL, "seed=range(1,5)", "beta=constant,linear")
    assert "8 jobs, 1 at a time" in done.said
    assert compositions[:2] == [0, 0]  # a word of each choice, however many numbers
    assert compositions[2:] == [step for number in range(8) for step in (number, "begins")]


def test_a_large_grid_begins_at_once_and_a_resumed_one_composes_what_is_left(here, tmp_path, compositions):
    class Enough(BaseException):
        """No error, which a command would tell."""

    def end(job):
        if job.config["seed"] > 2:
            raise Enough
        return {"status": "finished", "val/elbo": 0.0}

    here.end = end
    with pytest.raises(Enough):
        here("-m", *SMALL, "seed=range(1,10001)")
    assert compositions == [0, 0, 1, 2]
    compositions.clear()
    with pytest.raises(Enough):
        here("-m", f"sweep.resume={the_sweep(tmp_path)}")
    assert compositions == [0, 2]


def test_every_word_of_a_choice_is_composed_before_any_job_begins(here, tmp_path):
    answer = here("-m", *SMALL, "seed=range(1,1000)", "beta=linear,constant,typo")
    assert answer.code == 2 and "beta=typo is unknown" in answer.said and not answer.begun
    assert not (tmp_path / "outputs").exists()


def test_a_job_that_cannot_be_composed_has_failed_and_the_others_go_on(here, tmp_path, monkeypatch):
    """Which pairs of words do not go together is not known before they meet."""
    (tmp_path / "beta").mkdir()
    odd = "_target_: variata.schedules.Constant\nvalue: ${objective.free_bits}\n"  # of which iwae has none
    (tmp_path / "beta" / "odd.yaml").write_text(odd)
    words = ["beta=linear,odd", "objective=iwae,elbo", "seed=1,2"]
    done = here("-m", *SMALL, *words, "hydra.searchpath=[.]")
    assert done.code == 1 and len(done.begun) == 6 and "2 of 8 jobs failed: 4, 5." in done.said
    assert "8/8 job 7" in done.said and "objective.free_bits" in done.said
    results = json.loads((the_sweep(tmp_path) / "4" / "results.json").read_text())
    assert results["status"] == "failed" and "objective.free_bits" in results["error"]


def test_a_launcher_of_arrays_is_handed_a_grid_in_lists_and_a_search_one_by_one(here, monkeypatch):
    handed = []

    def run(self, some, ended):
        handed.append(len(some) if isinstance(some, list) else None)
        self.runner.run(some, ended)

    joblib = sys.modules["hydra_plugins.variata_plugins"].Joblib
    monkeypatch.setattr(joblib, "together", 2)
    monkeypatch.setattr(joblib, "run", run)
    assert here("-m", *SMALL, "seed=range(1,6)").code == 0
    assert handed == [2, 2, 1]
    assert here("-m", *SMALL, "seed=range(1,6)", "sweep.sampler=random", "sweep.trials=3").code == 0
    assert handed == [2, 2, 1, None]


def test_a_launcher_of_hydras_composes_jobs_itself(here, tmp_path, compositions, monkeypatch):
    monkeypatch.setattr("variata.sweeps.launchers.local.apart", lambda config: compositions.append(int(config.seed)))
    done = here("-m", *SMALL, "seed=5,6,7", "hydra/launcher=basic")
    assert compositions == [0, 5, 6, 7], done.said
    assert "3 of 3 jobs failed" in done.said  # they left nothing


def test_what_is_given_twice_is_tried_once(here):
    done = here("-m", *SMALL, "seed=1,2,1")
    assert done.chosen("seed") == [1, 2] and "seed: 1 stands there more than once, and is tried once." in done.said


# --- fewer trials -----------------------------------------------------------------------------------------------------


def test_a_search_of_fewer_trials_than_have_begun_has_nothing_left_to_do(here, tmp_path):
    words = ["seed=range(1,100)", "sweep.sampler=random"]
    assert len(here("-m", *SMALL, *words, "sweep.trials=4").begun) == 4
    folder = the_sweep(tmp_path)
    (folder / "best.yaml").unlink()
    again = here("-m", f"sweep.resume={folder}", "sweep.trials=2", "sweep.report=true")
    assert again.code == 0 and not again.begun
    assert f"Nothing is left to do: all 4 jobs of {folder} have ended before." in again.said
    assert (folder / "best.yaml").is_file()


def test_a_search_of_fewer_trials_finishes_those_that_were_running(here, tmp_path):
    how = {"status": "interrupted"}
    here.end = lambda job: how
    here("-m", *SMALL, "seed=range(1,100)", "sweep.sampler=random", "sweep.trials=4")
    how = {"status": "finished", "val/elbo": 0.0}
    again = here("-m", f"sweep.resume={the_sweep(tmp_path)}", "sweep.trials=2")
    assert again.code == 0 and len(again.begun) == 4 and "4/4 job 3" in again.said


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "{}", "[]", "null", '{"arguments": 1}', "\xff", '{"origin": {"x": 1}}']
)
def test_a_damaged_sweep_json_is_told(here, tmp_path, text):
    (tmp_path / "sweep.json").write_text(text, encoding="latin-1")
    answer = here("-m", "sweep.resume=.")
    assert answer.code == 2 and "sweep.json is damaged" in answer.said


HANDLER = "+hydra.job_logging.handlers.evil={class: subprocess.Popen, args: [touch,touched]}"


@pytest.mark.parametrize(
    ("place", "word"),
    [
        ("words", HANDLER),
        ("words", "hydra.launcher.jobs={_target_: joblib.load, filename: touched}"),
        ("words", "+hydra.callbacks.evil={_target_: joblib.load, filename: touched}"),
        ("words", "+hydra.job.env_set.LD_PRELOAD=evil.so"),
        ("arguments", HANDLER),
        ("arguments", "hydra.launcher.jobs={_target_: joblib.load, filename: touched}"),
        ("arguments", "jobs={_target_: joblib.load, filename: touched}"),
        ("params", "hydra.launcher.jobs"),
    ],
)
def test_a_sweep_json_does_not_choose_what_hydra_builds_or_calls(here, tmp_path, place, word):
    here("-m", *SMALL, "seed=1,2")
    folder = the_sweep(tmp_path)
    shutil.rmtree(folder / "0")
    saved = json.loads((folder / "sweep.json").read_text())
    if place == "params":
        saved["options"]["params"][word] = "{_target_: joblib.load, filename: touched}"
    else:
        (saved["origin"] if place == "words" else saved)[place].append(word)
    (folder / "sweep.json").write_text(json.dumps(saved))
    answer = here("-m", f"sweep.resume={folder}")
    assert answer.code == 2 and not answer.begun and not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed="], "seed= has no value"),
        (["seed=1,2", "log_every="], "log_every= has no value"),
        (["sweep.resume="], "sweep.resume= has no value"),
        (["seed=1,2", "jobs=abc"], "jobs=abc is no whole number from 1"),
        (["seed=1,2", "jobs=true"], "jobs=True is no whole number from 1"),
        (["seed=1,2", "jobs=???"], "is no whole number from 1"),
        (["seed=1,2", "sweep.sampler=xxx"], "sweep.sampler=xxx is unknown"),
        (["seed=1,2", "sweep.sampler=???"], "sweep.sampler=??? has no value"),
        (["seed=1,2", "sweep.objectives=???"], "sweep.objectives=??? has no value"),
        (["seed=1,2", "sweep.objectives=null"], "sweep.objectives cannot be read"),
        (["seed=1,2", "sweep.objectives=[val/elbo,val/elbo]"], "stands there twice"),
        (["seed=1,2", "sweep.params=5"], "sweep.params cannot be read"),
        (["seed=1,2", "sweep.seed=-1"], "sweep.seed=-1 is not between 0"),
        (["seed=1,2", "sweep.trials=null"], "sweep.trials cannot be read"),
        (["seed=1,2", "+sweep.typo=1"], "sweep.typo cannot be read"),
        (["seed=1,2", "~sweep"], "~sweep: a sweep needs what this takes away"),
        (["outputs=a,b"], "A sweep has one directory"),
    ],
)
def test_nonsense_in_the_words_of_a_sweep_is_answered_with_a_sentence(here, tmp_path, words, message):
    answer = here("-m", *SMALL, *words)
    assert answer.code == 2 and message in answer.said and "Traceback" not in answer.said
    assert "full_key" not in answer.said and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep=beta"], "A sweep is several runs: add -m"),
        (["-m", "sweep=bta"], "sweep=bta is unknown. Did you mean beta?"),
        (["-m", "optimizer.lr=interval(0,1)"], "optimizer.lr is an interval"),
        (["-m", "seed=1,2", "jobs=0"], "jobs=0 is no whole number from 1"),
        (["-m", "seed=1,2", "jobs=1.5"], "jobs=1.5 is no whole number from 1"),
        (["-m", "sweep=beta,latent"], "cannot be varied in it"),
        (["-m", "seed=shuffle(1,2)"], "shuffle draws another order each time"),
        (["-m", "seed=range(1,1000000000)"], "The grid has 10,001 jobs or more"),
        (["-m", "sweep=optuna", "optimizer.lr=tag(log,interval(0,1))"], "begins above 0"),
        (["-m", "sweep.sampler=tpe"], "A search needs something to vary"),
        (["-m", "sweep.resume=nowhere", "seed=1,2"], "leave out seed=1,2"),
        (["-m", "seed=1,2", "resume=x"], "goes on with one run: leave out -m"),
        (["-m", "seed=1,2", "jobs=2", "hydra/launcher=basic"], "need hydra/launcher=joblib"),
        (["-m", "seed=1,2", "sweep.sampler=typo"], "sweep.sampler=typo is unknown"),
        (["-m", "seed=1,2", "sweep.trials=many"], "many"),
        (["-m", "seed=1,2", "hydra.sweep.subdir=here"], "a job's directory is its number"),
        (["-m", "model=typo,mlp_vae"], "model=typo is unknown"),
        (["-m", "model=mlp_vae,typo", "sweep=optuna"], "model=typo is unknown"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_told_before_it_begins(here, tmp_path, words, message):
    answer = here(*words)
    assert answer.code == 2 and message in answer.said and "Traceback" not in answer.said
    assert not (tmp_path / "outputs").exists()
