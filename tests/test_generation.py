"Noise in training and what is done about it, against closed forms: oracles O1, O6, O8 and O9 of the paper's companion."
import itertools

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from uncpaper.generation import CD, ND, TD, DrawnNoise, FixedNoise, Vanilla, falling, noisy_loss, refusal
from uncpaper.manifolds import SineCurve
from uncpaper.models.flow import SplineFlow
from uncpaper.models.generative import Generative, denoised_variance, noise_ceiling
from uncpaper.models.vae import VAE
from uncpaper.numerics import generator
from uncpaper.preprocessing import Preprocessing

METHODS = (Vanilla(), ND(0.3), TD(0.3), CD(0.3))


class Normal(Generative):
    "The exact law of data N(b, S) with noise of sigma."
    density = "exact"

    def __init__(self, b, S, sigma=0.0):
        super().__init__(len(b))
        self.law = MultivariateNormal(b, S + sigma**2 * torch.eye(len(b), dtype=S.dtype))

    def log_prob(self, x, sigma=None): return self.law.log_prob(x)

    def sample(self, n, sigma=None, generator=None):
        noise = torch.randn(n, self.dimension, dtype=torch.float64, generator=generator)
        return self.law.loc + noise @ self.law.scale_tril.T


def normal(seed, D, sigma):
    root = torch.randn(D, D, dtype=torch.float64, generator=generator(seed, "root"))
    b, S = torch.randn(D, dtype=torch.float64, generator=generator(seed, "b")), root @ root.T + 0.1 * torch.eye(D)
    return Normal(b, S, sigma), b, S


# O1: Gaussian data

@pytest.mark.parametrize("seed, D, sigma", [(0, 1, 0.5), (1, 3, 0.1), (2, 5, 2.0), (3, 8, 1e-3)])
def test_the_step_is_the_posterior_mean(seed, D, sigma):
    model, b, S = normal(seed, D, sigma)
    x = 3 * torch.randn(50, D, dtype=torch.float64, generator=generator(seed, "x"))
    gain = S @ torch.linalg.inv(S + sigma**2 * torch.eye(D, dtype=torch.float64))
    torch.testing.assert_close(TD(sigma).step(model, x), b + (x - b) @ gain.T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("share, sigma", itertools.product((0.0, 0.5, 1.0), (0.2, 0.5, 1.5)))
def test_samples_have_the_variance_that_the_formula_says(share, sigma):
    variance = torch.tensor([1.0, 0.25, 0.01, 0.0], dtype=torch.float64)
    model = Normal(torch.zeros(4, dtype=torch.float64), torch.diag(variance), sigma)
    x = TD(sigma, share=share).sample(model, 200_000, generator(0))
    expected = denoised_variance(variance, sigma, share)
    assert (expected[3] == 0) == (share == 1.0)
    torch.testing.assert_close(x.var(0), expected, rtol=0.015, atol=1e-12)


# O6: what is left where there is no noise

def models(told=False):
    torch.manual_seed(0)
    yield SplineFlow(4, 2, 16, tail_bound=2.0, conditioning=(8, 4) if told else None)
    yield VAE(4, latent=2, hidden=(16,), conditioning=((8, 4), (8, 4)) if told else None)


def test_no_noise_is_the_loss_without_with_the_same_random_numbers():
    x = torch.randn(32, 4, generator=generator(0))
    for model in models():
        torch.manual_seed(1)
        plain = model.loss(x)
        torch.manual_seed(1)
        assert torch.equal(plain, noisy_loss(model, x, FixedNoise(0.0)))
        assert torch.equal(torch.rand(3), torch.manual_seed(1) and [model.loss(x), torch.rand(3)][1])


def test_no_noise_told_is_the_network_at_zero():
    x = torch.randn(32, 4, generator=generator(0))
    for model in models(told=True):
        torch.manual_seed(1)
        noisy, sigma = DrawnNoise(0.0).noisy(x)
        assert torch.equal(noisy, x) and not sigma.any()
        torch.manual_seed(2)
        value = model.loss(noisy, sigma)
        torch.manual_seed(2)
        assert torch.equal(value, model.loss(x, 0.0))
        assert torch.equal(CD(0.0).sample(model, 5, generator(3)), model.sample(5, 0.0, generator(3)))


def test_no_step_is_taken_for_no_noise():
    for model in models():
        x = torch.randn(6, 4, generator=generator(0))
        assert TD(0.0).step(model, x) is x
        assert torch.equal(TD(0.0).sample(model, 6, generator(1)), Vanilla().sample(model, 6, generator(1)))


def test_a_step_leaves_the_weights_and_their_gradients_alone():
    for model in models():
        before = [p.clone() for p in model.parameters()]
        TD(0.3).sample(model, 8, generator(0))
        assert all(p.grad is None and torch.equal(p, b) for p, b in zip(model.parameters(), before))


# O8: ceilings

@pytest.fixture(scope="module")
def fitted():
    "Flows of the curve with noise of one size, and with noise that is told."
    data, found = SineCurve().sample(3000, generator(0, "data")).float(), {}
    for noise in (FixedNoise(0.2), DrawnNoise(0.4)):
        torch.manual_seed(0)
        model = SplineFlow(2, 3, 24, tail_bound=4.0, conditioning=(16, 8) if noise.told else None)
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(150):
            optimiser.zero_grad()
            noisy_loss(model, data[torch.randint(3000, (128,))], noise).backward()
            optimiser.step()
        found[noise] = model
    return found


def test_no_model_is_likelier_than_the_noise_allows(fitted):
    fresh = SineCurve().sample(20_000, generator(1, "data")).float()
    for noise, model in fitted.items():
        torch.manual_seed(3)
        with torch.no_grad(): value = model.log_prob(*noise.noisy(fresh))
        size = noise.maximum if noise.told else noise.sigma
        ceiling, error = noise_ceiling(size, 2, drawn=noise.told), value.std() / len(value) ** 0.5
        assert ceiling - 5 < value.mean() < ceiling + 3 * error # and it has learned something


@pytest.mark.parametrize("sigma", [0.005, 0.01, 0.05, 0.1, 0.5])
def test_the_ceiling_is_the_entropy_of_the_noise(sigma):
    entropy = torch.distributions.Normal(0.0, sigma).entropy().item()
    assert noise_ceiling(sigma, 7) == pytest.approx(-7 * entropy, rel=1e-6)
    sizes = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 * sigma
    drawn = -torch.distributions.Normal(0.0, sizes).entropy().mean().item()
    assert noise_ceiling(sigma, 7, drawn=True) == pytest.approx(7 * drawn, abs=1e-4)


# O9: the released step

@pytest.mark.parametrize("scale", [1.0, 2.0, 16.0, 255.0])
def test_the_released_step_is_short_by_the_square_of_the_scale(scale):
    model = Normal(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    T = Preprocessing((3,), torch.zeros(3).double(), torch.full((3,), scale).double(), (0.0, scale))
    x = model.sample(100, generator=generator(0))
    right, released = (TD(0.5, legacy_double_transform=twice).step(model, x) - x for twice in (None, T))
    torch.testing.assert_close(released * scale**2, right, rtol=1e-9, atol=1e-12)


# Noise

def test_noise_that_shrinks_does_so_to_its_last_size():
    sizes = [falling(0.1, 1.0, step / 100) for step in range(101)]
    assert sizes[0] == 1.0 and sizes[-1] == pytest.approx(0.1) and sizes[50] == pytest.approx(0.55)
    assert all(a > b for a, b in itertools.pairwise(sizes))
    torch.manual_seed(0)
    x = torch.zeros(50_000, 1)
    assert FixedNoise(0.1, first=1.0).noisy(x, 0.5)[0].std().item() == pytest.approx(0.55, rel=0.02)
    sigma = DrawnNoise(0.1, first=1.0).noisy(x, 0.5)[1]
    assert sigma.max().item() == pytest.approx(0.55, rel=1e-3) and sigma.mean().item() == pytest.approx(0.275, rel=0.02)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_bad_noise_is_named(wrong):
    for make, field in ((ND, "sigma"), (TD, "sigma"), (FixedNoise, "sigma"), (CD, "maximum"), (DrawnNoise, "maximum")):
        with pytest.raises(ValueError, match=f"^{field} must be between 0 and"): make(wrong).noise if make in (
            ND, TD, CD) else make(wrong)


def test_each_refusal_has_a_reason_and_what_is_not_refused_works():
    plain, told = next(models()), next(models(told=True))
    for method, model in itertools.product(METHODS, (plain, told, nn.Linear(2, 2))):
        reason = refusal(method, model)
        if isinstance(model, nn.Linear): assert (reason is None) == (method.name in ("vanilla", "ND"))
        else:
            assert (reason is None) == (method.noise.told == model.conditional)
            if reason is None: assert method.sample(model, 3, generator(0)).isfinite().all()
        assert reason is None or (len(reason) < 120 and "\n" not in reason)
