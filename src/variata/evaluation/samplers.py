"""Where z comes from when generating. Shapes: N rows, D latent dims, M mixture components.

A sampler is called with n and answers with z [n, *D] of each rung from the top on, as many as it knows of: `vae.decode`
takes them and draws the rungs below from their priors.
Its temperature t scales standard deviations, those of each component where the density is a mixture: t = 1 leaves the
density as it is, t = 0 gives its mean, of a mixture the means of its components.
"""

from collections.abc import Callable, Sequence

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.distributions import tempered
from variata.errors import ConfigError
from variata.evaluation.codes import joined, parted

Codes = tuple[Tensor, ...]
Sampler = Callable[[int], Codes]

WIDEST = 4096  # dimensions whose covariances, of each component, fit into memory


class PriorSampler:
    """z of the top rung's prior at a temperature (`variata.distributions.tempered`).

    Args:
        temperature: t.
    """

    def __init__(self, vae: VAE, temperature: float = 1.0) -> None:
        self.vae, self.temperature = vae, temperature

    def __call__(self, n: int) -> Codes:
        """[n, *D] of the top rung alone.

        Raises:
            ConfigError: t is not 1, and the prior is of a family with no location and scale known.
        """
        with torch.no_grad():
            p = self.vae.rungs[0].prior(self.vae.root.expand(n, *self.vae.root.shape))
            return (tempered(p, self.temperature).sample(),)


class MixtureSampler:
    r"""\(z \sim \sum_m \pi_m N(\mu_m, t^2 \Sigma_m)\), a mixture with full covariances fitted to codes by EM.

    z is that of all rungs, one vector.

    Where the codes do not fill the prior, its draws fall into places the decoder has never seen; a density fitted to
    the codes keeps out of them (Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, who take ten components).

    Args:
        codes: z ~ q(z | x) of the training images, [N, *D] of each rung, top first.
        components: M, at most; one for each code where there are fewer.
        temperature: t.
        seed: Of EM's start.
    """

    def __init__(self, codes: Sequence[Tensor], components: int = 10, temperature: float = 1.0, seed: int = 0) -> None:
        flat = joined(codes)
        if flat.shape[1] > WIDEST:
            raise ConfigError(
                f"A mixture with full covariances is fitted to at most {WIDEST:,} latent dimensions; this model has "
                f"{flat.shape[1]:,} over all rungs. Sample from the prior alone."
            )
        rows = flat.double().cpu().numpy()
        fitted = GaussianMixture(min(components, len(rows)), max_iter=500, random_state=seed).fit(rows)
        weights, means, covariances = map(torch.from_numpy, (fitted.weights_, fitted.means_, fitted.covariances_))
        factors = torch.linalg.cholesky(covariances)  # [M, D, D]
        normals = MultivariateNormal(means.to(flat), scale_tril=factors.to(flat), validate_args=False)
        # not scikit-learn's own sample(), which answers with the same draws each time
        self.p = tempered(MixtureSameFamily(Categorical(weights.to(flat)), normals, validate_args=False), temperature)
        self.events = [z.shape[1:] for z in codes]

    def __call__(self, n: int) -> Codes:
        """[n, *D] of each rung."""
        return parted(self.p.sample((n,)), self.events)


def training_codes(vae: VAE, data: ImageDataModule, images: int = 50_000) -> Codes:
    """One draw z ~ q(z | x) for each training image, of at most about `images`: [N, *D] of each rung, top first.

    Draws, not means: the decoder was trained on draws, and their density is the aggregate posterior E_x q(z | x), which
    the prior stands for. Images are as training sees them, mirrored and binarised anew.
    """
    stored = data.images["train"]
    batches = stored[:: max(1, len(stored) // images)].split(data.eval_batch_size)
    with torch.no_grad():
        drawn = [vae.encode(data.prepare(batch.to(vae.device), "train")) for batch in batches]
    return tuple(torch.cat([latent.z for latent in rung]) for rung in zip(*drawn, strict=True))
