"The metrics against closed forms, scikit-learn, scipy and direct counting."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, special, stats
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score, roc_curve

from uncpaper.metrics import (SEPARABLE, CalibrationBins, auroc, average_precision, energy, entropy,
                              expected_calibration_error,
                              fit_temperature, fpr_at_tpr, mutual_information, negative_log_likelihood, softmax_entropy,
                              structural_similarity)

RNG = np.random.default_rng(0)


def one_line(message: str) -> str:
    assert "\n" not in message and len(message) < 200
    return message


def refused(call, *needles: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    message = one_line(str(error.value))
    assert all(needle in message for needle in needles), message


# Entropy, mutual information, energy

def test_entropy_closed_forms():
    assert entropy(torch.full((2, 3, 10), 0.1, dtype=torch.float64)).shape == (2, 3)
    assert entropy(np.full(10, 0.1)).item() == pytest.approx(2.302585092994046, rel=1e-14)
    assert entropy([1.0, 0.0, 0.0]).item() == 0
    assert entropy([0.5, 0.5, 0.0]).item() == pytest.approx(np.log(2), rel=1e-15)
    assert entropy(torch.tensor([0.25] * 4, dtype=torch.float16)).dtype == torch.float64
    refused(lambda: entropy([-0.1, 1.1]), "probabilities", "-0.1")
    refused(lambda: entropy([np.nan, 1.0]), "probabilities", "nan")


def test_entropy_is_scipys():
    p = RNG.dirichlet(np.full(7, 0.1), size=(5, 20))
    np.testing.assert_allclose(entropy(p), stats.entropy(p, axis=-1), rtol=1e-11, atol=1e-15)


def test_softmax_entropy():
    assert softmax_entropy(torch.tensor([1e4, 0.0, 0.0])).item() == 0
    assert softmax_entropy([5.0, 5.0, -np.inf]).item() == pytest.approx(np.log(2), rel=1e-15)
    z = RNG.normal(0, 5, (50, 10))
    np.testing.assert_allclose(softmax_entropy(z), stats.entropy(special.softmax(z, 1), axis=1), rtol=1e-11)
    np.testing.assert_allclose(softmax_entropy(z), softmax_entropy(z + 1e6), rtol=1e-6)
    tiny = softmax_entropy([60.0, 0.0]).item()  # e^-60 (1 + 60), far below the spacing of doubles at 1
    assert tiny == pytest.approx(61 * np.exp(-60), rel=1e-9)
    for bad in ([-np.inf, -np.inf], [np.nan, 0.0], [np.inf, 0.0]):
        refused(lambda: softmax_entropy(bad), "logits")


def test_entropies_have_gradients():
    z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(softmax_entropy, z)
    assert torch.autograd.gradcheck(energy, z)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(2, 6), st.floats(0.02, 3), st.integers(0, 99))
def test_mutual_information_bounds_and_parts(members, classes, concentration, seed):
    p = np.random.default_rng(seed).dirichlet(np.full(classes, concentration), size=(members, 20))
    mi, pe, expected = mutual_information(p), entropy(p.mean(0)), entropy(p).mean(0)
    assert (mi >= -1e-12).all() and (mi <= torch.minimum(pe, torch.tensor(np.log(members))) + 1e-12).all()
    assert (pe - mi - expected).abs().max() <= 1e-12


def test_mutual_information_closed_forms():
    assert mutual_information([[1.0, 0.0], [0.0, 1.0]]).item() == pytest.approx(np.log(2), rel=1e-15)
    same = torch.randn(500, 10).softmax(-1).expand(3, -1, -1)
    assert mutual_information(same).abs().max() < 1e-14


def test_energy():
    z = RNG.normal(0, 100, (20, 5))
    np.testing.assert_allclose(energy(z), -special.logsumexp(z, axis=1), rtol=1e-14)
    assert energy([-1e4, -1e4]).item() == pytest.approx(1e4 - np.log(2), rel=1e-15)


# Calibration

def by_search(confidence, correct, bins):
    c = np.asarray(confidence, dtype=np.float64)
    k = np.maximum(np.searchsorted(np.arange(bins + 1) / bins, c) - 1, 0)
    return sum(abs((c[k == b] - correct[k == b]).sum()) for b in range(bins)) / len(c)


def test_calibration_by_hand():
    assert (expected_calibration_error([.55, .65, .65, .75, .85, .95, .95, .95], [1, 0, 1, 1, 1, 1, 1, 0], 10)
            == pytest.approx(0.25, abs=1e-15))
    assert (expected_calibration_error([1, 1, 1, 1, .95, .95, .95, .95], [1, 1, 1, 0, 1, 1, 1, 1], 10)
            == pytest.approx(0.1, abs=1e-15))
    assert expected_calibration_error(torch.ones(5), torch.ones(5)) == 0
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0
    assert expected_calibration_error([0.0, 0.0], [True, False], bins=1) == 0.5


def test_zero_and_one_have_a_bin():
    table = CalibrationBins(15).update([0.0, 1.0, 1 / 15, 14 / 15], [0, 1, 0, 1]).table()
    assert table["count"].tolist() == [2, *[0] * 12, 1, 1]
    assert table.low[0] == 0 and table.high.iloc[-1] == 1 and np.isnan(table.accuracy[5])


@pytest.mark.parametrize("bins", [1, 3, 10, 15, 49, 100, 1000])
def test_the_double_nearest_to_an_edge_is_on_it(bins):
    edges = np.arange(1, bins + 1) / bins
    on = CalibrationBins(bins).update(edges, np.ones(bins)).table()["count"]
    assert (on == 1).all()


@pytest.mark.parametrize("bins", [3, 10, 15, 49])
def test_single_precision_is_binned_as_the_number_it_is(bins):
    edges = (np.arange(1, bins) / bins).astype(np.float32)
    near = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(1))])
    counts = np.bincount(np.searchsorted(np.arange(bins + 1) / bins, near.astype(np.float64)) - 1, minlength=bins)
    assert CalibrationBins(bins).update(near, np.ones(len(near))).table()["count"].tolist() == counts.tolist()
    assert CalibrationBins(15).update(np.float32([0.6]), [1]).table()["count"].argmax() == 9
    assert CalibrationBins(15).update([0.6], [1]).table()["count"].argmax() == 8


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_calibration_is_the_direct_sum(kind):
    c = RNG.beta(4, 1, 200_000).astype(kind)
    hit = RNG.uniform(size=len(c)) < c.astype(float) ** 1.5
    assert expected_calibration_error(c, hit) == pytest.approx(by_search(c, hit, 15), rel=1e-10)
    assert (expected_calibration_error(torch.from_numpy(c), torch.from_numpy(hit))
            == expected_calibration_error(c, hit.astype(float)))


def test_bfloat16_is_taken():
    c = torch.rand(100).bfloat16()
    assert expected_calibration_error(c, torch.ones(100)) == expected_calibration_error(c.double(), torch.ones(100))


def test_finer_nested_bins_never_lower_the_error():
    c, hit = RNG.uniform(size=5000), RNG.uniform(size=5000) < 0.6
    errors = [expected_calibration_error(c, hit, bins) for bins in (1, 2, 4, 12, 60, 600)]
    assert np.all(np.diff(errors) >= -1e-12)


def test_streaming_and_merging_are_one_shot():
    c, hit = RNG.uniform(size=150_001), RNG.uniform(size=150_001) < 0.7
    streamed, parts = CalibrationBins(), [CalibrationBins(), CalibrationBins()]
    for k, rows in enumerate(np.array_split(np.arange(len(c)), 37)):
        streamed.update(c[rows], hit[rows])
        parts[k % 2].update(c[rows], hit[rows])
    once, merged = CalibrationBins().update(c, hit), parts[0] + parts[1]
    for other in (streamed, merged):
        assert other.count == len(c) and (other.outcomes == once.outcomes).all()
        np.testing.assert_allclose(other.confidence, once.confidence, rtol=1e-12)
        assert other.error == pytest.approx(expected_calibration_error(c, hit), rel=1e-10)
    assert parts[0].count < len(c)
    refused(lambda: CalibrationBins(5) + CalibrationBins(6), "bins", "5", "6")


def test_table_and_error_agree():
    c, hit = RNG.uniform(size=999), RNG.uniform(size=999) < 0.4
    calibration = CalibrationBins(7).update(c, hit)
    t = calibration.table()
    assert (t["count"] * (t.accuracy - t.confidence).abs()).sum() / 999 == pytest.approx(calibration.error, rel=1e-12)
    assert ((t.low < t.confidence) & (t.confidence <= t.high)).all()


def test_calibration_refuses_and_then_is_unchanged():
    calibration = CalibrationBins().update([0.5], [1])
    for bad in ([0.5, np.nan], [0.5, 1.0001], [-1e-9, 0.5], [np.inf, 0.5]):
        refused(lambda: calibration.update(bad, [1, 0]), "confidence", "[0, 1]")
    refused(lambda: calibration.update([0.5, 0.6], [1]), "correct", "(1,)", "(2,)")
    refused(lambda: calibration.update([0.5], [0.3]), "correct", "0.3")
    refused(lambda: calibration.update([0.5], [np.nan]), "correct", "nan")
    assert calibration.count == 1
    refused(lambda: expected_calibration_error([], []), "confidence", "at least one")
    refused(lambda: expected_calibration_error([0.5], [1], bins=0), "bins", "0")


def test_reliability_diagram():
    from matplotlib.figure import Figure
    axes = Figure().subplots()
    def heights(container): return [bar.get_height() for bar in container]
    CalibrationBins(4).update([0.2, 0.9, 0.95], [0, 1, 0]).draw(axes, "C0")
    pale, accuracy, gap, count = map(heights, axes.containers)
    assert (pale, accuracy) == ([], [0, 0.5])
    np.testing.assert_allclose(gap, [0.2, 0.425])
    np.testing.assert_allclose(count, [1 / 12, 2 / 12])
    axes = Figure().subplots()
    CalibrationBins(2).update([0.2] + [0.9] * 199, [1] * 200).draw(axes, "C0")
    assert [heights(c) for c in axes.containers[:2]] == [[1], [1]] # one in two hundred is pale


# Detection

def labelled(low, high):
    return np.repeat([0, 1], [len(low), len(high)]), np.concatenate([low, high])


scores = st.lists(st.sampled_from([-np.inf, -2.0, -0.0, 0.0, 1e-300, 0.5, 1.0, 3.0, np.inf]), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(scores, scores)
def test_auroc_counts_pairs(low, high):
    pairs = [(a < b) + 0.5 * (a == b) for a in low for b in high]
    assert auroc(low, high) == sum(pairs) / len(pairs)
    assert auroc(low, high) == pytest.approx(1 - auroc(high, low), abs=1e-15)


@settings(max_examples=200, deadline=None)
@given(scores, scores, st.sampled_from([0.01, 0.07, 0.3, 0.5, 0.9, 0.95, 1.0]))
def test_ranking_is_scikit_learns(low, high, tpr):
    low, high = (np.clip(x, -5, 5) for x in (low, high))  # it takes no infinite score
    label, score = labelled(low, high)
    false, true, _ = roc_curve(label, score, drop_intermediate=False)
    assert auroc(low, high) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert average_precision(low, high) == pytest.approx(average_precision_score(label, score), abs=1e-12)
    assert average_precision(low, high, "in") == pytest.approx(average_precision_score(1 - label, -score), abs=1e-12)
    assert fpr_at_tpr(low, high, tpr) == false[true >= tpr].min()


@pytest.mark.parametrize("digits", [0, 1, 3, 16])
def test_many_scores_with_ties(digits):
    low, high = RNG.normal(0, 1, 3001).round(digits), RNG.normal(0.7, 2, 1999).round(digits)
    label, score = labelled(low, high)
    false, true, _ = roc_curve(label, score, drop_intermediate=False)
    assert auroc(low, high) == pytest.approx(roc_auc_score(label, score), abs=1e-13)
    assert auroc(low, high) == pytest.approx(stats.mannwhitneyu(high, low).statistic / (len(low) * len(high)),
                                             abs=1e-13)
    assert average_precision(low, high) == pytest.approx(average_precision_score(label, score), abs=1e-13)
    assert average_precision(low, high, "in") == pytest.approx(average_precision_score(1 - label, -score), abs=1e-13)
    for tpr in (0.05, 0.5, 0.8, 0.95, 0.999, 1.0):
        assert fpr_at_tpr(low, high, tpr) == false[true >= tpr].min()


def test_ranking_knows_only_order():
    low, high = RNG.normal(0, 1, 500).round(2), RNG.normal(1, 1, 300).round(2)
    for metric in (auroc, average_precision, fpr_at_tpr):
        assert metric(low, high) == metric(np.exp(low), np.exp(high)) == metric(low**3, high**3)
        assert metric(low, high) == metric(low[::-1], RNG.permutation(high))
        assert metric(low, high) == metric(torch.tensor(low), torch.tensor(high))
    assert auroc(torch.tensor(low).half(), high) == auroc(np.float16(low), high)


def test_no_score_is_squashed():
    low, high = RNG.normal(1e4, 10, 1000), RNG.normal(1e4 + 20, 10, 1000)
    label, score = labelled(low, high)
    assert auroc(low, high) == pytest.approx(roc_auc_score(label, score), abs=1e-13)
    assert auroc(low * 1e200, high * 1e200) == pytest.approx(roc_auc_score(label, score), abs=1e-13)


def test_constant_and_separated_scores():
    assert auroc(np.ones(7), np.ones(5)) == 0.5
    assert average_precision(np.ones(7), np.ones(5)) == pytest.approx(5 / 12)
    assert average_precision(np.ones(7), np.ones(5), "in") == pytest.approx(7 / 12)
    assert fpr_at_tpr(np.ones(7), np.ones(5)) == 1
    assert (auroc([1, 2], [3]), average_precision([1, 2], [3]), fpr_at_tpr([1, 2], [3])) == (1, 1, 0)
    assert auroc(torch.tensor([1, 2, 3]), [2, 4]) == 0.75


def test_orientation_of_average_precision():
    "The same scores, 10,000 against 26,032, at AUROC 0.760."
    low, high = RNG.normal(0, 1, 10_000), RNG.normal(1, 1, 26_032)
    assert auroc(low, high) == pytest.approx(0.760, abs=0.008)
    assert average_precision(low, high, "in") == pytest.approx(0.560, abs=0.015)
    assert average_precision(low, high, "out") == pytest.approx(0.884, abs=0.008)


@pytest.mark.parametrize("metric", [auroc, average_precision, fpr_at_tpr])
def test_ranking_refuses(metric):
    refused(lambda: metric([1.0, np.nan], [2.0]), "scores_in", "nan", "1 of 2")
    refused(lambda: metric([1.0], torch.tensor([])), "scores_out", "at least one")


def test_ranking_refuses_options():
    refused(lambda: average_precision([1], [2], positive="ood"), "positive", "'ood'")
    for tpr in (0, 95, np.nan):
        refused(lambda: fpr_at_tpr([1], [2], tpr), "tpr", str(tpr))


# Temperature

def drawn(temperature, n=4000, classes=6, seed=0, scale=3.0):
    g = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(n, classes, generator=g, dtype=torch.float64)
    return z, (z / temperature).softmax(1).multinomial(1, generator=g)[:, 0]


def slope(z, y, temperature):
    p = (z / temperature).softmax(1)
    return ((p * z).sum(1) - z.gather(1, y[:, None])[:, 0]).mean().item()


@pytest.mark.parametrize("true", [0.05, 0.5, 1.0, 2.5, 20.0])
def test_temperature_is_found_and_stationary(true):
    z, y = drawn(true, n=20_000, scale=3 * max(1.0, true / 4))
    T = fit_temperature(z, y)
    assert abs(slope(z, y, T)) < 1e-10
    assert T == pytest.approx(true, rel=0.5 if true < 0.1 else 0.06)
    assert all(negative_log_likelihood(z / T, y) <= negative_log_likelihood(z / (T * f), y)
               for f in (0.99, 0.9999, 1.0001, 1.01))


@settings(max_examples=60, deadline=None)
@given(st.floats(0.3, 8), st.integers(2, 12), st.integers(0, 999), st.sampled_from([1e-3, 1.0, 1e3]))
def test_temperature_scales_with_the_logits(true, classes, seed, scale):
    z, y = drawn(true, n=300, classes=classes, seed=seed)
    try:
        T = fit_temperature(z, y)
    except ValueError:  # few samples at a high temperature may say nothing
        assert slope(z, y, 1e12) >= 0
        return
    assert abs(slope(z, y, T)) < 1e-10
    assert fit_temperature(scale * z, y) == pytest.approx(scale * T, rel=1e-9)


def test_temperature_with_rows_of_very_different_scale():
    z, y = drawn(2.0, n=500)
    z = z * torch.logspace(-3, 4, 500, dtype=torch.float64)[:, None]
    T = fit_temperature(z, y)
    assert abs(slope(z, y, T)) < 1e-8 * z.abs().mean()


def test_temperature_changes_no_decision():
    z, y = drawn(2.0, classes=2)
    T = fit_temperature(z, y)
    assert torch.equal((z / T).argmax(1), z.argmax(1))
    is_wrong = (z.argmax(1) != y).numpy()
    plain, tempered = (softmax_entropy(each).numpy() for each in (z, z / T))
    assert (auroc(plain[~is_wrong], plain[is_wrong])
            == pytest.approx(auroc(tempered[~is_wrong], tempered[is_wrong]), abs=1e-5))


def test_temperature_takes_single_precision_and_arrays():
    z, y = drawn(1.5)
    assert fit_temperature(z.float(), y) == pytest.approx(fit_temperature(z.numpy(), y.numpy()), rel=1e-5)
    assert isinstance(fit_temperature(z, y), float)


def test_temperature_without_a_minimum():
    z = torch.tensor([[3.0, 1.0], [0.0, 0.5]])
    assert fit_temperature(z, [0, 1]) == SEPARABLE
    assert fit_temperature(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), [0, 1]) == SEPARABLE  # tied with the largest
    refused(lambda: fit_temperature(z, [1, 0]), "logits")
    refused(lambda: fit_temperature(torch.ones(4, 3), [0, 1, 2, 0]), "logits")


def test_negative_log_likelihood():
    z, y = drawn(1.0, n=100)
    assert negative_log_likelihood(z, y) == pytest.approx(log_loss(y, z.softmax(1), labels=range(6)), rel=1e-12)
    assert negative_log_likelihood([[1e4, 0.0]], [1]) == 1e4


def test_temperature_refuses():
    z = torch.zeros(3, 2)
    refused(lambda: fit_temperature(z, [0, 1]), "labels", "(3, 2)")
    refused(lambda: fit_temperature(z[0], [0, 1]), "labels", "(2,)")
    refused(lambda: fit_temperature(z[:0], []), "labels")
    refused(lambda: fit_temperature(z, [0, 1, 2]), "labels", "0 to 1")
    refused(lambda: negative_log_likelihood(z + np.inf, [0, 1, 1]), "logits", "finite")


# How alike pictures look

def by_scipy(x, y, span, window):
    "SSIM of pictures (channel, height, width) with scipy's Gaussian filter; places without a whole window are cut off."
    def mean(v): return ndimage.gaussian_filter(v, 1.5, radius=window // 2, mode="constant")
    found = []
    for a, b in zip(x.astype(np.float64), y.astype(np.float64)):
        centre, c1, c2 = slice(window // 2, -(window // 2) or None), (0.01 * span) ** 2, (0.03 * span) ** 2
        var_a, var_b, both = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2, mean(a * b) - mean(a) * mean(b)
        light = (2 * mean(a) * mean(b) + c1) / (mean(a) ** 2 + mean(b) ** 2 + c1)
        found.append((light * (2 * both + c2) / (var_a + var_b + c2))[centre, centre])
    return np.mean(found)


def pictures(*shape, span, seed=0):
    "From 0 to the span."
    return span * np.random.default_rng(seed).random(shape)


@pytest.mark.parametrize("span", [1, 2, 255])
@pytest.mark.parametrize("shape, window", [((1, 11, 11), 11), ((3, 20, 14), 11), ((2, 8, 8), 7), ((4, 9, 12), 1)])
def test_structural_similarity_agrees_with_scipy(span, shape, window):
    x = pictures(5, *shape, span=span) - (span / 2 if span == 2 else 0)
    y = x + 0.2 * pictures(5, *shape, span=span, seed=1)
    found = structural_similarity(torch.from_numpy(x), torch.from_numpy(y), span, window)
    expected = [by_scipy(a, b, span, window) for a, b in zip(x, y)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    turned = structural_similarity(torch.from_numpy(y), torch.from_numpy(x), span, window)
    assert found.shape == (5,) and torch.allclose(found, turned, rtol=1e-13, atol=0)
    same = structural_similarity(torch.from_numpy(x), torch.from_numpy(x), span, window)
    torch.testing.assert_close(same, torch.ones_like(same), rtol=0, atol=1e-12)


def test_structural_similarity_of_bytes_is_that_of_their_values_and_units_do_not_matter():
    x, y = (torch.from_numpy(pictures(2, 3, 12, 16, span=255, seed=i).round()) for i in (0, 1))
    expected = structural_similarity(x, y, 255)
    torch.testing.assert_close(structural_similarity(x.byte(), y.byte(), 255), expected, rtol=0, atol=0)
    torch.testing.assert_close(structural_similarity(x / 255, y / 255, 1), expected, rtol=1e-9, atol=0)
    assert structural_similarity(x[:, None], y[:, None], 255).shape == (2, 1)
    assert expected.max() < 0.1 and structural_similarity(x, 255 - x, 255).max() < 0


def test_structural_similarity_of_even_pictures_is_that_of_their_light():
    a, b = torch.full((1, 15, 15), 0.3, dtype=torch.float64), torch.full((1, 15, 15), 0.7, dtype=torch.float64)
    assert structural_similarity(a, b, 1).item() == pytest.approx((2 * 0.21 + 1e-4) / (0.09 + 0.49 + 1e-4), rel=1e-9)


def test_structural_similarity_refuses_what_does_not_fit():
    x = torch.zeros(1, 8, 8)
    refused(lambda: structural_similarity(x, x[..., :7], 1, 7), "y must have x's shape (1, 8, 8), got (1, 8, 7)")
    refused(lambda: structural_similarity(x, x, 0, 7), "span must be above 0, got 0")
    refused(lambda: structural_similarity(x, x, 1), "window must be odd, and between 1 and 8, got 11")
    refused(lambda: structural_similarity(x, x, 1, 4), "window must be odd, and between 1 and 8, got 4")
