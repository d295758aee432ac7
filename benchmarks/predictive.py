"""
How fast is the posterior predictive of a classifier with dropout beside a plain loop, and how close?

    python benchmarks/predictive.py

One thread, float32, 50 zetas a picture and 50 dropout draws. The plain loop puts each of the 50 networks together,
its masks set by hand, and shows it the pictures once for each zeta; the loop over draws shows each network all zetas
at once. `predictive` runs the trunk once and thins the heads. Each loop runs in this process by turns with ours, so
that whatever else the machine does falls on both; a ratio is the median over the turns of time(loop) / time(ours).
For the published ResNet-9 the loops are timed on a few of the draws, and multiplied up. "Difference" is the largest
one of all probabilities; more than 1e-6 stops the script.

Measured on a busy machine with two cores, ratio to the plain loop and to the loop over draws: ResNet-9 at an eighth
of its width 66 and 27, the published ResNet-9 88 and 38, the perceptron 4.8 and 3.1.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from uncpaper.models.classifiers import dropout_mlp, resnet9
from uncpaper.models.dropout import DropoutClassifier, SharedDropout, masks, predictive

ZETAS, DRAWS = 50, 50
CASES = {  # name: (network, pictures, channels, size, draws of the loops, turns)
    "ResNet-9 of width 8, 28x28": (lambda: resnet9(channels=1, dropout=0.5, width=8, size=28), 2, 1, 28, 50, 3),
    "ResNet-9 as published, 32x32": (lambda: resnet9(dropout=0.5), 1, 3, 32, 2, 2),
    "perceptron as published, 32x32": (dropout_mlp, 20, 1, 32, 50, 3),
}


class Masked(nn.Module):
    def __init__(self, mask: Tensor):
        super().__init__()
        self.mask = mask

    def forward(self, h: Tensor) -> Tensor:
        return h * self.mask


def network(model: DropoutClassifier, masks: list[Tensor]) -> nn.Module:
    "One theta: the classifier with masks in the places of its dropout layers."
    each = iter(masks)
    return nn.Sequential(model.trunk, *[Masked(next(each)) if isinstance(layer, SharedDropout) else layer
                                        for layer in model.head])


@torch.no_grad()
def plain_loop(model: DropoutClassifier, x: Tensor, draws: int) -> Tensor:
    nets = [network(model, theta) for theta in masks(model, draws)]
    return torch.stack([torch.stack([net(x[:, k]).softmax(-1) for k in range(x.shape[1])], 1) for net in nets], 1)


@torch.no_grad()
def loop_over_draws(model: DropoutClassifier, x: Tensor, draws: int) -> Tensor:
    flat = x.flatten(0, 1)
    answers = [torch.cat([net(part).softmax(-1) for part in flat.split(256)])
               for net in (network(model, theta) for theta in masks(model, draws))]
    return torch.stack(answers, 1).unflatten(0, x.shape[:2]).transpose(1, 2)


def settled(make: Callable[[], DropoutClassifier], shape: tuple[int, ...]) -> DropoutClassifier:
    "A network with running statistics that are not the initial ones, in evaluation mode."
    torch.manual_seed(0)
    model = make().train()
    with torch.no_grad(): model(torch.randn(8, *shape))
    return model.eval()


def seconds(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    answer = call()
    return time.perf_counter() - start, answer


def report(name: str, make: Callable[[], DropoutClassifier], pictures: int, channels: int, size: int, draws: int,
           turns: int) -> None:
    "A line for each loop: time of the loop and of ours, ratio, largest difference."
    model = settled(make, (channels, size, size))
    x = torch.randn(pictures, ZETAS, channels, size, size, generator=torch.Generator().manual_seed(0))
    print(f"\n{name}: {pictures} pictures, {ZETAS} zetas, {DRAWS} draws\n"
          f"{'':16}{'loop':>11}{'ours':>11}{'ratio':>8}{'difference':>12}")
    for loop in (plain_loop, loop_over_draws):
        taken = []
        for _ in range(turns + 1):
            theirs_s, theirs = seconds(lambda: loop(model, x, draws))
            ours_s, ours = seconds(lambda: predictive(model, x, DRAWS))
            taken.append((theirs_s * DRAWS / draws, ours_s))
        theirs_s, ours_s = np.array(taken[1:]).T
        difference = (ours[:, :draws] - theirs).abs().max().item()
        told = loop.__name__.replace("_", " ")
        assert difference <= 1e-6, f"{name}: predictive differs from the {told} by {difference}"
        print(f"{told:16}{np.median(theirs_s):9.2f} s{np.median(ours_s):9.3f} s"
              f"{np.median(theirs_s / ours_s):8.1f}{difference:12.1e}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread; ratio > 1: predictive is faster")
    for name, case in CASES.items(): report(name, *case)
