"""
How do time and memory grow with samples, dimensions, classes, members and steps?

    python benchmarks/growth.py

One thread. Each question is asked at a few sizes, each three times in a process of its own that is forked for it, which
says what time it took and by how much its memory rose. The exponent is the slope of a line through the logarithms of
the three largest sizes, and stands beside the one that counting operations or numbers gives. What does not depend on
size pulls an exponent below that: it is a bound for large sizes. The memory of fewer than 4 MiB is not told apart from
that of the interpreter, and has no exponent.
"""

import ctypes
import os
import pickle
import resource
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import NamedTuple

import numpy as np
import torch

from _rounds import add, processor
from uncpaper.density import GaussianDiscriminant
from uncpaper.diffusion import DPMSolver2M, GaussianDenoiser, last, sample
from uncpaper.ensembles import pairwise_information, wasserstein_distances
from uncpaper.metrics import auroc, frechet_distance, precision_recall_density_coverage
from uncpaper.schedules import linear_betas

LEAST = 4 * 2**20 # bytes, below which memory is not told apart


class Question(NamedTuple):
    what: str
    grows: str                             # what is varied
    sizes: tuple[int, ...]
    time: float                            # expected exponents
    memory: float | None                   # None: too little to be told apart
    prepare: Callable[[int], Callable]     # size -> what is timed; its inputs are there before


def gaussians(n: int, d: int, classes: int) -> tuple:
    y = torch.arange(n) % classes
    return torch.randn(n, d) + y[:, None], y


def fitting(n: int, d: int, classes: int) -> Callable:
    z = gaussians(n, d, classes)
    return lambda: GaussianDiscriminant.fit(*z)


def scoring(n: int, d: int, classes: int) -> Callable:
    z, y = gaussians(max(n, 4 * d * classes), d, classes)
    density = GaussianDiscriminant.fit(z, y)
    density.log_density(z[:2])
    return lambda: density.log_density(z[:n])


def disagreeing(members: int) -> Callable:
    mean = torch.randn(members, 1000, 16)
    return lambda: pairwise_information(wasserstein_distances(mean))


def chaining(steps: int) -> Callable:
    x, denoiser = torch.randn(64, 3, 32, 32), GaussianDenoiser(linear_betas(), 0.0, 1.0)
    return lambda: last(sample(denoiser, x, 999, DPMSolver2M(steps)))


def sharing(n: int) -> Callable:
    real, fake = np.random.default_rng(0).normal(size=(2, n, 64))
    return lambda: precision_recall_density_coverage(real, fake)


def ranking(n: int) -> Callable:
    low, high = torch.randn(2, n)
    return lambda: auroc(low, high)


def distancing(d: int) -> Callable:
    roots = np.random.default_rng(0).normal(size=(2, d, d)) / d**0.5
    a, b = (root @ root.T + np.eye(d) for root in roots)
    return lambda: frechet_distance(np.zeros(d), a, np.ones(d), b)


QUESTIONS = [
    Question("fit a density", "samples", (20_000, 40_000, 80_000, 160_000), 1, 1, lambda n: fitting(n, 64, 10)),
    Question("fit a density", "features", (128, 256, 512, 1024), 2, 1, lambda d: fitting(4000, d, 2)),
    Question("score by a density", "samples", (10_000, 20_000, 40_000, 80_000), 1, 1, lambda n: scoring(n, 64, 10)),
    Question("score by a density", "features", (128, 256, 512, 1024), 2, None, lambda d: scoring(4000, d, 2)),
    Question("score by a density", "classes", (5, 10, 20, 40), 1, None, lambda c: scoring(10_000, 64, c)),
    Question("information of members", "members", (16, 32, 64, 128), 2, 2, disagreeing),
    Question("a chain of DPM-Solver++", "steps", (50, 100, 200, 400), 1, None, chaining),
    Question("precision and recall", "samples", (1000, 2000, 4000, 8000), 2, 1, sharing),
    Question("AUROC", "samples", (250_000, 500_000, 1_000_000, 2_000_000), 1, 1, ranking),
    Question("Frechet distance", "features", (128, 256, 512, 1024), 3, 2, distancing),
]


def resident() -> int:
    with open("/proc/self/statm") as file: return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def asked(question: Question, size: int) -> tuple[float, int]:
    "Seconds, and bytes beyond what was there before, in a process of its own."
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        call = question.prepare(size)
        ctypes.CDLL(None).malloc_trim(0)  # what is free is given back: it would hide what the call takes
        before, start = resident(), time.process_time()
        call()
        spent, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        os.write(write, pickle.dumps((spent, max(0, peak - before))))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe: found = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(found)


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    return float(np.polyfit(np.log(sizes[-3:]), np.log(values[-3:]), 1)[0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'question':28}{'grows':12}{'time':>8}{'expected':>10}{'memory':>8}{'expected':>10}")
    for q in QUESTIONS:
        found = [[asked(q, size) for _ in range(3)] for size in q.sizes]
        seconds = [float(np.median([s for s, _ in rows])) for rows in found]
        memory = [int(np.median([m for _, m in rows])) for rows in found]
        of_memory = exponent(q.sizes, memory) if q.memory is not None and min(memory[-3:]) >= LEAST else None
        print(f"{q.what:28}{q.grows:12}{exponent(q.sizes, seconds):8.2f}{q.time:10}"
              f"{'' if of_memory is None else f'{of_memory:.2f}':>8}{'' if q.memory is None else q.memory:>10}",
              flush=True)
        add(dict(benchmark="Growth", case=f"{q.what}, {q.grows}", peer="", what=q.what, grows=q.grows, sizes=q.sizes,
                 seconds=seconds, memory=memory, time=exponent(q.sizes, seconds), time_expected=q.time,
                 memory_exponent=of_memory, memory_expected=q.memory, machine=processor(),
                 versions={"torch": torch.__version__}, when=datetime.now(timezone.utc).date().isoformat()))
