"""The LightningModule: the step, the optimizer, logging; no mathematics of VAEs. Shapes: B images, [C, H, W] image."""

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from variata.core import VAE, Batch, Population, Terms, judging
from variata.data.module import ImageDataModule
from variata.devices import mean_over_devices
from variata.evaluation.bound import Bound
from variata.objectives import Objective
from variata.schedules import Beta, Progress, Schedule
from variata.training.clock import place, rng_state, seed, set_rng_state, total_updates
from variata.training.record import Record
from variata.training.watch import Compiled, Finite

DIMENSIONS = 256  # latent dimensions of a rung up to which the KL of each is logged


class Training(pl.LightningModule):
    """Trains a VAE on an objective; validates and tests it on the ELBO at beta = 1.

    The clock is `step`, the number of optimizer updates. A call of `training_step` takes as many updates as the
    batch it is given holds, because Lightning's part of a call costs as much as the update of a small model.

    Args:
        vae: The model.
        objective: Trace and beta to loss and terms; parameters of its own are trained too.
        beta: Weight of the KL.
        optimizer: `parameters -> Optimizer`.
        scheduler: Factor of the learning rate of each group of parameters.
        log_every: Updates between two records of training.
        gradient_clip_val: Bound on the norm of the model's gradient, and on that of the objective's own parameters.
        on_nan: "stop", or "skip" the update, when the loss is NaN or infinite.
        compile: Whether to compile the step; "auto" does for long training where a compiler is found.
        config: The resolved configuration, kept in checkpoints.
    """

    def __init__(
        self,
        vae: VAE,
        objective: Objective,
        beta: Beta,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        log_every: int = 50,
        gradient_clip_val: float | None = None,
        on_nan: str = "stop",
        compile: bool | str = "auto",
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.vae, self.objective, self.beta, self.scheduler = vae, objective, beta, scheduler
        self.make_optimizer, self.log_every = optimizer, log_every
        self.gradient_clip_val, self.config = gradient_clip_val, config or {}
        self.step, self.seconds = 0, 0.0
        self.progress = Progress(0, 1, 1)
        self.finite, self.record, self.compute = Finite(on_nan), Record(), Compiled(self._terms, compile)
        self.latest: dict[str, float] = {}  # what the progress bar shows
        self._rng: dict[str, Tensor] | None = None

    @property
    def data(self) -> ImageDataModule:
        """What the trainer was given to train on."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def compiles_next(self) -> bool:
        """Whether the next call compiles the step, which takes long and hears no signal."""
        return self.compute.within(self.step + self.data.updates_per_call)

    def meet(self, population: Population) -> None:
        """Tell the model, the objective and beta of the training set."""
        for part in (self.vae, self.objective, self.beta):
            part.meet(population)

    # --- one update -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Images of one or more updates; an incomplete last update is left out."""
        data, losses = self.data, []
        for part in batch.split(data.batch_per_device):
            if len(part) < data.batch_per_device or self.step >= self.progress.total:
                break
            losses.append(self._update(data.prepared(part, "train")))
        self.seconds = time.perf_counter() - self._begun
        if self.step >= self.progress.total:
            self.trainer.should_stop, self.trainer.check_val_every_n_epoch = True, 1  # the end is always validated
        if not self._watched and losses:  # one look per call, because looking waits for the device
            self.finite.passes(self.trainer, self.step, torch.stack(losses), {}, batch)

    def _update(self, batch: Batch) -> Tensor:
        self.progress = Progress(self.step, self.progress.total, self.progress.per_epoch)
        beta, factor = self.beta(self.progress).to(self.device), self.scheduler.at(self.progress)
        optimizer = cast(LightningOptimizer, self.optimizers())
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        loss, terms = self.compute(self.step, batch, beta)
        self.step += 1
        if self._watched and not self.finite.passes(self.trainer, self.step, loss, terms, batch):
            return terms["loss"]
        self.manual_backward(loss)
        if self.gradient_clip_val is not None:
            for part in (self.vae, self.objective):
                nn.utils.clip_grad_norm_(part.parameters(), self.gradient_clip_val)
        optimizer.step()
        optimizer.zero_grad()
        self.record.add(terms)
        if self.step % self.log_every == 0:
            self._log(list(terms), beta, optimizer.param_groups[0]["lr"])
        if not isinstance(self.beta, Schedule):  # which would not listen
            means = mean_over_devices(torch.stack([*terms.values()]))
            self.beta.update(dict(zip(terms, means, strict=True)))
        return terms["loss"]

    def _terms(self, batch: Batch, beta: Tensor) -> tuple[Tensor, Terms]:
        """The loss, and the terms to record: detached here, so that no gradient of theirs is compiled."""
        terms = self.objective(self.vae(batch, self.objective.samples), beta)
        return terms["loss"], {name: value.detach() for name, value in terms.items()}

    def _log(self, names: list[str], beta: Tensor, lr: float) -> None:
        means, rate = self.record.take(self.trainer.strategy)
        self.latest = dict(zip(names, means, strict=True))
        self.latest |= {"beta": beta.mean().item(), "lr": lr, "images_per_second": rate * self.data.batch_size}
        if beta.ndim:
            self.latest |= {f"beta_rung_{i}": weight.item() for i, weight in enumerate(beta)}
        for logger in self.trainer.loggers:
            logger.log_metrics({f"train/{name}": value for name, value in self.latest.items()}, step=self.step)

    # --- fit --------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        names = {p: name for name, p in self.named_parameters()}
        groups = [{"params": [*self.vae.parameters()]}, *self.objective.parameter_groups()]
        optimizer = self.make_optimizer([half for group in groups for half in by_decay(group, names)])
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return optimizer

    def setup(self, stage: str) -> None:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), judging(self.vae):
            trace = self.vae(self.data.blank(self.vae.device, 2))
            for latent in trace.latents:
                _ = latent.kl, latent.kl_per_dim  # torch finds the formula once; its search cannot be compiled
        self.bound = Bound([latent.z.shape[1:] for latent in trace.latents])

    def on_train_start(self) -> None:
        data, trainer = self.data, self.trainer
        per_epoch = min(data.updates_per_epoch, int(trainer.num_training_batches) * data.updates_per_call)
        self.progress = Progress(self.step, total_updates(trainer, per_epoch), per_epoch)
        self._watched = self.finite.each(self.device)
        self.compute.decide(self.progress.total, self.device)
        for group, options in zip(trainer.optimizers[0].param_groups, self._options, strict=True):
            group.update(options)  # a checkpoint brings its own; the configuration decides
        self.record.start(self.device)
        self._begun = time.perf_counter() - self.seconds
        if self._rng is not None:
            set_rng_state(self._rng)
            self._rng = None
        if trainer.global_rank > 0:  # devices share weights, not noise; a checkpoint holds the first one's
            seed(self.data.seed, trainer.global_rank + trainer.world_size * self.step)

    def on_train_end(self) -> None:
        self.seconds = time.perf_counter() - self._begun

    # --- validation and test ----------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._paused, self._training_rng = time.perf_counter(), rng_state()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """A batch is without images where only other devices have some left."""
        if len(batch):
            self._seed_batch(batch_idx)
            self.bound.update(self.vae(self.data.prepared(batch, "val"), self.bound.samples))

    def on_validation_epoch_end(self) -> None:
        self.log_figures(self._judged("val"))
        set_rng_state(self._training_rng)
        self.record.since += time.perf_counter() - self._paused

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """A batch is without images where only other devices have some left."""
        if not len(batch):
            return
        self._seed_batch(batch_idx)
        batch = self.data.prepared(batch, "test")
        with torch.autocast(self.device.type, enabled=False):  # figures to publish, whatever training computed with
            self.bound.update(self.vae(batch, self.bound.samples))

    def on_test_epoch_end(self) -> None:
        self._judged("test")  # recorded with what evaluations find of the same images

    def _seed_batch(self, batch_idx: int) -> None:
        # the same noise each time, whichever device draws it: differences are the model's
        seed(self.data.eval_seed, 1 + batch_idx * self.trainer.world_size + self.trainer.global_rank)

    def _judged(self, stage: str) -> Terms:
        values = {f"{stage}/{name}": value for name, value in self.bound.compute().items()}
        with self.bound.sync_context():  # over all devices, as compute() is
            if stage == "test":
                values["test/images"] = self.bound.images.clone()
            for rung, event in enumerate(self.bound.events):
                if event.numel() <= DIMENSIONS and (kls := self.bound.kl(rung).flatten()).any():
                    values |= {f"{stage}/kl_dim/{rung}.{i}": kl for i, kl in enumerate(kls)}
        self.bound.reset()
        self.log_dict(values, logger=False)  # for callbacks that monitor; loggers get them by the update, not the call
        return values

    def log_figures(self, values: Mapping[str, Tensor | float]) -> None:
        """Hand figures of this update to the loggers."""
        for logger in self.trainer.loggers:
            logger.log_metrics({name: float(value) for name, value in values.items()}, step=self.step)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["variata"] = {
            "config": self.config,
            "step": self.step,
            "skipped": self.finite.skipped,
            "seconds": self.seconds,
            "record": self.record.state(self.trainer.strategy),
            **place(self.step, self.progress.per_epoch, self.data.batch_size),
            "rng": self._training_rng if self.trainer.validating else rng_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["variata"]
        self.step, self.finite.skipped, self.seconds = state["step"], state["skipped"], state["seconds"]
        self.data.epoch, self.data.position = state["epoch"], state["position"]
        self.record.load(state.get("record", {"sums": [], "updates": 0, "seconds": 0.0}))  # older ones have none
        self._rng = state["rng"]


def by_decay(group: dict[str, Any], names: dict[nn.Parameter, str]) -> list[dict[str, Any]]:
    """A group of parameters as two: maps from many units to many, which decay, and all else, which does not.

    All else is biases, means, and scales, which a normalisation calls weight too.
    """
    trained = [p for p in group["params"] if p.requires_grad]
    decays = [names[p].endswith("weight") and p.ndim > 1 for p in trained]
    maps, others = ([p for p, decay in zip(trained, decays, strict=True) if decay is half] for half in (True, False))
    halves = [{**group, "params": maps}, {**group, "params": others, "weight_decay": 0.0}]
    return [half for half in halves if half["params"]]
