"DGM's stages: data in three parts, training that is killed and kept, drawing, judging, and every profile's plan."
from dataclasses import replace

import pytest
import torch
from staged import Killed, built, planned

from uncpaper import data
from uncpaper.data import card
from uncpaper.generation import DrawnNoise, FixedNoise
from uncpaper.metrics import frechet_distance
from uncpaper.papers import dgm
from uncpaper.papers.dgm.settings import ALBUMS, COLOURED, ROWS, album_for, judged_for, noise_for, sizes_of, task_of
from uncpaper.papers.dgm.views import bold
from uncpaper.papers.shared.judge import TrainJudge
from uncpaper.reproduce.stages import in_order

DIGITS = dgm.Album("digits", 8, 1200, 297, 300)
FLOW = dgm.Flow(2, 16, conditioning=(16, 8))
SHORT = dgm.TrainGenerator(DIGITS, FLOW, FixedNoise(0.2), 30, 0, 1e-2, keep="best", every=5)
PICTURES = ("table-1", "sweep", "released", "dequantised", "features", "samples")


# Data

@pytest.mark.parametrize("task", [name for name in ALBUMS if name in ("digits", "mnist", "fashion-mnist", "patches")])
def test_the_parts_of_an_album_share_no_picture(task):
    album = album_for(task, 0)
    rows = {}
    for part in dgm.PARTS:
        chosen = album.pictures(part)
        rows.setdefault(chosen.split, []).append(set(chosen.rows(card(task).splits[chosen.split]).tolist()))
    for sets in rows.values(): assert sum(map(len, sets)) == len(set().union(*sets))
    counts = [len(album.load(part)) for part in dgm.PARTS]
    assert counts == list(ALBUMS[task])


@pytest.mark.parametrize("task", ALBUMS)
def test_an_album_asks_for_no_more_than_there_is(task):
    album, splits = album_for(task, 0), card(task).splits
    for part in dgm.PARTS:
        pictures = album.pictures(part)
        assert pictures.first + pictures.count <= splits[pictures.split]


def test_squares_make_up_the_picture_that_was_cut():
    x = torch.arange(2 * 3 * 12 * 12.0).view(2, 3, 12, 12)
    for cut in (1, 2, 3):
        parts = dgm.squares(x, cut).view(2, cut, cut, 3, 12 // cut, 12 // cut)
        whole = torch.cat([torch.cat(list(row.unbind(1)), -1) for row in parts.unbind(1)], -2)
        assert torch.equal(whole, x)


# Training

def trained_in(folder, stage, monkeypatch, stop=None):
    "What a training returns; `stop`: killed after so many steps. Looks at held-out data do not count."
    return built(stage, dgm, dgm.NoisyLoss, "__call__", folder, monkeypatch, stop, lambda _, model, x: model.training)


@pytest.mark.parametrize("noise", [FixedNoise(0.2), FixedNoise(0.0, first=0.5), DrawnNoise(0.5)], ids=repr)
@pytest.mark.parametrize("keep", dgm.KEPT)
def test_a_killed_training_continues_to_the_same_bytes(noise, keep, tmp_path, monkeypatch):
    stage = replace(SHORT, noise=noise, keep=keep)
    whole = trained_in(tmp_path / "whole", stage, monkeypatch)
    for stop in (12, 9): # 12, and then 9 more
        with pytest.raises(Killed): trained_in(tmp_path / "cut", stage, monkeypatch, stop)
    again = trained_in(tmp_path / "cut", stage, monkeypatch)
    assert again["history"].equals(whole["history"]) and not list((tmp_path / "cut").iterdir())
    assert all(torch.equal(again["weights"][name], value) for name, value in whole["weights"].items())


def test_the_best_weights_are_those_with_the_smallest_loss_of_held_out_data(tmp_path, monkeypatch):
    looked = []
    measured = dgm.HeldOut.measured

    def falsified(self, model): # as if the second look had been the best
        looked.append({name: value.clone() for name, value in model.state_dict().items()})
        return measured(self, model) + (0 if len(looked) == 2 else 1e6)

    monkeypatch.setattr(dgm.HeldOut, "measured", falsified)
    found = SHORT.build(tmp_path)
    assert len(looked) == 6 and found["history"].validation_loss.argmin() == 1
    assert all(torch.equal(found["weights"][name], value) for name, value in looked[1].items())
    assert not all(torch.equal(found["weights"][name], value) for name, value in looked[-1].items())


def test_a_loss_that_is_no_number_is_an_error_and_never_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(dgm.HeldOut, "measured", lambda self, model: float("nan"))
    with pytest.raises(RuntimeError, match="no loss of validation data was a number"): SHORT.build(tmp_path)


def test_looking_at_held_out_data_changes_nothing(tmp_path):
    for name in "ab": (tmp_path / name).mkdir()
    often, rarely = (replace(SHORT, keep="last", every=every).build(tmp_path / name)
                     for every, name in ((1, "a"), (30, "b")))
    assert all(torch.equal(often["weights"][name], value) for name, value in rarely["weights"].items())


# Drawing and judging

@pytest.fixture(scope="module")
def trained(home):
    SHORT.result()
    return SHORT


def test_draws_do_not_depend_on_torchs_own_random_state(trained):
    torch.manual_seed(1)
    one = dgm.Drawing(trained, 40).samples()
    torch.manual_seed(2)
    assert torch.equal(one, dgm.Drawing(trained, 40).samples())
    assert not torch.equal(one[:20], one[20:])


def test_all_steps_start_from_the_same_draws(trained):
    plain, right, released = (dgm.Drawing(trained, 60, denoised).values() for denoised in dgm.DENOISED)
    model = trained.load()
    torch.testing.assert_close(right - plain, 0.04 * model.score(plain), rtol=1e-3, atol=1e-4)
    twice = 0.04 * model.score(plain / 16) / 16 # through T once more, and its slope
    torch.testing.assert_close(released - plain, twice, rtol=1e-3, atol=1e-4)


def test_distances_are_those_of_means_and_covariances(trained):
    judge = dgm.Trained(TrainJudge(DIGITS.labelled(), 2))
    judged = dgm.Judged(dgm.Drawing(trained, 100), dgm.RealFeatures(DIGITS, judge)).result()
    raw = dgm.Drawing(trained, 100).samples().clamp(-3 * 16, 4 * 16).flatten(1).double() / 16 # cut far off
    test = DIGITS.load("test").flatten(1).double() / 16
    moments = [part for x in (test, raw) for part in (x.mean(0), x.T.cov())]
    assert judged["numbers"]["pixels_test"] == pytest.approx(frechet_distance(*moments), rel=1e-6)
    assert judged["shown"].shape == (40, 1, 8, 8) and judged["shown"].dtype == torch.uint8


# The paper's rule, and the plans

def test_bold_is_the_best_and_what_an_error_cannot_tell_from_it():
    assert bold([3.0, 1.0, 1.3, 1.5], [0.1, 0.2, 0.1, 0.2]) == [False, True, True, False]
    assert bold([1.0, 1.0, 1.2], [0.3, 0.05, 0.1]) == [True, True, False] # of equal ones the surer is the best


@pytest.fixture(scope="module")
def plans(root):
    "Every experiment on pictures at every profile, planned."
    with planned(root, "dgm") as found: yield {key: run for key, run in found.items() if key[0] in PICTURES}


def test_every_profile_plans_and_says_which_data_it_reads(plans):
    assert len(plans) == 3 * len(PICTURES)
    small = {"digits", "mnist", "fashion-mnist", "patches"}
    for (name, profile), run in plans.items():
        wanted = {set_ for s in in_order(run.stages) for set_ in s.data}
        assert wanted <= ({"digits"} if profile == "quick" else small if profile == "laptop" else
                          {"mnist-full", "fashion-mnist-full", "svhn", "cifar-10"}), (name, profile)


def test_what_is_trained_is_trained_once(plans):
    for run in plans.values():
        made = [s for s in in_order(run.stages) if s.kind == "TrainGenerator"]
        assert len({(s.source, s.family, s.noise, s.seed, s.dequantise) for s in made}) == len(made)
    table, sweep = (plans[name, "quick"] for name in ("table-1", "sweep"))
    keys = {s.key for s in in_order(sweep.stages)}
    assert {s.key for s in in_order(table.stages) if s.kind == "TrainGenerator"} <= keys


def test_the_paper_profile_is_the_published_setting(plans):
    for s in in_order(plans["table-1", "paper"].stages):
        if s.kind != "TrainGenerator": continue
        coloured, flow = s.source.name in COLOURED, s.family.name == "NF"
        with torch.device("meta"): count = sum(p.numel() for p in s.model().parameters())
        published = {(True, False, False): 7_711_520, (True, False, True): 7_861_088, (True, True, False): 57_173_504,
                     (True, True, True): 57_323_072, (False, False, False): 418_361, (False, False, True): 456_321,
                     (False, True, False): 597_693, (False, True, True): 937_957}
        assert count == published[flow, coloured, s.noise.told]
        assert (s.batch, s.lr, s.keep) == (128, 5e-4 if flow else 1e-3, "best" if flow else "last")
        assert s.scaling == ("whiten" if flow and coloured else "range")


def test_rows_and_roles():
    small = dict(sigmas=[0.1, 0.2], maxima=[0.5])
    assert [len(sizes_of(row, small)) for row in ROWS] == [1, 2, 2, 2, 1]
    assert noise_for("TD", 0.1) == noise_for("TD, released", 0.1) == noise_for("ND", 0.1)
    assert task_of("photographs", ["mnist", "svhn", "cifar-10"]) == "svhn"
    with pytest.raises(ValueError, match="task must be one of"): album_for("clothes", 8)
    with pytest.raises(ValueError, match="row must be one of"): judged_for(small, "digits", "NF", "XD", 0.1, 0)


def test_a_missing_file_of_inception_says_where_it_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_DATA", str(tmp_path))
    with pytest.raises(data.DataMissing, match=dgm.INCEPTION): dgm.inception_file()
    (tmp_path / "fid").mkdir()
    (tmp_path / "fid" / dgm.INCEPTION).write_bytes(b"")
    assert dgm.inception_file() == tmp_path / "fid" / dgm.INCEPTION
