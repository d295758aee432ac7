"Noise schedules (oracle O1): the table, one meaning of t, every conversion and its inverse."

import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from uncpaper.schedules import (SCHEDULES, VarianceExploding, VariancePreserving, cosine_betas, latent_betas,
                                linear_betas, quadratic_betas, sigmoid_betas)

O1 = {0: (.999900, .010000, .010001), 1: (.999780, .014829, .014831), 30: (.987710, .110858, .111546),
      60: (.958321, .204153, .208546), 90: (.913264, .294509, .308177), 120: (.854833, .381008, .412092),
      150: (.785887, .462723, .521965)}


@pytest.mark.parametrize("t", O1)
def test_o1_alpha_sigma_and_noise_ratio(t):
    schedule = linear_betas()
    a, sigma, ratio = O1[t]
    assert schedule.alpha(t).item() ** 2 == pytest.approx(a, abs=5.1e-7)
    assert schedule.sigma(t).item() == pytest.approx(sigma, abs=5.1e-7)
    assert schedule.noise_ratio(t).item() == pytest.approx(ratio, abs=5.1e-7)


def test_o1_far_end_and_posterior_variance():
    schedule = linear_betas()
    assert schedule.alpha(500).item() ** 2 == pytest.approx(.077797, abs=5e-7)
    assert schedule.alpha(999).item() ** 2 == pytest.approx(4.0e-5, abs=5e-7)
    assert schedule.posterior_variance(0).item() == 0
    variances = schedule.posterior_variance(torch.tensor([1, 120])).tolist()
    assert variances == pytest.approx([5.453188e-5, 2.453778e-3], rel=2e-7)
    assert schedule.beta(torch.tensor([[0, 999]])).tolist() == [[pytest.approx(1e-4), pytest.approx(0.02)]]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_against_the_product_of_its_betas(name):
    schedule = SCHEDULES[name]()
    a, t = (1 - schedule.betas).cumprod(0), torch.arange(1000)
    torch.testing.assert_close(schedule.alpha(t) ** 2, a, rtol=1e-11, atol=0)
    torch.testing.assert_close(schedule.sigma(t) ** 2, 1 - a, rtol=1e-11, atol=0)
    torch.testing.assert_close(schedule.log_snr(t), (a / (1 - a)).log(), rtol=0, atol=1e-11)
    assert (schedule.log_snr(t).diff() < 0).all()
    for i in range(-1, 1000, 37):
        assert schedule.scales(i) == pytest.approx((schedule.alpha(i).item(), schedule.sigma(i).item()), rel=1e-14)


@pytest.mark.parametrize("name, peer, ends", [
    ("linear", "linear", (1e-4, 0.02)), ("cosine", "squaredcos_cap_v2", ()), ("sigmoid", "sigmoid", (1e-4, 0.02)),
    ("quadratic", "scaled_linear", (1e-4, 0.02)), ("latent", "scaled_linear", (0.0015, 0.0195))])
def test_betas_are_those_of_diffusers(name, peer, ends):
    theirs = DDPMScheduler(beta_schedule=peer, **dict(zip(("beta_start", "beta_end"), ends))).betas
    apart = 2e-4 if name == "sigmoid" else 1e-4 # theirs are float32
    torch.testing.assert_close(SCHEDULES[name]().betas, theirs.double(), rtol=apart, atol=1e-7)


def test_clean_data_and_shapes():
    schedule = cosine_betas(50)
    t = torch.tensor([[-1.0, 0.0], [24.5, 49.0]])
    assert schedule.alpha(-1) == 1 and schedule.sigma(-1) == 0 and schedule.scales(-1) == (1, 0)
    assert schedule.log_snr(-1) == math.inf and schedule.noise_ratio(-1) == 0 and schedule.index(math.inf) == -1
    assert schedule.steps == 50 and schedule.alpha(t).shape == t.shape and schedule.alpha(t).dtype == torch.float64
    total = schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2
    torch.testing.assert_close(total, torch.ones(2, 2).double(), rtol=1e-15, atol=0)
    middle = (schedule.log_snr(24) + schedule.log_snr(25)).item() / 2
    assert schedule.log_snr(24.5).item() == pytest.approx(middle, rel=1e-14)


def test_a_number_between_indices_is_taken_as_exactly_as_a_tensor():
    schedule = linear_betas()
    for t in (0.1, 123.4): assert schedule.log_snr(t) == schedule.log_snr(torch.tensor(t, dtype=torch.float64))
    exact = schedule.index_of_noise_ratio(torch.tensor(0.3, dtype=torch.float64))
    assert schedule.index_of_noise_ratio(0.3) == exact


def test_betas_are_what_steps_add():
    schedule = linear_betas()
    for t in (0, 1, 500, 999): assert schedule.added(t, t - 1) == pytest.approx(schedule.beta(t).item(), rel=1e-9)
    for t, s in ((999, 0), (300, 20)):
        (alpha, sigma), (alpha_s, sigma_s) = schedule.scales(t), schedule.scales(s)
        assert schedule.added(t, s) == pytest.approx(sigma**2 - (alpha / alpha_s * sigma_s) ** 2, rel=1e-9)


# noise on top of the signal

def test_noise_that_is_added_shrinks_nothing():
    schedule, t = VarianceExploding([0.01, 0.1, 2.0]), torch.tensor([-1, 0, 0.5, 1, 1.25, 2], dtype=torch.float64)
    expected = torch.tensor([0, 0.01, 10**-1.5, 0.1, 0.1 * 20**0.25, 2], dtype=torch.float64)
    assert torch.equal(schedule.alpha(t), torch.ones(6).double())
    torch.testing.assert_close(schedule.sigma(t), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.noise_ratio(t), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.index_of_noise_ratio(expected), t, rtol=0, atol=1e-12)
    for i, value in zip(t.tolist(), expected.tolist()):
        assert schedule.scales(i) == (1, pytest.approx(value, rel=1e-12))
    assert schedule.added(2, 1) == pytest.approx(4 - 0.01, rel=1e-12) and schedule.added(0, -1) == pytest.approx(1e-4)
    torch.testing.assert_close(schedule.table[:, 1], expected[[0, 1, 3, 5]], rtol=1e-12, atol=0)


def test_one_level_of_noise_is_a_schedule():
    schedule = VarianceExploding([0.05])
    assert schedule.steps == 1 and schedule.sigma(-1) == 0
    assert schedule.sigma(0).item() == pytest.approx(0.05, rel=1e-14)
    assert schedule.index_of_noise_ratio(0.05) == 0 and schedule.index_of_noise_ratio(0.0) == -1
    with pytest.raises(ValueError, match="^log_snr must be inf"): schedule.index_of_noise_ratio(0.04)
    with pytest.raises(ValueError, match="^t must be -1"): schedule.sigma(0.5)


@pytest.mark.parametrize("sigmas", [
    [], [[0.1]], [0.0, 0.1], [0.2, 0.1], [0.1, 0.1], [-0.1], [float("nan")], [math.inf]])
def test_bad_sigmas(sigmas):
    with pytest.raises(ValueError, match="^sigmas must") as error: VarianceExploding(torch.tensor(sigmas))
    assert "\n" not in str(error.value)


# inverses


@given(t=st.lists(st.floats(0, 999), min_size=1, max_size=5), name=st.sampled_from(sorted(SCHEDULES)))
@settings(max_examples=60, deadline=None)
def test_index_is_the_inverse_of_log_snr_and_of_noise_ratio(t, name):
    schedule, t = SCHEDULES[name](), torch.tensor(t, dtype=torch.float64)
    torch.testing.assert_close(schedule.index(schedule.log_snr(t)), t, rtol=0, atol=1e-8)
    inside = t.clamp(0.001, 998.999)
    torch.testing.assert_close(schedule.index_of_noise_ratio(schedule.noise_ratio(inside)), inside, rtol=0, atol=1e-8)


def test_whole_indices_come_back_exactly():
    schedule, t = linear_betas(), torch.arange(-1, 1000)
    assert torch.equal(schedule.index(schedule.log_snr(t)), t.double())


@pytest.mark.parametrize("betas", [[], [[0.1]], [0.0, 0.1], [0.1, 1.0], [-0.1], [float("nan")]])
def test_bad_betas(betas):
    with pytest.raises(ValueError, match="^betas must") as error: VariancePreserving(torch.tensor(betas))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("t", [-2, -0.5, 1000, 999.5, float("nan"), float("inf")])
def test_t_out_of_range(t):
    schedule = linear_betas()
    for ask in (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.noise_ratio, schedule.scales):
        with pytest.raises(ValueError, match="^t must be -1"): ask(t)
    with pytest.raises(ValueError, match="^t must be a whole number"): schedule.beta(t)


def test_other_bad_input():
    schedule = linear_betas()
    for bad in (-30.0, 20.0, float("nan")):
        with pytest.raises(ValueError, match="^log_snr must"): schedule.index(bad)
    with pytest.raises(ValueError, match="^t must be a whole number"): schedule.posterior_variance(0.5)
    for make in (linear_betas, cosine_betas, quadratic_betas, sigmoid_betas, latent_betas):
        with pytest.raises(ValueError, match="^steps must"): make(0)
        with pytest.raises(ValueError, match="^steps must"): make(2.5)
    with pytest.raises(AttributeError): schedule.betas = None


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_ends_of_the_table_are_found_again_in_spite_of_rounding(name):
    schedule = SCHEDULES[name]()
    ends = torch.tensor([0, 999])
    assert torch.equal(schedule.index_of_noise_ratio(schedule.noise_ratio(ends)), ends.double())
    assert torch.equal(schedule.index(schedule.log_snr(ends)), ends.double())
    for beyond in (schedule.log_snr(0) + 1e-6, schedule.log_snr(999) - 1e-6):
        with pytest.raises(ValueError, match="log_snr must be inf"): schedule.index(beyond)
