"""The LightningModule: the step, the optimizer, logging; no mathematics of VAEs. Shapes: B images, [C, H, W] image."""

import importlib.util
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from variata.core import VAE, judging
from variata.data.module import ImageDataModule
from variata.errors import Diverged
from variata.evaluation.bound import Bound
from variata.evaluation.noise import stream
from variata.objectives import Objective, Terms
from variata.schedules import Progress, Schedule
from variata.training import checkpoints

EAGER_UPDATES = 100  # run before compiling: mistakes show at once, and the first figures do not wait for a compiler
LONG = 3000  # updates from which compile="auto" compiles: about where the minute it may take is won back
SKIPPED = 100  # updates in a row that on_nan="skip" leaves out before it gives up
DIMENSIONS = 256  # latent dimensions of a rung up to which the KL of each is logged


class Training(pl.LightningModule):
    """Trains a VAE on an objective; validates and tests it on the ELBO at beta = 1.

    The clock is `step`, the number of optimizer updates. A call of `training_step` takes as many updates as the
    batch it is given holds, because Lightning's part of a call costs as much as the update of a small model.

    Args:
        vae: The model.
        objective: Trace and beta to loss and terms.
        beta: Weight of the KL.
        optimizer: `parameters -> Optimizer`.
        scheduler: Factor of the learning rate.
        log_every: Updates between two records of training.
        gradient_clip_val: Bound on the gradient's norm.
        on_nan: "stop", or "skip" the update, when the loss is NaN or infinite.
        compile: Whether to compile the step; "auto" does for long training where a compiler is found.
        config: The resolved configuration, kept in checkpoints.
    """

    def __init__(
        self,
        vae: VAE,
        objective: Objective,
        beta: Schedule,
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
        self.gradient_clip_val, self.on_nan, self.config = gradient_clip_val, on_nan, config or {}
        self.compile_step = compile
        self.step, self.seconds = 0, 0.0
        self.skipped = 0  # in a row
        self._sums: list[Tensor] = []  # of the terms of updates since the last record, and their number
        self._recorded, self._waited = 0, 0.0  # the latter in seconds, before a resume
        self._since, self._begun = 0.0, 0.0
        self.progress = Progress(0, 1, 1)
        self.latest: dict[str, float] = {}  # what the progress bar shows
        self._compiled: Callable[[Tensor, Tensor], tuple[Tensor, Terms]] | None = None
        self._rng: dict[str, Tensor] | None = None

    @property
    def data(self) -> ImageDataModule:
        """What the trainer was given to train on."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    # --- one update -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """batch [updates * B, C, H, W]; an incomplete last update is left out."""
        data, losses = self.data, []
        for images in batch.split(data.batch_per_device):
            if len(images) < data.batch_per_device or self.step >= self.progress.total:
                break
            losses.append(self._update(data.prepare(images, "train")))
        self.seconds = time.perf_counter() - self._begun
        if self.step >= self.progress.total:
            self.trainer.should_stop, self.trainer.check_val_every_n_epoch = True, 1  # the end is always validated
        if not self._watched and losses:  # one look per call, because looking waits for the device
            self._require_finite(torch.stack(losses), {}, batch)

    def _update(self, x: Tensor) -> Tensor:
        self.progress = Progress(self.step, self.progress.total, self.progress.per_epoch)
        self._beta.fill_(self.beta(self.progress))
        optimizer = cast(LightningOptimizer, self.optimizers())
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.scheduler(self.progress)
        loss, terms = self._compute(x, self._beta)
        self.step += 1
        if self._watched and not self._require_finite(loss, terms, x):
            return terms["loss"]
        self.skipped = 0
        self.manual_backward(loss)
        if self.gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.vae.parameters(), self.gradient_clip_val)
        optimizer.step()
        optimizer.zero_grad()
        self._record(terms, optimizer.param_groups[0]["lr"])
        return terms["loss"]

    def _terms(self, x: Tensor, beta: Tensor) -> tuple[Tensor, Terms]:
        """The loss, and the terms to record: detached here, so that no gradient of theirs is compiled."""
        terms = self.objective(self.vae(x, self.objective.samples), beta)
        return terms["loss"], {name: value.detach() for name, value in terms.items()}

    def _compute(self, x: Tensor, beta: Tensor) -> tuple[Tensor, Terms]:
        if not self._compiles or self.step < EAGER_UPDATES:
            return self._terms(x, beta)
        if self._compiled is None:
            self._compiled = torch.compile(self._terms)
        return self._compiled(x, beta)

    @property
    def compiles_next(self) -> bool:
        """Whether the next call compiles the step, which takes long and hears no signal."""
        return self._compiles and self._compiled is None and self.step + self.data.updates_per_call > EAGER_UPDATES

    def _require_finite(self, loss: Tensor, terms: Terms, batch: Tensor) -> bool:
        finite = math.isfinite(loss.sum().item())
        if self.trainer.world_size > 1:  # all devices leave the update out, or none
            finite = self.trainer.strategy.reduce_boolean_decision(finite, all=True)
        if finite:
            return True
        self.skipped += 1
        if self.on_nan == "skip" and self.skipped < SKIPPED:
            return False
        values = {name: float(value) for name, value in terms.items()}
        name = f"diverged-{self.trainer.global_rank}.pt" if self.trainer.global_rank else "diverged.pt"
        path = Path(self.trainer.default_root_dir) / name
        checkpoints.write({"step": self.step, "terms": values, "batch": batch.detach().cpu()}, path)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items()) or "terms not kept"
        raise Diverged(
            f"The loss is not finite at update {self.step} ({shown}). The batch and the terms are in {path}. "
            "A smaller optimizer.lr, trainer.gradient_clip_val=1 or a longer warm-up (scheduler.warmup, beta.over) "
            "usually helps; trainer.on_nan=skip leaves such updates out."
        )

    def _record(self, terms: Terms, lr: float) -> None:
        values = list(terms.values())
        if self._recorded == 0:
            self._sums = [torch.zeros_like(value) for value in values]
        torch._foreach_add_(self._sums, values)  # stays on the device
        self._recorded += 1
        if self.step % self.log_every == 0:
            self._log(list(terms), lr)

    def _log(self, names: list[str], lr: float) -> None:
        means = torch.stack(self._sums) / self._recorded
        if self.trainer.world_size > 1:
            means = self.trainer.strategy.reduce(means, reduce_op="mean")
        now, images = time.perf_counter(), self._recorded * self.data.batch_size
        self.latest = dict(zip(names, means.tolist(), strict=True))
        self.latest |= {"beta": self._beta.item(), "lr": lr, "images_per_second": images / (now - self._since)}
        self._since, self._recorded = now, 0
        for logger in self.trainer.loggers:
            logger.log_metrics({f"train/{name}": value for name, value in self.latest.items()}, step=self.step)

    # --- fit --------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        trained = {name: p for name, p in self.vae.named_parameters() if p.requires_grad}
        # of maps from many units to many; not biases, means, and scales, which a normalisation calls weight too
        decayed = {name: p for name, p in trained.items() if name.endswith("weight") and p.ndim > 1}
        others = [p for name, p in trained.items() if name not in decayed]
        groups: list[dict[str, Any]] = [{"params": [*decayed.values()]}, {"params": others, "weight_decay": 0.0}]
        optimizer = self.make_optimizer([group for group in groups if group["params"]])
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return optimizer

    def setup(self, stage: str) -> None:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), judging(self.vae):
            x = torch.zeros(2, *self.data.shape, device=self.vae.device)
            trace = self.vae(x)
            for latent in trace.latents:
                _ = latent.kl, latent.kl_per_dim  # torch finds the formula once; its search cannot be compiled
        self.bound = Bound([latent.z.shape[1:] for latent in trace.latents])

    def on_train_start(self) -> None:
        data, trainer = self.data, self.trainer
        per_epoch = min(data.updates_per_epoch, int(trainer.num_training_batches) * data.updates_per_call)
        self.progress = Progress(self.step, total_updates(trainer, per_epoch), per_epoch)
        self._beta = torch.zeros((), device=self.device)
        self._watched = self.device.type == "cpu" or self.on_nan == "skip"
        self._compiles = self._worth_compiling(self.progress.total >= LONG)
        for group, options in zip(trainer.optimizers[0].param_groups, self._options, strict=True):
            group.update(options)  # a checkpoint brings its own; the configuration decides
        self._sums = [value.to(self.device) for value in self._sums]
        self._since = time.perf_counter() - self._waited
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

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """batch [B, C, H, W]; without images where only other devices have some left."""
        if len(batch):
            self._seed_batch(batch_idx)
            self.bound.update(self.vae(self.data.prepare(batch, "val"), self.bound.samples))

    def on_validation_epoch_end(self) -> None:
        self.record(self._judged("val"))
        set_rng_state(self._training_rng)
        self._since += time.perf_counter() - self._paused

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """batch [B, C, H, W]; without images where only other devices have some left."""
        if not len(batch):
            return
        self._seed_batch(batch_idx)
        x = self.data.prepare(batch, "test")
        with torch.autocast(self.device.type, enabled=False):  # figures to publish, whatever training computed with
            self.bound.update(self.vae(x, self.bound.samples))

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

    def record(self, values: Mapping[str, Tensor | float]) -> None:
        """Hand figures of this update to the loggers."""
        for logger in self.trainer.loggers:
            logger.log_metrics({name: float(value) for name, value in values.items()}, step=self.step)

    def _worth_compiling(self, long: bool) -> bool:
        return self.compile_step is True or (self.compile_step == "auto" and long and has_compiler(self.device))

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        epoch, update = divmod(self.step, self.progress.per_epoch)
        checkpoint["variata"] = {
            "config": self.config,
            "step": self.step,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "record": self._begun_record(),
            "epoch": epoch,
            "position": update * self.data.batch_size,
            "rng": self._training_rng if self.trainer.validating else rng_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state, data = checkpoint["variata"], self.data
        self.step, self.skipped, self.seconds = state["step"], state["skipped"], state["seconds"]
        data.epoch, data.position = state["epoch"], state["position"]
        record = state.get("record", {"sums": [], "updates": 0, "seconds": 0.0})  # older checkpoints have none
        self._sums, self._recorded, self._waited = record["sums"], record["updates"], record["seconds"]
        self._rng = state["rng"]

    def _begun_record(self) -> dict[str, Any]:
        """What was summed up since the last record, on average over devices: they all go on from one checkpoint."""
        sums = self._sums if self._recorded else []
        if sums and self.trainer.world_size > 1:
            sums = list(self.trainer.strategy.reduce(torch.stack(sums), reduce_op="mean"))
        sums = [value.cpu() for value in sums]
        return {"sums": sums, "updates": self._recorded, "seconds": time.perf_counter() - self._since}


def total_updates(trainer: pl.Trainer, per_epoch: int) -> int:
    """Updates after which training ends: max_epochs or max_steps, whichever comes first."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    limits = [] if epochs is None or epochs == -1 else [epochs * per_epoch]
    return min(limits + ([] if steps is None or steps == -1 else [steps]))


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can work here: it calls a C++ compiler for a CPU and Triton for a GPU."""
    if device.type == "cpu":
        return shutil.which(os.environ.get("CXX", "g++")) is not None
    return importlib.util.find_spec("triton") is not None


def seed(value: int, number: int) -> None:
    """Seed torch's generators for one of many streams of noise that belong to a seed."""
    torch.manual_seed(stream(value, number))


def rng_state() -> dict[str, Tensor]:
    """The states of torch's generators."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_rng_state(state: dict[str, Tensor]) -> None:
    """Back to where `rng_state` found torch's generators."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
