"""Distributions over whole images and latents: float32, one batch dimension [N], no argument validation.

Validation costs more than the arithmetic at these sizes; inputs are checked once, when a run is composed.
"""

from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, MixtureSameFamily, Normal


def normal(mean: Tensor, std: Tensor) -> Independent:
    """Diagonal N(mean, std^2): parameters [N, *event], batch [N], event the rest."""
    return _joint(Normal(mean.float(), std.float(), validate_args=False))


def bernoulli(logits: Tensor) -> Independent:
    """Independent Bernoulli variables with the given logits [N, *event]."""
    return _joint(Bernoulli(logits=logits.float(), validate_args=False))


def mixture(logits: Tensor, components: Distribution, n: int) -> MixtureSameFamily:
    """sum_m softmax(logits)_m components_m for n rows: logits [M], components with batch [M]."""
    weights = Categorical(logits=logits.float(), validate_args=False)
    return MixtureSameFamily(weights, components, validate_args=False).expand((n,))


def _joint(elements: Distribution) -> Independent:
    return Independent(elements, len(elements.batch_shape) - 1, validate_args=False)
