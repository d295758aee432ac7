"DDU's active learning: what is drawn, what is acquired, and runs that are cut off."
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uncpaper.data import Split
from uncpaper.ensembles import Ensemble
from uncpaper.papers.ddu import Network, Task
from uncpaper.papers.ddu import acquisition as al
from uncpaper.papers.ddu.ambiguous import AmbiguousPictures, recipe
from uncpaper.pictures import Pictures
from uncpaper.training import Draws

DIGITS, TEST = Pictures("digits", "train", 1200), Pictures("digits", "test", 200)
MADE = recipe(DIGITS, Pictures("digits", "test", 597), 8, (40, 10), "small_lenet", (30, 40), 20, judges=2)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCPAPER_HOME", str(tmp_path_factory.mktemp("home")))
        torch.set_num_threads(1)
        yield


def run(method, seed=0, pool=al.Pool(DIGITS, 200), **options):
    given = {"steps": 6, "batch": 10, "until": 40} | options
    return al.Acquire(pool, TEST, 8, Network("tiny_resnet", 3.0, True), al.acquisition(method, 2), seed, **given)


def dirty(drawn=100, unique=40):
    return al.Pool(DIGITS, drawn, AmbiguousPictures(MADE, "train"), unique)


@given(st.integers(1, 6000), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_no_item_is_drawn_more_often_than_its_share(n, epoch):
    sampler = Draws(n, al.BATCH, 5, al.DRAWS)
    steps = range(epoch * sampler.per_epoch, (epoch + 1) * sampler.per_epoch)
    counts = torch.cat([sampler(step) for step in steps]).bincount(minlength=n)
    assert counts.sum() == 5056 and counts.max() <= math.ceil(5056 / n)


def test_the_papers_sizes():
    pool, method = al.Pool(Pictures("mnist", "train", 10000), 1000), al.acquisition("DDU")
    sizes = al.Acquire(pool, TEST, 28, Network("resnet18", 3.0), method, 0, 1580).sizes
    assert len(sizes) == 57 and sizes[0] == 20 and sizes[-1] == 300


def test_a_pool_is_the_seeds_own_shuffled_and_without_repeats():
    a, b, other = (al.Pool(DIGITS, 1200).load(8, seed) for seed in (0, 0, 1))
    assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and not torch.equal(a.y, other.y)
    source = DIGITS.load(8).y
    assert torch.equal(a.y.bincount(), source.bincount()) and not torch.equal(a.y, source)


def test_position_says_nothing_about_the_origin():
    ambiguous = torch.stack([dirty().load(8, seed).ambiguous for seed in range(20)]).double()
    assert ambiguous.sum(1).eq(400).all()
    place = torch.arange(500.0).double()
    correlations = [np.corrcoef(place, row)[0, 1] for row in ambiguous]
    assert abs(np.mean(correlations)) < 3 / math.sqrt(500 * 20)


def test_noise_says_nothing_about_the_origin_and_labels_are_the_copies_own():
    pool = dirty(1000, 40)
    raw, found = MADE.result()["train"], pool.clean_part(8, 0)
    still = al.Pool(DIGITS, 1000).clean_part(8, 0)
    assert torch.equal(found.y, still.y)
    noise = ((found.x - still.x) * al.GREY.std[0])[(still.x * al.GREY.std[0] + al.GREY.mean[0] - 0.5).abs() < 0.3]
    assert abs(noise.std().item() - 0.05) < 0.002
    assert torch.equal(pool.ambiguous_part(8).y, raw["labels"].flatten())
    assert torch.equal(pool.ambiguous_part(8).entropy, raw["entropy"].repeat_interleave(10))


def test_methods_of_a_seed_start_from_the_same_pictures_and_weights():
    starts = [run(method, pool=dirty(), until=20, steps=25, lr=0.03, cycle=True).result() for method in al.METHODS]
    assert len({r["history"].accuracy[0] for r in starts}) == 1, "one network judges, however many are asked"
    assert starts[0]["history"].together[0] != starts[-1]["history"].together[0]
    assert len({tuple(r["acquired"]["index"]) for r in starts}) == 1 and not starts[0]["acquired"].ambiguous.any()
    assert starts[0]["acquired"].y.value_counts().eq(2).all()
    assert set(starts[0]["acquired"]["index"]) != set(run("random", 1, dirty(), until=20).result()["acquired"]["index"])


@pytest.mark.parametrize("method", al.METHODS)
def test_each_picture_is_acquired_once_and_the_history_counts_them(method):
    r = run(method, pool=dirty(), steps=3).result()
    history, acquired = r["history"], r["acquired"]
    assert history["size"].tolist() == [20, 30, 40] and not acquired["index"].duplicated().any()
    candidates = dirty().load(8, 0)
    assert torch.equal(candidates.y[acquired["index"].tolist()], torch.tensor(acquired.y.tolist()))
    for size, share, unclear in zip(history["size"], history.ambiguous, history.unclear):
        assert share == pytest.approx(acquired.ambiguous[:size].mean())
        assert unclear == pytest.approx((acquired.entropy[:size] > 1).mean())
    assert 1 - r["wrong"].double().mean(1).numpy() == pytest.approx(history.accuracy.to_numpy())
    single = al.acquisition(method, 2).networks == 1
    assert not single or history.together.tolist() == pytest.approx(history.accuracy.tolist())


def test_a_cycle_ends_without_a_step_and_peaks_at_the_step_size():
    seen = []
    class Watched(torch.optim.Adam):
        def step(self, *args, **kwargs):
            seen.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)
    pool = dirty().load(8, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Watched)
        few = pool.labelled(torch.arange(20))
        al.trained_on(few, Network("tiny_resnet", 3.0, True), Task(DIGITS, TEST, 8), 40, 0.03, 0, cycle=True)
    assert max(seen) == pytest.approx(0.03, rel=1e-2) and seen[0] == pytest.approx(0.03 / 25) and seen[-1] < 1e-4
    assert len(seen) == 40 and seen.index(max(seen)) in (11, 12)


def test_ties_are_broken_by_the_pools_order_as_topk_does():
    for scores in (torch.zeros(1000), torch.full((1000,), -math.inf), torch.full((1000,), math.nan)):
        assert al.most_uncertain(-scores, 5).tolist() == [0, 1, 2, 3, 4]
        assert al.tied(-scores, torch.arange(5)) == 1
    mixed = torch.tensor([math.nan, 3.0, math.inf, 1.0])  # densities: the lowest first
    assert al.most_uncertain(-mixed, 4).tolist() == [3, 1, 2, 0] == torch.topk(mixed, 4, largest=False).indices.tolist()


def test_densities_in_single_precision_follow_the_pool_log_densities_do_not():
    pool, known = dirty().load(8, 0), torch.tensor(al.balanced(dirty().load(8, 0), 20))
    torch.manual_seed(0)
    model = Ensemble([Network("tiny_resnet", 3.0, True).build(Task(DIGITS, TEST, 8)).eval()])
    labelled = Split(pool.x[known], pool.y[known])
    rest = torch.ones(500, dtype=torch.bool).index_fill(0, known, False).nonzero()[:, 0]
    ask = al.Ask(model, labelled, pool.x[rest], None)
    blind, seeing = (al.acquisition(m).uncertainty(ask)[0] for m in ("DDU, float32", "DDU"))
    assert al.most_uncertain(blind, 5).tolist() == [0, 1, 2, 3, 4] and al.tied(blind, torch.tensor([0])) == 1
    assert len(seeing.unique()) == len(rest) and seeing.isfinite().all()
    turned = al.acquisition("DDU").uncertainty(ask._replace(x=ask.x.flip(0)))[0].flip(0)
    assert torch.allclose(turned, seeing, rtol=1e-3), "the score must not depend on the place"


@pytest.mark.parametrize("method", ["DDU", "ensemble PE", "random"])
def test_a_run_that_is_cut_off_anywhere_ends_with_the_same_bits(tmp_path, method):
    stage, pool = run(method, pool=dirty(), steps=4), dirty().load(8, 0)
    whole = stage.result()
    for cut in (1, 2, 3):
        folder = tmp_path / str(cut)
        folder.mkdir()
        for _, _ in zip(range(cut), stage.rounds(pool, folder)): pass
        torch.rand(7)
        assert len(al.read_rounds(folder)) == cut
        continued = stage.build(folder)
        for name in ("history", "acquired"):
            pd.testing.assert_frame_equal(continued[name], whole[name], check_exact=True)
        assert torch.equal(continued["wrong"], whole["wrong"])
        assert not list(folder.iterdir())


def test_an_interrupted_write_leaves_the_last_state(tmp_path):
    al.write_rounds(tmp_path, [{"row": {"accuracy": 1 / 3}, "acquired": [4]}])
    (tmp_path / f"{al.STATE}.new").write_text('[{"row": {"accu')
    assert al.read_rounds(tmp_path) == [{"row": {"accuracy": 1 / 3}, "acquired": [4]}]


def test_the_same_stage_gives_the_same_bits_again():
    from uncpaper.reproduce.stages import default_store
    stage = run("DDU", steps=3, until=30)
    first = default_store().contents(stage.ensure().key)
    (default_store().folder(stage.key) / "history.parquet").unlink()
    assert not stage.done() and default_store().contents(stage.ensure().key) == first


@pytest.mark.parametrize("bad, says", [
    ({"method": "BALD"}, "method must be one of random"), ({"initial": 10}, "initial must be a multiple of 10"),
    ({"until": 201}, "until must be between 20 and 200, got 201"), ({"batch": 0}, "batch must be at least 1, got 0"),
])
def test_bad_fields_are_named(bad, says):
    with pytest.raises(ValueError, match=says): run(**({"method": "DDU"} | bad))
