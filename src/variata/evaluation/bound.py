"""The ELBO and what it is made of, over a whole split. Shapes: B images, L rungs, D latent dims."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from variata.core import Size, Trace

ACTIVE = 0.01  # Var_x E_q[z_j | x] above which unit j is active (Burda et al. 2015, https://arxiv.org/abs/1509.00519)


def standard_error(mean: Tensor, square: Tensor, n: Tensor) -> Tensor:
    r"""\(\sqrt{s^2 / n}\), of the mean of n values with that mean and mean square, s^2 unbiased; 0 for a single one."""
    return ((square - mean.square()).clamp(min=0) / (n - 1).clamp(min=1)).sqrt()


def passes(rungs: int) -> int:
    """Least samples per image that `Bound` takes of a model: two where there are several rungs."""
    return min(2, rungs)


class Bound(Metric):
    r"""Mean ELBO, rate and distortion at beta = 1, KL per rung and latent dimension, and active units.

    A unit j is active if \(\mathrm{Var}_x(E_q[z_j | x]) > 0.01\): the posterior mean moves; noise does not count.
    Below the top rung the mean m of z_j also moves with the noise of the rungs above. Two passes share the image and no
    noise, so \(\mathrm{Var}_x(E_q[z_j | x]) = \mathrm{Cov}(m, m')\), each sample of a trace taken with the next.

    Args:
        events: Shape of z of each rung, top first.

    Attributes:
        samples: Least number per image of the traces it takes, see `passes`.
    """

    full_state_update = False
    images: Tensor
    elbo_square: Tensor
    distortion: Tensor
    rates: Tensor

    def __init__(self, events: Sequence[Size]) -> None:
        super().__init__()
        self.events = [torch.Size(event) for event in events]
        self.samples = passes(len(self.events))
        self._zeros("images")
        self._zeros("elbo_square")
        self._zeros("distortion")
        self._zeros("rates", len(self.events))
        for i, event in enumerate(self.events):
            for name in ("kl", "mean", "square"):
                self._zeros(f"{name}_{i}", *event)

    def update(self, trace: Trace) -> None:
        """Add the images of a trace.

        Raises:
            ValueError: It has one sample per image, and there are several rungs.
        """
        k = trace.samples
        if k < self.samples:
            raise ValueError(f"Active units of a ladder take {self.samples} samples per image, got {k}.")
        self.images += trace.x.shape[0]
        log_px, kl = trace.log_px.double(), trace.kl.double()  # [K, B], [L, K, B]
        self.distortion -= log_px.sum() / k
        self.rates += kl.sum((1, 2)) / k
        self.elbo_square += (log_px - kl.sum(0)).mean(0).square().sum()
        for i, latent in enumerate(trace.latents):
            mean = latent.q.mean.double()
            other = mean.roll(trace.x.shape[0], 0)  # of the same image, another sample's where there are several
            self._add(f"mean_{i}", mean.sum(0) / k)
            self._add(f"square_{i}", (mean * other).sum(0) / k)
            if (per_dim := latent.kl_per_dim) is not None:
                self._add(f"kl_{i}", per_dim.double().sum(0) / k)

    def compute(self) -> dict[str, Tensor]:
        """`elbo, elbo_stderr, rate, distortion, active_units` and `kl_rung_<l>`, scalars in nats per image."""
        distortion, rates = self.distortion / self.images, self.rates / self.images
        elbo = -distortion - rates.sum()
        return {
            "elbo": elbo,
            "elbo_stderr": standard_error(elbo, self.elbo_square / self.images, self.images),
            "rate": rates.sum(),
            "distortion": distortion,
            "active_units": torch.stack([self.active(i).sum() for i in range(len(self.events))]).sum().double(),
            **{f"kl_rung_{i}": rate for i, rate in enumerate(rates)},
        }

    def kl(self, rung: int) -> Tensor:
        """KL of each dimension of a rung's z, [*D]; zeros where none is known."""
        return getattr(self, f"kl_{rung}") / self.images

    def variance(self, rung: int) -> Tensor:
        """Var_x(E[z | x]) of each dimension of a rung's z, [*D]; below the top rung an estimate, maybe negative."""
        mean, square = getattr(self, f"mean_{rung}") / self.images, getattr(self, f"square_{rung}") / self.images
        return square - mean.square()

    def active(self, rung: int) -> Tensor:
        """Which dimensions of a rung's z are active, bool [*D]."""
        return self.variance(rung) > ACTIVE

    def _zeros(self, name: str, *shape: int) -> None:
        self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, name: str, values: Tensor) -> None:
        setattr(self, name, getattr(self, name) + values)
