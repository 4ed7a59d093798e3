r"""The whole probabilistic model: Batch, Latent, Trace, Rung, VAE.

A VAE is an encoder, a ladder of rungs and a decoder. Each rung holds one latent variable; a flat VAE has one rung.

    p(x, z) = p(x | z) prod_l p(z_l | z_<l)        q(z | x) = prod_l q(z_l | z_<l, x)

Shapes: B images, K importance samples, N = K*B rows, L rungs (top first), D latent dims, S state dims, [C, H, W] image.
All log-densities and divergences are float32 and in nats.

Kingma & Welling 2013, https://arxiv.org/abs/1312.6114; Sønderby et al. 2016, https://arxiv.org/abs/1602.02282
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, kl_divergence

from variata.distributions import tempered

Size = tuple[int, ...]
Terms = dict[str, Tensor]  # of an objective, by name: the loss and what is logged with it


@dataclass(frozen=True)
class Batch:
    """Images, and what is known of them beside their pixels: what the data hands to a step and a VAE to its encoder.

    Args:
        x: Images, [B, C, H, W].
        index: Place of each in its split, int64 [B]; None where the images are of no split.
        labels: Bool [B, A]; None where there are none.
    """

    x: Tensor
    index: Tensor | None = None
    labels: Tensor | None = None

    @classmethod
    def of(cls, x: "Tensor | Batch") -> "Batch":
        """The batch itself, or images [B, C, H, W] of which nothing else is known."""
        return x if isinstance(x, Batch) else cls(x)

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> "Batch":
        """The same on a device; also how Lightning moves it there."""
        return self._each(lambda part: part.to(device, non_blocking=device.type == "cuda"))

    def split(self, size: int) -> "list[Batch]":
        """Parts of so many images, the last of those that are left."""
        return [self._each(lambda part, i=i: part[i : i + size]) for i in range(0, len(self), size)]  # type: ignore[misc]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        index, labels = (part if part is None else change(part) for part in (self.index, self.labels))
        return Batch(change(self.x), index, labels)


@dataclass(frozen=True)
class Population:
    """What is known of the training set.

    Args:
        images: N.
        mean: The mean image as the likelihood sees it, [C, H, W].
        classes: Names of the labels that batches hold; none where they hold none.
    """

    images: int
    mean: Tensor
    classes: tuple[str, ...] = ()


class Part(nn.Module):
    """A part of a model, or of its training, that is told of the training set."""

    def meet(self, population: Population) -> None:
        """Take of it what is of use, by itself nothing; once, after the data are read and before any update."""


@dataclass(frozen=True)
class Latent:
    """One latent variable of one pass: the draw z, its log-density, and the distributions it was drawn with.

    Args:
        z: The draw from q, [N, *D].
        log_q: log q(z | x), [N], recorded when z was drawn: an autoregressive flow would be slow to recover it later.
        q: Posterior, batch [N]. When generating, q is p, or p at a temperature.
        p: Prior, batch [N].
    """

    z: Tensor
    log_q: Tensor
    q: Distribution
    p: Distribution

    @property
    def log_ratio(self) -> Tensor:
        """log q(z | x) - log p(z): the one-sample estimate of KL(q || p), [N]."""
        return self.log_q - self.p.log_prob(self.z)

    @property
    def kl(self) -> Tensor:
        """KL(q || p), [N]: exact where torch knows the pair, else the one-sample estimate."""
        try:
            return kl_divergence(self.q, self.p)
        except NotImplementedError:
            return self.log_ratio

    @property
    def kl_per_dim(self) -> Tensor | None:
        """KL(q || p) of each latent dimension, [N, *D], or None where q or p does not factorise or has no formula."""
        if not (isinstance(self.q, Independent) and isinstance(self.p, Independent)):
            return None
        try:
            return kl_divergence(self.q.base_dist, self.p.base_dist)
        except NotImplementedError:
            return None


@dataclass(frozen=True)
class Trace:
    """What one pass leaves behind; all that objectives, metrics and callbacks see.

    Args:
        x: Images, [B, C, H, W].
        px: p(x | z), batch [N].
        latents: One per rung, top first.
        samples: K. Row k*B + b belongs to sample k of image b.
    """

    x: Tensor
    px: Distribution
    latents: tuple[Latent, ...]
    samples: int

    @property
    def log_px(self) -> Tensor:
        """log p(x | z), [K, B]."""
        return self._fold(self.px.log_prob(repeat(self.x, self.samples)))

    @property
    def kl(self) -> Tensor:
        """KL(q_l || p_l) per rung, [L, K, B]."""
        return torch.stack([self._fold(latent.kl) for latent in self.latents])

    @property
    def log_ratio(self) -> Tensor:
        """log q_l(z_l) - log p_l(z_l) per rung, [L, K, B]."""
        return torch.stack([self._fold(latent.log_ratio) for latent in self.latents])

    @property
    def log_w(self) -> Tensor:
        """Importance weights log p(x, z) - log q(z | x), [K, B]; their mean over K estimates p(x)."""
        return self.log_px - self.log_ratio.sum(0)

    def _fold(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (self.samples, -1))  # [N] -> [K, B]


class Encoder(nn.Module, ABC):
    """Deterministic features of an image; a network of its pixels, or parameters of its own, found by its index.

    Args:
        shape: Of an image, [C, H, W].

    Attributes:
        features: Shape of each element returned, top rung first.
    """

    features: list[Size]

    @abstractmethod
    def forward(self, batch: Batch) -> list[Tensor]:
        """N images -> features [N, F, ...], one per rung, top first; a flat model returns one."""


class Decoder(nn.Module, ABC):
    """Maps the state below the last rung to the likelihood's parameters.

    Every decoder adds a bias of its own to each parameter, so that training can start at the mean image.

    Args:
        state: Shape of the state, [S, ...].
        shape: Of the parameters, [P, H, W].
    """

    def __init__(self, state: Size, shape: Size) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))  # [P, H, W]

    def forward(self, state: Tensor) -> Tensor:
        """state [N, S, ...] -> parameters [N, P, H, W]."""
        return self.body(state) + self.bias

    @abstractmethod
    def body(self, state: Tensor) -> Tensor:
        """The same without the bias."""


class Concat(nn.Module):
    """Merges a draw into the state by concatenation; with an empty state, z is the state."""

    def forward(self, state: Tensor, z: Tensor) -> Tensor:  # [N, S], [N, D] -> [N, S + D]
        return torch.cat([state, z], 1)


class Rung(nn.Module):
    """One latent variable: its posterior, its prior, and how its draw enters the state passed down.

    Args:
        posterior: `(h, state, p) -> Distribution`, batch [N].
        prior: `(state) -> Distribution`, batch [N].
        merge: `(state, z) -> state` of the rung below.
    """

    def __init__(self, posterior: nn.Module, prior: nn.Module, merge: nn.Module) -> None:
        super().__init__()
        self.posterior, self.prior, self.merge = posterior, prior, merge

    def forward(
        self, state: Tensor, h: Tensor | None = None, z: Tensor | None = None, temperature: float = 1.0
    ) -> tuple[Latent, Tensor]:
        """state [N, *S] -> the latent and the next state.

        Args:
            h: Features of the images, [N, *F]. Without them it generates: q is p at the temperature.
            z: Given, [N, *D]: scored, not drawn.
            temperature: Of p, where it generates.
        """
        p = self.prior(state)
        q = tempered(p, temperature) if h is None else self.posterior(h, state, p)
        z, log_q = draw(q) if z is None else (z, q.log_prob(z))
        return Latent(z, log_q, q, p), self.merge(state, z)


class VAE(nn.Module):
    """Encoder, rungs and decoder wired together. Build one with `variata.build`; it is never subclassed.

    Args:
        encoder: `Batch -> list of features`, one per rung, top first.
        rungs: The ladder, top first.
        decoder: `state [N, *S] -> parameters [N, P, H, W]`.
        likelihood: `parameters -> p(x | z)`, batch [N], event [C, H, W].
        root: Shape of the state the top rung receives; `(0,)` for none.
    """

    def __init__(
        self, encoder: nn.Module, rungs: Sequence[Rung], decoder: nn.Module, likelihood: nn.Module, root: Size
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.rungs: Sequence[Rung] = nn.ModuleList(rungs)  # type: ignore[assignment]
        self.decoder, self.likelihood = decoder, likelihood
        self.root = nn.Parameter(torch.zeros(root), requires_grad=math.prod(root) > 0)

    def forward(self, x: Tensor | Batch, samples: int = 1) -> Trace:
        """Encode images [B, C, H, W] once, draw `samples` latents of each, decode them."""
        batch = Batch.of(x)
        features = [repeat(h, samples) for h in self.encoder(batch)]
        latents, state = self._descend(samples * batch.x.shape[0], features)
        return Trace(batch.x, self.likelihood(self.decoder(state)), latents, samples)

    def encode(self, x: Tensor | Batch) -> tuple[Latent, ...]:
        """The latents of images [N, C, H, W], top rung first; `encode(x)[0].q.mean` are features of a flat model."""
        batch = Batch.of(x)
        return self._descend(batch.x.shape[0], self.encoder(batch))[0]

    def decode(self, *z: Tensor, temperature: float = 1.0) -> Distribution:
        """p(x | z) for given latents, top rung first; rungs below the given ones are drawn from their priors.

        Args:
            temperature: Of the priors drawn from.
        """
        state = self._root(z[0].shape[0])
        for i, rung in enumerate(self.rungs):
            state = rung.merge(state, z[i]) if i < len(z) else rung(state, temperature=temperature)[1]
        return self.likelihood(self.decoder(state))

    def sample(self, n: int, temperature: float = 1.0) -> Distribution:
        """p(x | z) for n draws z ~ p(z); `sample(n).mean` [n, C, H, W] are the pictures usually shown.

        Args:
            temperature: Of the prior of every rung.
        """
        return self.likelihood(self.decoder(self._descend(n, [None] * len(self.rungs), temperature)[1]))

    def reconstruct(self, x: Tensor | Batch) -> Distribution:
        """p(x | z) for one draw z ~ q(z | x) per image."""
        return self(x).px

    def codes(self, x: Tensor | Batch) -> tuple[Tensor, ...]:
        """Features of images [N, C, H, W]: the posterior mean of each rung given those above, top first, [N, *D]."""
        batch = Batch.of(x)
        state, codes = self._root(batch.x.shape[0]), []
        for rung, h in zip(self.rungs, self.encoder(batch), strict=True):
            codes.append(rung.posterior(h, state, rung.prior(state)).mean)
            state = rung.merge(state, codes[-1])
        return tuple(codes)

    def log_joint(self, x: Tensor, *z: Tensor) -> Tensor:
        """log p(x, z) = log p(x | z) + sum_l log p(z_l | z_<l) of images x [N, C, H, W] and latents, top first: [N]."""
        state, log_p = self._root(x.shape[0]), x.new_zeros(x.shape[0])
        for rung, given in zip(self.rungs, z, strict=True):
            latent, state = rung(state, z=given)
            log_p = log_p + latent.log_q  # without features q is p
        return log_p + self.likelihood(self.decoder(state)).log_prob(x)

    @torch.no_grad()
    def meet(self, population: Population) -> None:
        """Tell likelihood and posteriors of the training set, and start the decoder at its mean image."""
        for part in (self.likelihood, *(rung.posterior for rung in self.rungs)):
            cast(Part, part).meet(population)
        parameters = cast(Any, self.likelihood).initial(population.mean)
        cast(Decoder, self.decoder).bias.copy_(parameters)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.root.device

    def _descend(
        self, n: int, features: Iterable[Tensor | None], temperature: float = 1.0
    ) -> tuple[tuple[Latent, ...], Tensor]:
        state, latents = self._root(n), []
        for rung, h in zip(self.rungs, features, strict=True):
            latent, state = rung(state, h, temperature=temperature)
            latents.append(latent)
        return tuple(latents), state

    def _root(self, n: int) -> Tensor:
        return self.root.expand(n, *self.root.shape)


@contextmanager
def judging(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: a pass then leaves no mark, as on the running statistics of a normalisation."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in training.items():
            part.training = mode


def draw(q: Distribution) -> tuple[Tensor, Tensor]:
    """A draw of q and its log-density, taken in one pass where q can; reparameterised where q can."""
    if hasattr(q, "rsample_and_log_prob"):  # zuko's flows
        return q.rsample_and_log_prob()
    z = q.rsample() if q.has_rsample else q.sample()
    return z, q.log_prob(z)


def repeat(rows: Tensor, times: int) -> Tensor:
    """[B, ...] -> [times * B, ...]; row k*B + b is row b."""
    return rows if times == 1 else rows.repeat(times, *[1] * (rows.ndim - 1))
