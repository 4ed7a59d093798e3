"""One run, from a composed configuration to results.json."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger, WandbLogger

from variata import atomic
from variata.config.targets import build
from variata.errors import Diverged, Interrupted, UserError
from variata.evaluation.findings import Evaluation, Findings, Table
from variata.run import directory, judge, loading, reader, secrets
from variata.run.assemble import (
    assemble,
    callbacks,
    pruning,
    require_ahead,
    require_batches,
    require_validation,
    share_limits,
    trainer_of,
)
from variata.run.csv import CSV
from variata.run.job import Job
from variata.run.ranks import ranks
from variata.run.report import plan, results_table
from variata.run.wandb import IDENTITY, finish, remembered
from variata.signals import signals_to
from variata.statuses import Status
from variata.training import checkpoints
from variata.training.callbacks import Pictures, Progress
from variata.training.saving import Best, EarlyStops, Last

log = logging.getLogger("variata")

BOUND = tuple(f"test/{name}" for name in ("elbo", "elbo_stderr", "rate", "distortion"))


class Run:
    """One run: its parts built and its data read, ready to start."""

    def __init__(self, job: Job) -> None:
        self.job, self.config, self.folder = job, job.config, job.folder
        self.best = job.folder / "checkpoints" / "best.ckpt"
        self.resume, earlier = self._earlier()
        torch.compiler.reset()  # jobs of a multirun may share the process
        pl.seed_everything(self.config["seed"], verbose=False)
        self.evaluations = judge.built(self.config["evaluate"])
        self.said, self.tables = dict[str, str](), list[Table]()  # of what they found, at the end
        self.data = loading.data_of(self.config)
        self.training, self.vae = assemble(self.config, self.data)
        self.last = Last(self.best.parent, self.config["checkpoint_every"])
        self.patient = False  # whether a signal waits for a place where all devices can stop
        self.pruning = pruning(job.trial)
        self.callbacks = callbacks(self.config, self.pruning)
        self.pictures = [callback for callback in self.callbacks if isinstance(callback, Pictures)]
        around = [Progress(), *self.callbacks, EarlyStops(), self.last, Best(self.best.parent)]
        self.trainer = trainer_of(self.config, self.folder, around)
        self._read_data()
        self.training.meet(self.data.population())
        known = directory.provenance(self.config, self.data.protocol)
        self.results: dict[str, Any] = {**known, "status": Status.FAILED.value}
        self._start(earlier)

    def _earlier(self) -> tuple[Path | None, dict[str, Any]]:
        """The checkpoint to go on from and what it says; a damaged one is told before anything is changed."""
        if not self.config["resume"]:
            return None, {}
        path, earlier = checkpoints.newest(self.best.parent)
        require_ahead(self.config["trainer"], earlier)
        if self.config["logger"] and (self.folder / IDENTITY).is_file():
            remembered(self.folder / IDENTITY)
        return path, earlier

    def _read_data(self) -> None:
        """Read the data, and refuse what does not go together with it."""
        config, data = self.config, self.data
        data.trainer, data.seed = self.trainer, config["seed"]
        if size := config["data"].get("batch_size_per_device"):
            data.batch_size = size * self.trainer.world_size
        data.setup()
        for pictures in self.pictures:
            pictures.require(data)
        for evaluation in self.evaluations.values():
            evaluation.require(data)
        per_call = config["updates_per_call"] if self.trainer.world_size == 1 else 1
        data.updates_per_call = min(per_call, data.updates_per_epoch)
        require_batches(config["trainer"], data)
        require_validation(config["trainer"], self.callbacks)
        share_limits(self.trainer, data)

    def _start(self, earlier: dict[str, Any]) -> None:
        if not self.trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.clean(self.folder, self.folder / "checkpoints", self.folder / "images")
        self.csv = CSV(self.folder / "metrics.csv", until=earlier.get("step", 0) if self.config["resume"] else None)
        self.trainer.loggers = [self.csv, *self._logger()]
        directory.write_config(self.folder, {**self.config, "resume": None}, self.job.overrides)
        (self.folder / "results.json").unlink(missing_ok=True)  # of training that ended earlier than this will
        plan(self.folder, self.data, self.vae, self.trainer, self.config["seed"], self.evaluations)

    def _logger(self) -> list[Logger]:
        if not self.config["logger"]:
            return []
        return [build(self.config["logger"], "logger")(self.folder, self.config, self.job)]

    def fit(self) -> None:
        """Train to the end, from the last checkpoint where there is one, and take the best weights."""
        if others := ranks():
            others.wait_for_all()
        with self._stopping_together():
            self.trainer.fit(self.training, datamodule=self.data, ckpt_path=self.resume, weights_only=True)
        if self.best.is_file():  # there is none where validation was turned off
            self.vae.load_state_dict(checkpoints.weights(checkpoints.read(self.best)))

    def test(self) -> None:
        """Judge the best weights on the whole test set; with trainer.limit_test_batches=0, or pruned, on nothing."""
        if self.pruning and self.pruning.pruned:
            self.results["status"] = Status.PRUNED.value
            return
        self.training.eval()  # the pictures too are of the weights as they are saved
        figures = self._test() if self.config["trainer"]["limit_test_batches"] else {}
        self._evaluate(figures)
        for pictures in self.pictures:
            pictures.draw(self.trainer, self.training)
        self.results["status"] = Status.FINISHED.value

    def _test(self) -> dict[str, float]:
        """The bound of the test images and what it is made of."""
        with self._stopping_together():
            self.trainer.test(self.training, datamodule=self.data, verbose=False)
        figures = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        if not all(map(math.isfinite, figures.values())):
            raise Diverged(f"The model's figures are not finite: {figures}. A smaller optimizer.lr usually helps.")
        self.results |= {name: round(figures[name], 6) for name in BOUND}
        self.results |= {name: int(figures[name]) for name in ("test/active_units", "test/images")}
        return figures

    def _evaluate(self, figures: dict[str, float]) -> None:
        """What is asked of the model after its test; figures of the test are one row of the loggers'."""
        self.vae.to(self.trainer.strategy.root_device)
        shared = {name: each for name, each in self.evaluations.items() if each.shared}
        for each in shared.values():
            figures = {**figures, **numbers(self._judge(each).figures)}
        if figures:
            self.training.log_figures(figures)
        for name, each in self.evaluations.items():
            if name not in shared and self.trainer.is_global_zero:
                self._judge(each)
        self.vae.cpu()

    def _judge(self, evaluation: Evaluation) -> Findings:
        findings = judge.found(evaluation, self.vae, self.data)
        if self.trainer.is_global_zero:
            self.results = judge.merged(self.results, judge.results(evaluation, findings))
            self.said |= findings.said(evaluation.metrics)
            self.tables += findings.tables
            findings.write(self.folder, self.folder / "images")
        return findings

    @contextmanager
    def reported(self) -> Iterator[None]:
        """However the run ends: results.json is written, W&B is closed with the right status, signals are restored."""
        log.info("update %d, overrides %s", self.training.step, secrets.public_words(self.job.overrides))
        with signals_to(self._hear):
            try:
                yield
            except BaseException as error:
                if signum := self._signal_behind(error):
                    self.results["status"] = Status.INTERRUPTED.value
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
        self.results |= reader.best(reader.read_curve(self.csv.path))
        try:
            with suppress(OSError) if "error" in self.results else nullcontext():  # the first error is told, not this
                directory.write_results(self.folder, self.results)
            log.info("%s", self.results)
        finally:
            for logger in self.trainer.loggers:
                if isinstance(logger, WandbLogger):
                    finish(logger.experiment, {k: v for k, v in self.results.items() if k != "metrics"})
        results_table(self.folder, self.results, self.said, self.tables)


def numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Those that are numbers."""
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
