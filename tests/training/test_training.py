"""The loop: its clock, its order, its noise. Runs of a few updates on digits, without the command line."""

import math
import shutil
import signal
from datetime import timedelta
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, Timer

from models import resnet, small
from variata.build import flat
from variata.core import Encoder
from variata.data.digits import digits
from variata.errors import Diverged, Interrupted
from variata.likelihoods import Bernoulli
from variata.networks.mlp import MLPDecoder
from variata.objectives import ELBO, IWAE
from variata.posteriors import Gaussian
from variata.priors import StandardNormal
from variata.run.csv import CSV
from variata.run.report import latent_shapes
from variata.schedules import Constant, Linear
from variata.training.callbacks import EMA, Pictures
from variata.training.checkpoints import Files
from variata.training.module import Training
from variata.training.saving import Best, Last


class Records(pl.loggers.Logger):
    """Keeps what is logged."""

    name, version = "records", ""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def log_hyperparams(self, *args):
        pass


def run(
    tmp_path,
    updates_per_call=1,
    epochs=2,
    steps=-1,
    callbacks=(),
    logger=False,
    seed=5,
    validate=True,
    lr=1e-3,
    ckpt=None,
    vae=None,
    data=None,
    **options,
):
    pl.seed_everything(seed, verbose=False)
    data = data or digits(batch_size=100, eval_batch_size=80)
    data.seed, data.updates_per_call = seed, updates_per_call
    vae = vae or small((1, 28, 28), latent=4, widths=(16,))
    parts = {"objective": ELBO(), "beta": Constant(), "scheduler": Constant(), "compile": False}
    training = Training(vae, **{**parts, "optimizer": partial(torch.optim.Adam, lr=lr), **options})
    trainer = pl.Trainer(
        max_epochs=epochs,
        max_steps=steps,
        accelerator="cpu",
        plugins=Files(),
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_checkpointing=any(isinstance(callback, Best) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if validate else 0,
        use_distributed_sampler=False,
    )
    trainer.fit(training, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return training


def weights(training):
    return torch.cat([p.detach().flatten() for p in training.vae.parameters()])


def test_several_updates_per_call_are_the_same_updates(tmp_path):
    one, many = run(tmp_path), run(tmp_path, updates_per_call=5)
    assert one.step == many.step == 26  # 2 epochs of 13 whole batches of 100 in 1,397 images
    assert one.trainer.global_step == many.trainer.global_step == 26
    assert torch.equal(weights(one), weights(many))


def test_the_seed_fixes_everything(tmp_path):
    assert torch.equal(weights(run(tmp_path)), weights(run(tmp_path)))
    assert not torch.equal(weights(run(tmp_path)), weights(run(tmp_path, seed=6)))


def test_validation_takes_no_noise_from_training(tmp_path):
    assert torch.equal(weights(run(tmp_path, validate=False)), weights(run(tmp_path)))


def test_updates_are_those_of_a_loop_written_by_hand(tmp_path):
    trained = run(tmp_path, epochs=1, validate=False)
    pl.seed_everything(5, verbose=False)
    data = digits(batch_size=100)
    vae = small((1, 28, 28), latent=4, widths=(16,))
    data.setup()
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    order = torch.randperm(1397, generator=torch.Generator().manual_seed(5 * 1_000_003))
    for indices in order[:1300].split(100):
        trace = vae(data.draw(data.images["train"][indices], None))
        loss = (trace.kl.sum(0) - trace.log_px).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(weights(trained), torch.cat([p.flatten() for p in vae.parameters()]), atol=1e-6)


def test_training_records_means_and_schedules(tmp_path):
    records = Records()
    run(tmp_path, 5, logger=records, beta=Linear(over=1.0), log_every=10)
    train = {step: row for step, row in records.rows if "train/loss" in row}
    assert list(train) == [10, 20]
    assert train[10]["train/beta"] == pytest.approx(9 / 26)
    assert train[20]["train/elbo"] == pytest.approx(-train[20]["train/rate"] - train[20]["train/distortion"], rel=1e-5)
    val = [row for _, row in records.rows if "val/elbo" in row]
    assert len(val) == 2 and len([name for name in val[0] if "/kl_dim/0." in name]) == 4


def test_validation_judges_at_beta_one_whatever_is_trained(tmp_path):
    def val(**options):
        records = Records()
        run(tmp_path, epochs=1, logger=records, lr=0.0, **options)
        return [row["val/elbo"] for _, row in records.rows if "val/elbo" in row]

    assert val() == val(beta=Constant(7.0)) == val(objective=IWAE(samples=3))


def test_callbacks_of_lightnings_that_may_be_chosen_end_training_when_they_should(tmp_path):
    never_better = EarlyStopping("val/elbo", mode="max", patience=2, min_delta=1e9)  # 13 updates an epoch
    assert run(tmp_path, updates_per_call=4, epochs=9, callbacks=[never_better]).step == 3 * 13
    out_of_time = Timer(timedelta(milliseconds=1), interval="epoch", verbose=False)
    assert run(tmp_path, updates_per_call=4, epochs=9, callbacks=[out_of_time]).step == 13


@pytest.mark.parametrize("ema", [False, True], ids=["plain", "ema"])
def test_going_on_after_whole_epochs_is_uninterrupted(tmp_path, ema):
    def callbacks():
        return [Last(tmp_path), *([EMA(decay=0.9)] if ema else [])]

    whole = run(tmp_path, updates_per_call=4, epochs=4, callbacks=callbacks())
    run(tmp_path, updates_per_call=4, epochs=2, callbacks=callbacks())
    resumed = run(tmp_path, updates_per_call=4, epochs=4, callbacks=callbacks(), ckpt=tmp_path / "last.ckpt")
    assert resumed.step == whole.step == 52
    assert torch.equal(weights(whole), weights(resumed))


class Kept(Last):
    """Every checkpoint that a kill may leave behind, by its update."""

    def __init__(self, folder, every=0.0):
        super().__init__(folder, every)
        self.paths = {}

    def write(self, trainer):
        super().write(trainer)
        step = trainer.lightning_module.step
        self.paths[step] = self.path.with_name(f"{step}.ckpt")
        self.path.rename(self.paths[step])


def rows(log):
    """What a CSV file holds, but for how long it took."""
    return [{name: value for name, value in row.items() if not name.endswith("_per_second")} for row in log.rows()]


@pytest.mark.parametrize("updates_per_call", [1, 8])
def test_metrics_of_a_resumed_run_are_those_of_an_uninterrupted_one(tmp_path, updates_per_call):
    options = {"updates_per_call": updates_per_call, "epochs": 3, "log_every": 7, "beta": Linear(over=1.0)}
    kept, whole = Kept(tmp_path), CSV(tmp_path / "whole.csv")
    run(tmp_path, callbacks=[kept], logger=whole, **options)
    assert [row["step"] for row in rows(whole)] == ["7", "13", "14", "21", "26", "28", "35", "39"]
    for step in [
        list(kept.paths)[i] for i in (0, 1, 2, -2)
    ]:  # in the middle of an epoch and of a record, and at the ends
        path = Path(shutil.copy(whole.path, tmp_path / "resumed.csv"))
        run(tmp_path, logger=CSV(path, until=step), ckpt=kept.paths[step], **options)
        assert rows(CSV(path)) == rows(whole), step


@pytest.mark.parametrize(("updates_per_call", "step"), [(1, 6), (4, 4)])
def test_training_is_saved_before_it_compiles(tmp_path, monkeypatch, updates_per_call, step):
    monkeypatch.setattr("variata.training.watch.EAGER_UPDATES", 6)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    kept = Kept(tmp_path, every=math.inf)
    run(tmp_path, updates_per_call, epochs=1, callbacks=[kept], compile=True)
    assert list(kept.paths) == [0, step, 13]


class Asks(pl.Callback):
    """Asks to stop in the midst of the second validation."""

    def __init__(self, last, batch):
        self.last, self.batch, self.validations = last, batch, 0

    def on_validation_start(self, *args):
        self.validations += 1

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, *args):
        if (self.validations, batch_idx) == (2, self.batch):
            self.last.signum = signal.SIGTERM


@pytest.mark.parametrize(("batch", "ema"), [(0, False), (2, True)])
def test_a_validation_that_was_interrupted_is_done_again_and_nothing_else(tmp_path, batch, ema):
    def callbacks():
        return [*([EMA(decay=0.9)] if ema else []), Best(tmp_path)]

    options = {"updates_per_call": 4, "epochs": 4, "log_every": 7}
    whole, log, last = CSV(tmp_path / "whole.csv"), CSV(tmp_path / "resumed.csv"), Last(tmp_path)
    trained = run(tmp_path, callbacks=callbacks(), logger=whole, **options)
    with pytest.raises(Interrupted):
        run(tmp_path, callbacks=[Asks(last, batch), *callbacks(), last], logger=log, **options)
    assert [row["step"] for row in rows(log) if row["val/elbo"]] == ["13"]
    kept, log = Kept(tmp_path), CSV(log.path, until=26)
    resumed = run(tmp_path, callbacks=[*callbacks(), kept], logger=log, ckpt=tmp_path / "last.ckpt", **options)
    assert rows(log) == rows(whole) and torch.equal(weights(resumed), weights(trained))
    log = CSV(log.path, until=26)  # killed after that validation, and resumed once more
    run(tmp_path, callbacks=callbacks(), logger=log, ckpt=kept.paths[26], **options)
    assert rows(log) == rows(whole)


class Trail(pl.Callback):
    """The weights after each update of the optimizer."""

    def __init__(self):
        self.weights = []

    def on_train_start(self, trainer, pl_module):
        (optimizer,) = trainer.optimizers
        optimizer.register_step_post_hook(lambda *_: self.weights.append(weights(pl_module)))


@pytest.mark.parametrize("updates_per_call", [1, 5])
def test_the_moving_average_is_of_every_update_however_many_a_call_takes(tmp_path, updates_per_call):
    trail, ema = Trail(), EMA(decay=0.9)
    trained = run(tmp_path, updates_per_call, epochs=2, callbacks=[trail, ema])
    assert len(trail.weights) == 26
    average = trail.weights[0]
    for w in trail.weights[1:]:
        average = 0.9 * average + 0.1 * w
    assert torch.allclose(weights(trained), average, atol=1e-6)


def test_pictures_show_the_moving_average(tmp_path):
    class Seen(Pictures):
        def draw(self, trainer, training):
            self.weights = weights(training)

    seen = Seen(every=1)
    trained = run(tmp_path, epochs=1, callbacks=[seen, EMA(decay=0.9)])
    assert torch.equal(seen.weights, weights(trained))  # training ends with the average


def test_the_best_score_survives_a_move_of_the_run(tmp_path):
    best = Best(tmp_path / "here")
    run(tmp_path, epochs=1, callbacks=[best])
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = Best(tmp_path / "there")
    moved.load_state_dict(best.state_dict())
    assert moved.best_model_score == best.best_model_score is not None


class Poisoned(ELBO):
    """NaN at one update."""

    def __init__(self, at):
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, trace, beta):
        terms = super().forward(trace, beta)
        self.calls += 1
        return {**terms, "loss": terms["loss"] * float("nan")} if self.calls == self.at else terms


class AllNaN(ELBO):
    """Never finite."""

    def forward(self, trace, beta):
        terms = super().forward(trace, beta)
        return {**terms, "loss": terms["loss"] * float("nan")}


def test_nan_stops_with_the_update_the_terms_and_the_batch(tmp_path):
    with pytest.raises(Diverged, match="not finite at update 7"):
        run(tmp_path, objective=Poisoned(at=7))
    saved = torch.load(tmp_path / "diverged.pt", weights_only=True)
    assert saved["step"] == 7 and saved["batch"].shape == (100, 1, 28, 28)
    assert saved["terms"]["loss"] != saved["terms"]["loss"]


def test_nan_can_be_skipped(tmp_path):
    training = run(tmp_path, objective=Poisoned(at=7), on_nan="skip")
    assert training.step == 26 and training.trainer.global_step == 25 and weights(training).isfinite().all()


def test_skipping_gives_up_when_nothing_else_happens(tmp_path, monkeypatch):
    monkeypatch.setattr("variata.training.watch.SKIPPED", 5)
    with pytest.raises(Diverged, match="update 5"):
        run(tmp_path, objective=AllNaN(), on_nan="skip")


def test_gradient_norm_is_bounded(tmp_path):
    start, lr = weights(run(tmp_path, epochs=1, lr=0.0)), 1.0
    sgd = {"optimizer": partial(torch.optim.SGD, lr=lr)}
    moved = (weights(run(tmp_path, epochs=1, gradient_clip_val=1e-3, **sgd)) - start).norm()
    assert 0 < moved <= 13 * 1e-3 * lr * 1.001  # 13 updates


def test_only_weights_of_maps_decay_not_biases_nor_scales(tmp_path):
    training = run(
        tmp_path,
        epochs=1,
        optimizer=partial(torch.optim.SGD, lr=1e-5, weight_decay=0.5),
        beta=Constant(0.0),
        vae=resnet((1, 28, 28)),
    )
    scales = {p for part in training.vae.modules() if isinstance(part, torch.nn.GroupNorm) for p in part.parameters()}
    assert scales
    decay = {id(p): group["weight_decay"] for group in training.optimizers().param_groups for p in group["params"]}
    for name, p in training.vae.named_parameters():
        if p.requires_grad:
            assert decay[id(p)] == (0.5 if name.endswith("weight") and p not in scales else 0.0), name


class Normalised(Encoder):
    """An encoder whose weights are not all there is to it: BatchNorm keeps running statistics."""

    def __init__(self, shape):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 16), torch.nn.BatchNorm1d(16))
        self.features = [(16,)]

    def forward(self, batch):
        return [self.net(batch.x)]


def normalised():
    decoder = partial(MLPDecoder, widths=(16,))
    return flat((1, 28, 28), 4, Normalised, decoder, Gaussian, StandardNormal, Bernoulli)


def statistics(training):
    norm = training.vae.encoder.net[2]
    return torch.cat([norm.running_mean, norm.running_var, norm.num_batches_tracked[None]])


def test_only_updates_of_training_move_running_statistics(tmp_path):
    training = run(tmp_path, epochs=1, vae=normalised())
    assert training.vae.encoder.net[2].num_batches_tracked == 13
    before = statistics(training)
    training.trainer.test(training, datamodule=training.data, verbose=False)
    latent_shapes(training.vae, training.data)
    assert torch.equal(statistics(training), before)
    assert training.vae.training


def test_a_moving_average_takes_running_statistics_with_it(tmp_path):
    training = run(tmp_path, epochs=1, vae=normalised(), callbacks=[EMA(decay=0.9)])
    assert training.vae.encoder.net[2].num_batches_tracked == 13 and statistics(training).isfinite().all()


@pytest.mark.slow
def test_compiled_training_is_eager_training_to_rounding(tmp_path, monkeypatch):
    monkeypatch.setattr("variata.training.watch.EAGER_UPDATES", 3)
    monkeypatch.setattr(torch._inductor.config, "fallback_random", True)
    eager, compiled = run(tmp_path, epochs=1), run(tmp_path, epochs=1, compile=True)
    assert torch.allclose(weights(eager), weights(compiled), atol=2e-4)
    assert not any("_orig_mod" in name for name in compiled.state_dict())
