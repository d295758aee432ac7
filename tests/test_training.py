"Training: batches, step sizes against their formulas, evaluation in chunks, averaged weights, checkpoints."

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from staged import Killed
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR, StepLR

from uncpaper.ensembles import Ensemble
from uncpaper.numerics import generator
from uncpaper.training import (Averaged, Draws, Minibatches, copied, evaluating, fit, in_chunks, load_checkpoint,
                               nothing, predict, restored,
                               rise_and_fall, save_checkpoint, warm_up)


# batches

@given(n=st.integers(1, 60), size=st.integers(1, 60), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_sample_once_or_a_whole_number_of_batches(n, size, seed):
    if size > n:
        with pytest.raises(ValueError, match=f"size must be between 1 and {n}, got {size}"): Minibatches(n, size, seed)
        return
    full, whole = Minibatches(n, size, seed), Minibatches(n, size, seed, whole=True)
    for epoch in range(2):
        order = torch.cat([full(epoch * full.per_epoch + k) for k in range(full.per_epoch)])
        assert sorted(order.tolist()) == list(range(n))
        kept = [whole(epoch * whole.per_epoch + k) for k in range(whole.per_epoch)]
        assert {len(b) for b in kept} == {size} and torch.cat(kept).equal(order[: n // size * size])


@given(n=st.integers(1, 40), size=st.integers(1, 40), draws=st.integers(1, 100), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_draws_repeat_the_items_as_evenly_as_their_number_allows(n, size, draws, seed):
    batches = Draws(n, size, seed, draws)
    epoch = torch.cat([batches(step) for step in range(batches.per_epoch)])
    most = -(-draws // n)
    assert len(epoch) == draws and epoch.bincount(minlength=n).max() <= most
    expected = torch.randperm(n * most, generator=generator(seed, "draws", 0))[:draws] % n
    assert epoch.equal(expected)


def test_draws_need_an_item():
    with pytest.raises(ValueError, match="n must be between 1 and inf, got 0"): Draws(0, 1, 0, 1)


# step sizes

RULES = {  # name: (rule, the step sizes that it stands for, from those of the first step on)
    "tenths": (lambda o: MultiStepLR(o, (60, 100)), lambda lr, s: lr * 0.1 ** ((60, 100).count(s)), "product"),
    "every 20": (lambda o: StepLR(o, 20, 0.05 ** (20 / 140)), lambda lr, s: lr * 0.05 ** (20 / 140)
                 if s % 20 == 0 else lr, "product"),
    "warm": (lambda o: LambdaLR(o, warm_up(30)), lambda lr, s: lr * min(1.0, (s + 1) / 30), "factor"),
    "warm, cool": (lambda o: LambdaLR(o, warm_up(30, 140)),
                   lambda lr, s: lr * (min(1.0, (s + 1) / 30) * ((1 + math.cos(math.pi * s / 140)) / 2)), "factor"),
    "rise and fall": (lambda o: LambdaLR(o, rise_and_fall(20, 7)),
                      lambda lr, s: lr * (min(1.0, 0.001 + 0.999 * (s // 7 / 20) / 0.25) * (1 - s // 7 / 20 / 1.2)),
                      "factor"),
}


def seen(rule, steps=140, lr=0.3, skipped=()):
    "The step size of each optimiser step of a training, and the weights at the end."
    torch.manual_seed(0)
    model, sizes = nn.Linear(2, 1), []
    sgd = torch.optim.SGD(model.parameters(), lr)
    sgd.register_step_pre_hook(lambda o, *_: sizes.append(o.param_groups[0]["lr"]))
    step = iter(range(steps))
    def loss(model, x): return None if next(step) in skipped else model(x).square().mean()
    list(fit(model, (torch.randn(8, 2),), loss, Minibatches(8, 4, 0), sgd, steps, nothing, steps, scheduler=rule(sgd)))
    return sizes


@pytest.mark.parametrize("name", RULES)
def test_each_step_has_the_step_size_of_the_rule_bit_for_bit(name):
    rule, formula, kind = RULES[name]
    expected = [0.3 if kind == "product" else formula(0.3, 0)]
    for s in range(1, 140): expected.append(formula(expected[-1] if kind == "product" else 0.3, s))
    assert seen(rule) == expected


def test_skipped_steps_do_not_count():
    rule = RULES["rise and fall"][0]
    assert seen(rule, 150, skipped=range(20, 30)) == seen(rule)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_gradients_are_clipped_by_value(clip):
    model = nn.Linear(3, 1, bias=False)
    before, x = model.weight.detach().clone(), torch.tensor([[1e-4, 5.0, -7.0]])
    list(fit(model, (x,), lambda m, x: m(x).sum(), Minibatches(1, 1, 0), torch.optim.SGD(model.parameters(), 1.0), 1,
             nothing, 1, clip=clip))
    assert torch.allclose(before - model.weight.detach(), x if clip is None else x.clamp(-clip, clip), rtol=0,
                          atol=1e-6)


def noisy_line(rule, checkpoint=None, stop=None):
    "A training of 140 steps with dropout and clipping; `stop`: killed after that many."
    torch.manual_seed(1)
    model, x = (nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.3), nn.Linear(8, 1)),
                torch.randn(50, 2, generator=generator(0, "x")))
    adam, done = torch.optim.Adam(model.parameters(), 0.02), []
    adam.register_step_post_hook(lambda *_: done.append(1))
    def loss(model, x):
        if len(done) == stop: raise Killed
        return (model(x) - x.sum(1, keepdim=True)).square().mean()
    scheduler = rule(adam)
    rows = list(fit(model, (x,), loss, Minibatches(50, 16, 0), adam, 140, lambda _: {"lr": scheduler.get_last_lr()[0]},
                    20, 0, checkpoint, 0.0,
                    scheduler=scheduler, clip=0.05))
    return rows, copied(model.state_dict())


@pytest.mark.parametrize("name", RULES)
def test_a_killed_training_continues_to_the_same_bits_under_each_rule(name, tmp_path):
    rule = RULES[name][0]
    rows, weights = noisy_line(rule)
    for stop in (7, 33):   # 7, and then 33 more
        with pytest.raises(Killed): noisy_line(rule, tmp_path / "c", stop)
    again, continued = noisy_line(rule, tmp_path / "c")
    assert again == rows and len({row["lr"] for row in rows}) > 1
    assert all(weights[key].equal(continued[key]) for key in weights)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_without_a_rule_is_read_as_before(tmp_path):
    model = nn.Linear(2, 2)
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    sgd.step()
    save_checkpoint(tmp_path / "c", model, sgd, {"step": 1})
    other = nn.Linear(2, 2)
    theirs = torch.optim.SGD(other.parameters(), 0.7, momentum=0.1)
    assert load_checkpoint(tmp_path / "c", other, theirs) == {"step": 1}
    assert other.weight.equal(model.weight) and theirs.param_groups[0]["lr"] == 0.1
    assert theirs.state_dict()["state"][0]["momentum_buffer"].equal(sgd.state_dict()["state"][0]["momentum_buffer"])
    assert load_checkpoint(tmp_path / "nowhere", other, theirs) is None


# evaluation

class Awake(nn.Linear):
    def forward(self, x):
        assert not self.training and torch.is_inference_mode_enabled()
        return super().forward(x)


@given(n=st.integers(1, 30), size=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_chunks_are_those_of_a_split_and_come_together_in_order(n, size):
    x, sizes = torch.randn(n, 3), []
    def asked(part):
        sizes.append(len(part))
        return {"twice": 2 * part, "both": (part.sum(1), {"max": part.amax(1)})}
    found = in_chunks(asked, x, size)
    assert sizes == [len(part) for part in x.split(size)]
    assert found["twice"].equal(2 * x) and found["both"][0].shape == (n,) and found["both"][1]["max"].equal(x.amax(1))


def test_a_network_is_asked_in_evaluation_mode_and_left_as_it_was():
    model = nn.Sequential(Awake(3, 4), nn.Dropout(0.5), Awake(4, 2))
    model[2].eval()
    assert predict(model, torch.randn(7, 3), 2).shape == (7, 2)
    assert predict(model, torch.randn(7, 3), 2, model[0]).shape == (7, 4)
    assert predict(Ensemble([model, model]), torch.randn(7, 3), 2, dim=1).shape == (2, 7, 2)
    assert [part.training for part in model] == [True, True, False]


def test_modes_come_back_after_an_error():
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5).eval())
    with pytest.raises(RuntimeError), evaluating(model): raise RuntimeError
    assert [part.training for part in model.modules()] == [True, True, False]


def test_restored_weights_are_those_given_and_ready_for_use():
    made, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    made(torch.randn(9, 3))
    ready = restored(other, copied(made.state_dict()))
    assert ready is other and not ready.training and ready.running_mean.cpu().equal(made.running_mean)


# the average

@given(decay=st.sampled_from([0.0, 0.3, 0.9, 0.9999]), values=st.lists(st.floats(-3, 3), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_average_follows_its_recursion(decay, values):
    model = Averaged(nn.Linear(1, 1, bias=False).double(), decay)
    expected = model.raw.weight.item()
    for n, value in enumerate(values, 1):
        nn.init.constant_(model.raw.weight, value)
        model.update()
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
    assert model.ema.weight.item() == pytest.approx(expected, abs=1e-12)
    assert model.updates.item() == len(values)


def test_warm_up_ends_where_the_decay_is_reached():
    model = Averaged(nn.Linear(1, 1, bias=False).double(), 0.9)
    left, expected = [], 1.0
    nn.init.zeros_(model.raw.weight); nn.init.ones_(model.ema.weight)
    for n in range(1, 101):
        model.update()
        left.append(model.ema.weight.item())
    for n in range(1, 81):   # (1 + 80)/(10 + 80) = 0.9
        assert left[n - 1] == pytest.approx(math.factorial(n + 1) * math.factorial(10) / math.factorial(n + 10),
                                            rel=1e-10)
    assert left[99] == pytest.approx(left[79] * 0.9**20, rel=1e-10)


def test_average_takes_buffers_as_they_are_and_is_never_trained():
    model = Averaged(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), 0.5)
    model.train()(torch.randn(16, 2))
    model.update()
    assert torch.equal(model.ema[1].running_var, model.raw[1].running_var) and model.ema[1].num_batches_tracked == 1
    assert not any(p.requires_grad for p in model.ema.parameters())
    assert all(p.requires_grad for p in model.raw.parameters())
    assert model.raw[0].weight.data_ptr() != model.ema[0].weight.data_ptr()


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, math.nan])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match="decay must be at least 0 and less than 1, got"):
        Averaged(nn.Linear(1, 1), decay)
