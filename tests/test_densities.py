"""Posteriors, priors and likelihoods are what they claim to be."""

import itertools
import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from variata.core import draw
from variata.distributions import bernoulli, mixture, normal
from variata.likelihoods import Bernoulli, Gaussian
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


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_gaussian_likelihood_integrates_to_one(scale):
    p = Gaussian((1, 1, 2), scale=scale)(torch.randn(1, 1, 1, 2))
    x, area = grid(-16, 16, 641)
    assert (p.log_prob(x.view(-1, 1, 1, 2)).double().exp() * area).sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("likelihood", [Bernoulli, Gaussian], ids=["bernoulli", "gaussian"])
def test_likelihood_gradient_matches_finite_differences(likelihood):
    p, y = likelihood((1, 2, 2)), torch.randn(1, 1, 2, 2, requires_grad=True)
    x = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    (gradient,) = torch.autograd.grad(p(y).log_prob(x).sum(), y)
    for i in range(4):
        step = torch.zeros(4)
        step[i] = 1e-2
        up, down = (p(y.detach() + sign * step.view_as(y)).log_prob(x).sum() for sign in (1, -1))
        assert ((up - down) / 2e-2).item() == pytest.approx(gradient.flatten()[i].item(), abs=2e-3)


@pytest.mark.parametrize("likelihood", [Bernoulli, Gaussian], ids=["bernoulli", "gaussian"])
def test_initial_parameters_have_the_mean_asked_for(likelihood):
    mean = 0.05 + 0.9 * torch.rand(1, 3, 3)
    p = likelihood((1, 3, 3))
    assert torch.allclose(p(p.initial(mean)[None]).mean[0], mean, atol=1e-5)


def test_fixed_scale_is_not_trained_and_learned_scale_is():
    assert not Gaussian((1, 1, 1), learned=False).log_scale.requires_grad
    assert Gaussian((1, 1, 1)).log_scale.requires_grad


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mixture((0,), (2,), None, components=0), "components=0"),
        (lambda: Gaussian((1, 1, 1), scale=0.0), "scale=0"),
        (lambda: GaussianPosterior((3,), (0,), (2,), bound=-1.0), "bound=-1"),
    ],
)
def test_impossible_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_independent_normal_is_torchs():
    mean, std, z = torch.randn(3, 2), torch.rand(3, 2) + 0.1, torch.randn(3, 2)
    assert torch.allclose(normal(mean, std).log_prob(z), Independent(Normal(mean, std), 1).log_prob(z))
