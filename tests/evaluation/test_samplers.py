from functools import partial

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, StudentT

from models import Held, Returns, conv, small
from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.distributions import tempered
from variata.errors import ConfigError
from variata.evaluation.samplers import MixtureSampler, PriorSampler, training_codes
from variata.priors import Mixture


def known_mixture() -> MixtureSameFamily:
    mean = torch.tensor([[-4.0, 0.0, 1.0], [3.0, 3.0, -2.0]])
    factor = torch.tensor([[[1.0, 0, 0], [0.8, 0.5, 0], [0, 0, 2]], [[0.3, 0, 0], [0, 1, 0], [-0.5, 0.5, 0.5]]])
    return MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7])), MultivariateNormal(mean, scale_tril=factor))


def test_mixture_fitted_to_draws_of_a_mixture_has_its_density():
    truth = known_mixture()
    sampler = MixtureSampler([truth.sample((20_000,))], components=2)
    x = truth.sample((20_000,))
    divergence = (truth.log_prob(x) - sampler.p.log_prob(x)).mean().item()  # KL(truth || fitted)
    assert abs(divergence) < 0.003  # 19 parameters / (2 * 20,000) = 0.0005 is expected
    assert MixtureSampler([truth.sample((20_000,))], components=1).p.log_prob(x).mean() < truth.log_prob(x).mean() - 0.3


def test_draws_of_a_fitted_mixture_have_the_mean_and_covariance_of_the_codes():
    codes = torch.distributions.Gamma(2.0, 1.0).sample((5_000, 2, 1, 2)) * torch.tensor([1.0, 3.0])
    (z,) = MixtureSampler([codes])(200_000)
    assert z.shape[1:] == codes.shape[1:]
    assert torch.allclose(z.mean(0), codes.mean(0), atol=0.05)  # EM keeps both moments
    assert torch.allclose(z.flatten(1).T.cov(), codes.flatten(1).T.cov(), rtol=0.03, atol=0.1)


def test_mixture_is_a_function_of_codes_and_seed_and_its_draws_differ():
    codes = torch.randn(500, 3)
    a, b = MixtureSampler([codes], seed=1), MixtureSampler([codes], seed=1)
    assert torch.equal(a.p.mean, b.p.mean)
    assert not torch.equal(*a(4), *a(4))


@pytest.mark.parametrize("t", [0.0, 0.5, 2.0])
def test_temperature_scales_the_deviation_from_the_component_mean(t):
    codes = known_mixture().sample((2_000,))
    warm, cold = MixtureSampler([codes], 2), MixtureSampler([codes], 2, temperature=t)
    within = warm.p.component_distribution.covariance_matrix
    assert torch.allclose(cold.p.component_distribution.covariance_matrix, t**2 * within, atol=1e-6)
    if t == 0:
        distance = torch.cdist(*cold(100), warm.p.component_distribution.mean)
        assert distance.min(1).values.max() < 1e-5 and distance.argmin(1).unique().tolist() == [0, 1]


def far_apart() -> VAE:
    """A model whose prior is a mixture of two Gaussians ten standard deviations apart, with weights 1/4 and 3/4."""
    vae = small(latent=2, prior=lambda **kw: Mixture(**kw, components=2))
    with torch.no_grad():
        vae.rungs[0].prior.mean.copy_(torch.tensor([[-5.0, 0.0], [5.0, 1.0]]))
        vae.rungs[0].prior.log_std.copy_(torch.tensor([[1.0, 2.0], [0.5, 1.0]]).log())
        vae.rungs[0].prior.logits.copy_(torch.tensor([1.0, 3.0]).log())
    return vae


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0, 2.0])
def test_a_gaussian_prior_at_a_temperature_is_a_gaussian_of_so_many_times_its_deviation(t):
    (z,) = PriorSampler(small(latent=2), t)(100_000)
    assert torch.allclose(z.mean(0), torch.zeros(2), atol=0.02)
    assert torch.allclose(z.T.cov(), t**2 * torch.eye(2), atol=0.02 * t**2 + 1e-9)


@pytest.mark.parametrize("t", [0.25, 0.5])
def test_a_mixture_prior_at_a_temperature_keeps_its_components_and_their_weights(t):
    vae = far_apart()
    (z,), prior = PriorSampler(vae, t)(100_000), vae.rungs[0].prior
    for m, weight in enumerate((0.25, 0.75)):
        drawn = z[(z[:, 0] > 0) == bool(m)]  # which component's: they do not meet below t = 1
        assert len(drawn) / len(z) == pytest.approx(weight, abs=0.01)
        assert torch.allclose(drawn.mean(0), prior.mean[m], atol=0.03)
        covariance = (t * prior.log_std[m].exp()).square().diag()
        assert torch.allclose(drawn.T.cov(), covariance, rtol=0.03, atol=0.01)


def test_draws_of_a_mixture_prior_are_the_likelier_the_colder_and_its_modes_at_zero():
    vae = far_apart()
    p = vae.rungs[0].prior(torch.zeros(1, 0))
    likely = [p.log_prob(*PriorSampler(vae, t)(20_000)).mean().item() for t in (2.0, 1.0, 0.5, 0.25, 0.0)]
    assert likely == sorted(likely)
    assert PriorSampler(vae, 0.0)(100)[0].unique(dim=0).tolist() == [[-5.0, 0.0], [5.0, 1.0]]


@pytest.mark.parametrize("model", [partial(small, latent=2), far_apart], ids=["normal", "mixture"])
def test_a_prior_at_temperature_one_is_the_prior_draw_for_draw(model):
    vae = model()
    torch.manual_seed(1)
    draw = vae.rungs[0].prior(torch.zeros(7, 0)).sample()
    torch.manual_seed(1)
    assert torch.equal(*PriorSampler(vae)(7), draw)


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_student_t_at_a_temperature_has_so_many_times_its_quantiles(t):
    p = Independent(StudentT(3.0, torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 0.5]])), 1)
    levels = torch.tensor([0.1, 0.5, 0.9])
    wide, narrow = (d.sample((100_000,))[:, 0].quantile(levels, 0) for d in (p, tempered(p, t)))
    location = p.base_dist.loc[0]
    assert torch.allclose(narrow - location, t * (wide - location), atol=0.03)


def test_temperature_of_a_prior_of_another_family_is_refused():
    class Unknown(torch.distributions.Distribution):
        def __init__(self, n):
            super().__init__((n,), (2,), validate_args=False)

        def sample(self):
            return torch.zeros(*self.batch_shape, 2)

    vae = small(latent=2)
    vae.rungs[0].prior = Returns(lambda state: Unknown(len(state)))
    assert PriorSampler(vae)(3)[0].shape == (3, 2)
    with pytest.raises(ConfigError, match=r"Unknown has none .* Leave the temperature at 1"):
        PriorSampler(vae, 0.5)(3)
    with pytest.raises(ValueError, match="-1"):
        PriorSampler(vae, -1)(3)


def test_training_codes_are_draws_of_the_aggregate_posterior():
    images = torch.rand(600, 1, 8, 8).round().to(torch.uint8)
    data = ImageDataModule(Held(images), batch_size=50)
    data.setup()
    vae = conv((1, 8, 8), latent=3)
    (z,), q = training_codes(vae, data), vae.encode(images.float())[0].q
    assert z.shape == (600, 3)
    assert torch.allclose(((z - q.mean) / q.stddev).std(0), torch.ones(3), atol=0.1)  # draws, not means
    assert len(training_codes(vae, data, images=200)[0]) == 200
