import math

import pytest
import torch

from models import LinearGaussian, small
from variata.core import Latent, Trace, repeat
from variata.distributions import normal
from variata.evaluation.bound import Bound
from variata.evaluation.nll import Estimate, MeanNLL, importance_weighted
from variata.objectives import ELBO


def test_nll_of_the_exact_posterior_is_exact_for_any_number_of_samples():
    model = LinearGaussian()
    x = model.p.sample((6,))
    vae = model.vae(model.posterior)
    for samples, rows in ((1, 100), (7, 12), (50, 6)):
        assert torch.allclose(importance_weighted(vae, x, samples, rows).log_p, model.p.log_prob(x), atol=1e-9)


def test_streaming_in_chunks_is_one_logsumexp():
    model = LinearGaussian()
    x = model.p.sample((5,))
    vae = model.vae(model.prior_like)
    torch.manual_seed(3)
    streamed = importance_weighted(vae, x, samples=101, rows=50)  # ten chunks of ten and one of one
    torch.manual_seed(3)
    chunks = [vae(x, k).log_w for k in [10] * 10 + [1]]
    log_w = torch.cat(chunks)  # [101, 5]
    assert torch.allclose(streamed.log_p, log_w.logsumexp(0) - math.log(101), atol=1e-12)
    w = (log_w - log_w.amax(0)).exp()
    assert torch.allclose(streamed.ess, w.sum(0).square() / w.square().sum(0), rtol=1e-9)


def test_streaming_survives_weights_that_underflow():
    model = LinearGaussian(scale=1e-3)
    x = model.p.sample((4,)) + 100
    estimate = importance_weighted(model.vae(model.prior_like), x, 20, 40)
    assert estimate.log_p.isfinite().all() and (estimate.ess >= 1 - 1e-9).all()


def test_mean_nll_is_the_mean_with_its_standard_error():
    log_p = -100 + 10 * torch.randn(1000, dtype=torch.float64)
    ess = torch.arange(1.0, 1001.0)[torch.randperm(1000)]
    metric = MeanNLL()
    for part in zip(log_p.split(300), ess.split(300), strict=True):
        metric.update(Estimate(*part))
    result = metric.compute()
    assert result["nll"].item() == pytest.approx(-log_p.mean().item())
    assert result["nll_stderr"].item() == pytest.approx((log_p.std() / math.sqrt(1000)).item())
    assert result["images"] == 1000
    assert result["nll_ess"].item() == pytest.approx(500.5) and result["nll_ess_5"].item() == pytest.approx(50.95)


def test_effective_samples_are_all_under_the_exact_posterior_and_few_far_from_it():
    model = LinearGaussian()
    x = model.p.sample((6,))
    assert torch.allclose(importance_weighted(model.vae(model.posterior), x, 50).ess, torch.tensor(50.0).double())
    assert importance_weighted(model.vae(model.prior_like), x, 1).ess.tolist() == pytest.approx([1.0] * 6)
    assert importance_weighted(LinearGaussian(scale=1e-3).vae(model.prior_like), x, 50).ess.max() < 2


@pytest.mark.parametrize("samples", [1, 3])
def test_bound_is_the_objectives_elbo_over_all_batches(samples):
    vae, x = small(), torch.rand(10, 1, 4, 4).round()
    traces = [vae(part, samples) for part in x.split(4)]
    metric = Bound([(3,)])
    for trace in traces:
        metric.update(trace)
    result = metric.compute()
    elbo = sum(ELBO(samples)(trace, 1.0)["elbo"].item() * len(trace.x) for trace in traces) / 10
    assert result["elbo"].item() == pytest.approx(elbo, abs=1e-4)
    assert result["kl_rung_0"].item() == pytest.approx(metric.kl(0).sum().item(), abs=1e-5)
    each = [(trace.log_px.double() - trace.kl.double().sum(0)).mean(0) for trace in traces]
    assert result["elbo_stderr"].item() == pytest.approx(torch.cat(each).std().item() / math.sqrt(10))
    assert result["rate"] + result["distortion"] == pytest.approx(-result["elbo"].item())


def test_a_unit_is_active_when_its_posterior_mean_moves():
    n = 20_000
    mean = torch.stack([torch.randn(n), 0.05 * torch.randn(n), torch.full((n,), 3.0), torch.zeros(n)], 1)
    q, p = normal(mean, torch.ones_like(mean)), normal(torch.zeros(n, 4), torch.ones(n, 4))
    vae = small(latent=4)
    trace = vae(torch.zeros(n, 1, 4, 4))
    latent = type(trace.latents[0])(q.sample(), torch.zeros(n), q, p)  # noise of the draws must not count
    metric = Bound([(4,)])
    metric.update(Trace(trace.x, trace.px, (latent,), 1))
    assert metric.active(0).tolist() == [True, False, False, False]
    assert metric.compute()["active_units"] == 1


def test_a_unit_below_the_top_is_active_when_the_image_moves_its_mean_and_not_the_noise_above():
    n, x = 100_000, torch.randn(100_000, 1, 1, 1)
    h = repeat(x.flatten(1), 2)
    top = normal(0.5 * h, torch.ones(2 * n, 1))
    z = top.sample()
    own, above = torch.tensor([0.8, 0.0, 0.0, -0.5, 0.0]), torch.tensor([0.0, 0.6, 0.15, 1.0, 0.0])
    low = normal(own * h + above * z, torch.ones(2 * n, 5))
    latents = tuple(Latent(q.mean, torch.zeros(2 * n), q, q) for q in (top, low))
    px = normal(torch.zeros(2 * n, 1, 1, 1), torch.ones(2 * n, 1, 1, 1))
    metric = Bound([(1,), (5,)])
    metric.update(Trace(x, px, latents, 2))
    assert torch.allclose(metric.variance(1).float(), (own + 0.5 * above).square(), atol=0.01)  # E[z_1 | x] is linear
    assert metric.active(1).tolist() == [True, True, False, False, False]
    assert metric.active(0).tolist() == [True]
    with pytest.raises(ValueError, match="2 samples per image, got 1"):
        metric.update(Trace(x, px, latents, 1))
