"""Posteriors, priors and likelihoods are what they claim to be."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy import stats
from torch.distributions import Independent, Normal, kl_divergence

from conftest import ROOT
from variata import distributions
from variata.config.targets import build, check
from variata.core import draw
from variata.distributions import LogisticLevels, bernoulli, continuous_bernoulli, mixture, normal
from variata.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    HeteroscedasticGaussian,
    Laplace,
    OptimalGaussian,
)
from variata.posteriors import Gaussian as GaussianPosterior
from variata.priors import Mixture, StandardNormal


def grid(low=-9.0, high=9.0, steps=361):
    """Points of the plane [M, 2] and the area of each."""
    line = torch.linspace(low, high, steps)
    return torch.cartesian_prod(line, line), (line[1] - line[0]).item() ** 2


def posterior():
    return GaussianPosterior((3,), (0,), (2,))(torch.randn(1, 3), torch.zeros(1, 0), None)


def mixture_prior():
    prior = Mixture((0,), (2,), None, components=4)
    with torch.no_grad():
        prior.logits.normal_()
        prior.log_std.normal_(0, 0.3)
    return prior(torch.zeros(1, 0))


DENSITIES = {
    "gaussian": posterior,
    "normal": lambda: StandardNormal((0,), (2,), None)(torch.zeros(1, 0)),
    "mixture": mixture_prior,
}


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)
def test_density_integrates_to_one(density):
    z, area = grid()
    total = (density().log_prob(z[:, None]).double().exp() * area).sum()
    assert total.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_kl_matches_quadrature_and_draws(prior):
    q, p = posterior(), DENSITIES[prior]()
    z, area = grid()
    log_q, log_p = q.log_prob(z[:, None]).double(), p.log_prob(z[:, None]).double()
    quadrature = (log_q.exp() * (log_q - log_p) * area).sum().item()
    draws = q.expand((100_000,))
    sample, log_density = draw(draws)
    estimate = (log_density - p.expand((100_000,)).log_prob(sample)).mean().item()
    assert estimate == pytest.approx(quadrature, abs=0.03)
    if prior == "normal":
        assert kl_divergence(q, p).item() == pytest.approx(quadrature, abs=1e-3)


def test_posterior_stays_finite_whatever_the_features():
    q = GaussianPosterior((3,), (0,), (2,))(1e6 * torch.randn(20, 3), torch.zeros(20, 0), None)
    assert q.stddev.isfinite().all() and (q.stddev > 0).all()
    assert q.stddev.max() <= math.exp(7.001)


def test_posterior_reads_the_state():
    q = GaussianPosterior((3,), (2,), (2,))
    h = torch.zeros(1, 3)
    assert not torch.equal(q(h, torch.zeros(1, 2), None).mean, q(h, torch.ones(1, 2), None).mean)


def test_reparameterised_gradient_is_the_gradient_of_the_mean():
    mean = torch.tensor([[0.3, -1.0]], requires_grad=True)
    z, _ = draw(normal(mean.expand(200_000, 2), torch.full((200_000, 2), 0.7)))
    (z**2).sum(1).mean().backward()  # E z^2 = mean^2 + 0.49
    assert torch.allclose(mean.grad, 2 * mean.detach(), atol=0.02)


def test_mixture_of_one_is_its_component():
    component = normal(torch.randn(1, 2), torch.rand(1, 2) + 0.5)
    z = torch.randn(7, 2)
    assert torch.allclose(mixture(torch.zeros(1), component, 7).log_prob(z), component.log_prob(z), atol=1e-5)


def test_densities_are_float32_under_mixed_precision():
    parts = normal(torch.zeros(2, 3).bfloat16(), torch.ones(2, 3).bfloat16()), bernoulli(torch.zeros(2, 3).bfloat16())
    assert all(part.log_prob(torch.zeros(2, 3)).dtype == torch.float32 for part in parts)


def test_bernoulli_sums_to_one_over_all_images():
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).view(64, 1, 2, 3)
    p = Bernoulli((1, 2, 3))(2 * torch.randn(1, 1, 2, 3)).expand((64,))
    assert p.log_prob(images).double().exp().sum().item() == pytest.approx(1, abs=1e-5)


REAL = {
    "gaussian": partial(Gaussian, scale=0.3),
    "gaussian per channel": partial(Gaussian, per="channel"),
    "gaussian per pixel": partial(Gaussian, per="pixel"),
    "laplace": Laplace,
    "heteroscedastic_gaussian": HeteroscedasticGaussian,
    "optimal_gaussian": lambda shape: OptimalGaussian(shape).eval(),
}
LEVELS = {
    "categorical": Categorical,
    "discretized_logistic": DiscretizedLogistic,
    "discretized_logistic_mixture": partial(DiscretizedLogisticMixture, components=3),
}
EIGHT_BIT = {**REAL, **LEVELS, "continuous_bernoulli": ContinuousBernoulli}


def density(likelihood, shape, spread=1.0, rows=1):
    """p(x | z) for parameters drawn at random, and the parameters."""
    p = likelihood(shape)
    y = (spread * torch.randn(rows, *p.parameter_shape)).requires_grad_()
    return p, y


@pytest.mark.parametrize("likelihood", REAL.values(), ids=REAL)
def test_likelihood_of_real_values_integrates_to_one(likelihood):
    p, y = density(likelihood, (1, 1, 2))
    x, area = grid(-16, 16, 1601)
    assert (p(y).log_prob(x.view(-1, 1, 1, 2)).double().exp() * area).sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("logit", [-300.0, -17.0, -0.6, -0.4, 0.0, 1e-3, 0.49, 0.51, 5.0, 40.0, 300.0])
def test_continuous_bernoulli_is_a_density_with_the_mean_it_says(logit):
    p = continuous_bernoulli(torch.full((1, 1), logit))
    x = torch.linspace(0, 1, 100_001)[:, None]
    density = p.log_prob(x).double().exp()
    total, mean = torch.trapezoid(density, dx=1e-5).item(), torch.trapezoid(x[:, 0] * density, dx=1e-5).item()
    assert total == pytest.approx(1, abs=1e-4) and p.mean.item() == pytest.approx(mean, abs=1e-4)


def test_continuous_bernoulli_is_torchs_where_that_is_right():
    logits, x = torch.linspace(-8, 8, 33), torch.rand(33)
    theirs = torch.distributions.ContinuousBernoulli(logits=logits.double()).log_prob(x.double())
    assert torch.allclose(continuous_bernoulli(logits[:, None]).log_prob(x[:, None]).double(), theirs, atol=2e-4)


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("likelihood", LEVELS.values(), ids=LEVELS)
def test_levels_sum_to_one(likelihood, spread):
    p, y = density(likelihood, (1, 1, 1), spread)
    levels = ((torch.arange(256) + 0.5) / 256).view(256, 1, 1, 1)
    mass = p(y.expand(256, -1, -1, -1)).log_prob(levels).double().exp() / 256
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)


def test_channels_of_the_logistic_mixture_sum_to_one_together(monkeypatch):
    monkeypatch.setattr(distributions, "LEVELS", 24)  # all colours of a pixel, summed by brute force
    p, y = density(partial(DiscretizedLogisticMixture, components=3), (3, 1, 1))
    line = (torch.arange(24) + 0.5) / 24
    colours = torch.cartesian_prod(line, line, line).view(-1, 3, 1, 1)
    mass = p(y.expand(len(colours), -1, -1, -1)).log_prob(colours).double().exp() / 24**3
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)


def test_discretized_logistic_is_the_difference_of_its_distribution_function():
    y = torch.tensor([0.3, -1.2]).view(1, 2, 1, 1)
    scale = math.exp(7 * math.tanh(-1.2 / 7))
    edges = np.concatenate([[-np.inf], np.arange(1, 256) / 128 - 1, [np.inf]])
    mass = np.diff(stats.logistic.cdf(edges, loc=0.3, scale=scale))
    levels = ((torch.arange(256) + 0.3) / 256).view(256, 1, 1, 1)  # anywhere in the level
    ours = DiscretizedLogistic((1, 1, 1))(y.expand(256, -1, -1, -1)).log_prob(levels).detach() - math.log(256)
    assert np.allclose(ours, np.log(mass), atol=1e-3)


@pytest.mark.parametrize("likelihood", LEVELS.values(), ids=LEVELS)
def test_levels_far_in_the_tail_keep_their_gradient(likelihood):
    p = likelihood((1, 1, 1))
    y = p.initial(torch.full((1, 1, 1), 0.999))[None].requires_grad_()
    log_p = p(30 * y).log_prob(torch.zeros(1, 1, 1, 1))
    (gradient,) = torch.autograd.grad(log_p.sum(), y)
    assert log_p.isfinite().all() and gradient.isfinite().all() and gradient.abs().max() > 0


def test_a_uniform_categorical_costs_eight_bits_a_value():
    log_p = Categorical((3, 2, 2))(torch.zeros(1, 768, 2, 2)).log_prob(torch.rand(1, 3, 2, 2))
    assert log_p.item() == pytest.approx(0, abs=1e-5)  # beside the uniform density of [0, 1)


@pytest.mark.parametrize("likelihood", EIGHT_BIT.values(), ids=EIGHT_BIT)
def test_likelihood_stays_finite_in_bfloat16(likelihood):
    p, y = density(likelihood, (3, 2, 2), spread=100.0, rows=50)
    x = torch.rand(50, 3, 2, 2)
    log_p = p(y.bfloat16()).log_prob(x)
    (gradient,) = torch.autograd.grad(log_p.sum(), y)
    assert log_p.dtype == torch.float32 and log_p.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("likelihood", [Bernoulli, *EIGHT_BIT.values()], ids=["bernoulli", *EIGHT_BIT])
def test_likelihood_gradient_matches_finite_differences(likelihood):
    p, y = density(likelihood, (1, 2, 2))
    x = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    (gradient,) = torch.autograd.grad(p(y).log_prob(x).sum(), y)
    for i in range(0, y.numel(), max(1, y.numel() // 8)):
        step = torch.zeros(y.numel())
        step[i] = 1e-2
        up, down = (p(y.detach() + sign * step.view_as(y)).log_prob(x).sum() for sign in (1, -1))
        assert ((up - down) / 2e-2).item() == pytest.approx(gradient.flatten()[i].item(), abs=5e-3, rel=5e-3)


@pytest.mark.parametrize("likelihood", [Bernoulli, *EIGHT_BIT.values()], ids=["bernoulli", *EIGHT_BIT])
def test_initial_parameters_have_the_mean_asked_for(likelihood):
    mean, p = 0.2 + 0.6 * torch.rand(3, 2, 2), likelihood((3, 2, 2))
    tolerance = 0.06 if "discretized" in type(p).__name__.lower() else 3e-3 if p.accepts == {"8-bit"} else 1e-5
    assert torch.allclose(p(p.initial(mean)[None]).mean[0], mean, atol=tolerance)


@pytest.mark.parametrize("likelihood", [*LEVELS.values(), ContinuousBernoulli], ids=[*LEVELS, "continuous_bernoulli"])
def test_draws_have_the_mean_of_the_likelihood(likelihood):
    p, y = density(likelihood, (3, 1, 1))
    many = p(y.detach().expand(40_000, -1, -1, -1))
    x = many.sample()
    assert x.shape == (40_000, 3, 1, 1) and x.min() >= 0 and x.max() <= 1
    assert torch.allclose(x.mean(0), many.mean[0], atol=0.02)


def logistics(rows, components, channels):
    """Pixels of random colours, whose scales go from a tenth of a level to seven times the range."""
    shape = (rows, components, channels, 1, 1)
    coefficients = torch.randn(rows, components, channels * (channels - 1) // 2, 1, 1).tanh()
    log_scale = torch.empty(shape).uniform_(-7, 2)
    return LogisticLevels(torch.randn(rows, components, 1, 1), torch.randn(shape), log_scale, coefficients)


def repeated(p, times):
    """Each row of logistics so many times in a row."""
    parts = (p.log_weight, p.location, p.log_scale, p.coefficients)
    return LogisticLevels(*(part.repeat_interleave(times, 0) for part in parts))


CENTRES = (torch.arange(256) + 0.5) / 256


def test_the_mean_over_levels_is_the_sum_over_all_of_them():
    p = logistics(300, 3, 1)
    mass = repeated(p, 256).log_prob(CENTRES.repeat(300).view(-1, 1, 1, 1)).double().exp().view(300, 256) / 256
    assert (256 * (p.mean.flatten() - mass @ CENTRES.double())).abs().max() < 0.02


def test_the_mean_of_channels_that_do_not_follow_one_another_is_that_of_each():
    p = logistics(50, 3, 2)
    both = LogisticLevels(p.log_weight, p.location, p.log_scale).mean
    each = [LogisticLevels(p.log_weight, p.location[:, :, [c]], p.log_scale[:, :, [c]]).mean for c in range(2)]
    assert torch.allclose(both, torch.cat(each, 1))
    p.coefficients.zero_()
    assert torch.allclose(both, p.mean, atol=0.6 / 256)


def test_the_mean_of_a_channel_that_follows_another_is_the_sum_over_all_colours():
    p, colours = logistics(20, 2, 2), torch.cartesian_prod(CENTRES, CENTRES)
    mass = repeated(p, 256**2).log_prob(colours.repeat(20, 1).view(-1, 2, 1, 1)).double().exp().view(20, -1) / 256**2
    error = 256 * (p.mean.flatten(1) - mass @ colours.double()).abs()
    assert error[:, 0].max() < 0.02 and error[:, 1].max() < 2 and error[:, 1].mean() < 0.3


def test_the_mean_of_a_colour_is_that_of_its_draws():
    p, n = logistics(40, 3, 3), 10_000
    draws = repeated(p, n).sample().view(40, n, 3)
    error, noise = (p.mean.flatten(1) - draws.mean(1)).abs(), draws.std(1) / n**0.5
    assert (error < 5 * noise + 2 / 256).all()  # two levels are the quadrature's at worst
    assert error.mean() < noise.mean() + 0.2 / 256


def test_the_optimal_scale_is_the_most_likely_one_and_needs_no_gradient():
    p, mean, x = OptimalGaussian((1, 3, 3)), torch.randn(4, 1, 3, 3).requires_grad_(), torch.rand(4, 1, 3, 3)
    best = p(mean).log_prob(x).sum()
    others = [normal(mean, s.expand_as(mean)).log_prob(x).sum().item() for s in torch.linspace(0.2, 3, 300)]
    assert best.item() >= max(others) == pytest.approx(best.item(), abs=0.01)
    square = (x - mean).square().mean()
    profile = -0.5 * x.numel() * (square.log() + 1 + math.log(2 * math.pi))
    ours, theirs = (torch.autograd.grad(value, mean)[0] for value in (best, profile))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_optimal_scale_forgets_a_batch_that_is_not_finite():
    p, x = OptimalGaussian((1, 1, 2)), torch.full((2, 1, 1, 2), 2.0)
    p(torch.zeros(2, 1, 1, 2)).log_prob(x)
    p(torch.full((2, 1, 1, 2), math.nan)).log_prob(x)
    p(torch.zeros(2, 1, 1, 2)).log_prob(x)
    assert p.variance.item() == pytest.approx(4.0) and p.batches.item() == 2


def test_the_optimal_scale_is_remembered_for_evaluation():
    p = OptimalGaussian((1, 1, 2), momentum=0.5)
    for error in (1.0, 3.0, 5.0):
        p(torch.zeros(2, 1, 1, 2)).log_prob(torch.full((2, 1, 1, 2), error))
    variance = (0.5 * (0.5 * (1 + 9)) + 0.5 * 25) * torch.ones(1, 1, 1, 2)  # mean of the first two, then halves
    assert torch.allclose(p.eval()(torch.zeros(1, 1, 1, 2)).variance, variance)


@pytest.mark.parametrize("option", sorted(path.stem for path in (ROOT / "conf" / "likelihood").glob("*.yaml")))
def test_every_option_file_builds(option):
    node = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "likelihood" / f"{option}.yaml"))
    check(node, "likelihood")
    p = build(node, "likelihood")(shape=(3, 2, 2))
    x = torch.rand(5, 3, 2, 2)
    assert p(torch.zeros(5, *p.parameter_shape)).log_prob(x).shape == (5,)


def test_fixed_scale_is_not_trained_and_learned_scale_is():
    assert not Gaussian((1, 1, 1), learned=False).log_scale.requires_grad
    assert Gaussian((1, 1, 1)).log_scale.requires_grad


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mixture((0,), (2,), None, components=0), "components=0"),
        (lambda: Gaussian((1, 1, 1), scale=0.0), "scale=0"),
        (lambda: HeteroscedasticGaussian((1, 1, 1), scale=-1.0), "scale=-1"),
        (lambda: DiscretizedLogistic((1, 1, 1), scale=0.0), "scale=0"),
        (lambda: DiscretizedLogisticMixture((1, 1, 1), components=0), "components=0"),
        (lambda: OptimalGaussian((1, 1, 1), momentum=0.0), "momentum"),
        (lambda: GaussianPosterior((3,), (0,), (2,), bound=-1.0), "bound=-1"),
    ],
)
def test_impossible_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_independent_normal_is_torchs():
    mean, std, z = torch.randn(3, 2), torch.rand(3, 2) + 0.1, torch.randn(3, 2)
    assert torch.allclose(normal(mean, std).log_prob(z), Independent(Normal(mean, std), 1).log_prob(z))
