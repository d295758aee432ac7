"The Gaussian VAE against the linear model in closed form, and against quadrature where its latent is small."
import copy
import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from uncpaper.models import vae as module
from uncpaper.models.vae import (SCORES, VAE, ConvolutionalDecoder, ConvolutionalEncoder, Convolutions, Dense,
                                 convolutional_vae, log_normal, weighted_mean)
from uncpaper.numerics import generator

W = torch.tensor([[1.0, 0], [0, 2], [1, 0], [0, 0]], dtype=torch.float64)
B = torch.tensor([0.1, -0.2, 0.3, 0], dtype=torch.float64)
X = torch.tensor([[0.5, 1, -0.3, 0.2]], dtype=torch.float64)
PRECISION = W.T @ W / 0.25 + torch.eye(2) # of z given x, where s^2 = 0.25
LOG_P, SCORE = -4.6722405804, [-1.95555556, -0.28235294, 2.04444444, -0.8]


def linear(shift=0.0, stretch=1.0, slope=1.0, blind=False) -> VAE:
    "x = W z + b + s eps; the encoder holds the posterior, or one that is moved, stretched, steeper, or the prior."
    model, back = VAE(4, 2, ()).double(), slope * torch.linalg.inv(PRECISION) @ W.T / 0.25
    encoder, decoder = model.encoder.layers[0], model.decoder.layers[0]
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([back, torch.zeros(2, 4)]))
        encoder.bias.copy_(torch.cat([shift - back @ B, (stretch / PRECISION.diagonal()).log() / 2]))
        if blind: encoder.weight.zero_(), encoder.bias.zero_()
        decoder.weight.copy_(torch.cat([W, torch.zeros(1, 2)]))
        decoder.bias.copy_(torch.cat([B, torch.tensor([0.5]).double().log()]))
    return model


def quadrature(model: VAE, x: torch.Tensor, sigma=None, steps=4001) -> torch.Tensor:
    "log p(x) for one latent dimension."
    z = torch.linspace(-9, 9, steps, dtype=x.dtype)[:, None]
    mean, log_std = model.decode(z, sigma)
    prior = Normal(0.0, 1.0).log_prob(z[:, 0])
    return (log_normal(x[:, None], mean, log_std) + prior).logsumexp(1) + (z[1, 0] - z[0, 0]).log()


def curved(conditioning=None, seed=0) -> VAE:
    "An untrained model of two numbers with one latent, its spread below one."
    torch.manual_seed(seed)
    model = VAE(2, 1, (16,), conditioning).double()
    with torch.no_grad(): model.decoder.layers[-1].weight[:2].mul_(4), model.decoder.layers[-1].bias[2].sub_(0.7)
    return model


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / len(values) ** 0.5


# the linear model

def test_with_the_posterior_every_weight_is_the_density():
    exact = linear()
    mean, log_std = exact.encode(X)
    assert mean[0].tolist() == pytest.approx([-0.08888889, 0.56470588], abs=1e-8)
    assert (2 * log_std).exp()[0].tolist() == pytest.approx([0.11111111, 0.05882353], abs=1e-8)
    assert MultivariateNormal(B, W @ W.T + 0.25 * torch.eye(4)).log_prob(X).item() == pytest.approx(LOG_P, abs=1e-9)
    values = exact.log_prob(X.expand(50, -1), draws=3, generator=generator(0))
    assert torch.allclose(values, torch.full((50,), LOG_P, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("options, expected", [({"blind": True}, -16.9031654),
                                               ({"shift": 0.1, "stretch": 1.5}, LOG_P - 0.2245348919)])
def test_the_elbo_of_other_encoders(options, expected):
    with torch.no_grad(): values = linear(**options).log_prob(X, draws=200_000, generator=generator(0), bound="elbo")
    assert values.item() == pytest.approx(expected, abs=0.15 if "blind" in options else 5e-3)


def test_the_importance_weighted_bound_rises_with_the_draws_from_the_elbo_to_the_density():
    off, many = linear(0.1, 1.5), X.expand(8000, -1)
    with torch.no_grad():
        found = [mean_and_error(off.log_prob(many, draws=K, generator=generator(1, K))) for K in (1, 2, 5, 20, 100)]
    assert found[0][0] == pytest.approx(LOG_P - 0.2245348919, abs=4 * found[0][1])
    assert all(b - a > 2 * (s + t) for (a, s), (b, t) in zip(found[:4], found[1:4]))
    assert found[3][0] < found[4][0] + 2 * found[4][1] < LOG_P + 4 * found[4][1]


@pytest.mark.parametrize("by", ["iwae", "fisher"])
def test_scores_reach_the_closed_form(by):
    rows = X.expand(4000, -1)
    for model in (linear(), linear(0.1, 1.5, 1.2)):
        found = model.score(rows, by=by, draws=100, generator=generator(2))
        assert found.mean(0).tolist() == pytest.approx(SCORE, abs=0.02)


def test_where_the_noise_is_the_models_own_tweedies_step_is_the_posterior_mean():
    steps = [linear().denoise(X, 0.5, by=by, draws=200_000, generator=generator(3)) for by in ("iwae", "fisher")]
    for step in steps: assert step[0].tolist() == pytest.approx([0.01111111, 0.92941176, 0.21111111, 0], abs=5e-3)


def test_the_elbos_gradient_is_the_scores_less_that_of_the_gap():
    model = linear(0.1, 1.5, 1.2)
    def gap(x):
        mean, log_std = model.encode(x)
        centre = torch.linalg.solve(PRECISION, (x - B) @ W / 0.25, left=False)
        posterior = Normal(centre, PRECISION.diagonal().rsqrt())
        return kl_divergence(Independent(Normal(mean, log_std.exp()), 1), Independent(posterior, 1)).sum()
    biased = torch.tensor([SCORE]).double() - torch.autograd.functional.jacobian(gap, X)
    found = model.score(X, by="elbo", draws=400_000, generator=generator(4))
    assert found[0].tolist() == pytest.approx(biased[0].tolist(), abs=0.02)
    assert (biased[0] - torch.tensor(SCORE)).abs().max() > 0.2


def test_samples_have_the_models_law_noise_included():
    drawn = linear().sample(200_000, generator=generator(5))
    assert torch.allclose(drawn.mean(0), B, atol=0.02)
    assert torch.allclose(drawn.T.cov(), W @ W.T + 0.25 * torch.eye(4), atol=0.04)
    assert torch.equal(drawn[:10], linear().sample(200_000, generator=generator(5))[:10])


# one latent dimension, by quadrature

def test_the_density_adds_up_to_one():
    for sigma, model in ((None, curved()), (0.3, curved(((4,), (4,))))):
        side = torch.linspace(-14, 14, 141, dtype=torch.float64)
        with torch.no_grad(): log_p = quadrature(model, torch.cartesian_prod(side, side), sigma, 181)
        assert log_p.exp().sum().item() * 0.2**2 == pytest.approx(1, abs=1e-3)


def test_bounds_lie_below_the_density_and_reach_it():
    model, x = curved(), torch.randn(5, 2, dtype=torch.float64, generator=generator(6))
    log_p = quadrature(model, x).detach()
    with torch.no_grad():
        few = model.log_prob(x.repeat(4000, 1), generator=generator(7)).view(4000, 5)
        many = model.log_prob(x, draws=200_000, generator=generator(8))
    assert (few.mean(0) < log_p - 0.05).all()
    assert torch.allclose(many, log_p, atol=0.02)


def test_the_density_s_gradient_by_finite_differences_by_autograd_and_by_weights():
    model, x = curved(), torch.randn(4, 2, dtype=torch.float64, generator=generator(9)).requires_grad_()
    exact, = torch.autograd.grad(quadrature(model, x).sum(), x)
    with torch.no_grad():
        shifts = 1e-5 * torch.eye(2).double()
        differences = torch.stack([quadrature(model, x + h) - quadrature(model, x - h) for h in shifts], 1) / 2e-5
    assert torch.allclose(exact, differences, atol=1e-7)
    for by in ("iwae", "fisher"):
        found = model.score(x, by=by, draws=100_000, generator=generator(10))
        assert torch.allclose(found, exact, atol=0.05), by


# bounds, draws and memory

def test_one_draw_is_the_elbo_with_the_gradients_of_its_closed_form():
    "The entropy in closed form, log p(z) and log p(x|z) sampled: another value, the same gradients."
    model, x = curved(), torch.randn(6, 2, dtype=torch.float64, generator=generator(11))
    noise = torch.randn(1, 6, 1, dtype=torch.float64, generator=generator(12))
    def released(x):
        mean, log_std = model.encode(x)
        law = Normal(mean, log_std.exp())
        z = mean + law.scale * noise[0]
        location, log_scale = model.decode(z)
        likelihood = Normal(location, log_scale.exp()).log_prob(x).sum(1)
        return (likelihood + Normal(0.0, 1.0).log_prob(z).sum(1) + law.entropy().sum(1)).sum()
    expected = torch.autograd.functional.jacobian(released, x)
    assert torch.allclose(model.score(x, by="elbo", generator=generator(12)), expected, atol=1e-10)
    assert torch.allclose(model.score(x, draws=1, generator=generator(12)), expected, atol=1e-10)
    moved = model.log_prob(x, generator=generator(12)).sum() - released(x)
    assert moved.item() == pytest.approx(((noise**2 - 1) / 2).sum().item(), abs=1e-10)
    ours = torch.autograd.grad(model.log_prob(x, generator=generator(12)).sum(), model.parameters())
    theirs = torch.autograd.grad(released(x), model.parameters())
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(ours, theirs))


def test_loss_is_minus_the_mean_elbo_of_torchs_random_state():
    model, x = curved(), torch.randn(6, 2, dtype=torch.float64, generator=generator(13))
    torch.manual_seed(3)
    loss = model.loss(x)
    assert loss.item() == pytest.approx(-model.log_prob(x, generator=torch.Generator().manual_seed(3)).mean().item())


@pytest.mark.parametrize("by", SCORES)
def test_blocks_change_nothing_and_bound_what_is_decoded_at_once(by, monkeypatch):
    model, x, seen = curved(), torch.randn(3, 2, dtype=torch.float64, generator=generator(14)), []
    def both():
        bound = "elbo" if by == "elbo" else "iwae"
        value = model.log_prob(x, bound=bound, draws=101, generator=generator(15))
        return value, model.score(x, by=by, draws=101, generator=generator(15))
    whole = both()
    monkeypatch.setattr(module, "AT_ONCE", 12)
    model.decoder.register_forward_hook(lambda network, given, out: seen.append(given[0].shape[:2].numel()))
    parts = both()
    assert max(seen) == 12 and sum(seen) == 2 * 3 * 101
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(whole, parts))


def test_scores_leave_weights_alone_and_weighted_means_take_extreme_weights():
    model, x = curved(), torch.zeros(2, 2, dtype=torch.float64)
    for by in SCORES: assert not model.score(x, by=by).requires_grad
    assert all(p.grad is None for p in model.parameters())
    log_weights = torch.tensor([[-4000.0], [-4001.0], [1000.0]], dtype=torch.float64)
    values = torch.tensor([[[1.0]], [[2.0]], [[3.0]]], dtype=torch.float64)
    assert weighted_mean(zip(log_weights[:2].split(1), values[:2].split(1))).item() == pytest.approx(
        (1 + 2 / math.e) / (1 + 1 / math.e), rel=1e-6)
    assert weighted_mean(zip(log_weights.split(1), values.split(1))).item() == 3


# told sigma

def test_deaf_to_sigma_a_conditional_model_is_the_vanilla_one():
    told, plain = VAE(6, 2, (8,), ((5, 3), (5, 2))).double(), VAE(6, 2, (8,)).double()
    with torch.no_grad():
        for name in ("encoder", "decoder"):
            ours, theirs = getattr(told, name).layers, getattr(plain, name).layers
            width = theirs[0].in_features
            ours[0].weight[:, width:] = 0
            theirs.load_state_dict({k: v[:, :width] if k == "0.weight" else v for k, v in ours.state_dict().items()})
    x, sigma = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 0.1, 0.2, 0.3]).double()
    a, b = told.log_prob(x, sigma, 7, generator(16)), plain.log_prob(x, None, 7, generator(16))
    assert torch.allclose(a, b, atol=1e-12)
    assert torch.allclose(told.score(x, sigma, generator=generator(17)), plain.score(x, generator=generator(17)))
    assert torch.allclose(told.sample(5, 0.2, generator(18)), plain.sample(5, generator=generator(18)))


def test_each_sample_is_told_its_own_sigma():
    model, x = curved(((4,), (4,))), torch.randn(3, 2, dtype=torch.float64)
    sigma = torch.tensor([0.0, 0.5, 2.0]).double()
    together = model.log_prob(x, sigma, 5, generator(19))
    noise = torch.randn(5, 3, 1, dtype=torch.float64, generator=generator(19))
    for i in range(3):
        alone = model.weigh(x[i : i + 1], noise[:, i : i + 1], sigma[i].item())[0].logsumexp(0) - math.log(5)
        assert together[i].item() == pytest.approx(alone.item(), abs=1e-12)
    assert not torch.allclose(together, model.log_prob(x, 0.5, 5, generator(19)))


def test_without_noise_there_is_no_step():
    for model in (curved(), curved(((4,), (4,)))):
        x = torch.randn(3, 2, dtype=torch.float64)
        assert torch.equal(model.denoise(x, 0.0), x)


# networks

@pytest.mark.parametrize("model, count", [
    (lambda: VAE(784), 418_361), (lambda: VAE(784, conditioning=((256, 64), (256, 8))), 456_321),
    (lambda: convolutional_vae(3, 32), 597_693),
    (lambda: convolutional_vae(3, 32, conditioning=((256, 1024), (256, 8))), 937_957), (lambda: VAE(3072), 1_592_105)])
def test_published_sizes(model, count):
    assert sum(p.numel() for p in model().parameters()) == count


def test_convolutions_keep_channels_and_pixels_in_order():
    shape = Convolutions(3, 8, (4, 5))
    reads, draws = ConvolutionalEncoder(shape, 6), ConvolutionalDecoder(shape, 2, spread=True)
    pictures = torch.rand(7, 3, 8, 8)
    assert torch.allclose(reads(pictures.flatten(1)), reads.last(reads.layers(pictures)))
    z = torch.randn(2, 7, 2)
    drawn = draws(z)
    maps = draws.layers[:-1](draws.first(z[1]).unflatten(1, (5, 4, 4)))
    assert torch.allclose(drawn[1, :, :-1], maps[:, :3].flatten(1), atol=1e-6)
    assert torch.allclose(drawn[1, :, -1:], draws.spread(maps[:, 3].flatten(1)), atol=1e-6)


def test_extra_numbers_reach_the_last_layer_only_and_sigma_is_a_channel():
    shape = Convolutions(1, 5, (2,))
    reads = ConvolutionalEncoder(shape, 3, extra=4, conditioning=(6, 25))
    x, extra, sigma = torch.rand(2, 25), torch.rand(2, 4), torch.tensor([0.1, 0.2])
    channel = reads.told.conditioner(sigma).view(2, 1, 5, 5)
    features = reads.layers(torch.cat([x.view(2, 1, 5, 5), channel], 1))
    expected = reads.last(torch.cat([features, extra], 1))
    assert torch.allclose(reads(torch.cat([x, extra], 1), sigma), expected, atol=1e-6)


def test_a_convolutional_vae_is_a_density_too():
    torch.manual_seed(0)
    shape = Convolutions(1, 6, (3, 2))
    model, x = VAE(36, 1, shape, ((4, 36), (4, 2))).double(), torch.rand(3, 36, dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.1, 0.1]).double()
    with torch.no_grad():
        z = torch.linspace(-9, 9, 2001, dtype=torch.float64)[:, None]
        mean, log_std = model.decode(z, 0.1)
        joint = log_normal(x[:, None], mean, log_std) + Normal(0.0, 1.0).log_prob(z[:, 0])
        found = model.log_prob(x, sigma, 20_000, generator(20))
    assert torch.allclose(found, joint.logsumexp(1) + math.log(18 / 2000), atol=0.02)


def test_training_brings_the_density_up():
    torch.manual_seed(0)
    along = torch.linspace(-1.5, 1.5, 256).double()[:, None]
    x = torch.cat([along, (1.5 * along).sin()], 1) + 0.1 * torch.randn(256, 2, generator=generator(21)).double()
    model = VAE(2, 1, (32,)).double()
    before, adam = quadrature(model, x).mean().item(), torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        adam.zero_grad()
        model.loss(x).backward()
        adam.step()
    assert quadrature(model, x).mean().item() > before + 1


@pytest.mark.parametrize("call, message", [
    (lambda: VAE(4, conditioning=((3,),)), "number of networks in conditioning must be one of 2; got 1"),
    (lambda: convolutional_vae(3, 32, conditioning=((256, 64), (8,))), "width must be one of 1024; got 64"),
    (lambda: VAE(784, hidden=Convolutions(3, 32)), "dimension must be one of 3072; got 784"),
    (lambda: Convolutions(1, 8), "size must be between 9 and inf, got 8"),
    (lambda: linear().log_prob(X, draws=0), "draws must be between 1 and inf, got 0"),
    (lambda: linear().log_prob(X, bound="elbow"), "bound must be one of iwae, elbo; got 'elbow'"),
    (lambda: linear().score(X, by="tweedie"), "by must be one of iwae, elbo, fisher; got 'tweedie'"),
    (lambda: linear().log_prob(X, 0.1), "sigma must be None"), (lambda: linear().sample(2, 0.1), "sigma must be None"),
    (lambda: curved(((4,), (4,))).log_prob(X[:, :2]), "sigma must be given")])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message): call()


def test_a_perceptron_without_hidden_layers_is_linear():
    network = Dense((3, 2), (4,))
    assert [p.shape for p in network.layers.parameters()] == [(2, 7), (2,)]
