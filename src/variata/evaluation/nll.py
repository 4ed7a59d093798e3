r"""The importance-weighted log-likelihood, and how far to trust it. Shapes: B images, K samples.

\(\log \frac{1}{K} \sum_k w_k\) with \(w_k = p(x, z_k) / q(z_k | x)\) is a lower bound of log p(x) in expectation that
rises to it with K (Burda et al. 2015, https://arxiv.org/abs/1509.00519): the NLL it gives is too high. No standard
error over images tells by how much; the effective sample size tells when it is much.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from tqdm import tqdm

from variata.core import VAE, Batch
from variata.data.module import ImageDataModule
from variata.errors import Diverged
from variata.evaluation.bound import passes, standard_error
from variata.evaluation.findings import Evaluation, Findings
from variata.evaluation.noise import noise, stream
from variata.metrics import LOW_ESS

MOST = 1_000_000  # samples per image


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


class NLL(Evaluation):
    """The importance-weighted negative log-likelihood of the test images, `test/nll`, and bits per dimension.

    Each batch has noise of its own, so the figures are a function of model, data and K alone, on any number of devices.

    Args:
        samples: K per image.
        rows: Images times samples decoded at once.
    """

    shared = True

    def __init__(self, samples: int = 100, rows: int = 2000) -> None:
        if not 1 <= samples <= MOST or rows < 1:
            raise ValueError(
                f"samples is a number from 1 to {MOST:,} and rows one from 1, got {samples:,} and {rows:,}."
            )
        self.samples, self.rows = samples, rows

    def __str__(self) -> str:
        return f"NLL with {self.samples:,} samples per image"

    def __call__(self, vae: VAE, data: ImageDataModule) -> Findings:
        """Of no batch, where `trainer.limit_test_batches=0` leaves none, nothing is found.

        Raises:
            Diverged: It is not finite.
        """
        batches, (rank, devices), mean = data.test_dataloader(), data.place, MeanNLL().to(vae.device)
        if not len(batches):
            return Findings()
        for turn, batch in enumerate(tqdm(batches, "NLL", leave=False, disable=None if rank == 0 else True)):
            if len(batch):  # else only other devices have some left
                with noise(stream(data.eval_seed, 1 + turn * devices + rank)):
                    batch = data.prepared(batch.to(vae.device), "test")
                    vae(batch, passes(len(vae.rungs)))  # the test's ELBO draws first from the noise of a batch
                    mean.update(importance_weighted(vae, batch, self.samples, self.rows))
        return self._findings({name: float(value) for name, value in mean.compute().items()}, data)

    def _findings(self, found: Mapping[str, float], data: ImageDataModule) -> Findings:
        if not all(map(math.isfinite, found.values())):
            raise Diverged(f"The NLL is not finite: {dict(found)}. A smaller optimizer.lr usually helps.")
        figures: dict[str, float] = {f"test/{name}": round(value, 6) for name, value in found.items()}
        figures |= {"test/images": int(found["images"]), "test/nll_samples": self.samples}
        figures["test/bits_per_dim"] = round(bits_per_dim(figures["test/nll"], math.prod(data.shape), data.kind), 6)
        return Findings(figures, rows(figures))


def bits_per_dim(nll: float, pixels: int, kind: str) -> float:
    """NLL / (pixels ln 2); for 8-bit data, whose values are scaled to [0, 1), 8 bits more."""
    return nll / (pixels * math.log(2)) + (8 if kind == "8-bit" else 0)


def rows(figures: Mapping[str, float]) -> dict[str, str]:
    """The figures in words."""
    return {
        "test NLL": f"at most {figures['test/nll']:.2f} ± {figures['test/nll_stderr']:.2f} nats per image "
        f"({figures['test/nll_samples']:,} samples, {figures['test/images']:,} images)",
        "effective samples": effective(figures),
        "bits per dim": f"at most {figures['test/bits_per_dim']:.4f}",
    }


def effective(figures: Mapping[str, float]) -> str:
    """How many samples the NLL rests on, and what to do where they are few."""
    median, low = figures["test/nll_ess"], figures["test/nll_ess_5"]
    words = f"{median:.1f} of {figures['test/nll_samples']:,} in the median image, {low:.2f} or fewer in 5%"
    few = "; so few that the NLL is well above the true one: raise evaluate.nll.samples" if median < LOW_ESS else ""
    return words + few
