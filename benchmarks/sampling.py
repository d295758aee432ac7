"""
What does a sampler cost beside its network? Against azula 0.11.1 and diffusers 0.42.1.

    pip install azula==0.11.1 diffusers==0.42.1
    python benchmarks/sampling.py

One thread, float32, 8 x 8 pictures, chains of 50 steps with one network call each: DDIM (eta = 0) and the ancestral
chain (DDPM, posterior variance). All three have the same network, the same schedule (azula's VPSchedule at 50 even
times, which is a table of 50 betas for the other two) and visit the same times; each is used as its documentation
shows, progress bars off, gradients off. DDIM's results are compared first: they agree to 1e-4. The ancestral chains
draw their own noise, and ours draws it from one stream per sample.

Each takes its turns in this process, in changing order, so that whatever else the machine does falls on all three;
times are processor times, and a ratio is the median over the turns of time(other) / time(ours). The network "none"
answers with its input: what is left is the samplers' own work. A network that takes longer than about a tenth of a
millisecond hides the difference, and with a U-Net all three take the time of the U-Net: there the ratios are near 1.

Measured on a busy machine with two cores, time of azula and of diffusers over ours:

| network                  | batch | DDIM       | ancestral   |
| none                     |     1 | 4.6, 2.6   | 2.6, 2.6    |
| perceptron, 2 layers 64  |     1 | 2.8, 1.9   | 2.2, 2.6    |
| perceptron, 2 layers 64  |    16 | 2.6, 1.8   | 2.0, 2.2    |
| perceptron, 2 layers 64  |    64 | 2.5, 1.6   | 1.45, 1.6   |
| perceptron, 2 layers 64  |   256 | 2.1, 1.45  | 1.0, 1.2    |
| residual perceptron, 64  |     1 | 1.95, 1.5  | 1.3, 1.5    |
| U-Net, width 16          |     1 | 1.10, 1.07 | not measured |

The streams, one for each sample, cost the lead in large ancestral batches.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from uncpaper.diffusion import DDIM, Ancestral, NetworkDenoiser, last, sample
from uncpaper.models.unet import ResidualMLP, UNet
from uncpaper.schedules import VariancePreserving

try:
    import azula.denoise, azula.noise, azula.sample
    from diffusers import DDIMScheduler, DDPMScheduler
except ModuleNotFoundError:
    print("azula and diffusers are needed: pip install azula==0.11.1 diffusers==0.42.1", file=sys.stderr)
    sys.exit(2)

STEPS, TURNS = 50, 9


class Small(nn.Module):
    "Two hidden layers that see the pixels and the time."
    def __init__(self, pixels: int = 64, width: int = 64):
        super().__init__()
        self.entry, self.hidden = nn.Linear(pixels + 1, width), nn.Linear(width, width)
        self.exit = nn.Linear(width, pixels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.entry(torch.cat([x.flatten(1), t[:, None] / STEPS], 1)).relu()
        return self.exit(self.hidden(h).relu()).view_as(x)


def lively(network: nn.Module) -> nn.Module:
    "The network with random weights in every layer, also in those that start at zero."
    torch.manual_seed(0)
    for p in network.parameters():
        if p.ndim > 1: nn.init.normal_(p, std=0.5 / p[0].numel() ** 0.5)
    return network.eval().requires_grad_(False)


NETWORKS: dict[str, Callable[[], Callable[[Tensor, Tensor], Tensor]]] = {
    "none": lambda: lambda x, t: x,
    "MLP, 2 layers of 64": lambda: lively(Small()),
    "residual MLP, width 64": lambda: lively(ResidualMLP(64, width=64, blocks=1)),
    "U-Net, width 16": lambda: lively(UNet(1, 8, 16, (1, 2), 1, (), 0.0)),
}


class Azula(azula.denoise.Denoiser):
    "An epsilon network with the steps' indices, as a denoiser of azula's."
    def __init__(self, network: Callable, schedule: azula.noise.Schedule):
        super().__init__()
        self.network, self.schedule = network, schedule

    def forward(self, x_t: Tensor, t: Tensor) -> azula.denoise.DiracPosterior:
        alpha, sigma = self.schedule(t)
        return azula.denoise.DiracPosterior((x_t - sigma * self.network(x_t, (t * STEPS - 1).expand(len(x_t)))) / alpha)


VP = azula.noise.VPSchedule(alpha_min=0.01, sigma_min=0.0)
A = VP.alpha(torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)) ** 2
BETAS = 1 - A[1:] / A[:-1]


def ours(network: Callable, ddim: bool) -> Callable[[Tensor], Tensor]:
    denoiser = NetworkDenoiser(network, VariancePreserving(BETAS))
    sampler = DDIM() if ddim else Ancestral()
    return lambda x: last(sample(denoiser, x, STEPS - 1, sampler, None if ddim else range(len(x))))


def with_azula(network: Callable, ddim: bool) -> Callable[[Tensor], Tensor]:
    kind = azula.sample.DDIMSampler if ddim else azula.sample.DDPMSampler
    return kind(Azula(network, VP), steps=STEPS, silent=True)


def with_diffusers(network: Callable, ddim: bool) -> Callable[[Tensor], Tensor]:
    kind = DDIMScheduler if ddim else DDPMScheduler
    scheduler = kind(num_train_timesteps=STEPS, trained_betas=BETAS.numpy(), clip_sample=False)
    def run(x: Tensor) -> Tensor:
        scheduler.set_timesteps(STEPS)
        for t in scheduler.timesteps:
            with torch.no_grad(): said = network(x, t.expand(len(x)).to(x.dtype))
            x = scheduler.step(said, t, x).prev_sample
        return x
    return run


def seconds(call: Callable, x: Tensor) -> float:
    start = time.process_time()
    call(x)
    return time.process_time() - start


def times(calls: list[Callable], x: Tensor) -> np.ndarray: # (turn, call)
    "The first turn only warms up."
    rows = []
    for turn in range(TURNS + 1):
        row = [0.0] * len(calls)
        for i in range(len(calls)): row[(i + turn) % len(calls)] = seconds(calls[(i + turn) % len(calls)], x)
        rows.append(row)
    return np.array(rows[1:])


def check(calls: list[Callable], x: Tensor) -> None:
    "All chains end in the same pictures, to 1e-4 of their size."
    a, *others = (call(x) for call in calls)
    for b in others: assert (a - b).abs().max() <= 1e-4 * a.abs().max(), (a - b).abs().max() / a.abs().max()


def report(name: str, ddim: bool, batch: int) -> None:
    network = NETWORKS[name]()
    calls = [make(network, ddim) for make in (ours, with_azula, with_diffusers)]
    x = torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    if ddim: check(calls, x)
    taken = times(calls, x)
    mine, a, d = np.median(taken, 0) / STEPS * 1e6
    ratio_a, ratio_d = np.median(taken[:, 1:] / taken[:, :1], 0)
    print(f"{'DDIM' if ddim else 'ancestral':11}{name:24}{batch:6}{mine:10.0f}"
          f"{a:10.0f}{d:10.0f}{ratio_a:10.2f}{ratio_d:10.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, float32, {STEPS} steps; "
          "microseconds a step, ratio > 1: slower than ours")
    print(f"{'sampler':11}{'network':24}{'batch':>6}{'ours':>10}"
          f"{'azula':>10}{'diffusers':>10}{'ratio a':>10}{'ratio d':>10}")
    for ddim in (True, False):
        for name in NETWORKS:
            for batch in (1, 16) if "U-Net" in name else (1, 16, 64, 256): report(name, ddim, batch)
