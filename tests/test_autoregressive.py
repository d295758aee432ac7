"Pixel after pixel: sizes, exact densities, what a pixel may depend on, gradients, and a short training."
import math

import pytest
import torch
from sklearn.datasets import load_digits

from uncpaper.models.autoregressive import AutoregressiveModel, MixtureHead, PixelReader, drawn
from uncpaper.numerics import generator


def made(shape=(2,), conditioning=None, hidden=8, layers=2, components=3, seed=0) -> AutoregressiveModel:
    "With weights large enough that pixels depend on each other."
    torch.manual_seed(seed)
    model = AutoregressiveModel(shape, hidden, layers, components, conditioning).double()
    with torch.no_grad():
        for name, p in model.named_parameters(): p.mul_(1 if name.startswith("conditioner") else 2)
    return model.eval()


@pytest.mark.parametrize("shape, count", [((1, 28, 28), 799_262), ((784,), 799_262), ((3, 32, 32), 811_590)])
def test_released_sizes(shape, count):
    assert sum(p.numel() for p in AutoregressiveModel(shape).parameters()) == count


@torch.no_grad()
@pytest.mark.parametrize("sigma", [None, 0.0, 0.7])
def test_the_density_of_two_pixels_adds_up_to_one(sigma):
    model = made(conditioning=None if sigma is None else (4, 3))
    axis = torch.linspace(-14, 14, 561, dtype=torch.float64)
    density = model.log_prob(torch.cartesian_prod(axis, axis), sigma).exp()
    assert density.sum().item() * (28 / 560) ** 2 == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def test_a_factor_is_the_mixture_written_out():
    torch.manual_seed(0)
    head, h = MixtureHead(4, channels=2, components=3).double(), torch.randn(5, 4).double()
    x = torch.randn(5, 2).double()
    logits, means, log_stds = torch.nn.functional.linear(h, head.weight, head.bias).split([3, 6, 6], 1)
    means, stds = means.view(5, 3, 2), log_stds.view(5, 3, 2).exp()
    normal = torch.exp(-((x[:, None] - means) / stds) ** 2 / 2) / (math.sqrt(2 * math.pi) * stds)
    expected = (logits.softmax(1) * normal.prod(2)).sum(1).log()
    torch.testing.assert_close(head(h).log_prob(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("shape, conditioning", [((2, 2, 3), None), ((7,), (4, 3))])
def test_one_pass_equals_reading_step_by_step(shape, conditioning):
    model, sigma = made(shape, conditioning), None if conditioning is None else 0.4
    x = torch.randn(4, model.dimension, dtype=torch.float64, generator=generator(0, "x"))
    pixels = x.view(4, model.channels, model.pixels)
    told = x.new_zeros(4, 0) if sigma is None else model.conditioner(x.new_full((4,), sigma))
    h, state, total = x.new_zeros(4, 8), None, 0
    for i in range(model.pixels):
        total = total + model.reader.head(torch.cat((h, told), 1)).log_prob(pixels[:, :, i])
        read, state = model.reader.lstm(torch.cat((pixels[:, :, i], told), 1)[:, None], state)
        h = read[:, 0]
    torch.testing.assert_close(model.log_prob(x, sigma), total)


@torch.no_grad()
def test_a_pixel_depends_on_earlier_ones_and_on_no_later_one():
    torch.manual_seed(0)
    reader, told = PixelReader(1, 8, 2, 3).double(), torch.zeros(1, 1, 0).double()
    x = torch.randn(1, 6, 1, generator=generator(0, "x")).double()
    factors = reader(x, told).log_prob(x)[0]
    for i in range(6):
        changed = x.clone()
        changed[0, i] += 1
        moved = (reader(changed, told).log_prob(changed)[0] - factors).abs() > 1e-9
        assert moved.tolist() == [False] * i + [True] * (6 - i)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("conditioning, sigma", [(None, None), ((4, 3), 0.5)])
def test_the_score_is_the_slope_by_finite_differences(conditioning, sigma, training):
    model = made((2, 2, 2), conditioning).train(training)
    x = torch.randn(3, 8, dtype=torch.float64, generator=generator(0, "x"))
    steps = 1e-5 * torch.eye(8, dtype=torch.float64)
    slopes = [(model.log_prob(x + e, sigma) - model.log_prob(x - e, sigma)) / 2e-5 for e in steps]
    torch.testing.assert_close(model.score(x, sigma), torch.stack(slopes, 1).detach(), rtol=1e-6, atol=1e-7)
    assert all(p.grad is None for p in model.parameters())


def test_cudnn_is_left_out_of_the_score_and_comes_back(monkeypatch):
    model, seen = made(), []
    read = PixelReader.forward
    monkeypatch.setattr(PixelReader, "forward",
                        lambda *given: seen.append(torch.backends.cudnn.enabled) or read(*given))
    x = torch.zeros(1, 2, dtype=torch.float64)
    before = torch.backends.cudnn.enabled
    model.score(x)
    model.log_prob(x)
    assert seen == [False, before] and torch.backends.cudnn.enabled == before


@torch.no_grad()
def test_draws_have_the_moments_of_their_density():
    model = made(seed=1)
    axis = torch.linspace(-14, 14, 561, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    share = model.log_prob(grid).softmax(0)[:, None]
    mean = (share * grid).sum(0)
    covariance = (share * (grid - mean)).T @ (grid - mean)
    x = model.sample(40_000, generator=generator(0, "draw"))
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0.03, atol=0.1)


def test_draws_repeat_with_their_generator_and_leave_torchs_state_alone():
    model, state = made((2, 2, 2)), torch.get_rng_state()
    draws = [model.sample(5, generator=generator(seed, "draw")) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
def test_a_component_is_drawn_as_often_as_it_weighs():
    torch.manual_seed(0)
    head = MixtureHead(1, channels=1, components=2)
    head.weight.zero_()
    head.bias.copy_(torch.tensor([math.log(0.2), math.log(0.8), -5, 5, math.log(0.1), math.log(0.5)]))
    x = drawn(head(torch.zeros(20_000, 1)), generator(0, "components"))[:, 0]
    assert (x < 0).double().mean().item() == pytest.approx(0.2, abs=0.012)
    assert x[x < 0].std().item() == pytest.approx(0.1, abs=0.005)
    assert x[x > 0].std().item() == pytest.approx(0.5, abs=0.015)


def test_sigma_reaches_the_first_pixel():
    model = made(conditioning=(4, 3))
    x = torch.zeros(1, 2, dtype=torch.float64)
    hints = [model.conditioner(x.new_full((1,), sigma))[:, None] for sigma in (0.0, 1.0)]
    first = [model.reader(x[:, :, None], hint).log_prob(x[:, :, None])[0, 0].item() for hint in hints]
    assert abs(first[0] - first[1]) > 1e-3


def test_digits_become_more_likely():
    "8x8 digits with noise, a tenth of their range: better than a Gaussian of its own for every pixel."
    x = torch.as_tensor(load_digits().data).float() / 16
    x = x + 0.1 * torch.randn(x.shape, generator=generator(0, "noise"))
    x, unseen = x[:1500], x[1500:]
    normal = torch.distributions.Normal(x.mean(0), x.std(0)).log_prob(unseen).sum(1).mean()
    torch.manual_seed(0)
    model = AutoregressiveModel((1, 8, 8), hidden=32, layers=1, components=5)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(150):
        optimiser.zero_grad()
        model.loss(x[torch.randperm(1500)[:64]]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
    assert model.log_prob(unseen).mean() > normal + 5


def test_one_pixel_is_refused():
    with pytest.raises(ValueError, match=r"shape must have at least two pixels, got \(3, 1, 1\)"):
        AutoregressiveModel((3, 1, 1))
