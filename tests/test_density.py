"The class-conditional Gaussians against scipy and closed forms (O1), where they are singular, and where refused."

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from uncpaper.density import LADDER, GaussianDiscriminant, Moments, density_float32_exp


def gaussians(samples, width, classes, seed=0, spread=3.0, skew=1.0):
    "Features of classes with covariances of their own, round where skew is 0, and labels in turn."
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    mix = skew * torch.randn(classes, width, width, generator=g, dtype=torch.float64) / width**0.5 + torch.eye(width)
    means = spread * torch.randn(classes, width, generator=g, dtype=torch.float64)
    noise = torch.randn(samples, width, generator=g, dtype=torch.float64)
    return means[labels] + torch.einsum("nij,nj->ni", mix[labels], noise), labels


def points(n, width, seed=1):
    return 3 * torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_scipy(z, labels, x):
    own = [z[labels == c].numpy() for c in range(int(labels.max()) + 1)]
    return np.stack([multivariate_normal(o.mean(0), np.cov(o.T)).logpdf(x.numpy()) for o in own],
                    axis=1).reshape(len(x), -1)


# O1: values and invariances

@pytest.mark.parametrize("samples, width, classes, n",
                         [(60, 1, 1, 7), (300, 5, 3, 50), (500, 32, 2, 20), (900, 33, 17, 20), (800, 70, 3, 1500)])
def test_o1_agrees_with_scipy(samples, width, classes, n):
    z, labels = gaussians(samples, width, classes)
    x, fitted = points(n, width), GaussianDiscriminant.fit(z, labels)
    exact = by_scipy(z, labels, x)
    frequencies = np.bincount(labels) / samples
    assert fitted.jitter.value == 0 and fitted.jitter.ranks == (width,) * classes
    assert fitted.jitter.smallest_count == samples // classes
    np.testing.assert_allclose(fitted.log_density_per_class(x), exact, rtol=1e-9)
    np.testing.assert_allclose(fitted.log_density(x), logsumexp(exact, axis=1), rtol=1e-9)
    np.testing.assert_allclose(fitted.log_density(x, priors=True), logsumexp(exact + np.log(frequencies), axis=1),
                               rtol=1e-9)
    assert fitted.log_density(x.float()).dtype == torch.float64


def test_o1_closed_form():
    fitted = GaussianDiscriminant.fit(torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(3, dtype=torch.long))
    x = torch.tensor([[2.0], [4.0], [-8.0]])
    assert torch.allclose(fitted.log_density(x), -torch.tensor([0.0, 2.0, 50.0], dtype=torch.float64)
                          - math.log(2 * math.pi) / 2, rtol=1e-14)


@given(classes=st.integers(1, 12), width=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_o1_equal_priors_shift_by_log_classes(classes, width):
    z, labels = gaussians(classes * (width + 3), width, classes)
    fitted, x = GaussianDiscriminant.fit(z, labels), points(9, width)
    plain = fitted.log_density(x)
    assert ((fitted.log_density(x, priors=True) - plain + math.log(classes)).abs() <= 1e-14 * plain.abs() + 1e-14).all()


def test_o1_affine_map_shifts_by_log_determinant():
    z, labels = gaussians(400, 6, 3)
    x, before = points(50, 6), GaussianDiscriminant.fit(z, labels).log_density(points(50, 6))
    A = torch.randn(6, 6, generator=torch.Generator().manual_seed(5),
                    dtype=torch.float64) * torch.tensor([1.0, 5, 0.1, 1, 20, 1])[:, None]
    after = GaussianDiscriminant.fit(z @ A.T + 7, labels).log_density(x @ A.T + 7)
    assert torch.allclose(after - before, (-torch.linalg.slogdet(A)[1]).expand(50), rtol=0,
                          atol=1e-8)  # the map's condition is 6,000
    assert after.argsort().equal(before.argsort())


def test_o1_order_of_rows_and_of_classes():
    z, labels = gaussians(600, 8, 4)
    x, fitted = points(30, 8), GaussianDiscriminant.fit(z, labels)
    rows = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(GaussianDiscriminant.fit(z[rows], labels[rows]).log_density(x), fitted.log_density(x),
                          rtol=1e-12)
    renamed = GaussianDiscriminant.fit(z, 3 - labels).log_density_per_class(x)
    assert torch.allclose(renamed.flip(1), fitted.log_density_per_class(x), rtol=1e-12)


@given(size=st.integers(1, 200))
@settings(max_examples=25, deadline=None)
def test_batches_are_as_good_as_all_at_once(size):
    z, labels = gaussians(200, 4, 3, spread=1e3)
    moments = Moments()
    for part, y in zip(z.split(size), labels.split(size)):
        assert moments.update(part, y) is moments
    x = z[:20] + points(20, 4)
    once, streamed = GaussianDiscriminant.fit(z, labels), GaussianDiscriminant.from_moments(moments)
    assert streamed.counts.equal(once.counts) and torch.allclose(streamed.means, once.means, rtol=1e-12)
    assert torch.allclose(streamed.log_density_per_class(x), once.log_density_per_class(x), rtol=1e-9)


def test_scores_do_not_depend_on_the_batch():
    z, labels = gaussians(300, 5, 3)
    fitted, x = GaussianDiscriminant.fit(z, labels), points(2500, 5)
    assert torch.allclose(torch.cat([fitted.log_density(part) for part in x.split(301)]), fitted.log_density(x),
                          rtol=1e-12)
    assert fitted.log_density_per_class(x[:0]).shape == (0, 3) and fitted.log_density(x[:0]).shape == (0,)


def test_attributes():
    z, labels = gaussians(7, 2, 1)
    z, labels = torch.cat([z, z[:4] ** 2]), torch.cat([labels, torch.ones(4, dtype=torch.long)])
    fitted = GaussianDiscriminant.fit(z, labels)
    assert fitted.counts.tolist() == [7, 4] and fitted.priors.tolist() == pytest.approx([7 / 11, 4 / 11])
    assert torch.allclose(fitted.factors[1] @ fitted.factors[1].T, z[7:].T.cov())
    assert fitted.jitter.smallest_count == 4 and "2 classes, 2 features" in repr(fitted)
    with pytest.raises(AttributeError):
        fitted.counts = None


# singular covariances (P3)

def test_fewer_samples_than_features_rank_by_distance_from_the_sheet():
    z, labels = gaussians(60, 100, 2)
    fitted = GaussianDiscriminant.fit(z, labels)
    assert 0 < fitted.jitter.relative <= 1e-10 and fitted.jitter.ranks == (29, 29) and fitted.jitter.rank == 29
    away = torch.randn(100, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    walk = fitted.log_density(z[0] + torch.logspace(-6, 6, 40, dtype=torch.float64)[:, None] * away)
    assert walk.isfinite().all() and (walk.diff() < 0).all() and walk[-1] < -1e20
    assert fitted.log_density(z).min() > 0 > fitted.log_density(points(20, 100)).max()


def test_singular_values_agree_with_the_eigendecomposition():
    z, labels = gaussians(20, 30, 1)
    fitted, x = GaussianDiscriminant.fit(z, labels), points(5, 30)
    values, vectors = np.linalg.eigh(np.cov(z.numpy().T))
    values = np.where(values > 1e-9, values, 0) + fitted.jitter.value
    white = (x - z.mean(0)).numpy() @ vectors / np.sqrt(values)
    exact = -(white**2).sum(1) / 2 - np.log(values).sum() / 2 - 15 * math.log(2 * math.pi)
    np.testing.assert_allclose(fitted.log_density(x), exact,
                               rtol=1e-3)  # rounding of the covariance beside a jitter of 1e-12


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e3, 1e-30])
def test_dead_feature(constant):
    z, labels = gaussians(300, 4, 3)
    dead = torch.cat([z, torch.full((300, 2), constant)], dim=1)
    fitted = GaussianDiscriminant.fit(dead, labels)
    assert fitted.jitter.relative == 1e-12 and fitted.jitter.ranks == (4, 4, 4)
    wakes = dead[:1].repeat(6, 1)
    wakes[:, 4] += torch.tensor([0.0, 1e-5, 1e-3, 0.1, 10.0, 1e4])
    scores = fitted.log_density(wakes)
    assert scores.isfinite().all() and (scores.diff() < 0).all()


def test_pivots_made_of_rounding_are_not_accepted():
    g = torch.Generator().manual_seed(3)
    for _ in range(20):
        a, b = torch.randn(2, 50, generator=g, dtype=torch.float64)
        fitted = GaussianDiscriminant.fit(torch.stack([a, b, 0.3 * a + 0.7 * b], 1), torch.zeros(50, dtype=torch.long))
        assert fitted.jitter.relative == 1e-12 and fitted.jitter.rank == 2


def test_a_feature_of_tiny_variance_is_treated_as_dead_and_the_density_stays_finite():
    z, labels = gaussians(300, 3, 2)
    z[:, 2] *= 1e-25
    fitted = GaussianDiscriminant.fit(z, labels)
    assert fitted.jitter.relative == 1e-12
    assert fitted.log_density(points(10, 3)).float().isfinite().all()


def test_jitter_follows_the_scale():
    z, labels = gaussians(20, 30, 1)
    small, large = (GaussianDiscriminant.fit(c * z, labels).jitter for c in (1e-4, 1e4))
    assert small.relative == large.relative == LADDER[1]
    assert large.value / small.value == pytest.approx(1e16)


# refusals

Z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("z, labels, message", [
    (Z, [0, 0, 0, 0, 0, 1], "class 1 has 1 sample;"),
    (Z, [0, 0, 0, 2, 2, 2], "class 1 has 0 samples;"),
    (Z[:0], [], "at least two samples"),
    (Z, [0, 0, 0, 1, 1, -1], ">= 0, got -1"),
    (Z, [0, 0, 0], "6 whole numbers"),
    (Z, [0.0, 0, 0, 1, 1, 1], "whole numbers"),
    (Z[0], [0, 0], "must be floats"),
    (Z.long(), [0] * 6, "must be floats"),
    (Z / 0, [0] * 6, "must be finite"),
    (torch.full((6, 2), 0.1), [0, 0, 0, 1, 1, 1], "cannot be factored"),
    (torch.tensor([[0.1], [0.1], [0.1], [-7.7], [-7.7], [-7.7]]), [0, 0, 0, 1, 1, 1], "cannot be factored"),
    (Z.double() * 1e200, [0, 0, 0, 1, 1, 1], "cannot be factored"),
])
def test_refused(z, labels, message):
    with pytest.raises(ValueError, match=message) as error:
        GaussianDiscriminant.fit(z, torch.tensor(labels, dtype=None if labels else torch.long))
    assert "\n" not in str(error.value)


def test_scoring_refuses_what_does_not_fit():
    fitted = GaussianDiscriminant.fit(Z, torch.zeros(6, dtype=torch.long))
    for x, message in [(Z[:, :1], "2 wide"), (Z * math.nan, "finite"), (Z[0], "floats")]:
        with pytest.raises(ValueError, match=message):
            fitted.log_density(x)
    with pytest.raises(ValueError, match="float64 or torch.float32"):
        fitted.log_density(Z, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="2 wide"):
        Moments().update(Z, torch.zeros(6, dtype=torch.long)).update(Z[:, :1], torch.zeros(6, dtype=torch.long))


# single precision

@pytest.mark.parametrize("width, classes", [(5, 3), (64, 10), (128, 20)])
def test_single_precision_is_right_to_1e_6(width, classes):
    z, labels = gaussians(classes * (3 * width + 20), width, classes, spread=1.0, skew=0.3)
    fitted, x = GaussianDiscriminant.fit(z, labels), torch.cat([z[:200], points(200, width)])
    exact, single = fitted.log_density(x), fitted.log_density(x, dtype=torch.float32)
    assert single.dtype == torch.float64 and ((single - exact) / exact).abs().max() < 1e-6


def test_float32_exponentials_tie_overflow_and_lose_unseen_classes():
    log_density = torch.tensor([[-1.0, -2.0], [-150.0, -160.0], [-200.0, -210.0], [95.0, 120.0], [1900.0, 0.0]],
                               dtype=torch.float64)
    score = density_float32_exp(log_density, torch.tensor([0.5, 0.5]))
    assert score.dtype == torch.float32
    assert score[0].item() == pytest.approx((math.exp(-1) + math.exp(-2)) / 2, rel=1e-6)
    assert score[1:].tolist() == [0.0, 0.0, math.inf, math.inf]
    assert density_float32_exp(log_density[3:], torch.tensor([0.0, 1.0]))[1].isnan()
