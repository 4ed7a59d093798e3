import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from models import LinearGaussian, conv, resnet, small
from variata.core import VAE, Latent, Rung
from variata.likelihoods import Bernoulli, DiscretizedLogistic
from variata.networks.blocks import Residual
from variata.posteriors import Gaussian
from variata.priors import Mixture, Prior, StandardNormal


def test_elbo_with_the_exact_posterior_is_log_p():
    model = LinearGaussian()
    x = model.p.sample((6,))
    log_w = model.vae(model.posterior)(x, samples=3).log_w
    assert torch.allclose(log_w, model.p.log_prob(x).expand(3, -1), atol=1e-9)


def test_bounds_climb_to_log_p_with_the_number_of_samples():
    model = LinearGaussian()
    x = model.p.sample((20,))
    vae, exact = model.vae(model.prior_like), model.p.log_prob(x).mean()
    log_w = vae(x, samples=100_000).log_w  # one pool of weights, cut into groups of K: means over 100,000 / K bounds
    bounds = [(log_w.unflatten(0, (-1, k)).logsumexp(1) - math.log(k)).mean().item() for k in (1, 10, 100, 10_000)]
    assert bounds == sorted(bounds)
    assert bounds[0] < exact - 1
    assert bounds[-1] == pytest.approx(exact.item(), abs=0.05)
    assert bounds[-1] < exact + 0.05


def test_rows_are_sample_times_batch_plus_image():
    vae = small()
    x = torch.rand(3, 1, 4, 4).round()
    trace = vae(x, samples=4)
    by_hand = trace.px.log_prob(torch.cat([x] * 4)).view(4, 3)
    assert torch.equal(trace.log_px, by_hand)
    assert trace.kl.shape == (1, 4, 3)
    assert torch.equal(trace.kl[0, 0], trace.kl[0, 3])  # q is the same for every sample of an image


@pytest.mark.parametrize("model", [conv, resnet])
def test_a_batch_is_its_images(model):
    vae = model((1, 8, 8))
    x = torch.rand(6, 1, 8, 8).round()
    whole = vae(x).kl
    single = torch.cat([vae(x[i : i + 1]).kl for i in range(6)], 2)
    assert torch.allclose(whole, single, atol=1e-5)


def test_decode_is_the_lower_half_of_a_pass():
    vae = small()
    trace = vae(torch.rand(5, 1, 4, 4).round())
    again = vae.decode(*[latent.z for latent in trace.latents])
    assert torch.equal(again.mean, trace.px.mean)


def test_generating_draws_from_the_prior():
    vae = small()
    latent, _ = vae.rungs[0](torch.zeros(50_000, 0))
    assert latent.q is latent.p
    assert torch.equal(latent.log_ratio, torch.zeros(50_000))
    assert latent.z.mean().abs() < 0.02 and (latent.z.var() - 1).abs() < 0.02


def test_kl_is_exact_where_known_and_the_estimate_elsewhere():
    q = Independent(Normal(torch.ones(4, 2), 0.5), 1)
    p = Independent(Normal(torch.zeros(4, 2), 1.0), 1)
    z = q.sample()
    exact = Latent(z, q.log_prob(z), q, p)
    assert torch.allclose(exact.kl, torch.full((4,), 2 * (math.log(2) + (0.25 + 1) / 2 - 0.5)))
    assert torch.allclose(exact.kl_per_dim.sum(1), exact.kl)
    mixture = Mixture((0,), (2,), None, components=3)(torch.zeros(4, 0))
    estimate = Latent(z, q.log_prob(z), q, mixture)
    assert torch.equal(estimate.kl, estimate.log_ratio)
    assert estimate.kl_per_dim is None


@pytest.mark.parametrize("model", [conv, resnet])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64), (2, 13, 10)], ids=str)
def test_conv_models_fit_any_size_and_channel_count(shape, model):
    vae = model(shape)
    trace = vae(torch.rand(2, *shape).round())
    assert trace.px.event_shape == shape and trace.px.batch_shape == (2,)


def test_a_copy_follows_its_own_encoder():
    class FromEncoder(Prior):
        def __init__(self, state, event, encode):
            super().__init__()
            self.encode = encode
            self.x = nn.Parameter(torch.rand(1, 1, 4, 4))

        def forward(self, state):
            return self.encode(self.x).expand((len(state),))

    vae = small(prior=FromEncoder)
    twin = copy.deepcopy(vae)
    before = [m.rungs[0].prior(torch.zeros(1, 0)).mean for m in (vae, twin)]
    with torch.no_grad():
        for parameter in twin.encoder.parameters():
            parameter.add_(1)
    after = [m.rungs[0].prior(torch.zeros(1, 0)).mean for m in (vae, twin)]
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


class Pyramid(nn.Module):
    """Two feature maps, the coarser on top."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x):
        fine = self.fine(x).relu()
        return [self.coarse(fine), fine]


class Conditional(Prior):
    """p(z | state): a Gaussian whose parameters are read from the state by a posterior without features."""

    def __init__(self, state, event, encode=None):
        super().__init__()
        self.head = Gaussian((0, *state[1:]), state, event)

    def forward(self, state):
        return self.head(state[:, :0], state, None)


class Upsample(nn.Module):
    """Adds z to the state and doubles its size."""

    def __init__(self, state, event):
        super().__init__()
        self.z, self.block = nn.Conv2d(event[0], state[0], 1), Residual(state[0])

    def forward(self, state, z):
        return nn.functional.interpolate(self.block(state + self.z(z)), scale_factor=2)


def two_rungs() -> VAE:
    top, low, prior = (4, 2, 2), (4, 4, 4), {0: StandardNormal, 1: Conditional}
    rungs = [
        Rung(Gaussian(size, size, (3, *size[1:])), prior[i](size, (3, *size[1:]), None), Upsample(size, (3,)))
        for i, size in enumerate((top, low))
    ]
    return VAE(Pyramid(), rungs, nn.Conv2d(4, 1, 3, padding=1), Bernoulli((1, 8, 8)), top)


def test_a_ladder_is_built_from_the_same_parts():
    vae = two_rungs()
    x = torch.rand(5, 1, 8, 8).round()
    trace = vae(x, samples=2)
    assert trace.kl.shape == (2, 2, 5)
    assert [tuple(latent.z.shape[1:]) for latent in trace.latents] == [(3, 2, 2), (3, 4, 4)]
    (trace.kl.sum(0) - trace.log_px).mean().backward()
    silent = [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [name for name in silent if "block.outer" not in name and "block.inner" not in name]  # start at zero
    assert vae.sample(3).mean.shape == (3, 1, 8, 8)
    assert vae.decode(trace.latents[0].z).mean.shape == (10, 1, 8, 8)  # the lower rung comes from its prior


def test_a_ladder_generates_every_rung_at_a_temperature():
    vae, state = two_rungs(), torch.randn(1, 4, 4, 4).expand(20_000, -1, -1, -1)
    with torch.no_grad():
        latent, _ = vae.rungs[1](state, temperature=0.5)  # its prior depends on the state
        assert torch.allclose(latent.z.mean(0), latent.p.mean[0], atol=0.05)
        assert torch.allclose(latent.z.std(0), 0.5 * latent.p.stddev[0], rtol=0.05)
        cold, given = vae.sample(4, temperature=0.0).mean, vae.decode(torch.zeros(4, 3, 2, 2), temperature=0.0).mean
    assert torch.equal(cold, cold[:1].expand_as(cold)) and torch.equal(given, cold)  # each rung is at its prior's mean
    assert not torch.equal(vae.decode(torch.zeros(1, 3, 2, 2)).mean, given[:1])


class Reconstruct(nn.Module):
    """The pictures of the codes of images, without a draw."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x):
        return self.vae.decode(self.vae.encode(x)[0].q.mean, temperature=0.0).mean


def mixed():
    return small((3, 4, 4), prior=Mixture, likelihood=DiscretizedLogistic)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: conv((1, 8, 8)), (1, 8, 8)),
        (lambda: resnet((1, 8, 8)), (1, 8, 8)),
        (mixed, (3, 4, 4)),
        (two_rungs, (1, 8, 8)),
    ],
    ids=["conv", "resnet", "mixture", "ladder"],
)
def test_a_model_exported_from_three_images_takes_any_number(model, shape):
    whole = Reconstruct(model()).eval()
    exported = torch.export.export(whole, (torch.rand(3, *shape),), dynamic_shapes=({0: torch.export.Dim("n")},))
    for n in (2, 7):
        x = torch.rand(n, *shape)
        assert torch.allclose(exported.module()(x), whole(x), atol=1e-6)


def test_a_ladder_weighs_all_its_rungs():
    trace = two_rungs()(torch.rand(5, 1, 8, 8).round())
    parts = [latent.p.log_prob(latent.z) - latent.q.log_prob(latent.z) for latent in trace.latents]
    assert torch.allclose(trace.log_w[0], trace.log_px[0] + sum(parts), atol=1e-4)
