"""Several devices are one: the same updates, the same figures, one directory, one end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import one_step
from conftest import ROOT, Answer, environment, train_command
from variata.data.digits import digits
from variata.errors import ConfigError
from variata.run.launch import processes
from variata.run.ranks import Ranks
from wandb_file import records

pytestmark = pytest.mark.slow

QUICK = ["data=linear_gaussian", "data.images=500", "data.batch_size=50", "model=mlp_vae", "trainer=cpu", "logger=none"]
QUICK += ["compile=false", "callbacks=[]", "model.encoder.widths=[16]", "trainer.max_steps=8", "evaluate.nll.samples=5"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def results(run):
    return json.loads((run / "results.json").read_text())


# --- updates ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """What one_step.py computes with one process, this one, and with two."""
    one, two = (tmp_path_factory.mktemp("steps") / f"{devices}.pt" for devices in (1, 2))
    one_step.main(one)
    command = [*TORCHRUN, str(ROOT / "tests" / "one_step.py"), str(two)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return {1: torch.load(one, weights_only=True), 2: torch.load(two, weights_only=True)}


def test_an_update_shared_by_two_devices_is_that_of_one(steps):
    one, two = steps[1]["steps"], steps[2]["steps"]
    assert len(one) == 12
    for name, (loss, gradient, weights) in one.items():
        assert two[name][0].item() == pytest.approx(loss.item(), rel=1e-6), name
        assert (two[name][1] - gradient).norm() < 1e-5 * gradient.norm(), name
        assert torch.allclose(two[name][2], weights, atol=1e-6), name
    for model in ("mlp", "conv"):  # else the clamp was not tried
        assert not torch.allclose(one[f"{model}, free bits above"][1], one[f"{model}, elbo"][1], rtol=1e-3)


def test_devices_draw_noise_of_their_own_also_after_a_resume(steps):
    noise = steps[2]["noise"]
    assert len({*noise["new"], *noise["resumed"]}) == 4


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 2, 9])
@pytest.mark.parametrize("devices", [1, 2, 3])
def test_devices_share_all_images_batch_by_batch(devices, limit):
    data = digits(eval_batch_size=60)  # 200 images: 60, 60, 60, 20
    data.setup()
    data.limits = {} if limit is None else {"test": limit}
    turns = []
    for rank in range(devices):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=devices)
        turns.append(list(data.test_dataloader()))
    assert len({len(batches) for batches in turns}) == 1  # else one waits for another
    shared = [batch for step in zip(*turns, strict=True) for batch in step if len(batch)]
    whole = data.images["test"].split(60)[:limit]
    assert all(torch.equal(batch.x, other) for batch, other in zip(shared, whole, strict=True))
    assert torch.equal(torch.cat([batch.index for batch in shared]), torch.arange(sum(map(len, whole))))


def test_figures_do_not_depend_on_the_number_of_devices(multirun, train):
    run = multirun.outputs / "resumed"
    shutil.copytree(jobs(multirun)[1], run)  # 500 images in batches of 200: two for one device, one for the other
    answer = train(f"resume={run}", "trainer.devices=1")  # at its end: evaluates only
    assert answer.code == 0, answer.err
    one, two = results(run), results(jobs(multirun)[1])
    assert "1 x cpu" in answer.out and one["train/steps"] == 8
    figures = [name for name in two if name.startswith("test/")]
    assert {name: one[name] for name in figures} == pytest.approx({name: two[name] for name in figures}, rel=1e-6)
    assert two["test/images"] == 500


# --- one run ----------------------------------------------------------------------------------------------------------


def start(folder, python, *overrides):
    command = [*python, *train_command(folder / "outputs", *overrides)[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=folder)
    return Answer(done.returncode, done.stdout, done.stderr, folder / "outputs")


@pytest.fixture(scope="module")
def multirun(tmp_path_factory):
    """Two runs on two devices, of which the second diverges."""
    job = [word for word in QUICK if word != "logger=none"]
    job += ["likelihood=gaussian", "trainer.devices=2", "data.batch_size_per_device=16", "optimizer.lr=1e-3,1e30"]
    return start(tmp_path_factory.mktemp("multirun"), [sys.executable], "-m", *job, "scheduler=none")


def jobs(answer):
    (tree,) = answer.outputs.glob("multirun/*")
    return answer, *sorted(path.parent for path in tree.rglob("results.json"))


def test_a_multirun_on_two_devices_is_one_tree_and_one_voice(multirun):
    assert multirun.code == 1 and multirun.err.count("variata:") == 2 and "Traceback" not in multirun.err
    assert "The loss is not finite" in multirun.said and "Warning" not in multirun.err
    assert_a_whole_run(*jobs(multirun), "8 updates of 32 images")
    logged = [records(path)["run"] for path in multirun.outputs.glob("multirun/*/*/wandb/offline-*/*.wandb")]
    assert len(logged) == 2 and len({run.run_group for run in logged}) == 1


def test_a_run_under_torchrun_is_one_run(tmp_path):
    answer = start(tmp_path, TORCHRUN, *QUICK, "trainer.devices=2", "likelihood=gaussian")
    assert answer.code == 0, answer.err
    (run,) = (path.parent for path in answer.outputs.rglob("config.yaml"))
    assert results(run)["status"] == "finished" and results(run)["test/images"] == 500
    assert answer.out.count("2 x cpu") == answer.out.count("8 updates of 50 images") == 1
    assert (run / "train.log").read_text().count("overrides") == 1


def test_what_all_processes_of_torchrun_meet_is_told_once_and_leaves_nothing(tmp_path):
    answer = start(tmp_path, TORCHRUN, *QUICK, "trainer.devices=2", "likelihood=bernoulli")
    assert answer.code != 0 and answer.err.count("variata:") == 1
    assert "is no density of real data" in answer.said and not answer.outputs.exists()


def test_a_sweep_under_torchrun_is_refused_with_the_command_that_does_it(tmp_path):
    answer = start(tmp_path, TORCHRUN, "-m", *QUICK, "trainer.devices=2", "likelihood=gaussian,laplace")
    assert answer.code != 0 and answer.err.count("variata:") == 1
    assert "python train.py -m ... trainer.devices=2" in answer.said and not answer.outputs.exists()


def assert_a_whole_run(answer, run, other, updates):
    """The first job of two is complete, and both are shown once."""
    assert results(run)["status"] == "finished" and results(run)["test/images"] == 500
    assert results(run)["train/steps"] == 8 and run.parent == other.parent
    assert answer.out.count("2 x cpu") == answer.out.count(updates) == 2
    assert {path.name for path in run.iterdir()} - {"wandb", ".lock.0"} == {
        *("checkpoints", "config.yaml", "metrics.csv", "overrides.txt", "results.json", "train.log", ".lock")
    }


# --- how it ends ------------------------------------------------------------------------------------------------------


def below(pid: int) -> dict[int, str]:
    """All processes below one: rank by id, empty where it is no worker."""
    table = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # others end meanwhile
            table.append((int(path.name), int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])))
    found = {pid}
    for _ in range(4):
        found |= {child for child, parent in table if parent in found}
    return {child: rank(child) for child in found - {pid}}


def rank(pid: int) -> str:
    variables = dict(word.split("=", 1) for word in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in word)
    return variables.get("RANK", "") if "variata.run" in Path(f"/proc/{pid}/cmdline").read_text() else ""


def until(condition):
    deadline = time.monotonic() + 300
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met


@pytest.fixture
def running(tmp_path):
    """A run on two devices that would not end, once it has a checkpoint to go on from."""
    endless = ["trainer.max_steps=-1", "trainer.max_epochs=1000000", "checkpoint_every=0.5"]
    process = subprocess.Popen(
        train_command(tmp_path / "outputs", *QUICK, "likelihood=gaussian", "trainer.devices=2", *endless),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    until(lambda: process.poll() is not None or list(tmp_path.rglob("last.ckpt")))
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("moment", [0.0, 0.2])
def test_a_process_whose_starter_is_killed_at_once_ends_before_it_knows_its_job(tmp_path, moment):
    os.mkfifo(tmp_path / "job.json")  # nobody ever writes the job: it could wait for it for ever
    code = "import os, subprocess, sys, time; words = [*sys.argv[1:], str(os.getpid())]; "
    code += "print(subprocess.Popen(words).pid, flush=True); time.sleep(60)"
    words = [sys.executable, "-P", "-m", "variata.run", str(tmp_path / "job.json")]
    starter = subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment(), stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    started = int(starter.stdout.readline())
    time.sleep(moment)
    starter.kill()
    starter.communicate()
    killed = time.monotonic()
    try:
        assert until(lambda: not alive(started)), "the process is left"
        assert time.monotonic() - killed < 5  # two to import and a half to notice, on a machine with other work
    finally:
        if alive(started):
            os.kill(started, signal.SIGKILL)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]


@pytest.mark.parametrize("lost", ["0", "1", "starter"])
def test_a_killed_process_ends_the_whole_run(running, tmp_path, lost):
    started = below(running.pid)
    ranks = {rank: pid for pid, rank in started.items()}
    os.kill(running.pid if lost == "starter" else ranks[lost], signal.SIGKILL)
    _, err = running.communicate(timeout=60)
    assert running.returncode != 0
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started)), "processes are left"
    if lost == "starter":
        return
    (run,) = (path.parent for path in tmp_path.rglob("config.yaml"))
    said = " ".join(err[err.index("variata:") :].split())
    assert f"The process of device {lost} was killed by SIGKILL" in said and f"resume={run}" in said
    assert err.count("variata:") == 1 and "Traceback" not in err
    assert results(run)["status"] == "failed"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_on_two_devices_is_saved_and_told_once(running, tmp_path, number, code):
    started = below(running.pid)
    os.killpg(running.pid, number)  # as a terminal does
    if number == signal.SIGTERM:  # and `timeout` sends another
        time.sleep(0.02)
        running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code, err
    (run,) = (path.parent for path in tmp_path.rglob("config.yaml"))
    assert err.count("variata:") == 1 and "Traceback" not in err and f"resume={run}" in " ".join(err.split())
    assert results(run)["status"] == "interrupted"
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["variata"]
    assert saved["step"] == results(run)["train/steps"]  # not one of those written on the way
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


def test_a_launcher_is_named_where_one_is_needed():
    with pytest.raises(ConfigError, match="torchrun --nnodes=2 --nproc-per-node=4"):
        processes({"num_nodes": 2, "devices": 4})


@pytest.mark.parametrize(("nodes", "devices", "fits"), [(2, 4, True), (2, "auto", True), (2, [0, 1, 2, 3], True),
                                                        (1, 8, False), (2, 3, False), (2, [0], False)])  # fmt: skip
def test_a_launcher_that_started_another_number_is_told(nodes, devices, fits):
    with nullcontext() if fits else pytest.raises(ConfigError, match=r"Give trainer\.devices=4 trainer\.num_nodes=2"):
        Ranks(rank=0, nodes=2, devices=4, elastic=True).require(nodes, devices)


def namespaces() -> bool:
    """Whether network namespaces may be made here."""
    if shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "variata-probe"], capture_output=True).returncode == 0
    subprocess.run(["ip", "netns", "del", "variata-probe"], capture_output=True)
    return made


@pytest.mark.skipif(not namespaces(), reason="network namespaces may not be made here (needs root and ip netns)")
def test_two_machines_train_and_evaluate_as_one(tmp_path):
    script, outputs = str(ROOT / "scripts" / "two_nodes.sh"), tmp_path / "outputs"
    done = subprocess.run(
        [script, *(word for word in QUICK if word != "trainer=cpu"), "likelihood=gaussian", f"outputs={outputs}"],
        capture_output=True,
        text=True,
        env={**environment(), "PYTHON": sys.executable},
        cwd=tmp_path,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (path.parent for path in outputs.rglob("results.json"))
    assert results(run)["train/steps"] == 8 and results(run)["test/images"] == 500
    assert done.stdout.count("2 x cpu") == done.stdout.count("test NLL") == 1
