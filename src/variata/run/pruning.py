"""The job's end of a search: it tells how good it is after each validation, and stops when it falls behind."""

import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from variata.training.module import Training

if TYPE_CHECKING:
    import optuna

STUDY = "sweep"  # name of the study of a sweep
WARM_UP = 1 / 5  # of training, in which beta rises too and bounds say little


class Pruning(Callback):
    """Reports `val/elbo` by epoch to an Optuna study; training ends where its pruner says so.

    On several devices the first one asks, and all do as it was told.

    Args:
        storage: Of the study, a URL.
        number: Of the trial.
        pruner: Its name.
    """

    def __init__(self, storage: str, number: int, pruner: str) -> None:
        self.storage, self.number, self.pruner = storage, number, pruner
        self.pruned = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Training) -> None:
        if pl_module.step >= pl_module.progress.total:
            return  # it has come to its end: the test is all that is left
        behind = self._behind(trainer, pl_module) if trainer.is_global_zero else False
        if trainer.strategy.broadcast(behind):
            self.pruned = trainer.should_stop = True

    def _behind(self, trainer: pl.Trainer, training: Training) -> bool:
        elbo = float(trainer.callback_metrics["val/elbo"])
        trial = self._trial(epochs=math.ceil(training.progress.total / training.progress.per_epoch))
        if math.isfinite(elbo):
            trial.report(elbo, trainer.current_epoch + 1)
        return trial.should_prune()

    def _trial(self, epochs: int) -> Any:
        import optuna

        if self.pruner == "median":
            judge: optuna.pruners.BasePruner = optuna.pruners.MedianPruner(n_warmup_steps=int(WARM_UP * epochs))
        else:
            judge = optuna.pruners.HyperbandPruner(max(1, int(WARM_UP * epochs)), epochs)
        study = optuna.load_study(study_name=STUDY, storage=storage(self.storage), pruner=judge)
        return optuna.Trial(study, study.get_trials(deepcopy=False)[self.number]._trial_id)


def storage(url: str) -> "optuna.storages.BaseStorage":
    """SQLite, patient with the other processes that write."""
    import optuna

    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
