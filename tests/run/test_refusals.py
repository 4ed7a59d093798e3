"""What is refused and how it is said, without starting a run; tests/commands/test_fuzz.py tries whole command lines."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from conftest import ROOT
from variata.commands.main import run as run_command
from variata.commands.train import folder, require_single, run_dir
from variata.config.compose import arranged
from variata.config.explain import told
from variata.config.schema import checked
from variata.errors import ConfigError, Defect, OutOfMemory, RunError
from variata.run import directory
from variata.run import wandb as loggers
from variata.run.assemble import require_ahead
from variata.run.csv import CSV
from variata.run.launch import processes
from variata.run.loading import load
from variata.run.lock import alone
from variata.run.ranks import cores
from variata.training.callbacks import Pictures

CONFIG = yaml.safe_load((ROOT / "tests" / "run.yaml").read_text())
GONE = object()


def changed(**values):
    """A run's configuration with other values, by key with `__` for a dot."""
    config = copy.deepcopy(CONFIG)
    for key, value in values.items():
        node, names = config, key.split("__")
        for name in names[:-1]:
            node = node[name]
        if value is GONE:
            del node[names[-1]]
        else:
            node[names[-1]] = value
    return config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"checkpoint_every": -1.0}, "checkpoint_every=-1.0 is less than 0"),
        ({"log_every": 0}, "log_every=0 is less than 1"),
        ({"seed": 2**32}, "seed=4294967296 is more than 4,294,967,295"),
        ({"beta__value": -1.0}, "beta.value=-1.0 is less than 0"),
        ({"scheduler__final": -0.5}, "scheduler.final=-0.5 is less than 0"),
        ({"trainer__gradient_clip_val": 0.0}, "trainer.gradient_clip_val=0.0 is less than 1e-06"),
        ({"trainer__devices": 10**9}, "trainer.devices=1000000000 is more than 4,096"),
        ({"evaluate__nll__samples": 1.5}, "evaluate.nll.samples=1.5 has the wrong type"),
        ({"evaluate__samples": 7}, "evaluate.samples is now evaluate.nll.samples"),
        ({"evaluate__quality": True}, r"evaluate.quality is now evaluate=\[nll,quality\]"),
        ({"evaluate__nll": 5}, "evaluate.nll=5 builds nothing: evaluate.nll takes a _target_, an Evaluation"),
        ({"trainer__check_val_every_n_epoch": {"a": 1}}, "trainer.check_val_every_n_epoch"),
        ({"trainer__on_nan": GONE}, "The configuration has no trainer.on_nan"),
        ({"evaluate": None}, "evaluate=None is no group of options"),
        ({"beta": 3}, "beta=3 builds nothing: beta takes a _target_"),
        ({"logger": {"project": "x"}}, "logger"),
        ({"trainer__val_check_interval": 7}, "trainer.val_check_interval is none of your options"),
        ({"oddity": 1}, "oddity is no option of a run"),
        ({"oddity": {"_target_": "variata.schedules.Constant"}}, "oddity is a plain value"),
    ],
)
def test_values_out_of_their_range_are_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        checked(changed(**values))


def test_the_configuration_they_are_made_from_is_accepted():
    assert checked(changed())["seed"] == 1
    assert checked(changed(oddity={"a": 1}))  # which others may refer to


@pytest.mark.parametrize(("max_epochs", "max_steps"), [(2, -1), (None, 80), (-1, 0)])
def test_a_run_does_not_go_on_to_an_end_it_has_passed(max_epochs, max_steps):
    with pytest.raises(ConfigError, match="is less than the run has done"):
        require_ahead({"max_epochs": max_epochs, "max_steps": max_steps}, {"epoch": 3, "step": 90})
    require_ahead({"max_epochs": 3, "max_steps": 90}, {"epoch": 3, "step": 90})


@pytest.mark.parametrize("jobs", ["abc", 0, 1.5, True])
def test_what_is_said_of_many_runs_is_checked_where_there_is_one(jobs):
    with pytest.raises(ConfigError, match=f"jobs={jobs} is no whole number from 1"):
        require_single(OmegaConf.create({"jobs": jobs, "sweep": {}}))


def test_more_processes_than_cores_are_refused_with_their_number_unless_insisted_on():
    asked = {"_target_": "lightning.pytorch.Trainer", "accelerator": "cpu", "num_nodes": 1, "devices": len(cores()) + 1}
    with pytest.raises(
        ConfigError, match=f"{len(cores()) + 1} processes, more than the cores there are, {len(cores())}"
    ):
        processes(asked)
    assert processes({**asked, "crowded": True}) == len(cores()) + 1


def test_a_picture_of_a_hundred_thousand_images_is_refused():
    with pytest.raises(ValueError, match="up to 1024"):
        Pictures(images=100_000)


@pytest.mark.parametrize("outputs", [None, -1, "", " ", ["a"]])
def test_outputs_is_a_path(outputs):
    with pytest.raises(ConfigError, match="is no folder"):
        folder(outputs)


@pytest.mark.parametrize("option", ["../model/mlp_vae", "/etc/passwd", "a/../../b"])
def test_an_option_does_not_lead_out_of_its_group(option):
    with pytest.raises(ConfigError, match="leads out of the group data"):
        run_dir("outputs", option, "mlp_vae", None)


# --- the command line -------------------------------------------------------------------------------------------------


def test_flags_may_stand_anywhere():
    words = ["seed=1,2", "-m", "data=digits", "--config-name", "best"]
    assert arranged(words) == ["-m", "--config-name", "best", "seed=1,2", "data=digits"]


@pytest.mark.parametrize(
    "words", [["--nosuch"], ["--experimental-rerun", "x"], ["++hydra.output_subdir=a"], ["--cfg=x"]]
)
def test_flags_that_are_none_or_leave_something_are_told(words):
    with pytest.raises(ConfigError):
        arranged(words)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (MemoryError(), OutOfMemory, "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), OutOfMemory, "ulimit -v"),
        (torch.OutOfMemoryError("CUDA out of memory."), OutOfMemory, "data.batch_size"),
        (
            ImportError("libtorch_cpu.so: failed to map segment"),
            RunError,
            "A library cannot be loaded: libtorch_cpu.so",
        ),
        (OSError(28, "No space left on device", "x"), RunError, "x cannot be used: No space left"),
        (KeyError("x"), Defect, "KeyError: 'x'. This is a defect of variata; add debug=true"),
    ],
)
def test_every_error_is_told_in_a_sentence(error, kind, says):
    assert isinstance(told(error), kind) and says in str(told(error))


# --- standard streams -------------------------------------------------------------------------------------------------

SPEAK = "import sys; from variata.streams import audible; audible(); "


def spoken(code, stdout=subprocess.PIPE, **options):
    return subprocess.run(
        [sys.executable, "-c", SPEAK + code], stdout=stdout, stderr=subprocess.PIPE, cwd=ROOT / "src", **options
    )


def test_signs_that_a_terminal_does_not_know_end_no_run():
    done = spoken("print('1 ± 2 │')", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1 ? 2 ?\n", b"")


def test_a_reader_that_leaves_ends_no_run(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = spoken(f"[print('x' * 1000, flush=True) for _ in range(1000)]; open({str(tmp_path / 'end')!r}, 'w')", write)
    assert done.returncode == 0 and done.stderr == b"" and (tmp_path / "end").exists()


def test_an_error_is_told_when_it_is_met_and_not_at_the_end(tmp_path):
    code = "import os; sys.stderr.write('told\\n'); os._exit(3)"  # as a process that ends without ceremony
    with (tmp_path / "said").open("w") as said:
        done = subprocess.run([sys.executable, "-c", SPEAK + code], cwd=ROOT / "src", stderr=said)
    assert done.returncode == 3 and (tmp_path / "said").read_text() == "told\n"


def test_closed_streams_end_no_run_and_no_file_takes_their_place(tmp_path):
    code = f"file = open({str(tmp_path / 'file')!r}, 'w'); print('lost'); print('lost', file=sys.stderr); "
    code += "file.write(str(file.fileno() > 2)); file.flush(); import os; os.write(2, b'lost')"
    done = subprocess.run(["sh", "-c", '"$0" -c "$1" 0<&- 1>&- 2>&-', sys.executable, SPEAK + code], cwd=ROOT / "src")
    assert done.returncode == 0 and (tmp_path / "file").read_text() == "True"


# --- a run's files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    directory.write_config((folder.mkdir(), folder)[1], CONFIG, [])
    return folder


@pytest.mark.parametrize("name", [name for name in directory.FILES if name != "config.yaml"])
@pytest.mark.parametrize("kind", ["folder", "loop", "nowhere", "pipe", "device"])
def test_what_is_no_file_in_a_files_place_is_told(run, name, kind):
    path = run / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"loop": path.name, "nowhere": "gone", "device": "/dev/zero"}[kind])
    with pytest.raises(RunError, match=str(path)):
        load(run)
    with pytest.raises(RunError, match=str(path)):
        run_dir("outputs", "digits", "mlp_vae", str(run))  # before Hydra writes into train.log


def snapshot(folder):
    return {path: path.is_file() and path.read_text() for path in folder.rglob("*")}


@pytest.fixture
def victim(tmp_path):
    folder = tmp_path / "victim"
    for name in directory.WRITTEN:
        path = folder / name
        if name in directory.FOLDERS:
            path.mkdir(parents=True, exist_ok=True)
            (path / "notes.tmp").write_text("mine")
        else:
            path.write_text("mine")
    return folder


def linked(run, name, target):
    """A run in which something is a link."""
    path = run / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    return str(path)


@pytest.mark.parametrize("name", directory.WRITTEN)
def test_what_leads_out_of_a_run_is_not_written(run, victim, name):
    (victim / "config.yaml").write_text((run / "config.yaml").read_text())
    before, path = snapshot(victim), linked(run, name, victim / name)
    with pytest.raises(RunError, match=f"{path} leads out of the directory"):
        run_dir("outputs", "digits", "mlp_vae", str(run))
    with pytest.raises(RunError, match=f"{path} leads out of the directory"), alone(run):
        pass
    assert snapshot(victim) == before


@pytest.mark.parametrize("name", [".lock", "attributes.json", "images"])
def test_what_is_not_there_yet_is_not_made_elsewhere(run, tmp_path, name):
    linked(run, name, tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"leads out of the directory|leads nowhere"):
        run_dir("outputs", "digits", "mlp_vae", str(run))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("command", ["sample", "reconstruct"])
def test_pictures_are_not_drawn_where_a_link_leads(run, victim, command):
    before, path = snapshot(victim), linked(run, "images", victim / "images")
    with pytest.raises(RunError, match=f"{path} leads out"):
        run_command(command, [str(run)])
    assert snapshot(victim) == before


@pytest.mark.parametrize("name", ["images", "attributes.json", "results.json"])
@pytest.mark.parametrize(
    ("command", "words"),
    [("evaluate", ["evaluate=[nll]"]), ("quality", []), ("attributes", ["--attribute=x"])],
    ids=["evaluate", "quality", "attributes"],
)
def test_findings_are_not_written_where_a_link_leads(run, victim, command, words, name):
    before, path = snapshot(victim), linked(run, name, victim / name)
    with pytest.raises(RunError, match=f"{path} leads out"):
        run_command(command, [str(run), *words])
    assert snapshot(victim) == before


@pytest.mark.parametrize(
    "name", ["0", ".jobs", ".lock", ".submitit", "sweep.json", "study.journal", "1/output.log", "1/train.log"]
)
def test_a_sweep_writes_nothing_where_a_link_leads(tmp_path, victim, name):
    (tmp_path / "sweep" / "1").mkdir(parents=True)
    path = linked(tmp_path / "sweep", name, victim)
    with pytest.raises(RunError, match=f"{path} leads out"):
        directory.require_own(tmp_path / "sweep")


def test_a_sweep_that_is_its_own_job_is_looked_at_once(tmp_path):
    (tmp_path / "0").symlink_to(tmp_path)
    directory.require_own(tmp_path)


def test_a_run_on_another_disk_is_gone_on_with(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "outputs").symlink_to(tmp_path)
    linked(run, "images", "checkpoints")  # within the run
    (run / "checkpoints").mkdir()
    for place in (tmp_path / "link", tmp_path / "outputs" / "run"):
        assert run_dir("outputs", "digits", "mlp_vae", str(place)) == str(place)
        with alone(place):
            pass
        directory.require_own(tmp_path / "outputs")


def test_a_pipe_is_not_waited_for_by_what_lists_runs(run):
    os.mkfifo(run / "results.json")
    with pytest.raises(RunError, match=r"results\.json is no file"):
        directory.read_text(run / "results.json")


@pytest.mark.parametrize("words", ["", "{", "[1]", "[" * 100_000])
def test_a_failure_is_marked_over_damaged_results(run, words):
    (run / "results.json").write_text(words)
    directory.mark_failed(run, CONFIG, [], "lost")
    results = json.loads((run / "results.json").read_text())
    assert (results["status"], results["error"], results["seed"]) == ("failed", "lost", 1)


@pytest.mark.parametrize(
    "words",
    [
        *("", "[]", "null", "{}", '{"id": 1}', "[" * 100_000),
        *('{"id": "a", "mode": "online"}', '{"id": "a", "save_code": true}', '{"id": "a", "oddity": 1}'),
        *('{"id": "a", "dir": "/"}', '{"id": "a", "config": {}}', '{"id": "a", "settings": {}}'),
        *('{"id": "a", "tags": 5}', '{"id": "a", "tags": [5]}', '{"id": "a", "taken": 5}', '{"id": "a", "sweep": 5}'),
        *('{"id": "a", "name": [1]}', '{"id": "a", "group": {}}', '{"id": "a", "entity": "b", "project": "c"}'),
        *('{"id": "a", "sweep": "b"}', '{"id": "a", "sweep": "b", "entity": 1, "project": "c"}'),
    ],
)
def test_a_damaged_identity_is_told(tmp_path, words):
    (tmp_path / "identity.json").write_text(words)
    with pytest.raises(RunError, match=r"identity\.json is damaged"):
        loggers.remembered(tmp_path / "identity.json")


@pytest.mark.parametrize("rows", ["1,x\n", "1,\x00\n", "x,1\n", "1,1,1\n"])
def test_damaged_metrics_are_told_before_training_goes_on(tmp_path, rows):
    (tmp_path / "metrics.csv").write_text("step,val/elbo\n" + rows)
    with pytest.raises(RunError, match=r"metrics\.csv is damaged"):
        CSV(tmp_path / "metrics.csv", until=10)
