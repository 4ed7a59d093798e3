"""Figures of pictures: each against its formula, and through the command where there is no network to see with."""

import hashlib
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torch.distributions import Normal

from conftest import environment
from models import small
from variata.data.module import ImageDataModule
from variata.data.pixels import binarise, dequantise
from variata.errors import ConfigError
from variata.evaluation import inception
from variata.evaluation.quality import (
    as_bytes,
    distances,
    features,
    image_quality,
    reconstructions,
    require_pictures,
    samples,
    scales,
    similarity,
)
from variata.evaluation.samplers import PriorSampler


class Blocks(nn.Module):
    """Features of a picture: the mean of each channel in each quarter, in grey values."""

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        return nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)


def opened(draw=dequantise, shape=(1, 12, 12), n=600) -> ImageDataModule:
    grey = torch.randint(0, 256, (n, *shape), dtype=torch.uint8)
    splits = {"train": grey, "val": grey[:20], "test": grey[: n // 2]}
    data = ImageDataModule(lambda: splits, draw, "binary" if draw is binarise else "8-bit", shape, "grey", 50)
    data.setup()
    return data


# --- distances between sets -------------------------------------------------------------------------------------------


def test_fid_is_the_frechet_distance_of_the_fitted_gaussians():
    a, b = torch.randn(400, 6) @ torch.randn(6, 6), torch.randn(300, 6) @ torch.randn(6, 6) + 1
    mean, cov = [x.double().numpy().mean(0) for x in (a, b)], [np.cov(x.double().numpy().T) for x in (a, b)]
    root = scipy.linalg.sqrtm(cov[0] @ cov[1]).real
    expected = ((mean[0] - mean[1]) ** 2).sum() + np.trace(cov[0] + cov[1] - 2 * root)
    assert distances(a, b)["fid"] == pytest.approx(expected, rel=1e-5)


def test_fid_of_a_set_with_itself_is_zero():
    a = torch.randn(500, 8)
    assert distances(a, a.flip(0))["fid"] == pytest.approx(0, abs=1e-4)


def test_kid_is_the_unbiased_mmd_where_a_subset_is_the_set():
    a, b = torch.randn(50, 4).double(), torch.randn(50, 4).double() + 0.5
    aa, bb, ab = ((x @ y.T / 4 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    off = [(k.sum() - k.trace()) / (50 * 49) for k in (aa, bb)]
    found = distances(a, b)
    assert found["kid"] == pytest.approx((off[0] + off[1] - 2 * ab.mean()).item(), rel=1e-9)
    assert found["kid_std"] == pytest.approx(0, abs=1e-9)


def test_kid_is_near_zero_for_one_distribution_only():
    a, same, other = torch.randn(2000, 8), torch.randn(2000, 8), 1.3 * torch.randn(2000, 8)
    near, far = distances(a, same), distances(a, other)
    assert abs(near["kid"]) < 0.01 and near["kid_std"] > 0
    assert far["kid"] > 10 * abs(near["kid"])


# --- pictures beside their originals ----------------------------------------------------------------------------------


def test_psnr_is_of_the_mean_squared_error_over_all_images():
    real, shown = (torch.randint(0, 256, (450, 3, 9, 9), dtype=torch.uint8) for _ in range(2))
    shown[0] = real[0]  # a perfect picture is one of many
    mse = ((real.double() - shown.double()) / 255).square().mean()
    found = similarity(real, shown)
    assert found["quality/psnr"] == pytest.approx(-10 * math.log10(mse), abs=1e-4)
    assert found["quality/ms_ssim_scales"] == 0 and "quality/ms_ssim" not in found  # smaller than the window


@pytest.mark.parametrize(("size", "expected"), [(11, 1), (28, 2), (32, 2), (64, 3), (128, 4), (176, 5), (256, 5)])
def test_ms_ssim_has_the_scales_that_fit_and_is_one_for_identical_pictures(size, expected):
    real = torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8)
    found = similarity(real, real)
    assert found["quality/ms_ssim_scales"] == scales(size) == expected
    assert found["quality/ms_ssim"] == pytest.approx(1, abs=1e-5)


def test_ms_ssim_falls_with_noise():
    real = 128 + 60 * torch.randn(4, 1, 7, 7).repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise = torch.randn_like(real)
    found = [
        similarity(real.clamp(0, 255).byte(), (real + s * noise).clamp(0, 255).byte())["quality/ms_ssim"]
        for s in (0, 10, 40, 160)
    ]
    assert found == sorted(found, reverse=True) and found[-1] < 0.7


# --- pictures of a model ----------------------------------------------------------------------------------------------


def test_bytes_are_the_grey_values_that_were_dequantised():
    grey = torch.arange(256, dtype=torch.uint8).repeat(1, 1, 16, 1)
    assert torch.equal(as_bytes(dequantise(grey)), grey)
    assert as_bytes(torch.tensor([0.0, 1.0, -0.2, 1.7])).tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("split", ["train", "test"])
def test_real_images_are_spread_over_the_split_and_not_mirrored(split):
    data = opened()
    data.flip = True
    stored = data.images[split]
    real, shown = reconstructions(small((1, 12, 12)), data, split, 100)
    grey = stored if split == "train" else as_bytes(stored)
    assert torch.equal(real, grey[:: len(grey) // 100]) and shown.shape == real.shape
    assert len(reconstructions(small((1, 12, 12)), data, split, 10_000)[0]) == len(stored)


def test_samples_are_the_means_of_decoded_draws():
    vae = small((1, 12, 12), latent=2)
    drawn = []

    def sampler(n):
        drawn.append(torch.randn(n, 2))
        return (drawn[-1],)

    pictures = samples(vae, sampler, 7, batch=3)
    assert [len(z) for z in drawn] == [3, 3, 1]
    assert torch.equal(pictures, as_bytes(vae.decode(torch.cat(drawn)).mean))


def test_a_model_that_gives_its_data_back_is_perfect():
    data = opened(binarise)

    class Mirror:
        device = torch.device("cpu")

        def reconstruct(self, x):
            return Normal(x, 1.0)

        def decode(self, z, temperature):
            return Normal(z, 1.0)

    real = data.images["test"].float()
    again = iter(real.flip(0).split(data.eval_batch_size))
    samplers = {"samples": lambda n: (next(again),), "noise": lambda n: (torch.rand(n, 1, 12, 12),)}
    found = image_quality(Mirror(), data, samplers, Blocks())
    assert found["quality/images"] == 300 and found["quality/split"] == "test" and found["quality/kid_subset"] == 300
    assert found["quality/psnr"] == math.inf and found["quality/ms_ssim"] == pytest.approx(1)
    for shown in ("reconstructions", "samples"):
        assert found[f"quality/fid_{shown}"] == pytest.approx(0, abs=0.01)
    assert found["quality/fid_noise"] > 100 > found["quality/fid_samples"]


def test_without_an_extractor_there_is_everything_but_fid_and_kid():
    data, vae = opened(binarise), small((1, 12, 12))
    with_, without = (image_quality(vae, data, {"samples": PriorSampler(vae)}, x, images=40) for x in (Blocks(), None))
    missing = {f"quality/{x}_{y}" for x in ("fid", "kid", "kid_std") for y in ("reconstructions", "samples")}
    assert with_.keys() - without.keys() == missing | {"quality/kid_subset"}
    assert without.keys() < with_.keys()


def test_real_valued_data_makes_no_pictures():
    data = opened()
    data.kind = "real"
    with pytest.raises(ConfigError, match="real-valued"):
        require_pictures(data)


# --- the network's weights --------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """torch.hub's folder of checkpoints and another one, and a network that says what it was given."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(inception, "NoTrainInceptionV3", lambda *args, **kwargs: args[2])
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(b"published").hexdigest())
    monkeypatch.setattr(inception, "URL", (tmp_path / "published.pth").as_uri())
    root = tmp_path / "data"
    root.mkdir()
    return tmp_path / "hub" / "checkpoints", root


@pytest.mark.parametrize("name", inception.NAMES)
@pytest.mark.parametrize("place", [0, 1])
def test_weights_are_found_by_either_name_in_either_place(folders, place, name):
    folders[place].mkdir(parents=True, exist_ok=True)
    (folders[place] / name).write_bytes(b"published")
    network, protocol = inception.inception(folders[1])
    assert network == str(folders[place] / name) and name in protocol["quality/extractor"]
    assert "299x299" in protocol["quality/resize"]


def test_missing_weights_are_downloaded(folders, tmp_path):
    (tmp_path / "published.pth").write_bytes(b"published")
    assert inception.weights(folders[1]).read_bytes() == b"published"


@pytest.mark.parametrize("published", [b"tampered with", None])
def test_without_the_published_weights_the_reason_is_told(folders, tmp_path, published):
    if published:
        (tmp_path / "published.pth").write_bytes(published)
    network, protocol = inception.inception(folders[1])
    assert network is None and protocol.keys() == {"quality/extractor"}
    for word in (*inception.NAMES, str(folders[0]), str(folders[1]), "download failed"):
        assert word in protocol["quality/extractor"]
    assert not folders[0].exists() or not any(folders[0].iterdir())


def test_weights_of_other_content_are_not_used(folders):
    (folders[1] / inception.NAMES[0]).write_bytes(b"other")
    network, protocol = inception.inception(folders[1])
    assert network is None and "not the published file" in protocol["quality/extractor"]


def test_the_network_maps_grey_bytes_of_any_size_to_2048_features(tmp_path, monkeypatch):
    path = tmp_path / inception.NAMES[0]
    torch.save({}, path)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(inception.NoTrainInceptionV3, "load_state_dict", lambda *_: None)  # random weights will do
    network, _ = inception.inception(tmp_path)
    pictures = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    grey, colour = features(network, pictures, "grey"), features(network, pictures.expand(-1, 3, -1, -1), "colour")
    assert grey.shape == (2, 2048) and torch.allclose(grey, colour)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An environment in which no weights are found."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("conftest.DATA", tmp_path)


def quality_command(*words) -> subprocess.CompletedProcess:
    code = "import sys; from variata.commands.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "quality", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment())


@pytest.mark.slow
def test_pictures_are_judged_after_training_and_by_the_command_without_weights_too(nowhere, train, tmp_path):
    trained = train(
        *("data=digits", "model=mlp_vae", "trainer=cpu", "logger=none", "callbacks=[]", "evaluate.nll.samples=2"),
        *("trainer.max_steps=8", "evaluate=[nll,quality]"),
    )
    assert trained.code == 0, trained.err
    results = json.loads((trained.run / "results.json").read_text())
    assert results["quality/images"] == 200 and f"{results['quality/psnr']:.2f} dB" in trained.out
    done = quality_command(trained.run, "--images", 50, "--seed", 3)
    said = " ".join(done.stderr.split())
    assert done.returncode == 0 and said.startswith("variata: No FID and KID") and str(tmp_path / "torch") in said
    found = json.loads((trained.run / "results.json").read_text())
    assert found["test/nll"] == results["test/nll"] and found["status"] == "finished" and "evaluate/quality" in found
    assert found["quality/images"] == 50 and 0 < found["quality/ms_ssim"] < 1 and found["quality/seed"] == 3
    assert found["quality/extractor"].startswith("none: ") and found["data/protocol"].startswith("digits")
    assert f"{found['quality/psnr']:.2f} dB" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--images", "1"], "--images is at least 2"),
        (["nowhere", "--sampler", "flow"], "invalid choice: 'flow'"),
    ],
)
def test_command_tells_mistakes_in_a_paragraph(words, message):
    done = quality_command(*words)
    assert done.returncode == 2 and message in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
