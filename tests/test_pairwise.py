"What Gaussian members disagree about: the oracles A to H and J, the bounds on random mixtures, and large dimensions."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from uncpaper.ensembles import (
    chernoff_distances, kl_distances, pairwise_information, sampled_information, twice_variance, wasserstein_distances)
from uncpaper.numerics import generator


def members(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=generator(seed, "members"), dtype=torch.float64)


def on_a_line(*places):
    return torch.tensor(places, dtype=torch.float64)[:, None]


def information(mean, std):
    "Of one-dimensional members, by quadrature."
    parts = [norm(m, s) for m, s in zip(mean, std)]
    def integrand(x):
        p = np.array([part.pdf(x) for part in parts])
        q = p.mean()
        return -q * math.log(q) if q > 0 else 0.0
    low, high = min(m - 12 * s for m, s in zip(mean, std)), max(m + 12 * s for m, s in zip(mean, std))
    return quad(integrand, low, high, limit=400, epsabs=1e-12)[0] - np.mean([part.entropy() for part in parts])


@pytest.mark.parametrize("gap, bhattacharyya, truth, kl, wasserstein", [
    (0.5, 0.015503, 0.030311, 0.060548, 0.117208), (1, 0.060548, 0.111421, 0.219070, 0.379885),
    (2, 0.219070, 0.336831, 0.566219, 0.674997), (4, 0.566219, 0.632720, 0.692812, 0.693147),
])
def test_a_two_members(gap, bhattacharyya, truth, kl, wasserstein):
    mean = on_a_line(0, gap)
    found = [pairwise_information(d).item() for d in
             (chernoff_distances(mean, 1.0), kl_distances(mean, 1.0), wasserstein_distances(mean))]
    assert found == pytest.approx([bhattacharyya, kl, wasserstein], abs=1e-6)
    assert information((0, gap), (1, 1)) == pytest.approx(truth, abs=1e-6)


def test_b_unequal_members():
    mean, std = (0, 1, 2.5), (1, 0.5, 2)
    m, s = on_a_line(*mean), on_a_line(*std)
    found = [pairwise_information(d).item() for d in
             (chernoff_distances(m, s**2), kl_distances(m, s**2), wasserstein_distances(m, s))]
    assert found == pytest.approx([0.255127, 0.796368, 0.923693], abs=1e-6)
    assert information(mean, std) == pytest.approx(0.405433, abs=1e-6)
    drawn, error = sampled_information(m, s**2, 200_000, generator(0, "b"))
    assert abs(drawn - 0.405433) < 4 * error < 0.01


@pytest.mark.parametrize("n, limit", [(1, 0.0), (2, 0.693147), (5, 1.609438), (10, 2.302585)])
def test_c_members_that_coincide_and_members_far_apart(n, limit):
    same = members(1, 7).expand(n, -1)
    for d in (kl_distances(same, 2.0), chernoff_distances(same, same.exp()), wasserstein_distances(same, same.exp()),
              kl_distances(same, same.exp())):
        assert d.abs().max() <= 1e-12 and pairwise_information(d).item() == pytest.approx(0, abs=1e-12)
    for far in (1e5, math.inf):
        d = torch.full((n, n), far, dtype=torch.float64).fill_diagonal_(0)
        assert pairwise_information(d).item() == pytest.approx(limit, abs=1e-6)


@pytest.mark.parametrize("distance, expected", [(0.01, 0.007992), (0.1, 0.079184), (1, 0.704605), (5, 1.582843)])
def test_d_members_as_far_from_each_other(distance, expected):
    d = torch.full((5, 5), float(distance), dtype=torch.float64).fill_diagonal_(0)
    assert pairwise_information(d).item() == pytest.approx(expected, abs=1e-6)


def test_e_groups_have_the_entropy_of_the_groups():
    mean = on_a_line(0, 0, 0, 1e4, 1e4)
    for d in (kl_distances(mean, 1.0), chernoff_distances(mean, 1.0, 0.3), wasserstein_distances(mean)):
        assert pairwise_information(d).item() == pytest.approx(0.673012, abs=1e-6)
        assert pairwise_information(d[2:4, 2:4], [0.6, 0.4]).item() == pytest.approx(0.673012, abs=1e-6)
    with_nobody = pairwise_information(wasserstein_distances(mean), [0.3, 0.3, 0, 0.4, 0])
    assert with_nobody.item() == pytest.approx(0.673012, abs=1e-6)


def test_f_order_place_turns_and_units_do_not_matter():
    mean, std = members(5, 6), members(5, 6, seed=1).exp()
    def all_of(m, s):
        return torch.stack([pairwise_information(d) for d in
                            (wasserstein_distances(m), kl_distances(m, s**2), chernoff_distances(m, s**2, 0.2))])
    expected, order = all_of(mean, std), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(all_of(mean[order], std[order]), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(all_of(mean + 1e4, std), expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(all_of(3 * mean, 3 * std)[1:], expected[1:], rtol=1e-10, atol=0)
    torch.testing.assert_close(wasserstein_distances(3 * mean, 3 * std), 9 * wasserstein_distances(mean, std))
    turn = torch.linalg.qr(members(6, 6, seed=2))[0]
    torch.testing.assert_close(wasserstein_distances(mean @ turn), wasserstein_distances(mean))


def test_g_copies_of_the_same_dimensions_multiply_distances():
    mean, std = members(4, 3), members(4, 3, seed=1).exp()
    for f in (lambda m, s: wasserstein_distances(m, s), lambda m, s: kl_distances(m, s**2),
              lambda m, s: chernoff_distances(m, s**2)):
        torch.testing.assert_close(f(mean.repeat(1, 7), std.repeat(1, 7)), 7 * f(mean, std), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.25, 0.5, 0.9])
def test_h_chernoff_is_the_integral_it_stands_for(alpha):
    p, q = norm(0, 1), norm(1.5, 2)
    expected = -math.log(quad(lambda x: p.pdf(x) ** alpha * q.pdf(x) ** (1 - alpha), -30, 40, limit=300)[0])
    d = chernoff_distances(on_a_line(0, 1.5), on_a_line(1, 4), alpha)
    assert d[0, 1].item() == pytest.approx(expected, abs=1e-9)
    turned = chernoff_distances(on_a_line(1.5, 0), on_a_line(4, 1), 1 - alpha)
    assert turned[0, 1].item() == pytest.approx(d[0, 1].item(), abs=1e-12)


def test_h_wasserstein_is_kl_at_half_a_variance():
    mean = members(5, 9)
    torch.testing.assert_close(wasserstein_distances(mean), kl_distances(mean, 0.5), rtol=1e-12, atol=0)


def test_kl_agrees_with_torch():
    mean, std = members(4, 6), members(4, 6, seed=1).exp()
    normal = torch.distributions.Normal(mean[:, None], std[:, None]), torch.distributions.Normal(mean, std)
    peer = torch.distributions.kl_divergence(*normal).sum(-1)
    torch.testing.assert_close(kl_distances(mean, std**2), peer, rtol=1e-10, atol=1e-10)


@given(st.integers(2, 6), st.integers(1, 3), st.floats(0.1, 3), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_information_lies_between_its_bounds(n, dimensions, spread, seed):
    mean, variance = members(n, dimensions, seed=seed, scale=spread), members(n, dimensions, seed=seed + 1).exp()
    drawn, error = sampled_information(mean, variance, 4000, generator(seed, "draws"))
    below = max(pairwise_information(chernoff_distances(mean, variance, a)).item() for a in (0.25, 0.5, 0.75))
    above = pairwise_information(kl_distances(mean, variance)).item()
    assert below <= drawn + 5 * error + 1e-9 and drawn <= above + 5 * error + 1e-9 and above <= math.log(n) + 1e-9


@given(st.integers(2, 8), st.integers(1, 20), st.floats(1e-3, 2), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_j_close_members_have_twice_their_variance(n, dimensions, spread, seed):
    mean = members(n, dimensions, seed=seed, scale=spread)
    found, twice = pairwise_information(wasserstein_distances(mean)).item(), twice_variance(mean).item()
    assert found <= twice + 1e-12
    if n == 5 and found < 0.02: assert (twice - found) / twice <= 0.02


def test_members_come_first_and_batches_in_between():
    mean, std = members(5, 2, 3, 4), members(5, 2, 3, 4, seed=1).exp()
    for f in (lambda m, s: wasserstein_distances(m, s), lambda m, s: kl_distances(m, s**2),
              lambda m, s: chernoff_distances(m, s**2, 0.3)):
        whole = f(mean, std)
        assert whole.shape == (2, 3, 5, 5) and pairwise_information(whole).shape == (2, 3)
        torch.testing.assert_close(whole[1, 2], f(mean[:, 1, 2], std[:, 1, 2]))
    one = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)     # a variance for each dimension
    for f in (kl_distances, chernoff_distances):
        torch.testing.assert_close(f(mean, one), f(mean, one.expand(5, 2, 3, 4)), rtol=1e-10, atol=1e-10)
    assert twice_variance(mean).shape == (2, 3)


def test_200_000_dimensions_and_variances_ten_times_as_large_stay_finite():
    mean, variance = members(5, 200_000), torch.ones(5, 200_000).mul_(torch.tensor([1, 2, 4, 7, 10.0])[:, None])
    for d in (kl_distances(mean, variance), chernoff_distances(mean, variance),
              wasserstein_distances(mean, variance.sqrt())):
        assert d.isfinite().all() and (d >= 0).all()
        assert pairwise_information(d).item() == pytest.approx(math.log(5), abs=1e-12)


def test_little_is_lost_where_members_are_close_and_far_from_zero():
    offsets = members(5, 50, scale=1e-3)
    exact = (offsets[:, None] - offsets).square().sum(-1)
    torch.testing.assert_close(wasserstein_distances(offsets), exact, rtol=1e-12, atol=1e-18)
    torch.testing.assert_close(wasserstein_distances(offsets + 100), exact, rtol=1e-9, atol=0)


def test_drawn_information_is_the_decomposition():
    "Entropy of the mixture less the members' own, with densities from a peer."
    mean, variance = members(3, 2, scale=1.5), members(3, 2, seed=1).exp()
    parts = [multivariate_normal(m, np.diag(v)) for m, v in zip(mean.numpy(), variance.numpy())]
    x = np.concatenate([part.rvs(100_000, random_state=i) for i, part in enumerate(parts)])
    mixture = -np.log(np.mean([part.pdf(x) for part in parts], axis=0)).mean()
    expected = mixture - np.mean([part.entropy() for part in parts])
    drawn, error = sampled_information(mean, variance, 100_000, generator(1, "draws"))
    assert abs(drawn - expected) < 0.012 and error < 0.003


@pytest.mark.parametrize("ask, says", [
    (lambda: pairwise_information(torch.zeros(3, 2)), r"distances must be \(..., member, member\), got \(3, 2\)"),
    (lambda: pairwise_information(torch.zeros(2, 2), [0.7, 0.7]), "weights must be 2 numbers >= 0 of which the sum is"),
    (lambda: pairwise_information(torch.zeros(2, 2), [1.5, -0.5]), "weights must be 2 numbers"),
    (lambda: kl_distances(torch.zeros(2, 3), -1.0), "variance must be above 0, got -1"),
    (lambda: kl_distances(torch.zeros(2, 3), math.nan), "variance must be above 0, got nan"),
    (lambda: chernoff_distances(torch.zeros(2, 3), torch.ones(2, 4)), "variance must have the shape of mean"),
    (lambda: chernoff_distances(torch.zeros(2, 3), 1.0, 0.0), "alpha must be between 0 and 1, got 0.0"),
])
def test_bad_requests_are_refused_in_one_line(ask, says):
    with pytest.raises(ValueError, match=says) as refusal: ask()
    assert "\n" not in str(refusal.value)
