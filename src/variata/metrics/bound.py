"""The ELBO and what it is made of, over a whole split. Shapes: B images, L rungs, D latent dims."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from variata.core import Size, Trace

ACTIVE = 0.01  # Var_x E_q[z_j | x] above which unit j is active (Burda et al. 2015, https://arxiv.org/abs/1509.00519)


class Bound(Metric):
    r"""Mean ELBO, rate and distortion at beta = 1, KL per rung and latent dimension, and active units.

    A unit j is active if \(\mathrm{Var}_x(E_q[z_j | x]) > 0.01\): the posterior mean moves; noise does not count.

    Args:
        events: Shape of z of each rung, top first.
    """

    full_state_update = False
    images: Tensor
    distortion: Tensor
    rates: Tensor

    def __init__(self, events: Sequence[Size]) -> None:
        super().__init__()
        self.events = [torch.Size(event) for event in events]
        self._zeros("images")
        self._zeros("distortion")
        self._zeros("rates", len(self.events))
        for i, event in enumerate(self.events):
            for name in ("kl", "mean", "square"):
                self._zeros(f"{name}_{i}", *event)

    def update(self, trace: Trace) -> None:
        """Add the images of a trace."""
        k = trace.samples
        self.images += trace.x.shape[0]
        self.distortion -= trace.log_px.double().sum() / k
        self.rates += trace.kl.double().sum((1, 2)) / k
        for i, latent in enumerate(trace.latents):
            mean = latent.q.mean.double()
            self._add(f"mean_{i}", mean.sum(0) / k)
            self._add(f"square_{i}", mean.square().sum(0) / k)
            if (kl := latent.kl_per_dim) is not None:
                self._add(f"kl_{i}", kl.double().sum(0) / k)

    def compute(self) -> dict[str, Tensor]:
        """`elbo, rate, distortion, active_units` and `kl_rung_<l>`, scalars in nats per image."""
        distortion, rates = self.distortion / self.images, self.rates / self.images
        return {
            "elbo": -distortion - rates.sum(),
            "rate": rates.sum(),
            "distortion": distortion,
            "active_units": torch.stack([self.active(i).sum() for i in range(len(self.events))]).sum().double(),
            **{f"kl_rung_{i}": rate for i, rate in enumerate(rates)},
        }

    def kl(self, rung: int) -> Tensor:
        """KL of each dimension of a rung's z, [*D]; zeros where none is known."""
        return getattr(self, f"kl_{rung}") / self.images

    def active(self, rung: int) -> Tensor:
        """Which dimensions of a rung's z are active, bool [*D]."""
        mean, square = getattr(self, f"mean_{rung}") / self.images, getattr(self, f"square_{rung}") / self.images
        return square - mean.square() > ACTIVE

    def _zeros(self, name: str, *shape: int) -> None:
        self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, name: str, values: Tensor) -> None:
        setattr(self, name, getattr(self, name) + values)
