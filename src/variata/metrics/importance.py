"""The importance-weighted log-likelihood. Shapes: B images, K samples."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from variata.core import VAE


def log_likelihood(vae: VAE, x: Tensor, samples: int, rows: int = 2000) -> Tensor:
    r"""\(\log \frac{1}{K} \sum_k p(x, z_k) / q(z_k | x)\) with z_k drawn from q, float64 [B].

    A lower bound of log p(x) in expectation that rises to it with K (Burda et al. 2015, https://arxiv.org/abs/1509.00519).
    The sum over K is a running logsumexp, so memory depends on `rows` alone.

    Args:
        x: Images, [B, C, H, W].
        samples: K.
        rows: Images times samples decoded at once, about.
    """
    chunk = max(1, rows // len(x))
    total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    for done in range(0, samples, chunk):
        log_w = vae(x, min(chunk, samples - done)).log_w.double()  # [chunk, B]
        total = torch.logaddexp(total, log_w.logsumexp(0))
    return total - math.log(samples)


class MeanNLL(Metric):
    """Mean negative log-likelihood over images and its standard error."""

    full_state_update = False
    images: Tensor
    total: Tensor
    square: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("images", "total", "square"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_p: Tensor) -> None:
        """Add log-likelihoods of images, [B]."""
        log_p = log_p.double()
        self.images += len(log_p)
        self.total -= log_p.sum()
        self.square += log_p.square().sum()

    def compute(self) -> dict[str, Tensor]:
        """`nll` and `nll_stderr`, nats per image, and `images`."""
        mean = self.total / self.images
        variance = (
            (self.square / self.images - mean.square()).clamp(min=0) * self.images / (self.images - 1).clamp(min=1)
        )
        return {"nll": mean, "nll_stderr": (variance / self.images).sqrt(), "images": self.images}
