import pytest
import torch

from models import LinearGaussian, small
from variata.core import Trace
from variata.objectives import ELBO, IWAE
from variata.priors import Mixture

X = (8, 1, 4, 4)


def images(*shape):
    return torch.rand(*(shape or X)).round()


def test_iwae_with_one_sample_is_the_elbo():
    trace = small()(images())
    assert torch.allclose(IWAE(samples=1)(trace, 1.0)["loss"], -trace.log_w.mean(), atol=1e-4)


def test_iwae_is_the_log_of_the_mean_weight():
    trace = small()(images(), samples=5)
    by_hand = -trace.log_w.double().exp().mean(0).log().mean()
    assert IWAE(samples=5)(trace, 1.0)["loss"].item() == pytest.approx(by_hand.item(), abs=1e-4)


def test_iwae_is_tighter_than_the_elbo():
    model = LinearGaussian()
    trace = model.vae(model.prior_like)(model.p.sample((50,)), samples=20)
    assert IWAE(samples=20)(trace, 1.0)["loss"] < ELBO(samples=20)(trace, 1.0)["loss"]


def test_elbo_is_minus_rate_minus_distortion_and_beta_weighs_the_rate():
    trace = small()(images())
    terms = [ELBO()(trace, beta) for beta in (0.0, 1.0, 4.0)]
    rate, distortion = trace.kl.sum(0).mean(), -trace.log_px.mean()
    for beta, term in zip((0.0, 1.0, 4.0), terms, strict=True):
        assert torch.allclose(term["loss"], distortion + beta * rate)
        assert torch.allclose(term["elbo"], -distortion - rate)  # at beta = 1, whatever is trained


def test_elbo_of_the_exact_posterior_is_log_p():
    model = LinearGaussian()
    x = model.p.sample((200_000,))
    elbo = ELBO()(Trace(x, *_pass(model, x), samples=1), 1.0)["elbo"]
    assert elbo.item() == pytest.approx(model.p.log_prob(x).mean().item(), abs=0.02)


def _pass(model, x):
    trace = model.vae(model.posterior)(x)
    return trace.px, trace.latents


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_no_free_bits_is_the_elbo(prior):
    vae = small(prior=Mixture) if prior == "mixture" else small()
    trace = vae(images())
    assert torch.equal(ELBO(free_bits=0.0)(trace, 1.0)["loss"], -ELBO()(trace, 1.0)["elbo"])


def test_free_bits_bound_the_mean_rate_of_a_rung_from_below():
    trace = small()(images())
    rate, distortion = trace.kl.mean(), -trace.log_px.mean()
    below, above = rate.item() / 2, rate.item() * 2
    assert torch.allclose(ELBO(free_bits=below)(trace, 1.0)["loss"], distortion + rate)
    assert torch.allclose(ELBO(free_bits=above)(trace, 1.0)["loss"], distortion + above)
    assert torch.allclose(ELBO(free_bits=above)(trace, 1.0)["elbo"], -distortion - rate)  # never the clamped value


@pytest.mark.parametrize("objective", [ELBO(), IWAE(samples=3)], ids=["elbo", "iwae"])
def test_loss_and_gradient_do_not_depend_on_how_a_batch_is_cut(objective):
    vae, x = small(), images(64, 1, 4, 4)
    trace = vae(x, objective.samples)
    noise = trace.latents[0].z.detach().unflatten(0, (objective.samples, 64))
    parameters = list(vae.parameters())
    results = []
    for size in (64, 32, 1):
        vae.zero_grad()
        loss = 0
        for i in range(0, 64, size):
            part = replay(vae, x[i : i + size], noise[:, i : i + size].flatten(0, 1), objective.samples)
            loss = loss + objective(part, 0.7)["loss"] * size / 64
        loss.backward()
        results.append((loss.item(), [p.grad.clone() for p in parameters if p.grad is not None]))
    for loss, gradients in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        for one, other in zip(gradients, results[0][1], strict=True):
            assert torch.allclose(one, other, atol=1e-5)


def replay(vae, x, z, samples):
    """The trace of a pass that drew the given z."""
    import dataclasses

    trace = vae(x, samples)
    latent = trace.latents[0]
    epsilon = ((z - latent.q.mean) / latent.q.stddev).detach()
    z = latent.q.mean + latent.q.stddev * epsilon
    latent = dataclasses.replace(latent, z=z, log_q=latent.q.log_prob(z))
    return Trace(x, vae.decode(z), (latent,), samples)


@pytest.mark.parametrize("build", [lambda: ELBO(samples=0), lambda: IWAE(samples=0), lambda: ELBO(free_bits=-1.0)])
def test_impossible_options_are_refused(build):
    with pytest.raises(ValueError, match=r"0|-1"):
        build()


def test_uniform_weights_lose_nothing():
    model = LinearGaussian()
    trace = model.vae(model.posterior)(model.p.sample((10,)), samples=7)  # the exact posterior: all weights are p(x)
    bound = -IWAE(samples=7)(trace, 1.0)["loss"]
    assert bound.item() == pytest.approx(trace.log_w.mean().item(), abs=1e-6)
    assert torch.isfinite(bound)
