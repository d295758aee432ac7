"""
How fast and how exact are the distances of all pairs beside the straightforward tensor of pairs?

    python benchmarks/pairwise.py

One thread, float64. Each candidate runs in this process by turns with its peer, so that whatever else the machine does
falls on both; a ratio is the median over the turns of time(peer) / time(ours). The peer is the formula as it is
written, over a tensor (member, member, dimension). Three settings: 5 and 20 members of 12,288 dimensions, a latent of
3 x 64 x 64, and 100 members of 3,072, a picture of 3 x 32 x 32.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from uncpaper.ensembles import chernoff_distances, kl_distances, pairwise_information, wasserstein_distances

TURNS = 9
SETTINGS = (5, 12_288), (20, 12_288), (100, 3_072)


def pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, None], x[None]


def wasserstein(mean: Tensor, variance: Tensor) -> Tensor:
    (a, b), (s, t) = pairs(mean), pairs(variance.sqrt())
    return ((a - b) ** 2 + (s - t) ** 2).sum(-1)


def kl(mean: Tensor, variance: Tensor) -> Tensor:
    (a, b), (v, w) = pairs(mean), pairs(variance)
    return ((v + (a - b) ** 2) / w - 1 + (w / v).log()).sum(-1) / 2


def bhattacharyya(mean: Tensor, variance: Tensor) -> Tensor:
    (a, b), (v, w) = pairs(mean), pairs(variance)
    mixed = (v + w) / 2
    return ((a - b) ** 2 / mixed / 4 + mixed.log() - (v.log() + w.log()) / 2).sum(-1) / 2


CANDIDATES: dict[str, tuple[Callable, Callable]] = {
    "Wasserstein": (wasserstein, lambda m, v: wasserstein_distances(m, v.sqrt())),
    "Wasserstein, equal variances": (
        lambda m, v: wasserstein(m, torch.ones_like(m)), lambda m, v: wasserstein_distances(m)),
    "KL": (kl, kl_distances),
    "Bhattacharyya": (bhattacharyya, chernoff_distances),
}


def seconds(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def report(name: str, members: int, dimensions: int) -> None:
    random = torch.Generator().manual_seed(0)
    mean = torch.randn(members, dimensions, generator=random, dtype=torch.float64) / dimensions**0.5
    variance = 1 + 0.02 * torch.rand(members, dimensions, generator=random, dtype=torch.float64)
    peer, ours = CANDIDATES[name]
    taken = np.array([[seconds(lambda: f(mean, variance)) for f in (peer, ours)] for _ in range(TURNS + 1)])[1:]
    (a, b), ratio = np.median(taken, 0), np.median(taken[:, 0] / taken[:, 1])
    gap = pairwise_information(peer(mean, variance)) - pairwise_information(ours(mean, variance))
    print(f"{name:30}{members:8}{dimensions:12,}{a * 1e3:12.2f}{b * 1e3:10.3f}{ratio:9.1f}{gap.abs().item():14.1e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("one thread, float64; ratio > 1: faster than the tensor of pairs; difference of the information, nats")
    print(f"{'':30}{'members':>8}{'dimensions':>12}{'peer, ms':>12}{'ours, ms':>10}{'ratio':>9}{'difference':>14}")
    for name in CANDIDATES:
        for setting in SETTINGS: report(name, *setting)
