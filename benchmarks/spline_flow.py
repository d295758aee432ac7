"""
How long does a training step of a flow of splines take, beside the same flow of two libraries?

    python benchmarks/spline_flow.py

One thread, float32, batches of 128. A step is the loss, its gradient and one step of Adam. Every candidate has four
layers of a coupling with eight-piece splines on [-1, 1], a random permutation and a linear map from two triangles; the
networks of couplings have six hidden layers, in pairs with a residual around each, except zuko's, which are plain.
Candidates run in this process by turns, so that whatever else the machine does falls on all; times are those of
the thread on the processor, and a ratio is the median over the turns of time(peer) / time(ours). The splines themselves
are compared with those of nflows in double precision.
"""

import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.nn.nets import ResidualNet
from nflows.transforms import CompositeTransform, PiecewiseRationalQuadraticCouplingTransform
from nflows.transforms.lu import LULinear
from nflows.transforms.permutations import RandomPermutation
from nflows.transforms.splines import unconstrained_rational_quadratic_spline
from torch import Tensor, nn
from zuko.distributions import DiagNormal
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.lazy import Flow as LazyFlow
from zuko.lazy import UnconditionalDistribution, UnconditionalTransform
from zuko.transforms import LULinearTransform, MonotonicRQSTransform, PermutationTransform

from uncpaper.models.flow import SplineFlow, spline

TURNS, BATCH, LAYERS, HIDDEN, BINS = 15, 128, 4, 64, 8
DIMENSIONS = 2, 64, 196

Loss = Callable[[Tensor], Tensor]


def ours(dimension: int) -> tuple[nn.Module, Loss]:
    flow = SplineFlow(dimension, LAYERS, HIDDEN, BINS)
    return flow, flow.loss


def nflows(dimension: int) -> tuple[nn.Module, Loss]:
    def network(inputs: int, outputs: int) -> nn.Module: return ResidualNet(inputs, outputs, HIDDEN, num_blocks=3)
    parts = []
    for i in range(LAYERS):
        moves = torch.arange(dimension) % 2 != i % 2
        parts += [PiecewiseRationalQuadraticCouplingTransform(moves, network, BINS, tails="linear", tail_bound=1.0),
                  RandomPermutation(dimension), LULinear(dimension, identity_init=True)]
    flow = Flow(CompositeTransform(parts), StandardNormal([dimension]))
    return flow, lambda x: -flow.log_prob(x).mean()


def zuko(dimension: int) -> tuple[nn.Module, Loss]:
    parts = []
    for i in range(LAYERS):
        parts += [GeneralCouplingTransform(dimension, mask=torch.arange(dimension) % 2 == i % 2,
                                           univariate=partial(MonotonicRQSTransform, bound=1.0),
                                           shapes=[(BINS,), (BINS,), (BINS - 1,)], hidden_features=(HIDDEN,) * 6),
                  UnconditionalTransform(PermutationTransform, torch.randperm(dimension), buffer=True),
                  UnconditionalTransform(LULinearTransform, torch.eye(dimension))]
    base = UnconditionalDistribution(DiagNormal, torch.zeros(dimension), torch.ones(dimension), buffer=True)
    flow = LazyFlow(parts, base)
    return flow, lambda x: -flow().log_prob(x).mean()


def trained(flow: nn.Module, loss: Loss) -> Loss:
    optimizer = torch.optim.Adam(flow.parameters(), 1e-4, fused=True)
    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
    return step


def seconds(call: Callable, *inputs: Tensor) -> float:
    start = time.thread_time()
    call(*inputs)
    return time.thread_time() - start


def report(dimension: int) -> None:
    torch.manual_seed(0)
    x = 2 * torch.rand(BATCH, dimension) - 1
    made = [build(dimension) for build in (ours, nflows, zuko)]
    steps = [trained(*flow) for flow in made]
    taken = np.array([[seconds(step, x) for step in steps] for _ in range(TURNS + 3)])[3:]
    weights = [sum(p.numel() for p in flow.parameters()) for flow, _ in made]
    times, ratios = np.median(taken, 0) * 1e3, np.median(taken / taken[:, :1], 0)
    for name, size, spent, ratio in zip(("ours", "nflows", "zuko"), weights, times, ratios):
        print(f"{name:10}{dimension:12}{size:12,}{spent:10.1f}{ratio:8.1f}")


def difference() -> float:
    x = 2.4 * torch.rand(100, 7, dtype=torch.float64) - 1.2
    sizes, slopes = torch.randn(2, BINS, *x.shape).double(), torch.randn(BINS - 1, *x.shape).double()
    peer = partial(unconstrained_rational_quadratic_spline, unnormalized_widths=sizes[0].movedim(0, -1),
                   unnormalized_heights=sizes[1].movedim(0, -1), unnormalized_derivatives=slopes.movedim(0, -1),
                   tails="linear", tail_bound=1.0)
    pairs = [(spline(x, sizes, slopes, inverse=way), peer(x, inverse=way)) for way in (False, True)]
    return max((a - b).abs().max().item() for mine, theirs in pairs for a, b in zip(mine, theirs))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"one thread, float32, batch {BATCH}, hidden {HIDDEN}, {LAYERS} layers; ratio > 1: slower than ours")
    print(f"{'':10}{'dimension':>12}{'weights':>12}{'ms':>10}{'ratio':>8}")
    for dimension in DIMENSIONS: report(dimension)
    print(f"splines, largest difference from those of nflows: {difference():.1e}")
