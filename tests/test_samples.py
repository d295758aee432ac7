"Distances between sets of samples against closed forms, scipy, scikit-learn and balls counted by hand."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import ortho_group
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import NearestNeighbors

from uncpaper.metrics import (frechet_distance, likelihood_ood_accuracy, likelihood_threshold,
                              precision_recall_density_coverage, sample_frechet_distance)
from uncpaper.metrics import samples as module


def features(seed: int, n: int, dimension: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixed = np.eye(dimension) + random.normal(size=(dimension, dimension)) / dimension**0.5
    return random.normal(size=(n, dimension)) @ mixed + random.normal(size=dimension)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), np.cov(x, rowvar=False)


def test_closed_forms():
    zero = np.zeros(2)
    assert frechet_distance(zero, np.eye(2), [1.0, 2.0], np.diag([4.0, 9.0])) == pytest.approx(10, abs=1e-12)
    correlated = np.array([[2.0, 1.0], [1.0, 2.0]])
    assert frechet_distance(zero, correlated, zero, np.diag([1.0, 4.0])) == pytest.approx(0.7712204476, abs=1e-10)
    assert frechet_distance([3.0], [[4.0]], [1.0], [[0.25]]) == pytest.approx(2**2 + 1.5**2, abs=1e-12)


def test_commuting_covariances_differ_by_their_standard_deviations():
    random, turn = np.random.default_rng(0), ortho_group.rvs(30, random_state=0)
    a, b = random.uniform(0.1, 3, (2, 30))
    found = frechet_distance(np.zeros(30), turn * a**2 @ turn.T, np.ones(30), turn * b**2 @ turn.T)
    assert found == pytest.approx(30 + ((a - b) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("dimension", [3, 40, 200])
def test_as_with_the_root_of_scipy(dimension):
    (m, S), (n, T) = moments(features(0, 3 * dimension, dimension)), moments(features(1, 4 * dimension, dimension))
    peer = ((m - n) ** 2).sum() + S.trace() + T.trace() - 2 * sqrtm(S @ T).trace().real
    assert frechet_distance(m, S, n, T) == pytest.approx(peer, rel=1e-9)
    assert frechet_distance(n, T, m, S) == pytest.approx(peer, rel=1e-9)


def test_tensors_of_any_precision_are_taken():
    m, S = moments(features(0, 50, 4))
    single = [torch.from_numpy(x).float() for x in (m, S)]
    expected = frechet_distance(*(x.double() for x in single), np.zeros(4), np.eye(4))
    assert frechet_distance(*single, torch.zeros(4), torch.eye(4)) == expected


@pytest.mark.parametrize("pair", [(400, 300), (25, 300), (300, 25), (25, 40), (60, 61), (2, 3)])
def test_features_and_their_moments_have_one_distance_whatever_the_rank(pair):
    x, y = features(0, pair[0], 60), features(1, pair[1], 60)
    found = sample_frechet_distance(x, y)
    assert found == pytest.approx(frechet_distance(*moments(x), *moments(y)), rel=1e-10)
    assert found == pytest.approx(sample_frechet_distance(y, x), rel=1e-12)


def test_covariances_without_a_shared_direction_share_nothing():
    turn = ortho_group.rvs(50, random_state=1)
    S, T = (turn[:, part] @ turn[:, part].T for part in (slice(0, 20), slice(20, 50)))
    assert frechet_distance(np.zeros(50), S, np.zeros(50), T) == pytest.approx(50, abs=1e-10)
    half = turn[:, 10:40] @ turn[:, 10:40].T
    assert frechet_distance(np.zeros(50), S, np.zeros(50), half) == pytest.approx(30, abs=1e-10)
    assert frechet_distance(np.zeros(50), np.zeros((50, 50)), np.zeros(50), half) == pytest.approx(30, abs=1e-10)


def test_both_routes_give_the_root_trace(monkeypatch):
    S, T = moments(features(0, 200, 50))[1], moments(features(1, 200, 50))[1]
    by_eigenvalues = module._root_trace(S, T)
    monkeypatch.setattr(module, "_ROUNDING", 1.0)
    assert module._root_trace(S, T) == pytest.approx(by_eigenvalues, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 40), scale=st.floats(0.01, 100))
def test_laws_of_a_distance(seed, n, scale):
    x, y, turn = features(seed, n, 8), features(seed + 1, 20, 8), ortho_group.rvs(8, random_state=seed)
    found = sample_frechet_distance(x, y)
    assert sample_frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    assert sample_frechet_distance(x @ turn, y @ turn) == pytest.approx(found, rel=1e-9)
    assert sample_frechet_distance(scale * x + 1, scale * y + 1) == pytest.approx(scale**2 * found, rel=1e-8)
    assert sample_frechet_distance(x, x + 3) == pytest.approx(8 * 9, rel=1e-9)


@pytest.mark.parametrize(("arguments", "said"), [
    (([0.0], [[1.0]], [0.0, 0.0], np.eye(2)), "mean2 must have 1 numbers"),
    (([0.0], [[1.0, 0.0]], [0.0], [[1.0]]), "covariance1 must be symmetric, of shape (1, 1)"),
    (([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]], [0.0, 0.0], np.eye(2)), "covariance1 must be symmetric"),
    (([0.0], [[1.0]], [0.0], [[-1.0]]), "covariance2 must be symmetric, of shape (1, 1), variances >= 0"),
    (([np.nan], [[1.0]], [0.0], [[1.0]]), "mean1 must be finite"),
    (([0.0], [[1.0]], [0.0], [[np.inf]]), "covariance2 must be finite"),
])
def test_what_is_no_law_is_named(arguments, said):
    with pytest.raises(ValueError) as caught: frechet_distance(*arguments)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def counted(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, ...]:
    radii = [NearestNeighbors(n_neighbors=k + 1).fit(z).kneighbors(z)[0][:, -1] for z in (real, fake)]
    apart = np.linalg.norm(real[:, None] - fake[None], axis=-1)
    near = apart < radii[0][:, None]
    return near.any(0).mean(), (apart < radii[1]).any(1).mean(), near.sum() / k / len(fake), near.any(1).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("dimension", [2, 40])
def test_shares_as_counted(monkeypatch, k, dimension):
    random = np.random.default_rng(k)
    real, fake = random.normal(size=(130, dimension)), 0.5 + 1.2 * random.normal(size=(90, dimension))
    expected = counted(real, fake, k)
    assert precision_recall_density_coverage(real, fake, k) == pytest.approx(expected, abs=1e-12)
    assert precision_recall_density_coverage(torch.from_numpy(real), fake, k) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(module, "_ROWS", 17)
    assert precision_recall_density_coverage(real, fake, k) == pytest.approx(expected, abs=1e-12)


def test_shares_of_the_same_and_of_the_opposite():
    x = np.random.default_rng(0).normal(size=(200, 16))
    assert precision_recall_density_coverage(x, x) == (1, 1, 1, 1)
    assert precision_recall_density_coverage(x, x + 100) == (0, 0, 0, 0)


def test_shares_by_hand():
    real, fake = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [2.0], [10.0]])
    found = precision_recall_density_coverage(real, fake, k=1)
    assert found == pytest.approx((2 / 3, 1, 1, 1))
    assert found._fields == ("precision", "recall", "density", "coverage")


def test_an_outlier_widens_precision_and_not_density():
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(500, 2)), 4 + random.normal(size=(500, 2))
    spoilt = np.vstack([real, [[12.0, 12.0]]])
    before, after = (precision_recall_density_coverage(x, fake) for x in (real, spoilt))
    assert before.precision < 0.2 and after.precision > 0.9
    assert after.density - before.density == pytest.approx(1 / 5, abs=0.01)


def test_shares_need_neighbours_and_one_space():
    x = np.zeros((4, 2))
    with pytest.raises(ValueError, match="k must be between 1 and 3, got 4"): precision_recall_density_coverage(x, x, 4)
    with pytest.raises(ValueError, match="k must be between 1"): precision_recall_density_coverage(x, x, 0)
    with pytest.raises(ValueError, match="fake must have 2 columns"): precision_recall_density_coverage(x, x[:, :1], 1)
    with pytest.raises(ValueError, match="real must be finite"): precision_recall_density_coverage(x[0], x, 1)


def test_stump_by_hand():
    train = [1.0, 2.0, 3.0, 6.0], [-3.0, -2.0, -1.0]
    assert likelihood_threshold(*train) == 0
    assert likelihood_ood_accuracy(*train, [1.0, -1.0, 5.0, 5.0], [-4.0, 3.0]) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert likelihood_ood_accuracy(*train, [0.0], [0.0]) == 0.5 # what is on it is foreign


def test_stump_of_least_impurity():
    random = np.random.default_rng(0)
    own, foreign = random.normal(1, 1, 300), random.normal(-0.5, 2, 80)
    values, labels = np.r_[own, foreign], np.repeat([1, 0], [300, 80])
    def impurity(tau: float) -> float:
        sides = labels[values <= tau], labels[values > tau]
        return sum(len(side) * side.mean() * (1 - side.mean()) for side in sides)
    middles = np.sort(values)[:-1] + np.diff(np.sort(values)) / 2
    assert impurity(likelihood_threshold(own, foreign)) == pytest.approx(min(map(impurity, middles)), rel=1e-9)


def test_a_likelihood_that_prefers_foreign_data_is_wrong():
    random = np.random.default_rng(0)
    sizes = (0, 900), (3, 300), (0, 200), (3, 50)
    own, foreign, test_own, test_foreign = (random.normal(at, 1, n) for at, n in sizes)
    found = likelihood_ood_accuracy(own, foreign, test_own, test_foreign)
    above = np.r_[test_own, test_foreign] > likelihood_threshold(own, foreign)
    assert found == pytest.approx(balanced_accuracy_score(np.repeat([1, 0], [200, 50]), above), abs=1e-12)
    assert found < 0.15


def test_no_stump_without_a_difference():
    with pytest.raises(ValueError, match="train_in, train_out must differ somewhere"):
        likelihood_threshold([1.0], [1.0])
    with pytest.raises(ValueError, match="test_out must be finite"):
        likelihood_ood_accuracy([1.0], [0.0], [1.0], [np.nan])
