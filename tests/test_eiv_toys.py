"EiV's checkerboard: a posterior that integration confirms, a ceiling that counting confirms, what training reaches."
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from uncpaper.papers import eiv
from uncpaper.papers.eiv.toys import Board, PointViews, PredictOnBoard, TrainOnBoard, as_pictures, point_network, window

METHODS = list(eiv.METHODS)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    torch.set_num_threads(1)


def integrated(board: Board, x: torch.Tensor, step: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    "p(y | x) and E[zeta | x], added up over a grid of clean points."
    line = torch.arange(-1.4, 1.4, step, dtype=torch.float64)
    zeta, schedule = torch.cartesian_prod(line, line), board.denoiser.schedule
    prior = torch.exp(-torch.cdist(zeta, board.denoiser.centres)**2 / (2 * board.spread**2))
    noise = torch.exp(-torch.cdist(x, schedule.alpha(board.T) * zeta)**2 / (2 * schedule.sigma(board.T)**2))
    joint = torch.stack([noise @ prior[:, board.labels == y].sum(1) for y in (0, 1)], 1)
    mean = (noise * prior.sum(1)) @ zeta / joint.sum(1, keepdim=True)
    return joint / joint.sum(1, keepdim=True), mean


@pytest.mark.parametrize("T", [20, 40, 90, 120])
def test_the_posterior_is_what_integration_gives(T):
    board = Board(T)
    x = board.points(12, 5, "test").noisy
    labels, mean = integrated(board, x)
    torch.testing.assert_close(board.posterior(x), labels, atol=1e-8, rtol=0)
    torch.testing.assert_close(board.denoiser(x, T).mean, mean, atol=1e-8, rtol=0)


@pytest.mark.parametrize("T, best", [(30, 97.3), (40, 92.0), (50, 85.5)])
def test_the_best_possible_accuracy_is_known(T, best):
    points = Board(T).points(40_000, 0, "test")
    p = Board(T).posterior(points.noisy)
    counted, expected = (100 * v.double().mean().item() for v in (p.argmax(1) == points.labels, p.amax(1)))
    assert counted == pytest.approx(best, abs=0.5) and counted == pytest.approx(expected, abs=0.4)


def test_without_noise_nothing_is_in_doubt():
    board = Board(-1)
    clean, noisy, labels = board.points(500, 0, "test")
    assert torch.equal(clean, noisy) and torch.equal(board.posterior(noisy).argmax(1), labels)
    torch.testing.assert_close(board.denoiser.draw(noisy, -1, 3, torch.Generator()), clean[:, None].expand(-1, 3, -1))


@given(T=st.integers(0, 999), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_probabilities_are_probabilities_at_every_noise(T, seed):
    p = Board(T).posterior(3 * Board(T).points(20, seed, "test").noisy)
    torch.testing.assert_close(p.sum(1), torch.ones(20, dtype=torch.float64))
    assert p.min() >= 0 and p.max() <= 1


def test_points_belong_to_seed_and_part_and_are_the_same_at_every_noise():
    at = {T: Board(T).points(50, 1, "train") for T in (30, 90)}
    assert torch.equal(at[30].clean, at[90].clean) and torch.equal(at[30].labels, at[90].labels)
    schedule = Board(30).denoiser.schedule
    noise = [(p.noisy - schedule.alpha(T) * p.clean) / schedule.sigma(T) for T, p in at.items()]
    torch.testing.assert_close(noise[0], noise[1])
    others = [Board(30).points(50, 2, "train"), Board(30).points(50, 1, "test")]
    assert not any(torch.isin(other.clean, at[30].clean).any() for other in others)


def test_eiv_sees_draws_and_aiv_their_mean():
    board = Board(60)
    x = board.points(30, 0, "test").noisy
    views = PointViews(board, x, 0, "test")
    draws, mean = (eiv.METHODS[m].test(views, 2000) for m in METHODS[:2])
    assert draws.shape == (30, 2000, 2, 1, 1) and mean.shape == (30, 1, 2, 1, 1) and draws.dtype == torch.float32
    torch.testing.assert_close(draws.mean(1, keepdim=True), mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(mean[:, 0, :, 0, 0].double(), board.denoiser(x, 60).mean, atol=0.05, rtol=0)
    for method in METHODS[2:]: assert torch.equal(eiv.METHODS[method].test(views, 7), as_pictures(x[:, None]))


def test_one_draw_makes_eiv_and_aiv_the_same_to_the_bit():
    runs = [PredictOnBoard(TrainOnBoard(m, Board(40), 0, 30, 3, K=1), 40, K=1, draws=2).result() for m in METHODS[:2]]
    assert torch.equal(runs[0]["probabilities"], runs[1]["probabilities"])


def test_fresh_noise_is_fresh_and_fixed_noise_is_not():
    torch.manual_seed(0)
    points, model = Board(40).points(20, 0, "train"), point_network().eval()
    shown, labels = as_pictures(points.clean[:, None]), points.labels
    made = {m: TrainOnBoard(m, Board(40), 0, 20).loss for m in METHODS}
    losses = {m: [loss(model, shown, labels).item() for _ in range(2)] for m, loss in made.items()}
    plain = F.cross_entropy(model(as_pictures(points.clean)), points.labels).item()
    assert losses["non-EiV, fresh noise"][0] != losses["non-EiV, fresh noise"][1]
    for method in (METHODS[0], METHODS[1], METHODS[3]): assert losses[method] == pytest.approx([plain, plain], rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_stage_gives_the_same_bits_again(method):
    from uncpaper.reproduce.stages import default_store
    trained = TrainOnBoard(method, Board(40), 0, 30, 2)
    stages = trained, PredictOnBoard(trained, 5, 3, 2, part="window")
    first = [default_store().contents(stage.ensure().key) for stage in stages]
    for stage in stages: next(default_store().folder(stage.key).glob("*.safetensors")).unlink()
    assert [default_store().contents(stage.ensure().key) for stage in stages] == first


def test_all_methods_are_asked_about_the_same_points():
    runs = [PredictOnBoard(TrainOnBoard(m, Board(40), 0, 30, 1), 50, 3, 2).result() for m in METHODS]
    points = Board(40).points(50, 0, "test")
    for run in runs:
        assert all(torch.equal(run[name], value) for name, value in points._asdict().items())
        torch.testing.assert_close(run["probabilities"].sum(1), torch.ones(50))


def test_an_unknown_method_or_part_is_refused_by_name():
    with pytest.raises(ValueError, match="method must be one of EiV, AIV, .* got 'BIV'"):
        TrainOnBoard("BIV", Board(40), 0, 30)
    with pytest.raises(ValueError, match="part must be one of test, window; got 'train'"):
        PredictOnBoard(TrainOnBoard("EiV", Board(40), 0, 30), 50, part="train")
    with pytest.raises(ValueError, match="samples must be between 1"): TrainOnBoard("EiV", Board(40), 0, 0)


def test_a_window_covers_the_board_row_by_row():
    x = window(5).reshape(5, 5, 2)
    assert torch.equal(x[0, :, 0], x[3, :, 0]) and torch.equal(x[:, 0, 1], x[:, 4, 1])
    assert x.amin() == -1.35 and x.amax() == 1.35 and x[0, 1, 0] > x[0, 0, 0] and x[1, 0, 1] > x[0, 0, 1]


def test_with_300_labels_eiv_comes_near_the_ceiling_and_beats_fixed_noise():
    trained = {m: TrainOnBoard(m, Board(40), 100, 300) for m in ("EiV", "non-EiV, fixed noise")}
    runs = {m: PredictOnBoard(stage, 4000, K=20, draws=5).result() for m, stage in trained.items()}
    accuracy = {m: (run["probabilities"].argmax(1) == run["labels"]).double().mean().item() for m, run in runs.items()}
    best = (Board(40).posterior(runs["EiV"]["noisy"]).argmax(1) == runs["EiV"]["labels"]).double().mean().item()
    assert best - 0.01 < accuracy["EiV"] <= best + 0.005
    assert accuracy["EiV"] > accuracy["non-EiV, fixed noise"] + 0.01
