"""
How fast and how exact is expected_calibration_error beside torchmetrics 1.9.0?

    pip install torchmetrics==1.9.0
    python benchmarks/calibration.py

One thread, 15 bins, ten million predictions in single precision: confidences spread over [0, 1], and those of a good
classifier, most near 1. torchmetrics is called with and without its check of the input (ours always checks), and by its
metric for many classes (3 here). Each runs in this process by turns with ours, so that whatever else the machine does
falls on both; a ratio is the median over the turns of time(torchmetrics) / time(ours). For many classes torchmetrics
finds the predicted class itself: ours is timed with that step and without it.
The exact value is summed bin by bin in double precision with math.fsum.
"""

import math
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from uncpaper.metrics import expected_calibration_error

try:
    from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError
except ModuleNotFoundError:
    print("torchmetrics is not installed: pip install torchmetrics==1.9.0", file=sys.stderr)
    sys.exit(2)

N, BINS, TURNS, CLASSES = 10_000_000, 15, 3, 3


def predictions(near_one: bool) -> tuple[Tensor, Tensor]:
    "Confidence u, or 1 - u^8 / 2, for u ~ U(0, 1); right with the probability confidence ^ 1.2."
    g = torch.Generator().manual_seed(0)
    u = torch.rand(N, generator=g)
    confidence = 1 - u**8 / 2 if near_one else u
    return confidence, torch.rand(N, generator=g) < confidence**1.2


def many_classes() -> tuple[Tensor, Tensor]:
    "Probabilities (N, CLASSES), and labels from slightly flatter ones."
    g = torch.Generator().manual_seed(1)
    probabilities = (2 * torch.randn(N, CLASSES, generator=g)).softmax(1)
    return probabilities, (probabilities**0.8).multinomial(1, generator=g)[:, 0]


def exact(confidence: Tensor, correct: Tensor) -> float:
    "Right-closed bins found by search, sums without rounding."
    c, hit = confidence.double().numpy(), correct.numpy()
    k = np.maximum(np.searchsorted(np.arange(BINS + 1) / BINS, c) - 1, 0)
    return sum(abs(math.fsum(c[k == b]) - int(hit[k == b].sum())) for b in range(BINS)) / len(c)


def binary(validate: bool) -> Callable:
    def call(confidence: Tensor, target: Tensor) -> float:
        metric = BinaryCalibrationError(n_bins=BINS, norm="l1", validate_args=validate)
        metric.update(confidence, target)
        return metric.compute().item()
    return call


def multiclass(probabilities: Tensor, label: Tensor) -> float:
    metric = MulticlassCalibrationError(num_classes=CLASSES, n_bins=BINS, norm="l1")
    metric.update(probabilities, label)
    return metric.compute().item()


def ours_multiclass(probabilities: Tensor, label: Tensor) -> float:
    confidence, predicted = probabilities.max(1)
    return expected_calibration_error(confidence, predicted == label, BINS)


def seconds(call: Callable, *inputs: Tensor) -> float:
    start = time.perf_counter()
    call(*inputs)
    return time.perf_counter() - start


def report(name: str, peer: Callable, ours: Callable, peer_inputs: tuple, our_inputs: tuple, truth: float) -> None:
    "One line; the first turn only warms up."
    taken = np.array([[seconds(peer, *peer_inputs), seconds(ours, *our_inputs)] for _ in range(TURNS + 1)])[1:]
    a, b = np.median(taken, 0) * 1e3
    errors = [call(*inputs) / truth - 1 for call, inputs in ((ours, our_inputs), (peer, peer_inputs))]
    ratio = np.median(taken[:, 0] / taken[:, 1])
    print(f"{name:40}{a:9.0f} ms{b:9.0f} ms{ratio:8.1f}{errors[0]:12.1e}{errors[1]:12.1e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"one thread, {BINS} bins, float32; ratio > 1: faster than torchmetrics; errors relative to the exact value")
    print(f"{'':40}{'torchmetrics':>12}{'ours':>12}{'ratio':>8}{'our error':>12}{'its error':>12}")
    for name, near_one in (("spread", False), ("good classifier", True)):
        confidence, correct = predictions(near_one)
        inputs, truth = ((confidence, correct.long()), (confidence, correct)), exact(confidence, correct)
        report(f"two classes, {name}", binary(True), expected_calibration_error, *inputs, truth)
        report(f"two classes, {name}, unchecked", binary(False), expected_calibration_error, *inputs, truth)
    probabilities, label = many_classes()
    top, predicted = probabilities.max(1)
    known = top, predicted == label
    report(f"{CLASSES} classes, finding the class", multiclass, ours_multiclass, *[(probabilities, label)] * 2,
           exact(*known))
    report(f"{CLASSES} classes, class known to ours", multiclass, expected_calibration_error, (probabilities, label),
           known, exact(*known))
