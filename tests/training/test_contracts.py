"""What a user may write beside the parts there are, each in a few lines that touch nothing else, and trains with."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import softplus

from models import small, two_rungs
from test_training import Kept, Records, run, weights
from variata.build import flat
from variata.core import Batch, Encoder, Population
from variata.data.digits import digits
from variata.data.module import ImageDataModule
from variata.data.pixels import as_real
from variata.data.source import ImageSource, Labels
from variata.likelihoods import Bernoulli, Gaussian
from variata.networks.mlp import MLPDecoder
from variata.objectives import ELBO, IWAE, Objective, bound, weighted
from variata.posteriors import Gaussian as GaussianPosterior
from variata.priors import StandardNormal
from variata.schedules import Beta, Constant
from variata.training.callbacks import EMA
from variata.training.module import Training


def elbos(records):
    return [row["train/elbo"] for _, row in records.rows if "train/elbo" in row]


# --- a model without an encoder ---------------------------------------------------------------------------------------


class Table(Encoder):
    """No network: features of each training image, found by its place (Hoffman et al. 2013)."""

    def __init__(self, shape, images=1397, width=8):
        super().__init__()
        self.rows, self.features = nn.Embedding(images, width), [(width,)]

    def forward(self, batch):
        return [self.rows(batch.index)]


@pytest.mark.parametrize("updates_per_call", [1, 4])
def test_a_model_without_an_encoder_learns_a_code_of_each_image(tmp_path, updates_per_call):
    decoder, records = partial(MLPDecoder, widths=(16,)), Records()
    vae = flat((1, 28, 28), 4, Table, decoder, GaussianPosterior, StandardNormal, Bernoulli)
    options = {"epochs": 12, "lr": 3e-2, "logger": records, "log_every": 13, "validate": False}
    training = run(tmp_path, updates_per_call, vae=vae, **options)
    assert elbos(records)[-1] > elbos(records)[1] + 10
    index, data = torch.arange(1397), training.data
    x = data.prepare(data.images["train"], "train")
    own, of_another = (vae(Batch(x, places)).log_w.mean() for places in (index, index.roll(1)))
    assert own > of_another + 10


# --- what is known of the training set --------------------------------------------------------------------------------


class Told(Constant):
    """Keeps what it is told."""

    def meet(self, population):
        self.population = population


def test_beta_objective_posterior_and_likelihood_are_told_of_the_training_set():
    class Weight(ELBO):
        meet = Told.meet

    class Level(Gaussian):
        meet = Told.meet

    class Width(GaussianPosterior):
        meet = Told.meet

    vae = flat((1, 28, 28), 4, Table, MLPDecoder, Width, StandardNormal, Level)
    data = digits(binarize="none")
    data.setup()
    training = Training(vae, Weight(), Told(), torch.optim.SGD, Constant())
    training.meet(known := data.population())
    parts = [training.beta, training.objective, vae.likelihood, vae.rungs[0].posterior]
    assert all(part.population is known for part in parts)
    assert known.images == 1397 and known.classes == ()
    grey = data.images["train"].double() / 256
    assert torch.allclose(known.mean.double(), grey.mean(0) + 1 / 512, atol=1e-3)


def test_a_model_starts_at_the_mean_image():
    vae, mean = small(), torch.rand(1, 4, 4) * 0.8 + 0.1
    vae.meet(Population(10, mean))
    for parameter in vae.decoder.net.parameters():
        nn.init.zeros_(parameter)
    assert torch.allclose(vae.sample(3).mean, mean.expand(3, -1, -1, -1), atol=1e-5)


# --- an objective with parameters of its own --------------------------------------------------------------------------


class FactorVAE(Objective):
    """ELBO less gamma times the total correlation of q(z), by a critic of its own (Kim & Mnih 2018)."""

    def __init__(self, latent, gamma=5.0, lr=1e-2):
        super().__init__(samples=1)
        self.gamma, self.lr = gamma, lr
        self.critic = nn.Sequential(nn.Linear(latent, 32), nn.LeakyReLU(), nn.Linear(32, 1))

    def parameter_groups(self):
        return [{"params": list(self.critic.parameters()), "lr": self.lr}]

    def forward(self, trace, beta):
        z, terms = trace.latents[0].z, bound(trace.log_px, trace.kl.mean((1, 2)))
        frozen = {name: p.detach() for name, p in self.critic.named_parameters()}
        total_correlation = functional_call(self.critic, frozen, z).mean()
        apart = torch.stack([column[torch.randperm(len(column))] for column in z.detach().T], 1)
        critic = softplus(-self.critic(z.detach())).mean() + softplus(self.critic(apart)).mean()
        loss = terms["distortion"] + beta * terms["rate"] + self.gamma * total_correlation + critic
        return {"loss": loss, **terms, "total_correlation": total_correlation, "critic": critic}


def test_a_critic_and_the_model_are_each_trained_on_what_is_theirs():
    vae, objective = small(), FactorVAE(latent=3)
    terms = objective(vae(torch.rand(50, 1, 4, 4).round()), 0.5)
    model, critic = list(vae.encoder.parameters()), list(objective.critic.parameters())
    of_critic = torch.autograd.grad(terms["critic"], critic, retain_graph=True)
    of_model = torch.autograd.grad(terms["loss"] - terms["critic"], model, retain_graph=True)
    for gradient, expected in zip(
        torch.autograd.grad(terms["loss"], [*model, *critic]), [*of_model, *of_critic], strict=True
    ):
        assert torch.allclose(gradient, expected, atol=1e-6) and gradient.abs().sum() > 0


def test_an_objectives_parameters_move_with_their_own_learning_rate(tmp_path):
    def moved(lr, **options):
        objective = FactorVAE(4, lr=lr)
        before = [p.detach().clone() for p in objective.parameters()]
        sgd = partial(torch.optim.SGD, lr=1e-6, weight_decay=0.1)
        trained = run(tmp_path, steps=1, validate=False, objective=objective, optimizer=sgd, **options)
        groups = trained.optimizers().param_groups
        assert [group["weight_decay"] for group in groups] == [0.1, 0.0] * 2
        steps = [after - b for after, b in zip(objective.parameters(), before, strict=True)]
        return torch.cat([step.flatten() for step in steps]), [group["lr"] for group in groups], weights(trained)

    step, rates, trained = moved(1e-3, seed=3)
    torch.manual_seed(0)
    half, halved, _ = moved(1e-3, seed=3, scheduler=Constant(0.5))
    torch.manual_seed(0)
    still, _, same = moved(0.0, seed=3)
    assert rates == [1e-6, 1e-6, 1e-3, 1e-3] and halved == [rate / 2 for rate in rates]
    assert step.abs().max() > 0 and not still.any() and torch.equal(same, trained)
    assert half.norm() < step.norm()


@pytest.mark.parametrize("part", ["vae", "objective"])
def test_the_gradient_of_the_model_and_of_the_objective_are_bounded_each(tmp_path, part):
    training = run(
        tmp_path,
        steps=1,
        validate=False,
        objective=FactorVAE(4, lr=1.0),
        optimizer=partial(torch.optim.SGD, lr=1.0),
        gradient_clip_val=1e-3,
        callbacks=[kept := Kept(tmp_path)],
    )
    before = torch.load(kept.paths[0], weights_only=True)["state_dict"]
    moved = [p.detach() - before[f"{part}.{name}"] for name, p in getattr(training, part).named_parameters()]
    assert torch.cat([step.flatten() for step in moved]).norm().item() == pytest.approx(1e-3, rel=1e-2)


def uninterrupted(tmp_path, parts, ema):
    """A training of 39 updates, and one resumed in the middle of it."""

    def averages():
        return [EMA(decay=0.9)] if ema else []

    options = {"updates_per_call": 4, "epochs": 3}
    whole = run(tmp_path, callbacks=[kept := Kept(tmp_path), *averages()], **options, **parts())
    step = list(kept.paths)[4]
    resumed = run(tmp_path, callbacks=averages(), ckpt=kept.paths[step], **options, **parts())
    assert whole.step == resumed.step == 39 and 0 < step < 39
    return whole, resumed


@pytest.mark.parametrize("ema", [False, True], ids=["plain", "ema"])
def test_a_critic_goes_on_where_it_was(tmp_path, ema):
    whole, resumed = uninterrupted(tmp_path, lambda: {"objective": FactorVAE(4)}, ema)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


# --- a beta that learns -----------------------------------------------------------------------------------------------


class PI(Beta):
    """Holds the rate near a target by a PI controller (Shao et al. 2020, ControlVAE)."""

    def __init__(self, target, proportional=0.1, integral=0.01):
        super().__init__()
        self.target, self.proportional, self.integral = target, proportional, integral
        self.register_buffer("weight", torch.zeros(()))
        self.register_buffer("total", torch.zeros(()))

    def forward(self, progress):
        return self.weight

    def update(self, terms):
        excess = terms["rate"] - self.target
        self.total = (self.total + self.integral * excess).clamp(min=0)
        self.weight = (self.proportional * excess.sigmoid() + self.total).clamp(0, 100)


@pytest.mark.parametrize("target", [3.0, 6.0])
def test_a_controller_holds_the_rate_near_its_target(tmp_path, target):
    records = Records()
    run(tmp_path, epochs=40, beta=PI(target), logger=records, log_every=130, validate=False, lr=3e-3)
    rates = [row["train/rate"] for _, row in records.rows if "train/rate" in row]
    assert rates[-1] == pytest.approx(target, rel=0.1)


@pytest.mark.parametrize("ema", [False, True], ids=["plain", "ema"])
def test_a_controller_goes_on_where_it_was(tmp_path, ema):
    whole, resumed = uninterrupted(tmp_path, lambda: {"beta": PI(3.0)}, ema)
    assert whole.beta.total > 0 and torch.equal(resumed.beta.weight, whole.beta.weight)
    assert torch.equal(weights(resumed), weights(whole))


class PerRung(Constant):
    """A weight of its own for each rung."""

    def forward(self, progress):
        return torch.tensor([0.25, 2.0])


@pytest.mark.parametrize("objective", [ELBO(), IWAE(samples=3)], ids=["elbo", "iwae"])
def test_each_rung_may_have_a_beta_of_its_own(objective):
    trace = two_rungs()(torch.rand(5, 1, 8, 8).round(), objective.samples)
    none, top, low = (objective(trace, torch.tensor(beta))["loss"] for beta in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
    both, one = objective(trace, torch.tensor([0.7, 0.7]))["loss"], objective(trace, 0.7)["loss"]
    assert both.item() == pytest.approx(one.item(), rel=1e-5)
    if objective.samples == 1:
        each = objective(trace, PerRung()(None))["loss"]
        assert each.item() == pytest.approx((none + 0.25 * (top - none) + 2 * (low - none)).item(), rel=1e-5)
    assert torch.allclose(weighted(torch.tensor([2.0, 3.0]), trace.kl), 2 * trace.kl[0] + 3 * trace.kl[1])


# --- a data set -------------------------------------------------------------------------------------------------------


class Stripes(ImageSource):
    """Stripes along one of two directions, and which."""

    kind, shape, protocol = "binary", (1, 8, 8), "stripes"
    draw = staticmethod(as_real)

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.along = {split: torch.rand(n, generator=generator) < 0.5 for split, n in self.sizes.items()}

    sizes = {"train": 600, "val": 50, "test": 50}  # noqa: RUF012

    def load(self):
        rows = (torch.arange(8) // 2 % 2).expand(1, 8, 8)
        pick = {split: along[:, None, None, None] for split, along in self.along.items()}
        return {split: torch.where(is_row, rows.mT, rows).to(torch.uint8) for split, is_row in pick.items()}

    def labels(self):
        return Labels(("rows", "columns"), {split: torch.stack([a, ~a], 1) for split, a in self.along.items()})


def test_a_new_data_set_is_trained_on(tmp_path):
    records, data = Records(), ImageDataModule(Stripes(), batch_size=50, labelled=True)
    vae = small((1, 8, 8), latent=2, widths=(16,))
    training = run(tmp_path, epochs=20, vae=vae, data=data, logger=records, lr=1e-2, log_every=12)
    assert elbos(records)[-1] > -0.1 * 64 > elbos(records)[0]
    assert data.protocol == "stripes, 600/50/50" and training.step == 240
    assert data.population().classes == ("rows", "columns")
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        is_row = (batch.x == batch.x[..., :1]).flatten(1).all(1)
        assert torch.equal(batch.labels, torch.stack([is_row, ~is_row], 1))


# --- a ladder ---------------------------------------------------------------------------------------------------------


def test_a_ladder_of_feature_maps_is_trained(tmp_path):
    records, vae = Records(), two_rungs((1, 28, 28))
    run(tmp_path, epochs=3, vae=vae, beta=PerRung(), logger=records, log_every=13, lr=3e-3)
    assert elbos(records)[-1] > elbos(records)[0] + 20
    row = next(row for _, row in records.rows if "train/beta" in row)
    assert row["train/beta_rung_0"] == 0.25 and row["train/beta_rung_1"] == 2.0
    assert vae.sample(2).mean.shape == (2, 1, 28, 28)
