"""Checkpoints and what stands beside them, when a process is killed, a bit flips or a disk fills up."""

import errno
import json
import logging
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from conftest import ROOT, environment
from test_training import Records, rows, run, weights
from variata import atomic
from variata.errors import ConfigError, DiskFull, Interrupted, RunError
from variata.run import directory, disk
from variata.run.assemble import require_validation
from variata.run.csv import CSV
from variata.run.job import Job, resumed
from variata.run.launch import full_disk_told
from variata.training import checkpoints
from variata.training.callbacks import EMA
from variata.training.saving import Best, EarlyStops, Last


def state(step=3, seed=0):
    numbers = torch.randn(50, 40, generator=torch.Generator().manual_seed(seed))
    return {"variata": {"step": step}, "state_dict": {"vae.weight": numbers, "vae.bias": numbers[0].clone()}}


def saved(path, **options):
    checkpoints.write(state(**options), path)
    return path


@pytest.fixture
def small_files():
    """No file of this process may grow above 5 kB: to a writer as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- whole or not there -----------------------------------------------------------------------------------------------


def test_a_write_that_fails_half_way_leaves_the_earlier_checkpoint_whole(tmp_path, request):
    path = saved(tmp_path / "last.ckpt", step=1)
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match=r"last\.ckpt") as caught:
        saved(path, step=2, seed=1)
    assert caught.value.errno == errno.EFBIG and list(tmp_path.iterdir()) == [path]
    assert checkpoints.read(path)["variata"]["step"] == 1


def test_a_write_that_is_killed_leaves_the_earlier_file_whole_until_it_is_cleaned_up(tmp_path, monkeypatch):
    path = saved(tmp_path / "last.ckpt", step=1)
    monkeypatch.setattr(atomic.Path, "unlink", lambda *args, **options: None)  # a killed process cleans nothing up
    monkeypatch.setattr(atomic.os, "fsync", lambda descriptor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        saved(path, step=2)
    monkeypatch.undo()
    assert {file.name for file in tmp_path.iterdir()} == {"last.ckpt", "last.ckpt.tmp"}
    assert checkpoints.read(path)["variata"]["step"] == 1
    atomic.clean(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(atomic.os, "fsync", lambda descriptor: order.append("sync"))
    monkeypatch.setattr(atomic.Path, "replace", lambda source, target: order.append(f"{source.parent} {target.name}"))
    saved(tmp_path / "last.ckpt")
    assert order == ["sync", f"{tmp_path} last.ckpt", "sync"]  # the file, its name, the folder


def test_checkpoints_need_no_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    run(tmp_path, epochs=1, callbacks=[Last(tmp_path), Best(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "best.ckpt"}


# --- checksums --------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    content = bytearray(saved(tmp_path / "best.ckpt").read_bytes())
    dice = random.Random(0)
    places = [dice.randrange(len(content)) for _ in range(100)]
    ends = range(len(content) - 71 - 22, len(content))  # the record that ends the archive, and the checksum
    for place in [0, *places, *ends]:
        damaged = content.copy()
        damaged[place] ^= 1 << dice.randrange(8)
        (tmp_path / "last.ckpt").write_bytes(damaged)
        with pytest.raises(RunError, match=r"last\.ckpt cannot be read as a checkpoint .* goes on from the best"):
            checkpoints.read(tmp_path / "last.ckpt")


def test_a_checkpoint_that_ends_early_is_noticed(tmp_path):
    path = saved(tmp_path / "last.ckpt")
    content = path.read_bytes()
    for length in (0, 1, 30, len(content) // 2, len(content) - 71, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(RunError, match="cannot be read as a checkpoint"):
            checkpoints.read(path)


def test_a_checkpoint_is_a_file_that_torch_and_zip_read(tmp_path):
    path = saved(tmp_path / "last.ckpt")
    assert torch.equal(torch.load(path, weights_only=True)["state_dict"]["vae.bias"], state()["state_dict"]["vae.bias"])
    assert zipfile.ZipFile(path).testzip() is None


def test_a_checkpoint_without_a_checksum_is_read_and_its_tensors_are_checked(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(state(), path)
    assert checkpoints.read(path)["variata"]["step"] == 3
    content = bytearray(path.read_bytes())
    content[content.index(state()["state_dict"]["vae.weight"].numpy().tobytes()) + 1234] ^= 8
    path.write_bytes(content)
    with pytest.raises(RunError, match="bad checksum"):
        checkpoints.read(path)


# --- going on ---------------------------------------------------------------------------------------------------------


class Killed(Exception):
    """In place of a signal."""


class Kill(pl.Callback):
    """Ends training at a call of one of its hooks."""

    def __init__(self, hook, call):
        self.calls = call
        setattr(self, hook, self.count)

    def count(self, *args):
        self.calls -= 1
        if self.calls == 0:
            raise Killed


def callbacks(folder, ema, every=60.0):
    return [Last(folder, every), Best(folder), *([EMA(decay=0.9)] if ema else [])]


@pytest.mark.parametrize(
    ("hook", "call", "step", "ema"),
    [("on_train_batch_start", 2, 0, True), ("on_train_epoch_end", 2, 26, False), ("on_train_epoch_end", 3, 39, True)],
    ids=["before the first last.ckpt was due", "between best.ckpt and last.ckpt", "between them at the end"],
)
def test_a_run_killed_between_checkpoints_is_uninterrupted(tmp_path, hook, call, step, ema):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = {"updates_per_call": 4, "epochs": 3, "log_every": 4}
    first, second = Records(), Records()
    expected = run(whole, callbacks=callbacks(whole, ema), logger=first, **options)
    with pytest.raises(Killed):
        run(killed, callbacks=[Kill(hook, call), *callbacks(killed, ema)], **options)
    path, earlier = checkpoints.newest(killed)
    assert earlier["step"] == step
    found = run(killed, callbacks=callbacks(killed, ema), ckpt=path, logger=second, **options)
    assert torch.equal(weights(expected), weights(found))
    assert [at for at, row in second.rows if "val/elbo" in row] == [at for at in (13, 26, 39) if at > step]
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (checkpoints.read(folder / name) for folder in (whole, killed))
        assert one["variata"]["step"] == other["variata"]["step"] and one["loops"] == other["loops"]
        assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())


def test_last_ckpt_is_never_of_the_last_update_without_its_validation(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, epochs=2, steps=20, callbacks=[Kill("on_validation_start", 2), *callbacks(tmp_path, False, 0.0)])
    assert checkpoints.newest(tmp_path)[1]["step"] == 19  # so that going on does it


def test_the_best_score_is_forgotten_with_its_weights(tmp_path):
    run(tmp_path, epochs=1, callbacks=callbacks(tmp_path, False))
    (tmp_path / "best.ckpt").unlink()
    run(tmp_path, epochs=2, lr=0.0, callbacks=callbacks(tmp_path, False), ckpt=tmp_path / "last.ckpt")
    assert checkpoints.read(tmp_path / "best.ckpt")["variata"]["step"] == 26


def test_a_run_without_last_ckpt_is_not_begun_again_in_silence(tmp_path):
    node = {"_target_": "variata.build.flat"}
    directory.write_config(tmp_path, {"data": node, "model": node}, ["data=digits", "seed=1 2"])
    with pytest.raises(
        RunError, match=r"has no checkpoints/last\.ckpt.*`python train.py data=digits 'seed=1 2'` starts"
    ):
        resumed(tmp_path, [])
    (tmp_path / "checkpoints").mkdir()
    saved(tmp_path / "checkpoints" / "best.ckpt")
    directory.write_config(tmp_path, {"data": node, "model": node}, ["resume=x", "seed=2"])
    with pytest.raises(RunError, match=r"`cp .*best\.ckpt .*last\.ckpt` goes on.*'seed=1 2'` starts anew"):
        resumed(tmp_path, [])


# --- early stops ------------------------------------------------------------------------------------------------------


class Asks(pl.Callback):
    """Asks to stop as a validation ends, by a signal or by a kill between best.ckpt and last.ckpt."""

    def __init__(self, validation, how, last):
        self.left, self.how, self.last = validation, how, last

    def on_validation_end(self, *args):
        self.left -= 1
        if self.left == 0 and self.how == "signal":
            self.last.signum = signal.SIGTERM

    def on_train_epoch_end(self, *args):
        if self.left == 0 and self.how == "kill":
            raise Killed


def impatient(folder, log, validation=0, how="", patience=2, ema=False, ckpt=None, **judged):
    """Training of 13 updates an epoch in which no validation but the first counts as better."""
    last = Last(folder)
    judge = EarlyStopping("val/elbo", mode="max", min_delta=1e9, patience=patience, **judged)
    average = [EMA(decay=0.9)] if ema else []
    chosen = [Asks(validation, how, last), judge, *average, EarlyStops(), last, Best(folder)]
    return run(folder, updates_per_call=4, epochs=6, log_every=7, callbacks=chosen, logger=log, ckpt=ckpt)


def resumed_from(folder):
    path, earlier = checkpoints.newest(folder)
    return path, CSV(folder / "metrics.csv", until=earlier["step"])


def test_last_ckpt_is_of_the_last_update_before_an_early_stop(tmp_path):
    assert impatient(tmp_path, CSV(tmp_path / "metrics.csv")).step == 3 * 13
    last = checkpoints.read(tmp_path / "last.ckpt")
    assert last["variata"]["step"] == 3 * 13
    (state,) = (state for key, state in last["callbacks"].items() if key.startswith("EarlyStopping"))
    assert state["wait_count"] == 2


@pytest.mark.parametrize("ema", [False, True], ids=["plain", "ema"])
@pytest.mark.parametrize("how", ["signal", "kill"])
@pytest.mark.parametrize("validation", [1, 2, 3])
def test_training_stops_as_early_as_if_it_had_not_been_ended_after_a_validation(tmp_path, validation, how, ema):
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    expected = impatient(whole, CSV(whole / "metrics.csv"), ema=ema)
    with pytest.raises(Interrupted if how == "signal" else Killed):
        impatient(ended, CSV(ended / "metrics.csv"), validation, how, ema=ema)
    path, log = resumed_from(ended)
    assert path.name == ("last.ckpt" if how == "signal" else "best.ckpt")
    found = impatient(ended, log, ema=ema, ckpt=path)
    assert found.step == expected.step == 3 * 13
    assert torch.equal(weights(found), weights(expected))
    assert rows(CSV(ended / "metrics.csv")) == rows(CSV(whole / "metrics.csv"))
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (checkpoints.read(folder / name) for folder in (whole, ended))
        assert one["variata"]["step"] == other["variata"]["step"] == 3 * 13
        assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())


@pytest.mark.parametrize("judged", [{}, {"stopping_threshold": -1e9, "check_on_train_epoch_end": True}])
def test_a_run_that_stopped_early_has_nothing_to_go_on_with(tmp_path, judged):
    ended = impatient(tmp_path, CSV(tmp_path / "metrics.csv"), **judged)
    assert ended.step == (13 if judged else 3 * 13)
    before = rows(CSV(tmp_path / "metrics.csv"))
    for _ in range(2):
        path, log = resumed_from(tmp_path)
        again = impatient(tmp_path, log, ckpt=path, **judged)
        assert again.step == ended.step and torch.equal(weights(again), weights(ended))
        assert rows(CSV(tmp_path / "metrics.csv")) == before


def test_more_patience_goes_on_after_an_early_stop(tmp_path):
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    expected = impatient(whole, CSV(whole / "metrics.csv"), patience=4)
    impatient(longer, CSV(longer / "metrics.csv"), patience=2)
    path, log = resumed_from(longer)
    found = impatient(longer, log, patience=4, ckpt=path)
    assert found.step == expected.step == 5 * 13 and torch.equal(weights(found), weights(expected))
    assert rows(CSV(longer / "metrics.csv")) == rows(CSV(whole / "metrics.csv"))


def test_early_stopping_without_validation_is_refused():
    judge = EarlyStopping("val/elbo", mode="max")
    require_validation({"limit_val_batches": 0}, [])
    require_validation({"limit_val_batches": 1.0}, [judge])
    with pytest.raises(ConfigError, match=r"trainer\.limit_val_batches=0 leaves none"):
        require_validation({"limit_val_batches": 0}, [judge])


# --- metrics.csv ------------------------------------------------------------------------------------------------------


def test_a_row_cut_off_by_a_kill_is_none(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,val/elbo\r\n10,-5.0\r\n20,-3")  # of -300.0
    assert [row["val/elbo"] for row in CSV(path).rows()] == ["-5.0"]
    CSV(path, until=20).log_metrics({"val/elbo": -4.0}, step=20)
    assert path.read_bytes() == b"step,val/elbo\r\n10,-5.0\r\n20,-4\r\n"


def test_a_row_that_finds_no_room_is_taken_back(tmp_path, small_files):
    path = tmp_path / "metrics.csv"
    logger = CSV(path)
    with pytest.raises(OSError, match=r"metrics\.csv"):
        for step in range(1000):
            logger.log_metrics({"train/loss": 1.0}, step=step)
    assert path.read_bytes().endswith(b"\r\n") and len(logger.rows()) == step


# --- full disks -------------------------------------------------------------------------------------------------------


def job(folder):
    return Job({"debug": False}, folder, [], "", None, {})


def test_a_full_disk_is_told_in_a_sentence_that_says_how_to_go_on(tmp_path, small_files):
    refused = pytest.raises(DiskFull, match=r"config\.yaml cannot be written: File too large\. .* Then start again")
    with refused, full_disk_told(job(tmp_path)):
        atomic.write(tmp_path / "config.yaml", "a" * 6000)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    refused = pytest.raises(DiskFull, match=rf"best\.ckpt cannot .* go on with: python train.py resume={tmp_path}$")
    with refused, full_disk_told(job(tmp_path)):
        try:
            saved(tmp_path / "checkpoints" / "best.ckpt")
        except OSError as error:
            raise RuntimeError("as a library wraps it") from error


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "tmp" / "x"))
    with (
        pytest.raises(DiskFull, match=rf"{tmp_path}/tmp/x cannot .* set TMPDIR"),
        full_disk_told(job(tmp_path / "run")),
    ):
        raise error


def test_the_target_of_a_copy_is_named_not_its_source(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", "/tmp/source", None, str(tmp_path / "target"))
    with pytest.raises(DiskFull, match=rf"{tmp_path}/target cannot be written"), full_disk_told(job(tmp_path)):
        raise error


def test_a_full_disk_is_found_where_nobody_names_it(tmp_path, monkeypatch):
    disk.require_room(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0 if path.name == "tmp" else usage.free))
    with pytest.raises(DiskFull, match=rf"{tmp_path}/tmp cannot .* set TMPDIR"), full_disk_told(job(tmp_path / "run")):
        disk.require_room(tmp_path)


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(PermissionError), full_disk_told(job(tmp_path)):
        raise PermissionError(errno.EACCES, "Permission denied", "x")


def test_a_failure_is_marked_only_where_there_is_room(tmp_path, small_files):
    directory.mark_failed(tmp_path, {"seed": 1, "data": {}}, [], "x" * 6000)
    assert not (tmp_path / "results.json").exists()
    directory.mark_failed(tmp_path, {"seed": 1, "data": {}}, [], "short")
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "failed"


def test_a_log_without_room_prints_nothing(tmp_path, small_files, capsys):
    from variata.run.launch import quiet

    quiet()
    handler = logging.FileHandler(tmp_path / "train.log")
    handler.handle(logging.LogRecord("variata", logging.INFO, "", 0, "x" * 6000, (), None))
    with suppress(OSError):  # as logging does at the end of a process
        handler.close()
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_run_whose_disk_is_full_says_so_and_is_marked(train, small_files):
    answer = train("data=digits", "model=mlp_vae", "logger=none", "trainer.accelerator=cpu")
    assert answer.code == 1 and answer.err.count("variata:") == 1 and "Traceback" not in answer.err
    assert "last.ckpt cannot be written: File too large. Free space there. Then start again" in answer.said
    results = json.loads((answer.run / "results.json").read_text())
    assert results["status"] == "failed" and "last.ckpt cannot be written" in results["error"]
    assert not list((answer.run / "checkpoints").iterdir())


@pytest.mark.slow
def test_runs_killed_at_any_moment_come_to_what_they_would_have(tmp_path):
    script = [sys.executable, str(ROOT / "scripts" / "kill_runs.py"), "--runs", "2", "--seed", "1"]
    done = subprocess.run(script, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
