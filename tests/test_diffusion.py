"Diffusion (oracles O2, O3): chains against closed forms, orders, parity with diffusers, branches, streams."

import math
from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import nn

from uncpaper.diffusion import (
    CLEAN, DDIM, TARGETS, Ancestral, DPMSolver2M, GaussianDenoiser, Guided, MixtureDenoiser, NetworkDenoiser, Posterior,
    Step, branch, even_indices, last, noise_streams, perturb, rollout, sample, score, seeded_noise,
    segment, tweedie, weighted)
from uncpaper.diffusion.samplers import steps_between
from uncpaper.schedules import (
    SCHEDULES, VarianceExploding, VariancePreserving, cosine_betas, latent_betas, linear_betas)

LINEAR = linear_betas()
SAMPLERS = [Ancestral(), Ancestral("beta", steps=7), DDIM(), DDIM(9, eta=0.7), DPMSolver2M(6)]


def steps_of(sampler, schedule, start):
    return steps_between(schedule, sampler.times(schedule, start), sampler)


def chain_variance(denoiser, start, sampler):
    "What a chain's noise alone makes of the variance of x_0 for Gaussian data, from the sampler's own coefficients."
    v, times = 0.0, sampler.times(denoiser.schedule, start)
    for t, step in zip(times, steps_of(sampler, denoiser.schedule, start)):
        alpha, sigma = denoiser.schedule.scales(t)
        v = (step.x + step.mean * alpha * denoiser.var / (alpha**2 * denoiser.var + sigma**2)) ** 2 * v + step.noise**2
    return v


def column(value, n=1, dtype=torch.float64):
    return torch.full((1, n), value, dtype=dtype)


# O2: Gaussian data

O2 = {30: (.479249, .011853, .010547, .011769), 60: (.435070, .037046, .034825, .037033),
      120: (.322038, .101127, .097846, .101374), 150: (.269890, .130371, .126842, .130750)}


@pytest.mark.parametrize("T", O2)
def test_o2_mean_and_both_variances(T):
    mean, var, small, large = O2[T]
    denoiser = GaussianDenoiser(LINEAR, 0.0, 0.25)
    exact = denoiser(column(0.5), T)
    assert exact.mean.item() == pytest.approx(mean, abs=6e-7) and exact.var.item() == pytest.approx(var, abs=6e-7)
    for variance, expected in (("posterior", small), ("beta", large)):
        assert chain_variance(denoiser, T, Ancestral(variance)) == pytest.approx(expected, abs=6e-7)
        drawn = last(sample(denoiser, column(0.5, 100_000), T, Ancestral(variance), seeds=[0]))
        assert abs(drawn.mean() - mean) < 4 * (expected / 1e5) ** 0.5
        assert abs(drawn.var() / expected - 1) < 4 * (2 / 1e5) ** 0.5


def test_o2_chain_mean_is_the_posterior_mean_to_six_digits():
    denoiser = GaussianDenoiser(LINEAR, 0.0, 0.25)
    for T, (mean, *_) in O2.items():
        x = 0.5
        for t, step in zip(range(T, -1, -1), steps_of(Ancestral(), LINEAR, T)):
            x = step.x * x + step.mean * denoiser(column(x), t).mean.item()
        assert x == pytest.approx(mean, abs=1e-6)


def test_o2_variance_recursion():
    a = (1 - LINEAR.betas).cumprod(0).tolist()
    v, denoiser = 0.0, GaussianDenoiser(LINEAR, 0.0, 0.25)
    for t in range(120, -1, -1):
        beta = LINEAR.betas[t].item()
        g = beta / (a[t] * 0.25 + 1 - a[t])
        v = (1 - g) ** 2 * v / (1 - beta) + (t > 0) * LINEAR.posterior_variance(t).item()
    assert chain_variance(denoiser, 120, Ancestral()) == pytest.approx(v, rel=1e-9)


@pytest.mark.parametrize("T", [30, 120, 999])
def test_o2_unit_variance_with_beta_loses_the_first_beta_alone(T):
    drawn = chain_variance(GaussianDenoiser(LINEAR, 0.0, 1.0), T, Ancestral("beta"))
    assert drawn == pytest.approx(1 - LINEAR.alpha(T).item() ** 2 - 1e-4, rel=1e-9)


# O3: two points

def two_points(var=0.0, weights=None):
    return MixtureDenoiser(LINEAR, torch.tensor([[1.0], [-1.0]], dtype=torch.float64), var, weights)


@pytest.mark.parametrize("T, x, exact, chain, n", [
    (300, 0.2, .60213, .60215, 15_000), (120, 0.1, .78139, .79014, 50_000)])
def test_o3_every_chain_lands_on_a_point(T, x, exact, chain, n):
    denoiser, start = two_points(), torch.full((1, n, 1), x, dtype=torch.float64)
    assert denoiser.responsibilities(column(x), T)[0, 0].item() == pytest.approx(exact, abs=6e-6)
    end = last(sample(denoiser, start, T, seeds=[3]))
    assert (end.abs() - 1).abs().max() < 1e-14
    share = (end > 0).double().mean().item()
    assert abs(share - exact) < 0.012 and abs(share - chain) < 3 * (0.24 / n) ** 0.5 + 0.002


def test_o3_closed_forms():
    x, t = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], 200
    a = LINEAR.alpha(t).item() ** 2
    posterior = two_points()(x, t)
    torch.testing.assert_close(two_points().responsibilities(x, t)[:, :1], (2 * a**0.5 * x / (1 - a)).sigmoid())
    torch.testing.assert_close(posterior.mean, (a**0.5 * x / (1 - a)).tanh())
    torch.testing.assert_close(posterior.var, 1 - posterior.mean**2)


# denoisers

def mixture():
    centres = torch.randn(4, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return MixtureDenoiser(LINEAR, centres, 0.04, torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=torch.float64))


def log_density(denoiser, x, t, log_weights):
    alpha, sigma = LINEAR.scales(t)
    normal = torch.distributions.Normal(alpha * denoiser.centres, (alpha**2 * denoiser.var + sigma**2) ** 0.5)
    return (normal.log_prob(x[:, None, :]).sum(-1) + log_weights).logsumexp(-1)


@pytest.mark.parametrize("t", [0, 40, 300, 999])
def test_mixture_against_gradients_of_its_log_density(t):
    denoiser, x = mixture(), torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    log_weights = (denoiser.weights / denoiser.weights.sum()).log().requires_grad_()
    densities = log_density(denoiser, x, t, log_weights)
    by_weight = torch.stack([torch.autograd.grad(p, log_weights, retain_graph=True)[0] for p in densities])
    by_x, = torch.autograd.grad(log_density(denoiser, x, t, log_weights).sum(), x)
    torch.testing.assert_close(denoiser.responsibilities(x, t), by_weight)
    torch.testing.assert_close(score(denoiser, x, t), by_x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(tweedie(x, t, LINEAR, by_x), denoiser(x, t).mean, rtol=1e-7, atol=1e-7)


def test_mixture_variance_is_the_slope_of_its_mean():
    "Second-order Tweedie: Cov = sigma^2 / alpha d mean / dx."
    denoiser, x, t = mixture(), torch.randn(5, 2, dtype=torch.float64), 150
    alpha, sigma = LINEAR.scales(t)
    for row in x:
        jacobian = torch.autograd.functional.jacobian(lambda v: denoiser(v[None], t).mean[0], row)
        torch.testing.assert_close(denoiser(row[None], t).var[0], sigma**2 / alpha * jacobian.diagonal())


def test_mixture_draws_have_its_mean_variance_and_responsibilities():
    denoiser, t, n = mixture(), 250, 100_000
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    draws, posterior = denoiser.draw(x, t, n, torch.Generator().manual_seed(0)), denoiser(x, t)
    assert draws.shape == (3, n, 2)
    assert ((draws.mean(1) - posterior.mean).abs() < 4.5 * (posterior.var / n) ** 0.5).all()
    assert ((draws.var(1) / posterior.var - 1).abs() < 0.03).all()
    exact = replace(denoiser, var=0.0)
    points = exact.draw(x, t, 20_000, torch.Generator().manual_seed(0))
    share = torch.stack([(points == c).all(-1).double().mean(1) for c in exact.centres], 1)
    torch.testing.assert_close(share, exact.responsibilities(x, t), rtol=0, atol=0.016)


def test_gaussian_denoiser_against_tweedie_and_the_unit_prior():
    x = torch.randn(4, 3, dtype=torch.float64)
    mean, var = torch.tensor([0.3, -1.0, 0.0]).double(), torch.tensor([0.2, 1.0, 4.0]).double()
    denoiser = GaussianDenoiser(LINEAR, mean, var)
    for t in (0, 120, 999):
        alpha, sigma = LINEAR.scales(t)
        exact = -(x - alpha * mean) / (alpha**2 * var + sigma**2)
        torch.testing.assert_close(score(denoiser, x, t), exact, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(tweedie(x, t, LINEAR, exact), denoiser(x, t).mean, rtol=1e-9, atol=1e-11)
        assert GaussianDenoiser(LINEAR, 0.0, 1.0)(x, t).var.item() == pytest.approx(sigma**2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_t_per_sample_is_t_sample_by_sample(dtype):
    x, t = torch.randn(4, 2, dtype=dtype), torch.tensor([0, 7, 500, 999])
    network = NetworkDenoiser(lambda x, t: torch.sin(x) + t[:, None] / 1000, LINEAR, "v")
    for denoiser in (mixture(), GaussianDenoiser(LINEAR, 0.3, 0.2), network):
        together = denoiser(x, t)
        for i in range(4):
            alone = denoiser(x[i:i + 1], t[i].item())
            torch.testing.assert_close(together.mean[i:i + 1], alone.mean)
            torch.testing.assert_close(together.var.expand_as(x)[i:i + 1], alone.var.expand(1, 2))
        assert together.mean.dtype == denoiser(x, 3).mean.dtype == denoiser(x, 3).var.dtype == dtype
    alone = perturb(x[2:3], 500, LINEAR, torch.ones(1, 2, dtype=dtype))
    torch.testing.assert_close(perturb(x, t, LINEAR, torch.ones_like(x))[2:3], alone)


@pytest.mark.parametrize("target", TARGETS)
def test_a_network_that_knows_its_target_knows_x0(target):
    x0, noise = torch.randn(5, 1, 4, 4, dtype=torch.float64), torch.randn(5, 1, 4, 4, dtype=torch.float64)
    for t in (3, 400, torch.tensor([1, 20, 300, 500, 900])):
        alpha, sigma = (LINEAR.alpha(t).view(-1, 1, 1, 1), LINEAR.sigma(t).view(-1, 1, 1, 1))
        truth = {"epsilon": noise, "x0": x0, "v": alpha * noise - sigma * x0}[target]
        def knowing(x, times): return truth if times.shape == (5,) and times.dtype == x.dtype else None
        mean, var = NetworkDenoiser(knowing, LINEAR, target)(perturb(x0, t, LINEAR, noise), t)
        torch.testing.assert_close(mean, x0)
        torch.testing.assert_close(var.expand(5, 1, 1, 1) if var.ndim else var.view(1, 1, 1, 1), sigma**2)


def test_perturb():
    x0, noise = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    torch.testing.assert_close(perturb(x0, 120, LINEAR, noise), .854833**0.5 * x0 + .381008 * noise, rtol=0, atol=2e-6)
    assert torch.equal(perturb(x0, -1, LINEAR, noise), x0) and torch.equal(weighted(2.0, x0, 0.0, noise), 2 * x0)
    grown = perturb(torch.zeros(100_000), 300, LINEAR, seeded_noise([1], (100_000,), "x")[0])
    assert grown.std().item() == pytest.approx(LINEAR.sigma(300).item(), rel=0.01)


def test_guidance():
    x, c, u = torch.randn(4, 2, dtype=torch.float64), mixture(), GaussianDenoiser(LINEAR, 0.0, 1.0)
    for t in (5, torch.tensor([0, 10, 400, 999])):
        torch.testing.assert_close(Guided(c, u, 0.0)(x, t).mean, u(x, t).mean)
        torch.testing.assert_close(Guided(c, u, 1.0)(x, t).mean, c(x, t).mean)
        torch.testing.assert_close(Guided(c, c, 7.0)(x, t).mean, c(x, t).mean)
        torch.testing.assert_close(Guided(c, u, 3.0)(x, t).mean, 3 * c(x, t).mean - 2 * u(x, t).mean)
        expected = 3 * score(c, x, t) - 2 * score(u, x, t)
        torch.testing.assert_close(score(Guided(c, u, 3.0), x, t), expected, rtol=1e-6, atol=1e-6)
    plain, guided = (last(sample(d, x, 50, DDIM())) for d in (c, Guided(c, u, 1.0)))
    torch.testing.assert_close(plain, guided)


def test_guidance_compares_schedules_by_what_they_say():
    c = GaussianDenoiser(LINEAR, 0.0, 1.0)
    Guided(c, GaussianDenoiser(VariancePreserving(LINEAR.betas.clone()), 0.2, 1.0), 2.0)
    Guided(GaussianDenoiser(VarianceExploding([0.1]), 0, 1.0), GaussianDenoiser(VarianceExploding([0.1]), 0, 2.0), 2.0)
    for other in (cosine_betas(), linear_betas(500), VarianceExploding([0.1])):
        with pytest.raises(ValueError, match="^unconditional must have the schedule"):
            Guided(c, GaussianDenoiser(other, 0.0, 1.0), 2.0)


# what a denoiser is told

CLASSES, NOTHING = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], dtype=torch.float64), 3


def told_network(x, t, c):
    "Says x_0 exactly: the centre of the class, or the mixture's mean when it is told nothing."
    assert c.shape == x.shape[:1] and t.shape == x.shape[:1]
    own = torch.cat([CLASSES, CLASSES.new_zeros(1, 2)])[c]
    return torch.where((c == NOTHING)[:, None], MixtureDenoiser(LINEAR, CLASSES)(x, t).mean, own)


def test_one_network_with_and_without_its_class():
    network = NetworkDenoiser(told_network, LINEAR, "x0")
    x, labels = torch.randn(4, 2, dtype=torch.float64), torch.tensor([2, 0, NOTHING, 1])
    mixed = network.given(labels)(x, 300).mean
    for i in range(4):
        assert torch.equal(mixed[i:i + 1], network.given(labels[i:i + 1])(x[i:i + 1], 300).mean)
        assert torch.equal(mixed[i:i + 1], network.given(int(labels[i]))(x[i:i + 1], 300).mean)
    assert torch.equal(network.given(NOTHING)(x, 300).mean, MixtureDenoiser(LINEAR, CLASSES)(x, 300).mean)
    guided = Guided(network.given(labels), network.given(NOTHING), 2.0)(x, 300).mean
    torch.testing.assert_close(guided, 2 * mixed - MixtureDenoiser(LINEAR, CLASSES)(x, 300).mean)
    assert network.condition is None


def test_a_chain_told_its_class_ends_there():
    network, x = NetworkDenoiser(told_network, LINEAR, "x0"), torch.randn(3, 2, dtype=torch.float64)
    end = last(sample(network.given(torch.arange(3)), x, 999, Ancestral(steps=10), range(3)))
    assert torch.equal(end, CLASSES)
    with pytest.raises(ValueError, match="^condition must be one for all samples, or 3, got 2$"):
        last(sample(network.given(torch.arange(2)), x, 999, Ancestral(steps=10), range(3)))


# noise that is added without shrinking

@pytest.mark.parametrize("mean, var, sigma", [(0.0, 1.0, 0.5), (-0.7, 0.04, 0.2), (3.0, 2.0, 0.01)])
def test_tweedie_of_a_gaussian_with_alpha_one(mean, var, sigma):
    schedule, x = VarianceExploding([sigma]), torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    slope = -(x - mean) / (var + sigma**2)
    by_hand = (var * x + sigma**2 * mean) / (var + sigma**2)
    torch.testing.assert_close(tweedie(x, 0, schedule, slope), by_hand, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tweedie(x, torch.zeros(9), schedule, slope), by_hand, rtol=1e-12, atol=1e-12)
    exact = GaussianDenoiser(schedule, mean, var)
    torch.testing.assert_close(exact(x, 0).mean, by_hand, rtol=1e-12, atol=1e-12)
    assert exact(x, 0).var.item() == pytest.approx(var * sigma**2 / (var + sigma**2), rel=1e-12)
    torch.testing.assert_close(score(exact, x, 0), slope, rtol=1e-6, atol=1e-6)


def test_tweedie_makes_less_spread_out_what_it_denoises():
    var, sigma = 0.3, 0.4
    noisy = (var + sigma**2) ** 0.5 * seeded_noise([0], (200_000,), "x", dtype=torch.float64)[0]
    denoised = tweedie(noisy, 0, VarianceExploding([sigma]), -noisy / (var + sigma**2))
    assert denoised.var().item() == pytest.approx(var**2 / (var + sigma**2), rel=0.02)


def test_noise_is_added_to_what_is_there():
    schedule, x0, noise = VarianceExploding([0.1, 0.4]), torch.randn(3, 2), torch.randn(3, 2)
    torch.testing.assert_close(perturb(x0, 1, schedule, noise), x0 + 0.4 * noise)
    torch.testing.assert_close(perturb(x0, torch.tensor([-1, 0, 1]), schedule, noise),
                               x0 + torch.tensor([[0.0], [0.1], [0.4]]) * noise)


@pytest.mark.parametrize("sampler", [DDIM(eta=0.5), Ancestral(), DPMSolver2M(60)], ids=str)
def test_chains_with_alpha_one_end_in_the_data(sampler):
    schedule = VarianceExploding(torch.logspace(-2, 1, 400, dtype=torch.float64))
    exact, seeds = GaussianDenoiser(schedule, 0.5, 0.25), range(2)
    x = 0.5 + (0.25 + 100) ** 0.5 * seeded_noise(seeds, (20_000,), "start", dtype=torch.float64)
    end = last(sample(exact, x, 399, sampler, seeds if sampler.draws else None))
    assert end.mean().item() == pytest.approx(0.5, abs=0.02) and end.var().item() == pytest.approx(0.25, rel=0.04)


def test_the_bridge_keeps_the_marginal_variance_with_alpha_one():
    schedule = VarianceExploding([0.1, 0.5, 2.0])
    for sampler in (Ancestral(), DDIM(eta=0.3)):
        step, (sigma, sigma_s) = sampler.step(schedule, 2, 1), (2.0, 0.5)
        assert step.x + step.mean == pytest.approx(1, rel=1e-12)
        assert (step.x * sigma) ** 2 + step.noise**2 == pytest.approx(sigma_s**2, rel=1e-12)


# orders

def flow(denoiser, x, t, s):
    "The exact map of the probability flow for Gaussian data, from t to s."
    (alpha, sigma), (alpha_s, sigma_s) = denoiser.schedule.scales(t), denoiser.schedule.scales(s)
    spread = ((alpha_s**2 * denoiser.var + sigma_s**2) / (alpha**2 * denoiser.var + sigma**2)) ** 0.5
    return alpha_s * denoiser.mean + spread * (x - alpha * denoiser.mean)


def before_clean(denoiser, x, start, sampler):
    *_, state, _ = sample(denoiser, x, start, sampler)
    return state


@pytest.mark.parametrize("make, grid", [(DDIM, (61, 121, 241, 481)), (DPMSolver2M, (64, 128, 256, 512))])
def test_measured_order_of_the_flow(make, grid):
    denoiser, x = GaussianDenoiser(linear_betas(), 0.2, 0.25), torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64)
    errors = []
    for steps in grid:
        state = before_clean(denoiser, x, 960, make(steps))
        errors.append((state.x - flow(denoiser, x, 960, state.t)).abs().max().item())
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert orders[-1] == pytest.approx(make.order, abs=0.12), orders
    assert all(abs(o - make.order) < 0.35 for o in orders), orders


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_measured_weak_order_of_the_ancestral_chain(variance):
    "The variance that the chain gives x_480, started from one x_1920, beside the exact one: exact for both, no draws."
    schedule, errors = VariancePreserving(torch.full((1921,), 1.2e-3)), []
    denoiser, (alpha_s, sigma_s) = GaussianDenoiser(schedule, 0.0, 0.25), schedule.scales(480)
    alpha, _ = schedule.scales(1920)
    kept = (alpha / alpha_s) ** 2
    exact = 1 / (1 / (alpha_s**2 * 0.25 + sigma_s**2) + kept / (1 - kept))
    for steps in (46, 91, 181, 361):
        times, v = [480 + t for t in even_indices(1440, steps)], 0.0
        for t, s in zip(times, times[1:]):
            step, (a, b) = Ancestral(variance).step(schedule, t, s), schedule.scales(t)
            v = (step.x + step.mean * a * 0.25 / (a**2 * 0.25 + b**2)) ** 2 * v + step.noise**2
        errors.append(abs(v - exact))
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert all(abs(o - Ancestral.order) < 0.15 for o in orders), orders


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("var", [0.1, 0.25, 0.5, 1.0])
def test_flow_map_error(schedule, var):
    "From T = 999 to clean data, root mean square over x_T, in standard deviations of the data."
    denoiser = GaussianDenoiser(SCHEDULES[schedule](), 0.1, var)
    x = torch.randn(4000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = flow(denoiser, x, 999, -1)
    ends = {n: last(sample(denoiser, x, 999, DPMSolver2M(n))) for n in (8, 32)}
    error = {n: ((end - exact) ** 2).mean().item() ** 0.5 / var**0.5 for n, end in ends.items()}
    assert error[8] <= 0.025 and error[32] <= 0.011, error


# parity with diffusers

def network(x, t):
    "A smooth, non-linear answer of the size of noise."
    return 0.8 * torch.sin(1.3 * x) + 0.2 * torch.cos(x.flip(-1) + t.view(-1, *[1] * (x.ndim - 1)) / 300)


X = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
TABLE = {"trained_betas": LINEAR.betas.numpy()}
PREDICTION = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


def in_double(scheduler):
    scheduler.betas = LINEAR.betas
    scheduler.alphas = 1 - LINEAR.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    return scheduler


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variance, theirs", [("posterior", "fixed_small"), ("beta", "fixed_large")])
@pytest.mark.parametrize("steps", [None, 20])
def test_parity_with_ddpm(monkeypatch, target, variance, theirs, steps):
    settings = {"clip_sample": False, "prediction_type": PREDICTION[target], **TABLE}
    scheduler, sampler = in_double(DDPMScheduler(variance_type=theirs, **settings)), Ancestral(variance, steps)
    seeds = [4, 5, 6]
    scheduler.set_timesteps(timesteps=sampler.times(LINEAR, 199)[:-1])
    streams = noise_streams(seeds, X)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(streams))
    states = list(sample(NetworkDenoiser(network, LINEAR, target), X, 199, sampler, seeds))
    for now, after in zip(states, states[1:]):
        said = network(now.x, torch.full((3,), float(now.t), dtype=torch.float64))
        torch.testing.assert_close(after.x, scheduler.step(said, now.t, now.x).prev_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("target", TARGETS)
def test_parity_with_ddim(eta, target):
    scheduler = in_double(DDIMScheduler(clip_sample=False, prediction_type=PREDICTION[target], **TABLE))
    seeds = [4, 5, 6]
    scheduler.set_timesteps(50) # 980, 960, ..., 0
    streams = noise_streams(seeds, X)
    states = list(sample(NetworkDenoiser(network, LINEAR, target), X, 980, DDIM(50, eta), seeds))
    assert [s.t for s in states] == [*scheduler.timesteps.tolist(), -1]
    for now, after in zip(states, states[1:]):
        said = network(now.x, torch.full((3,), float(now.t), dtype=torch.float64))
        noise = {"variance_noise": next(streams) if after.t >= 0 else torch.zeros_like(X)} if eta else {}
        if after.t < 0: noise, last_eta = {}, 0.0 # they draw noise even then: ours ends in the posterior's mean
        else: last_eta = eta
        theirs = scheduler.step(said, now.t, now.x, eta=last_eta, **noise).prev_sample
        torch.testing.assert_close(after.x, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_parity_with_dpm_solver(target, name):
    schedule, sampler = SCHEDULES[name](), DPMSolver2M(20)
    scheduler = DPMSolverMultistepScheduler(trained_betas=schedule.betas.numpy(), prediction_type=PREDICTION[target],
                                            solver_order=2, final_sigmas_type="zero")
    times = torch.tensor(sampler.times(schedule, 900), dtype=torch.float64)
    scheduler.set_timesteps(timesteps=list(range(900, 900 - 20, -1)))
    scheduler.sigmas = torch.cat([schedule.noise_ratio(times[:-1]), torch.zeros(1)]) # the same real times
    states = list(sample(NetworkDenoiser(network, schedule, target), X, 900, sampler))
    for i, (now, after) in enumerate(zip(states, states[1:])):
        said = network(now.x, torch.full((3,), float(now.t), dtype=torch.float64))
        theirs = scheduler.step(said, scheduler.timesteps[i], now.x).prev_sample
        torch.testing.assert_close(after.x, theirs, rtol=1e-5, atol=1e-5)


# one stream per sample

@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (1, 8, 8), (2, 17), (3, 20, 20)])
def test_noise_is_bit_equal_alone_in_7_and_in_64(shape, dtype):
    def noise(seeds):
        streams = noise_streams(seeds, torch.empty(len(seeds), *shape, dtype=dtype))
        return torch.stack([next(streams) for _ in range(40)])
    big, seven, one = noise(range(64)), noise(range(10, 17)), noise([13])
    assert torch.equal(big[:, 10:17], seven) and torch.equal(big[:, 13:14], one)
    assert big.dtype == dtype and abs(big.mean()) < 0.03 and abs(big.std() - 1) < 0.03
    assert torch.equal(seeded_noise([5], shape, "a", dtype=dtype)[0], seeded_noise([4, 5], shape, "a", dtype=dtype)[1])
    assert not torch.equal(seeded_noise([5], shape, "a"), seeded_noise([5], shape, "b"))


@pytest.mark.parametrize("sampler", [
    Ancestral(), Ancestral("beta", 9), DDIM(eta=0.5), DDIM(12), DPMSolver2M(8)], ids=str)
def test_samples_do_not_depend_on_their_batch(sampler):
    network = NetworkDenoiser(lambda x, t: torch.sin(x), LINEAR)
    for denoiser, shape in ((GaussianDenoiser(LINEAR, 0.1, 0.3), (1, 8, 8)), (mixture(), (2,)), (network, (5,))):
        x = seeded_noise(range(64), shape, "start")
        together = last(sample(denoiser, x, 40, sampler, range(64)))
        for part in (slice(20, 27), slice(63, 64)):
            assert torch.equal(together[part], last(sample(denoiser, x[part], 40, sampler, range(64)[part])))


def test_same_seed_same_sample_other_seed_other_sample_and_the_global_state_is_left_alone():
    denoiser, x = GaussianDenoiser(LINEAR, 0.0, 0.25), torch.full((3, 4), 0.5)
    before = torch.get_rng_state()
    a = last(sample(denoiser, x, 60, seeds=[1, 1, 2]))
    assert torch.equal(a[0], a[1]) and not torch.equal(a[0], a[2]) and torch.equal(before, torch.get_rng_state())


# the loop

def test_states_of_a_full_and_of_a_partial_chain():
    denoiser, x = GaussianDenoiser(LINEAR, 0.0, 0.25), torch.randn(2, 3)
    states = list(sample(denoiser, x, 120, seeds=[0, 1]))
    assert [s.t for s in states] == list(range(120, -2, -1)) and torch.equal(states[0].x, x)
    assert torch.equal(states[0].mean, denoiser(x, 120).mean)
    assert torch.equal(states[-1].x, states[-1].mean) and torch.equal(states[-1].x, states[-2].mean)
    assert Ancestral().calls(LINEAR, 120) == 121 == len(states) - 1
    end = last(sample(denoiser, x, 0, seeds=[0, 1]))
    assert torch.equal(end, denoiser(x, 0).mean) # index 0: one call, no noise
    assert torch.equal(end, last(sample(denoiser, x, 0, seeds=[8, 9])))


def test_a_chain_can_be_cut_and_the_flow_goes_on_from_there():
    denoiser, x = mixture(), torch.randn(3, 2, dtype=torch.float64)
    whole = list(sample(denoiser, x, 300, DDIM()))
    middle = next(s for s in whole if s.t == 100)
    assert torch.equal(last(sample(denoiser, middle.x, 100, DDIM())), whole[-1].x)


@pytest.mark.parametrize("steps", [None, 200, 37])
@pytest.mark.parametrize("start", [999, 300])
def test_a_branch_from_any_state_of_a_trunk_visits_the_rest_of_its_times_and_ends_in_its_bits(steps, start):
    denoiser, x = mixture(), torch.randn(2, 2, dtype=torch.float64)
    trunk = list(sample(denoiser, x, start, DDIM(steps)))
    times = DDIM(steps).times(LINEAR, start)
    assert [s.t for s in trunk] == times
    for i in range(0, len(times) - 1, 1 if len(times) < 50 else 29):
        branch = list(sample(denoiser, trunk[i].x, segment(times, times[i]), DDIM(steps)))
        assert [s.t for s in branch] == times[i:]
        assert all(torch.equal(a.x, b.x) and torch.equal(a.mean, b.mean) for a, b in zip(branch, trunk[i:]))


def test_the_grid_of_a_shorter_chain_is_not_the_rest_of_a_longer_one():
    "Why a branch needs its trunk's times: from the 30th of 200 even steps, 30 of 170 even steps are elsewhere."
    trunk = DDIM(200).times(LINEAR, 999)
    assert len(set(DDIM(170).times(LINEAR, trunk[30])) - set(trunk)) == 30


def test_a_trunk_stops_where_its_branches_start_and_even_at_once():
    denoiser, x, times = mixture(), torch.randn(2, 2, dtype=torch.float64), DDIM(20).times(LINEAR, 999)
    trunk = list(sample(denoiser, x, segment(times, 999, times[7]), DDIM()))
    assert [s.t for s in trunk] == times[:8] and torch.equal(trunk[-1].mean, denoiser(trunk[-1].x, times[7]).mean)
    joined = last(sample(denoiser, trunk[-1].x, segment(times, times[7]), DDIM()))
    assert torch.equal(joined, last(sample(denoiser, x, 999, DDIM(20))))
    only, = sample(denoiser, x, segment(times, 999, 999), DDIM())
    assert torch.equal(only.x, x) and only.t == 999


def test_a_segment_begins_its_streams_anew():
    denoiser, x, times = mixture(), torch.randn(3, 2, dtype=torch.float64), Ancestral(steps=20).times(LINEAR, 999)
    def branch(*seeds): return last(sample(denoiser, x, segment(times, times[5]), Ancestral(), seeds))
    a, b, c = branch(0, 1, 2), branch(0, 1, 2), branch(3, 1, 2)
    assert torch.equal(a, b) and torch.equal(a[1:], c[1:]) and not torch.equal(a[0], c[0])
    streams = noise_streams([0, 1, 2], x)
    step, mean = Ancestral().step(LINEAR, times[5], times[6]), denoiser(x, times[5]).mean
    first = list(sample(denoiser, x, segment(times, times[5], times[6]), Ancestral(), [0, 1, 2]))[1].x
    torch.testing.assert_close(first, step.x * x + step.mean * mean + step.noise * next(streams))


def test_a_multistep_sampler_restarts_its_memory_at_a_segments_start():
    denoiser, sampler = GaussianDenoiser(LINEAR, 0.2, 0.25), DPMSolver2M(12)
    times = sampler.times(LINEAR, 999)
    whole, part = steps_between(LINEAR, times, sampler), steps_between(LINEAR, times[4:], sampler)
    assert whole[0].previous == part[0].previous == 0 != whole[4].previous and whole[5:] == part[1:]
    trunk = list(sample(denoiser, torch.randn(2, 1, dtype=torch.float64), 999, sampler))
    branch = list(sample(denoiser, trunk[4].x, times[4:], sampler))
    t, x, mean = trunk[4]
    first_order = sampler.step(LINEAR, t, times[5])
    torch.testing.assert_close(branch[1].x, first_order.x * x + first_order.mean * mean)
    assert not torch.equal(branch[1].x, trunk[5].x) and (branch[-1].x - trunk[-1].x).abs().max() < 0.05


def test_the_grid_of_latent_diffusion_and_how_far_a_step_takes_two_networks_apart():
    "200 steps 996, 991, ..., 1 that end at index 0; mu_i - mu_j = kappa_t (e_i - e_j) at a shared z_t."
    schedule, times = latent_betas(), [*range(996, 0, -5), 0]
    z, e = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 2, 5, dtype=torch.float64)
    answers = [NetworkDenoiser(lambda x, t, e=e_m: e, schedule) for e_m in e]
    chains = [list(sample(denoiser, z, times, DDIM())) for denoiser in answers]
    assert [s.t for s in chains[0]] == times and len(times) == 201
    for i, expected, squared in ((0, -.05009, 2.51e-3), (50, -.03333, 1.11e-3), (100, -.02124, 4.51e-4),
                                 (150, -.01463, 2.14e-4), (199, -.01614, 2.60e-4)):
        (_, one), (_, other) = (sample(denoiser, z, times[i:i + 2], DDIM()) for denoiser in answers)
        a, prior = schedule.alpha(times[i]).item() ** 2, schedule.alpha(times[i + 1]).item() ** 2
        kappa = (1 - prior) ** 0.5 - (prior * (1 - a) / a) ** 0.5
        assert kappa == pytest.approx(expected, abs=1e-5) and kappa**2 == pytest.approx(squared, abs=5.1e-6)
        torch.testing.assert_close(one.x - other.x, kappa * (e[0] - e[1]), rtol=1e-9, atol=1e-12)


class Embedded(nn.Module):
    "One network, a table of embeddings for each member; the condition is (batch, 2): member and class."

    def __init__(self, members=3, classes=4):
        super().__init__()
        torch.manual_seed(1)
        self.tables = nn.Parameter(torch.randn(members, classes + 1, 6, dtype=torch.float64)) # the last row: no class
        self.net = nn.Sequential(nn.Linear(11, 16), nn.Tanh(), nn.Linear(16, 4)).double()
        self.rows = 0

    def forward(self, x, t, condition):
        self.rows += len(x)
        return self.net(torch.cat([x, self.tables[condition[:, 0], condition[:, 1]], t[:, None] / 1000], dim=1))


def guided(network, conditions, scale=1.5):
    "Of members and classes, (batch, 2)."
    plain = NetworkDenoiser(network, latent_betas())
    nothing = torch.stack([conditions[:, 0], torch.full_like(conditions[:, 1], network.tables.shape[1] - 1)], dim=1)
    return Guided(plain.given(conditions), plain.given(nothing), scale)


def pairs(members, labels):
    "All members with each of the labels, member by member: (member * batch, 2)."
    return torch.stack([torch.tensor(members).repeat_interleave(len(labels)), torch.tensor(labels * len(members))], 1)


@pytest.mark.parametrize("eta, b", [(0.0, 0), (0.0, 13), (0.7, 5), (0.0, 49)])
def test_members_in_one_batch_go_where_they_go_alone_and_the_trunk_is_paid_for_once(eta, b):
    network, labels = Embedded(), [0, 3, 2]
    x, times = seeded_noise(range(3), (4,), "x", dtype=torch.float64), [*range(996, 16, -20), 16, -1]
    steps, sampler = len(times) - 1, DDIM(eta=eta)
    trunk, together = guided(network, pairs([1], labels)), guided(network, pairs([0, 1, 2], labels))
    states = list(branch(trunk, together, x, times, times[b], 3, sampler, seeds=range(3)))
    assert network.rows == 2 * 3 * (b + 3 * (steps - b)) # guidance asks twice
    assert [s.x.shape[0] for s in states] == [1] * b + [3] * (steps + 1 - b)
    whole = rollout(sample(trunk, x, times, sampler, seeds=range(3)))
    torch.testing.assert_close(torch.stack([s.x[-1 if s.x.shape[0] == 1 else 1] for s in states]), whole.x, rtol=0,
                               atol=1e-9)
    if not eta:
        for m in range(3):
            alone = last(sample(guided(network, pairs([m], labels)), states[b].x[0], segment(times, times[b]), sampler))
            torch.testing.assert_close(states[-1].x[m], alone, rtol=0, atol=1e-9)


def test_copies_of_one_member_never_part_wherever_they_branch():
    network, labels = Embedded(1), [1, 2]
    x, times = seeded_noise(range(2), (4,), "x", dtype=torch.float64), DDIM(20).times(latent_betas(), 999)
    one, copies = guided(network, pairs([0], labels)), guided(network, pairs([0, 0, 0], labels))
    for at in (times[0], times[9], times[19]):
        for state in branch(one, copies, x, times, at, 3):
            assert state.x.std(0, correction=0).max() <= 1e-12


def test_given_times_are_visited_whatever_the_samplers_own_would_be():
    denoiser, x = mixture(), torch.randn(2, 2, dtype=torch.float64)
    for times in ([999, 500, 20, -1], [10.5, 3.25], [0, -1], [7]):
        assert [s.t for s in sample(denoiser, x, times, DDIM(3))] == times
    a, b = (last(sample(denoiser, x, times, DDIM(5))) for times in (400, DDIM(5).times(LINEAR, 400)))
    assert torch.equal(a, b)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_calls_are_counted_and_predicted(sampler):
    calls = []
    def answer(x, t): calls.append(t[0].item()); return x
    states = list(sample(NetworkDenoiser(answer, LINEAR), torch.randn(2, 3), 100, sampler, [0, 1]))
    times = sampler.times(LINEAR, 100)
    assert len(calls) == sampler.calls(LINEAR, 100) == len(states) - 1 == (sampler.steps or 101)
    assert calls == pytest.approx(times[:-1], rel=1e-6) and times[0] == 100 and times[-1] == -1
    assert all(a > b for a, b in zip(times, times[1:]))


def test_nothing_is_computed_before_it_is_asked_for():
    def answer(x, t): raise RuntimeError("asked")
    states = sample(NetworkDenoiser(answer, LINEAR), torch.randn(2, 3), 100, DDIM(5))
    with pytest.raises(RuntimeError, match="asked"): next(states)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_no_graphs_right_types_and_the_input_is_left_alone(sampler, dtype):
    net = nn.Linear(3, 3).to(dtype)
    x = torch.randn(2, 3, dtype=dtype, requires_grad=True)
    before = x.detach().clone()
    for state in sample(NetworkDenoiser(lambda x, t: net(x), LINEAR), x, 50, sampler, [0, 1]):
        assert not state.x.requires_grad and not state.mean.requires_grad and torch.is_grad_enabled()
        assert state.x.dtype == state.mean.dtype == dtype
    assert torch.equal(x, before)
    (net(state.x).sum()).backward() # and what came out can be trained on
    assert net.weight.grad is not None


def test_ancestral_with_steps_is_ddim_with_eta_one():
    x, seeds = torch.randn(4, 2, dtype=torch.float64), [1, 2, 3, 4]
    for steps in (None, 1, 13, 50):
        a, b = (rollout(sample(mixture(), x, 200, s, seeds)) for s in (Ancestral(steps=steps), DDIM(steps, eta=1.0)))
        torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-9)
        assert torch.equal(a.t, b.t)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5, 40.0])
def test_any_eta_keeps_the_marginal_variance(eta):
    for t, s in ((999, 700), (300, 299), (60, 3), (1, 0)):
        step, (alpha, sigma) = DDIM(eta=eta).step(LINEAR, t, s), LINEAR.scales(t)
        alpha_s, sigma_s = LINEAR.scales(s)
        assert step.x * alpha + step.mean == pytest.approx(alpha_s, rel=1e-12) # the mean of x_s given x_0
        assert (step.x * sigma) ** 2 + step.noise**2 == pytest.approx(sigma_s**2, rel=1e-12)


def test_dpm_solver_times_are_even_in_log_snr_and_skip_what_has_no_signal():
    for name, start in (("linear", 999), ("linear", 120), ("latent", 700)):
        times = DPMSolver2M(10).times(SCHEDULES[name](), start)
        gaps = SCHEDULES[name]().log_snr(torch.tensor(times[:-1])).diff()
        assert (gaps - gaps[0]).abs().max() < 1e-4 and len(times) == 11
    log_snr = cosine_betas().log_snr(torch.tensor(DPMSolver2M(10).times(cosine_betas(), 999)[:-1]))
    gaps = log_snr[1:].diff()
    assert log_snr[0] < -19 and log_snr[1] > -11 and (gaps - gaps[0]).abs().max() < 1e-4


def test_rollouts():
    denoiser, x = mixture(), torch.randn(3, 2, dtype=torch.float64)
    whole, some = (rollout(sample(denoiser, x, 100, DDIM()), every) for every in (1, 30))
    assert whole.x.shape == whole.mean.shape == (102, 3, 2) and whole.t.tolist() == list(range(100, -2, -1))
    assert some.t.tolist() == [100, 70, 40, 10, -1] and torch.equal(some.x, whole.x[[0, 30, 60, 90, 101]])
    assert torch.equal(last(sample(denoiser, x, 100, DDIM())), whole.x[-1])
    assert torch.equal(whole.mean[30], denoiser(whole.x[30], 70).mean)
    for every in (1, 3, 4, 100): assert rollout(sample(denoiser, x, [9, 8, 7, 6], DDIM()), every).t[-1] == 6
    assert rollout(sample(denoiser, x, [9, 8, 7, 6], DDIM()), 3).t.tolist() == [9, 6]


# bad input

X2 = torch.zeros(2, 3)
GAUSSIAN = GaussianDenoiser(LINEAR, 0.0, 1.0)
CENTRES = torch.zeros(2, 3)
BAD = {
    "start 1000": lambda: sample(GAUSSIAN, X2, 1000, DDIM()), "start -1": lambda: sample(GAUSSIAN, X2, -1, DDIM()),
    "start 1.5": lambda: sample(GAUSSIAN, X2, 1.5, DDIM()),
    "times none": lambda: sample(GAUSSIAN, X2, [], DDIM()),
    "times 1000": lambda: sample(GAUSSIAN, X2, [1000, 3], DDIM()),
    "times -1": lambda: sample(GAUSSIAN, X2, [-1], DDIM()), "times rise": lambda: sample(GAUSSIAN, X2, [3, 4], DDIM()),
    "times stay": lambda: sample(GAUSSIAN, X2, [3, 3], DDIM()),
    "times -0.5": lambda: sample(GAUSSIAN, X2, [3, -0.5], DDIM()),
    "times clean twice": lambda: sample(GAUSSIAN, X2, [3, -1, -1], DDIM()),
    "times nan": lambda: sample(GAUSSIAN, X2, [3, float("nan")], DDIM()),
    "steps 12": lambda: sample(GAUSSIAN, X2, 10, DDIM(12)),
    "steps 11": lambda: sample(GAUSSIAN, X2, 9, DPMSolver2M(11)),
    "steps 0": lambda: DDIM(0), "steps None": lambda: DPMSolver2M(None), "steps 2.5": lambda: Ancestral(steps=2.5),
    "variance 'learned'": lambda: Ancestral("learned"), "eta -1": lambda: DDIM(eta=-1),
    "eta nan": lambda: DDIM(eta=float("nan")),
    "start of a segment": lambda: segment([9, 4, -1], 5), "stop of a segment": lambda: segment([9, 4, -1], 9, 3),
    "stop before start": lambda: segment([9, 4, -1], 4, 9),
    "seeds None": lambda: sample(GAUSSIAN, X2, 10), "seeds 3": lambda: sample(GAUSSIAN, X2, 10, seeds=[1, 2, 3]),
    "seeds 1": lambda: sample(GAUSSIAN, X2, 10, DDIM(), seeds=[1]),
    "x int": lambda: sample(GAUSSIAN, torch.zeros(2, 3, dtype=torch.int64), 10, DDIM()),
    "x scalar": lambda: sample(GAUSSIAN, torch.tensor(0.0), 10, DDIM()),
    "x empty": lambda: sample(GAUSSIAN, torch.zeros(0, 3), 10, DDIM()),
    "target 'noise'": lambda: NetworkDenoiser(network, LINEAR, "noise"),
    "target v": lambda: NetworkDenoiser(network, VarianceExploding([1.0]), "v"),
    "condition": lambda: NetworkDenoiser(network, LINEAR).given(torch.arange(3))(X2, 3),
    "noise": lambda: perturb(X2, 3, LINEAR, torch.zeros(2)), "t shape": lambda: perturb(X2, torch.zeros(3), LINEAR, X2),
    "t 1000": lambda: perturb(X2, 1000, LINEAR, X2),
    "t tensor": lambda: perturb(X2, torch.tensor([0, 1000]), LINEAR, X2),
    "var 0": lambda: GaussianDenoiser(LINEAR, 0.0, 0.0), "var -1": lambda: MixtureDenoiser(LINEAR, CENTRES, -1.0),
    "centres": lambda: MixtureDenoiser(LINEAR, torch.zeros(2)),
    "weights": lambda: MixtureDenoiser(LINEAR, CENTRES, 0.0, torch.tensor([1.0, 0.0])),
    "weights shape": lambda: MixtureDenoiser(LINEAR, CENTRES, 0.0, torch.ones(3)),
    "at the end": lambda: branch(GAUSSIAN, GAUSSIAN, X2, 10, -1, 2),
    "at between": lambda: branch(GAUSSIAN, GAUSSIAN, X2, 10, 2.5, 2),
    "count 0": lambda: branch(GAUSSIAN, GAUSSIAN, X2, 10, 5, 0),
    "members": lambda: branch(GAUSSIAN, GaussianDenoiser(cosine_betas(), 0.0, 1.0), X2, 10, 5, 2),
    "every 0": lambda: rollout([], 0), "states": lambda: rollout([]), "states last": lambda: last([]),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named_in_one_line_before_any_work(what):
    with pytest.raises(ValueError, match=rf"^{what.split()[0]} must ") as error: BAD[what]()
    assert "\n" not in str(error.value)
