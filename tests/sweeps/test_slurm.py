"""Jobs on SLURM: an array, a run over two nodes, preemption, what SLURM kills, Ctrl-C. On a cluster of its own."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT, Answer, environment, train_command
from variata.errors import ConfigError, RunError
from variata.run.job import Job
from variata.sweeps.launchers.slurm import Needs, Slurm, alike
from wandb_file import records

JOB = ["data=linear_gaussian", "data.images=500", "data.batch_size=50", "model=mlp_vae", "likelihood=gaussian"]
JOB += ["compile=false", "callbacks=[]", "model.encoder.widths=[16]", "evaluate.nll.samples=5", "logger.mode=offline"]
JOB += ["log_every=20", "checkpoint_every=0.5", "trainer.check_val_every_n_epoch=10"]
SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1"]
SEVERAL = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2"]


def job(folder="0", **trainer):
    config = {"trainer": {"devices": 1, "num_nodes": 1, "accelerator": "cpu", **trainer}}
    return Job(config, Path(folder), overrides=[], title="", group=None, logging={})


@pytest.mark.parametrize(
    ("trainer", "needs"),
    [
        ({}, Needs(1, 1, None)),
        ({"devices": [0, 2]}, Needs(1, 2, None)),
        ({"devices": 4, "num_nodes": 2, "accelerator": "gpu"}, Needs(2, 4, 4)),
    ],
)
def test_a_job_asks_for_what_its_trainer_needs(trainer, needs):
    assert Needs.of(job(**trainer)) == needs


@pytest.mark.parametrize("devices", ["auto", -1])
def test_devices_without_a_number_are_refused(devices):
    with pytest.raises(ConfigError, match=f"devices={devices} leaves it open"):
        Needs.of(job(devices=devices))


def test_only_jobs_of_equal_needs_are_one_array():
    assert [[one.folder.name for one in batch] for batch in alike([job("0"), job("1", devices=2), job("2")])] == [
        *(["0", "2"], ["1"])
    ]


def test_where_there_is_no_slurm_it_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RunError, match="srun is not on this machine"):
        Slurm(1, 0, {})


@pytest.mark.skipif(shutil.which("srun") is None, reason="SLURM is not installed")
def test_an_unknown_option_is_named():
    with pytest.raises(ConfigError, match="partion"):
        Slurm(1, 0, {"partion": "gpu"})


# --- a cluster --------------------------------------------------------------------------------------------------------


class Cluster:
    """A running cluster, and what its commands say."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = {**environment(), **variables}

    def ask(self, *command: str) -> list[str]:
        done = subprocess.run(command, env=self.variables, capture_output=True, text=True, timeout=60)
        return done.stdout.splitlines()

    def jobs(self, *more: str) -> list[str]:
        return sorted(self.ask("squeue", "--noheader", "--array", "--format=%i", *more))

    def start(self, folder: Path, *overrides: str) -> subprocess.Popen:
        """A sweep, as a user starts it."""
        command = [sys.executable, str(ROOT / "train.py"), "-m", *overrides, *SLURM]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=self.variables, cwd=folder, start_new_session=True, **pipes)

    def processes(self) -> list[str]:
        """What runs for jobs of this cluster."""
        mark = f"SLURM_CONF={self.variables['SLURM_CONF']}\0".encode()
        return [command for command in map(command_of, Path("/proc").glob("[0-9]*"))
                if command and mark in command[1] and b"SLURM_JOB_ID" in command[1]]  # fmt: skip


def command_of(process: Path) -> tuple[bytes, bytes] | None:
    try:
        return (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
    except OSError:
        return None


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    script = [str(ROOT / "scripts" / "slurm.sh"), "sh", "-c", 'echo "$SLURM_CONF $MASTER_ADDR"; cat']
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(script, start_new_session=True, **pipes)
    said = process.stdout.readline().split()
    if not said:
        pytest.skip(f"no SLURM here: {process.communicate()[1].strip()}")
    yield Cluster(dict(zip(("SLURM_CONF", "MASTER_ADDR"), said, strict=True)))
    process.stdin.close()
    assert process.wait(60) == 0
    assert not Path(said[0]).parent.exists()


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert met, "it took too long"
    return met


def sweep_of(outputs):
    (folder,) = outputs.glob("multirun/*")
    return folder


def results(run):
    return json.loads((run / "results.json").read_text())


def steps(run):
    """The updates at which training was recorded."""
    with (run / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/elbo"]]


def wandb_ids(run):
    return [records(path)["run"].run_id for path in sorted(run.glob("wandb/offline-*/*.wandb"))]


def said(run, task=0):
    """What SLURM and submitit wrote of a job."""
    return "".join(path.read_text() for path in (run.parent / ".submitit").glob(f"*_{task}_log.*"))


@pytest.fixture(scope="module")
def array(cluster, tmp_path_factory):
    """Three jobs, of which one is preempted and one killed."""
    folder = tmp_path_factory.mktemp("array")
    outputs = folder / "outputs"
    process = cluster.start(folder, *JOB, "trainer=cpu", "trainer.max_epochs=120", "seed=1,2,3")
    numbers = until(lambda: len(found := cluster.jobs("--states=RUNNING")) == 3 and found)
    cluster.ask("scancel", numbers[2])
    until(lambda: (sweep_of(outputs) / "1" / "checkpoints" / "last.ckpt").is_file())
    cluster.ask("scancel", "--signal=USR2", numbers[1])
    out, err = process.communicate(timeout=240)
    return Answer(process.returncode, out, err, outputs), numbers


@pytest.mark.slow
def test_jobs_of_a_list_are_one_array(cluster, array):
    answer, numbers = array
    (base,) = {number.split("_")[0] for number in numbers}
    assert numbers == [f"{base}_{i}" for i in range(3)]
    assert f"Job 0, 1, 2 is SLURM's {base}" in answer.said
    assert [results(sweep_of(answer.outputs) / str(i))["status"] for i in range(3)] == [
        "finished",
        "finished",
        "failed",
    ]
    assert answer.code == 1 and "Traceback" not in answer.err


@pytest.mark.slow
def test_a_preempted_job_goes_on_in_its_directory_and_wandb_run(array):
    run = sweep_of(array[0].outputs) / "1"
    assert len(re.findall(r"Requeued job \d+_1", said(run))) == 1
    assert results(run)["train/steps"] == 1200 and steps(run) == list(range(20, 1201, 20))
    ids = wandb_ids(run)
    assert len(ids) == 2 and len(set(ids)) == 1
    first, last = (records(path)["exit_code"] for path in sorted(run.glob("wandb/offline-*/*.wandb")))
    assert (first, last) == (1, 0)


@pytest.mark.slow
def test_what_slurm_kills_has_failed_with_its_reason(array):
    answer, numbers = array
    error = results(sweep_of(answer.outputs) / "2")["error"]
    assert f"SLURM ended {numbers[2]}: CANCELLED" in error
    assert error in answer.out


@pytest.mark.slow
def test_a_run_over_two_nodes_is_cancelled_with_its_sweep_and_resumed_once(cluster, tmp_path):
    outputs = tmp_path / "outputs"
    process = cluster.start(tmp_path, *JOB, *SEVERAL, "trainer.max_epochs=20", "seed=1")
    until(lambda: list(outputs.rglob("last.ckpt")))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and not cluster.jobs() and "Cancelling" in err
    (run,) = (path.parent for path in outputs.rglob("results.json"))
    assert not (run / ".stop").exists()
    assert results(run)["status"] == "interrupted" and results(run)["train/steps"] < 200
    assert f"sweep.resume={run.parent.relative_to(tmp_path)}" in " ".join(err.split())
    killed = cluster.start(tmp_path, f"sweep.resume={run.parent}")
    (number,) = until(lambda: cluster.jobs("--states=RUNNING"))
    killed.kill()
    killed.communicate()
    process = cluster.start(tmp_path, f"sweep.resume={run.parent}")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert f"waited for, not begun again: 0 ({number})." in " ".join(err.split())
    assert "is SLURM's" not in err
    assert results(run)["status"] == "finished" and steps(run) == list(range(20, 201, 20))
    assert len(set(wandb_ids(run))) == 1 and list(outputs.rglob("results.json")) == [run / "results.json"]
    assert "2 x cpu" in (run / "output.log").read_text()
    assert all(f"node={node}(2), global_rank={node}(2)" in said(run, node) for node in (0, 1))


@pytest.mark.slow
def test_srun_alone_starts_one_run_over_two_nodes(cluster, tmp_path):
    run = [
        *("srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit"),
        *train_command(tmp_path / "outputs", *JOB),
    ]
    run += ["trainer=slurm", "trainer.accelerator=cpu", "trainer.num_nodes=2", "trainer.max_epochs=2"]
    done = subprocess.run(run, env=cluster.variables, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "outputs").rglob("results.json")
    assert results(path.parent)["status"] == "finished" and done.stdout.count("2 x cpu") == 1


@pytest.mark.slow
def test_nothing_is_left_running(cluster):
    until(lambda: not cluster.jobs() and not cluster.processes(), seconds=30)
