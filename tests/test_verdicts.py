"The rule behind verdicts against closed forms, scipy and bootstraps; its error rates; records that check themselves."

import itertools
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from uncpaper.metrics import auroc, losses_of, placements, quality
from uncpaper.reproduce.claims import Measure, compared
from uncpaper.reproduce.ledger import Evidence, best, experiment_rows, rows, tally
from uncpaper.reproduce.store import home, sha256, write_manifest
from uncpaper.reproduce.verdicts import VERDICTS, decide, error_of, holm, judge, weighed
from uncpaper.reproduce.verify import recorded

TINY = Measure(quantity="difference", matters=1e-9, why="so that all matter")
HALF = Measure(quantity="difference", matters=0.5, why="half")


def against_zero(d, **known): return compared(better=np.zeros(len(d)), worse=np.asarray(d), **known)


@given(st.lists(st.floats(-3, 3), min_size=5, max_size=12).filter(lambda d: np.std(d) > 1e-3))
@settings(max_examples=60, deadline=None)
def test_with_nothing_but_runs_it_is_student_s_test_and_schuirmann_s(d):
    verdict = judge(against_zero(d), HALF)
    assert verdict.p == pytest.approx(stats.ttest_1samp(d, 0, alternative="greater").pvalue, abs=1e-12)
    low, high = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (verdict.low, verdict.high) == pytest.approx((low, high), abs=1e-9)
    sides = stats.ttest_1samp(d, -0.5, alternative="greater"), stats.ttest_1samp(d, 0.5, alternative="less")
    assert verdict.p_alike == pytest.approx(max(side.pvalue for side in sides), abs=1e-9)
    inside = max(side.pvalue for side in sides) <= 0.05
    assert verdict.verdict == ("no difference that matters" if inside else "holds" if low > 0 else
                               "fails" if high < 0 else "too few runs to tell")


def test_two_sources_of_scatter_have_welch_s_degrees_of_freedom():
    rng = np.random.default_rng(0)
    runs, examples = rng.normal(0, 1, 7), rng.normal(0, 2, 40)
    known = against_zero(runs).model_copy(update={"examples": compared(
        np.zeros((1, 40)), examples[None]).examples})
    error, freedom = error_of(runs, known)
    welch = stats.ttest_ind(runs, examples, equal_var=False)
    assert freedom == pytest.approx(welch.df)
    assert error == pytest.approx(abs(runs.mean() - examples.mean()) / abs(welch.statistic))


def test_overlapping_splits_widen_by_nadeau_and_bengio_s_factor():
    d = np.array([1.0, 2.0, 0.5, 1.5, 1.2])
    plain, wider = (error_of(d, against_zero(d, overlap=o))[0] for o in (0.0, 0.4))
    assert wider / plain == pytest.approx((1 + 5 * 0.4) ** 0.5)


def test_the_share_of_the_test_examples_is_that_of_a_paired_bootstrap_of_aurocs():
    rng = np.random.default_rng(1)
    known, foreign = rng.normal(0, 1, (2, 3, 400)), rng.normal(1, 1, (2, 3, 300)) # method, run, example
    foreign[1] += 0.4
    parts = [{"known": np.stack([p[0] for p in pairs]), "foreign": np.stack([p[1] for p in pairs])}
             for pairs in ([placements(k, f) for k, f in zip(*arms)] for arms in zip(known, foreign))]
    numbers = compared(better=parts[1], worse=parts[0])
    measured = [[1 - auroc(k, f) for k, f in zip(*arms)] for arms in zip(known, foreign)]
    assert (numbers.worse, numbers.better) == (pytest.approx(measured[0]), pytest.approx(measured[1]))
    delong = sum(e.variance / e.count for e in numbers.examples) ** 0.5

    def difference():
        i, j = rng.integers(0, 400, 400), rng.integers(0, 300, 300)
        again = [[1 - auroc(k[i], f[j]) for k, f in zip(*arms)] for arms in zip(known, foreign)]
        return np.subtract(again[0], again[1]).mean()

    assert delong == pytest.approx(np.std([difference() for _ in range(600)]), rel=0.1)


def test_what_predictions_add_has_the_measures_as_means():
    import torch
    p = torch.softmax(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)), 1)
    y = torch.randint(4, (500,), generator=torch.Generator().manual_seed(1))
    added, whole = losses_of(p, y), quality(p, y)
    assert added["ece"].mean() == pytest.approx(whole["ece"], abs=1e-12)
    assert added["nll"].mean() == pytest.approx(whole["nll"], abs=1e-12)
    assert added["error"].mean() == pytest.approx(1 - whole["accuracy"], abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_holm_is_the_closed_test_of_bonferroni(p):
    def closed(i): # the largest Bonferroni p of all sets that hold i
        others = [j for j in range(len(p)) if j != i]
        sets = itertools.chain.from_iterable(itertools.combinations(others, k) for k in range(len(p)))
        return max(min(1.0, (len(s) + 1) * min(p[i], *(p[j] for j in s), 1.0)) for s in sets)
    assert holm(p) == pytest.approx([closed(i) for i in range(len(p))])


@pytest.mark.parametrize("runs", [5, 10])
def test_error_rates_are_the_nominal_ones(runs):
    worlds = 3000
    d = np.random.default_rng(runs).standard_normal((worlds, runs))
    said = [decide(weighed(row, against_zero(row), TINY)) for row in d]
    for verdict in ("holds", "fails"):
        assert said.count(verdict) / worlds == pytest.approx(0.025, abs=3.5 * (0.025 * 0.975 / worlds) ** 0.5)
    at_the_border = [decide(weighed(row + 0.5, against_zero(row + 0.5), HALF)) for row in d]
    limit = 0.05 + 3.5 * (0.05 * 0.95 / worlds) ** 0.5
    assert at_the_border.count("no difference that matters") / worlds < limit


def test_a_certain_difference_that_nobody_would_notice_does_not_hold():
    d = [0.0012, 0.0013, 0.0011, 0.0012, 0.0010]
    assert judge(against_zero(d), TINY).verdict == "holds"
    assert judge(against_zero(d), HALF).verdict == "no difference that matters"
    assert judge(against_zero([1.0, 1.1, 0.9, 1.0]), TINY).reason == "4 runs: a verdict needs 5"


def test_the_smallest_difference_that_is_found_is_found_four_times_in_five():
    noise = np.random.default_rng(3).standard_normal((3000, 10))
    detectable = np.median([weighed(row, against_zero(row), TINY)["detectable"] for row in noise])
    said = [decide(weighed(row + detectable, against_zero(row + detectable), TINY)) for row in noise]
    assert said.count("holds") / len(said) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("evidence", recorded(), ids=lambda e: "/".join(e.folder.parts[-3:]))
def test_every_recorded_verdict_is_what_its_numbers_say(evidence):
    assert evidence.damage == []
    for claim, judged in zip(evidence.written.claims, evidence.result.claims):
        assert (claim.verdict, claim.estimate, claim.p) == (judged.verdict, pytest.approx(judged.estimate, rel=1e-9),
                                                            pytest.approx(judged.p, rel=1e-6))


def test_a_verdict_written_by_hand_is_damage_in_the_ledger(tmp_path):
    from uncpaper.reproduce.experiments import find
    undecided = lambda e: any(c.verdict == "too few runs to tell" and c.better for c in e.written.claims)
    kept = next(filter(undecided, recorded()))
    copy = tmp_path / "run"
    shutil.copytree(kept.folder, copy)
    text = (copy / "result.json").read_text()
    (copy / "result.json").write_text(text.replace('"verdict": "too few runs to tell"', '"verdict": "holds"', 1))
    manifest = json.loads((copy / "manifest.json").read_text())
    def shown():
        experiment, = find(f"{kept.written.paper}/{kept.written.experiment}")
        return experiment_rows(experiment, [Evidence(kept.profile, copy, recorded=True, stale=False)])
    assert {r.verdict for r in shown()} == {"damaged"} and "result.json has changed" in shown()[0].reason
    manifest["files"]["result.json"] = sha256(copy / "result.json")
    write_manifest(copy, manifest)
    assert {r.verdict for r in shown()} == {"damaged"} and "is not what its numbers say" in shown()[0].reason
    assert not any(r.ours is not None for r in shown())


def test_the_tally_counts_each_claim_once_and_apart():
    ledger = rows()
    counted = [r for r in best(ledger) if not r.by_construction]
    table = tally(ledger)
    assert table.claims.sum() == len(counted) == table[list(VERDICTS)].to_numpy().sum()
    assert set(table.index.get_level_values("asks")) == {"paper", "ours"}
    assert all(r.asked <= sum(o.paper == r.paper and o.origin == r.origin for o in counted) for r in counted)
