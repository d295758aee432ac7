"Known sets: what noise makes of them (oracles O2, O3), nearest points, and what is measured of samples."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from torch.distributions import Categorical, MixtureSameFamily, Normal

from uncpaper.manifolds import (
    MANIFOLDS, Circle, Convolved, Curve, KleinBottle, Manifold, Moons, NoisyCircle, SineCurve, Sphere,
    along_total_variation, expected_total_variation, off_manifold,
)
from uncpaper.numerics import generator

CURVES = [SineCurve(), Circle(), Circle(mu=-2.0, kappa=30.0), Circle(kappa=0.0), Moons()]
ALL = [*CURVES, Sphere(), KleinBottle(), KleinBottle(radius=1.0)]


def double(*rows) -> torch.Tensor: return torch.tensor(rows, dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "noise"), dtype=torch.float64)


# ---- with noise -------------------------------------------------------------------------------------------------

def test_o2_point_masses():
    noisy = Convolved(double([-1, 0], [1, 0], [0, 2]), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.6)
    x = double([0.2, 0.4])
    assert noisy._log_shares(x).softmax(1)[0].tolist() == pytest.approx([0.34218685, 0.62368313, 0.03413002], abs=5e-9)
    assert noisy.denoise(x)[0].tolist() == pytest.approx([0.28149627, 0.06826004], abs=5e-9)
    assert (x + 0.36 * noisy.score(x) - noisy.denoise(x)).abs().max() < 1e-15


def test_o2_mixture_of_normals_by_quadrature():
    share, mean, std = double([0.4, 0.6], [-1, 2], [0.5, 0.3])
    law = MixtureSameFamily(Categorical(share), Normal(mean, std))
    at = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    noisy = Convolved(at[:, None], law.log_prob(at).exp() * (at[1] - at[0]), 0.7)
    x = double([0.8])
    assert noisy.log_prob(x).item() == pytest.approx(-2.1927751248, abs=5e-11)
    assert noisy.denoise(x).item() == pytest.approx(1.4031589781, abs=5e-11)


O3 = [(1.0, 0.5, (0.7, -0.4), -2.5119885441, (0.78162563, -0.16749121)),
      (1.0, 0.1, (1.05, 0.2), -0.7687624774, (0.97599113, 0.19519823)),
      (0.0, 0.25, (0.8, 0.3), None, (0.90140427, 0.3380266))]


@pytest.mark.parametrize("kappa, sigma, x, log_p, mean", O3)
def test_o3_circle(kappa, sigma, x, log_p, mean):
    noisy = Circle(kappa=kappa).noisy(sigma)
    if log_p is not None: assert noisy.log_prob(double(x)).item() == pytest.approx(log_p, abs=5e-11)
    assert noisy.denoise(double(x))[0].tolist() == pytest.approx(mean, abs=6e-9)


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 1e4), st.floats(1e-3, 2), st.floats(-3, 3), st.integers(0, 1000))
def test_o3_is_the_quadrature(kappa, sigma, mu, seed):
    circle = Circle(mu, kappa)
    x = circle.sample(3, generator(seed, "x")) + sigma * noise(3, 2, seed=seed)
    closed, summed = circle.noisy(sigma), Convolved(*circle.quadrature(2 * sigma), sigma)
    assert (closed.log_prob(x) - summed.log_prob(x)).abs().max() < 1e-8
    assert (closed.denoise(x) - summed.denoise(x)).abs().max() < 1e-8


@pytest.mark.parametrize("kappa", [0.0, 1.0, 1e3, 1e8])
@pytest.mark.parametrize("sigma", [1e-3, 1.0, 1e3])
def test_o3_is_finite_and_within_the_disc_everywhere(kappa, sigma):
    x = double([0, 0], [1, 0], [0, -1], [50, -30], [1e-9, 0])
    noisy = Circle(kappa=kappa).noisy(sigma)
    assert noisy.log_prob(x).isfinite().all() and noisy.score(x).isfinite().all()
    assert (noisy.denoise(x).norm(dim=1) <= 1 + 1e-12).all()
    if kappa == 0: assert noisy.denoise(x)[0].tolist() == [0, 0]


@pytest.mark.parametrize("noisy", [curve.noisy(sigma) for curve in CURVES for sigma in (0.1, 0.5)])
def test_scores_are_gradients(noisy):
    x = noise(20, 2).requires_grad_()
    gradient, = torch.autograd.grad(noisy.log_prob(x).sum(), x)
    assert (noisy.score(x.detach()) - gradient).abs().max() < 1e-8 / noisy.sigma**2


@pytest.mark.parametrize("curve", CURVES)
def test_noisy_densities_integrate_to_one(curve):
    side = torch.arange(-6, 8, 0.08, dtype=torch.float64)    # as good as exact for what is this smooth
    density = curve.noisy(0.1).log_prob(torch.cartesian_prod(side, side)).exp()
    assert density.sum().item() * 0.08**2 == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("curve", [SineCurve(), Moons()])
def test_quadrature_against_scipy(curve):
    sigma, x = 0.3, double([0.4, 0.1], [1.5, -0.8])
    for row, ours in zip(x, curve.noisy(sigma).log_prob(x)):
        def integrand(s):
            at = double([s])
            away = (row - curve.point(at)[0]).square().sum()
            return (curve.density(at) * (-away / (2 * sigma**2)).exp()).item() / (2 * math.pi * sigma**2)
        total = sum(integrate.quad(integrand, *piece, epsabs=1e-12, limit=200)[0] for piece in curve.pieces)
        assert ours.item() == pytest.approx(math.log(total), abs=1e-9)


@pytest.mark.parametrize("curve", CURVES)
def test_quadrature_is_the_mean_over_the_law(curve):
    points, weights = curve.quadrature(0.1)
    sample = curve.sample(100_000, generator(0, "x"))
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-9) and curve.distance(points).max() < 1e-12
    assert (weights @ points - sample.mean(0)).abs().max() < 4 * sample.std(0).max() / 100_000**0.5


@pytest.mark.parametrize("noisy", [lambda sigma: Convolved(double([0, 0]), torch.ones(1), sigma), Circle().noisy,
                                   SineCurve().noisy, lambda sigma: NoisyCircle(Circle(), sigma)])
@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_noise_is_positive(noisy, sigma):
    with pytest.raises(ValueError, match=f"sigma must be > 0, got {sigma}"): noisy(sigma)


def test_a_weight_for_each_point():
    with pytest.raises(ValueError, match=r"weights must be \(1,\), got \(2,\)"):
        Convolved(double([0, 0]), torch.ones(2), 1.0)


# ---- nearest points ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("manifold", ALL)
def test_samples_lie_on_the_set_and_their_coordinates_lead_back(manifold):
    x = manifold.sample(500, generator(0, "x"))
    coordinate = manifold.coordinate(x)
    assert x.shape == (500, manifold.ambient) and coordinate.shape == (500, manifold.dimension)
    assert x.dtype == torch.float64 and manifold.distance(x).max() < 1e-12
    assert off_manifold(manifold, x) < 1e-12 and (manifold.point(coordinate) - x).abs().max() < 1e-12
    assert manifold.sample(500, generator(0, "x")).equal(x)


@pytest.mark.parametrize("manifold", ALL)
def test_ranks_of_samples_are_independent_and_uniform(manifold):
    rank = manifold.rank(manifold.coordinate(manifold.sample(8_000, generator(1, "x")))).numpy()
    for column in rank.T: assert stats.kstest(column, "uniform").pvalue > 1e-3
    if manifold.dimension == 2: assert abs(stats.spearmanr(*rank.T).statistic) < 3.3 / 8_000**0.5


@pytest.mark.parametrize("manifold", ALL)
def test_no_point_of_the_set_is_nearer(manifold):
    x = manifold.sample(60, generator(2, "x")) + 0.7 * noise(60, manifold.ambient)
    dense = manifold.sample(40_000, generator(3, "x"))
    assert (manifold.distance(x) <= torch.cdist(x, dense).min(1).values + 1e-12).all()


@pytest.mark.parametrize("x", [(0.3, 1.4), (-4.0, 3.0), (2.0, -2.0), (1.0, 0.5), (0.0, 30.0), (7.3, 0.0)])
def test_distance_to_the_curve_against_scipy(x):
    def squared(s): return (s - x[0]) ** 2 + (math.sin(1.5 * s) - x[1]) ** 2
    starts = np.arange(x[0] - 15, x[0] + 15, 0.25)
    best = min(optimize.minimize_scalar(squared, bounds=(a, a + 0.25), method="bounded", options={"xatol": 1e-12}).fun
               for a in starts)
    assert SineCurve().distance(double(x)).item() == pytest.approx(best**0.5, abs=1e-9)


def test_distances_by_hand():
    assert Circle().distance(double([3, 4], [0.1, 0])).tolist() == pytest.approx([4, 0.9])
    assert Sphere().distance(double([0, 0, -3], [0.3, 0, 0.4])).tolist() == pytest.approx([2, 0.5])
    assert Moons().distance(double([0, 2], [1, -2], [-1, -0.1], [2, 1])).tolist() == pytest.approx([1, 1.5, 0.1, 0.5])
    assert KleinBottle().distance(double([3.5, 0, 0, 0], [0, -2, 0, 0])).tolist() == pytest.approx([0.5, 1])


@pytest.mark.parametrize("bottle", [KleinBottle(), KleinBottle(radius=3.5)])
def test_klein_bottle_closes_turned_over_and_its_area_is_right(bottle):
    theta = 2 * math.pi * torch.rand(50, generator=generator(0, "theta"), dtype=torch.float64)
    start = torch.stack([theta, torch.zeros(50).double()], 1)
    once = torch.stack([-theta, torch.full((50,), 2 * math.pi, dtype=torch.float64)], 1)
    assert (bottle.point(start) - bottle.point(once)).abs().max() < 1e-12
    jacobian = torch.func.vmap(torch.func.jacrev(lambda c: bottle.point(c[None])[0]))(start + 0.3)
    area = torch.linalg.det(jacobian.mT @ jacobian).sqrt()
    def ring(t): return math.hypot(bottle.radius + math.cos(t), math.sin(t) / 2)
    whole = integrate.quad(ring, 0, 2 * math.pi)
    step = 1e-3
    ahead, behind = (bottle.rank(start + 0.3 + double([sign * step, 0]))[:, 0] for sign in (1, -1))
    inside = (theta + 0.3 + step < 2 * math.pi)
    slope = (ahead - behind) / (2 * step)
    assert (slope - area / whole[0])[inside].abs().max() < 1e-6


def test_rank_on_the_sphere_against_the_density_of_the_cosine():
    mu, root = 2**0.5, math.sqrt(2 * math.pi)
    def density(t):    # of the cosine with m: the normal law integrated over the radius
        return integrate.quad(lambda r: r**2 * math.exp(-(r**2 - 2 * mu * r * t + mu**2) / 2), 0, 12)[0] / root
    for t in (-0.9, -0.2, 0.4, 0.95):
        below = integrate.quad(density, -1, t)[0]
        assert Sphere().rank(double([math.acos(t), 0]))[0].tolist() == pytest.approx([below, 0.5], abs=1e-9)


# ---- what is measured -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("manifold", ALL)
def test_true_samples_reach_what_is_expected(manifold):
    bins = 20 if manifold.dimension == 1 else 5
    found = [along_total_variation(manifold, manifold.sample(1000, generator(seed, "x")), bins) for seed in range(20)]
    expected = expected_total_variation(1000, bins**manifold.dimension)
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found, ddof=1) / 20**0.5)


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(2, 60))
def test_expected_total_variation_is_the_mean(n, cells):
    k = np.arange(n + 1)
    mean = cells / (2 * n) * (np.abs(k - n / cells) * stats.binom.pmf(k, n, 1 / cells)).sum()
    assert expected_total_variation(n, cells) == pytest.approx(mean, rel=1e-9)


def test_total_variation_of_known_shares():
    circle = Circle(kappa=0.0)
    quarters = circle.point(double([-3.0], [-1.0], [1.0], [3.0]))
    assert along_total_variation(circle, quarters, bins=4) == pytest.approx(0)
    assert along_total_variation(circle, quarters[:1], bins=4) == pytest.approx(0.75)
    assert along_total_variation(circle, 5 * quarters[:2].float(), bins=4) == pytest.approx(0.5)


def test_half_of_the_curve_is_seen():
    curve = SineCurve()
    x = curve.sample(10_000, generator(0, "x"))
    upper = x[curve.rank(curve.coordinate(x))[:, 0] > 0.5]
    assert along_total_variation(curve, upper) == pytest.approx(0.5, abs=0.02)
    assert off_manifold(Circle(), 1.25 * Circle().sample(50, generator(0, "x"))) == pytest.approx(0.25)


@pytest.mark.parametrize("measure", [off_manifold, along_total_variation])
@pytest.mark.parametrize("x, message", [
    (torch.zeros(4, 3), r"x must be samples, \(n, 2\), got \(4, 3\)"), (torch.zeros(2), r"got \(2,\)"),
    (torch.zeros(0, 2), r"got \(0, 2\)"),
    (torch.tensor([[math.inf, 0], [0, math.nan]]), "x must be finite, got 2 values"),
])
def test_what_cannot_be_measured_is_refused(measure, x, message):
    with pytest.raises(ValueError, match=message): measure(Circle(), x)


def test_all_have_their_names():
    assert sorted(MANIFOLDS) == ["circle", "curve", "klein", "moons", "sphere"]
    for name, kind in MANIFOLDS.items():
        assert issubclass(kind, Manifold) and kind.name == name and (kind.dimension == 1) == issubclass(kind, Curve)


def test_sets_that_are_none():
    for kappa in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"kappa must be between 0 and inf, got {kappa}"): Circle(kappa=kappa)
    with pytest.raises(ValueError, match="radius must be between 1 and inf, got 0.9"): KleinBottle(radius=0.9)
