"""
How fast and how exact is biv_loss beside a straightforward implementation with normalised weights?

    python benchmarks/biv_loss.py

One thread, float32. Each candidate runs in this process by turns with the straightforward one, a few calls at a time,
so that whatever else the machine does falls on both; a ratio is the median over the turns of
time(straightforward) / time(candidate). A million values are bound by memory: repeat that ratio before believing it.
Errors are relative to the float64 value: the largest over many batches, and the share of batches above 1e-7.
The straightforward loss is computed in float32 and, to compare at the same accuracy, in float64.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uncpaper.losses import biv_loss

EPSILON = 0.1
SIZES = {  # values: (turns, calls a turn, batches for the error)
    256: (60, 100, 1000), 4096: (60, 50, 300), 1_000_000: (60, 1, 12)}


def straightforward(prediction: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    w = 1 / (variance + EPSILON)
    p = w / w.sum()
    return (p * (prediction - target) ** 2).sum()


def straightforward_double(prediction: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    "The straightforward way to be within 1e-7."
    return straightforward(prediction.double(), target.double(), variance.double()).float()


def ours(prediction: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    return biv_loss(prediction, target, variance, EPSILON)


def torch_weighted_mse(prediction: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    return F.mse_loss(prediction, target, weight=1 / (variance + EPSILON))


def torch_gaussian_nll(prediction: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    "Another loss (half of IV, plus a constant), for its speed only."
    return F.gaussian_nll_loss(prediction, target, variance, eps=EPSILON)


CANDIDATES = {"biv_loss": ours, "straightforward": straightforward, "straightforward, float64": straightforward_double,
              "torch mse_loss(weight)": torch_weighted_mse, "torch gaussian_nll_loss": torch_gaussian_nll}


def batch(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    "Prediction and target ~ N(0, 1); variance ~ Gamma(1, 1), which has many near zero."
    rng = np.random.default_rng(seed)
    draws = rng.normal(size=n), rng.normal(size=n), rng.gamma(1.0, 1.0, size=n)
    prediction, target, variance = (torch.tensor(x, dtype=torch.float32) for x in draws)
    return prediction.requires_grad_(), target, variance


def seconds(loss: Callable, inputs: tuple, calls: int, backward: bool) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        value = loss(*inputs)
        if backward:
            inputs[0].grad = None
            value.backward()
    return (time.perf_counter() - start) / calls


def times(loss: Callable, n: int, turns: int, calls: int, backward: bool) -> np.ndarray:
    "Seconds per call of the straightforward loss and of this one, (turns, 2); the first turn only warms up."
    inputs = batch(n, seed=0)
    rows = [[seconds(each, inputs, calls, backward) for each in (straightforward, loss)] for _ in range(turns + 1)]
    return np.array(rows[1:])


def errors(loss: Callable, n: int, batches: int) -> np.ndarray:
    "Relative to the straightforward loss in float64."
    found = []
    for seed in range(batches):
        inputs = batch(n, seed)
        exact = straightforward(*(x.double() for x in inputs)).item()
        found.append(abs(loss(*inputs).item() / exact - 1))
    return np.array(found)


def report(n: int, turns: int, calls: int, batches: int) -> None:
    print(f"\nn = {n}\n{'':26}{'fwd+bwd':>12}{'ratio':>8}{'fwd only':>12}{'ratio':>8}{'max error':>11}{'> 1e-7':>8}")
    for name, loss in CANDIDATES.items():
        line = f"{name:26}"
        for backward in (True, False):
            taken = times(loss, n, turns, calls, backward)
            line += f"{np.median(taken[:, 1]) * 1e6:9.1f} us{np.median(taken[:, 0] / taken[:, 1]):8.2f}"
        if name != "torch gaussian_nll_loss":
            error = errors(loss, n, batches)
            line += f"{error.max():11.1e}{(error > 1e-7).mean():8.1%}"
        print(line)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, float32, epsilon = {EPSILON}; "
          "ratio > 1: faster than straightforward")
    for size, plan in SIZES.items():
        report(size, *plan)
