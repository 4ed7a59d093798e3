"""Sweeps: where jobs come from, how they share a machine, what is left when they, or all, are killed."""

import itertools
import json
import os
import pickle
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import hydra
import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from conftest import ROOT, environment, train_command
from variata.errors import ConfigError, Interrupted, RunError
from variata.run.directory import Outcome, outcome
from variata.run.job import Job
from variata.run.study import storage
from variata.statuses import Status
from variata.sweeps import summary
from variata.sweeps.launchers import local
from variata.sweeps.launchers.local import Local, shares
from variata.sweeps.options import Options
from variata.sweeps.origin import Origin
from variata.sweeps.request import Request, quoted
from variata.sweeps.search import Grid, Search
from variata.sweeps.space import read

QUICK = [
    "data=digits",
    "model=mlp_vae",
    "trainer.accelerator=cpu",
    "evaluate.nll.samples=2",
    "logger=none",
    "compile=false",
]
QUICK += ["model.encoder.widths=[16]", "callbacks=[]", "trainer.check_val_every_n_epoch=1", "data.batch_size=128"]
PLAIN = Options({}, None, 20, ["val/elbo"], None, 1, None, False)


def a_job(folder: Path, overrides: list[str], number: int) -> Job:
    return Job({}, folder / str(number), overrides, "digits-mlp_vae", None, {})


def finished(elbo: float, **more: float) -> Outcome:
    return Outcome(Status.FINISHED, {"val/elbo": elbo, **more})


# --- where jobs come from ---------------------------------------------------------------------------------------------


def write_outcome(folder: Path, status: str, **figures: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"status": status, **figures}))


def test_a_grid_does_again_what_is_missing_or_failed(tmp_path):
    for number, status in {0: "finished", 1: "failed", 2: "pruned", 4: "interrupted"}.items():
        write_outcome(tmp_path / str(number), status)
    grid = Grid([[f"seed={i}"] for i in range(6)], tmp_path)
    assert [(point.number, point.overrides) for point in grid.points()] == [(i, [f"seed={i}"]) for i in (1, 3, 4, 5)]
    assert (grid.total, grid.left) == (6, 4)


def search(folder: Path, params: dict, **changes) -> Search:
    options = replace(PLAIN, **{"sampler": "tpe", "trials": 8, **changes})
    return Search(read(params, []), options, folder, 2)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_a_search_stays_in_its_space_and_counts_its_trials(tmp_path, sampler):
    params = {"lr": "tag(log,interval(1e-4,1e-1))", "latent": "range(8,65,8)", "over": "0.1,5ep"}
    source = search(tmp_path, params, sampler=sampler)
    for point in source.points():
        chosen = dict(word.split("=") for word in point.overrides)
        assert 1e-4 <= float(chosen["lr"]) <= 1e-1
        assert chosen["latent"] in map(str, range(8, 65, 8)) and chosen["over"] in ("0.1", "5ep")
        source.tell(point.number, finished(-float(chosen["lr"])))
    assert len(source.study.trials) == 8


def test_a_search_comes_nearer_to_the_best(tmp_path):
    source = search(tmp_path, {"x": "interval(-10.0,10.0)"}, trials=40)
    for point in source.points():
        x = float(point.overrides[0].split("=")[1])
        source.tell(point.number, finished(-((x - 3) ** 2)))
    assert abs(source.study.best_params["x"] - 3) < 0.5


def test_a_grid_of_optuna_has_every_point_once(tmp_path):
    source = search(tmp_path, {"beta": "0.5,1,2", "seed": "range(1,4)"}, sampler="grid")
    points = [tuple(point.overrides) for point in source.points()]
    assert sorted(points) == sorted((f"beta={b}", f"seed={s}") for b in ("0.5", "1", "2") for s in (1, 2, 3))


def test_trials_end_as_their_jobs_did(tmp_path):
    source = search(tmp_path, {"x": "interval(0,1)"}, trials=5)
    endings = [
        finished(-1.0),
        Outcome(Status.PRUNED),
        Outcome(Status.FAILED),
        finished(float("nan")),
        Outcome(Status.PRUNED),
    ]
    for point, how in zip(source.points(), endings, strict=True):
        source.tell(point.number, how)
    assert [trial.state.name for trial in source.study.trials] == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "PRUNED"]


def test_a_killed_search_goes_on_with_what_was_running_and_repeats_nothing(tmp_path):
    first = search(tmp_path, {"x": "interval(0,1)"})
    running = list(itertools.islice(first.points(), 3))
    first.tell(1, finished(-1.0))  # trials 0 and 2 are killed
    again = search(tmp_path, {"x": "interval(0,1)"})
    assert (again.total, again.left) == (8, 7)
    points = []
    for point in again.points():
        again.tell(point.number, finished(-2.0))
        points.append(point)
    assert [point.number for point in points] == [0, 2, 3, 4, 5, 6, 7]
    assert [point.overrides for point in points[:2]] == [running[0].overrides, running[2].overrides]
    assert len({str(words) for words in again.overrides().values()}) == 8


def test_a_trial_that_ended_before_the_study_was_told_is_told_and_one_stopped_from_outside_goes_on(tmp_path):
    first = search(tmp_path, {"x": "interval(0,1)"}, trials=3)
    list(itertools.islice(first.points(), 3))
    write_outcome(tmp_path / "0", "finished", **{"val/elbo": -1.5})
    first.tell(1, Outcome(Status.INTERRUPTED))
    again = search(tmp_path, {"x": "interval(0,1)"}, trials=3)
    assert again.study.trials[0].value == -1.5
    assert [point.number for point in again.points()] == [1, 2]


def test_a_trial_killed_while_it_was_drawn_is_drawn_to_the_end(tmp_path):
    params = {"x": "interval(0.0,1.0)", "y": "1,2", "z": "range(1,9)"}
    x = search(tmp_path, params, trials=2).study.ask().suggest_float("x", 0.0, 1.0)  # y and z are not there yet
    points = list(search(tmp_path, params, trials=2).points())
    assert [point.number for point in points] == [0, 1] and points[0].overrides[0] == f"x={x}"
    assert all([word.split("=")[0] for word in point.overrides] == ["x", "y", "z"] for point in points)


def test_a_failure_the_study_was_not_told_of_counts_and_is_not_repeated(tmp_path):
    first = search(tmp_path, {"x": "interval(0,1)"}, trials=3)
    list(itertools.islice(first.points(), 2))
    write_outcome(tmp_path / "0", "failed")
    again = search(tmp_path, {"x": "interval(0,1)"}, trials=3)
    assert again.study.trials[0].state.name == "FAIL" and [point.number for point in again.points()] == [1, 2]


DAMAGED = (
    *(b"x" * 300, b"x\nx\n", b"[]\n", b"{}\n", b"[" * 100_000 + b"\n{}\n"),
    *(b'{"op_code": 77}\n', b"\0" * 9 + b"\n{}\n"),
)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_study_is_told(tmp_path, content):
    search(tmp_path, {"x": "interval(0,1)"})
    (tmp_path / "study.journal").write_bytes(content)
    with pytest.raises(RunError, match=r"study.journal cannot be used"):
        search(tmp_path, {"x": "interval(0,1)"})
    assert (tmp_path / "study.journal").read_bytes().startswith(content)


def test_a_study_that_is_gone_or_of_an_earlier_version_is_told(tmp_path):
    (tmp_path / "0").mkdir()
    with pytest.raises(RunError, match=r"study.journal is gone"):
        search(tmp_path, {"x": "interval(0,1)"})
    (tmp_path / "study.db").touch()
    with pytest.raises(RunError, match=r"study.db is not read any more"):
        search(tmp_path, {"x": "interval(0,1)"})
    assert not (tmp_path / "study.journal").exists()


def test_a_record_cut_short_is_done_without_and_takes_no_other_with_it(tmp_path):
    first = search(tmp_path, {"x": "interval(0,1)"}, trials=4)
    list(itertools.islice(first.points(), 2))
    with (tmp_path / "study.journal").open("a") as file:
        file.write('{"op_code":4,"worker_')  # as a full disk leaves it
    for _ in range(2):
        again = search(tmp_path, {"x": "interval(0,1)"}, trials=4)
        assert [trial.number for trial in again.begun] == [0, 1] and again.left == 4
    assert [point.number for point in again.points()] == [0, 1, 2, 3]
    assert len(search(tmp_path, {"x": "interval(0,1)"}, trials=4).begun) == 4


def test_a_resumed_evolution_knows_what_it_was_told(tmp_path):
    """The distribution it draws from is that of one that was never interrupted."""
    space = {"x": "interval(0.0,1.0)", "y": "interval(0.0,1.0)"}
    (tmp_path / "one").mkdir()
    one = search(tmp_path / "one", space, sampler="cmaes", trials=20)
    for point in one.points():
        one.tell(point.number, finished(sum(float(word.split("=")[1]) for word in point.overrides)))
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    other = search(tmp_path / "other", space, sampler="cmaes", trials=21)
    evolutions = []
    for source in (one, other):
        source.study.ask(source.distributions)
        evolutions.append(source.study.sampler.evolution)
    first, second = evolutions
    assert first is not second and first.generation == second.generation > 1
    assert (first.mean == second.mean).all() and (first._C == second._C).all() and first._sigma == second._sigma


class Opened:
    """Code in a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random", "grid"])
def test_a_journal_of_somebody_elses_runs_nothing(tmp_path, sampler):
    """Optuna's CMA-ES keeps its state as a pickle among what is said of a trial."""
    evil = pickle.dumps(Opened(tmp_path / "touched")).hex()
    space = {"x": "range(0,9)", "y": "range(0,9)"}
    source, name = (
        search(tmp_path, space, sampler=sampler, trials=6),
        optuna.samplers.CmaEsSampler()._attr_key_optimizer,
    )
    for point in itertools.islice(source.points(), 3):
        trial = source.study.trials[point.number]
        source.study._storage.set_trial_system_attr(trial._trial_id, f"{name}:0", evil)
        source.tell(point.number, finished(0.0))
    for point in search(tmp_path, space, sampler=sampler, trials=6).points():
        assert point.number >= 3
    assert not (tmp_path / "touched").exists()
    if sampler == "cmaes":  # Optuna's own would have
        trials = optuna.load_study(study_name="sweep", storage=storage(str(tmp_path / "study.journal")))
        trials.sampler = optuna.samplers.CmaEsSampler()
        with pytest.raises(AttributeError):
            trials.ask({name: optuna.distributions.IntDistribution(0, 8) for name in ("x", "y")})
        assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"status": "weird"}', '{"val/elbo": 1}', "{", "[" * 100_000])
def test_a_damaged_results_file_is_no_outcome(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    assert outcome(tmp_path) == Outcome()
    assert Outcome(Status.FINISHED, {"val/elbo": "abc"}).values(["val/elbo"]) == []


@pytest.mark.parametrize("status", Status)
def test_an_outcome_is_what_a_run_writes_down(tmp_path, status):
    write_outcome(tmp_path, status)
    recorded = {"finished": True, "pruned": True, "failed": False, "interrupted": False}
    assert outcome(tmp_path).status == (status if status in recorded else "not begun")
    assert status.well == recorded.get(status, False) == (status.exit_code == 0)


@pytest.mark.parametrize("name", ["plain", "it's a=b", "a b,c", "back\\slash", "ends\\'", "[b]{c}"])
def test_a_path_is_quoted_so_that_hydra_reads_it_back(name):
    word = OverridesParser.create().parse_override(f"hydra.sweep.dir={quoted(Path('/tmp') / name)}")
    assert word.value() == f"/tmp/{name}"


def test_two_objectives_make_a_study_of_two(tmp_path):
    source = search(tmp_path, {"x": "interval(0.0,1.0)"}, objectives=["val/rate", "val/distortion"])
    for point in source.points():
        x = float(point.overrides[0].split("=")[1])
        source.tell(point.number, finished(0.0, **{"val/rate": x, "val/distortion": 1 - x}))
    assert [direction.name for direction in source.study.directions] == ["MINIMIZE", "MINIMIZE"]
    assert len(source.study.best_trials) == 8  # rate + distortion is 1 everywhere: nobody is beaten


@pytest.mark.parametrize("objectives", [["val/elbo"], ["val/rate", "val/distortion"], ["val/elbo", "val/rate"]])
def test_the_best_are_those_optuna_names(objectives):
    rng = random.Random(0)
    signs = ["maximize" if name == "val/elbo" else "minimize" for name in objectives]
    study, outcomes = optuna.create_study(directions=signs), {}
    for number in range(40):
        values = [rng.randint(0, 9) for _ in objectives]
        study.add_trial(optuna.trial.create_trial(values=values))
        outcomes[number] = Outcome(Status.FINISHED, dict(zip(objectives, values, strict=True)))
    outcomes[40] = Outcome(Status.FAILED, dict.fromkeys(objectives, 0))
    best = summary.best(outcomes, objectives)
    if len(objectives) == 1:
        assert outcomes[best[0]].results["val/elbo"] == study.best_value
    else:
        assert set(best) == {trial.number for trial in study.best_trials}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "bayes"}, "sweep.sampler=bayes is unknown. Use null or one of tpe, cmaes, random, grid"),
        ({"pruner": "median"}, "Choose a sampler too"),
        ({"sampler": "tpe", "pruner": "median", "objectives": ["val/rate", "val/distortion"]}, "val/elbo alone"),
        ({"sampler": "cmaes", "objectives": ["val/rate", "val/distortion"]}, "knows one objective"),
        ({"objectives": []}, "one or two"),
        ({"trials": 0}, "less than 1"),
        ({"objectives": ["val/nll"]}, "val/nll is unknown"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        replace(PLAIN, **changes)


def test_a_request_is_what_was_saved(tmp_path):
    origin = Origin("mine", None, ["file:///there"], ["hydra.verbose=true"])
    request = Request(["seed=1,2", "data=digits"], replace(PLAIN, params={"beta.value": "0.5,1"}), origin)
    request.save(tmp_path)
    assert Request.load(tmp_path) == request


def test_best_yaml_composes_to_what_was_best(tmp_path):
    overrides = [
        "model=mlp_vae",
        "data=digits",
        "callbacks=[default,ema]",
        "optimizer.lr=0.00123",
        "+trainer.benchmark=true",
    ]
    overrides += ["beta.over='5ep'", "model.encoder.widths=[16,8]", "scheduler=none", "seed=7", "sweep.seed=${seed}"]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = hydra.core.global_hydra.GlobalHydra.instance().config_loader()
        expected = hydra.compose("config", overrides)
        summary.write_best(tmp_path, loader, Origin(), {"best": overrides})
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        composed = hydra.compose("best", [f"hydra.searchpath=[{ROOT / 'conf'}]"])
    assert OmegaConf.to_container(composed, resolve=True) == OmegaConf.to_container(expected, resolve=True)


# --- how jobs share a machine -----------------------------------------------------------------------------------------


def test_shares_are_equal_and_nobody_has_anothers(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: list(range(10)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    for jobs in (1, 2, 3, 8):
        for things in zip(*((share.cores, share.gpus) for share in shares(jobs, gpus=True)), strict=True):
            assert len({len(part) for part in things}) == 1 and things[0]
            assert len(set().union(*things)) == sum(map(len, things))


def test_more_jobs_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ConfigError, match="jobs=3 on 2 GPUs"):
        Local(3)
    assert not any(share.gpus for share in shares(3, gpus=False))


@pytest.fixture
def sleepers(monkeypatch):
    """Jobs that write down when they began and ended, in place of training."""

    def command(job: Job) -> list[str]:
        job.folder.mkdir(parents=True, exist_ok=True)
        code = f"""
import os, json, time, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
begun = time.time()
time.sleep({job.overrides[0]})
results = dict(status="finished", begun=begun, ended=time.time(), cores=sorted(os.sched_getaffinity(0)))
json.dump(results, open({str(job.folder / "results.json")!r}, "w"))
"""
        return [sys.executable, "-c", code]

    monkeypatch.setattr(local, "command", command)


def test_jobs_run_side_by_side_each_with_its_share_and_the_next_is_decided_late(tmp_path, sleepers, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asked, ended = queue.Queue(), []

    def jobs():
        for number in range(5):
            asked.put(len(ended))
            yield a_job(tmp_path, ["0.7"], number)

    Local(2).run(jobs(), lambda job: ended.append(outcome(job.folder).results))
    together = [sum(a["begun"] < b["ended"] and b["begun"] < a["ended"] for b in ended) for a in ended]
    assert len(ended) == 5 and max(together) >= 2
    for a, b in itertools.combinations(ended, 2):
        if a["begun"] < b["ended"] and b["begun"] < a["ended"] and len(os.sched_getaffinity(0)) > 1:
            assert not set(a["cores"]) & set(b["cores"])
    known = list(asked.queue)
    assert known[:2] == [0, 0] and all(number - 2 <= n for number, n in enumerate(known))  # two at a time, not more


def test_a_job_that_dies_is_marked_and_the_others_go_on(tmp_path, sleepers):
    jobs = [a_job(tmp_path, [seconds], i) for i, seconds in enumerate(("0", "30", "0"))]
    told = []

    def kill() -> None:
        time.sleep(1.5)
        os.kill(one.running[0].pid, signal.SIGKILL)

    one = Local(1)
    threading.Thread(target=kill).start()
    one.run([replace(job, config={"seed": 1}) for job in jobs], lambda job: told.append(outcome(job.folder)))
    assert [how.status for how in told] == ["finished", "failed", "finished"]
    assert "killed by signal 9" in told[1].results["error"]


def test_interrupted_all_jobs_are_asked_to_end(tmp_path, sleepers):
    processes = []

    def interrupt(*_) -> None:
        processes.extend(both.running)
        raise Interrupted(signal.SIGTERM)

    before = signal.signal(signal.SIGUSR1, interrupt)
    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    both = Local(2)
    try:
        with pytest.raises(Interrupted):
            both.run([a_job(tmp_path, ["30"], i) for i in range(4)], lambda job: None)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [process.wait(5) for process in processes] == [143, 143]
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}  # nobody began later


# --- as a user meets them ---------------------------------------------------------------------------------------------


def tree(outputs: Path) -> Path:
    (folder,) = outputs.glob("multirun/*")
    return folder


def command(cwd: Path, *words: str) -> subprocess.CompletedProcess:
    """train.py where `outputs` is not to be given."""
    whole = [sys.executable, str(ROOT / "train.py"), *words]
    return subprocess.run(whole, env=environment(), cwd=cwd, capture_output=True, text=True)


def statuses(folder: Path) -> dict[int, str]:
    return {int(path.parent.name): json.loads(path.read_text())["status"] for path in folder.glob("*/results.json")}


@pytest.mark.slow
def test_a_job_that_fails_is_marked_and_resume_does_only_that(train, tmp_path):
    answer = train("-m", *QUICK, "trainer.max_epochs=1", "optimizer.lr=1e30,1e-3", "jobs=2")
    folder = tree(answer.outputs)
    assert answer.code == 1 and "1 of 2 jobs failed: 0." in answer.said and f"sweep.resume={folder}" in answer.said
    assert "Traceback" not in answer.err and answer.out.count("failed") == 1 and "not finite" in answer.out
    assert statuses(folder) == {0: "failed", 1: "finished"} and (folder / "0" / "diverged.pt").is_file()
    assert "lr: 0.001" in (folder / "best.yaml").read_text() and (folder / "report.html").is_file()
    before = {n: (folder / n / "results.json").stat().st_mtime_ns for n in "01"}
    # the cause is mended, where a user would mend it
    request = json.loads((folder / "sweep.json").read_text())
    words = [word.replace("1e30", "2e-3") for word in request["arguments"]]
    (folder / "sweep.json").write_text(json.dumps({**request, "arguments": words}))
    again = command(tmp_path, "-m", f"sweep.resume={folder}", "jobs=2")
    assert again.returncode == 0, again.stderr
    after = {n: (folder / n / "results.json").stat().st_mtime_ns for n in "01"}
    assert [before[n] == after[n] for n in "01"] == [False, True]
    assert set(statuses(folder).values()) == {"finished"}


@pytest.mark.slow
def test_a_killed_search_is_resumed_and_every_trial_counts_once(tmp_path):
    """One trial diverges, one is refused, one falls behind; the command is killed when half are done."""
    values = "8e-3,6e-3,1e30,-1,5e-3,4e-3,3e-3,7e-3,1e-6"
    search = [
        "sweep=optuna",
        "sweep.sampler=grid",
        "model.latent=4",
        "beta.over=0.1",
        f"optimizer.lr={values}",
        "jobs=2",
    ]
    words = train_command(tmp_path / "outputs", "-m", *QUICK, "trainer.max_epochs=12", "log_every=1", *search)
    first = subprocess.Popen(
        words, env=environment(), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    for line in first.stderr:
        if line.startswith("4/9"):
            break
    time.sleep(4)  # the next two have begun
    first.kill()
    first.wait()
    folder = tree(tmp_path / "outputs")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and workers(folder):
        time.sleep(0.2)
    assert not workers(folder)  # jobs end with the sweep they belong to
    done = command(tmp_path, "-m", f"sweep.resume={folder}", "jobs=2")
    assert done.returncode == 1 and "2 of 9 jobs failed: 2, 3. " in " ".join(done.stderr.split())
    trials = optuna.load_study(study_name="sweep", storage=storage(str(folder / "study.journal"))).trials
    assert len(trials) == 9 and len({trial.params["optimizer.lr"] for trial in trials}) == 9
    states = [trial.state.name for trial in trials]
    assert states[2:4] == ["FAIL", "FAIL"] and states.count("FAIL") == 2 and states[8] == "PRUNED"
    assert 2 <= trials[8].last_step < 12 and statuses(folder)[8] == "pruned"
    assert (folder / "8" / "checkpoints" / "last.ckpt").is_file()
    answer = command(tmp_path, f"--config-dir={folder}", "--config-name=best", "--cfg", "job")
    best = max((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: t.value)
    assert answer.returncode == 0
    assert OmegaConf.create(answer.stdout).optimizer.lr == float(best.params["optimizer.lr"])


def workers(folder: Path) -> list[str]:
    """Processes at work on jobs of a sweep."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if "-m variata.run " in line and str(folder) in line]


@pytest.mark.slow
def test_a_search_with_two_devices_per_job_is_one_job_each(train):
    answer = train(
        "-m", *QUICK, "sweep=optuna", "sweep.trials=2", "trainer=cpu", "trainer.devices=2", "trainer.max_epochs=2",
        "logger=wandb", "log_every=1",
    )  # fmt: skip
    folder = tree(answer.outputs)
    assert answer.code == 0, answer.err
    trials = optuna.load_study(study_name="sweep", storage=storage(str(folder / "study.journal"))).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != ".jobs") == ["0", "1"]
    for number in "01":
        assert len(list((folder / number / "wandb").glob("offline-run-*/*.wandb"))) == 1
        config = OmegaConf.load(folder / number / "config.yaml")
        assert config.optimizer.lr == trials[int(number)].params["optimizer.lr"]
        assert "2 x cpu" in answer.out
    assert not workers(folder)


def test_a_sweep_does_not_begin_where_another_one_is(train, tmp_path):
    (tmp_path / "sweep").mkdir()
    Request([], PLAIN, Origin()).save(tmp_path / "sweep")
    answer = train("-m", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert answer.code == 2 and f"go on with sweep.resume={tmp_path / 'sweep'}" in answer.said


def test_a_directory_that_is_no_sweep_is_not_resumed(tmp_path):
    answer = command(tmp_path, "-m", "sweep.resume=nowhere")
    assert answer.returncode == 2 and "sweep.resume=nowhere is no directory of a sweep" in " ".join(
        answer.stderr.split()
    )
    assert not list(tmp_path.iterdir())
