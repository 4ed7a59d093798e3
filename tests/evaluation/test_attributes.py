"""Directions in latent space, and the pictures made with them."""

import json
import sys

import pytest
import torch
from PIL import Image
from torch import nn

from models import Returns
from variata.commands.main import main
from variata.core import VAE, Concat, Rung
from variata.distributions import normal
from variata.errors import ConfigError, RunError
from variata.evaluation import pictures
from variata.evaluation.attributes import areas, effect, fit_probes, mean_difference, probe_direction
from variata.run.loading import load


def two_groups(n=4000, dims=3):
    """Codes of two groups that differ along one vector, which group each belongs to, and the vector."""
    has, vector = torch.rand(n) < 0.3, torch.tensor([2.0, -1.0, 0.0])
    return torch.randn(n, dims) * torch.tensor([1.0, 0.5, 3.0]) + has[:, None] * vector, has, vector


def invertible(dims=3) -> VAE:
    """A model that encodes what it decodes to the very same code."""
    prior = Returns(lambda state: normal(torch.zeros(len(state), dims), torch.ones(len(state), dims)))
    rung = Rung(Returns(lambda h: normal(h, torch.ones_like(h))), prior, Concat())
    images = Returns(lambda z: normal(z.view(-1, 1, 1, dims), torch.ones(len(z), 1, 1, dims)))
    return VAE(Returns(lambda batch: [batch.x.flatten(1)]), [rung], nn.Identity(), images, (0,))


def test_the_vector_of_an_attribute_is_the_difference_of_the_groups():
    codes, has, vector = two_groups()
    assert torch.allclose(mean_difference(codes, has), vector, atol=0.15)
    with pytest.raises(ConfigError, match="4000 of 4000 training images"):
        mean_difference(codes, torch.ones(4000, dtype=torch.bool))


def test_a_probe_is_the_linear_discriminant_and_no_step_as_long_moves_its_logit_more():
    codes, has, vector = two_groups()
    probes = fit_probes(codes, has[:, None])
    discriminant = vector / torch.tensor([1.0, 0.25, 9.0])  # covariance^-1 (mean_1 - mean_0): two equal Gaussians
    assert torch.allclose(probes.weight[0], discriminant, atol=0.35)
    direction, steps = probe_direction(probes.weight[0], vector), torch.randn(1000, 3)
    steps = torch.cat([vector[None], vector.norm() * steps / steps.norm(dim=1, keepdim=True)])
    moved = probes.logits(steps) - probes.bias
    assert direction.norm() == pytest.approx(vector.norm().item())
    assert (probes.logits(direction[None]) - probes.bias).item() >= moved.max()


def test_a_probe_ranks_held_out_images_as_well_as_the_groups_can_be_told_apart():
    codes, has, vector = two_groups()
    distance = (vector.square() / torch.tensor([1.0, 0.25, 9.0])).sum().sqrt()  # Mahalanobis
    best = torch.distributions.Normal(0, 1).cdf(distance / 2**0.5).item()
    held_out, held_out_has, _ = two_groups()
    (area,) = areas(fit_probes(codes, has[:, None]), held_out, held_out_has[:, None])
    assert area == pytest.approx(best, abs=0.02)


def test_an_attribute_all_images_share_has_no_probe():
    codes, has, _ = two_groups()
    probes = fit_probes(codes, torch.stack([has, torch.ones_like(has)], 1))
    assert probes.weight[1].eq(0).all() and probes.weight[0].ne(0).any()


def test_the_effect_of_an_edit_is_counted_in_standard_deviations():
    codes, has, vector = two_groups()
    vae, probes = invertible(), fit_probes(codes, torch.stack([has, codes[:, 2] > 0], 1))
    x = codes[:500].view(-1, 1, 1, 3)
    moved = effect(vae, probes, x, vector, [0.0, 1.0, -2.0])
    logits = probes.logits(codes[:500])
    one = (probes.logits(codes[:500] + vector) - logits).mean(0) / logits.std(0)
    assert torch.allclose(moved, torch.stack([0 * one, one, -2 * one]), atol=1e-4)
    assert moved[1, 0] > 10 * moved[1, 1].abs()  # the other attribute lies in another dimension


@pytest.mark.slow
def test_commands_draw_a_trained_run(train, monkeypatch, capsys):
    answer = train("data=digits", "model=mlp_vae", "trainer.max_steps=30", "logger=none", "evaluate.nll.samples=2")

    def command(name, *arguments):
        monkeypatch.setattr(sys, "argv", ["variata", name, str(answer.run), *arguments])
        return main()

    for name in ("reconstruct", "interpolate", "traverse", "sample"):
        assert command(name, "--images", "6") == 0
    assert command("sample", "--sampler", "gmm", "--temperature", "0.5", "--out", str(answer.run / "gmm")) == 0
    drawn = {path.name for path in (answer.run / "images").iterdir()}
    assert {"reconstruct_test.png", "interpolate_test.gif", "traverse_test.png", "sample_prior.png"} <= drawn
    assert (answer.run / "gmm" / "sample_gmm.png").is_file()
    assert str(answer.run / "images" / "traverse_test.gif") in capsys.readouterr().out
    assert command("attributes", "--attribute", "Smiling") == 2
    assert "attributes" in capsys.readouterr().err
    for wrong in (["--seed", str(2**40)], ["--temperature", "nan"]):
        assert command("sample", *wrong) == 2
        assert "is a number from 0 to" in " ".join(capsys.readouterr().err.split())
    assert command("interpolate", "--steps", "1") == 2
    assert "--steps is a number from 2 to" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_attributes_are_applied_and_judged(train, faces, monkeypatch, capsys):
    options = [
        "data.shape=[3,32,32]",
        "data.batch_size=4",
        "model.encoder.channels=[4,4]",
        "model.encoder.blocks=[0,0]",
    ]
    place = [f"data.root={faces}", f"data.cache={faces}/cache", "callbacks.pictures.attributes=[Odd]"]
    answer = train("data=celeba", *options, *place, "trainer.max_steps=4", "logger=none", "evaluate.nll.samples=2")
    assert answer.code == 0, answer.err
    assert (answer.run / "images" / "attribute_Odd.png").is_file()
    monkeypatch.setenv("VARIATA_CACHE", f"{faces}/cache")
    arguments = ["--attribute", "Odd", "--images", "2", "--strengths", "-1", "2"]
    monkeypatch.setattr(sys, "argv", ["variata", "attributes", str(answer.run), *arguments])
    assert main() == 0
    assert "Odd: 4 of 8 training images" in capsys.readouterr().out
    found = json.loads((answer.run / "attributes.json").read_text())["Odd"]
    assert len(found["mean"]["vector"]) == 64 and list(found["mean"]["each"]) == ["Late"]
    assert Image.open(answer.run / "images" / "attribute_Odd_probe.png").size == (2 * 34, 2 * 34 + pictures.HEAD)
    monkeypatch.setattr(sys, "argv", ["variata", "attributes", str(answer.run), "--attribute", "Even"])
    assert main() == 2
    assert "There is no attribute Even in this data. Allowed: Odd, Late." in " ".join(capsys.readouterr().err.split())
    config = answer.run / "config.yaml"
    config.write_text(config.read_text().replace("latent: 64", "latent: 63"))
    with pytest.raises(RunError, match="holds another model"):
        load(answer.run)
