"""
The U-Net: published parameter counts, attention against its formula, symmetries, peers in double precision, gradients;
and a training that is killed.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from staged import Killed
from torch import nn
from torch.nn import functional as F

from uncpaper.models import unet
from uncpaper.models.unet import (Attention, Labelled, ResidualMLP, TimedResidual, TimeMLP, Upsample, UNet,
                                  check_heights, group_count, initialised, linear, time_embedding)
from uncpaper.training import Averaged, Minibatches, copied, fit

SMALL = dict(channels=1, size=8, width=16, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def alive(seed=0, **changes):
    "A small network whose zeroed layers have weights, in evaluation mode."
    torch.manual_seed(seed)
    model = UNet(**{**SMALL, **changes})
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)): initialised(layer)
        if isinstance(layer, nn.GroupNorm): nn.init.normal_(layer.weight, 1, 0.2), nn.init.normal_(layer.bias, 0, 0.2)
    return model.eval()


def inputs(batch=3, channels=1, size=8, dtype=torch.float32):
    g = torch.Generator().manual_seed(5)
    x = torch.randn(batch, channels, size, size, generator=g, dtype=torch.float64)
    t = torch.rand(batch, generator=g, dtype=torch.float64) * 999
    return x.to(dtype), t.to(dtype)


# sizes

@pytest.mark.parametrize("channels, published", [(3, 35_218_947), (1, 35_214_337)])
def test_published_size(channels, published):
    with torch.device("meta"): model = UNet(channels)
    assert parameters(model) == published


def test_published_parts():
    with torch.device("meta"): model = UNet()
    residual, attention = [[m for m in model.modules() if isinstance(m, kind)] for kind in (TimedResidual, Attention)]
    assert len(residual) == 4 * 2 + 2 + 4 * 3
    assert len(attention) == 2 + 1 + 1 # 2 down and 1 up at height 16, 1 in the middle
    assert {(m.num_groups, m.eps) for m in model.modules() if isinstance(m, nn.GroupNorm)} == {(32, 1e-6)}
    assert {m.dropout.p for m in residual} == {0.1}
    assert [m.stride for m in model.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)] == [(2, 2)] * 3
    assert sum(isinstance(m, Upsample) for m in model.modules()) == 3
    first, second = model.time.linear_1, model.time.linear_2
    assert (first.in_features, first.out_features, second.out_features) == (128, 512, 512)


def test_size_of_a_picture_does_not_change_the_number_of_parameters():
    assert parameters(UNet(**SMALL)) == parameters(UNet(**{**SMALL, "size": 16, "attention": (8,)}))


def closed_form(channels, width, multipliers, blocks, attends, patch):
    "Parameters counted by hand: attends says, level by level, whether there is attention."
    time, ends = 4 * width, channels * patch**2
    def conv(i, o, k=3): return i * o * k * k + o
    def residual(i, o):
        return 2 * i + conv(i, o) + (time + 1) * o + 2 * o + conv(o, o) + (conv(i, o, 1) if i != o else 0)
    def attention(c): return 2 * c + conv(c, 3 * c, 1) + conv(c, c, 1)
    total, c, skips = conv(ends, width) + (width + 1) * time + (time + 1) * time, width, [width]
    for level, m in enumerate(multipliers):
        if level: total += conv(c, c); skips.append(c)
        for _ in range(blocks):
            total += residual(c, m * width) + attends[level] * attention(m * width)
            skips.append(c := m * width)
    total += 2 * residual(c, c) + attention(c)
    for level, m in reversed(list(enumerate(multipliers))):
        for _ in range(blocks + 1):
            total += residual(c + skips.pop(), m * width)
            c = m * width
        total += attends[level] * attention(c) + (conv(c, c) if level else 0)
    assert not skips
    return total + 2 * c + conv(c, ends)


@given(width=st.sampled_from([8, 16, 24]), multipliers=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
       blocks=st.integers(1, 2), attends=st.lists(st.booleans(), min_size=3, max_size=3),
       patch=st.sampled_from([1, 2]), channels=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_every_configuration_has_the_parameters_counted_by_hand_and_the_shape_of_its_input(
        width, multipliers, blocks, attends, patch, channels):
    heights = [8 // 2**i for i in range(len(multipliers))]
    attention = tuple(h for h, a in zip(heights, attends) if a)
    model = UNet(channels, 8 * patch, width, multipliers, blocks, attention, 0.1, patch)
    assert parameters(model) == closed_form(channels, width, multipliers, blocks, attends, patch)
    x = torch.randn(2, channels, 8 * patch, 8 * patch)
    assert torch.equal(model(x, torch.tensor([0.0, 999.0])), torch.zeros_like(x))


@given(st.integers(1, 2000))
def test_groups_divide_the_width(width):
    assert width % group_count(width) == 0 and group_count(width) <= 32


# time

def test_time_embedding_in_closed_form():
    t, d = torch.tensor([0.0, 0.5, 120.0, 999.0], dtype=torch.float64), 10
    angles = [[s * 10_000 ** (-i / 4) for i in range(5)] for s in t.tolist()]
    expected = torch.tensor([[*map(math.sin, row), *map(math.cos, row)] for row in angles], dtype=torch.float64)
    torch.testing.assert_close(time_embedding(t, d), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(time_embedding(t.float(), d).double(), expected, rtol=0, atol=2e-4)


def test_time_may_be_real_and_counts_sample_by_sample():
    model, (x, _) = alive(), inputs(4)
    x = x[:1].expand(4, -1, -1, -1)
    y = model(x, torch.tensor([100.0, 100.5, 101.0, 100.0])).detach()
    torch.testing.assert_close(y[0], y[3])
    assert 0 < (y[1] - y[0]).abs().max() < (y[2] - y[0]).abs().max()
    torch.testing.assert_close(model(x, torch.tensor([100, 7, 101, 100]))[2], y[2])


# blocks

def test_attention_is_softmax_attention():
    torch.manual_seed(0)
    layer, x = Attention(24, 2).double(), torch.randn(2, 24, 3, 5, dtype=torch.float64)
    initialised(layer.out)
    h = F.group_norm(x, 2, layer.norm.weight, layer.norm.bias, 1e-6).flatten(2)
    q, k, v = (layer.qkv.weight[:, :, 0, 0] @ h + layer.qkv.bias[:, None]).split(24, dim=1)
    expected = torch.empty_like(h)
    for b in range(2):
        for i in range(15):
            weights = torch.exp(q[b, :, i] @ k[b] / math.sqrt(24))
            mixed = layer.out.weight[:, :, 0, 0] @ (v[b] @ weights / weights.sum()) + layer.out.bias
            expected[b, :, i] = mixed + x.flatten(2)[b, :, i]
    torch.testing.assert_close(layer(x).flatten(2), expected, rtol=1e-10, atol=1e-10)


def test_residual_block_in_its_own_words():
    torch.manual_seed(0)
    block = TimedResidual(8, 12, time=5, groups=2, dropout=0.3).double().eval()
    initialised(block.conv_2)
    x, e = torch.randn(3, 8, 4, 4, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    def swish(h): return h * torch.sigmoid(h)
    def normalised(h, conv): return F.conv2d(swish(F.group_norm(h, 2, eps=1e-6)), conv.weight, conv.bias, padding=1)
    h = normalised(x, block.conv_1) + (e @ block.time.weight.T + block.time.bias)[..., None, None]
    expected = normalised(h, block.conv_2) + F.conv2d(x, block.skip.weight, block.skip.bias)
    torch.testing.assert_close(block(x, e), expected, rtol=1e-10, atol=1e-10)


def test_upsample_repeats_pixels():
    layer, x = Upsample(3), torch.randn(2, 3, 4, 4)
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(layer(x), layer.conv(repeated))


# symmetries and parity

def test_a_sample_does_not_depend_on_its_batch():
    model, (x, t) = alive(), inputs(5)
    torch.testing.assert_close(model(x, t)[2:3], model(x[2:3], t[2:3]), rtol=1e-5, atol=1e-5)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(model(x[order], t[order]), model(x, t)[order], rtol=1e-5, atol=1e-5)


def test_mirrored_kernels_answer_to_a_mirrored_picture():
    model, (x, t) = alive(multipliers=(1,), attention=(8,)), inputs()
    y = model(x, t).detach()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d): layer.weight.data = layer.weight.data.flip(3)
    torch.testing.assert_close(model(x.flip(3), t).flip(3), y, rtol=1e-4, atol=1e-4)


def test_patch_is_unshuffle_and_shuffle():
    model, (x, t) = alive(size=16, patch=2), inputs(size=16)
    inner = UNet(**{**SMALL, "channels": 4}).eval()
    inner.load_state_dict(model.state_dict())
    assert torch.equal(model(x, t), F.pixel_shuffle(inner(F.pixel_unshuffle(x, 2), t), 2))


def test_double_precision():
    model, (x, t) = alive(), inputs(dtype=torch.float64)
    single = model(x.float(), t.float()).double()
    double = model.double()(x, t)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single, double, rtol=0, atol=2e-3 * double.abs().max().item())


def test_memory_format_changes_nothing_and_the_answer_is_contiguous():
    model, (x, t) = alive(channels=3), inputs(channels=3)
    y = model(x, t)
    assert y.is_contiguous()
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last), t), y)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(x, t), y, rtol=1e-5, atol=1e-5)


def test_without_gradient_the_same_and_the_input_is_left_alone():
    model, (x, t) = alive(), inputs()
    before, y = x.clone(), model(x, t).detach()
    with torch.inference_mode(): torch.testing.assert_close(model(x, t), y, rtol=1e-6, atol=1e-6)
    assert torch.equal(x, before)


def test_dropout_only_in_training_mode():
    model, (x, t) = alive(dropout=0.5), inputs()
    assert torch.equal(model(x, t), model(x, t))
    model.train()
    assert not torch.equal(model(x, t), model(x, t))


# gradients

def test_gradients_against_differences():
    model, (x, t) = alive(width=8, multipliers=(1, 1)).double(), inputs(1, dtype=torch.float64)
    x, weight, towards = x.requires_grad_(), model.down[0][0].conv_1.weight, torch.randn_like(x)
    value = (model(x, t) * towards).sum()
    by_x, by_weight = torch.autograd.grad(value, [x, weight])
    for variable, gradient in ((x, by_x), (weight, by_weight)):
        step = torch.randn(variable.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e-5
        with torch.no_grad():
            variable += step; up = (model(x, t) * towards).sum()
            variable -= 2 * step; down = (model(x, t) * towards).sum()
            variable += step
        assert ((up - down) / 2).item() == pytest.approx((gradient * step).sum().item(), rel=1e-6)


def test_every_parameter_learns_once_the_zeros_are_gone():
    model, (x, t) = alive().train(), inputs()
    model(x, t).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_at_the_start_only_the_exit_learns():
    torch.manual_seed(0)
    model, (x, t) = UNet(**SMALL), inputs()
    (model(x, t) - x).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad.abs().sum() > 0] == ["exit.weight", "exit.bias"]


def test_it_learns_a_sign_that_depends_on_t():
    "A network blind to t could not come below 1."
    torch.manual_seed(0)
    model = UNet(**SMALL)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(80):
        x, late = torch.randn(16, 1, 8, 8), torch.rand(16) < 0.5
        loss = (model(x, 900.0 * late) - torch.where(late, -1.0, 1.0)[:, None, None, None] * x).square().mean()
        optimiser.zero_grad(); loss.backward(); optimiser.step()
    assert loss.item() < 0.8


# what it is told besides the time

def told(kind, context=5):
    "A small network whose zeroed layers have weights."
    torch.manual_seed(3)
    model = UNet(**SMALL, context=context) if kind == "unet" else ResidualMLP(64, 24, 2, context)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)): initialised(layer)
        if isinstance(layer, nn.Linear): nn.init.normal_(layer.bias)
    return model.double().eval()


KINDS = pytest.mark.parametrize("kind", ["unet", "perceptron"])


@KINDS
def test_a_context_is_a_linear_map_of_it_added_to_the_times_embedding(kind):
    model, plain, (x, t) = told(kind), told(kind, None), inputs(dtype=torch.float64)
    layer, c = model.time.context, torch.randn(3, 5, dtype=torch.float64)
    added = c @ layer.weight.T + layer.bias
    assert plain.load_state_dict(model.state_dict(), strict=False).unexpected_keys == [
        "time.context.weight", "time.context.bias"]
    torch.testing.assert_close(model.time(t, c) - added, plain.time(t), rtol=1e-12, atol=1e-12)
    hook = plain.time.register_forward_hook(lambda module, given, time: time + added)
    torch.testing.assert_close(model(x, t, c), plain(x, t), rtol=1e-10, atol=1e-10)
    hook.remove()
    assert (model(x, t, c) - plain(x, t)).abs().max() > 1e-3
    nn.init.zeros_(layer.bias)
    torch.testing.assert_close(model(x, t, torch.zeros_like(c)), plain(x, t), rtol=1e-12, atol=1e-12)


@KINDS
def test_a_samples_context_is_its_own_and_all_of_it_learns(kind):
    model, (x, t) = told(kind), inputs(dtype=torch.float64)
    c = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    y = model(x, t, c)
    torch.testing.assert_close(model(x[1:2], t[1:2], c[1:2]), y[1:2], rtol=1e-9, atol=1e-9)
    y[1].square().sum().backward()
    assert c.grad[1].abs().min() > 0 and c.grad[[0, 2]].abs().max() == 0
    assert (model.time.context.weight.grad != 0).all()


@KINDS
def test_a_context_too_many_or_too_few_is_refused(kind):
    x, t = inputs(dtype=torch.float64)
    with pytest.raises(ValueError, match="^context must be vectors, one a sample, got None$"): told(kind)(x, t)
    with pytest.raises(ValueError, match="^context must be None, since the network knows none$"):
        told(kind, None)(x, t, torch.zeros(3, 5, dtype=torch.float64))


class Untold(nn.Module):
    "An embedding of the time that has never heard of a context."
    def __init__(self, dimension, width, context=None):
        super().__init__()
        self.dimension, self.linear_1, self.linear_2 = dimension, linear(dimension, width), linear(width, width)


@KINDS
def test_an_absent_context_draws_no_random_numbers(kind, monkeypatch):
    def built():
        torch.manual_seed(11)
        return UNet(**SMALL) if kind == "unet" else ResidualMLP(64, 24)
    weights, state = copied(built().state_dict()), torch.get_rng_state()
    monkeypatch.setattr(unet, "TimeMLP", Untold)
    before = copied(built().state_dict())
    assert list(before) == list(weights) and all(torch.equal(before[name], weights[name]) for name in weights)
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.undo()
    assert isinstance(built().time, TimeMLP)


def test_a_labelled_network_is_told_a_row_of_its_table():
    torch.manual_seed(0)
    model, (x, t) = Labelled(told("perceptron"), classes=4, context=5).double(), inputs(dtype=torch.float64)
    assert model.nothing == 4 and model.table.weight.shape == (5, 5)
    label = torch.tensor([2, 4, 2])
    said = model(x, t, label)
    assert torch.equal(said, model.network(x, t, model.table.weight[label]))
    assert not torch.allclose(said, model(x, t, torch.full((3,), model.nothing)))
    said.square().mean().backward()
    assert (model.table.weight.grad.abs().amax(1) > 0).tolist() == [False, False, True, False, True]
    with pytest.raises(IndexError): model(x, t, torch.tensor([0, 5, 0]))


# errors

@pytest.mark.parametrize("changes, message", [
    (dict(size=7), r"size must be a multiple of patch \* 2\*\*\(levels - 1\) = 2, got 7"),
    (dict(size=10, patch=2, attention=()), "size must be a multiple .* = 4, got 10"),
    (dict(attention=(16, 4, 3)), r"attention must be among the heights \[8, 4\], got \[3, 16\]"),
    (dict(dropout=1.5), "dropout"),
    (dict(width=3), "^width must be even and at least 4, got 3$"),
    (dict(width=2), "^width must be even and at least 4, got 2$"),
    (dict(patch=0), "^patch must be between 1 and 8, got 0$"),
    (dict(patch=9), "^patch must be between 1 and 8, got 9$"),
])
def test_bad_configurations(changes, message):
    with pytest.raises(ValueError, match=message): UNet(**{**SMALL, **changes})


def test_bad_inputs():
    model, (x, t) = UNet(**SMALL), inputs()
    for call, message in (
            (lambda: model(x[..., :4], t), r"x must have shape \('batch', 1, 8, 8\), got \(3, 1, 8, 4\)"),
            (lambda: model(x, torch.tensor(3.0)), r"t must have shape \(3,\), one value a sample, got \(\)"),
            (lambda: ResidualMLP(10)(x, t), r"x must have shape \('batch', 10\), got \(3, 64\)")):
        with pytest.raises(ValueError, match=message): call()
    with pytest.raises(ValueError, match="^width must be even and at least 4, got 5$"): ResidualMLP(64, width=5)
    with pytest.raises(ValueError, match="^dimension must be even and at least 4, got 5$"): time_embedding(t, 5)
    assert check_heights(28, 2, 2, (7,)) == [14, 7]


# the perceptron

def test_perceptron_counts_and_shapes():
    model, (x, t) = ResidualMLP(64, 160, 2), inputs()
    assert parameters(model) == (64 + 1) * 160 + 2 * 161 * 160 + 2 * (2 * 160 + 3 * 161 * 160) + 2 * 160 + 161 * 64
    assert torch.equal(model(x, t), torch.zeros_like(x))
    for layer in model.modules():
        if isinstance(layer, nn.Linear): initialised(layer)
    assert torch.equal(model(x, t).flatten(1), model(x.flatten(1), t))
    double = model.double()(x.double(), t.double()).float()
    torch.testing.assert_close(double, model.float()(x, t), rtol=1e-3, atol=1e-3)
    model(x, t).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def train(checkpoint, stop=None):
    "Eight steps of a U-Net with its average; `stop`: killed after that many."
    torch.manual_seed(0)
    model = Averaged(UNet(**{**SMALL, "width": 8, "dropout": 0.2}), 0.9)
    optimiser = model.follow(torch.optim.Adam(model.raw.parameters(), 1e-3))
    pictures, times = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(24.0) * 40
    def loss(network, x, t):
        if stop is not None and model.updates >= stop: raise Killed
        return (network(x + torch.randn_like(x), t) - x).square().mean()
    def evaluate(network): return {"average": float(network.eval()(pictures, times).detach().square().mean())}
    rows = list(fit(model, [pictures, times], loss, Minibatches(24, 6, 0), optimiser, 8, evaluate, every=2, seed=3,
                    checkpoint=checkpoint, seconds=0.0))
    return rows, copied(model.state_dict())


def test_a_killed_training_continues_to_the_same_bits(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows, weights = train(tmp_path / "whole")
    with pytest.raises(Killed): train(tmp_path / "killed", stop=5)
    again, continued = train(tmp_path / "killed")
    torch.set_num_threads(threads)
    assert again == rows and len(rows) == 4
    assert weights["updates"] == 8 and set(weights) == set(continued)
    assert all(torch.equal(weights[name], continued[name]) for name in weights)
    for name in ("entry.weight", "exit.weight"): assert not torch.equal(weights["ema." + name], weights["raw." + name])
