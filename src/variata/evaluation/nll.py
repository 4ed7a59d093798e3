r"""The importance-weighted log-likelihood, and how far to trust it. Shapes: B images, K samples.

\(\log \frac{1}{K} \sum_k w_k\) with \(w_k = p(x, z_k) / q(z_k | x)\) is a lower bound of log p(x) in expectation that
rises to it with K (Burda et al. 2015, https://arxiv.org/abs/1509.00519): the NLL it gives is too high. No standard
error over images tells by how much; the effective sample size tells when it is much.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from variata.core import VAE, Batch
from variata.evaluation.bound import standard_error


class Estimate(NamedTuple):
    r"""Of each image.

    Args:
        log_p: The bound, nats, float64 [B].
        ess: Effective sample size \((\sum_k w_k)^2 / \sum_k w_k^2\), from 1, where one sample has all the weight, to K
            (Kong et al. 1994, https://doi.org/10.1080/01621459.1994.10476469), float64 [B].
    """

    log_p: Tensor
    ess: Tensor


def importance_weighted(vae: VAE, x: Tensor | Batch, samples: int, rows: int = 2000) -> Estimate:
    """The bound with K samples of q.

    Both sums over K are running logsumexps, so memory depends on `rows` alone.

    Args:
        x: Images, [B, C, H, W], or a batch of them.
        samples: K.
        rows: Images times samples decoded at once, about.
    """
    chunk = max(1, rows // len(x))
    log_sum = log_squares = torch.full((len(x),), -math.inf, dtype=torch.float64, device=vae.device)
    for done in range(0, samples, chunk):
        log_w = vae(x, min(chunk, samples - done)).log_w.double()  # [chunk, B]
        log_sum = torch.logaddexp(log_sum, log_w.logsumexp(0))
        log_squares = torch.logaddexp(log_squares, (2 * log_w).logsumexp(0))
    return Estimate(log_sum - math.log(samples), (2 * log_sum - log_squares).exp())


class MeanNLL(Metric):
    """Mean negative log-likelihood over images, its standard error, and the effective sample sizes it rests on."""

    full_state_update = False
    images: Tensor
    total: Tensor
    square: Tensor
    ess: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("images", "total", "square"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("ess", [], dist_reduce_fx="cat")

    def update(self, estimate: Estimate) -> None:
        """Add images."""
        log_p = estimate.log_p.double()
        self.images += len(log_p)
        self.total -= log_p.sum()
        self.square += log_p.square().sum()
        self.ess.append(estimate.ess.float())

    def compute(self) -> dict[str, Tensor]:
        """`nll` and `nll_stderr`, nats per image; `nll_ess` and `nll_ess_5`, median and 5% quantile; `images`."""
        mean, ess = self.total / self.images, dim_zero_cat(self.ess)
        return {
            "nll": mean,
            "nll_stderr": standard_error(mean, self.square / self.images, self.images),
            "nll_ess": ess.quantile(0.5),
            "nll_ess_5": ess.quantile(0.05),
            "images": self.images,
        }
