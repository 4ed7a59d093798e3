"""One run, from a composed configuration to results.json."""

import logging
import math
import os
import shutil
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig

from variata import checkpoints, runs
from variata.callbacks import EMA, Best, Last, Pictures, Progress
from variata.cli.quality import judge, require_pictures
from variata.cli.report import plan, results_table
from variata.cli.settings import OURS, settled
from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.decoders import Decoder
from variata.errors import ConfigError, Diverged, Interrupted, RunError
from variata.likelihoods import Likelihood
from variata.loggers import CSV
from variata.runs import Config
from variata.targets import build, constructing
from variata.training import Training

log = logging.getLogger("variata")

REMEDY = {"binary": "bernoulli", "8-bit": "gaussian or likelihood=discretized_logistic", "real": "gaussian"}


def train(composed: DictConfig) -> None:
    """Train, test and report.

    Raises:
        UserError: Something the user can mend. What is found before training begins leaves nothing behind.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
    """
    quiet()
    folder = Path(HydraConfig.get().runtime.output_dir)
    if composed.resume and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ConfigError("resume= goes on with one run: leave out -m.")
    with nullcontext() if composed.resume else clean_start(folder, Path(composed.outputs)):
        config = settled(composed)
        run = Run(config, folder)
    with run.reported():
        run.fit()
        run.test()


class Run:
    """One run: its parts built and its data read, ready to start.

    Args:
        config: Resolved and checked.
        folder: The run directory.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        last = folder / "checkpoints" / "last.ckpt"
        self.resume = last if config["resume"] and last.is_file() else None
        earlier = checkpoints.read(last)["variata"] if self.resume else {}
        self.best = folder / "checkpoints" / "best.ckpt"
        if self.resume and self.best.is_file():
            checkpoints.read(self.best)  # a damaged one is told before anything is changed
        torch.compiler.reset()  # jobs of a multirun may share the process
        pl.seed_everything(config["seed"], verbose=False)
        self.data: ImageDataModule = build(config["data"], "data")
        self.training, self.vae = assemble(config, self.data)
        options = {name: value for name, value in config["trainer"].items() if name not in (*OURS, "gradient_clip_val")}
        self.last = Last(folder / "checkpoints", config["checkpoint_every"])
        chosen: list[Callback] = [
            build(node, f"callbacks.{name}") for name, node in config["callbacks"].items() if node
        ]
        chosen.sort(key=lambda callback: isinstance(callback, EMA))  # pictures before it puts the raw weights back
        self.pictures = [callback for callback in chosen if isinstance(callback, Pictures)]
        self.trainer: pl.Trainer = build(
            options,
            "trainer",
            logger=False,
            callbacks=[Progress(), *chosen, self.last, Best(folder / "checkpoints")],
            default_root_dir=folder,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        self.data.trainer = self.trainer
        self.data.seed = config["seed"]
        self.data.setup()
        per_call = config["updates_per_call"] if self.trainer.world_size == 1 else 1
        self.data.updates_per_call = min(per_call, self.data.updates_per_epoch)
        require_batches(config["trainer"], self.data)
        if isinstance(limit := self.trainer.limit_train_batches, int):  # Lightning counts calls, the user updates
            self.data.updates_per_call = math.gcd(self.data.updates_per_call, limit)
            self.trainer.limit_train_batches = limit // self.data.updates_per_call
        with torch.no_grad():
            cast(Decoder, self.vae.decoder).bias.copy_(cast(Likelihood, self.vae.likelihood).initial(self.data.mean()))
        self.results: dict[str, Any] = {**runs.provenance(config, self.data.protocol), "status": "failed"}
        self._start(earlier)

    def _start(self, earlier: dict[str, Any]) -> None:
        if not self.trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        runs.write_config(self.folder, {**self.config, "resume": None}, list(HydraConfig.get().overrides.task))
        csv = CSV(self.folder / "metrics.csv", until=earlier.get("step", 0) if self.config["resume"] else None)
        self.trainer.loggers = [csv, *self._logger()]
        plan(self.folder, self.data, self.vae, self.trainer, self.config)

    def _logger(self) -> list[Logger]:
        if not self.config["logger"]:
            return []
        multirun = HydraConfig.get().mode == RunMode.MULTIRUN
        group = Path(HydraConfig.get().sweep.dir).name if multirun else None
        return [build(self.config["logger"], "logger")(self.folder, self.config, group)]

    def fit(self) -> None:
        """Train to the end, from the last checkpoint where there is one, and take the best weights."""
        self.trainer.fit(self.training, datamodule=self.data, ckpt_path=self.resume, weights_only=True)
        if self.best.is_file():  # there is none where validation was turned off
            self.vae.load_state_dict(checkpoints.weights(checkpoints.read(self.best)))

    def test(self) -> None:
        """Judge the best weights on the whole test set; with trainer.limit_test_batches=0 on nothing."""
        if self.config["trainer"]["limit_test_batches"]:
            self._judge()
        if self.config["evaluate"].get("quality") and self.trainer.is_global_zero:
            vae = self.vae.to(self.trainer.strategy.root_device).eval()
            self.results |= judge(vae, self.data, self.config)
        for pictures in self.pictures:
            pictures.draw(self.trainer, self.training)
        self.results["status"] = "finished"

    def _judge(self) -> None:
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
        log.info("update %d, overrides %s", self.training.step, list(HydraConfig.get().overrides.task))
        try:
            with self._signals():
                yield
        except (Interrupted, SIGTERMException, SystemExit) as error:
            self.results["status"] = "interrupted"
            signum = error.signum if isinstance(error, Interrupted) else self.last.signum or signal.SIGTERM
            raise Interrupted(signum, self.folder if self.last.path.is_file() else None) from None
        except Exception:
            log.exception("failed at update %d", self.training.step)
            raise
        finally:
            self._close()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(signum: int, frame: Any) -> None:
            if self.last.signum is not None:  # asked twice: do not wait for the update to finish
                raise Interrupted(signum)
            self.last.signum = signum
            # Lightning's own handler, called before, would end the epoch before last.ckpt is written
            self.trainer._signal_connector.received_sigterm = False

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _close(self) -> None:
        training, batch = self.training, self.data.batch_size
        self.results |= {"train/steps": training.step, "train/seconds": round(training.seconds, 2)}
        self.results["train/images_per_second"] = round(training.step * batch / max(training.seconds, 1e-9), 1)
        if not self.trainer.is_global_zero:
            return
        runs.write_results(self.folder, self.results)
        log.info("%s", self.results)
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(self.results)
                logger.experiment.finish(exit_code=0 if self.results["status"] == "finished" else 1)
        results_table(self.folder, self.results)


def require_batches(options: dict[str, Any], data: ImageDataModule) -> None:
    """Refuse fractions of the data that are less than a batch, before training finds out."""
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    for split, loader in loaders.items():
        limit = options[f"limit_{split}_batches"]
        if isinstance(limit, float) and 0 < limit * len(loader) < 1:
            raise ConfigError(f"trainer.limit_{split}_batches={limit} of {len(loader)} batches is less than one.")


def assemble(config: Config, data: ImageDataModule) -> tuple[Training, VAE]:
    """The model and what trains it, of parts that fit together."""
    parts = {part: build(config[part], part) for part in ("model", "objective", "beta", "optimizer", "scheduler")}
    vae = parts.pop("model")
    if data.kind not in vae.likelihood.accepts:
        raise ConfigError(
            f"The likelihood {type(vae.likelihood).__name__} is no density of {data.kind} data, "
            f"which {data.protocol} is; it accepts {', '.join(sorted(vae.likelihood.accepts))} data. "
            f"Use likelihood={REMEDY[data.kind]}, or another data.binarize."
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
        config=config,
    )
    with constructing("optimizer"):  # a wrong learning rate is told now, not when training starts
        training.configure_optimizers()
    return training, vae


@contextmanager
def clean_start(folder: Path, outputs: Path) -> Iterator[None]:
    """Remove the new run directory, and folders below outputs that it leaves empty, if the run cannot even start."""
    if getattr(rank_zero_only, "rank", 0):  # the first device cleans up
        yield
        return
    if {path.name for path in folder.iterdir()} - {"train.log", ".hydra"}:
        raise RunError(f"{folder} is not empty. Choose another hydra.run.dir, or leave it out for a new one each time.")
    try:
        yield
    except BaseException:
        logging.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # at the first that is not empty
            for parent in folder.parents:
                if outputs.resolve() in (parent.resolve(), *parent.resolve().parents):
                    parent.rmdir()
        raise


def quiet() -> None:
    """Silence what Lightning says about things that are as they should be, and undo a setting of its that costs time.

    With it every update of a fused optimizer looks for NVIDIA's management library; where there is none, on the disk.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found" on every CPU
    expected = [
        *("does not have many workers", "not resumable", "LeafSpec", "smaller than the logging interval"),
        "exists and is not empty",  # the checkpoints of a resumed run
        "It is recommended to use `self.log",  # what is logged is computed over all devices
    ]
    for message in expected:
        warnings.filterwarnings("ignore", f".*{message}")
