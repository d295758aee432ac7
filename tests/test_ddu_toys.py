"DDU's toys: stages that repeat themselves, bounds that hold, optima that peers confirm."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import PolynomialFeatures
from torch.nn import functional as F

from uncpaper.metrics import auroc, entropy, mutual_information
from uncpaper.models.spectral import operator_norm
from uncpaper.papers.ddu.toys import (
    MoonsNetwork, Objectives, SideBySide, ToyEnsemble, TwoMoons, clusters, ellipse, far_from, fit_conditional,
    fit_joint, fit_marginal, grid, line_data, log_joint, moons, objectives, region, shown_density, summed_loss)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    torch.set_num_threads(1)


STAGES = TwoMoons(0, 2, 0.65, samples=256), ToyEnsemble(0, 2, 20, 8, 30), Objectives(0, 40, fresh=50)


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.kind)
def test_the_same_stage_gives_the_same_bits_again(stage):
    from uncpaper.reproduce.stages import default_store
    first = default_store().contents(stage.ensure().key)
    next(default_store().folder(stage.key).glob("*.safetensors")).unlink()
    assert not stage.done() and default_store().contents(stage.ensure().key) == first


def test_density_tells_far_points_where_entropy_does_not():
    run = TwoMoons(0, 8, None).result()
    far = far_from(run["grid"]["x"], run["train"]["x"], 0.3)
    assert 0.7 < far.double().mean() < 0.95
    assert auroc(-run["test"]["log_density"], -run["grid"]["log_density"][far]) > 0.99
    assert auroc(entropy(run["test"]["probabilities"]), entropy(run["grid"]["probabilities"][far])) < 0.7
    shown = shown_density(run["grid"]["log_density"], run["train"]["log_density"])
    assert shown.max() == 1 and (shown[far] < 0).double().mean() > 0.95


def test_members_of_an_ensemble_share_the_points_and_nothing_else():
    a, b = (TwoMoons(3, 1, None, member=m, samples=128).result() for m in (0, 1))
    assert torch.equal(a["train"]["x"], b["train"]["x"]) and torch.equal(a["test"]["x"], b["test"]["x"])
    assert not torch.equal(a["grid"]["probabilities"], b["grid"]["probabilities"])


def test_train_and_test_moons_are_different_points_and_stay_the_same():
    (x, y), (test, _) = moons(200, 0.1, 0, "train"), moons(200, 0.1, 0, "test")
    assert torch.equal(x, moons(200, 0.1, 0, "train")[0]) and not torch.isin(x[:, 0], test[:, 0]).any()
    assert y.bincount().tolist() == [100, 100]


def test_training_keeps_the_norms_near_the_coefficient_and_the_head_free():
    torch.manual_seed(0)
    model, (x, y) = MoonsNetwork(0.65, width=32), moons(256, 0.1, 0, "train")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    norms = [operator_norm(layer) for layer in (model.features.first, *model.features.blocks)]
    assert max(norms) < 0.65 * 1.02 and torch.linalg.matrix_norm(model.head.weight, 2) > 0.65


def test_the_grid_is_the_figures_window():
    assert grid().shape == (10_000, 2) and grid().amin(0).tolist() == [-2.5, -3] and grid().amax(0).tolist() == [3.5, 3]
    assert grid()[1, 0] > grid()[0, 0] and grid()[1, 1] == grid()[0, 1], "row by row"


def test_a_member_trained_among_others_is_the_member_trained_alone():
    x, y = line_data(20, 0)
    torch.manual_seed(0)
    together = SideBySide(3, 8)
    alone = SideBySide(1, 8)
    for mine, theirs in zip(alone.parameters(), together.parameters()): mine.data = theirs.data[1:2].clone()
    for model in (together, alone):
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(50):
            optimizer.zero_grad()
            summed_loss(model, x, y).backward()
            optimizer.step()
    assert torch.allclose(together(x)[1], alone(x)[0], atol=1e-4)


def test_places_on_the_line_are_what_the_data_say():
    x, y = line_data(500, 0)
    where = region(x[:, 0])
    assert not where["gap"].any() and torch.stack(list(where.values())).sum(0).eq(1).all()
    for inside, low, high in ((where["clear"] & (x[:, 0].abs() > 4.5), 0, 1), (where["overlap"], 0.4, 0.6)):
        assert low <= y[inside].double().mean() <= high
    for side, label in ((-1, (0, 1)), (1, (0, 1))):
        left = where["clear"] & (x[:, 0].sign() == side) & (x[:, 0] < 4 * side)
        right = where["clear"] & (x[:, 0].sign() == side) & (x[:, 0] > 4 * side)
        assert set(y[left].tolist()) == {label[0]} and set(y[right].tolist()) == {label[1]}


def test_the_members_disagree_in_the_gap_and_agree_in_the_overlaps():
    run = ToyEnsemble(0).result()
    mi, where = mutual_information(run["probabilities"]), region(run["line"])
    assert mi[where["overlap"]].mean() < 0.2 * mi[where["gap"]].mean()


@pytest.mark.parametrize("seed", range(3))
def test_each_fit_is_lowest_in_its_own_objective_and_two_give_the_third(seed):
    table = Objectives(seed).result()["objectives"]
    fitted = table[table.points == "train"].set_index("fitted to").drop(columns="points")
    assert fitted.idxmin().tolist() == list(fitted.columns)
    assert np.allclose(fitted["H[Y,Z]"], fitted["H[Y|Z]"] + fitted["H[Z]"], atol=1e-12)


def test_the_joint_fit_is_moments_and_its_density_scipys():
    z, y = clusters(60, 0.05, 0, "train")
    q = fit_joint(z, y)
    for c in range(3):
        mine = z[y == c].numpy()
        peer = stats.multivariate_normal(mine.mean(0), np.cov(mine.T, bias=True)).logpdf(z) + np.log(len(mine) / len(z))
        assert np.allclose(log_joint(q, z)[:, c], peer, rtol=1e-10)


def test_expectation_maximisation_arrives_where_scikit_learn_does_and_never_climbs():
    z, y = clusters(80, 0.05, 1, "train")
    start = fit_joint(z, y)
    there = dict(weights_init=start.weights, means_init=start.means, precisions_init=start.covariances.inverse())
    peer = GaussianMixture(3, tol=1e-10, max_iter=5000, reg_covar=0, **there).fit(z)
    q = fit_marginal(start, z)
    assert math.isclose(-objectives(q, z, y)["H[Z]"].item(), peer.score(z), rel_tol=1e-8)
    assert np.allclose(q.covariances, peer.covariances_, atol=1e-3)
    path = [objectives(fit_marginal(start, z, rounds=r), z, y)["H[Z]"].item() for r in range(1, 8)]
    assert all(a >= b for a, b in zip(path, path[1:]))


@pytest.mark.parametrize("seed", range(3))
def test_the_conditional_fit_reaches_the_minimum_of_the_convex_problem(seed):
    z, y = clusters(80, 0.08, seed, "train")
    features = PolynomialFeatures(2, include_bias=False).fit_transform(z)
    peer = LogisticRegression(C=np.inf, tol=1e-8, max_iter=20_000).fit(features, y)
    lowest = -peer.predict_log_proba(features)[np.arange(len(y)), y].mean()
    reached = objectives(fit_conditional(fit_joint(z, y), z, y), z, y)["H[Y|Z]"].item()
    assert lowest - 1e-6 < reached < lowest + 1e-5


def test_no_outliers_no_replaced_label():
    true = torch.arange(3).repeat_interleave(50)
    assert torch.equal(clusters(50, 0.0, 0, "train")[1], true)
    assert not (clusters(50, 1.0, 0, "train")[1] == true).any()
    assert not torch.equal(clusters(50, 0.0, 0, "train")[0], clusters(50, 0.0, 0, "fresh")[0])


@given(mass=st.floats(0.01, 0.999))
@settings(max_examples=20, deadline=None)
def test_an_ellipse_lies_where_the_chi_squared_says(mass):
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    covariance = torch.tensor([[2.0, 0.7], [0.7, 0.5]], dtype=torch.float64)
    d = ellipse(mean, covariance, mass) - mean
    assert np.allclose(torch.einsum("pi,ij,pj->p", d, covariance.inverse(), d), stats.chi2.ppf(mass, 2))
    assert torch.allclose(d[0], d[-1])
