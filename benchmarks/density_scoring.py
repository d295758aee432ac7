"""
How fast and how exact is the scoring of GaussianDiscriminant beside pytorch-ood's GMM?

    pip install pytorch-ood==0.4.0
    python benchmarks/density_scoring.py

One thread, the same float32 features for both, fitted once by each; what is timed is one score, a log-sum-exp over
the classes with their frequencies, for each of n new samples. Each candidate runs in this process by turns with the
peer, so that whatever else the machine does falls on both; a ratio is the median over the turns of time(peer) /
time(candidate). Errors are the largest relative ones on the new samples, beside scipy's normal distribution in
float64 with the moments of the same definition (the peer divides by n and adds 1e-6 to the variances). "First" is the
first call of all, which for ours prepares the products; it is not part of the ratios.
"""

import math
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from torch import Tensor

from uncpaper.density import GaussianDiscriminant

try:
    from pytorch_ood.detector import GMM
except ImportError as missing:
    print(f"{missing}: pip install pytorch-ood==0.4.0")
    sys.exit(2)

SHAPES = {(2000, 64, 10): (30, 5), (1000, 512, 10): (15, 1),
          (512, 128, 100): (20, 1)}  # (n, features, classes): (turns, calls a turn)


def features(n: int, width: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    "Training features and labels, 2 * width + 50 a class; n new samples, half from no class. Deviations 0.3 to 3."
    rng = np.random.default_rng(0)
    labels = np.arange(classes * (2 * width + 50)) % classes
    means, mix = rng.normal(size=(classes, width)), np.linalg.qr(rng.normal(size=(classes, width, width)))[0]
    mix = mix * np.geomspace(0.3, 3, width)
    train = np.empty((len(labels), width))
    for c in range(classes):
        train[labels == c] = means[c] + rng.normal(size=((labels == c).sum(), width)) @ mix[c].T
    chosen = rng.integers(classes, size=n // 2)
    known = means[chosen] + np.einsum("nij,nj->ni", mix[chosen], rng.normal(size=(n // 2, width)))
    new = np.concatenate([known, 3 * rng.normal(size=(n - n // 2, width))])
    return torch.tensor(train, dtype=torch.float32), torch.tensor(labels), torch.tensor(new, dtype=torch.float32)


def reference(train: Tensor, labels: Tensor, new: Tensor, ddof: int, added: float) -> np.ndarray:
    "The log-density by numpy and scipy in float64, one class after the other."
    z, x, rows = train.double().numpy(), new.double().numpy(), []
    for c in range(int(labels.max()) + 1):
        own = z[labels.numpy() == c]
        factor = np.linalg.cholesky(np.cov(own.T, ddof=ddof) + added * np.eye(z.shape[1]))
        white = solve_triangular(factor, (x - own.mean(0)).T, lower=True)
        constant = np.log(np.diag(factor)).sum() + z.shape[1] / 2 * math.log(2 * math.pi)
        rows.append(math.log(len(own) / len(z)) - constant - (white**2).sum(0) / 2)
    return logsumexp(rows, axis=0)


def seconds(score: Callable, new: Tensor, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        score(new)
    return (time.perf_counter() - start) / calls


def report(shape: tuple[int, int, int], turns: int, calls: int) -> list[float]:
    "One line for each candidate; the ratios."
    train, labels, new = features(*shape)
    peer, ours = GMM(None).fit_features(train, labels), GaussianDiscriminant.fit(train, labels)
    own, theirs = reference(train, labels, new, ddof=1, added=0.0), reference(train, labels, new, ddof=0, added=1e-6)
    candidates = {"pytorch-ood GMM": (lambda x: -peer.predict_features(x), theirs),
                  "ours, float64": (lambda x: ours.log_density(x, priors=True), own),
                  "ours, float32": (lambda x: ours.log_density(x, priors=True, dtype=torch.float32), own)}
    baseline, ratios = candidates["pytorch-ood GMM"][0], []
    print(f"\n{shape[0]} samples, {shape[1]} features, {shape[2]} classes")
    print(f"{'':18}{'time':>11}{'ratio':>8}{'max error':>11}{'first':>11}")
    for name, (score, exact) in candidates.items():
        first = seconds(score, new, 1)
        taken = np.array([[seconds(each, new, calls) for each in (baseline, score)] for _ in range(turns + 1)][1:])
        ratios.append(float(np.median(taken[:, 0] / taken[:, 1])))
        error = np.abs(score(new).numpy() / exact - 1).max()
        print(f"{name:18}{np.median(taken[:, 1]) * 1e3:8.2f} ms{ratios[-1]:8.2f}{error:11.1e}{first * 1e3:8.1f} ms")
    return ratios


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread; ratio > 1: faster than pytorch-ood 0.4.0's GMM")
    means = np.exp(np.mean(np.log([report(shape, *plan) for shape, plan in SHAPES.items()]), axis=0))
    print(f"\ngeometric mean of the ratios: float64 {means[1]:.2f}, float32 {means[2]:.2f}")
