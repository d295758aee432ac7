"""
How fast and how exact is auroc beside scikit-learn's roc_auc_score?

    python benchmarks/ranking.py

One thread, a million scores. Each candidate runs in this process by turns with scikit-learn's, so that whatever else
the machine does falls on both; a ratio is the median over the turns of time(scikit-learn) / time(ours). What our side
takes to join scores and labels for scikit-learn is not counted. The exact value is the Mann-Whitney statistic in
whole numbers.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from uncpaper.metrics import auroc, average_precision

TURNS = 7
SIZES = {"even": (500_000, 500_000), "1 in 10 foreign": (900_000, 100_000)}
KINDS = {"float32": (np.float32, None), "float64": (np.float64, None), "float64, two digits (ties)": (np.float64, 2)}


def scores(sizes: tuple[int, int], kind: type, digits: int | None) -> list[np.ndarray]:
    "Familiar ~ N(0, 1), foreign ~ N(1, 1), rounded where digits are given."
    rng = np.random.default_rng(0)
    drawn = [rng.normal(mean, 1, n) for mean, n in zip((0, 1), sizes)]
    return [(x if digits is None else x.round(digits)).astype(kind) for x in drawn]


def exact(low: np.ndarray, high: np.ndarray) -> float:
    "By groups of equal scores, in integers of any size."
    _, group = np.unique(np.concatenate([low, high]), return_inverse=True)
    of_low, of_high = (np.bincount(part, minlength=group.max() + 1) for part in np.split(group, [len(low)]))
    below = np.cumsum(of_low) - of_low
    twice = sum(int(x) for x in of_high * (2 * below + of_low))
    return twice / (2 * len(low) * len(high))


def seconds(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratio(peer: Callable, ours: Callable) -> tuple[float, float, float]:
    "Median seconds of both and the median ratio; the first turn only warms up."
    taken = np.array([[seconds(peer), seconds(ours)] for _ in range(TURNS + 1)])[1:]
    return *np.median(taken, 0), np.median(taken[:, 0] / taken[:, 1])


def report(name: str, sizes: tuple[int, int], kind: type, digits: int | None) -> None:
    low, high = scores(sizes, kind, digits)
    label, score = np.repeat([0, 1], sizes), np.concatenate([low, high])
    truth, ours, theirs = exact(low, high), auroc(low, high), roc_auc_score(label, score)
    a, b, times = ratio(lambda: roc_auc_score(label, score), lambda: auroc(low, high))
    print(f"{name:46}{a * 1e3:9.1f} ms{b * 1e3:9.1f} ms{times:8.1f}{ours - truth:11.1e}{theirs - truth:11.1e}")
    a, b, times = ratio(lambda: average_precision_score(label, score), lambda: average_precision(low, high))
    gap = average_precision(low, high) - average_precision_score(label, score)
    print(f"{'  average precision':46}{a * 1e3:9.1f} ms{b * 1e3:9.1f} ms{times:8.1f}{gap:11.1e}{'':>11}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("one thread, a million scores; ratio > 1: faster than scikit-learn; error of AUROC against whole numbers, "
          "of average precision against scikit-learn")
    print(f"{'':46}{'scikit-learn':>12}{'ours':>12}{'ratio':>8}{'our error':>11}{'its error':>11}")
    for size, sizes in SIZES.items():
        for kind, (dtype, digits) in KINDS.items():
            report(f"AUROC, {size}, {kind}", sizes, dtype, digits)
