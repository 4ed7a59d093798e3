r"""Which configuration keys explain the figures, by permuting them for a random forest.

A forest is fitted to all keys; in runs held out of the fit, the values of one key are shuffled among runs. Where the
keys are independent the squared error rises by twice the part of the variance the key has a part in (its total effect):

\(\text{share}_j = (\text{error with } j \text{ shuffled} - \text{error}) / (2 \operatorname{Var} v)\).

Gregorutti et al., Correlation and variable importance in random forests, 2017, https://arxiv.org/abs/1310.5726
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from variata.compare.keys import column
from variata.formatting import number, order
from variata.run.reader import Run

FEWEST = 8  # runs
FOLDS, SHUFFLES, TREES = 4, 20, 64
HOW = "Random forest, values of one key shuffled among held-out runs (scikit-learn; Gregorutti et al. 2017)"


@dataclass(frozen=True)
class Importance:
    """Shares of a figure's variance.

    Args:
        shares: By key, largest first; keys that act together each have the whole of what they explain.
        explained: What the forest predicts of runs held out of its fit; the rest is seeds and chance.
        runs: It was fitted to.
    """

    shares: dict[str, float]
    explained: float
    runs: int


def importance(runs: Sequence[Run], keys: Sequence[str], metric: str) -> Importance | None:
    """Of keys for a metric; None where there are too few runs or nothing varies."""
    those = [run for run in runs if run.figure(metric) is not None]
    y = np.array([run.figure(metric) for run in those], dtype=float)
    if len(those) < FEWEST or not keys or y.var() == 0:
        return None
    x = np.stack([encoded(those, key) for key in keys], 1)  # [runs, keys]
    error, shuffled = _errors(x, y)
    explained = max(0.0, 1 - error / float(y.var()))
    shares = np.clip((shuffled - error) / (2 * y.var()), 0, explained)  # no key explains more than all of them
    order_of = np.argsort(-shares, kind="stable")
    return Importance({keys[j]: float(shares[j]) for j in order_of}, explained, len(y))


def encoded(runs: Sequence[Run], key: str) -> NDArray[np.float64]:
    """A key's values as numbers: their own where all are, else places in their order, which is enough for trees."""
    numbers = [number(run.config.get(key)) for run in runs]
    if all(n is not None and np.isfinite(n) for n in numbers):
        return np.array(numbers, dtype=float)
    words = column(runs, key)
    places = {word: i for i, word in enumerate(sorted(set(words), key=order))}
    return np.array([places[word] for word in words], dtype=float)


def _errors(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Squared error in runs held out, and with each key shuffled."""
    from sklearn.ensemble import RandomForestRegressor  # takes a second to import
    from sklearn.model_selection import KFold

    rng, error, shuffled = np.random.default_rng(0), 0.0, np.zeros(x.shape[1])
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        forest = RandomForestRegressor(TREES, random_state=0).fit(x[train], y[train])
        error += np.square(forest.predict(x[test]) - y[test]).sum() / len(y)
        for j in range(x.shape[1]):
            rows = np.tile(x[test], (SHUFFLES, 1))
            rows[:, j] = np.concatenate([rng.permutation(x[:, j])[: len(test)] for _ in range(SHUFFLES)])
            off = forest.predict(rows) - np.tile(y[test], SHUFFLES)
            shuffled[j] += np.square(off).sum() / SHUFFLES / len(y)
    return error, shuffled
