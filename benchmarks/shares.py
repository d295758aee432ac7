"""
How fast are precision, recall, density and coverage beside prdc 0.2, and do they agree?

    pip install prdc==0.2
    python benchmarks/shares.py

As many real as generated samples, k = 5, float64, in this process by turns; a ratio is the median over the turns of
time(prdc) / time(ours), in seconds of a core: ours takes one thread, prdc asks for eight. The memory of ours is that of
some rows of a table of distances, prdc's that of three whole ones.
"""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable

for library in ("OMP", "OPENBLAS", "MKL"): os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np
import torch

from uncpaper.metrics import PrecisionRecall, precision_recall_density_coverage

try:
    from prdc import compute_prdc
except ImportError:
    print("prdc is not installed: pip install prdc==0.2", file=sys.stderr)
    sys.exit(1)

TURNS = 3
SETTINGS = (2000, 512), (2000, 2048), (5000, 512)


def by_prdc(real: np.ndarray, fake: np.ndarray) -> tuple:
    with contextlib.redirect_stdout(io.StringIO()): found = compute_prdc(real, fake, 5)
    return tuple(found[name] for name in PrecisionRecall._fields)


def seconds(call: Callable) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("float64; ratio > 1: less work than prdc 0.2; the largest difference of the four")
    print(f"{'samples':>10}{'features':>10}{'prdc, s':>10}{'ours, s':>10}{'ratio':>8}{'difference':>12}")
    for n, dimension in SETTINGS:
        random = np.random.default_rng(0)
        pair = random.normal(size=(n, dimension)), 1.02 * random.normal(size=(n, dimension))
        calls = by_prdc, precision_recall_density_coverage
        taken = np.array([[seconds(lambda: f(*pair)) for f in calls] for _ in range(TURNS)])
        gap = np.abs(np.subtract(*(f(*pair) for f in calls))).max()
        (theirs, ours), ratio = np.median(taken, 0), np.median(taken[:, 0] / taken[:, 1])
        print(f"{n:10,}{dimension:10,}{theirs:10.2f}{ours:10.2f}{ratio:8.1f}{gap:12.1e}", flush=True)
