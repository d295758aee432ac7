"The losses against hand-worked numbers (oracles O1-O4, O8, O9), a reference in float64, and their invariances."

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq

from uncpaper.losses import (
    biv_loss, cutoff_loss, diffusion_loss, effective_batch_size, eiv_loss, epsilon_for_batch_size, iv_loss, mse_loss,
)

R = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
ZERO = torch.zeros_like(R)
V = torch.tensor([1.0, 0.5, 4.0], dtype=torch.float64)
LOSSES = [mse_loss, lambda f, y: biv_loss(f, y, torch.ones_like(f)), lambda f, y: iv_loss(f, y, torch.ones_like(f)),
          lambda f, y: cutoff_loss(f, y, torch.ones_like(f), 2.0)]


def reference(prediction, target, variance, epsilon):
    "BIV by numpy in float64."
    f, y, v = (x.detach().double().numpy() for x in (prediction, target, variance))
    return np.average((f - y) ** 2, weights=1 / (v + epsilon))


def batch(n, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    f, y, u = (torch.randn(n, generator=g), torch.randn(n, generator=g), torch.rand(n, generator=g))
    return f.to(dtype), y.to(dtype), (-(1 - u).log()).clamp(min=1e-6).to(dtype)


# O1: hand-worked values

def test_o1_values():
    assert mse_loss(R, ZERO).item() == pytest.approx(4.6666667, rel=1e-7)
    assert biv_loss(R, ZERO, V).item() == pytest.approx(3.4615385, rel=1e-7)
    assert biv_loss(R, ZERO, V, epsilon=0.5).item() == pytest.approx(3.5294118, rel=1e-7)
    assert iv_loss(R, ZERO, V).item() == pytest.approx(3.75, rel=1e-7)
    assert iv_loss(R, ZERO, V, epsilon=0.5).item() == pytest.approx(2.2222222, rel=1e-7)
    assert biv_loss(R, ZERO, V, epsilon=1e6).item() == pytest.approx(4.6666622, rel=1e-7)


def test_o1_gradient_and_weights():
    f = R.clone().requires_grad_()
    biv_loss(f, ZERO, V).backward()
    assert torch.allclose(f.grad, torch.tensor([0.6153846, 2.4615385, -0.4615385], dtype=torch.float64), atol=1e-7)
    assert torch.allclose(f.grad / (2 * R), torch.tensor([4, 8, 1], dtype=torch.float64) / 13)
    f.grad = None
    biv_loss(f, ZERO, V, 0.5).backward()
    assert torch.allclose(f.grad / (2 * R), torch.tensor([6, 9, 2], dtype=torch.float64) / 17)


def test_o1_effective_batch_size():
    assert effective_batch_size(V).item() == pytest.approx(2.0864198, rel=1e-7)
    assert epsilon_for_batch_size(V, 2.5) == pytest.approx(0.8333662, rel=1e-6)


# O2, O3: invariances, over random batches

floats = lambda low, high: st.floats(low, high, width=32)
vectors = lambda low, high: st.integers(1, 12).flatmap(lambda n: st.tuples(
    arrays(np.float64, n, elements=floats(-8, 8)), arrays(np.float64, n, elements=floats(low, high))))


@given(st.integers(1, 12), floats(2**-10, 1024), floats(0, 16))
def test_o2_equal_variances(n, v, epsilon):
    f, y, _ = batch(n, dtype=torch.float64)
    same = torch.full_like(f, v)
    assert biv_loss(f, y, same, epsilon).item() == pytest.approx(mse_loss(f, y).item(), rel=1e-9)
    assert iv_loss(f, y, same, epsilon).item() == pytest.approx(mse_loss(f, y).item() / (v + epsilon), rel=1e-9)


@given(vectors(2**-10, 1024), st.floats(-6, 6))
def test_o3_scale(pair, exponent):
    r, v = map(torch.tensor, pair)
    c, zero = 10.0**exponent, torch.zeros_like(r)
    assert biv_loss(r, zero, c * v).item() == pytest.approx(biv_loss(r, zero, v).item(), rel=1e-6)
    assert biv_loss(r, zero, c * v, c * 0.5).item() == pytest.approx(biv_loss(r, zero, v, 0.5).item(), rel=1e-6)
    assert iv_loss(r, zero, c * v).item() == pytest.approx(iv_loss(r, zero, v).item() / c, rel=1e-6)


@given(vectors(2**-10, 1024), floats(0, 16))
def test_o3_weights_sum_to_one_and_are_bounded(pair, epsilon):
    v = torch.tensor(pair[1])
    f = torch.ones_like(v).requires_grad_()
    biv_loss(f, torch.zeros_like(v), v, epsilon).backward()
    p = f.grad / 2
    assert p.sum().item() == pytest.approx(1, rel=1e-9) and (p > 0).all()
    assert (p.max() / p.min()).item() == pytest.approx(((v.max() + epsilon) / (v.min() + epsilon)).item(), rel=1e-9)


@given(vectors(0, 1024), floats(2**-10, 16), st.randoms())
def test_order_does_not_matter_and_the_loss_is_between_the_errors(pair, epsilon, random):
    r, v = map(torch.tensor, pair)
    order, zero = list(range(len(r))), torch.zeros_like(r)
    random.shuffle(order)
    loss = biv_loss(r, zero, v, epsilon).item()
    assert biv_loss(r[order], zero, v[order], epsilon).item() == pytest.approx(loss, rel=1e-9, abs=1e-12)
    assert r.square().min() * (1 - 1e-9) <= loss <= r.square().max() * (1 + 1e-9)


# O4: cutoff

def test_o4_cutoff():
    assert cutoff_loss(R, ZERO, V, 1).item() == 4
    assert cutoff_loss(R, ZERO, V, 5).item() == pytest.approx(4.6666667, rel=1e-7)
    assert cutoff_loss(R, ZERO, V, 0.5) is None
    assert cutoff_loss(R[:, None], ZERO[:, None], V, 1).item() == 4


def test_cutoff_gradient_reaches_survivors_only():
    f = R.clone().requires_grad_()
    cutoff_loss(f, ZERO, V, 2).backward()
    assert f.grad.tolist() == [1, 2, 0]


@pytest.mark.parametrize("cutoff", [0, -1, math.nan])
def test_cutoff_refused(cutoff):
    with pytest.raises(ValueError, match="cutoff must be > 0"):
        cutoff_loss(R, ZERO, V, cutoff)


# O8, O9: weighted least squares is the best linear unbiased estimate

def design(n=200, d=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)), rng.uniform(0.01, 4, size=n), rng.normal(size=d), rng


def test_o8_covariances():
    X, v, b, rng = design()
    W = X / v[:, None]
    wls, ols = np.linalg.solve(X.T @ W, W.T), np.linalg.solve(X.T @ X, X.T)
    draws = rng.normal(size=(20_000, len(v))) * np.sqrt(v)
    covariance = {name: np.cov((draws @ M.T).T) for name, M in (("wls", wls), ("ols", ols))}
    expected = {"wls": np.linalg.inv(X.T @ W), "ols": ols @ np.diag(v) @ ols.T}
    for name in expected:
        assert np.linalg.norm(covariance[name] - expected[name]) < 0.03 * np.linalg.norm(expected[name])
    assert np.linalg.eigvalsh(expected["ols"] - expected["wls"]).min() > 0
    assert np.linalg.eigvalsh(covariance["ols"] - covariance["wls"]).min() > 0


def test_o8_gradient_descent_on_biv_finds_weighted_least_squares():
    X, v, b, rng = design()
    y = X @ b + rng.normal(size=len(v)) * np.sqrt(v)
    W = X / v[:, None]
    solution = np.linalg.solve(X.T @ W, W.T @ y)
    X, y, v = map(torch.tensor, (X, y, v))
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([w], lr=0.3)
    for _ in range(300):
        optimiser.zero_grad()
        biv_loss(X @ w, y, v).backward()
        optimiser.step()
    assert np.abs(w.detach().numpy() - solution).max() < 1e-6


def test_o9_variance_of_the_weighted_mean():
    v = torch.cat([torch.full((500,), 0.1), torch.full((500,), 20.0)]).double()
    weighted, plain = 1 / (1 / v).sum(), v.sum() / len(v) ** 2
    assert (weighted / plain).item() == pytest.approx(0.0198015, rel=1e-5)
    noise = torch.randn(4000, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * v.sqrt()
    means = torch.zeros(4000, dtype=torch.float64, requires_grad=True)
    # the minimum of BIV over a constant is one Newton step from 0: minus half its gradient, since sum p = 1
    for row, mean in zip(noise[:400], means[:400]):
        biv_loss(mean.expand(1000), row, v).backward()
    estimates = -means.grad[:400] / 2
    assert estimates.var().item() == pytest.approx(weighted.item(), rel=0.25)


# accuracy, types, shapes

@pytest.mark.parametrize("n", [1, 2, 256, 4096])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_a_small_float32_batch_is_the_float64_value_rounded_once(n, epsilon):
    for seed in range(50):
        f, y, v = batch(n, seed)
        assert biv_loss(f, y, v, epsilon).item() == pytest.approx(reference(f, y, v, epsilon), rel=2.0**-24 * 1.001)


@pytest.mark.parametrize("n", [4097, 70_000, 1_000_000])
@pytest.mark.parametrize("epsilon, tolerance", [(0.1, 1e-7), (0.0, 4e-7)])
def test_a_large_float32_batch(n, epsilon, tolerance):
    for seed in range(5):
        f, y, v = batch(n, seed)
        assert biv_loss(f, y, v, epsilon).item() == pytest.approx(reference(f, y, v, epsilon), rel=tolerance)


@pytest.mark.parametrize("n", [5, 4097])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types_are_kept(n, dtype):
    f, y, v = batch(n, dtype=dtype)
    f.requires_grad_()
    loss = biv_loss(f, y, v, 0.1)
    loss.backward()
    assert loss.dtype == f.grad.dtype == dtype and loss.shape == ()
    tolerance = {torch.float32: 1e-7, torch.float64: 1e-13, torch.bfloat16: 2e-2}[dtype]
    assert loss.item() == pytest.approx(reference(f, y, v, 0.1), rel=tolerance)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 3), (6, 2, 2), (2000, 3)])
def test_shapes_and_one_variance_per_sample(shape):
    f, y, _ = (x.view(shape) for x in batch(math.prod(shape), dtype=torch.float64))
    v = batch(shape[0], seed=1, dtype=torch.float64)[2]
    everywhere = v.view(-1, *[1] * (len(shape) - 1)).expand(shape).contiguous()
    assert biv_loss(f, y, v, 0.1).item() == pytest.approx(reference(f, y, everywhere, 0.1), rel=1e-12)
    for loss in (biv_loss, iv_loss, lambda f, y, v: cutoff_loss(f, y, v, 1.0)):
        assert loss(f, y, v).item() == pytest.approx(loss(f, y, everywhere).item(), rel=1e-12)


def test_layout_in_memory_does_not_matter():
    f, y, v = (x.view(300, 20) for x in batch(6000))
    assert biv_loss(f.T, y.T.contiguous(), v.T, 0.1).item() == pytest.approx(biv_loss(f, y, v, 0.1).item(), rel=3e-7)
    f, expected = f.clone().requires_grad_(), f.clone().requires_grad_()
    biv_loss(f.T, y.T.contiguous(), v.T.contiguous(), 0.1).backward()
    biv_loss(expected, y, v, 0.1).backward()
    assert torch.allclose(f.grad, expected.grad, rtol=1e-6)


def test_inputs_are_left_alone():
    for n, dtype in ((8, torch.float64), (5000, torch.float32)):
        inputs = batch(n, dtype=dtype)
        copies = [x.clone() for x in inputs]
        biv_loss(*inputs, 0.1), iv_loss(*inputs, 0.1), effective_batch_size(inputs[2])
        assert all(torch.equal(a, b) for a, b in zip(inputs, copies))


@pytest.mark.parametrize("loss", LOSSES)
def test_target_of_another_shape_is_refused(loss):
    with pytest.raises(ValueError, match=r"target: shape \(3,\).*\(3, 1\)"):
        loss(R[:, None], ZERO)


@pytest.mark.parametrize("loss", [biv_loss, iv_loss, lambda f, y, v: cutoff_loss(f, y, v, 1.0)])
@pytest.mark.parametrize("shape", [(2,), (3, 1, 1), (1, 3), (1,), ()])
def test_variance_of_another_shape_is_refused(loss, shape):
    with pytest.raises(ValueError, match=r"variance: shape .*\(3, 1\).*\(3,\)"):
        loss(R[:, None], ZERO[:, None], torch.ones(shape))


@pytest.mark.parametrize("loss", LOSSES)
def test_empty_batch_is_refused(loss):
    with pytest.raises(ValueError, match="at least one sample"):
        loss(R[:0], ZERO[:0])


@pytest.mark.parametrize("epsilon", [-1e-9, -1, math.nan, math.inf])
def test_epsilon_is_refused(epsilon):
    for call in (lambda: biv_loss(R, ZERO, V, epsilon), lambda: iv_loss(R, ZERO, V, epsilon),
                 lambda: effective_batch_size(V, epsilon)):
        with pytest.raises(ValueError, match="epsilon must be >= 0"):
            call()


# labels without noise

@pytest.mark.parametrize("n", [8, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_variance(n, dtype):
    f, y, v = batch(n, dtype=dtype)
    v[:2] = 0
    f.requires_grad_()
    loss = biv_loss(f, y, v)
    loss.backward()
    assert loss.item() == pytest.approx((f - y)[:2].square().mean().item(), rel=1e-6)
    assert f.grad.isfinite().all() and f.grad[2:].abs().max() < 1e-6
    for loss in (biv_loss(f, y, v, 0.1), iv_loss(f, y, v, 0.1), iv_loss(f, y, v)):
        assert loss.isfinite()
    assert effective_batch_size(v).item() == pytest.approx(2, rel=1e-6)


def test_all_variances_zero_is_squared_error():
    f, y, v = batch(16)
    assert biv_loss(f, y, torch.zeros_like(v)).item() == pytest.approx(mse_loss(f, y).item(), rel=1e-6)


# derivatives

@pytest.mark.parametrize("n", [7, 4100])
def test_gradients_of_prediction_and_target(n):
    f, y, v = batch(n, dtype=torch.float64)
    f.requires_grad_(), y.requires_grad_(), v.requires_grad_()
    (3 * biv_loss(f, y, v, 0.1)).backward()
    w = 1 / (v.detach() + 0.1)
    expected = (6 * w / w.sum() * (f - y)).detach()
    assert torch.allclose(f.grad, expected, rtol=1e-10) and torch.allclose(y.grad, -expected, rtol=1e-10)
    assert v.grad is None


def test_gradcheck_and_gradgradcheck():
    f, y, v = batch(5, dtype=torch.float64)
    f.requires_grad_(), y.requires_grad_()
    loss = lambda f, y: biv_loss(f, y, v, 0.1)
    assert torch.autograd.gradcheck(loss, (f, y)) and torch.autograd.gradgradcheck(loss, (f, y))


def test_second_derivative_of_a_large_batch():
    f, y, v = batch(5000, dtype=torch.float64)
    f.requires_grad_()
    slope, = torch.autograd.grad(biv_loss(f, y, v, 0.1), f, create_graph=True)
    w = 1 / (v + 0.1)
    curvature, = torch.autograd.grad(slope.sum(), f)
    assert torch.allclose(curvature, 2 * w / w.sum(), rtol=1e-10)


def test_graph_can_be_used_twice():
    f = R.clone().requires_grad_()
    loss = biv_loss(f, ZERO, V)
    loss.backward(retain_graph=True)
    once = f.grad.clone()
    loss.backward()
    assert torch.allclose(f.grad, 2 * once)


def test_functional_transforms():
    f, y, v = (x.view(4, 6) for x in batch(24, dtype=torch.float64))
    rows = torch.stack([biv_loss(*row, 0.1) for row in zip(f, y, v)])
    assert torch.allclose(torch.func.vmap(biv_loss)(f, y, v), torch.stack([biv_loss(*row) for row in zip(f, y, v)]))
    loss = lambda f, y, v: biv_loss(f, y, v, 0.1)
    assert torch.allclose(torch.func.vmap(loss)(f, y, v), rows)
    slopes = torch.func.vmap(torch.func.grad(loss))(f, y, v)
    leaf = f.clone().requires_grad_()
    sum(loss(*row) for row in zip(leaf, y, v)).backward()
    assert torch.allclose(slopes, leaf.grad)
    assert torch.allclose(torch.func.jvp(lambda f: loss(f, y, v), (f,), (y,))[1], (leaf_slope(f, y, v) * y).sum())


def leaf_slope(f, y, v):
    leaf = f.clone().requires_grad_()
    biv_loss(leaf, y, v, 0.1).backward()
    return leaf.grad


# effective batch size

@given(vectors(2**-10, 1024), floats(0, 64), floats(0, 64))
def test_effective_batch_size_grows_with_epsilon(pair, a, b):
    v = torch.tensor(pair[1])
    sizes = [effective_batch_size(v, epsilon).item() for epsilon in sorted((a, b))]
    assert 1 - 1e-9 <= sizes[0] <= sizes[1] * (1 + 1e-12) <= len(v) * (1 + 1e-9)


@settings(deadline=None)
@given(vectors(2**-10, 1024), st.floats(0, 0.95))
def test_epsilon_for_batch_size_is_the_smallest(pair, share):
    v = torch.tensor(pair[1])
    minimum = 1 + share * (len(v) - 1)
    epsilon = epsilon_for_batch_size(v, minimum)
    assert effective_batch_size(v, epsilon).item() >= minimum * (1 - 1e-12)
    if epsilon > 0:
        assert effective_batch_size(v, epsilon * (1 - 1e-6)).item() < minimum
        root = brentq(lambda e: effective_batch_size(v, e).item() - minimum, 0, 1e6, rtol=1e-12)
        assert epsilon == pytest.approx(root, rel=1e-4)


def test_epsilon_for_batch_size_at_the_ends():
    assert epsilon_for_batch_size(V, 1) == epsilon_for_batch_size(V, 2) == 0
    assert epsilon_for_batch_size(torch.full((5,), 0.3), 5) == 0
    assert effective_batch_size(V, epsilon_for_batch_size(V, 2.999)).item() == pytest.approx(2.999, rel=1e-9)
    with_zeros = torch.tensor([0.0, 0.0, 1.0, 2.0])
    assert effective_batch_size(with_zeros, epsilon_for_batch_size(with_zeros, 3)).item() == pytest.approx(3, rel=1e-9)


@pytest.mark.parametrize("minimum", [0.9, 3.1, -1, math.nan])
def test_batch_size_out_of_range_is_refused(minimum):
    with pytest.raises(ValueError, match="minimum must be between 1 and the number of variances, 3"):
        epsilon_for_batch_size(V, minimum)


def test_batch_size_only_reached_in_the_limit_is_refused():
    with pytest.raises(ValueError, match="out of reach"):
        epsilon_for_batch_size(V, 3)
    with pytest.raises(ValueError, match="at least one"):
        effective_batch_size(V[:0])


# EiV: log-mean-exp over zetas

def two_classes(p):
    "Logits that give class 0 the probability p."
    return torch.stack([p.log(), (-p).log1p()], -1)


def plain_eiv(logits, labels):
    return -logits.softmax(-1)[torch.arange(len(labels)), :, labels].mean(1).log().mean()


def zetas(n=16, k=5, classes=10, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(n, k, classes, generator=g)).to(dtype), torch.randint(classes, (n,), generator=g)


def test_eiv_values():
    p = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    assert eiv_loss(two_classes(p), torch.tensor([0])).item() == pytest.approx(0.693147, abs=1e-6)
    assert eiv_loss(two_classes(p), torch.tensor([1])).item() == pytest.approx(0.693147, abs=1e-6)
    apart = eiv_loss(two_classes(p[0, :, None]), torch.tensor([0, 0])).item()
    assert apart == pytest.approx(1.203973, abs=1e-6)  # the mean of the losses
    logits, labels = zetas()
    assert eiv_loss(logits, labels).item() == pytest.approx(plain_eiv(logits, labels).item(), rel=1e-12)


def test_eiv_expectations_and_the_fall_with_k():
    "Uniform: 1, 3/2 - ln 2; Beta(2, 2): 5/6, then .7146(3) for K = 5 and .6952(2) for K = 50; both tend to ln 2."
    n = 100_000
    torch.manual_seed(0)
    for law, expected in ((1.0, {1: 1.0, 2: 1.5 - math.log(2)}), (2.0, {1: 5 / 6, 2: None, 5: 0.7146, 50: 0.6952})):
        values, p = [], torch.distributions.Beta(torch.tensor(law, dtype=torch.float64), law)
        for k, value in expected.items():
            size = n if k < 50 else n // 5
            values.append(eiv_loss(two_classes(p.sample((size, k))), torch.zeros(size, dtype=torch.long)).item())
            tolerance = 5 / k**0.5 / math.sqrt(size) + 6e-4  # deviations are below 1 / sqrt(K)
            if value is not None: assert values[-1] == pytest.approx(value, abs=tolerance)
        assert values == sorted(values, reverse=True) and values[-1] > math.log(2)


def test_eiv_by_quadrature():
    "K = 2 uniform probabilities on a grid of 400 x 400 midpoints."
    u = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    pairs = torch.cartesian_prod(u, u)
    loss = eiv_loss(two_classes(pairs), torch.zeros(len(pairs), dtype=torch.long)).item()
    assert loss == pytest.approx(1.5 - math.log(2), abs=1e-5)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(2, 12), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_eiv_lies_between_its_bounds(n, k, classes, seed):
    logits, labels = zetas(n, k, classes, seed)
    own = -logits.log_softmax(-1)[torch.arange(n), :, labels]
    value = eiv_loss(logits, labels).item()
    assert own.min(1).values.mean() - 1e-12 <= value <= own.mean().item() + 1e-12  # the best zeta, and Jensen
    assert eiv_loss(logits[:, torch.randperm(k)], labels).item() == pytest.approx(value, rel=1e-12)
    repeated = eiv_loss(logits[:, :1].expand(n, k, classes), labels).item()
    assert repeated == pytest.approx(eiv_loss(logits[:, :1], labels).item(), rel=1e-12)
    assert eiv_loss(logits + 7, labels).item() == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eiv_of_one_zeta_is_cross_entropy_bit_by_bit(dtype):
    logits, labels = zetas(1001, 1, 10, dtype=dtype)
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours, peer = eiv_loss(a, labels), torch.nn.functional.cross_entropy(b[:, 0], labels)
    ours.backward(), peer.backward()
    assert ours.equal(peer) and a.grad.equal(b.grad) and ours.dtype == dtype


def test_eiv_gradient():
    logits, labels = zetas()
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    eiv_loss(ours, labels).backward(), plain_eiv(plain, labels).backward()
    assert torch.allclose(ours.grad, plain.grad, rtol=1e-10, atol=1e-14)
    f = logits.softmax(-1)
    share = f[torch.arange(16), :, labels]
    share = share / share.sum(1, keepdim=True)
    by_hand = share[..., None] * (f - torch.nn.functional.one_hot(labels, 10)[:, None]) / 16
    assert torch.allclose(ours.grad, by_hand, rtol=1e-10, atol=1e-14)
    assert torch.autograd.gradcheck(lambda x: eiv_loss(x, labels), ours)


def test_eiv_of_wild_logits():
    for dtype in (torch.float32, torch.float64):
        wild = [[[1e4, -1e4], [-1e4, -1e4]], [[-1e4, 1e4], [-1e4, 1e4]], [[1e4, -1e4], [-1e4, 1e4]]]
        logits = torch.tensor(wild, dtype=dtype, requires_grad=True)
        for i, expected in enumerate((-math.log(0.75), 2e4, math.log(2))):
            value = eiv_loss(logits[i:i + 1], torch.tensor([0]))
            assert value.item() == pytest.approx(expected, rel=1e-6)
        eiv_loss(logits, torch.tensor([0, 0, 0])).backward()
        assert logits.grad.isfinite().all() and logits.grad[1].abs().max() > 0.1


@pytest.mark.parametrize("logits, labels, message", [
    (torch.zeros(2, 3), torch.tensor([0, 1]),
     r"^logits: shape \(2, 3\) must be \(batch, zeta, class\), at least one of each$"),
    (torch.zeros(2, 0, 3), torch.tensor([0, 1]), r"^logits: shape \(2, 0, 3\) must be"),
    (torch.zeros(0, 2, 3), torch.zeros(0, dtype=torch.long), r"^logits: shape \(0, 2, 3\) must be"),
    (torch.zeros(2, 4, 3), torch.tensor([0]),
     r"^labels: must be int64 of shape \(2,\), got torch.int64 of shape \(1,\)$"),
    (torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.long),
     r"^labels: must be int64 of shape \(2,\), got torch.int64 of shape \(2, 4\)$"),
    (torch.zeros(2, 4, 3), torch.zeros(2),
     r"^labels: must be int64 of shape \(2,\), got torch.float32 of shape \(2,\)$"),
    (torch.zeros(2, 4, 3), torch.tensor([0, 3]), r"^labels: must be from 0 to 2, got 0 to 3$"),
    (torch.zeros(2, 4, 3), torch.tensor([-100, 1]), r"^labels: must be from 0 to 2, got -100 to 1$"),
])
def test_eiv_refuses(logits, labels, message):
    with pytest.raises(ValueError, match=message): eiv_loss(logits, labels)


# denoising

class Circle:
    "alpha = cos, sigma = sin of an angle that grows with t, in float64."
    def angle(self, t): return torch.as_tensor(t).double() * math.pi / 200
    def alpha(self, t): return self.angle(t).cos()
    def sigma(self, t): return self.angle(t).sin()


def noisy(n=500, shape=(1, 4, 4), dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, n, *shape, generator=g).to(dtype)
    return x0, torch.randint(1, 100, (n,), generator=g), noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (7,), (1, 4, 4)])
def test_diffusion_loss_of_a_network_that_knows(dtype, shape):
    "What the network sees and what it should say, sample by sample; and a constant error of 0.5 costs 0.25."
    x0, t, noise = noisy(20, shape, dtype)
    a, s = (level.view(-1, *[1] * len(shape)) for level in (Circle().alpha(t), Circle().sigma(t)))
    answers = {"epsilon": noise, "x0": x0, "v": a * noise - s * x0}
    for target, answer in answers.items():
        def network(x, times):
            assert x.dtype == times.dtype == dtype and times.equal(t.to(dtype))
            assert torch.allclose(x.double(), a * x0 + s * noise, atol=1e-6)
            return answer.to(dtype) + 0.5
        value = diffusion_loss(network, x0, t, noise, Circle(), target)
        assert value.dtype == dtype and value.item() == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("t", [10, 50, 90])
def test_best_losses_for_gaussian_data(t):
    x0, _, noise = noisy(2000)
    times, a, s = torch.full((2000,), t), Circle().alpha(t).item(), Circle().sigma(t).item()
    for target, slope, expected in (("epsilon", s, a**2), ("x0", a, s**2), ("v", 0.0, 1.0)):
        at = lambda k: diffusion_loss(lambda x, t: k * x, x0, times, noise, Circle(), target).item()
        assert at(slope) == pytest.approx(expected, rel=0.04)
        assert at(slope) < min(at(slope - 0.1), at(slope + 0.1))


def test_targets_are_one_another_by_weights():
    "An error e of x0 is an error -(alpha / sigma) e of the noise and -e / sigma of v."
    x0, _, noise = noisy(50, dtype=torch.float64)
    t = torch.full((50,), 40)
    a, s = Circle().alpha(40), Circle().sigma(40)
    error = torch.randn(x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v = a * noise - s * x0
    said = {"x0": x0 + error, "epsilon": noise - a / s * error, "v": v - error / s}
    losses = [diffusion_loss(lambda x, t: y, x0, t, noise, Circle(), target).item() for target, y in said.items()]
    assert losses[1] == pytest.approx(losses[0] * (a / s).item() ** 2)
    assert losses[2] == pytest.approx(losses[0] / s.item() ** 2)


def test_diffusion_loss_trains():
    network = torch.nn.Linear(4, 4, bias=False)
    x0, t, noise = noisy(100, (4,))
    diffusion_loss(lambda x, t: network(x), x0, t, noise, Circle()).backward()
    assert network.weight.grad.abs().sum() > 0 and network.weight.grad.dtype == torch.float32


def test_diffusion_loss_refuses():
    x0, t, noise = noisy(5)
    same = lambda x, t: x
    for times in (t[:3], t[:, None], torch.tensor(3)):
        with pytest.raises(ValueError, match=r"^t: shape \(.*\) must be one per picture, \(5,\)$"):
            diffusion_loss(same, x0, times, noise, Circle())
    with pytest.raises(ValueError, match="^target must be one of epsilon, x0, v, got noise$"):
        diffusion_loss(same, x0, t, noise, Circle(), "noise")
    with pytest.raises(ValueError, match=r"must be the prediction's"):
        diffusion_loss(lambda x, t: x[:, :, :1], x0, t, noise, Circle())
    with pytest.raises(ValueError, match=r"\(5, 1, 4, 4\)"): diffusion_loss(same, x0, t, noise[:, :, :1], Circle())
