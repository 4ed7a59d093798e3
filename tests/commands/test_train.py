"""train.py as a user meets it: what it leaves, what it says, how it ends."""

import csv
import gzip
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import variata
from conftest import ROOT, environment, train_command
from variata.commands.train import clean_start
from variata.core import VAE
from variata.errors import Busy, DataError
from variata.run.directory import read_config, write_config
from variata.run.loading import open_data
from variata.run.lock import alone
from wandb_file import records

QUICK = ["data=digits", "model=mlp_vae", "trainer.max_epochs=3", "evaluate.nll.samples=20", "trainer.accelerator=cpu"]
QUICK += ["trainer.check_val_every_n_epoch=1"]
RESULTS = {
    *("test/elbo", "test/nll", "test/nll_samples", "test/nll_stderr", "test/bits_per_dim", "test/rate"),
    *("test/distortion", "test/active_units", "test/images", "data/protocol", "seed", "version", "git_sha"),
    *("train/seconds", "train/images_per_second", "train/steps", "train/batch_size", "status"),
    *("test/elbo_stderr", "test/nll_ess", "test/nll_ess_5"),
    *("val/elbo", "val/rate", "val/distortion"),
}


def results(run):
    return json.loads((run / "results.json").read_text())


def recorded(run):
    """What metrics.csv holds, but for how long it took."""
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    return [{name: value for name, value in row.items() if name != "train/images_per_second"} for row in rows]


def weights(run, name="last"):
    state = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
    return torch.cat([value.flatten().double() for value in state.values()])


# --- one run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("outputs")
    done = subprocess.run(
        train_command(outputs, *QUICK, "log_every=10"), capture_output=True, text=True, env=environment(), cwd=outputs
    )
    assert done.returncode == 0, done.stderr
    (config,) = outputs.rglob("config.yaml")
    return config.parent, done


def test_run_directory_is_complete(finished):
    run, _ = finished
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if "wandb" not in path.parts}
    assert files == {
        *(
            "checkpoints",
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
            "config.yaml",
            "overrides.txt",
            "metrics.csv",
        ),
        *("images", "images/reconstructions.png", "images/samples.png", "images/traversal.png"),
        "images/interpolation.png",
        *("results.json", "train.log", ".lock"),
    }
    assert run.parent.name == "digits-mlp_vae"
    assert (run / "overrides.txt").read_text().splitlines()[:-1] == [*QUICK, "log_every=10"]


def test_results_have_their_fixed_names_and_agree(finished):
    run, done = finished
    r = results(run)
    assert r.keys() == RESULTS
    assert r["status"] == "finished" and r["test/images"] == 200 and r["test/nll_samples"] == 20
    assert r["train/steps"] == 3 * (1397 // 64)
    assert r["test/elbo"] == pytest.approx(-r["test/rate"] - r["test/distortion"], abs=1e-4)
    assert r["test/nll"] < -r["test/elbo"]
    assert r["test/bits_per_dim"] == pytest.approx(r["test/nll"] / 784 / math.log(2), abs=1e-5)
    assert f"{r['test/nll']:.2f}" in done.stdout and "samples.png" in done.stdout and "plan" in done.stdout


def test_training_and_validation_are_recorded_by_update(finished):
    run, _ = finished
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    steps = [int(row["step"]) for row in rows if row["train/elbo"]]
    assert steps == [10, 20, 30, 40, 50, 60]
    assert {"train/beta", "train/lr", "train/rate", "train/distortion", "train/images_per_second"} <= rows[0].keys()
    val = [row for row in rows if row["val/elbo"]]
    assert [int(row["step"]) for row in val] == [21, 42, 63]
    dimensions = sum(float(value) for name, value in val[-1].items() if name.startswith("val/kl_dim/0."))
    assert dimensions == pytest.approx(float(val[-1]["val/kl_rung_0"]), rel=1e-4)
    assert float(val[-1]["val/active_units"]) >= 0
    (test,) = [row for row in rows if row["test/elbo"] or row["test/nll"]]
    assert int(test["step"]) == 63 and test["test/elbo"] and test["test/nll"]


def test_load_gives_the_model_back(finished):
    run, _ = finished
    vae = variata.load(run)
    assert isinstance(vae, VAE) and not vae.training
    x = torch.rand(4, 1, 28, 28).round()
    assert vae.encode(x)[0].q.mean.shape == (4, 40)
    assert vae.decode(torch.zeros(4, 40)).mean.shape == vae.reconstruct(x).mean.shape == (4, 1, 28, 28)
    assert vae.sample(4).sample().unique().tolist() == [0, 1]


def test_loaded_model_has_the_reported_elbo(finished):
    run, _ = finished
    from variata.data.digits import digits
    from variata.evaluation.bound import Bound

    data, vae = digits(), variata.load(run)
    data.setup()
    metric = Bound([(40,)])
    with torch.no_grad():
        for _ in range(50):
            metric.update(vae(data.images["test"].float()))
    assert metric.compute()["elbo"].item() == pytest.approx(results(run)["test/elbo"], abs=1.0)


def test_open_data_gives_the_judged_images_back(finished):
    run, _ = finished
    from variata.data.digits import digits

    data = digits()
    data.setup()
    opened = open_data(run, root="unused by data without files")
    assert torch.equal(opened.images["test"], data.images["test"]) and opened.protocol == data.protocol


def test_open_data_looks_where_it_is_told(tmp_path):
    node = {"_target_": "variata.data.mnist.binary_mnist", "root": "gone", "download": False}
    write_config(tmp_path, {"data": node, "model": {"_target_": "variata.build.flat"}}, [])
    with pytest.raises(DataError, match=str(tmp_path / "moved")):
        open_data(tmp_path, root=str(tmp_path / "moved"))


def test_pictures_show_digits_not_blackness(finished):
    run, _ = finished
    for name in ("reconstructions", "samples", "traversal"):
        pixels = np.asarray(Image.open(run / "images" / f"{name}.png"))
        assert pixels.max() > 200 and len(np.unique(pixels)) > 20
    reconstructions = np.asarray(Image.open(run / "images" / "reconstructions.png"))
    assert set(np.unique(reconstructions[1:29, 1:29])) == {0, 255}  # the first tile is an image of the data


def test_wandb_keeps_configuration_history_pictures_and_exit_code(finished):
    run, _ = finished
    (path,) = (run / "wandb").rglob("*.wandb")
    kept = records(path)
    assert json.loads(kept["config"]["model"])["latent"] == 40
    assert json.loads(kept["config"]["optimizer"])["lr"] == 1e-3
    history = kept["history"]
    assert [row["trainer/global_step"] for row in history if "train/elbo" in row] == [10, 20, 30, 40, 50, 60]
    assert [row["trainer/global_step"] for row in history if "val/elbo" in row] == [21, 42, 63]
    assert kept["summary"]["test/nll"] == results(run)["test/nll"]
    assert kept["exit_code"] == 0 and kept["run"].display_name.startswith("digits-mlp_vae-")
    pictures = [row["images/samples.filenames"] for row in history if "images/samples.filenames" in row]
    stored = path.parent / "files" / pictures[-1][0]
    assert np.array_equal(
        np.asarray(Image.open(stored).convert("L")), np.asarray(Image.open(run / "images" / "samples.png"))
    )


def test_same_seed_same_weights(finished, train):
    run, _ = finished
    again = train(*QUICK, "log_every=7", "logger=none").run  # what is logged must not matter
    assert torch.equal(weights(run), weights(again))


# --- laws, end to end -------------------------------------------------------------------------------------------------


def ppca(x, q):
    """Maximum log-likelihood of probabilistic PCA, nats per row (Tipping & Bishop 1999, eq. 8)."""
    d = x.shape[1]
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = values[q:].mean()
    return -0.5 * (d * math.log(2 * math.pi) + values[:q].log().sum() + (d - q) * noise.log() + d)


@pytest.mark.slow
def test_linear_vae_reaches_the_ppca_likelihood(train):
    answer = train("experiment=ppca", "logger=none", "trainer.accelerator=cpu", "evaluate.nll.samples=10")
    assert answer.code == 0, answer.err
    vae = variata.load(answer.run).double()
    from variata.data.synthetic import load_linear_gaussian

    x = load_linear_gaussian((1, 2, 4), 3, 0.5, 2000, 777)["train"].flatten(1).double()
    w = vae.decoder.net[1].weight.detach()  # [8, 3]
    mean, variance = vae.decoder.bias.detach().flatten(), (2 * vae.likelihood.log_scale.detach()).exp()
    model = torch.distributions.MultivariateNormal(mean, w @ w.T + variance * torch.eye(8, dtype=torch.float64))
    optimum = ppca(x, 3).item()
    assert model.log_prob(x).mean().item() == pytest.approx(optimum, abs=1e-3 * 8)
    with torch.no_grad():  # and the bound is tight there: the linear encoder is the exact posterior
        bound = torch.stack([vae(x.view(-1, 1, 2, 4)).log_w.mean() for _ in range(50)]).mean().item()
    assert bound == pytest.approx(optimum, abs=1e-3 * 8)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp_vae", "conv_vae"])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(train, tmp_path, model):
    options = [f"model={model}", "data=digits", "trainer.max_epochs=6", "logger=none", "evaluate.nll.samples=2"]
    options += ["updates_per_call=2", "callbacks=[default,ema]", "trainer.accelerator=cpu"]
    options += [] if model == "mlp_vae" else ["model.encoder.channels=[4,8]"]
    whole = train(*options, outputs=tmp_path / "whole")
    outputs = tmp_path / "killed"
    process = subprocess.Popen(
        train_command(outputs, *options, "checkpoint_every=0.0"), env=environment(), stdout=-3, stderr=-3, cwd=tmp_path
    )
    while process.poll() is None:  # until a checkpoint of the middle of an epoch is there
        time.sleep(0.005)
        paths = list(outputs.rglob("last.ckpt"))
        if paths and 25 < torch.load(paths[0], weights_only=True)["variata"]["step"] < 100:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (killed,) = (path.parent for path in outputs.rglob("config.yaml"))
    state = torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)["variata"]
    assert state["position"] > 0, "the kill came at the end of an epoch"
    assert not (killed / "results.json").exists()
    resumed = train(f"resume={killed}")
    assert resumed.code == 0, resumed.err
    assert torch.equal(weights(whole.run), weights(killed))
    assert torch.equal(weights(whole.run, "best"), weights(killed, "best"))
    same = [name for name in RESULTS if name.startswith("test/")]
    assert {name: results(killed)[name] for name in same} == {name: results(whole.run)[name] for name in same}
    assert recorded(killed) == recorded(whole.run)
    assert len(list(outputs.rglob("config.yaml"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_is_saved_closed_and_can_go_on(train, tmp_path, number, code):
    outputs = tmp_path / "outputs"
    process = subprocess.Popen(
        train_command(outputs, *QUICK, "trainer.max_epochs=5000", "log_every=5"),
        env=environment(),
        stdout=-3,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    while process.poll() is None and not list(outputs.rglob("metrics.csv")):
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    (run,) = (path.parent for path in outputs.rglob("config.yaml"))
    assert process.returncode == code, err
    assert "Traceback" not in err and "Error executing" not in err
    assert f"resume={run}" in " ".join(err.split())
    assert results(run)["status"] == "interrupted"
    assert (run / "checkpoints" / "last.ckpt").is_file()
    (path,) = (run / "wandb").rglob("*.wandb")
    assert records(path)["exit_code"] == 1
    steps = results(run)["train/steps"]
    answer = train(f"resume={run}", f"trainer.max_epochs={steps // 21 + 2}")
    assert answer.code == 0, answer.err
    assert results(run)["status"] == "finished" and results(run)["train/steps"] > steps
    first, second = sorted((run / "wandb").rglob("*.wandb"))
    assert records(first)["run"].run_id == records(second)["run"].run_id


@pytest.mark.slow
def test_multirun_gives_each_job_a_directory_and_a_process_whatever_launches_it(train, tmp_path):
    answer = train("-m", *QUICK, "seed=1,2", "logger=none", "trainer.max_epochs=1", "hydra/launcher=basic")
    assert answer.code == 0, answer.err
    runs = sorted(path.parent for path in answer.outputs.rglob("results.json"))
    assert [run.name for run in runs] == ["0", "1"]
    assert [results(run)["seed"] for run in runs] == [1, 2]
    assert len({results(run)["test/nll"] for run in runs}) == 2
    assert {path.name for path in answer.outputs.glob("multirun/*/.jobs/*.json")} == {"0.json", "1.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["prior=mixture", "objective=iwae", "beta=cyclical", "optimizer=adamax", "scheduler=warmup"],
        ["objective.free_bits=2.0", "beta=sigmoid", "optimizer=adamw", "scheduler=none", "callbacks=[default,ema]"],
        ["beta=cosine", "data.binarize=none", "likelihood=gaussian", "callbacks=[default,early_stopping]"],
        ["likelihood=optimal_gaussian", "data.binarize=none", "model=resnet_vae", "trainer.max_steps=10"],
        ["likelihood=discretized_logistic_mixture", "data.binarize=none", "objective=iwae", "trainer.max_steps=10"],
        ["trainer=debug", "model=conv_vae", "trainer.gradient_clip_val=1.0", "compile=false", "callbacks=[]"],
    ],
    ids=lambda options: options[0],
)
def test_options_compose(train, options):
    answer = train(*QUICK[:2], "logger=none", "evaluate.nll.samples=3", "trainer.max_epochs=1", *options)
    assert answer.code == 0, answer.err
    assert math.isfinite(results(answer.run)["test/nll"])


# --- errors -----------------------------------------------------------------------------------------------------------

WRONG = {
    "unknown option": (["model=conv_va"], "model=conv_va is unknown. Did you mean conv_vae?"),
    "unknown group": (["modle=conv_vae"], "modle is not in the configuration. Did you mean model?"),
    "misspelt key": (["optimizer.lrr=1"], "optimizer.lrr is not in the configuration. Did you mean optimizer.lr?"),
    "misspelt deep key": (
        ["model.encoder.chanels=[4]"],
        "model.encoder.chanels is not in the configuration. Did you mean model.encoder.channels?",
    ),
    "added key": (["+optimizer.momentun=0.9"], "optimizer.momentun is no option of torch.optim.AdamW"),
    "wrong type": (["optimizer.lr=fast"], "optimizer.lr='fast' has the wrong type: expected float"),
    "wrong type at the top": (["seed=one"], "seed='one' has the wrong type: expected int"),
    "foreign code": (["prior._target_=os.system"], "may not be built"),
    "bernoulli on grey values": (["data.binarize=none"], "is no density of 8-bit data"),
    "gaussian on binary values": (["likelihood=gaussian"], "is no density of binary data"),
    "no end": (["trainer.max_epochs=-1"], "Training needs an end"),
    "no device": (["trainer=gpu"], "trainer cannot be built"),
    "resume from nowhere": (["resume=nowhere"], "resume=nowhere is no run directory"),
    "impossible option": (["beta=cyclical", "beta.cycles=0"], "beta cannot be built"),
    "impossible learning rate": (["optimizer.lr=-1"], "optimizer cannot be built: Invalid learning rate"),
    "one beta of two": (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9] has the wrong type"),
    "stages that differ": (
        ["model.encoder.channels=[4,8,16]"],
        "model cannot be built: channels and blocks have one number per stage each",
    ),
    "W&B without login": (["logger.mode=online"], "Use logger.mode=offline"),
    "no group": (["~optimizer"], "The configuration has no optimizer"),
    "null for a group": (["beta=null"], "A group takes the name of an option, not null"),
    "not a number": (["beta.value=nan"], "beta.value=nan is not a finite number"),
    "impossible width": (["model=mlp_vae", "model.encoder.widths=[-3]"], "model cannot be built: Layers have"),
    "huge width": (["model.latent=99999999999999"], "model cannot be built"),
    "huge seed": (["data.eval_seed=99999999999999999999999"], "data.eval_seed=99999999999999999999999 is not between"),
    "never validated": (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch=0 is less than 1"),
    "less than a batch": (["trainer.limit_test_batches=0.1"], "trainer.limit_test_batches=0.1 of 1 batches is less"),
    "shared unevenly": (
        ["trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=63"],
        "data.batch_size=63 cannot be shared evenly by 2 devices",
    ),
    "malformed override": (["seed"], "Error parsing override"),
}


@pytest.mark.parametrize(("overrides", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_paragraph_and_leaves_nothing(train, overrides, message):
    if overrides == ["trainer=gpu"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    answer = train("data=digits", *overrides)
    assert_refused(answer, message)


def assert_refused(answer, message):
    assert answer.code == 2
    assert answer.err.startswith("variata:") and "\n\n" not in answer.err and "Traceback" not in answer.err
    assert message in answer.said
    assert answer.out == ""
    assert not answer.outputs.exists() or not list(answer.outputs.rglob("*"))


def test_debug_shows_the_traceback(train):
    answer = train("model=typo", "debug=true")
    assert answer.code != 0 and "Traceback" in answer.err


def test_missing_data_without_network(train, tmp_path):
    answer = train("data.root=nowhere")
    assert_refused(answer, "Missing data: train-images-idx3-ubyte, t10k-images-idx3-ubyte.")
    assert "data=digits runs without" in answer.said
    answer = train("data.root=nowhere", "data.binarize=static")
    assert_refused(answer, "Missing data: binarized_mnist_train.amat")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: gzip.compress(data)[:-50], "is not a whole gzip file"),
        (lambda data: gzip.compress(b"\0\0\x08\x01" + data[4:]), "starts with 2049, expected 2051"),
        (lambda data: gzip.compress(data), "is not the published file"),
    ],
    ids=["truncated", "magic", "checksum"],
)
def test_damaged_data(train, tmp_path, damage, message):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    header = b"".join(v.to_bytes(4, "big") for v in (2051, 2, 28, 28))
    for name in ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"):
        (folder / name).write_bytes(damage(header + os.urandom(2 * 784)))
    assert_refused(train(f"data.root={tmp_path / 'data'}"), message)


def test_outputs_that_cannot_be_written(train, tmp_path):
    (tmp_path / "file").write_text("in the way")
    answer = train("data=digits", outputs=tmp_path / "file")
    assert answer.code == 2 and "cannot be used" in answer.said and "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("last", b"garbage", "cannot be read as a checkpoint"),
        ("best", b"garbage", "cannot be read as a checkpoint"),
        ("last", None, "checkpoint of another program"),
    ],
    ids=["corrupt last", "corrupt best", "foreign"],
)
def test_resume_from_a_bad_checkpoint_changes_nothing(train, finished, tmp_path, name, content, message):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    path = run / "checkpoints" / f"{name}.ckpt"
    path.write_bytes(content) if content else torch.save({"state_dict": {}}, path)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "train.log"}
    answer = train(f"resume={run}")
    assert answer.code == 2 and message in answer.said and "Traceback" not in answer.err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "train.log"} == before


def test_a_run_that_another_command_is_at_is_left_alone(train, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.rglob("*") if p.is_file()}
    with alone(run):
        answers = [train(f"resume={run}"), train("data=digits", f"hydra.run.dir={run}")]
    for answer in answers:
        assert answer.code == 2 and f"Another command is at {run}" in answer.said
        assert answer.err.count("variata:") == 1 and "Traceback" not in answer.err and not answer.out
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.rglob("*") if p.is_file()} == before


def test_a_killed_process_holds_no_run_and_one_that_ends_soon_is_waited_for(tmp_path):
    code = "import sys, time; from pathlib import Path; from variata.run.lock import alone\n"
    code += "with alone(Path(sys.argv[1])): print(flush=True); time.sleep(float(sys.argv[2]))"

    def holder(seconds):
        words = [sys.executable, "-c", code, str(tmp_path), seconds]
        process = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE)
        process.stdout.readline()
        return process

    first = holder("60")
    with pytest.raises(Busy), alone(tmp_path):
        pass
    first.kill()
    first.communicate()
    second = holder("0.5")
    with alone(tmp_path, patience=30):
        assert second.wait() == 0


def test_a_directory_is_given_up_with_its_lock_last(tmp_path, monkeypatch):
    """Whoever comes while it is cleared away finds it locked, and whoever comes later has it to itself."""
    folder, unlink, met = tmp_path / "outputs" / "run", Path.unlink, []

    def come_meanwhile(path, **options):
        with suppress(Busy), alone(folder):
            met.append(path.name)
        unlink(path, **options)

    with pytest.raises(RuntimeError, match="cannot start"), alone(folder), clean_start(folder, folder.parent, new=True):
        (folder / "train.log").touch()
        (folder / "images").mkdir()
        monkeypatch.setattr(Path, "unlink", come_meanwhile)
        raise RuntimeError("it cannot start")
    assert not folder.exists() and not met


@pytest.mark.slow
def test_of_two_commands_with_one_directory_one_trains_and_one_is_refused(tmp_path):
    words = [*QUICK, "logger=none", "callbacks=[]", f"hydra.run.dir={tmp_path / 'run'}"]
    options = {
        "env": environment(),
        "cwd": tmp_path,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    both = [subprocess.Popen(train_command(tmp_path / "outputs", *words), **options) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    refused = said[[process.returncode for process in both].index(2)]
    assert "Another command is at" in " ".join(refused.split())
    assert results(tmp_path / "run")["train/steps"] == 63 and results(tmp_path / "run")["status"] == "finished"


def test_resume_changes_single_values_only(train, finished):
    for override, message in (("model=conv_vae", "cannot change a resumed run"), ("optimizer.lrr=1", "optimizer.lrr")):
        answer = train(f"resume={finished[0]}", override)
        assert answer.code == 2 and message in answer.said


def test_a_configuration_from_elsewhere_passes_the_same_gate(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    config = (run / "config.yaml").read_text().replace("variata.build.flat", "os.system")
    (run / "config.yaml").write_text(config)
    with pytest.raises(variata.errors.ConfigError, match="may not be built"):
        variata.load(run)
    assert read_config(finished[0])["model"]["_target_"] == "variata.build.flat"


def test_a_folder_with_something_in_it_is_no_new_run_directory(train, tmp_path):
    precious = tmp_path / "precious" / "notes.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    answer = train("data=digits", f"hydra.run.dir={precious.parent}", "model.latent=0")
    assert answer.code == 2 and "is not empty" in answer.said
    assert precious.read_text() == "mine"


def test_a_model_without_finite_figures_is_no_result(train):
    answer = train(
        *QUICK, "logger=none", "optimizer.lr=1e30", "scheduler=none", "optimizer=adam", "trainer.on_nan=skip"
    )
    assert answer.code == 1 and "figures are not finite" in answer.said
    assert results(answer.run)["status"] == "failed"


def test_nan_ends_with_exit_code_one_and_says_where(train):
    answer = train(*QUICK, "optimizer.lr=1e30", "scheduler=none", "optimizer=adam")
    assert answer.code == 1
    assert "The loss is not finite at update" in answer.said and "Traceback" not in answer.err
    assert results(answer.run)["status"] == "failed"
    assert torch.load(answer.run / "diverged.pt", weights_only=True)["batch"].shape == (64, 1, 28, 28)
    (path,) = (answer.run / "wandb").rglob("*.wandb")
    assert records(path)["exit_code"] == 1


def test_typing_errors_do_not_wait_for_torch(train):
    code = "import sys; from variata.commands.train import main; sys.argv[1:] = ['model=typo']; main(); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_help_and_configuration_are_shown(train):
    answer = train("--help")
    assert answer.code == 0 and "conv_vae, mlp_vae, resnet_vae" in answer.out and "resume=" in answer.out
    answer = train("--cfg", "job", "--resolve")
    assert answer.code == 0 and "variata.build.flat" in answer.out and "${" not in answer.out


def variata_command(*words):
    code = "import sys; from variata.commands.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment(), cwd=ROOT
    )


def test_schedules_are_drawn():
    drawn = variata_command("schedules", "beta=cyclical", "beta.value=2", "trainer.max_epochs=8")
    assert drawn.returncode == 0, drawn.stderr
    assert "beta, 8 epochs" in drawn.stdout and "learning rate, 8 epochs" in drawn.stdout
    top, bottom = drawn.stdout.splitlines()[2:4], drawn.stdout.splitlines()[11]
    assert top[0].split()[0] == "2" and top[0].count("█") + top[0].count("▄") >= 32  # four plateaus of half a cycle
    assert bottom.count("█") >= 60


@pytest.mark.slow
def test_a_run_ends_validated_whatever_the_interval(train, tmp_path):
    answer = train(*QUICK, "trainer.max_epochs=5", "trainer.check_val_every_n_epoch=3", "logger=none")
    assert answer.code == 0, answer.err
    rows = list(csv.DictReader((answer.run / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row["val/elbo"]] == [63, 105]
    answer = train(*QUICK, "trainer.limit_train_batches=6", "logger=none", outputs=tmp_path / "limited")
    assert results(answer.run)["train/steps"] == 3 * 6
    limits = ["trainer.max_steps=30", "trainer.limit_test_batches=0"]
    answer = train(*QUICK, *limits, "logger=none", outputs=tmp_path / "short")
    assert answer.code == 0, answer.err
    assert "30 updates" in answer.out
    assert results(answer.run)["train/steps"] == 30 and (answer.run / "checkpoints" / "best.ckpt").is_file()
    assert "test/nll" not in results(answer.run)
