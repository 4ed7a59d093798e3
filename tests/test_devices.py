"""Several devices are one: the same updates, the same figures, one directory, one end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import ROOT, Answer, environment, train_command

pytestmark = pytest.mark.slow

QUICK = ["data=digits", "model=mlp_vae", "trainer=cpu", "compile=false", "logger=none", "callbacks=[]"]
QUICK += ["model.encoder.widths=[16]", "trainer.max_steps=8", "trainer.limit_train_batches=8", "evaluate.samples=5"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def results(run):
    return json.loads((run / "results.json").read_text())


def torchrun(tmp_path, *overrides) -> Answer:
    command = [*TORCHRUN, *train_command(tmp_path / "outputs", *overrides)[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    return Answer(done.returncode, done.stdout, done.stderr, tmp_path / "outputs")


# --- updates ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """What one_step.py computes with one process and with two."""
    folder, found = tmp_path_factory.mktemp("steps"), {}
    for devices, python in ((1, [sys.executable]), (2, TORCHRUN)):
        path = folder / f"{devices}.pt"
        done = subprocess.run(
            [*python, str(ROOT / "tests" / "one_step.py"), str(path)], capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, done.stderr
        found[devices] = torch.load(path, weights_only=True)
    return found


def test_an_update_shared_by_two_devices_is_that_of_one(steps):
    one, two = steps[1]["steps"], steps[2]["steps"]
    assert len(one) == 8
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


def test_figures_do_not_depend_on_the_number_of_devices(train, tmp_path):
    trained = train(*QUICK, "data.eval_batch_size=80")  # 200 images in 3 batches: 2 for one device, 1 for the other
    assert trained.code == 0, trained.err
    found = {}
    for devices in (1, 2):
        run = tmp_path / str(devices)
        shutil.copytree(trained.run, run)
        answer = train(f"resume={run}", f"trainer.devices={devices}")  # at its end: evaluates only
        assert answer.code == 0, answer.err
        found[devices] = {name: value for name, value in results(run).items() if name.startswith("test/")}
    assert found[1] == pytest.approx(found[2], rel=1e-6)
    assert found[2]["test/images"] == 200


# --- one run ----------------------------------------------------------------------------------------------------------

MULTIRUN = [*QUICK, "-m", "seed=1,2", "trainer.devices=2", "data.batch_size_per_device=16"]


@pytest.mark.parametrize("start", ["train.py", "torchrun"])
def test_a_multirun_on_two_devices_is_one_tree(train, tmp_path, start):
    answer = train(*MULTIRUN) if start == "train.py" else torchrun(tmp_path, *MULTIRUN)
    assert answer.code == 0, answer.err
    (tree,) = answer.outputs.glob("multirun/*")
    assert sorted(path.relative_to(tree).as_posix() for path in answer.outputs.rglob("results.json")) == [
        "0/results.json",
        "1/results.json",
    ]
    assert [results(tree / job)["seed"] for job in "01"] == [1, 2]
    assert results(tree / "0")["train/steps"] == 8 and results(tree / "0")["test/images"] == 200
    assert (
        answer.out.count("2 x cpu") == answer.out.count("test NLL") == answer.out.count("8 updates of 32 images") == 2
    )
    assert "Traceback" not in answer.err and "Warning" not in answer.err
    assert {path.name for path in (tree / "0").iterdir()} == {
        *("checkpoints", "config.yaml", "metrics.csv", "overrides.txt", "results.json", "train.log")
    }


# --- how it ends ------------------------------------------------------------------------------------------------------


def processes(pid: int) -> dict[int, str]:
    """All processes below one: rank by id, empty where it is no worker."""
    table = [(int(path.name), int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1]))
             for path in Path("/proc").iterdir() if path.name.isdigit()]  # fmt: skip
    below = {pid}
    for _ in range(4):
        below |= {child for child, parent in table if parent in below}
    return {child: rank(child) for child in below - {pid}}


def rank(pid: int) -> str:
    variables = dict(word.split("=", 1) for word in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in word)
    return variables.get("RANK", "") if "variata.cli.worker" in Path(f"/proc/{pid}/cmdline").read_text() else ""


def until(condition):
    deadline = time.monotonic() + 30
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met


@pytest.fixture
def running(tmp_path):
    """A run on two devices that would not end, once it has a checkpoint to go on from."""
    command = train_command(tmp_path / "outputs", *QUICK, "trainer.devices=2", "trainer.max_steps=1000000")
    process = subprocess.Popen(
        [*command, "trainer.limit_train_batches=1.0", "trainer.max_epochs=-1", "checkpoint_every=0.5"],
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


@pytest.mark.parametrize("lost", ["0", "1", "starter"])
def test_a_killed_process_ends_the_whole_run(running, tmp_path, lost):
    below = processes(running.pid)
    ranks = {rank: pid for pid, rank in below.items()}
    os.kill(running.pid if lost == "starter" else ranks[lost], signal.SIGKILL)
    _, err = running.communicate(timeout=30)
    assert running.returncode != 0
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below)), "processes are left"
    if lost == "starter":
        return
    (run,) = (path.parent for path in tmp_path.rglob("config.yaml"))
    said = " ".join(err[err.index("variata:") :].split())
    assert f"The process of device {lost} was killed by SIGKILL" in said and f"resume={run}" in said
    assert err.count("variata:") == 1 and "Traceback" not in err
    assert results(run)["status"] == "failed"


def test_ctrl_c_on_two_devices_is_saved_and_told_once(running, tmp_path):
    below = processes(running.pid)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130, err
    (run,) = (path.parent for path in tmp_path.rglob("config.yaml"))
    assert err.count("variata:") == 1 and "Traceback" not in err and f"resume={run}" in " ".join(err.split())
    assert results(run)["status"] == "interrupted"
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["variata"]
    assert saved["step"] == results(run)["train/steps"]  # not one of those written on the way
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)


def test_what_all_devices_find_wrong_is_told_once(train):
    answer = train(*QUICK, "trainer.devices=2", "data.binarize=none")
    assert answer.code == 2
    assert answer.err.startswith("variata:") and answer.err.count("variata:") == 1 and "Traceback" not in answer.err
    assert "is no density of 8-bit data" in answer.said
    assert not answer.outputs.exists() or not list(answer.outputs.rglob("*"))


def test_divergence_on_two_devices_is_a_failed_run(train):
    answer = train(*QUICK, "trainer.devices=2", "optimizer.lr=1e30", "scheduler=none")
    assert answer.code == 1 and answer.err.count("The loss is not finite") == 1 and "Traceback" not in answer.err
    assert results(answer.run)["status"] == "failed"


def test_a_launcher_is_named_where_one_is_needed(train):
    answer = train(*QUICK, "trainer.num_nodes=2", "trainer.devices=4")
    assert answer.code == 2 and "torchrun --nnodes=2 --nproc-per-node=4" in answer.said
    assert not answer.outputs.exists()


def test_a_launcher_that_started_another_number_is_told(tmp_path):
    answer = torchrun(tmp_path, *QUICK, "trainer.devices=3")
    assert answer.code != 0 and answer.err.count("variata:") == 1
    assert "Give trainer.devices=2 trainer.num_nodes=1" in answer.said
    assert not list(answer.outputs.rglob("*"))


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
        [script, *(word for word in QUICK if word != "trainer=cpu"), f"outputs={outputs}"],
        capture_output=True,
        text=True,
        env={**environment(), "PYTHON": sys.executable},
        cwd=tmp_path,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (path.parent for path in outputs.rglob("results.json"))
    assert results(run)["train/steps"] == 8 and results(run)["test/images"] == 200
    assert done.stdout.count("test NLL") == 1
