import math

import pytest
import torch
from PIL import Image
from torch import nn
from torch.distributions import Distribution
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from models import Held, Returns, small
from variata.core import VAE, Concat, Rung
from variata.data.module import ImageDataModule
from variata.data.pixels import dequantise
from variata.distributions import mixture, normal
from variata.evaluation import pictures
from variata.evaluation.codes import code
from variata.evaluation.pictures import grid, pairs
from variata.evaluation.samplers import MixtureSampler, PriorSampler, training_codes
from variata.training.callbacks import Pictures


def test_grid_keeps_pixels_and_order():
    images = torch.arange(6).view(6, 1, 1, 1) / 5 * torch.ones(6, 1, 2, 3)
    picture = grid(images, columns=4)  # two rows, the second half empty; a line of 1 around each image
    assert picture.dtype == torch.uint8 and picture.shape == (2 * 4, 4 * 5, 1)
    centres = [picture[1 + 4 * (i // 4), 1 + 5 * (i % 4), 0].item() for i in range(6)]
    assert centres == [0, 51, 102, 153, 204, 255]


def test_grid_keeps_colours_apart():
    image = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    assert grid(image, columns=1)[1, 1].tolist() == [255, 128, 0]


def test_pairs_alternate():
    x = torch.zeros(2, 1, 1, 1)
    assert pairs(x, x + 1).flatten().tolist() == [0, 1, 0, 1]


def test_an_interpolation_begins_and_ends_at_the_images_codes():
    vae, x = small(), torch.rand(6, 1, 4, 4).round()
    path = pictures.interpolation(vae, x, steps=5)
    ends = vae.decode(code(vae, x)).mean
    assert path.shape == (3, 5, 1, 4, 4)
    assert torch.allclose(path[:, 0], ends[:3]) and torch.allclose(path[:, -1], ends[3:], atol=1e-6)


def test_an_edit_of_no_strength_is_the_decoded_code_and_a_traversal_moves_one_dimension():
    vae, x = small(), torch.rand(5, 1, 4, 4).round()
    z = code(vae, x)
    assert torch.allclose(pictures.edits(vae, x, torch.ones(3), [0.0])[:, 0], vae.decode(z).mean)
    kl = vae.encode(x)[0].kl_per_dim.mean(0)
    first = z[:1].clone()
    first[:, kl.argmax()] = 3.0
    assert torch.allclose(pictures.traversal(vae, x, 2, steps=4).images[0, -1], vae.decode(first).mean[0])


class Heavy(Distribution):
    """A prior whose moments no formula is known of."""

    def __init__(self, n):
        super().__init__((n,), (5,), validate_args=False)

    def log_prob(self, z):
        return -z.square().sum(-1)


MEAN, DEVIATION = torch.tensor([2.0, -1.0, 0.0, 5.0, 1.0]), torch.tensor([1.0, 0.5, 2.0, 1.0, 3.0])  # of the prior


def live_and_dead(prior) -> VAE:
    """Codes of five dimensions: 1 and 3 tell of the image, 3 more of it; the others are noise like the prior."""

    def posterior(h):
        live, noise = torch.tensor([0.0, 0.4, 0.0, 0.9, 0.0]), torch.tensor([1.0, 0.1, 1.0, 0.1, 1.0])
        return normal(MEAN + live * DEVIATION * h[:, :1], noise * DEVIATION.expand(len(h), 5))

    shown = Returns(lambda z: normal(z.view(-1, 1, 1, 5), torch.ones(len(z), 1, 1, 5)))
    rung = Rung(Returns(posterior), Returns(lambda state: prior(len(state))), Concat())
    return VAE(Returns(lambda batch: [batch.x.flatten(1)]), [rung], nn.Identity(), shown, (0,))


def gaussian(n):
    return normal(MEAN.expand(n, 5), DEVIATION.expand(n, 5))


def two_modes(n):  # of the same mean and standard deviation
    offset = torch.stack([-0.6 * DEVIATION, 0.6 * DEVIATION])
    return mixture(torch.zeros(2), normal(MEAN + offset, 0.8 * DEVIATION.expand(2, 5)), n)


@pytest.mark.parametrize("prior", [gaussian, two_modes, Heavy], ids=["gaussian", "mixture", "unknown"])
def test_a_traversal_begins_with_what_carries_most_and_leaves_noise_to_the_end(prior):
    x = torch.randn(500, 1, 1, 5)
    moved = pictures.traversal(live_and_dead(prior), x, dimensions=3)
    assert moved.dimensions[:2] == [3, 1] and moved.dimensions[2] in (0, 2, 4)
    assert moved.scores[2] < 1e-6 < moved.scores[1] < moved.scores[0]
    slope, h = torch.tensor([0.9, 0.4]), x[:, :, 0, 0]  # in standard deviations, of which q has 0.1
    kl = ((slope * h).square().mean(0) + 0.01 - 1) / 2 - math.log(0.1)
    variance = (slope * DEVIATION[[3, 1]] * h).var(0, correction=0)
    assert torch.allclose(moved.scores[:2], kl if prior is gaussian else variance, atol=1e-4)
    assert moved.score == ("KL in nats" if prior is gaussian else "variance of the posterior means")


@pytest.mark.parametrize("prior", [gaussian, two_modes], ids=["gaussian", "mixture"])
def test_a_traversal_reaches_three_standard_deviations_of_the_prior(prior):
    moved = pictures.traversal(live_and_dead(prior), torch.randn(50, 1, 1, 5), dimensions=5, steps=3)
    for row, dimension in enumerate(moved.dimensions):
        values = MEAN[dimension] + DEVIATION[dimension] * torch.tensor([-3.0, 0.0, 3.0])
        assert torch.allclose(moved.images[row, :, 0, 0, dimension], values, atol=1e-5)
        assert torch.allclose(moved.values[row], values, atol=1e-5)
    assert "standard deviations of the prior" in moved.caption


def test_a_traversal_reaches_over_the_codes_where_the_prior_has_no_moments():
    vae, x = live_and_dead(Heavy), torch.randn(20_000, 1, 1, 5)
    moved = pictures.traversal(vae, x, dimensions=5, steps=3)
    z = vae.encode(x)[0].z[:, moved.dimensions]
    reach = torch.stack([z.mean(0) - 3 * z.std(0), z.mean(0), z.mean(0) + 3 * z.std(0)], 1)
    assert torch.allclose(moved.values, reach, atol=0.25)
    assert "standard deviations of the codes" in moved.caption


def test_moving_pictures_are_a_row_each_and_a_film_there_and_back(tmp_path):
    images = torch.rand(5, 4, 3, 6, 6)
    still, film = pictures.save_moving(images, tmp_path / "x")
    assert Image.open(still).size == (4 * 8, 5 * 8)
    assert torch.equal(
        torch.tensor(list(Image.open(still).getpixel((1, 1)))), (images[0, 0, :, 0, 0] * 255).round().int()
    )
    assert Image.open(film).n_frames == 6 and Image.open(film).size == (3 * 8, 2 * 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.gif", "x.png"]


def ink(picture, columns):
    """Bright pixels over each column of a picture that has a line of labels, counted."""
    return [part.sum().item() for part in (picture[: pictures.HEAD, :, 0] > 128).chunk(columns, 1)]


def test_labels_stand_over_their_columns_and_leave_the_pictures_as_they_are():
    picture = grid(torch.rand(6, 3, 20, 30), columns=3)
    labelled = pictures.headed(picture, ["+1", "", "-0.5"])
    assert torch.equal(labelled[pictures.HEAD :], picture)
    first, none, last = ink(labelled, 3)
    assert first > 0 == none and last > first  # four characters take more ink than two
    assert ink(pictures.headed(picture, ["+1", "+1.23456789", "+1"]), 3) == [first, 0, first]  # no room in 32 pixels


def test_labels_of_steps_are_over_the_still_and_on_the_frames(tmp_path):
    still, film = pictures.save_moving(torch.zeros(1, 3, 1, 20, 20), tmp_path / "x", ["-1", "+0", "+1"])
    assert Image.open(still).size == (3 * 22, 22 + pictures.HEAD)
    assert Image.open(film).n_frames == 4 and Image.open(film).size == (22, 22 + pictures.HEAD)


def test_grey_pictures_are_grey(tmp_path):
    assert Image.open(pictures.save(pictures.grid(torch.rand(2, 1, 3, 3), 2), tmp_path / "x.png")).mode == "L"


# --- a ladder of feature maps -----------------------------------------------------------------------------------------


class Raise(nn.Module):
    """Merges z [N, C, H, W] into a state of half its size."""

    def forward(self, state, z):
        return torch.cat([interpolate(state, size=z.shape[2:]), z], 1)


def ladder() -> VAE:
    """Two rungs of maps, [3, 2, 2] above [2, 4, 4]: the lower prior lies around the state above, [N, 1 + 3, 2, 2]."""
    scale = torch.tensor([0.5, 0.1, 1.0]).view(3, 1, 1)  # of the upper posterior: its channel 1 tells most
    upper = Rung(
        Returns(lambda h: normal(h, scale.expand_as(h))),
        Returns(lambda state: normal(torch.zeros(len(state), 3, 2, 2), torch.ones(len(state), 3, 2, 2))),
        Raise(),
    )
    wide = torch.full((1, 2, 4, 4), 2.0)
    around = Returns(lambda state: normal(mean := interpolate(state, size=(4, 4))[:, 1:3], wide.expand_as(mean)))
    lower = Rung(Returns(lambda h: normal(h, torch.full_like(h, 0.05))), around, Raise())
    encoder = Returns(lambda b: [adaptive_avg_pool2d(b.x, 2).expand(-1, 3, -1, -1), torch.cat([b.x, -b.x], 1)])
    decoder = nn.Conv2d(1 + 3 + 2, 1, 3, padding=1)
    shown = Returns(lambda y: normal(y.sigmoid(), torch.ones_like(y)))
    return VAE(encoder, [upper, lower], decoder, shown, (1, 2, 2))


def test_an_interpolation_of_a_ladder_ends_at_the_reconstructions_of_the_codes_of_all_rungs():
    vae, x = ladder(), torch.rand(6, 1, 4, 4)
    path, ends = pictures.interpolation(vae, x, steps=5), vae.decode(*vae.codes(x)).mean
    assert path.shape == (3, 5, 1, 4, 4)
    assert torch.allclose(path[:, 0], ends[:3]) and torch.allclose(path[:, -1], ends[3:], atol=1e-6)
    between = vae.decode(*((z[:3] + z[3:]) / 2 for z in vae.codes(x))).mean
    assert torch.allclose(path[:, 2], between, atol=1e-6)


def test_a_traversal_of_a_ladder_moves_channels_of_any_rung_and_says_which():
    vae, x = ladder(), torch.rand(50, 1, 4, 4)
    moved = pictures.traversal(vae, x, dimensions=5, steps=3)
    assert sorted(zip(moved.rungs, moved.dimensions, strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert moved.images.shape == (5, 3, 1, 4, 4) and moved.values.shape == (5, 3)
    assert "1.0" in moved.names and all(name in moved.caption for name in moved.names)
    kl = [latent.kl_per_dim.mean(0).sum((1, 2)) for latent in vae.encode(x)]
    for rung, channel, score in zip(moved.rungs, moved.dimensions, moved.scores, strict=True):
        assert score.item() == pytest.approx(kl[rung][channel].item(), rel=0.1)  # of draws of their own
    assert moved.scores.diff().max() <= 0
    for row, (rung, channel) in enumerate(zip(moved.rungs, moved.dimensions, strict=True)):
        z = [own[:1].clone() for own in vae.codes(x)]
        mean = interpolate(z[0], size=(4, 4))[0, channel] if rung else torch.zeros(2, 2)  # of the prior, given above
        z[rung][0, channel] = mean + (1 + rung) * 3
        assert torch.allclose(moved.images[row, -1], vae.decode(*z).mean[0], atol=1e-6)


def test_a_ladder_is_edited_and_sampled_in_all_its_rungs():
    vae, x = ladder(), torch.rand(40, 1, 4, 4)
    z = code(vae, x)
    assert z.shape == (40, 3 * 2 * 2 + 2 * 4 * 4)
    direction = torch.zeros(44)
    direction[-1] = 1.0  # the last place of the lower rung's last channel
    edited = pictures.edits(vae, x, direction, [0.0, 2.0])
    codes = [own.clone() for own in vae.codes(x)]
    assert torch.allclose(edited[:, 0], vae.decode(*codes).mean, atol=1e-6)
    codes[1][:, 1, 3, 3] += 2
    assert torch.allclose(edited[:, 1], vae.decode(*codes).mean, atol=1e-6)
    drawn = MixtureSampler([torch.randn(500, 3, 2, 2), 5 + torch.randn(500, 2, 4, 4)], components=1)(300)
    assert [part.shape for part in drawn] == [(300, 3, 2, 2), (300, 2, 4, 4)]
    assert abs(drawn[0].mean()) < 0.3 and abs(drawn[1].mean() - 5) < 0.3
    assert vae.decode(*drawn).mean.shape == vae.decode(*PriorSampler(vae)(300)).mean.shape == (300, 1, 4, 4)


def test_a_ladder_has_the_pictures_that_every_run_has():
    grey = torch.randint(0, 256, (60, 1, 4, 4), dtype=torch.uint8)
    data = ImageDataModule(Held(grey, dequantise, "8-bit", {"val": grey}), 20)
    data.setup()
    with torch.no_grad():
        drawn = Pictures(images=16, dimensions=5)._pictures(ladder(), data)
        z = training_codes(ladder(), data)
    assert {name: tuple(picture.shape) for name, (picture, _) in drawn.items()} == {
        "reconstructions": (2 * 6, 16 * 6, 1),
        "samples": (2 * 6, 8 * 6, 1),
        "interpolation": (8 * 6, 11 * 6, 1),
        "traversal": (5 * 6, 11 * 6, 1),
    }
    assert [part.shape for part in z] == [(60, 3, 2, 2), (60, 2, 4, 4)]
