"""Objectives: from a Trace to a loss. Shapes: B images, K importance samples, L rungs. Nats per image.

Each returns `loss` to minimise and terms to log, and may have parameters of its own, trained with the model's. Whatever
is trained, `elbo` is the bound at beta = 1. Averages run over images and samples only, so no term depends on the batch
size or the number of devices.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from variata.core import Part, Terms, Trace
from variata.devices import mean_over_devices


class Objective(Part, ABC):
    """What training minimises.

    Args:
        samples: K, latents drawn per image.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"An objective needs at least one sample, got samples={samples}.")
        self.samples = samples

    @abstractmethod
    def forward(self, trace: Trace, beta: Tensor | float) -> Terms:
        """A trace and the weight of the KL -> `{"loss", "elbo", "rate", "distortion", ...}`, each a scalar.

        Args:
            beta: One number, or one for each rung, [L].
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The objective's own parameters, trained on the same loss by the same optimizer: a group of all there are.

        Each group may have options of the optimizer of its own, as `{"params": [...], "lr": 1e-4}`; what it has not is
        the optimizer's. Where they are an adversary's, the loss has to keep the two apart: what the model is trained on
        must not reach them, nor what they are trained on the model.
        """
        own = list(self.parameters())
        return [{"params": own}] if own else []


class ELBO(Objective):
    r"""\(-\mathbb{E}_q \log p(x | z) + \beta \sum_l \max(\lambda, \mathbb{E}_x KL_l)\); at beta = 1 the negative ELBO.

    Free bits bound the KL of each rung, averaged over the batch, from below (Kingma et al., 2016, App. C.8,
    https://arxiv.org/abs/1606.04934): a rung gains nothing by carrying less than lambda nats.
    beta: Higgins et al., 2017, https://openreview.net/forum?id=Sy2fzU9gl

    Args:
        free_bits: lambda, nats per rung.
    """

    def __init__(self, samples: int = 1, free_bits: float = 0.0) -> None:
        super().__init__(samples)
        if free_bits < 0:
            raise ValueError(f"objective.free_bits is a number of nats, 0 or more, got {free_bits}.")
        self.free_bits = free_bits

    def forward(self, trace: Trace, beta: Tensor | float) -> Terms:
        log_px, kl = trace.log_px, trace.kl.mean((1, 2))  # [K, B], [L]
        # without free bits the one-sample estimate of a KL may be negative, and must stay so
        penalty = self._clamped(kl) if self.free_bits else kl
        terms = bound(log_px, kl)
        return {"loss": terms["distortion"] + weighted(beta, penalty), **terms}

    def _clamped(self, kl: Tensor) -> Tensor:
        # E_x is over the whole batch: the mean over devices of what each returns is max(lambda, mean KL)
        return torch.where(mean_over_devices(kl) >= self.free_bits, kl, self.free_bits)


class IWAE(Objective):
    r"""\(-\mathbb{E} \log \frac{1}{K} \sum_k w_k\) with \(w = p(x | z) (p(z) / q(z | x))^\beta\), z_k drawn from q.

    Burda et al., 2015, https://arxiv.org/abs/1509.00519. With K = 1 it is the Monte-Carlo ELBO.
    """

    def __init__(self, samples: int = 5) -> None:
        super().__init__(samples)

    def forward(self, trace: Trace, beta: Tensor | float) -> Terms:
        log_px = trace.log_px
        log_w = log_px - weighted(beta, trace.log_ratio)  # [K, B]
        loss = math.log(self.samples) - log_w.logsumexp(0)  # [B]
        return {"loss": loss.mean(), **bound(log_px, trace.kl.mean((1, 2)))}


def weighted(beta: Tensor | float, of_rungs: Tensor) -> Tensor:
    r"""\(\sum_l \beta_l d_l\) of d [L, ...], with one beta for all rungs or one for each, [L]."""
    weights = torch.as_tensor(beta, dtype=of_rungs.dtype, device=of_rungs.device)
    return (weights.view(-1, *[1] * (of_rungs.ndim - 1)) * of_rungs).sum(0)


def bound(log_px: Tensor, kl: Tensor) -> Terms:
    """ELBO = -(rate + distortion) at beta = 1, from log p(x|z) [K, B] and the KL of each rung [L]."""
    rate, distortion = kl.sum(), -log_px.mean()
    return {"elbo": -rate - distortion, "rate": rate, "distortion": distortion}
