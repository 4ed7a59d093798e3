import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from models import LinearGaussian, conv, resnet, small, two_rungs
from variata.core import Batch, Latent
from variata.likelihoods import DiscretizedLogistic
from variata.priors import Mixture, Prior


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


def test_a_given_latent_is_scored_with_the_density_of_q():
    for rung, shape in zip(two_rungs().rungs, [(2, 2), (4, 4)], strict=True):
        h, state, z = torch.randn(5, 4, *shape), torch.randn(5, 4, *shape), torch.randn(5, 3, *shape)
        latent, below = rung(state, h, z=z)
        mean, log_std = latent.q.mean, latent.q.stddev.log()
        by_hand = -0.5 * ((z - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
        assert latent.z is z and torch.allclose(latent.log_q, by_hand.flatten(1).sum(1), atol=1e-4)
        assert torch.equal(below, rung.merge(state, z))
        assert torch.equal(rung(state, z=z)[0].log_q, latent.p.log_prob(z))  # without features q is p


def test_log_joint_is_the_evidence_and_the_exact_posterior():
    model = LinearGaussian()
    x, z = model.p.sample((6,)), torch.randn(6, 2, dtype=torch.float64)
    assert torch.allclose(
        model.vae(model.prior_like).log_joint(x, z), model.p.log_prob(x) + model.posterior(x).log_prob(z), atol=1e-9
    )


def test_log_joint_of_a_ladder_is_what_its_weights_are_made_of():
    vae, x = two_rungs(), torch.rand(5, 1, 8, 8).round()
    trace = vae(x)
    log_q = sum(latent.log_q for latent in trace.latents)
    joint = vae.log_joint(x, *(latent.z for latent in trace.latents))
    assert torch.allclose(joint, trace.log_w[0] + log_q, atol=1e-3)
    with pytest.raises(ValueError, match="shorter"):
        vae.log_joint(x, trace.latents[0].z)


def test_codes_are_what_posteriors_without_noise_would_draw():
    for vae in (small(), two_rungs()):
        for rung in vae.rungs:
            mean, log_std = rung.posterior.head.bias.detach().chunk(2)
            mean.normal_(), log_std.fill_(-1e3)  # std = e^-7, the least there is
        shape = (1, 4, 4) if len(vae.rungs) == 1 else (1, 8, 8)
        x = torch.rand(5, *shape).round()
        codes, drawn = vae.codes(x), vae.encode(x)
        assert len(codes) == len(drawn)
        for code, latent in zip(codes, drawn, strict=True):
            assert torch.allclose(code, latent.z, atol=0.02) and code.std() > 0.1


def test_codes_of_a_flat_model_are_the_means_of_its_posterior():
    vae, x = small(), torch.rand(5, 1, 4, 4).round()
    (code,) = vae.codes(x)
    assert torch.equal(code, vae.encode(x)[0].q.mean)


def test_a_model_is_on_the_device_of_its_parameters():
    vae = small()
    assert vae.device == torch.device("cpu") and vae.to("meta").device == torch.device("meta")


def test_images_and_a_batch_of_them_are_the_same():
    vae, x = small(), torch.rand(3, 1, 4, 4).round()
    assert torch.equal(vae(x).latents[0].q.mean, vae(Batch(x, torch.arange(3))).latents[0].q.mean)
    assert torch.equal(vae(Batch(x)).x, x)
