"""
What does spectral normalisation cost beside a plain convolution?

    python benchmarks/spectral_norm.py

One thread, float32, the same inputs for both; the plain nn.Conv2d has the normalised layer's scaled weight, so that
both do the same multiplications. In evaluation SpectralConv2d keeps that weight: its time should be the plain one's
to within 2 %. Each pair runs in this process by turns, a few calls at a time and in alternating order, so that
whatever else the machine does falls on both; times are processor times, and a ratio is the median over the turns of
SpectralConv2d / nn.Conv2d, with its standard error (from the median absolute deviation). "Same twice" is the ratio of
two plain convolutions, measured in the same way: how far from one such a ratio strays on this machine. Training steps
(forward, backward) include one power iteration and are for information; its cost does not grow with the batch.
"""

import copy
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from uncpaper.models.spectral import SpectralConv2d, used_weight, settle

SHAPES = {"28 x 28, 16 channels, batch 128": (128, 16, 28), "32 x 32, 64 channels, batch 16": (16, 64, 32),
          "32 x 32, 160 channels (WRN), batch 8": (8, 160, 32)}  # (batch, channels, size)
SECONDS_A_TURN, TURNS = 0.02, 150


def pair(channels: int, size: int) -> tuple[SpectralConv2d, nn.Conv2d]:
    "A 3x3 convolution that is scaled down, and a plain one with its scaled weight."
    torch.manual_seed(0)
    normalised = SpectralConv2d(channels, channels, 3, size, padding=1, coefficient=0.5)
    plain = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    settle(normalised)
    plain.weight.data.copy_(used_weight(normalised).detach())
    return normalised, plain


def evaluation(layer: nn.Module, x: Tensor) -> None:
    with torch.inference_mode(): layer(x)


def training(layer: nn.Module, x: Tensor) -> None:
    layer(x).sum().backward()


def seconds(run: Callable, layer: nn.Module, x: Tensor, calls: int) -> float:
    start = time.process_time()
    for _ in range(calls): run(layer, x)
    return (time.process_time() - start) / calls


def times(run: Callable, ours: nn.Module, plain: nn.Module, x: Tensor, turns: int) -> np.ndarray:
    "Seconds per call of ours and of the plain layer, (turns, 2); the first turn only warms up."
    calls = max(1, round(SECONDS_A_TURN / min(seconds(run, plain, x, 1) for _ in range(3))))
    rows = []
    for turn in range(turns + 1):
        row = [0.0, 0.0]
        for which in ((0, 1), (1, 0))[turn % 2]: row[which] = seconds(run, (ours, plain)[which], x, calls)
        rows.append(row)
    return np.array(rows[1:])


def ratio(taken: np.ndarray) -> tuple[float, float]: # median and its standard error
    ratios = taken[:, 0] / taken[:, 1]
    spread = 1.4826 * np.median(abs(ratios - np.median(ratios)))
    return float(np.median(ratios)), float(1.2533 * spread / len(ratios) ** 0.5)


def line(taken: np.ndarray) -> str:
    value, error = ratio(taken)
    ours, plain = np.median(taken, axis=0) * 1e3
    return f"{ours:10.3f} ms{plain:10.3f} ms{value:9.4f} +- {error:.4f}"


def report(name: str, batch: int, channels: int, size: int) -> None:
    normalised, plain = pair(channels, size)
    x = torch.randn(batch, channels, size, size)
    normalised.eval()
    with torch.inference_mode(): assert torch.equal(normalised(x), plain(x))
    print(f"\n{name}\n{'':12}{'SpectralConv2d':>13}{'nn.Conv2d':>12}{'ratio':>9}")
    print(f"{'evaluation':10}{line(times(evaluation, normalised, plain, x, TURNS))}")
    print(f"{'same twice':10}{line(times(evaluation, copy.deepcopy(plain), plain, x, TURNS))}")
    print(f"{'training':10}{line(times(training, normalised.train(), plain, x, TURNS // 5))}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, float32, 3 x 3 convolutions; ratio > 1: slower than plain")
    for name, shape in SHAPES.items(): report(name, *shape)
