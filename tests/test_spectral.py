"Spectral normalisation (O5): norms against closed forms and dense matrices, the bound, its gradient, the kept weight."

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from uncpaper.models.spectral import (Operator, SpectralConv2d, SpectralLinear, bounded, input_sizes, operator_norm,
                                      power_iteration, spectral_layers,
                                      spectrally_normalise, used_weight, settle)
from uncpaper.training import load_checkpoint, predict, save_checkpoint


def dense(weight, size, stride=1, padding=0):
    "The matrix of a convolution: its answers to one lit pixel at a time, in float64."
    pixels = weight.shape[1] * math.prod(size)
    basis = torch.eye(pixels, dtype=torch.float64).view(pixels, weight.shape[1], *size)
    return F.conv2d(basis, weight.detach().double(), stride=stride, padding=padding).flatten(1).T


def dense_norm(weight, size, stride=1, padding=0):
    return torch.linalg.matrix_norm(dense(weight, size, stride, padding), 2).item()


def drawn(inputs, outputs, kernel, size, std=0.3, seed=0, **settings):
    torch.manual_seed(seed)
    layer = SpectralConv2d(inputs, outputs, kernel, size, **settings)
    nn.init.normal_(layer.weight, std=std)
    return layer


# O5: norms

@pytest.mark.parametrize("n, published", [(4, 6.854101966), (8, 8.290859369), (16, 8.796836858)])
def test_o5_kernel_of_ones(n, published):
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    nn.init.ones_(layer.weight)
    exact = (1 + 2 * math.cos(math.pi / (n + 1))) ** 2
    assert exact == pytest.approx(published, abs=5e-10)
    assert dense_norm(layer.weight, (n, n), 1, 1) == pytest.approx(exact, rel=1e-12)
    assert operator_norm(layer, (n, n)) == pytest.approx(exact, rel=1e-12)
    assert operator_norm(layer.float(), (n, n)) == pytest.approx(exact, rel=2e-6)


SHAPES = dict(inputs=st.integers(1, 4), outputs=st.integers(1, 4),
              kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
              stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
              padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
              size=st.tuples(st.integers(3, 7), st.integers(3, 7)))


@given(**SHAPES)
@settings(max_examples=25, deadline=None)
def test_o5_power_iteration_comes_from_below_to_the_norm_of_the_dense_matrix(inputs, outputs, kernel, stride, padding,
    size):
    torch.manual_seed(0)
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False).double()
    exact = dense_norm(layer.weight, size, stride, padding)
    if kernel == (1, 1): exact = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
    estimates = [operator_norm(layer, size, n) for n in (1, 5, 400)]
    assert max(estimates) <= exact * (1 + 1e-12)
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(estimates))  # a norm that is exact at once may round down
    assert estimates[-1] == pytest.approx(exact, rel=5e-3)


@given(**SHAPES)
@settings(max_examples=40, deadline=None)
def test_the_transpose_is_the_transpose(inputs, outputs, kernel, stride, padding, size):
    torch.manual_seed(0)
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False).double()
    operator = Operator(layer, size)
    u, v = (torch.randn(shape, dtype=torch.float64) for shape in (operator.outputs, operator.inputs))
    answer, back = operator.forward(layer.weight, v), operator.transpose(layer.weight, u)
    assert answer.shape == u.shape and back.shape == v.shape
    assert (answer * u).sum().item() == pytest.approx((back * v).sum().item(), rel=1e-9, abs=5e-10)


@pytest.mark.parametrize("n, kernel", [(5, 3), (8, 3), (7, 5)])
def test_o5_circular_norm_bounds_the_zero_padded_one(n, kernel):
    torch.manual_seed(n)
    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64)
    grid = n + kernel - 1
    transfer = torch.fft.fft2(weight, s=(grid, grid)).permute(2, 3, 0, 1)
    circular = torch.linalg.matrix_norm(transfer, 2).max().item()
    assert 0.8 * circular < dense_norm(weight, (n, n), 1, kernel // 2) <= circular


@pytest.mark.parametrize("stride, size", [(1, (4, 4)), (2, (4, 4)), (2, (5, 7)), (3, (7, 5))])
def test_o5_strided_1x1_has_the_norm_of_its_matrix(stride, size):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 1, stride, bias=False).double()
    exact = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
    assert dense_norm(layer.weight, size, stride) == pytest.approx(exact, rel=1e-12)
    assert operator_norm(layer, size, 2000) == pytest.approx(exact, rel=1e-6)


def test_o5_reshaped_matrix_alone_is_no_bound_but_the_kernels_width_times_it_is():
    for seed in range(5):
        torch.manual_seed(seed)
        weight = torch.randn(4, 4, 3, 3)
        reshaped = torch.linalg.matrix_norm(weight.flatten(1).double(), 2).item()
        assert reshaped < dense_norm(weight, (8, 8), 1, 1) <= 3 * reshaped


# O5: the soft bound

@pytest.mark.parametrize("stride, size, kernel", [(1, 8, 3), (2, 8, 3), (2, 7, 3), (2, 9, 5), (1, 6, 1), (2, 7, 1)])
def test_o5_bound_holds_after_500_iterations(stride, size, kernel):
    for seed in range(3):
        layer = settle(drawn(5, 6, kernel, size, std=1.0, seed=seed, stride=stride, padding=kernel // 2,
                             coefficient=1.5), 500)
        norm = dense_norm(used_weight(layer), (size, size), stride, kernel // 2)
        assert 1.5 * (1 - 2e-5) <= norm <= 1.5 * (1 + 1e-3)
        assert layer.sigma.item() <= dense_norm(layer.weight, (size, size), stride, kernel // 2) * (1 + 1e-6)


def test_o5_few_iterations_leave_the_norm_above_the_bound():
    norms = [dense_norm(used_weight(settle(drawn(8, 8, 3, 8, std=0.3, padding=1), n)), (8, 8), 1, 1)
             for n in (1, 10, 500)]
    assert norms[0] > 3.1 and norms[0] > norms[1] > norms[2] * 0.9999


def test_o5_a_small_norm_leaves_the_weight_alone():
    layer = settle(drawn(3, 4, 3, 8, std=0.05, padding=1), 100).eval()
    assert layer.normalised_weight().allclose(layer.weight, rtol=1.1e-5, atol=0) and layer.sigma < 3
    one = settle(drawn(3, 4, 1, 8, std=0.05), 100).eval() # no margin for matrices
    linear = settle(SpectralLinear(3, 4, coefficient=100.0), 100).eval()
    assert one.normalised_weight().equal(one.weight) and linear.normalised_weight().equal(linear.weight)


def test_odd_sizes_and_stride_two_through_a_network():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1, bias=False),
                          nn.Conv2d(4, 4, 1, 2, bias=False), nn.Flatten(), nn.Linear(64, 2))
    sizes = {"0": (28, 28), "1": (14, 14), "2": (7, 7)}
    assert input_sizes(plain, (1, 28, 28)) == sizes
    model = settle(spectrally_normalise(plain, 0.1, (1, 28, 28)), 300).eval()
    for name, layer in spectral_layers(model):
        assert dense_norm(used_weight(layer), sizes[name], layer.stride, layer.padding) == pytest.approx(0.1, rel=1e-3)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 2)


# the gradient

@pytest.mark.parametrize("coefficient", [0.3, 100.0])
@pytest.mark.parametrize("make", [lambda c: drawn(2, 3, 3, (5, 4), stride=2, padding=1, coefficient=c),
                                  lambda c: drawn(2, 3, 1, 3, stride=2, coefficient=c),
                                  lambda c: SpectralLinear(4, 3, coefficient=c)])
def test_gradient_flows_through_sigma(make, coefficient):
    torch.manual_seed(0)
    layer = settle(make(coefficient).double(), 5).eval() # u and v rest in evaluation
    x = torch.randn((2, 4) if layer.size is None else (2, 2, *layer.size), dtype=torch.float64, requires_grad=True)
    weight = layer.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda w, x: torch.func.functional_call(layer, {"weight": w}, x), (weight, x))


def test_gradient_in_closed_form():
    "W / (sigma / c), sigma = u' W v, has the gradient c (G - <G, W> u v' / sigma) / sigma; G is the used weight's."
    torch.manual_seed(0)
    layer = settle(SpectralLinear(4, 3, coefficient=0.2).double(), 3).eval()
    g = torch.randn(3, 4, dtype=torch.float64)
    (layer.normalised_weight() * g).sum().backward()
    w, sigma = layer.weight.detach(), layer.sigma
    exact = 0.2 * (g - (g * w).sum() * torch.outer(layer.u, layer.v) / sigma) / sigma
    assert torch.allclose(layer.weight.grad, exact, rtol=1e-10)


def test_two_passes_before_one_backward():
    layer, x, y = drawn(2, 3, 3, 6, padding=1, coefficient=0.5), torch.randn(2, 2, 6, 6), torch.randn(2, 2, 6, 6)
    other = copy.deepcopy(layer)
    (layer(x).square().sum() + layer(y).square().sum()).backward()
    for each in (x, y): other(each).square().sum().backward()
    assert torch.allclose(layer.weight.grad, other.weight.grad, rtol=1e-5, atol=1e-6) and layer.u.equal(other.u)


# what a pass does to u and v

@pytest.mark.parametrize("iterations", [1, 3])
def test_training_turns_u_and_v_and_evaluation_does_not(iterations):
    layer = drawn(2, 3, 3, 5, stride=2, padding=1, coefficient=0.5, iterations=iterations)
    x, u, v, weight = torch.randn(1, 2, 5, 5), layer.u.clone(), layer.v.clone(), layer.weight.detach()
    output = layer(x)
    for _ in range(iterations):
        v = F.conv_transpose2d(u, weight, stride=2, padding=1)
        v = v / v.norm()
        u = F.conv2d(v, weight, stride=2, padding=1)
        u = u / u.norm()
    sigma = (u * F.conv2d(v, weight, stride=2, padding=1)).sum()
    assert torch.allclose(layer.u, u, atol=1e-6) and torch.allclose(layer.v, v, atol=1e-6)
    assert torch.allclose(layer.sigma, sigma)
    assert torch.allclose(output, F.conv2d(x, weight / (sigma / 0.5 + 1e-5), stride=2, padding=1), atol=1e-6)
    before = copy.deepcopy(layer.state_dict())
    layer.eval()
    layer(x)
    with torch.no_grad(): layer(x)
    assert all(before[name].equal(value) for name, value in layer.state_dict().items())


# the weight that is kept in evaluation

def settled(**settings):
    return settle(drawn(2, 3, 3, 5, padding=1, coefficient=0.5, **settings), 20).eval()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_keeps_the_weight(mode):
    layer, x = settled(), torch.randn(2, 2, 5, 5)
    with_gradient = layer(x)
    assert layer.kept is None and with_gradient.requires_grad
    with mode():
        first, kept = layer(x), layer.kept
        assert layer(x).equal(first) and layer.kept is kept
    assert first.equal(with_gradient) and not kept[1].requires_grad and kept[1].grad_fn is None
    with (torch.inference_mode if mode is torch.no_grad else torch.no_grad)():
        assert layer(x).equal(first) and layer.kept is kept
    layer(x).sum().backward()
    assert layer.weight.grad.abs().max() > 0


def loaded(layer): layer.load_state_dict({**settled(seed=1).state_dict()})
def replaced(layer): layer.weight = nn.Parameter(2 * layer.weight.detach())
def assigned(layer): layer.load_state_dict(settled(seed=1).state_dict(), assign=True)
def stepped(layer):
    layer(torch.ones(1, 2, 5, 5)).sum().backward()
    torch.optim.SGD(layer.parameters(), 1.0).step()
def trained(layer):
    with torch.no_grad(): layer.train()(torch.ones(1, 2, 5, 5))
    layer.eval()
def tightened(layer): layer.coefficient = 0.1
def redrawn(layer): nn.init.normal_(layer.weight)
def turned(layer): settle(layer, 3)


@pytest.mark.parametrize("change", [loaded, replaced, assigned, stepped, trained, tightened, redrawn, turned,
                                    lambda layer: layer.double().float()])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_kept_weight_is_dropped_when_what_it_was_made_of_changes(mode, change):
    layer, x = settled(), torch.randn(2, 2, 5, 5)
    with mode(): layer(x)
    kept = layer.kept
    change(layer)
    with mode(): output = layer(x)
    assert layer.kept is not kept and output.equal(F.conv2d(x, layer.normalised_weight(), padding=1))


def test_kept_weight_is_dropped_on_another_device_and_in_another_precision():
    layer, x = settled(), torch.randn(1, 2, 5, 5)
    with torch.no_grad():
        layer(x)
        assert layer.double()(x.double()).dtype == torch.float64
        assert layer.to("meta")(x.double().to("meta")).device.type == "meta" and layer.kept[1].device.type == "meta"


@pytest.mark.parametrize("width", [2, 64])
def test_kept_weight_is_not_taken_for_another_at_the_same_address(width):
    torch.manual_seed(0)
    layer, x = settle(SpectralLinear(width, width, bias=False, coefficient=1000.0)).eval(), torch.randn(1, width)
    with torch.no_grad():
        for factor in range(1, 30):
            output = torch.func.functional_call(layer, {"weight": torch.full((width, width), float(factor))}, x)
            assert torch.allclose(output, factor * x.sum().expand(1, width), rtol=1e-4, atol=1e-4)


def test_after_inference_mode_all_goes_on():
    model, x = nn.Sequential(settled(), nn.Flatten(), nn.Linear(75, 2)), torch.randn(4, 2, 5, 5)
    before = predict(model, x)
    assert not any(t.is_inference() for t in model.state_dict().values())
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    twin = copy.deepcopy(model)
    assert predict(twin, x).equal(before)
    model.train()(x).sum().backward()
    with torch.inference_mode(): model(x) # a training pass there turns u and v as well
    model(x).sum().backward()
    model.load_state_dict(twin.state_dict())
    assert predict(model, x).equal(before)


def test_a_deep_copy_lives_its_own_life():
    layer, x = settled(), torch.randn(1, 2, 5, 5)
    with torch.no_grad():
        first = layer(x)
        twin = copy.deepcopy(layer)
        assert twin(x).equal(first) and twin.kept[1] is not layer.kept[1]
        layer.weight.zero_()
        assert twin(x).equal(first) and layer(x).abs().max() == 0


# stores

def test_safetensors_round_trip(tmp_path):
    layer, x = drawn(2, 3, 3, 5, padding=1, coefficient=0.5, bias=True), torch.randn(1, 2, 5, 5)
    layer(x)
    assert set(layer.state_dict()) == {"weight", "bias", "u", "v", "sigma"}
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other = drawn(2, 3, 3, 5, seed=1, padding=1, coefficient=0.5, bias=True)
    with torch.no_grad(): other.eval()(x)
    other.train().load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert other(x).equal(layer(x)) and other.u.equal(layer.u) and other.sigma.equal(layer.sigma)


def network(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2),
                          nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.Flatten(), nn.Linear(64, 3))
    model = spectrally_normalise(model, 0.5, (1, 7, 7))
    return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)


def steps(model, optimizer, n):
    x, y = torch.randn(6, 1, 7, 7, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    for _ in range(n):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
        predict(model, x)


def test_a_checkpoint_continues_to_the_same_bits(tmp_path):
    model, optimizer = network(0)
    steps(model, optimizer, 3)
    save_checkpoint(tmp_path / "at", model, optimizer, {"step": 3})
    steps(model, optimizer, 4)
    other, its_optimizer = network(1)
    predict(other, torch.ones(1, 1, 7, 7)) # has kept weights of its own
    assert load_checkpoint(tmp_path / "at", other, its_optimizer) == {"step": 3}
    steps(other, its_optimizer, 4)
    assert all(value.equal(other.state_dict()[name]) for name, value in model.state_dict().items())


# layers, networks and refusals

@pytest.mark.parametrize("stride, size", [(1, 6), (2, 7)])
def test_channels_last(stride, size):
    layer, x = drawn(4, 5, 3, size, stride=stride, padding=1, coefficient=0.5), torch.randn(2, 4, size, size)
    other, its_x = (copy.deepcopy(layer).to(memory_format=torch.channels_last),
                    x.contiguous(memory_format=torch.channels_last))
    assert other.weight.is_contiguous(memory_format=torch.channels_last)
    for _ in range(2):
        ours, its = layer(x), other(its_x)
        assert torch.allclose(ours, its, atol=1e-5) and torch.allclose(layer.sigma, other.sigma)
    with torch.no_grad(): assert torch.allclose(layer.eval()(x), other.eval()(its_x), atol=1e-5)
    ours.sum().backward()
    its.sum().backward()
    assert torch.allclose(layer.weight.grad, other.weight.grad, atol=1e-3)


def test_normalising_a_network_keeps_weights_biases_modes_and_other_layers():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(),
                          nn.Sequential(nn.Conv2d(4, 4, 1, bias=False)), nn.Flatten(), nn.Linear(64, 2)).double().eval()
    made = spectrally_normalise(copy.deepcopy(plain), 1.0, (1, 7, 7))
    assert ([type(layer) for layer in (made[0], made[1], made[3][0], made[5])]
            == [SpectralConv2d, nn.BatchNorm2d, SpectralConv2d, nn.Linear])
    assert [name for name, _ in spectral_layers(made)] == ["0", "3.0"]
    assert all(value.equal(made.state_dict()[name]) for name, value in plain.state_dict().items())
    assert (set(made.state_dict()) - set(plain.state_dict())
            == {f"{name}.{kind}" for name in ("0", "3.0") for kind in ("u", "v", "sigma")})
    assert made[3][0].bias is None and not any(layer.training for layer in made.modules())
    assert made[1].num_batches_tracked == 0
    assert [p.shape for p in made.parameters()] == [p.shape for p in plain.parameters()]
    assert all(p.requires_grad and not p.is_inference() for p in made.parameters())
    assert spectrally_normalise(plain, None, (1, 7, 7)) is plain and type(plain[0]) is nn.Conv2d


def test_with_a_high_bound_a_network_is_what_it_was():
    torch.manual_seed(0)
    plain, x = (nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False)),
                torch.randn(3, 2, 7, 7))
    assert torch.allclose(spectrally_normalise(copy.deepcopy(plain), 1e3, (2, 7, 7))(x), plain(x), rtol=1e-4, atol=1e-5)


def test_a_layer_already_bounded_is_measured_as_used():
    layer = settle(drawn(3, 4, 3, 6, std=1.0, padding=1, coefficient=2.0), 500)
    assert operator_norm(layer, (6, 6)) == pytest.approx(2, rel=1e-3)
    assert operator_norm(layer.double(), (6, 6)) == pytest.approx(2, rel=1e-3)
    linear = nn.Linear(6, 4).double()
    assert operator_norm(linear) == pytest.approx(torch.linalg.matrix_norm(linear.weight, 2).item(), rel=1e-6)
    u, v = torch.ones(4).double() / 2, torch.ones(6).double() / 6**0.5
    power_iteration(Operator(linear, None), linear.weight, u, v, 500)
    assert float(u @ linear.weight.detach() @ v) == pytest.approx(operator_norm(linear), rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 2, 6, 5), (1, 2, 5, 6), (1, 2, 4, 4)])
def test_pictures_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match=rf"x must be pictures of 5 x 5, got {shape[2]} x {shape[3]}"):
        settled()(torch.zeros(shape))


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 2, 3, dilation=2), nn.Conv2d(2, 2, 3, groups=2),
                                   nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
                                   nn.Conv2d(2, 2, 3, padding="same")])
def test_convolutions_of_other_kinds_are_refused(layer):
    with pytest.raises(ValueError, match="layer must be a convolution without dilation and groups"):
        bounded(layer, (7, 7), 1.0)


@pytest.mark.parametrize("settings, message", [({"coefficient": 0.0}, "coefficient must be > 0, got 0.0"),
                                               ({"coefficient": math.nan}, "coefficient must be > 0"),
                                               ({"iterations": 0}, "iterations must be >= 1, got 0")])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message): SpectralLinear(2, 2, **settings)
    with pytest.raises(ValueError, match=message): SpectralConv2d(2, 2, 3, 5, **settings)
