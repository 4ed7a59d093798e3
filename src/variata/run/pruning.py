"""The job's end of a search: it tells how good it is after each validation, and stops when it falls behind."""

import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from variata.run import study
from variata.training.module import Training

if TYPE_CHECKING:
    pass

WARM_UP = 1 / 5  # of training, in which beta rises too and bounds say little


class Pruning(Callback):
    """Reports `val/elbo` by epoch to an Optuna study; training ends where its pruner says so.

    On several devices the first one asks, and all do as it was told.

    Args:
        journal: Of the study, a file.
        number: Of the trial.
        pruner: Its name.
    """

    def __init__(self, journal: str, number: int, pruner: str) -> None:
        self.journal, self.number, self.pruner = journal, number, pruner
        self.trial: Any = None
        self.pruned = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Training) -> None:
        if pl_module.step >= pl_module.progress.total:
            return  # it has come to its end: the test is all that is left
        behind = self._behind(trainer, pl_module) if trainer.is_global_zero else False
        if trainer.strategy.broadcast(behind):
            self.pruned = trainer.should_stop = True

    def _behind(self, trainer: pl.Trainer, training: Training) -> bool:
        elbo = float(trainer.callback_metrics["val/elbo"])
        progress = training.progress
        self.trial = self.trial or self._opened(epochs=math.ceil(progress.total / progress.per_epoch))
        if math.isfinite(elbo):
            self.trial.report(elbo, trainer.current_epoch + 1)
        return self.trial.should_prune()

    def _opened(self, epochs: int) -> Any:
        import optuna

        if self.pruner == "median":
            judge: optuna.pruners.BasePruner = optuna.pruners.MedianPruner(n_warmup_steps=int(WARM_UP * epochs))
        else:
            judge = optuna.pruners.HyperbandPruner(max(1, int(WARM_UP * epochs)), epochs)
        found = optuna.load_study(study_name=study.NAME, storage=study.storage(self.journal), pruner=judge)
        return optuna.Trial(found, found.get_trials(deepcopy=False)[self.number]._trial_id)
