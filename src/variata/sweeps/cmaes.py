"""CMA-ES that remembers nothing but its trials."""

from typing import Any

import optuna
from optuna.samplers import CmaEsSampler


class TrialsCmaEs(CmaEsSampler):
    """Optuna's, which would keep a pickle in the study and open it again: it may be somebody else's, and hold code.

    This one is told the generations of a resumed search again, as far as they are complete.
    """

    evolution: Any = None  # cmaes.CMA

    def sample_relative(self, study: optuna.Study, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        while True:  # each time it is told of one generation more, if there is one
            before = self.evolution and self.evolution.generation
            params = super().sample_relative(study, trial, search_space)
            if self.evolution is None or self.evolution.generation == before:
                return params

    def _init_optimizer(self, *arguments: Any) -> Any:
        self.evolution = super()._init_optimizer(*arguments)
        return self.evolution

    def _restore_optimizer(self, completed_trials: Any) -> Any:
        return self.evolution

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        return {}
