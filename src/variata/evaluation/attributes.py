r"""Directions of attributes in latent space, and how well they do. Shapes: N images, A attributes, D latent dims
of all rungs, whose codes are one vector.

The vector of an attribute is \(E[z | a = 1] - E[z | a = 0]\) (Larsen et al. 2016, https://arxiv.org/abs/1512.09300);
its probe's direction is the normal of a logistic regression, as long as that vector.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.errors import ConfigError
from variata.evaluation.codes import code
from variata.evaluation.findings import PICTURES, Evaluation, Findings, Moving, Table
from variata.evaluation.noise import noise
from variata.evaluation.pictures import edits
from variata.messages import did_you_mean
from variata.metrics import Metric

BATCH = 500  # images encoded at once
JUDGED = 1000  # held-out images the effect of an edit is measured on
STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # of an attribute's vector


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
        """codes [N, D] -> [N, A]."""
        return codes @ self.weight.T + self.bias


def labelled_codes(vae: VAE, data: ImageDataModule, limit: int) -> tuple[Tensor, Tensor]:
    """Codes [N, D] and attributes, bool [N, A], of at most about `limit` training images, evenly spaced."""
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
    """The mean code of the images that have the attribute, bool [N], less that of the others, [D].

    Raises:
        ConfigError: All or none of the images have it.
    """
    if has.all() or not has.any():
        raise ConfigError(f"{int(has.sum())} of {len(has)} training images have the attribute: it has no direction.")
    return codes[has].mean(0) - codes[~has].mean(0)


def fit_probes(codes: Tensor, values: Tensor) -> Probes:
    """Logistic regressions on standardised codes [N, D], classes balanced, one for each column of values [N, A]."""
    from sklearn.linear_model import LogisticRegression  # here, because it takes a second to import
    from sklearn.preprocessing import StandardScaler

    flat = codes.double().cpu().numpy()
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
    """The normal [D] of a probe, as long as the attribute's vector [D]: no step of that length moves its logit more.

    Shen et al. 2020 (InterFaceGAN), https://arxiv.org/abs/1907.10786
    """
    return weight * vector.norm() / weight.norm()


def areas(probes: Probes, codes: Tensor, values: Tensor) -> list[float]:
    """Area under the ROC curve of each probe on held-out images; NaN where all or none of them have the attribute."""
    from sklearn.metrics import roc_auc_score

    logits, known = probes.logits(codes).cpu(), values.cpu()
    both = known.any(0) & ~known.all(0)
    return [float(roc_auc_score(known[:, a], logits[:, a])) if both[a] else float("nan") for a in range(known.shape[1])]


def effect(vae: VAE, probes: Probes, x: Tensor, direction: Tensor, strengths: Sequence[float]) -> Tensor:
    """How far the probes' logits move when images are edited, in standard deviations over x, [T, A].

    The edited code is decoded and the picture encoded again: what counts is what can be seen. The comparison is with
    the same image decoded from its own code.
    """
    shown = edits(vae, x, direction, [0.0, *strengths])
    before, *seen = [probes.logits(code(vae, pictures)) for pictures in shown.unbind(1)]
    return torch.stack([(after - before).mean(0) / before.std(0).clamp(min=1e-9) for after in seen])


class Attributes(Evaluation):
    """Attributes' directions, applied to held-out images and judged by linear probes of all attributes.

    Finds `attributes/auc_<name>`, pictures of edits, and `attributes.json`: the vectors, and how far they move the
    probes.

    Args:
        names: Of the attributes.
        strengths: Of the edits, in lengths of the attribute's vector.
        limit: Training images the directions are computed from, about.
        split: Of the images that are edited.
        images: Rows of the pictures.
        seed: Of everything drawn.
    """

    accepts = PICTURES

    def __init__(
        self,
        names: Sequence[str],
        strengths: Sequence[float] = STRENGTHS,
        limit: int = 20_000,
        split: Literal["val", "test"] = "test",
        images: int = 8,
        seed: int = 0,
    ) -> None:
        if not names or not strengths or limit < 2 or images < 1:
            raise ValueError(
                f"There has to be a name, a strength and an image, and limit is at least 2; got names={list(names)}, "
                f"strengths={list(strengths)}, images={images} and limit={limit}."
            )
        self.names, self.strengths, self.limit = tuple(names), list(strengths), limit
        self.split, self.images, self.seed = split, images, seed
        self.metrics = [Metric(f"attributes/auc_{name}", f"AUC of {name}", "", up=True, digits=3) for name in names]

    def __str__(self) -> str:
        return f"attributes {', '.join(self.names)}"

    def require(self, data: ImageDataModule) -> None:
        super().require(data)
        for name in self.names:
            column(data, name)
        if (n := len(data.images[self.split])) < 2:
            raise ConfigError(f"The {self.split} split has {n} image; edits are judged on two or more.")

    def __call__(self, vae: VAE, data: ImageDataModule) -> Findings:
        """Raises ConfigError where all training images have an attribute, or none has."""
        self.require(data)
        known = data.read_attributes()
        with noise(self.seed):
            x = data.prepare(data.images[self.split][:JUDGED].to(vae.device), self.split)
            codes, values = labelled_codes(vae, data, self.limit)
            probes = fit_probes(codes, values)
            area = areas(probes, code(vae, x), known.values[self.split][:JUDGED])
            results, pictures = dict[str, Any](), dict[str, Moving]()
            for name in dict.fromkeys(self.names):
                a = column(data, name)
                auc, has = (area[a] if math.isfinite(area[a]) else None), values[:, a]
                results[name] = {"auc": auc, "images": len(codes), "with": int(has.sum())}
                vector = mean_difference(codes, has)
                for kind, way in {"mean": vector, "probe": probe_direction(probes.weight[a], vector)}.items():
                    moved = effect(vae, probes, x, way, self.strengths)
                    results[name][kind] = summary(known.names, a, way, self.strengths, moved)
                    pictures[f"attribute_{name}_{kind}"] = self._picture(vae, x, way)
        figures = {f"attributes/auc_{name}": found["auc"] for name, found in results.items()}
        tables = [table(name, found) for name, found in results.items()]
        return Findings(figures, tables=tables, pictures=pictures, files={"attributes.json": results})

    def _picture(self, vae: VAE, x: Tensor, direction: Tensor) -> Moving:
        shown = edits(vae, x[: self.images], direction, self.strengths)
        return Moving(shown, [f"{strength:+g}" for strength in self.strengths])


def summary(names: Sequence[str], a: int, direction: Tensor, strengths: list[float], moved: Tensor) -> dict[str, Any]:
    """What attributes.json holds of one direction: the vector, and how far the probes of all attributes moved."""
    others = torch.cat([moved[:, :a], moved[:, a + 1 :]], 1).abs()
    return {
        "vector": direction.tolist(),
        "strengths": strengths,
        "moved": moved[:, a].tolist(),
        "others": others.mean(1).tolist(),
        "each": {name: moved[:, i].tolist() for i, name in enumerate(names) if i != a},
    }


def table(name: str, found: Mapping[str, Any]) -> Table:
    """How far an attribute's probe moved, and what moved with it."""
    having = f"{found['with']:,} of {found['images']:,} training images"
    area = "unknown" if found["auc"] is None else f"{found['auc']:.3f}"
    rows = [
        (kind, f"{strength:+g}", *moves(found[kind], t))
        for kind in ("mean", "probe")
        for t, strength in enumerate(found[kind]["strengths"])
        if strength != 0  # where nothing moves
    ]
    return Table(
        title=f"{name}: {having}, AUC of its probe {area}",
        headings=("direction", "strength", name, "others", "most moved"),
        rows=rows,
        caption="change of the probes' logits on held-out images, decoded and encoded again, in standard deviations",
    )


def moves(found: Mapping[str, Any], t: int) -> tuple[str, str, str]:
    """How far a step moved its own probe, the others on average, and the two that moved most."""
    each = {other: moved[t] for other, moved in found["each"].items()}
    most = sorted(each, key=lambda other: -abs(each[other]))[:2]
    listed = ", ".join(f"{other} {each[other]:+.2f}" for other in most)
    return f"{found['moved'][t]:+.2f}", f"{found['others'][t]:.2f}", listed
