"DDU on pixels: measures on pixels counted by hand, scenes, the density against scipy, and a network that learns."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.metrics import jaccard_score

from uncpaper import data
from uncpaper.ensembles import Ensemble
from uncpaper.metrics import entropy
from uncpaper.papers.ddu.pixels import (
    BACKGROUND, INK, TRUST_MEASURES, UNSEEN, Maps, Member, PixelNet, Scenes, Segmentation, Segmenter, Timing, areas,
    as_rows, averaged, dropout_only, gather, items, maps_of, mean_iou, paste, pixel_density, shrunk, trust_curves,
    unseen_auroc)
from uncpaper.training import in_chunks


TINY = Scenes(side=24, digit=8)


def at(curves, percentile):
    return curves.set_index("percentile").loc[percentile, TRUST_MEASURES].tolist()


# the measures, on four pixels

def test_the_wrong_pixel_is_the_least_certain():
    curves = trust_curves(torch.tensor([0.3, 0.1, 0.9, 0.2]), torch.tensor([True, True, False, True]))
    assert at(curves, 1) == [1, 1, 2 / 4]     # one pixel is certain, and right; the wrong one is uncertain
    assert at(curves, 50) == [1, 1, 3 / 4]
    assert at(curves, 75) == [1, 1, 1]
    assert at(curves, 76) == [3 / 4, 0, 3 / 4] # all are certain
    assert areas(curves) == pytest.approx({"accurate_certain": 15 / 16, "uncertain_inaccurate": 3 / 4, "pavpu": 3 / 4})


def test_the_wrong_pixel_is_the_most_certain():
    curves = trust_curves(torch.tensor([0.3, 0.4, 0.1, 0.2]), torch.tensor([True, True, False, True]))
    assert at(curves, 25) == [0, 0, 0]
    assert at(curves, 50) == pytest.approx([1 / 2, 0, 1 / 4])
    assert at(curves, 100) == [3 / 4, 0, 3 / 4]


def test_pixels_that_tie_are_certain_together():
    curves = trust_curves(torch.tensor([0.1, 0.1, 0.5, 0.5]), torch.tensor([True, False, True, False]))
    assert at(curves, 1) == at(curves, 50) == [1 / 2, 1 / 2, 1 / 2]
    assert at(curves, 51) == [1 / 2, 0, 1 / 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=60))
def test_curves_are_the_counts_and_only_the_order_matters(pixels):
    u, correct = torch.tensor([float(p[0]) for p in pixels]), torch.tensor([p[1] for p in pixels])
    if correct.all(): correct[0] = False
    curves = trust_curves(u, correct)
    for q in (1, 33, 50, 90, 100):
        certain = u <= u.sort()[0][math.ceil(q * len(u) / 100) - 1]
        accurate, uncertain = (correct & certain).sum() / certain.sum(), (~correct & ~certain).sum() / (~correct).sum()
        expected = accurate.item(), uncertain.item(), (correct == certain).double().mean().item()
        assert at(curves, q) == pytest.approx(expected)
    assert trust_curves(u.exp() - 7, correct).equals(curves)


def test_what_has_no_curve_is_refused():
    right, wrong, infinite = torch.ones(2) > 0, torch.zeros(2) > 0, torch.tensor([0.0, math.inf])
    with pytest.raises(ValueError, match="correct must hold a pixel that is wrong"): trust_curves(torch.zeros(2), right)
    with pytest.raises(ValueError, match="uncertainty must be finite"): trust_curves(infinite, wrong)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=1, max_size=40))
def test_mean_iou_is_the_macro_jaccard_index(pairs):
    predicted, labels = torch.tensor(pairs).T
    assert mean_iou(predicted, labels) == pytest.approx(jaccard_score(labels, predicted, average="macro"), abs=1e-12)


def test_mean_iou_by_hand():
    assert mean_iou(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])) == pytest.approx((1 / 2 + 2 / 3) / 2)


# scenes

def test_scenes_depend_on_the_seed_and_the_set_alone():
    first, again, other = TINY.draw(3, 0, "test"), TINY.draw(3, 0, "test"), TINY.draw(3, 1, "test")
    assert torch.equal(first.x, again.x) and torch.equal(first.y, again.y)
    assert not torch.equal(first.x, other.x) and not torch.equal(first.x, TINY.draw(3, 0, "train").x)
    assert UNSEEN not in first.y and UNSEEN in TINY.draw(3, 0, "test", unseen=True).y


def test_labels_match_the_ink():
    ink = items("mnist", "test", 8).x[0]
    picture, labels = torch.full((24, 24), 0.2), torch.full((24, 24), BACKGROUND)
    paste(picture, labels, ink, 5, 9, grey=0.9, label=7)
    assert torch.equal(labels[5:13, 9:17] == 7, ink > INK) and int((labels == 7).sum()) == int((ink > INK).sum())
    assert torch.allclose(picture[5:13, 9:17], 0.2 + 0.7 * ink)
    assert (picture[labels == BACKGROUND] <= 0.2 + 0.7 * INK + 1e-6).all()


def test_digits_stand_out_from_the_background():
    x, y = Scenes().draw(50, 0, "train")
    assert x[:, 0][y < BACKGROUND].mean() > 2 * x[:, 0][y == BACKGROUND].mean()
    assert set(y.unique().tolist()) == set(range(11))


def test_training_and_test_digits_are_disjoint():
    rows = {split: {image.numpy().tobytes() for image in data.load("mnist", split).x} for split in ("train", "test")}
    assert not rows["train"] & rows["test"]
    assert torch.equal(items("mnist", "train", 28).x[:9], shrunk(data.load("mnist", "train").x[:9], 28))


@pytest.mark.parametrize("fields, said", [
    ({"side": 26}, "side must be a multiple of 4, got 26"),
    ({"fewest": 5, "most": 4}, "fewest must be between 0 and 4, got 5"),
    ({"most": 9}, "most must be between 0 and 8, got 9"),
])
def test_scenes_that_cannot_be_are_refused(fields, said):
    with pytest.raises(ValueError, match=said): Scenes(**fields)


# networks and maps

def test_the_density_over_pixels_is_scipys():
    torch.manual_seed(1)
    network, training, test = PixelNet(3).eval(), TINY.draw(48, 1, "train"), TINY.draw(2, 1, "test")
    density = pixel_density(network, training, size=7)
    with torch.inference_mode(): z, x = (as_rows(network.features(s.x)).double() for s in (training, test))
    labels, classes = training.y.flatten(), [z[training.y.flatten() == c].numpy() for c in range(11)]
    peers = [multivariate_normal(mine.mean(0), np.cov(mine.T)).logpdf(x) for mine in classes]
    theirs = np.stack(peers) + np.log([len(mine) / len(labels) for mine in classes])[:, None]
    assert np.allclose(density.log_density(x, priors=True), np.logaddexp.reduce(theirs), rtol=1e-4, atol=1e-4)
    predicted, maps = in_chunks(Segmenter(Ensemble([network]), density).ddu, test.x, size=1)
    assert np.allclose(maps["DDU"].flatten(), -np.logaddexp.reduce(theirs), rtol=1e-4, atol=1e-4)
    assert torch.equal(predicted, maps_of(Segmenter(Ensemble([network]), density).softmax, test.x)[0])


def test_rows_are_pixels():
    maps = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert as_rows(maps).shape == (8, 3) and as_rows(maps)[5].tolist() == maps[1, :, 0, 1].tolist()


def test_mixtures_of_members():
    members = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).reshape(2, 1, 2, 1, 1)
    _, maps = averaged("ensemble", members.log())
    assert maps["ensemble PE"].item() == pytest.approx(math.log(2))
    assert maps["ensemble MI"].item() == pytest.approx(math.log(2) - entropy(members[0, 0, :, 0, 0]).item())


def test_dropout_only_leaves_batch_normalisation_fixed():
    network = dropout_only(PixelNet(4, dropout=0.5))
    training = {type(m).__name__ for m in network.modules() if m.training}
    assert training == {"Dropout"}


def test_unseen_pixels_are_told_from_all_others():
    labels = torch.tensor([[[0, UNSEEN], [BACKGROUND, UNSEEN]]])
    maps: dict[str, Maps] = {"softmax": (labels, {"half": torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])})}
    assert unseen_auroc(maps, labels) == {"half": 0.875}  # (1 + 1 + 1 + 1/2) / 4


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCPAPER_HOME", str(tmp_path_factory.mktemp("home")))
        yield tuple(Member(TINY, seed=0, member=m, train=400, steps=steps) for m, steps in enumerate((200, 5)))


def test_a_network_beats_the_background(members):
    test, network = TINY.draw(64, 0, "test"), members[0].load()
    with torch.inference_mode(): predicted = network(test.x).argmax(1)
    assert mean_iou(predicted, test.y) > mean_iou(torch.full_like(test.y, BACKGROUND), test.y) + 0.05


def test_members_see_the_same_scenes(members):
    first, second = (m.training() for m in members)
    assert torch.equal(first.x, second.x) and members[0].key != members[1].key
    assert not torch.equal(members[0].load().stem.weight, members[1].load().stem.weight)


def test_stages_agree_where_they_must(members):
    result = Segmentation(members, test=16, passes=2).result()
    assert result["summary"]["miou"]["softmax"] == result["summary"]["miou"]["DDU"]
    uncertainties = {"softmax", "dropout PE", "dropout MI", "ensemble PE", "ensemble MI", "DDU", "DDU, equal classes"}
    assert set(result["summary"]["auroc"]) == uncertainties
    assert gather([result] * 3, "unseen", "pavpu")["DDU"].shape == (3, 100)
    assert result["maps_unseen"]["DDU"].shape == (3, 24, 24)
    timing = Timing(members, pictures=2, rounds=1, passes=2)
    assert timing.timed and set(timing.result()["seconds"]) == {"softmax", "dropout", "ensemble", "DDU"}
