"DDU's stages: what is split, trained, scored and compared, against closed forms and peers."
import json

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import nn

from uncpaper import training
from uncpaper.metrics import auroc
from uncpaper.numerics import generator
from uncpaper.papers import ddu
from uncpaper.papers.ddu import ambiguous
from uncpaper.pictures import COLOURED, Pictures, augmented

DIGITS = ddu.DIGITS
GLYPHS = ("glyphs", ddu.unknown("glyphs", 60))


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCPAPER_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def trained() -> ddu.Train:
    return ddu.Train(DIGITS, ddu.Network("small_resnet", 3.0), seed=0, epochs=3)


@pytest.fixture(scope="module")
def scored(trained) -> dict:
    return ddu.Score(trained, (GLYPHS,)).result()


def test_the_split_is_the_papers_own_and_keeps_runs_together():
    train, validation = ddu.split_apart(torch.zeros(1200), seed=7, copies=1)
    order = np.arange(1200)
    np.random.RandomState(7).shuffle(order)
    assert validation.tolist() == order[:120].tolist() and train.tolist() == order[120:].tolist()
    train, validation = ddu.split_apart(torch.zeros(1200), seed=7, copies=10)
    assert not set((train // 10).tolist()) & set((validation // 10).tolist())
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(1200))


def test_pictures_of_every_set_lie_in_the_unit_interval_and_are_normalised_by_the_tasks_constants():
    unseen = (ddu.unknown(name, 50) for name in ("glyphs", "patches", "fashion-mnist"))
    for source in (DIGITS.train, DIGITS.test, *unseen):
        x, y = source.load(8)
        assert x.shape[1:] == (1, 8, 8) and x.min() >= 0 and x.max() <= 1 and len(x) == len(y) == source.count
    seen = DIGITS.view(ddu.unknown("glyphs", 50)).x
    raw = ddu.unknown("glyphs", 50).load(8).x
    assert torch.allclose(seen * 0.3081 + 0.1307, raw, atol=1e-6)


def test_grey_pictures_are_repeated_for_networks_with_three_channels():
    colour = ddu.Task(DIGITS.train, DIGITS.test, 8, channels=3, look=COLOURED)
    x = colour.view(ddu.unknown("glyphs", 4)).x
    back = x * torch.tensor(COLOURED.std).view(3, 1, 1) + torch.tensor(COLOURED.mean).view(3, 1, 1)
    assert torch.allclose(back[:, 0], back[:, 2], atol=1e-6)


def test_training_and_test_digits_share_no_picture():
    parts = Pictures("digits", "train", 1200), Pictures("digits", "test", 597)
    train, test = (part.load(8).x.flatten(1) for part in parts)
    rows = {tuple(row.tolist()) for row in train}
    assert len(train) + len(test) == 1797 and sum(tuple(row.tolist()) in rows for row in test) == 0


def test_the_step_size_drops_where_the_paper_says(tmp_path, monkeypatch):
    rates, fitted = [], training.fit

    def watched(model, tensors, loss, batches, optimizer, steps, evaluate, *rest, **named):
        def rate(model): return evaluate(model) | {"lr": optimizer.param_groups[0]["lr"]}
        rates.extend(row["lr"] for row in fitted(model, tensors, loss, batches, optimizer, steps, rate, *rest, **named))
        return []
    monkeypatch.setattr(ddu, "fit", watched)
    ddu.Train(ddu.task("digits", 200, 50), ddu.Network("small_lenet"), 0, epochs=7).build(tmp_path)
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001])


def test_a_training_that_is_killed_continues_to_the_same_bits(trained, tmp_path, monkeypatch):
    whole = trained.result()["weights"]
    count, real = iter(range(10**6)), training.train_step

    def dying(*given):
        if next(count) == 15: raise KeyboardInterrupt
        return real(*given)
    monkeypatch.setattr(training, "train_step", dying)
    fitted = training.fit
    monkeypatch.setattr(ddu, "fit", lambda *given, **named: fitted(*given, **named, seconds=0.0))
    with pytest.raises(KeyboardInterrupt): trained.build(tmp_path)
    assert (tmp_path / "checkpoint").exists()
    monkeypatch.setattr(training, "train_step", real)
    again = trained.build(tmp_path)["weights"]
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_shifted_pictures_are_windows_of_the_padded_or_mirrored_one():
    torch.manual_seed(0)
    x = torch.rand(64, 2, 8, 8)
    seen = augmented(x)
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    mirrored = nn.functional.pad(x.flip(3), (4, 4, 4, 4))
    for i in range(64):
        windows = [p[i, :, a : a + 8, b : b + 8] for p in (padded, mirrored) for a in range(9) for b in range(9)]
        assert any(torch.equal(seen[i], w) for w in windows)


def test_readings_are_the_density_of_the_features_and_the_logits_of_the_head():
    from uncpaper.density import GaussianDiscriminant
    from uncpaper.models.classifiers import Classifier
    torch.manual_seed(0)
    problem = DIGITS.load(0)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), 5, 10)
    z, test = (ddu.outputs(model, x, size=100)["features"] for x in (problem.x, problem.test.x))
    said = ddu.readings(model, GaussianDiscriminant.fit(z, problem.y), problem.test)
    assert torch.allclose(said["logits"], model(problem.test.x).detach(), atol=1e-4)
    for c in range(10):
        mine = z[problem.y == c].double().numpy()
        expected = multivariate_normal(mine.mean(0), np.cov(mine.T)).logpdf(test.double().numpy())
        assert np.allclose(said["log_density"][:, c], expected, rtol=1e-9)


def test_a_score_fits_its_density_to_the_training_part_alone(trained, scored):
    from uncpaper.density import GaussianDiscriminant
    problem, model = DIGITS.load(0), trained.load()
    density = GaussianDiscriminant.fit(ddu.outputs(model, problem.x)["features"], problem.y)
    again = ddu.readings(model, density, problem.validation)
    assert all(torch.equal(again[name], scored["validation"][name]) for name in ("log_density", "labels"))
    assert scored["fit"]["smallest_class"] == problem.y.bincount().min() and scored["fit"]["features"] == 64


def test_uncertainties_and_detection_agree_with_peers(scored):
    said = ddu.uncertainties(scored, "glyphs")
    p = scored["glyphs"]["logits"].double().softmax(1)
    assert torch.allclose(said["softmax"], -(p * p.log()).sum(1), atol=1e-10)
    assert torch.allclose(said["energy"], -scored["glyphs"]["logits"].double().logsumexp(1))
    table = ddu.detections(scored, ["glyphs"]).set_index("method")
    known = ddu.uncertainties(scored, "test")
    for method in ddu.SINGLE:
        low, high = known[method].numpy(), said[method].numpy()
        truth, scores = truth_and_scores(low, high)
        fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
        assert table.AUROC[method] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
        assert table["AP out"][method] == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
        assert table["AP in"][method] == pytest.approx(average_precision_score(1 - truth, -scores), abs=1e-12)
        assert table.FPR95[method] == pytest.approx(fpr[tpr >= 0.95].min(), abs=1e-12)


def test_what_pictures_add_gives_the_error_of_choosing_them_anew(scored):
    known, names = ddu.uncertainties(scored, "test")["softmax"], ["glyphs", "validation"]
    others = [ddu.uncertainties(scored, name)["softmax"] for name in names]
    parts = ddu.misplaced([scored], "softmax", names)
    whole = 1 - np.mean([roc_auc_score(*truth_and_scores(known, other)) for other in others])
    assert parts["test"].mean() == pytest.approx(whole, abs=1e-12)
    assert sum(parts[name].mean() for name in names) == pytest.approx(whole, abs=1e-12)
    expected = sum(part.var(1, ddof=1)[0] / part.shape[1] for part in parts.values()) ** 0.5
    random = torch.Generator().manual_seed(0)
    def again(scores): return scores[torch.randint(len(scores), (len(scores),), generator=random)]
    def drawn():
        low = again(known)
        return np.mean([auroc(low, again(other)) for other in others])
    assert np.std([drawn() for _ in range(1500)]) == pytest.approx(expected, rel=0.08)


def truth_and_scores(low, high):
    return np.r_[np.zeros(len(low)), np.ones(len(high))], np.r_[low, high]


def test_an_ensemble_of_equal_members_is_one_network(scored):
    assert ddu.calibration([scored, scored]) == pytest.approx(ddu.calibration(scored))
    said = ddu.uncertainties([scored, scored], "test")
    assert said["ensemble MI"].abs().max() < 1e-12
    assert torch.allclose(said["ensemble PE"], ddu.uncertainties(scored, "test")["softmax"], atol=1e-12)


def test_the_temperature_is_that_of_the_validation_set(scored):
    from uncpaper.metrics import fit_temperature
    def best(name): return fit_temperature(scored[name]["logits"], scored[name]["labels"])
    assert scored["fit"]["temperature"] == best("validation") != best("test")
    assert ddu.calibration(scored)["accuracy"] > 0.85


@pytest.mark.parametrize("ask, says", [
    (lambda: ddu.Network("resnet"), "name of a network must be one of"),
    (lambda: ddu.task("cifar", 1, 1), "task must be one of"),
    (lambda: ddu.unknown("digit", 1), "others must be one of"),
    (lambda: Pictures("digits", "train", 5000).load(8), "count of digits train must be at most 1200, got 5000"),
    (lambda: ambiguous.ambiguous_pictures("digits", "train", "ours"), "ambiguous must be one of remade, published"),
])
def test_bad_requests_are_refused_in_one_line(ask, says):
    with pytest.raises(ValueError, match=says) as found: ask()
    assert "\n" not in str(found.value)


def test_points_of_a_simplex_are_uniform():
    for corners in (2, 3, 4):
        w = ambiguous.simplex(200_000, corners, generator(0, "test"))
        assert torch.allclose(w.sum(1), torch.ones(len(w)), atol=1e-6) and w.min() >= 0
        expected = (corners - 1) / (corners**2 * (corners + 1)) # variance of a flat Dirichlet's coordinate
        assert torch.allclose(w.var(0), torch.full((corners,), expected), rtol=0.02)


def test_the_even_choice_follows_the_fifth_root():
    entropies = torch.cat([torch.full((20_000,), 0.1), torch.full((640,), 0.7), torch.full((640,), 1.2)])
    counts = []
    for seed in range(40):
        taken = ambiguous.stratified(entropies, 30, generator(seed, "test"))
        assert len(taken.unique()) == 30
        counts.append([(entropies[taken] == v).sum().item() for v in (0.1, 0.7, 1.2)])
    share = np.mean(counts, 0) / 30
    weight = np.array([20_000, 640, 640]) ** 0.2
    assert share == pytest.approx(weight / weight.sum(), abs=0.03)


@pytest.fixture(scope="module")
def made() -> ambiguous.Ambiguous:
    digits = Pictures("digits", "train", 1200), Pictures("digits", "test", 597)
    return ambiguous.recipe(*digits, 8, (40, 30), "small_lenet", (25, 25), 40, judges=3)



def test_candidates_are_judged_in_parts_of_any_size(made, monkeypatch):
    "What is found does not depend on how many are decoded at once; and no more than these are there as pictures."
    whole, sizes = made.result()["test"], []
    monkeypatch.setattr(ambiguous, "CANDIDATES", 1000)
    real = ambiguous.judgement
    monkeypatch.setattr(ambiguous, "judgement", lambda judges, x: sizes.append(len(x)) or real(judges, x))
    parts = made.part(made.test, generator(made.seed, "ambiguous", "test"))
    assert max(sizes) == 1000 and sum(sizes) == 3 * made.cliques * made.each
    assert torch.equal(parts["labels"], whole["labels"])
    for name in ("x", "entropy", "probabilities"): assert torch.allclose(parts[name], whole[name], atol=1e-5), name


def test_ambiguous_pictures_are_what_the_recipe_allows(made):
    for part, n in (("train", 40), ("test", 30)):
        found = made.result()[part]
        p = found["probabilities"]
        entropy = torch.special.entr(p).sum(1)
        assert len(found["x"]) == n and 0 <= found["x"].min() and found["x"].max() <= 1
        assert torch.allclose(entropy, found["entropy"], atol=1e-10)
        assert entropy.min() >= ambiguous.LOWEST and entropy.max() <= ambiguous.HIGHEST
        assert found["labels"].shape == (n, 10) and p.gather(1, found["labels"]).min() > 0
        assert len(found["x"].flatten(1).unique(dim=0)) == n
    train, test = ({tuple(x.flatten().tolist()) for x in made.result()[part]["x"]} for part in ("train", "test"))
    assert not train & test


def test_dirty_digits_come_in_runs_that_no_split_cuts(made):
    both = ambiguous.Dirty(Pictures("digits", "train", 100), ambiguous.AmbiguousPictures(made, "train", noise=0.0))
    x, y = both.load(8)
    assert len(x) == both.count == 100 + 400
    runs = x[100:].view(40, 10, -1)
    assert torch.equal(runs, runs[:, :1].expand_as(runs))
    assert torch.equal(y[100:].view(40, 10), made.result()["train"]["labels"])
    problem = ddu.Task(both, Pictures("digits", "test", 50), 8).load(seed=1)
    kept, validation = ({tuple(row.tolist()) for row in x.flatten(1)} for x in (problem.x, problem.validation.x))
    assert not kept & validation


def test_the_published_files_take_the_place_of_the_remade_ones(tmp_path, monkeypatch):
    seen = ambiguous.dirty_task("mnist", 100, 50, "published")
    stage = ddu.Train(seen, ddu.Network("lenet"), 0, 1)
    assert stage.data == ("mnist", "ambiguous-mnist") and seen.train.count == 100 + 60_000
    from uncpaper.data import DataMissing
    monkeypatch.setenv("UNCPAPER_DATA", str(tmp_path))
    with pytest.raises(DataMissing, match="ambiguous-mnist: no amnist"): seen.load(0)


def test_stages_say_what_they_read_and_what_they_cost(made):
    others = GLYPHS, ("ambiguous", ambiguous.AmbiguousPictures(made, "test"))
    score = ddu.Score(ddu.Train(ambiguous.dirty_task("digits", 1200, 597), ddu.Network("small_resnet"), 0, 10), others)
    assert score.data == ("digits", "glyphs") and score.cost > 0
    assert made in score.upstream and json.dumps(score.config)
    members = [ddu.member_seeds(seed, 5) for seed in range(5)]
    assert len({s for seeds in members for s in seeds}) == 25 and [seeds[0] for seeds in members] == list(range(5))
