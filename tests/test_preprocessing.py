"Preparing data: there and back, log-determinants, noise before and after, and what doing it twice does (oracle O9)."
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from uncpaper.numerics import generator
from uncpaper.preprocessing import (
    SMALLEST_STD, Preprocessing, coordinatewise, fitted, legacy_double_transform_score, sigma_after,
)

OPTIONS = [{}, {"dequantise": True}, {"scaling": "whiten"}, {"scaling": "whiten", "dequantise": True},
           {"logit": 0.05}, {"logit": 1e-6, "dequantise": True}, {"peak": 300.0}]


def pictures(n: int = 20, seed: int = 0) -> torch.Tensor:
    "Bytes that reach 0 and 255, (n, 2, 3, 3); one pixel is the same everywhere."
    x = torch.randint(0, 256, (n, 2, 3, 3), generator=generator(seed, "bytes"))
    x[:, 0, 0, 0], x[0, 1, 1, 1], x[1, 1, 1, 1] = 255, 0, 255
    return x.to(torch.uint8)


@pytest.mark.parametrize("options", OPTIONS)
def test_there_and_back(options):
    x = pictures()
    T = fitted(x, **options)
    values, log_det = T.apply(x.double(), generator(0, "u"))
    assert values.shape == (20, 18) and log_det.shape == (20,) and values.dtype == torch.float64
    assert T.undo(values).sub(x).abs().max() < 1e-9
    assert T.apply(x).values.dtype == torch.float32 and T.apply(x.float()).log_det.dtype == torch.float32


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_dequantised_bytes_come_back_in_single_precision_but_for_rounding(seed):
    x = pictures(200, seed)
    T = fitted(x, dequantise=True)
    back = T.undo(T.apply(x, generator(seed, "u")).values)
    assert (back != x).double().mean() < 2e-3 and (back - x.float()).abs().max() <= 1


def test_what_is_divided_by():
    x = pictures()
    flat = x.flatten(1).double()
    assert fitted(x).scale.unique().tolist() == [255] and fitted(x, dequantise=True).scale.unique().tolist() == [256]
    assert fitted(x, peak=300.0).scale.unique().tolist() == [300] and fitted(x - 1.0).limits == (-1.0, 254.0)
    assert fitted(torch.tensor([[-9.0], [4.0]])).scale.item() == 9
    whitened = fitted(x, "whiten")
    assert whitened.scale[0].item() == SMALLEST_STD
    assert torch.allclose(whitened.scale[1:], flat.std(0)[1:]) and torch.allclose(whitened.shift, flat.mean(0))
    assert whitened.apply(x).values[:, 0].abs().max() == 0


@pytest.mark.parametrize("options", OPTIONS)
def test_log_determinant_is_that_of_the_jacobian(options):
    x = pictures(4).double()
    T = fitted(x, **options)
    noise = generator(0, "u")
    def values(raw):
        state = noise.get_state()
        try: return T.apply(raw.view(1, 2, 3, 3), noise).values[0]
        finally: noise.set_state(state)    # the same noise for every column
    for row in x:
        state = noise.get_state()
        said = T.apply(row[None], noise).log_det.item()
        noise.set_state(state)
        jacobian = torch.autograd.functional.jacobian(values, row.flatten())
        assert said == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-9)


@pytest.mark.parametrize("alpha", [None, 0.05, 1e-4])
def test_raw_densities_integrate_to_what_the_model_has_in_reach(alpha):
    grey = torch.linspace(0, 255, 200_001, dtype=torch.float64)[:, None]
    values, log_det = fitted(grey, logit=alpha).apply(grey)
    model = Normal(*torch.tensor([0.3, 0.4], dtype=torch.float64))
    area = torch.trapezoid((model.log_prob(values[:, 0]) + log_det).exp(), grey[:, 0]).item()
    low, high = (0.0, 1.0) if alpha is None else (math.log(alpha / (1 - alpha)), -math.log(alpha / (1 - alpha)))
    expected = model.cdf(torch.tensor(high)) - model.cdf(torch.tensor(low))
    assert area == pytest.approx(expected.item(), abs=1e-6)


def test_coordinatewise_by_hand():
    b, a = torch.tensor([1.0, -2.0]).double(), torch.tensor([2.0, 8.0]).double()
    x = torch.tensor([[1.5, 2.0]]).double()
    inside = 0.1 + 0.8 * torch.tensor([[0.25, 0.5]]).double()
    assert torch.allclose(coordinatewise(b, a)(x), torch.tensor([[0.25, 0.5]]).double())
    assert torch.allclose(coordinatewise(b, a, 0.1)(x), (inside / (1 - inside)).log())
    slope = 0.8 / (a * inside * (1 - inside))
    T = coordinatewise(b, a, 0.1)
    assert torch.allclose(T.log_abs_det_jacobian(x, T(x)), slope.log())


def test_clamping_is_asked_for():
    T = fitted(pictures())
    beyond = torch.tensor([[-0.5] * 9 + [1.5] * 9])
    assert T.undo(beyond).flatten().unique().tolist() == [-127.5, 382.5]
    assert T.undo(beyond, clamp=True).flatten().unique().tolist() == [0, 255]
    dequantised = fitted(pictures(), dequantise=True)
    assert dequantised.undo(torch.full((1, 18), 10.7 / 256)).unique().tolist() == [10]


def test_nothing_is_prepared_twice():
    x = pictures()
    T = fitted(x)
    once = T.apply(x)
    with pytest.raises(ValueError, match="x must be raw data, got data that are prepared already"): T.apply(once)
    with pytest.raises(ValueError, match=r"x must be raw data, \(n, 2, 3, 3\), got \(20, 18\)"): T.apply(once.values)


@pytest.mark.parametrize("options, message", [
    ({"scaling": "unit"}, "scaling must be one of range, whiten; got 'unit'"),
    ({"scaling": "whiten", "peak": 1.0}, "peak must be None with whiten, got 1.0"),
    ({"scaling": "whiten", "logit": 0.1}, r"logit must be None unless data are scaled to \[0, 1\], they reach -"),
    ({"peak": 200.0, "logit": 0.1}, "they reach 0 and 1.275"),
    ({"logit": 0.0}, "logit must be > 0 where data reach 0 or the peak, got 0"),
    ({"logit": 0.5}, r"logit must be None or in \[0, 0.5\), got 0.5"),
    ({"logit": -0.1}, r"logit must be None or in \[0, 0.5\), got -0.1"),
    ({"logit": math.nan}, "logit must be None or in"),
])
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message): fitted(pictures(), **options)


def test_a_bare_logit_of_data_inside():
    x = torch.tensor([[1.0, 3.0], [2.0, 2.0]]).double()
    values = fitted(x, peak=4.0, logit=0.0).apply(x).values
    assert torch.allclose(values, torch.logit(x / 4))


@pytest.mark.parametrize("options", [{}, {"scaling": "whiten"}, {"peak": 100.0}])
def test_noise_before_is_noise_after(options):
    x = pictures(200).double()
    noise = torch.randn(x.shape, generator=generator(0, "noise"), dtype=torch.float64)
    T = fitted(x, **options)
    after = T.apply(x).values + sigma_after(T, 2.55) * noise.flatten(1)
    assert (T.apply(x + 2.55 * noise).values - after).abs().max() < 1e-6
    assert torch.allclose(sigma_after(T, 2.55) * T.scale, torch.full((18,), 2.55).double())


def test_noise_before_a_logit_is_no_noise_after():
    T = fitted(pictures(), logit=0.01)
    with pytest.raises(ValueError, match="preprocessing must have no logit .* got 0.01"): sigma_after(T, 1.0)


@pytest.mark.parametrize("a", [1.0, 16.0, 255.0])
def test_o9_twice_is_too_little_by_the_square_of_the_scale(a):
    T = Preprocessing((3,), torch.zeros(3), torch.full((3,), a), (0.0, a))
    x = torch.randn(50, 3, generator=generator(0, "x"), dtype=torch.float64)
    legacy = legacy_double_transform_score(T, lambda v: -v, x)
    assert (legacy / -x).sub(1 / a**2).abs().max() < 1e-12


def test_o9_whitened_it_is_a_constant_shift():
    T = Preprocessing((1,), torch.tensor([110.0]), torch.tensor([60.0]), (0.0, 255.0))
    x = torch.randn(1000, 1, generator=generator(0, "x"), dtype=torch.float64)
    step = 0.5**2 * legacy_double_transform_score(T, lambda v: -v, x)
    assert torch.allclose(step, 0.25 * (110 - x) / 3600) and step.mean().item() == pytest.approx(0.0077, abs=1e-4)


def test_twice_is_the_gradient_of_the_density_of_what_is_prepared_twice():
    T = Preprocessing((2,), torch.zeros(2), torch.full((2,), 2.0), (0.1, 1.9), alpha=0.1)
    x = (0.2 + torch.rand(5, 2, generator=generator(0, "x"), dtype=torch.float64)).requires_grad_()
    law = Normal(*torch.tensor([0.3, 0.8], dtype=torch.float64))
    gradient, = torch.autograd.grad(law.log_prob(coordinatewise(T.shift.double(), T.scale.double(), 0.1)(x)).sum(), x)
    legacy = legacy_double_transform_score(T, lambda v: -(v - 0.3) / 0.64, x.detach())
    assert (legacy - gradient).abs().max() < 1e-12
