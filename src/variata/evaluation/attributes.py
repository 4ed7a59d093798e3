r"""Directions of attributes in latent space, and how well they do. Shapes: N images, A attributes, D latent dims.

The vector of an attribute is \(E[z | a = 1] - E[z | a = 0]\) (Larsen et al. 2016, https://arxiv.org/abs/1512.09300);
its probe's direction is the normal of a logistic regression, as long as that vector.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.errors import ConfigError
from variata.evaluation.pictures import code
from variata.messages import did_you_mean

BATCH = 500  # images encoded at once


@dataclass(frozen=True)
class Probes:
    """A linear classifier of each attribute on codes.

    Args:
        weight: [A, D]; zeros for an attribute that all images share, or none has.
        bias: [A].
    """

    weight: Tensor
    bias: Tensor

    def logits(self, codes: Tensor) -> Tensor:
        """codes [N, *D] -> [N, A]."""
        return codes.flatten(1) @ self.weight.T + self.bias


def labelled_codes(vae: VAE, data: ImageDataModule, limit: int) -> tuple[Tensor, Tensor]:
    """Codes [N, *D] and attributes, bool [N, A], of at most about `limit` training images, evenly spaced."""
    images, values = data.images["train"], data.read_attributes().values["train"]
    every, generator = max(1, len(images) // limit), Generator(images.device).manual_seed(data.eval_seed)
    device = vae.device
    codes = [code(vae, data.draw(batch, generator).to(device)) for batch in images[::every].split(BATCH)]
    return torch.cat(codes), values[::every].to(device)


def column(data: ImageDataModule, name: str) -> int:
    """The number of an attribute.

    Raises:
        ConfigError: There is none of that name.
    """
    names = data.read_attributes().names
    if name not in names:
        raise ConfigError(f"There is no attribute {name} in this data. {did_you_mean(name, names)}")
    return names.index(name)


def mean_difference(codes: Tensor, has: Tensor) -> Tensor:
    """The mean code of the images that have the attribute, bool [N], less that of the others, [*D].

    Raises:
        ConfigError: All or none of the images have it.
    """
    if has.all() or not has.any():
        raise ConfigError(f"{int(has.sum())} of {len(has)} training images have the attribute: it has no direction.")
    return codes[has].mean(0) - codes[~has].mean(0)


def fit_probes(codes: Tensor, values: Tensor) -> Probes:
    """Logistic regressions on standardised codes [N, *D], classes balanced, one for each column of values [N, A]."""
    from sklearn.linear_model import LogisticRegression  # here, because it takes a second to import
    from sklearn.preprocessing import StandardScaler

    flat = codes.flatten(1).double().cpu().numpy()
    scaler = StandardScaler().fit(flat)
    standardised = scaler.transform(flat)
    weight = torch.zeros(values.shape[1], flat.shape[1], dtype=torch.float64)
    bias = torch.zeros(values.shape[1], dtype=torch.float64)
    scale, mean = torch.from_numpy(scaler.scale_), torch.from_numpy(scaler.mean_)
    for a, has in enumerate(values.T.cpu().numpy()):
        if has.any() and not has.all():
            model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(standardised, has)
            weight[a] = torch.from_numpy(model.coef_[0]) / scale
            bias[a] = model.intercept_[0] - weight[a] @ mean
    return Probes(weight.float().to(codes.device), bias.float().to(codes.device))


def probe_direction(weight: Tensor, vector: Tensor) -> Tensor:
    """The normal [D] of a probe, as long as the attribute's vector [*D]: no step of that length moves its logit more.

    Shen et al. 2020 (InterFaceGAN), https://arxiv.org/abs/1907.10786
    """
    return (weight * vector.norm() / weight.norm()).view_as(vector)


def areas(probes: Probes, codes: Tensor, values: Tensor) -> list[float]:
    """Area under the ROC curve of each probe on held-out images; NaN where all or none of them have the attribute."""
    from sklearn.metrics import roc_auc_score

    logits, known = probes.logits(codes).cpu(), values.cpu()
    both = known.any(0) & ~known.all(0)
    return [float(roc_auc_score(known[:, a], logits[:, a])) if both[a] else float("nan") for a in range(known.shape[1])]


def effect(vae: VAE, probes: Probes, x: Tensor, direction: Tensor, strengths: list[float]) -> Tensor:
    """How far the probes' logits move when images are edited, in standard deviations over x, [T, A].

    The edited code is decoded and the picture encoded again: what counts is what can be seen. The comparison is with
    the same image decoded from its own code.
    """
    z = code(vae, x)
    seen = [probes.logits(code(vae, vae.decode(z + s * direction).mean)) for s in (0.0, *strengths)]
    before = seen[0]
    return torch.stack([(after - before).mean(0) / before.std(0).clamp(min=1e-9) for after in seen[1:]])
