"The laws of the label noise: conversions and refusals (oracles O5, O6), sampling (O7), disturbance (O11)."

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncpaper.noise import (
    GammaVariance, UniformVariance, VarianceMixture, disturb, label_noise, maximum_uniform_variance, ratio_weights,
    second_mean, survives,
)

N = 100_000
positive = st.floats(1e-3, 1e3)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# O5: conversions

def test_o5_conversions():
    assert UniformVariance.from_moments(10, 12) == UniformVariance(4, 16)
    assert maximum_uniform_variance(10) == pytest.approx(33.3333, abs=1e-4)
    assert UniformVariance.from_scale(10, 0.25) == UniformVariance(5, 15)
    assert GammaVariance.from_moments(10, 200) == GammaVariance(0.5, 0.05)
    assert GammaVariance.from_moments(5, 200) == GammaVariance(0.125, 0.025)


@given(positive, st.floats(0, 1))
def test_o5_uniform_round_trip(mean, scale):
    law = UniformVariance.from_scale(mean, scale)
    assert law.low >= 0
    assert law.mean == pytest.approx(mean, rel=1e-12)
    assert law.variance == pytest.approx(scale * maximum_uniform_variance(mean), rel=1e-9, abs=1e-12 * mean**2)


@given(positive, st.floats(1, 1e3))
def test_o5_gamma_round_trip(mean, ratio):
    law = GammaVariance.from_moments(mean, ratio * mean**2)
    assert law.mean == pytest.approx(mean, rel=1e-12)
    assert law.variance == pytest.approx(ratio * mean**2, rel=1e-12)


@given(st.floats(1e-6, 1e6))
def test_the_widest_uniform_survives_rounding(mean):
    law = UniformVariance.from_moments(mean, maximum_uniform_variance(mean))
    assert 0 <= law.low <= 1e-7 * mean and law.high == pytest.approx(2 * mean, rel=1e-9)


@pytest.mark.parametrize("make, message", [
    (lambda: UniformVariance.from_moments(0, 20), r"mean must be >= sqrt\(3 variance\)"),
    (lambda: UniformVariance.from_moments(10, -1), "variance must be >= 0"),
    (lambda: UniformVariance.from_moments(math.nan, 1), "mean must be finite"),
    (lambda: UniformVariance.from_moments(-1, 0), "mean must be >="),
    (lambda: UniformVariance(-1, 1), "low must be >= 0"),
    (lambda: UniformVariance(2, 1), "high must be >= low"),
    (lambda: UniformVariance(0, math.inf), "high must be finite"),
    (lambda: UniformVariance.from_scale(10, 1.01), "scale must be between 0 and 1"),
    (lambda: UniformVariance.from_scale(10, -0.1), "scale must be between 0 and 1"),
    (lambda: UniformVariance.from_scale(-1, 0.5), "mean must be >= 0"),
    (lambda: maximum_uniform_variance(math.inf), "mean must be >= 0 and finite"),
    (lambda: GammaVariance.from_moments(10, 0), "variance must be > 0"),
    (lambda: GammaVariance.from_moments(10, -1), "variance must be > 0"),
    (lambda: GammaVariance.from_moments(10, 50), r"variance must be >= mean\^2"),
    (lambda: GammaVariance.from_moments(0, 50), "mean must be > 0"),
    (lambda: GammaVariance(0, 1), "shape must be > 0"),
    (lambda: GammaVariance(1, -1), "rate must be > 0"),
    (lambda: GammaVariance(1, math.nan), "rate must be finite"),
    (lambda: second_mean(2000, 1, 10), "p must be >= 0 and < 1"),
    (lambda: second_mean(2000, -0.1, 10), "p must be >= 0 and < 1"),
    (lambda: second_mean(10, 0.5, 30), "average must be >= p first_mean"),
    (lambda: second_mean(10, 0.5, -1), "first_mean must be >= 0"),
    (lambda: second_mean(math.inf, 0.5, 1), "average must be finite"),
    (lambda: VarianceMixture((), ()), "weights must be one for each"),
    (lambda: VarianceMixture((UniformVariance(0, 1),), (0.5, 0.5)), "weights must be one for each"),
    (lambda: VarianceMixture((UniformVariance(0, 1),), (0.9,)), "weights must be >= 0 and add up to 1"),
    (lambda: VarianceMixture((UniformVariance(0, 1),) * 2, (-0.5, 1.5)), "weights must be >= 0 and add up to 1"),
    (lambda: VarianceMixture((UniformVariance(0, 1),) * 2, (math.nan, 0.5)), "weights must be >= 0 and add up to 1"),
    (lambda: VarianceMixture((1.0,), (1.0,)), "components must be"),
    (lambda: ratio_weights(0, 0.5), "n must be >= 1"),
    (lambda: ratio_weights(2, 1.5), "p must be between 0 and 1"),
    (lambda: UniformVariance(0, 1).sample(-1, rng()), "n must be >= 0"),
    (lambda: label_noise(torch.tensor([-1.0]), rng()), "variance must be >= 0"),
    (lambda: label_noise(torch.tensor([math.nan]), rng()), "variance must be >= 0"),
    (lambda: disturb(torch.ones(2), 1.5, rng()), "scale must be between 0 and 1"),
    (lambda: disturb(-torch.ones(2), 1, rng()), "variance must be >= 0"),
    (lambda: survives(torch.ones(2), 0), "threshold must be > 0"),
])
def test_o5_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_overdispersion_can_be_waived():
    assert GammaVariance.from_moments(10, 50, require_overdispersed=False) == GammaVariance(2, 0.2)


# O6: mixtures

def test_o6_second_mean():
    assert second_mean(2000, 0.5, 0) == 4000
    assert second_mean(3000, 0.3, 10) == pytest.approx(4281.428571, rel=1e-9)


@given(st.floats(0, 0.99), positive, positive)
def test_o6_the_average_is_kept(p, first, second):
    average = p * first + (1 - p) * second
    assert second_mean(average, p, first) == pytest.approx(second, rel=1e-6, abs=1e-9 * max(first, second) / (1 - p))


def mixture():
    return VarianceMixture((GammaVariance.from_moments(10, 200), GammaVariance.from_moments(5, 200)), (0.3, 0.7))


def test_o6_mixture_moments():
    assert mixture().mean == pytest.approx(6.5, rel=1e-12)
    assert mixture().variance == pytest.approx(205.25, rel=1e-12)


def test_ratio_weights():
    assert ratio_weights(1, 0.2) == (1.0,)
    assert ratio_weights(2, 0.2) == pytest.approx((0.2, 0.8))
    assert ratio_weights(5, 0.6) == pytest.approx((0.2, 0.2, 0.2, 0.2, 0.2))
    assert all(sum(ratio_weights(n, 0.37)) == pytest.approx(1) for n in range(1, 9))


def test_laws_are_values():
    as_lists = VarianceMixture([UniformVariance(0, 1)], [1.0])
    assert {UniformVariance(0, 1), UniformVariance(0, 1)} == {UniformVariance(0, 1)}
    assert hash(as_lists) == hash(VarianceMixture((UniformVariance(0, 1),), (1.0,)))


# O7: sampling

# a uniform law has kurtosis 1.8, a gamma law 3 + 6 / shape
LAWS = [(UniformVariance(4, 16), 1.8), (UniformVariance(0, 20), 1.8), (GammaVariance(0.5, 0.05), 15.0),
        (GammaVariance(1, 0.1), 9.0), (GammaVariance(3, 1), 5.0), (GammaVariance(0.125, 0.025), 51.0)]


@pytest.mark.parametrize("law, kurtosis", LAWS, ids=str)
def test_o7_moments(law, kurtosis):
    v = law.sample(N, rng()).double()
    assert v.shape == (N,) and (v >= 0).all()
    assert abs(v.mean().item() - law.mean) < 5 * math.sqrt(law.variance / N)
    assert abs(v.var().item() - law.variance) < 5 * law.variance * math.sqrt((kurtosis - 1) / N)


@pytest.mark.parametrize("law, kurtosis", LAWS, ids=str)
def test_o7_whole_law(law, kurtosis):
    peer = (scipy.stats.uniform(law.low, law.high - law.low) if isinstance(law, UniformVariance)
            else scipy.stats.gamma(law.shape, scale=1 / law.rate))
    assert scipy.stats.kstest(law.sample(20_000, rng(1)).double().numpy(), peer.cdf).pvalue > 1e-3


def test_o7_mixture_shares():
    law = VarianceMixture((UniformVariance(0, 1), UniformVariance(2, 3), UniformVariance(4, 5)), (0.2, 0.5, 0.3))
    v = law.sample(N, rng())
    for i, p in enumerate(law.weights):
        share = ((v >= 2 * i) & (v <= 2 * i + 1)).double().mean().item()
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / N)
    assert abs(v.double().mean().item() - law.mean) < 5 * math.sqrt(law.variance / N)
    assert v.double().var().item() == pytest.approx(law.variance, rel=0.02)


@pytest.mark.parametrize("weights, outside", [((1.0, 0.0), 1.5), ((0.0, 1.0), 0.5)])
def test_a_component_without_weight_is_never_drawn(weights, outside):
    v = VarianceMixture((UniformVariance(0, 1), UniformVariance(2, 3)), weights).sample(10_000, rng())
    assert ((v < 1.5) == (outside > 1)).all()


def test_o7_noise():
    law = GammaVariance(1, 0.1)
    generator = rng()
    v = law.sample(N, generator).double()
    d = label_noise(v, generator)
    assert d.square().mean().item() == pytest.approx(law.mean, rel=5 * math.sqrt(5 / N))  # E d^4 / (E d^2)^2 = 6
    assert abs(d.mean().item()) < 5 * math.sqrt(law.mean / N)
    assert (d / v.sqrt()).var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / N))
    assert abs(np.corrcoef(d.square(), v)[0, 1]) > 0.3


def test_samples_are_seeded_and_of_one_type():
    for law in (UniformVariance(0, 1), GammaVariance(1, 1), mixture()):
        assert torch.equal(law.sample(50, rng(3)), law.sample(50, rng(3)))
        assert not torch.equal(law.sample(50, rng(3)), law.sample(50, rng(4)))
        assert law.sample(50, rng()).dtype == torch.float32 and law.sample(0, rng()).shape == (0,)


def test_label_without_noise():
    noise = label_noise(torch.tensor([0.0, 4.0, 0.0]), rng())
    assert noise[0] == noise[2] == 0 and noise[1] != 0
    assert torch.equal(UniformVariance(3, 3).sample(5, rng()), torch.full((5,), 3.0))


def test_survives_is_strict():
    v = torch.tensor([1.0, 0.5, 4.0])
    assert survives(v, 1).tolist() == [False, True, False]
    assert survives(v, None).all() and not survives(v, 0.5).any()


# O11: disturbed variances

def test_o11_disturbance():
    v = GammaVariance(1, 1).sample(N, rng())
    assert torch.equal(disturb(v, 0, rng()), v)
    relative = disturb(v[v > 0], 1, rng(1)).double() / v[v > 0].double()
    assert (relative >= 0).all()
    assert relative.std().item() == pytest.approx(1 / 3, rel=0.02)
    assert disturb(v[v > 0], 0.25, rng(1)).div(v[v > 0]).std().item() == pytest.approx(1 / 6, rel=0.02)
