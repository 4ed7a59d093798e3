"""One run, from a composed configuration to results.json."""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig

from variata import checkpoints, durable, loading, runs
from variata.callbacks import EMA, Best, EarlyStops, Last, Pictures, Progress
from variata.cli.crew import crew, torchrun
from variata.cli.job import Job, composed_job
from variata.cli.quality import judge, require_pictures
from variata.cli.report import plan, results_table
from variata.cli.settings import OURS, settled
from variata.cli.signals import signals_to
from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.decoders import Decoder
from variata.errors import ConfigError, DiskFull, Diverged, Interrupted, UserError
from variata.likelihoods import Likelihood
from variata.loggers import CSV, IDENTITY, finish, remembered
from variata.runs import Config
from variata.sweeps.jobs import cores
from variata.targets import build, constructing
from variata.training import Training

if TYPE_CHECKING:
    from variata.sweeps.pruning import Pruning

log = logging.getLogger("variata")

REMEDY = {"binary": "bernoulli", "8-bit": "gaussian or likelihood=discretized_logistic", "real": "gaussian"}


def train(composed: DictConfig) -> None:
    """Train, test and report, on as many devices as asked for.

    Raises:
        UserError: Something the user can mend. What is found before training begins leaves nothing behind.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
    """
    quiet()
    start(composed_job(settled(composed)))


def start(job: Job) -> None:
    """Do the job in this process, in those a launcher started with it, or in one for each device."""
    others, options = crew(), job.config["trainer"]
    if others:
        others.require(options["num_nodes"], options["devices"])
        others.hand_out(job)
        with others.agreeing():
            work(job)
    elif (devices := processes(options)) > 1:
        from variata.cli.agent import spread

        with full_disk_told(job):
            spread(job, devices)
    else:
        work(job)


def processes(options: dict[str, Any]) -> int:
    """How many devices trainer= means here: Lightning knows how to read `auto`, -1 and lists."""
    if options["num_nodes"] > 1:
        raise ConfigError(
            f"trainer.num_nodes={options['num_nodes']} needs a launcher that starts the processes of every machine. "
            f"Run on each: {torchrun(options['num_nodes'], options['devices'])} --rdzv-backend=c10d "
            "--rdzv-endpoint=<first machine>:29500 train.py ..., or use srun."
        )
    if options["devices"] in (1, "1"):
        return 1
    chosen = {name: options[name] for name in ("_target_", "accelerator", "devices")}
    trainer = build(chosen, "trainer", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    number, mine = trainer.num_devices, len(cores())
    if isinstance(trainer.accelerator, CPUAccelerator) and number > mine and not options.get("crowded"):
        raise ConfigError(
            f"trainer.devices={options['devices']} on a CPU is {number} processes, more than the cores there are, "
            f"{mine}. Use trainer.devices={mine} or fewer, or insist with trainer.crowded=true."
        )
    return number


def work(job: Job) -> None:
    """This process's part of a run."""
    with full_disk_told(job):
        run = Run(job)
        with run.reported(), full_disk_told(job):
            run.fit()
            run.test()


@contextmanager
def full_disk_told(job: Job) -> Iterator[None]:
    """Say of a full disk which it is and how to go on, whichever library met it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or (found := durable.full(error)) is None:
            raise
        go_on = f"go on with: python train.py resume={job.last}" if job.last else "start again"
        raise DiskFull(f"{durable.full_disk(found, job.folder)} Then {go_on}") from error


class Run:
    """One run: its parts built and its data read, ready to start."""

    def __init__(self, job: Job) -> None:
        self.job, config, folder = job, job.config, job.folder
        self.config, self.folder = config, folder
        self.best = folder / "checkpoints" / "best.ckpt"
        self.resume: Path | None = None
        earlier: dict[str, Any] = {}
        if config["resume"]:  # a damaged checkpoint is told before anything is changed
            self.resume, earlier = checkpoints.newest(self.best.parent)
            require_ahead(config["trainer"], earlier)
            if config["logger"] and (folder / IDENTITY).is_file():
                remembered(folder / IDENTITY)
        torch.compiler.reset()  # jobs of a multirun may share the process
        pl.seed_everything(config["seed"], verbose=False)
        self.data = loading.data_of(config)
        self.training, self.vae = assemble(config, self.data)
        ours = (*OURS["trainer"], "gradient_clip_val")
        options = {name: value for name, value in config["trainer"].items() if name not in ours}
        self.last = Last(folder / "checkpoints", config["checkpoint_every"])
        self.patient = False  # whether a signal waits for a place where all devices can stop
        chosen: list[Callback] = [
            build(node, f"callbacks.{name}") for name, node in config["callbacks"].items() if node
        ]
        self.pruning = pruning(job.trial)
        chosen += [self.pruning] if self.pruning else []
        chosen.sort(key=lambda callback: isinstance(callback, EMA))  # pictures before it puts the raw weights back
        self.pictures = [callback for callback in chosen if isinstance(callback, Pictures)]
        self.trainer: pl.Trainer = build(
            options,
            "trainer",
            logger=False,
            callbacks=[Progress(), *chosen, EarlyStops(), self.last, Best(folder / "checkpoints")],
            plugins=checkpoints.Files(),
            default_root_dir=folder,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        # Lightning's handler of SIGTERM talks to the other devices from wherever it interrupts this one
        self.trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        self.data.trainer = self.trainer
        self.data.seed = config["seed"]
        if size := config["data"].get("batch_size_per_device"):
            self.data.batch_size = size * self.trainer.world_size
        self.data.setup()
        for pictures in self.pictures:
            pictures.require(self.data)
        per_call = config["updates_per_call"] if self.trainer.world_size == 1 else 1
        self.data.updates_per_call = min(per_call, self.data.updates_per_epoch)
        require_batches(config["trainer"], self.data)
        require_validation(config["trainer"], chosen)
        share_limits(self.trainer, self.data)
        with torch.no_grad():
            cast(Decoder, self.vae.decoder).bias.copy_(cast(Likelihood, self.vae.likelihood).initial(self.data.mean()))
        self.results: dict[str, Any] = {**runs.provenance(config, self.data.protocol), "status": "failed"}
        self._start(earlier)

    def _start(self, earlier: dict[str, Any]) -> None:
        if not self.trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        durable.clean(self.folder, self.folder / "checkpoints", self.folder / "images")
        self.csv = CSV(self.folder / "metrics.csv", until=earlier.get("step", 0) if self.config["resume"] else None)
        self.trainer.loggers = [self.csv, *self._logger()]
        runs.write_config(self.folder, {**self.config, "resume": None}, self.job.overrides)
        (self.folder / "results.json").unlink(missing_ok=True)  # of training that ended earlier than this will
        plan(self.folder, self.data, self.vae, self.trainer, self.config)

    def _logger(self) -> list[Logger]:
        if not self.config["logger"]:
            return []
        return [build(self.config["logger"], "logger")(self.folder, self.config, self.job)]

    def fit(self) -> None:
        """Train to the end, from the last checkpoint where there is one, and take the best weights."""
        if others := crew():
            others.gather()
        with self._stopping_together():
            self.trainer.fit(self.training, datamodule=self.data, ckpt_path=self.resume, weights_only=True)
        if self.best.is_file():  # there is none where validation was turned off
            self.vae.load_state_dict(checkpoints.weights(checkpoints.read(self.best)))

    def test(self) -> None:
        """Judge the best weights on the whole test set; with trainer.limit_test_batches=0, or pruned, on nothing."""
        if self.pruning and self.pruning.pruned:
            self.results["status"] = "pruned"
            return
        self.training.eval()  # the pictures too are of the weights as they are saved
        if self.config["trainer"]["limit_test_batches"]:
            self._judge()
        if self.config["evaluate"].get("quality") and self.trainer.is_global_zero:
            vae = self.vae.to(self.trainer.strategy.root_device)
            self.results |= judge(vae, self.data, self.config)
        for pictures in self.pictures:
            pictures.draw(self.trainer, self.training)
        self.results["status"] = "finished"

    def _judge(self) -> None:
        with self._stopping_together():
            self.trainer.test(self.training, datamodule=self.data, verbose=False)
        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        if not all(map(math.isfinite, metrics.values())):
            raise Diverged(f"The model's figures are not finite: {metrics}. A smaller optimizer.lr usually helps.")
        self.results |= runs.test_results(
            metrics, self.config["evaluate"]["samples"], math.prod(self.data.shape), self.data.kind
        )

    @contextmanager
    def reported(self) -> Iterator[None]:
        """However the run ends: results.json is written, W&B is closed with the right status, signals are restored."""
        log.info("update %d, overrides %s", self.training.step, runs.public_words(self.job.overrides))
        with signals_to(self._hear):
            try:
                yield
            except BaseException as error:
                if signum := self._signal_behind(error):
                    self.results["status"] = "interrupted"
                    raise Interrupted(signum, self.job.last) from None
                if isinstance(error, Exception):
                    log.exception("failed at update %d", self.training.step)
                    self.results["error"] = (
                        str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                    )
                raise
            finally:
                self.patient = True  # closing takes a moment, and is worth it
                self._close()

    def _hear(self, signum: int) -> None:
        again, self.last.signum = self.last.signum is not None, signum
        if again or not self.patient:  # one who asks twice does not wait
            raise Interrupted(signum)

    @contextmanager
    def _stopping_together(self) -> Iterator[None]:
        """Leave it to `Last` where to stop at a signal; one it had no time for counts at the end."""
        self.patient = True
        yield
        self.patient = False
        if self.last.signum:
            raise Interrupted(self.last.signum)

    def _signal_behind(self, error: BaseException) -> int | None:
        """The signal that an error is of, also where another device heard it first and took its connections with it."""
        if isinstance(error, Interrupted):
            return error.signum
        known = self.trainer.world_size == 1 or isinstance(error, UserError)
        return None if known else self.last.signum

    def _close(self) -> None:
        training, batch = self.training, self.data.batch_size
        self.results |= {"train/steps": training.step, "train/batch_size": batch}
        self.results["train/seconds"] = round(training.seconds, 2)
        self.results["train/images_per_second"] = round(training.step * batch / max(training.seconds, 1e-9), 1)
        if not self.trainer.is_global_zero:
            return
        self.results |= runs.best_validation(self.csv.rows())
        try:
            with suppress(OSError) if "error" in self.results else nullcontext():  # the first error is told, not this
                runs.write_results(self.folder, self.results)
            log.info("%s", self.results)
        finally:
            for logger in self.trainer.loggers:
                if isinstance(logger, WandbLogger):
                    finish(logger.experiment, self.results)
        results_table(self.folder, self.results)


def pruning(trial: dict[str, Any] | None) -> "Pruning | None":
    """What asks a study whether to go on, for a trial of a search that prunes."""
    if trial is None:
        return None
    from variata.sweeps.pruning import Pruning

    return Pruning(**trial)


def require_ahead(options: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Refuse to go on to an end that has been passed."""
    for name, done in (("max_epochs", earlier["epoch"]), ("max_steps", earlier["step"])):
        if options[name] is not None and 0 <= options[name] < done:
            raise ConfigError(
                f"trainer.{name}={options[name]} is less than the run has done, {done}. Give {done} or more, or begin "
                "another run."
            )


def require_batches(options: dict[str, Any], data: ImageDataModule) -> None:
    """Refuse fractions of the data that are less than a batch, before training finds out."""
    batches = {"train": len(data.train_dataloader()), **{split: data.batches(split) for split in ("val", "test")}}
    for split, number in batches.items():
        limit = options[f"limit_{split}_batches"]
        if isinstance(limit, float) and 0 < limit * number < 1:
            raise ConfigError(f"trainer.limit_{split}_batches={limit} of {number} batches is less than one.")


def require_validation(options: dict[str, Any], chosen: list[Callback]) -> None:
    """Refuse early stopping that would never judge."""
    if not options["limit_val_batches"] and any(isinstance(callback, EarlyStopping) for callback in chosen):
        raise ConfigError(
            f"Early stopping judges validations, of which trainer.limit_val_batches={options['limit_val_batches']} "
            "leaves none. Leave one of the two out."
        )


def share_limits(trainer: pl.Trainer, data: ImageDataModule) -> None:
    """Translate limits for Lightning, which counts calls of one device, where the user counts updates and batches."""
    if isinstance(limit := trainer.limit_train_batches, int):
        data.updates_per_call = math.gcd(data.updates_per_call, limit)
        trainer.limit_train_batches = limit // data.updates_per_call
    for split in ("val", "test"):
        limit = getattr(trainer, f"limit_{split}_batches")
        data.limits[split] = limit if isinstance(limit, int) else int(limit * data.batches(split))
        setattr(trainer, f"limit_{split}_batches", 1.0 if limit else 0)


def assemble(config: Config, data: ImageDataModule) -> tuple[Training, VAE]:
    """The model and what trains it, of parts that fit together."""
    if (shape := config["model"].get("shape", list(data.shape))) != list(data.shape):
        raise ConfigError(f"model.shape={shape} is not that of the images, {list(data.shape)}. Leave it out.")
    parts = {part: build(config[part], part) for part in ("model", "objective", "beta", "optimizer", "scheduler")}
    vae = parts.pop("model")
    if data.kind not in vae.likelihood.accepts:
        raise ConfigError(
            f"The likelihood {type(vae.likelihood).__name__} is no density of {data.kind} data, "
            f"which {data.protocol} is; it accepts {', '.join(sorted(vae.likelihood.accepts))} data. "
            f"Use likelihood={REMEDY[data.kind]}{', or another data.binarize' if 'binarize' in config['data'] else ''}."
        )
    if config["evaluate"].get("quality"):
        require_pictures(data)
    trainer = config["trainer"]
    training = Training(
        vae,
        **parts,
        samples=config["evaluate"]["samples"],
        rows=config["evaluate"]["rows"],
        log_every=config["log_every"],
        gradient_clip_val=trainer["gradient_clip_val"],
        on_nan=trainer["on_nan"],
        compile=config["compile"],
        config=runs.public(config),
    )
    with constructing("optimizer"):  # a wrong learning rate is told now, not when training starts
        training.configure_optimizers()
    return training, vae


def quiet() -> None:
    """Silence what Lightning says about things that are as they should be, and undo a setting of its that costs time.

    With it every update of a fused optimizer looks for NVIDIA's management library; where there is none, on the disk.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a log that cannot be written prints no traceback
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found" on every CPU
    expected = [
        *("does not have many workers", "not resumable", "LeafSpec", "smaller than the logging interval"),
        "exists and is not empty",  # the checkpoints of a resumed run
        "command is available on your system but is not used",  # srun, on a machine where runs need no SLURM
        "It is recommended to use `self.log",  # what is logged is computed over all devices
        "was called before the ``update`` method",  # by a device for which no batch was left
    ]
    for message in expected:
        warnings.filterwarnings("ignore", f".*{message}")
