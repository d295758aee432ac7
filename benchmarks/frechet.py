"""
How fast and how exact is the Fréchet distance beside the roots that others take?

    python benchmarks/frechet.py

One thread, float64. Each candidate runs in this process by turns with its peers, so that whatever else the machine does
falls on all; a ratio is the median over the turns of time(peer) / time(ours), in seconds of a core, where ours is
`frechet_distance`, with its look at the input. Peers find the trace of the root of S1 S2 from its eigenvalues as those
of any matrix, by numpy and by torch, of which the faster counts, and from scipy's root of it. Covariances are of 3 D
samples. Then 500 samples of more features than that: moments without full rank, and ours once more from the features.
"""

import os
import time
import warnings
from collections.abc import Callable

for library in ("OMP", "OPENBLAS", "MKL"): os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np
import torch
from scipy.linalg import sqrtm

from uncpaper.metrics import frechet_distance, sample_frechet_distance

TURNS = {512: 9, 1024: 5, 2048: 3}
Moments = tuple[np.ndarray, np.ndarray]


def distance(first: Moments, second: Moments, root_trace: float) -> float:
    return ((first[0] - second[0]) ** 2).sum() + first[1].trace() + second[1].trace() - 2 * root_trace


def by_numpy(product: np.ndarray) -> float:
    return np.sqrt(np.linalg.eigvals(product).astype(complex)).real.sum()


def by_torch(product: np.ndarray) -> float:
    return torch.linalg.eigvals(torch.from_numpy(product)).sqrt().real.sum().item()


def by_root(product: np.ndarray) -> float:
    return sqrtm(product).trace().real


PEERS: dict[str, Callable[[np.ndarray], float]] = {"numpy": by_numpy, "torch": by_torch, "scipy.sqrtm": by_root}


def seconds(call: Callable[[], float]) -> tuple[float, float]:
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def drawn(seed: int, samples: int, dimension: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixed = np.eye(dimension) + random.normal(size=(dimension, dimension)) / dimension**0.5
    return random.normal(size=(samples, dimension)) @ mixed * np.linspace(0.1, 3, dimension)


def moments(x: np.ndarray) -> Moments:
    return x.mean(0), np.cov(x, rowvar=False)


def report(name: str, ours: Callable[[], float], first: Moments, second: Moments, turns: int) -> None:
    calls = [ours, *(lambda f=f: distance(first, second, f(first[1] @ second[1])) for f in PEERS.values())]
    turned = np.array([[seconds(call) for call in calls] for _ in range(turns + 1)])[1:]
    taken, found = turned[..., 0], turned[0, :, 1]
    ratios = [np.median(taken[:, 1:3].min(1) / taken[:, 0]), np.median(taken[:, 3] / taken[:, 0])]
    times = "".join(f"{t * 1e3:12.1f}" for t in np.median(taken, 0))
    gaps = "".join(f"{abs(other - found[0]) / found[0]:12.1e}" for other in found[1:])
    print(f"{name:>12}{times}{ratios[0]:12.1f}{ratios[1]:10.1f}{gaps}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("one thread, float64; milliseconds; ratio > 1: faster than the faster eigenvalues, than the root; relative "
          "differences")
    heads = "".join(f"{name:>12}" for name in ("ours", *PEERS))
    print(f"{'features':>12}{heads}{'eigenvalues':>12}{'root':>10}{heads[12:]}")
    for dimension, turns in TURNS.items():
        first, second = (moments(drawn(seed, 3 * dimension, dimension)) for seed in (0, 1))
        report(f"{dimension:,}", lambda: frechet_distance(*first, *second), first, second, turns)
    print("500 samples in each set: from moments, then ours from features")
    for dimension in (784, 1280):
        x, y = (drawn(seed, 500, dimension) for seed in (0, 1))
        first, second = moments(x), moments(y)
        report(f"{dimension:,}", lambda: frechet_distance(*first, *second), first, second, 3)
        report(f"{dimension:,}", lambda: sample_frechet_distance(x, y), first, second, 3)
