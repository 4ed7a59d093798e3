"""Jobs on SLURM by what its commands answer, or do not: stand-ins for them, and no cluster."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf
from submitit.helpers import DelayedSubmission

from conftest import ROOT, environment
from variata.errors import Busy
from variata.run import __main__ as worker
from variata.run import directory
from variata.run.job import Job, resolved
from variata.run.lock import alone
from variata.sweeps.jobs import outcome
from variata.sweeps.launchers import slurm
from variata.sweeps.launchers.slurm import Slurm
from variata.sweeps.launchers.slurm_task import Task
from variata.sweeps.options import Options
from variata.sweeps.sweeper import SLURM, at_a_time

STAND_IN = """#!/bin/bash
name=$(basename "$0")
cd "$STAND_IN"
take() { # one off a counter; fails at zero
  local left=$(cat "$1" 2>/dev/null || echo 0)
  ((left > 0)) && echo $((left - 1)) >"$1"
}
if [[ $name == srun ]]; then
  while [[ $1 == -* ]]; do [[ $1 == --output || $1 == --error ]] && shift; shift; done
  echo $$ >pid
  exec "$@"
fi
array=$([[ $name != sbatch ]] || sed -n 's/^#SBATCH --array=//p' "$1")
echo "$name ${array:-$*}" >>calls
if take "busy.$name"; then
  echo "$name: error: Unable to contact slurm controller (connect failure)" >&2
  exit 1
fi
case "$name $*" in
  sbatch*)
    number=$(($(cat last 2>/dev/null || echo 100) + 1))
    echo $number >last
    echo 1 >running
    last=${array%\\%*}
    for i in $([[ -n $array ]] && seq 0 ${last#0-}); do echo "${number}_$i $1"; done >>jobs
    [[ -n $array ]] || echo "$number $1" >>jobs
    echo "Submitted batch job $number"
    ;;
  squeue*)
    state=COMPLETED
    take running && state=RUNNING
    while read -r number script; do
      [[ $* == *%o* ]] && echo "$number|$state|$script" || echo "$number $state None"
    done <jobs
    ;;
  "scontrol show"*) echo "MaxArraySize            = 3" ;;
esac
"""


class Commands:
    """SLURM's, that write down how they were called. A job they take runs until they have been asked about it once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, f"{folder}:{os.environ['PATH']}"
        folder.mkdir()
        (folder / "jobs").touch()
        for name in ("sbatch", "squeue", "scancel", "scontrol", "srun"):
            (folder / name).write_text(STAND_IN)
            (folder / name).chmod(0o755)

    def busy(self, name: str, times: int) -> None:
        """Do not answer for some times."""
        (self.folder / f"busy.{name}").write_text(str(times))

    def know(self, number: str, script: Path, running: int) -> None:
        """Have a job that runs while it is asked about some times."""
        (self.folder / "jobs").write_text(f"{number} {script}\n")
        (self.folder / "running").write_text(str(running))

    def calls(self, *names: str) -> list[str]:
        """What was asked and told, in order."""
        file = self.folder / "calls"
        called = file.read_text().splitlines() if file.is_file() else []
        return [call for call in called if not names or call.split()[0] in names]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    made, sleep = Commands(tmp_path / "commands"), time.sleep
    monkeypatch.setenv("PATH", made.path)
    monkeypatch.setenv("STAND_IN", str(made.folder))
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    monkeypatch.setattr(slurm, "LATE", 0.2)
    return made


def job(sweep: Path, number: int = 0, **results: object) -> Job:
    """A job with what it left behind."""
    config = {"trainer": {"devices": 1, "num_nodes": 1, "accelerator": "cpu"}, "seed": 1}
    made = Job(config, sweep / str(number), overrides=[], title="", group=None, logging={})
    made.folder.mkdir(parents=True, exist_ok=True)
    if results:
        directory.write_results(made.folder, results)
    return made


def handed_over(job: Job, number: str) -> None:
    """As a sweep that was killed left it."""
    file = job.folder.parent / ".jobs" / f"{job.folder.name}.slurm"
    file.parent.mkdir(exist_ok=True)
    file.write_text(number)


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert met, "it took too long"
    return met


# --- how many at a time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "launcher", "sampler", "most"),
    [
        (None, "local", None, 1),
        (None, "local", "tpe", 1),
        (None, SLURM, None, sys.maxsize),
        (None, SLURM, "random", sys.maxsize),
        (None, SLURM, "tpe", 4),  # a fifth of 20 trials
        (3, SLURM, None, 3),
        (3, SLURM, "cmaes", 3),
    ],
)
def test_a_cluster_is_given_all_jobs_at_once_unless_they_are_numbered_or_learn(jobs, launcher, sampler, most):
    config = OmegaConf.create({"jobs": jobs, "hydra": {"launcher": {"_target_": launcher}}})
    assert at_a_time(config, Options({}, sampler, 20, ["val/elbo"], None, 1, None, False)) == most


@pytest.mark.parametrize(
    ("jobs", "arrays", "together"), [(None, ["0-2%3", "0-2%3", "0-1%2"], 3), (2, ["0-2%2", "0-2%2", "0-1%2"], 1)]
)
def test_more_jobs_than_an_array_may_have_are_several_arrays(commands, tmp_path, jobs, arrays, together):
    many = [job(tmp_path / "sweep", number, status="finished") for number in range(8)]
    ended = []
    Slurm(jobs, 0, {}).run(many, ended.append)
    called = commands.calls("sbatch", "squeue")
    assert [call.split()[1] for call in called if call.startswith("sbatch")] == arrays
    assert [call.split()[0] for call in called].index("squeue") == together
    assert sorted(int(one.folder.name) for one in ended) == list(range(8))


# --- a controller that does not answer --------------------------------------------------------------------------------


def test_that_squeue_does_not_answer_is_no_end_of_jobs_that_save(commands, tmp_path):
    one = Slurm(1, 0, {})
    one.running = {"7": job(tmp_path / "sweep")}
    commands.know("7", tmp_path / "script", running=2)
    commands.busy("squeue", 4)
    one.stop()
    told = [" ".join(call.split()[:2]) for call in commands.calls()]
    assert told == ["scancel --quiet"] * 2 + ["squeue --noheader"] * 7 + ["scancel --quiet"]


def test_that_squeue_does_not_answer_is_no_end_of_jobs_that_run(commands, tmp_path):
    ended = []
    commands.busy("squeue", 5)
    Slurm(1, 0, {}).run(iter([job(tmp_path / "sweep", status="finished")]), ended.append)
    assert len(commands.calls("squeue")) == 7 and len(ended) == 1 and not commands.calls("scancel")


@pytest.mark.parametrize("name", ["sbatch", "scontrol"])
def test_a_controller_too_busy_to_take_a_job_is_asked_again(commands, tmp_path, name):
    ended = []
    commands.busy(name, 3)
    Slurm(1, 0, {}).run([job(tmp_path / "sweep", status="finished")], ended.append)
    assert len(commands.calls(name)) == 4 and len(ended) == 1


def test_jobs_a_busy_controller_did_not_cancel_are_told_of(commands, tmp_path, capsys):
    one = Slurm(1, 0, {"signal_delay_s": 0})
    one.running = {"7": job(tmp_path / "sweep")}
    commands.busy("scancel", 100)
    one.stop()
    assert "SLURM does not answer: jobs may go on" in " ".join(capsys.readouterr().err.split())


# --- a sweep resumed while its jobs still run -------------------------------------------------------------------------


@pytest.mark.parametrize("as_search", [False, True])
def test_a_job_slurm_still_has_is_waited_for_and_not_begun_again(commands, tmp_path, capsys, as_search):
    running = job(tmp_path / "sweep", status="finished", **{"val/elbo": -1.0})
    handed_over(running, "7")
    commands.know("7", tmp_path / "sweep" / ".submitit" / ".submission_file_1.sh", running=3)
    before, ended = (running.folder / "results.json").read_text(), []
    Slurm(1, 0, {}).run(iter([running]) if as_search else [running], ended.append)
    assert not commands.calls("sbatch") and len(commands.calls("squeue")) == 4 and ended == [running]
    assert (running.folder / "results.json").read_text() == before
    assert "SLURM still has jobs of this sweep, which are waited for, not begun again: 0 (7)." in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_job_that_was_being_cancelled_is_begun_again_when_it_has_ended(commands, tmp_path):
    stopped = job(tmp_path / "sweep", status="interrupted")
    handed_over(stopped, "7")
    commands.know("7", tmp_path / "sweep" / ".submitit" / ".submission_file_1.sh", running=2)
    ended = []
    Slurm(1, 0, {}).run([stopped], ended.append)
    asked = [call.split()[0] for call in commands.calls("squeue", "sbatch")]
    assert asked[: asked.index("sbatch")] == ["squeue"] * 4 and asked.count("sbatch") == 1 and ended == [stopped]


def test_a_number_that_another_cluster_gave_to_another_job_is_not_ours(commands, tmp_path):
    ours = job(tmp_path / "sweep", status="finished")
    handed_over(ours, "7")
    commands.know("7", tmp_path / "other" / ".submitit" / ".submission_file_1.sh", running=100)
    Slurm(1, 0, {}).run([ours], lambda one: None)
    assert len(commands.calls("sbatch")) == 1


def test_a_job_another_process_is_at_is_not_marked_as_failed(commands, tmp_path):
    twice = job(tmp_path / "sweep")
    with alone(twice.folder):
        Slurm(1, 0, {}).run([twice], lambda one: None)
    assert outcome(twice.folder).status == "not begun"


def test_what_another_process_has_just_done_is_not_done_again(tmp_path, monkeypatch):
    done = job(tmp_path, status="finished", figure=1.0)
    monkeypatch.setattr(worker, "launched", lambda job: pytest.fail("begun again"))
    worker.lead(done, None)
    assert outcome(done.folder).results == {"status": "finished", "figure": 1.0}


def test_a_job_is_marked_as_failed_before_another_process_may_begin_it(tmp_path, monkeypatch):
    failing = job(tmp_path)
    mark, free = directory.mark_failed, []

    def marked(*words):
        try:
            with alone(failing.folder):
                free.append(True)
        except Busy:
            free.append(False)
        mark(*words)

    monkeypatch.setattr(directory, "mark_failed", marked)
    monkeypatch.setattr(worker.logging.config, "dictConfig", lambda settings: None)
    monkeypatch.setattr(worker, "launched", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.lead(failing, None)
    assert free == [False] and outcome(failing.folder).status == "failed"


def test_a_task_leaves_results_to_the_process_that_is_alone_with_them(tmp_path, handlers):
    folder = job(tmp_path, status="finished").folder
    with pytest.raises(SystemExit):
        Task([sys.executable, "-c", "exit(75)"], folder, 90.0)()
    assert outcome(folder).status == "finished"


# --- time to save -----------------------------------------------------------------------------------------------------


@pytest.fixture
def handlers():
    """Those of the signals a task hears, put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_process_of_a_job_is_given_most_of_the_time_slurm_gives(tmp_path, handlers):
    words = "import pathlib, sys; pathlib.Path('patience').write_text(sys.argv[2])"
    script = tmp_path / "job.py"
    script.write_text(f"import os; os.chdir({str(tmp_path)!r}); {words}")
    with pytest.raises(SystemExit) as ended:
        Task([sys.executable, str(script)], tmp_path, 90.0)()
    assert ended.value.code == 0 and 60 < float((tmp_path / "patience").read_text()) < 85


def test_a_job_that_cannot_save_in_time_is_put_in_line_again(tmp_path, handlers):
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(30)"
    task = Task([sys.executable, "-c", deaf], tmp_path, 3.0)
    task.process = subprocess.Popen(task.command, stdout=subprocess.PIPE)
    task.process.stdout.readline()
    began = time.monotonic()
    again = task.checkpoint()
    task.process.kill()
    assert isinstance(again, DelayedSubmission) and 2.5 < time.monotonic() - began < 3.0
    assert again.function.command == task.command and again.function.delay == 3.0


def test_a_job_that_can_save_in_time_is_waited_for(tmp_path, handlers):
    slow = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(143)));"
    task = Task([sys.executable, "-c", slow + "print(flush=True); time.sleep(30)"], tmp_path, 20.0)
    task.process = subprocess.Popen(task.command, stdout=subprocess.PIPE)
    task.process.stdout.readline()
    assert isinstance(task.checkpoint(), DelayedSubmission)
    assert task.process.wait() == 143


BLOCKED = re.compile(r"^SigBlk:\s*(\w+)$", re.MULTILINE)


def test_a_signal_before_a_task_listens_is_heard_when_it_does(tmp_path, monkeypatch):
    commands = Commands(tmp_path / "commands")
    monkeypatch.setenv("PATH", commands.path)
    monkeypatch.setenv("STAND_IN", str(commands.folder))
    one = Slurm(1, 3, {})
    one._submit([job(tmp_path / "sweep")])
    (script,) = (tmp_path / "sweep" / ".submitit").glob("*_submission.sh")
    where = {"SLURM_JOB_ID": "101", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    batch = subprocess.Popen(["bash", str(script)], env={**os.environ, **where}, stderr=subprocess.PIPE, text=True)
    pid = until((commands.folder / "pid").is_file) and int(until((commands.folder / "pid").read_text))
    until(lambda: int(BLOCKED.search(Path(f"/proc/{pid}/status").read_text())[1], 16) >> (signal.SIGUSR2 - 1) & 1)
    os.kill(pid, signal.SIGUSR2)
    _, said = batch.communicate(timeout=30)
    assert commands.calls("scontrol") == ["scontrol requeue 101"], said
    assert not (tmp_path / "sweep" / "0" / "config.yaml").exists()


VALIDATES_LONG = """
import sys, time
from variata.run import __main__ as worker
from variata.training.module import Training

validation = Training.validation_step

def validation_step(self, batch, batch_idx):
    while self.step > 2:
        sys.stderr.write("validates\\n")
        time.sleep(0.05)
    validation(self, batch, batch_idx)

Training.validation_step = validation_step
sys.exit(worker.main())
"""


@pytest.mark.slow
def test_a_run_that_validates_when_its_time_is_over_is_interrupted_and_keeps_its_checkpoint(tmp_path):
    words = ["data=digits", "model=mlp_vae", "model.encoder.widths=[8]", "logger=none", "callbacks=[]", "compile=false"]
    words += ["trainer=cpu", "trainer.check_val_every_n_epoch=1", "checkpoint_every=0", "data.batch_size=700"]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = resolved(hydra.compose("config", words))
    run, file = tmp_path / "0", tmp_path / ".jobs" / "0.json"
    run.mkdir()
    file.parent.mkdir()
    file.write_text(Job(config, run, words, "", None, {"version": 1}).dumps())
    process = subprocess.Popen(
        [sys.executable, "-c", VALIDATES_LONG, str(file), str(os.getpid()), "3"],
        env=environment(),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any("validates" in line for line in process.stderr)
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143 and f"resume={run}" in "".join(said.split()), said
    assert json.loads((run / "results.json").read_text())["status"] == "interrupted"
    assert (run / "checkpoints" / "last.ckpt").is_file()
