"DECU's stages: bins, tables trained before a frozen network, branches (oracle I), measures, and every profile's plan."
import copy
import math
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from staged import Killed, built, planned

from uncpaper import data
from uncpaper.diffusion import DDIM, branch, latent_indices, noise_streams
from uncpaper.ensembles import TableEnsemble, digest, twice_variance, wasserstein_distances
from uncpaper.losses import diffusion_loss
from uncpaper.numerics import generator
from uncpaper.papers import decu
from uncpaper.papers.decu.films import Film
from uncpaper.papers.decu.views import bin_colours, values_of_bins, over_seeds
from uncpaper.papers.shared.denoising import SignedPictures, TrainDenoiser, told
from uncpaper.pictures import Pictures, to_bytes
from uncpaper.reproduce.stages import in_order
from uncpaper.schedules import SCHEDULES

DIGITS = SignedPictures(Pictures("digits", "all", 600, 0, "shuffled"), 8)
SCHEDULE = SCHEDULES["latent"]()
STEPS, RATE, CALLS = 60, 3e-3, 10


@pytest.fixture(scope="module")
def backbone(home) -> decu.Trained:
    found = decu.Trained(TrainDenoiser(DIGITS, "digit_mlp", 250, batch=64, lr=2e-3, decay=0.97, warm=20,
                                       schedule="latent", target="v", cool=True, withheld=0.1))
    found.labelled()
    return found


@pytest.fixture(scope="module")
def tables(backbone) -> decu.TrainTables:
    found = decu.TrainTables(backbone, decu.Bins(DIGITS, (1, 4, 1000), members=3, seed=0), STEPS, batch=16, lr=RATE)
    found.result()
    return found


@pytest.fixture(scope="module")
def members(tables) -> decu.Members:
    return decu.Members(tables)


def copies(tables, count=3) -> decu.Members:
    "An ensemble of so many copies of the first member's table."
    found = decu.Members(tables)
    one = found.ensemble.tables[:1]
    found.ensemble = TableEnsemble(found.ensemble.network.network, one.repeat(count, 1, 1)).requires_grad_(False)
    return found


# bins

@dataclass(frozen=True)
class Labels:
    "Pictures that are nothing but labels."
    counts: tuple[int, ...]  # of each class
    name: str = "labels"
    size: int = 1
    channels: int = 1

    @property
    def classes(self) -> int:
        return len(self.counts)

    def load(self):
        y = torch.arange(self.classes).repeat_interleave(torch.tensor(self.counts))
        y = y[torch.randperm(len(y), generator=generator(0, "labels"))]
        return data.Split(torch.zeros(len(y), 1, 1, 1), y)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_over_a_full_turn_each_class_meets_each_size_as_often_as_it_is_listed(sizes, classes, first):
    turns = [decu.rotated(sizes, classes, first + r) for r in range(len(sizes))]
    for met in zip(*turns): assert sorted(met) == sorted(sizes)
    assert decu.rotated(sizes, classes, first + len(sizes)) == turns[0]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.lists(st.integers(1, 40), min_size=1, max_size=4),
       st.integers(1, 4), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_a_bootstrap_keeps_the_number_and_draws_from_the_pool_alone(counts, sizes, members, seed):
    images = Labels(tuple(counts))
    bins = decu.Bins(images, tuple(sizes), members, seed)
    found, y = bins.build(None), images.load().y
    expected = [min(size, count) for size, count in zip(bins.bins, counts)]
    assert found["classes"].pictures.tolist() == expected
    assert found["classes"]["class"].tolist() == [*range(len(counts))]
    assert found["rows"].shape == (members, sum(expected))
    for member in found["rows"]: assert y[member].bincount(minlength=len(counts)).tolist() == expected
    for c, count in enumerate(expected):
        different = found["rows"][y[found["rows"]] == c].unique()
        assert len(different) == found["classes"].different[c] <= count
        if count == 1: assert len(different) == 1 # all members have seen the same picture
    fewer = decu.Bins(images, tuple(sizes), 1, seed).build(None)["rows"]
    assert torch.equal(fewer, found["rows"][:1])


def test_draws_are_with_replacement_and_members_and_seeds_have_their_own():
    bins = decu.Bins(Labels((400,)), (300,), 3, 0)
    rows = bins.build(None)["rows"]
    pool = rows.unique()
    assert len(pool) <= 300
    for member in rows: assert abs(len(member.unique()) / 300 - (1 - 1 / math.e)) < 0.06
    assert not torch.equal(rows[0].sort().values, rows[1].sort().values)
    assert not torch.equal(rows[0], rows[0].sort().values) # in an order of its own
    assert set(replace(bins, seed=1).build(None)["rows"].unique().tolist()) != set(pool.tolist())


@pytest.mark.parametrize("ask, says", [
    (lambda: decu.Bins(DIGITS, (1, 0), 5, 0), "^sizes must be between 1 and inf, got 0$"),
    (lambda: decu.Bins(DIGITS, (), 5, 0), "^sizes must be"),
    (lambda: decu.Bins(DIGITS, (1,), 0, 0), "^members must be between 1 and inf, got 0$"),
    (lambda: decu.Bins(Labels((3, 0)), (1,), 2, 0).build(None),
     "^images must have pictures of all classes, got none of class 1$"),
    (lambda: decu.TrainTables(None, None, 1, start="warm"), "^start must be one of random, pretrained; got 'warm'$"),
    (lambda: decu.TrainTables(None, None, 1, nothing="no"),
     "^nothing must be one of learned, random, pretrained; got 'no'$"),
    (lambda: bin_colours(range(6)), "^bins must have at most 5 sizes, got 6$"),
])
def test_bad_requests_are_refused_in_one_line(ask, says):
    with pytest.raises(ValueError, match=says) as refusal: ask()
    assert "\n" not in str(refusal.value)


# tables

class Seen(NamedTuple):
    "What a training was given."
    model: torch.nn.Module
    optimiser: torch.optim.Optimizer
    steps: int


def trained(stage, folder, monkeypatch, stop=None):
    "Build with a checkpoint after each step; `stop`: killed after so many. Also what the training was given."
    seen, fit = [], decu.fit

    def spied(model, tensors, loss, batches, optimiser, steps, *rest, **words):
        seen.append(Seen(model, optimiser, steps))
        return fit(model, tensors, loss, batches, optimiser, steps, *rest, **words)

    with monkeypatch.context() as patch:
        patch.setattr(decu, "fit", spied)
        return built(stage, decu, decu.TableLoss, "__call__", folder, monkeypatch, stop), seen[0]


def test_only_the_tables_are_trained_and_the_frozen_bytes_stay(tables, backbone, tmp_path, monkeypatch):
    before = digest(backbone.labelled().network.state_dict())
    found, seen = trained(tables, tmp_path / "a", monkeypatch)
    learning = [p for p in seen.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learning) == tables.members * (10 + 1) * 64
    assert [p.shape for g in seen.optimiser.param_groups for p in g["params"]] == [(3, 11, 64)]
    assert found["frozen"] == before == digest(seen.model.network.network.state_dict())
    assert found["frozen"] == digest(backbone.labelled().network.state_dict())
    first = tables.first(backbone.labelled().table.weight.detach())
    assert ((found["tables"] - first).abs().amax(-1) > 0).all() # every row of every member has moved
    assert torch.equal(found["tables"], tables.result()["tables"])


def test_a_moved_frozen_weight_is_an_error(tables, tmp_path, monkeypatch):
    def meddling(model, *given, **words):
        with torch.no_grad(): next(model.network.parameters()).add_(1e-3)
        return []
    monkeypatch.setattr(decu, "fit", meddling)
    with pytest.raises(RuntimeError, match="frozen network's weights have changed"): tables.build(tmp_path)


def test_a_killed_training_continues_to_the_same_bytes(tables, tmp_path, monkeypatch):
    short = replace(tables, steps=20)
    whole, _ = trained(short, tmp_path / "whole", monkeypatch)
    for stop in (3, 8): # 3, and then 8 more
        with pytest.raises(Killed): trained(short, tmp_path / "cut", monkeypatch, stop)
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["checkpoint"]
    again, _ = trained(short, tmp_path / "cut", monkeypatch)
    assert torch.equal(again["tables"], whole["tables"]) and again["history"].equals(whole["history"])
    assert not list((tmp_path / "cut").iterdir())


@dataclass(frozen=True)
class StillLoss:
    "A loss whose times and noise are those of each picture, whatever batch it is in."
    def __call__(self, model, x, y):
        mass = x.flatten(1).double().abs().sum(1)
        return diffusion_loss(told(model, y), x, (1e4 * mass).long() % 1000, torch.sin(1e3 * x + 7), SCHEDULE, "v")


def test_a_member_has_the_gradient_that_it_gets_alone(tables, backbone):
    network, (x, y) = copy.deepcopy(backbone.labelled().network).double(), DIGITS.load()
    first = tables.first(backbone.labelled().table.weight.detach()).double()
    loss = decu.TableLoss(StillLoss(), x.double(), y)
    rows = tables.bins.result()["rows"].T[:24]

    def gradient(some):
        ensemble = TableEnsemble(network, first[some])
        loss(ensemble, rows[:, some]).backward()
        return ensemble.tables.grad

    together = gradient([0, 1, 2])
    torch.testing.assert_close(together, torch.cat([gradient([m]) for m in range(3)]), rtol=1e-9, atol=1e-13)
    assert together[:, -1].abs().max() == 0 # nothing was withheld
    used = torch.zeros(3, 11, dtype=torch.bool)
    for m in range(3): used[m, y[rows[:, m]]] = True
    assert torch.equal(together.abs().amax(-1) > 0, used)


def test_a_members_start_does_not_depend_on_the_others(tables, backbone):
    table = backbone.labelled().table.weight.detach()
    more = replace(tables, bins=replace(tables.bins, members=5)).first(table)
    assert torch.equal(more[:3], tables.first(table)) and abs(more.std() - 1) < 0.05 and abs(more.mean()) < 0.05
    assert len(more.flatten(1).unique(dim=0)) == 5
    assert not torch.equal(replace(tables, bins=replace(tables.bins, seed=1)).first(table)[0], more[0])


@pytest.mark.parametrize("start", decu.STARTS)
@pytest.mark.parametrize("nothing", decu.NOTHINGS)
def test_starts_and_rows_that_say_nothing(tables, backbone, tmp_path, monkeypatch, start, nothing):
    stage, table = replace(tables, steps=12, start=start, nothing=nothing), backbone.labelled().table.weight.detach()
    first = stage.first(table)
    if start == "pretrained": assert torch.equal(first, table.expand(3, 11, 64))
    else: assert torch.equal(first[:, :-1], tables.first(table)[:, :-1])
    found = trained(stage, tmp_path / "a", monkeypatch)[0]["tables"]
    last, pulled = found[:, -1], first[:, -1] * (1 - 0.01 * RATE) ** 12 # all that AdamW does to it without a gradient
    if nothing == "pretrained": assert torch.equal(last, table[-1].expand(3, 64))
    elif nothing == "random": torch.testing.assert_close(last, pulled, rtol=1e-6, atol=0)
    else: assert ((last - pulled).abs().amax(-1) > RATE / 2).all()
    assert torch.equal(backbone.labelled().table.weight, table)


# branches

PARTINGS = [0, 4, CALLS - 1] # the last: the members' first step is the chain's last


@pytest.mark.parametrize("after", PARTINGS)
@pytest.mark.parametrize("guidance", [1, 1.5, 5.0])
def test_i_kappa_takes_members_apart_by_the_noise_that_they_say(members, after, guidance):
    times, label = latent_indices(1000, CALLS), torch.tensor([0, 3, 7])
    states = list(members.draw(label, [5, 6, 7], times, times[after], guidance))
    t, s, z = times[after], times[after + 1], states[after].x.double()
    a, prior = (SCHEDULE.alpha(i).item() ** 2 for i in (t, s))
    kappa = (1 - prior) ** 0.5 - (prior * (1 - a) / a) ** 0.5
    said = (z - a**0.5 * states[after].mean.double()) / (1 - a) ** 0.5
    assert states[after].x.shape == (3, 3, 1, 8, 8) and torch.equal(z, z[:1].expand_as(z))
    for i, j in combinations(range(3), 2):
        apart, expected = (states[after + 1].x[i] - states[after + 1].x[j]).double(), kappa * (said[i] - said[j])
        assert (apart - expected).norm() <= 1e-4 * expected.norm() > 0


def test_i_guided_noise_is_what_the_network_says_of_class_and_nothing(members, tables, backbone):
    "e = (1 - s) e(nothing) + s e(class), with each member's own rows."
    times, label, s = latent_indices(1000, CALLS), torch.tensor([2, 8]), 2.5
    first = next(members.draw(label, [1, 2], times, times[0], s))
    (alpha, sigma), network, own = SCHEDULE.scales(times[0]), backbone.labelled().network, tables.result()["tables"]
    t, x = torch.full((2,), float(times[0])), members.start([1, 2])
    for m in range(3):
        with torch.no_grad(): v, nothing = (network(x, t, own[m, row]) for row in (label, torch.tensor([10, 10])))
        expected = alpha * x - sigma * ((1 - s) * nothing + s * v) # x_0 of a network that says v
        torch.testing.assert_close(first.mean[m], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_members_in_one_batch_go_where_they_go_alone(members, backbone, eta):
    "In double precision, where only the order of sums is left to differ."
    ensemble, label = copy.deepcopy(members.ensemble).double(), torch.tensor([0, 4, 9])
    times = latent_indices(1000, CALLS)
    network, x, seeds = ensemble.network.network, members.start([3, 1, 2]).double(), [3, 1, 2]

    def way(which, at):
        own = TableEnsemble(network, ensemble.tables[which])
        many = decu.guided(own, backbone, label.repeat(len(which)), 1.5)
        one = decu.guided(TableEnsemble(network, ensemble.tables[:1]), backbone, label, 1.5)
        return list(branch(one, many, x, times, at, len(which), DDIM(eta=eta), seeds))

    for at in (times[0], times[6]):
        together = way([0, 1, 2], at)
        for m in range(3):
            for mine, all_ in zip(way([m], at), together):
                torch.testing.assert_close(mine.x[0], all_.x[m if len(all_.x) > 1 else 0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("after", PARTINGS)
def test_before_the_branch_there_is_one_chain_and_the_evaluations_are_counted(members, tables, after):
    times, label = latent_indices(1000, CALLS), torch.arange(10)
    states = list(members.draw(label, [4] * 10, times, times[after], 1.5))
    assert [s.t for s in states] == times and [len(s.x) for s in states] == [1] * after + [3] * (CALLS + 1 - after)
    whole = list(members.draw(label, [4] * 10, times, times[CALLS - 1], 1.5)) # the trunk goes on
    for i in range(after + 1): assert torch.equal(states[i].x[0], whole[i].x[0])
    stage = decu.Branch(tables, after, noises=2, calls=CALLS)
    T = len(times) # the last state is asked about too
    assert stage.predicted == 10 * 2 * (after + 3 * (T - after)) == sum(stage.result()["calls"].values()) / 2


@pytest.mark.parametrize("request_, says", [
    (dict(after=10, noises=1, calls=10), "^after must be between 0 and 9, got 10$"),
    (dict(after=-1, noises=1, calls=10), "^after must be between 0 and 9, got -1$"),
    (dict(after=0, noises=0), "^noises must be between 1 and inf, got 0$"),
    (dict(after=0, noises=1, calls=0), "^calls must be between 1 and 1000, got 0$"),
    (dict(after=0, noises=1, eta=-0.5), "^eta must be >= 0 and finite, got -0.5$"),
    (dict(after=0, noises=1, eta=math.inf), "^eta must be >= 0 and finite, got inf$"),
])
def test_a_branch_that_cannot_be_is_refused(tables, request_, says):
    with pytest.raises(ValueError, match=says): decu.Branch(tables, **request_)


@pytest.mark.parametrize("calls", [1, 6, 7, 999, 1000])
def test_evaluations_are_counted_where_calls_do_not_divide_the_schedule(tables, calls):
    times = latent_indices(1000, calls)
    stage = decu.Branch(tables, len(times) - 2, noises=1, calls=calls)
    assert stage.predicted == 10 * (len(times) - 2 + 3 * 2)
    with pytest.raises(ValueError, match="after must be between 0"): decu.Branch(tables, len(times) - 1, 1, calls)
    if calls < 10: assert stage.result()["calls"]["counted now"] == stage.predicted


def test_a_network_is_asked_twice_for_each_counted_evaluation_only_where_it_is_guided(members, backbone):
    times, asked = latent_indices(1000, CALLS), []
    hook = members.ensemble.network.network.register_forward_hook(lambda module, given, _: asked.append(len(given[0])))
    for guidance, times_asked in ((1, 1), (1.5, 2)):
        asked.clear()
        before = members.evaluations
        list(members.draw(torch.tensor([0]), [0], times, times[4], guidance))
        counted = members.evaluations - before
        assert sum(asked) == times_asked * counted == times_asked * (4 + 3 * (CALLS + 1 - 4))
    hook.remove()


@pytest.mark.parametrize("after", range(CALLS))
def test_i_copies_of_one_table_have_nothing_to_disagree_about(tables, after):
    found = decu.Branch(tables, after, noises=2, calls=CALLS).part(copies(tables), torch.tensor([0, 5]))
    assert decu.information(found.distances).abs().max() == 0 and found.alike.min() == found.alike.max() == 1
    assert torch.equal(found.pictures, found.pictures[:, :, :1].expand_as(found.pictures))
    for measure in decu.MEASURES.values(): assert measure(found.distances).abs().max() == 0


def test_one_member_is_itself_and_disagrees_with_nobody(tables):
    alone = copies(tables, 1)
    stage = decu.Branch(tables, 3, noises=2, calls=CALLS)
    found = stage.part(alone, torch.tensor([0, 5]))
    assert found.distances.shape == (CALLS - 3, 2, 2, 1, 1) and found.alike.shape == (2, 2, 0)
    for measure in decu.MEASURES.values(): assert measure(found.distances).abs().max() == 0
    label, seeds, at = torch.tensor([0, 0, 5, 5]), stage.seeds * 2, stage.times[3]
    whole = list(decu.Members(tables).draw(label, seeds, stage.times, at, stage.guidance))
    assert (found.pictures[:, :, 0].int() - to_bytes(whole[-1].x[0]).unflatten(0, (2, 2)).int()).abs().max() <= 1
    mine = decu.TrainTables(tables.backbone, replace(tables.bins, members=1), 5, batch=8)
    result = decu.Branch(mine, 2, noises=1, calls=CALLS).result()
    assert decu.information(result["distances"]).abs().max() == 0 and result["alike"].shape == (10, 1, 0)


def test_what_is_kept_is_what_was_drawn(members, tables):
    stage = decu.Branch(tables, 4, noises=3, calls=CALLS, pictured=2)
    found = stage.result()
    assert found["t"].tolist() == stage.times[4:] and found["pictures"].shape == (10, 2, 3, 1, 8, 8)
    assert found["distances"].shape == (CALLS - 4, 10, 3, 3, 3) and found["alike"].shape == (10, 3, 3)
    label = torch.arange(10).repeat_interleave(3)
    states = list(members.draw(label, stage.seeds * 10, stage.times, stage.times[4], stage.guidance))
    for step, state in enumerate(states[5:]):
        x = state.x.double().flatten(2)
        direct = (x[:, None] - x).square().sum(-1).movedim(-1, 0).unflatten(0, (10, 3)) # (class, noise, member, member)
        torch.testing.assert_close(found["distances"][step].double(), direct, rtol=1e-3, atol=1e-5)
    drawn = to_bytes(states[-1].x[1]).unflatten(0, (10, 3))[:, :2]
    assert (drawn.int() - found["pictures"][:, :, 1].int()).abs().max() <= 1
    starts = states[0].x[0].unflatten(0, (10, 3))
    assert torch.equal(starts, starts[:1].expand_as(starts)) and not torch.equal(starts[0, 0], starts[0, 1])


def test_parts_do_not_matter_and_those_of_a_killed_build_are_used(tables, tmp_path, monkeypatch):
    whole = decu.Branch(tables, 4, noises=2, calls=CALLS)
    parted = replace(whole, together=14) # two classes of two noises and three members
    folder, part, done = tmp_path / "cut", decu.Branch.part, []
    folder.mkdir()

    def cut(self, *given):
        if len(done) == 3: raise Killed
        done.append(part(self, *given))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(decu.Branch, "part", cut)
        with pytest.raises(Killed): parted.build(folder)
    assert sorted(p.name for p in folder.iterdir()) == [f"part-{c}.safetensors" for c in (0, 2, 4)]
    (folder / "part-6.new").write_bytes(b"half a file")
    again, direct = parted.build(folder), whole.result()
    assert again["calls"] == {"predicted": whole.predicted, "counted now": whole.predicted * 4 // 10}
    assert not list(folder.glob("part-*.safetensors"))
    torch.testing.assert_close(again["distances"], direct["distances"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again["alike"], direct["alike"], rtol=0, atol=1e-2) # of bytes, which may differ by one
    assert (again["pictures"].int() - direct["pictures"].int()).abs().max() <= 1
    (tmp_path / "whole").mkdir()
    uncut = parted.build(tmp_path / "whole")
    for name in ("t", "distances", "pictures", "alike"): assert torch.equal(again[name], uncut[name])


def test_a_classs_branch_does_not_depend_on_the_classes_beside_it(members, tables):
    stage = decu.Branch(tables, 2, noises=2, calls=CALLS)
    both, one = stage.part(members, torch.tensor([3, 8])), stage.part(members, torch.tensor([8]))
    torch.testing.assert_close(both.distances[:, 1:], one.distances, rtol=1e-4, atol=1e-5)
    assert (both.pictures[1:].int() - one.pictures.int()).abs().max() <= 1


@pytest.mark.parametrize("after", PARTINGS)
def test_members_share_the_noise_so_that_one_step_on_their_distances_are_those_of_the_means(members, after):
    times, label, seeds, sampler = latent_indices(1000, CALLS), torch.tensor([1, 6]), [11, 12], DDIM(eta=1.0)
    states = list(members.draw(label, seeds, times, times[after], 1.5, sampler))
    (t, s), z, streams = times[after : after + 2], states[after].x, noise_streams(seeds, members.start(seeds))
    a, prior = (SCHEDULE.alpha(i).item() ** 2 for i in (t, s))
    sigma = ((1 - prior) / (1 - a) * (1 - a / prior)) ** 0.5 # Song et al. 2021, Eq. 16 with eta = 1
    said = (z - a**0.5 * states[after].mean) / (1 - a) ** 0.5
    mean = prior**0.5 * states[after].mean + (1 - prior - sigma**2) ** 0.5 * said
    for _ in range(after): next(streams)
    torch.testing.assert_close(states[after + 1].x, mean + sigma * next(streams), rtol=1e-4, atol=1e-4)
    stepped, means = (wasserstein_distances(x.flatten(2)) for x in (states[after + 1].x, mean))
    torch.testing.assert_close(stepped, means, rtol=1e-3, atol=1e-6)
    assert sigma > 0.02 and means.max() > 0


def test_the_indices_are_the_originals():
    "range(0, 1000, 1000 // S), plus 1, backwards, but for an index 1000 that the schedule does not have; then 0."
    for steps in range(1, 1001):
        original = [t + 1 for t in range(0, 1000, 1000 // steps)]
        assert latent_indices(1000, steps) == [*(t for t in reversed(original) if t < 1000), 0]
    assert latent_indices(1000, 200) == [*range(996, 0, -5), 0]


def test_kappa_at_the_published_steps():
    times = latent_indices(1000, 200)
    for i, expected in ((0, -.05009), (50, -.03333), (100, -.02124), (150, -.01463), (199, -.01614)):
        step, (alpha, sigma) = DDIM().step(SCHEDULE, times[i], times[i + 1]), SCHEDULE.scales(times[i])
        assert -step.mean * sigma / alpha == pytest.approx(expected, abs=1e-5)


# measures

def points(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=generator(seed, "points"), dtype=torch.float64)


def test_measures_by_hand():
    mean = points(5, 2, 3, 6)
    d = wasserstein_distances(mean)
    torch.testing.assert_close(decu.MEASURES["twice the variance"](d), twice_variance(mean), rtol=1e-10, atol=0)
    distance = torch.zeros(2, 3, dtype=torch.float64)
    for i, j in combinations(range(5), 2): distance += (mean[i] - mean[j]).norm(dim=-1) / 10
    torch.testing.assert_close(decu.MEASURES["mean distance"](d), distance, rtol=1e-10, atol=0)
    brute = torch.zeros(2, 3, dtype=torch.float64)
    for i in range(5):
        near = sum(torch.exp(-(mean[i] - mean[j]).square().sum(-1)) for j in range(5)) / 5
        brute -= near.log() / 5
    torch.testing.assert_close(decu.information(d), brute, rtol=1e-10, atol=0)
    torch.testing.assert_close(decu.MEASURES["I_W"](d.float()), brute, rtol=1e-5, atol=0)


def test_pixel_information_against_brute_force():
    pictures = points(4, 2, 3, 5, 6, scale=0.7)
    expected = torch.zeros(2, 5, 6, dtype=torch.float64)
    for channel in range(3):
        x = (pictures[:, :, channel].clamp(-1, 1) + 1) / 2
        for i in range(4):
            expected -= (sum(torch.exp(-(x[i] - x[j]) ** 2) for j in range(4)) / 4).log() / 4 / 3
    torch.testing.assert_close(decu.pixel_information(pictures), expected, rtol=1e-9, atol=1e-12)
    assert decu.pixel_information(pictures[:1]).abs().max() == 0


def test_no_pixel_of_five_members_says_more_than_two_black_beside_three_white():
    "Convex in each value, so that corners are enough; and random pictures stay below."
    def near(k): return k * math.log((k + (5 - k) / math.e) / 5) / 5 # of k members that are alike
    corners = {k: -near(k) - near(5 - k) for k in range(6)}
    assert max(corners.values()) == corners[2] == pytest.approx(0.365637, abs=1e-6)
    for k, expected in corners.items():
        x = torch.tensor([-1.0] * k + [1.0] * (5 - k)).view(5, 1, 1, 1)
        assert decu.pixel_information(x).item() == pytest.approx(expected, abs=1e-12)
    assert decu.pixel_information(3 * points(5, 1, 80, 80)).max() <= corners[2] + 1e-12


@pytest.mark.parametrize("size, window", [(8, 7), (10, 7), (11, 11), (14, 11)])
def test_pairs_are_all_pairs_in_order_and_the_window_fits(size, window):
    pictures = torch.randint(0, 256, (2, 4, 3, size, size), dtype=torch.uint8, generator=generator(0, "pictures"))
    found = decu.pairs_alike(pictures)
    assert found.shape == (2, 6)
    for place, (i, j) in enumerate(combinations(range(4), 2)):
        expected = decu.structural_similarity(pictures[:, i], pictures[:, j], 255, window)
        torch.testing.assert_close(found[:, place], expected, rtol=1e-12, atol=0)


def test_means_of_bins_by_hand():
    values = torch.tensor([1.0, 2.0, 6.0, 4.0, 8.0])
    assert decu.by_bin(values, [100, 1, 100, 1, 10]) == {1: 3.0, 10: 8.0, 100: 3.5}
    assert list(decu.by_bin(values, [100, 1, 100, 1, 10])) == [1, 10, 100]

    def of(seed): return values + 10 * seed # classes 0 to 4 have the sizes 1, 10, 1, 10, 1, and then 10, 1, 10, 1, 10
    means = over_seeds(of, [1, 10], 2)
    assert list(means) == [1, 10]
    np.testing.assert_allclose(means[1], [5.0, 13.0])
    np.testing.assert_allclose(means[10], [3.0, 15.0])
    every = values_of_bins(lambda seed: torch.stack([of(seed), -of(seed)], 1), [1, 10], 2)
    np.testing.assert_allclose(every[1], [1, -1, 6, -6, 8, -8, 12, -12, 14, -14])
    np.testing.assert_allclose(every[10], [2, -2, 4, -4, 11, -11, 16, -16, 18, -18])
    assert over_seeds(of, [10, 1, 10], 1)[10] == pytest.approx((1 + 6 + 4) / 3) # a size that is listed twice


# films

def test_a_frame_is_the_state_that_is_drawn_and_all_views_have_as_many(members):
    film = Film(members, seed=3, calls=CALLS, every=3)
    times = latent_indices(1000, CALLS)
    assert film.times == times and film.kept == [0, 3, 6, 9, 10]
    states = list(members.draw(torch.tensor([2]), [3], times, times[4], 1.5))
    for i, frame in zip(film.kept, film.frames(2, 4, 1.5)):
        assert frame.t == times[i] and len(frame.state) == (1 if i < 4 else 3)
        torch.testing.assert_close(frame.state, states[i].x[:, 0], rtol=1e-4, atol=1e-5)
        d = wasserstein_distances(states[i].x.flatten(2))
        assert frame.information == pytest.approx(decu.information(d).item(), rel=1e-3, abs=1e-9)
        torch.testing.assert_close(frame.pixels, decu.pixel_information(states[i].mean[:, 0]), rtol=1e-2, atol=1e-6)
    assert frame.information > 0
    for parting in (0, 4, 9): assert len(list(film.frames(5, parting, 1.0))) == len(film.kept) == 5


# experiments

@pytest.fixture(scope="module")
def plans(root):
    "Every experiment and profile, planned."
    with planned(root, "decu") as found: yield found


def test_every_profile_of_every_experiment_can_be_planned(plans):
    names = {name for name, _ in plans}
    assert len(names) == 11 and set(plans) == {(n, p) for n in names for p in ("quick", "laptop", "paper")}
    for (name, profile), run in plans.items():
        assert run.profile == profile and run.stages, name
        kinds = [s.kind for s in in_order(run.stages)]
        assert kinds.count("TrainDenoiser") == (profile != "paper") and "TrainTables" in kinds, name
        assert kinds.count("TrainAutoencoder") == (profile == "laptop"), name


def test_the_paper_profile_says_which_data_it_lacks(plans, data_folder):
    for (name, profile), run in plans.items():
        wanted = {set_ for s in in_order(run.stages) for set_ in s.data}
        read = {"quick": {"digits"}, "laptop": {"mnist"}, "paper": {"imagenet-train", "cin256-v2"}}
        assert wanted == read[profile], name
    assert data.missing("cin256-v2") == ["model.ckpt"] and data.missing("imagenet-train") == ["train/*/*.JPEG"]


def test_the_paper_profile_is_the_published_setting(plans):
    for (name, profile), run in plans.items():
        if profile != "paper": continue
        for tables in (s for s in in_order(run.stages) if s.kind == "TrainTables"):
            dealt = tables.bins.bins
            assert [dealt.count(size) for size in (1, 10, 100, 1300)] == [100, 100, 100, 700]
            assert (tables.batch, tables.lr, tables.steps) == (32, 1e-5, 875_000)
            assert tables.members == (10 if name == "members" else 5)
            assert tables.backbone.target == "epsilon" and tables.backbone.images.size == 64
        for drawn in (s for s in in_order(run.stages) if s.kind == "Branch"):
            assert (drawn.calls, drawn.guidance, drawn.noises) == (200, 5.0, 10)
            assert drawn.eta == (1.0 if name == "estimators" else 0.0)
    branches = {s.after for s in plans["diversity", "paper"].stages}
    assert branches == {0, 50, 100, 150, 199}
