"Galleries, the judge, and pictures from noise: layouts, opinions and chains against plain recomputations."
import numpy as np
import pytest
import torch

from uncpaper.diffusion import DDIM, last, sample
from uncpaper.papers import eiv
from uncpaper.papers.shared.judge import nearest, opinion, sure
from uncpaper.papers.shared.denoising import SAMPLERS, Generate
from uncpaper.plots import mosaic, show_grid
from uncpaper.plots import use_style

PARTS = eiv.Parts("digits", labelled=200, learned=400, test=50)
DENOISER = eiv.TrainDenoiser(PARTS.for_denoiser, "digit_mlp", 60, 64, 1e-3, decay=0.9, warm=10)


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCPAPER_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def generated(count: int = 6, seed: int = 3, sampler: str = "ancestral", calls: int = 12, **fields) -> dict:
    return Generate(DENOISER, count, seed, sampler, calls, **fields).result()


@pytest.mark.parametrize("rows, columns, channels, gap", [(1, 1, 1, 0), (2, 3, 1, 1), (3, 2, 3, 4)])
def test_a_mosaic_has_every_picture_in_its_place_and_white_between(rows, columns, channels, gap):
    pictures = torch.rand(rows, columns, channels, 5, 7)
    whole = mosaic(pictures, gap)
    assert whole.shape[:2] == (rows * (5 + gap) - gap, columns * (7 + gap) - gap)
    seen = np.ones(whole.shape, bool)
    for i in range(rows):
        for j in range(columns):
            place = np.s_[i * (5 + gap) : i * (5 + gap) + 5, j * (7 + gap) : j * (7 + gap) + 7]
            expected = pictures[i, j].permute(1, 2, 0).numpy()
            assert (whole[place] == (expected[..., 0] if channels == 1 else expected)).all()
            seen[place] = False
    assert (whole[seen] == 1).all()


def test_a_grid_shows_black_as_black_cuts_off_what_is_beyond_and_labels_the_middle_of_rows_and_columns():
    import matplotlib.pyplot as plt
    use_style()
    figure, axes = plt.subplots()
    greys = torch.tensor([-3.0, -1.0, 0.0, 5.0]).view(2, 2, 1, 1, 1).expand(2, 2, 1, 8, 8)
    shown = np.asarray(show_grid(axes, greys, ["a", "b"], ["c", "d"]).get_array())
    assert [shown[0, 0], shown[0, 9], shown[9, 0], shown[9, 9]] == [0, 0, 0.5, 1]
    assert axes.get_xticks().tolist() == axes.get_yticks().tolist() == [3.5, 12.5]
    assert [label.get_text() for label in axes.get_xticklabels() + axes.get_yticklabels()] == ["a", "b", "c", "d"]
    plt.close(figure)


def test_the_judge_speaks_as_its_network_does_one_picture_at_a_time_or_all_at_once():
    judge = eiv.TrainClassifier("clean", PARTS.for_classifier, "small_mlp", 4, 0, 40)
    x, network = PARTS.for_test.load().x, judge.load().cpu()
    with torch.no_grad(): plain = network(x).double().softmax(1)
    said = opinion(judge, x)
    assert said.dtype == torch.float64 and torch.allclose(said, plain, atol=1e-6)
    assert torch.allclose(torch.cat([opinion(judge, one[None]) for one in x]), said, atol=1e-5)
    for above in (0.2, 0.5, 0.9):
        assert sure(said, above) == pytest.approx(np.mean([max(p) > above for p in said.tolist()]))


def test_the_nearest_picture_is_that_of_a_plain_loop():
    x, others = torch.rand(7, 1, 4, 4), torch.rand(11, 1, 4, 4)
    found = nearest(x, others)
    plain = torch.tensor([[(a - b).square().mean().sqrt() for b in others] for a in x])
    assert torch.allclose(found.distance, plain.min(1).values, atol=1e-6) and (found.place == plain.argmin(1)).all()


def test_a_generated_picture_does_not_depend_on_how_many_are_generated():
    many, few = generated(6)["pictures"], generated(2)["pictures"]
    assert many.dtype == torch.uint8 and many.shape == (6, 1, 8, 8)
    assert (many[:2] == few).all() and not (many[0] == many[1]).all()


def test_all_samplers_start_from_the_same_noise_and_another_seed_from_another():
    starts = {sampler: generated(sampler=sampler)["x"][0] for sampler in SAMPLERS}
    assert all((start == starts["ancestral"]).all() for start in starts.values())
    assert not (generated(seed=4)["x"][0] == starts["ancestral"]).any()
    assert abs(generated(200, recorded=200)["x"][0].std() - 1) < 0.03


def test_the_recorded_way_runs_from_noise_to_the_picture_itself():
    way = generated(calls=12, frames=4, recorded=3)
    assert way["t"][0] == 999 and way["t"][-1] == -1 and (way["t"].diff() < 0).all()
    assert way["x"].shape == way["mean"].shape == (len(way["t"]), 3, 1, 8, 8)
    assert (eiv.to_bytes(way["x"][-1]) == way["pictures"][:3]).all() and (way["mean"][-1] == way["x"][-1]).all()


def test_a_generated_picture_is_a_plain_chain_from_its_noise():
    way = generated(sampler="ddim")
    plain = last(sample(eiv.load_denoiser(DENOISER), way["x"][0], 999, DDIM(12)))
    assert (eiv.to_bytes(plain.cpu()) == way["pictures"]).all()


def test_deterministic_samplers_agree_better_the_more_calls_they_have():
    def apart(calls: int) -> float:
        ddim, dpm = (generated(16, sampler=sampler, calls=calls)["pictures"] for sampler in ("ddim", "dpm"))
        return (eiv.from_bytes(ddim) - eiv.from_bytes(dpm)).abs().mean().item()
    assert apart(200) < 0.5 * apart(10)


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="sampler must be one of ancestral, ddim, dpm; got 'euler'"):
        Generate(DENOISER, 1, 0, "euler")


def test_exact_draws_err_as_the_noise_gallery_says():
    "For a Gaussian pair (x_0, zeta) that are both draws of one posterior."
    random, K = torch.Generator().manual_seed(0), 8
    mean, sd = torch.randn(20_000, 1, generator=random), 0.3
    x0, zeta = (mean + sd * torch.randn(20_000, k, generator=random) for k in (1, K))
    one, average = (zeta - x0).square().mean(), (zeta.mean(1, keepdim=True) - x0).square().mean()
    assert (one / average).sqrt().item() == pytest.approx((2 / (1 + 1 / K)) ** 0.5, rel=0.02)
    assert (zeta.var(1).mean() / (average / (1 + 1 / K))).sqrt().item() == pytest.approx(1, rel=0.02)
