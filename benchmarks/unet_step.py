"""
How long is a training step of a U-Net, beside diffusers and denoising-diffusion-pytorch, with as many parameters?

    pip install diffusers==0.42.1 denoising-diffusion-pytorch==2.3.4
    python benchmarks/unet_step.py

One thread, float32, Adam, pictures of 16 x 16 pixels and one channel, batches of 16, two levels with two residual
blocks each and attention in the middle and on the lower level. The peers' widths are those at which their parameters
come closest to ours (to within 15 %). All are trained on the same pictures, indices and noise, and their losses over
the last 20 of 120 steps are told: one further than a quarter from ours is marked, for a faster step that learns less is
none. Steps then take turns in this process; a ratio is time(peer) / time(ours). Wanted: 1.2.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from _rounds import note, turns
from uncpaper.losses import diffusion_loss
from uncpaper.models.unet import UNet
from uncpaper.numerics import generator
from uncpaper.schedules import linear_betas

try:
    from denoising_diffusion_pytorch import Unet
    from diffusers import UNet2DModel
except ModuleNotFoundError:
    print("pip install diffusers==0.42.1 denoising-diffusion-pytorch==2.3.4", file=sys.stderr)
    sys.exit(2)

SIZE, BATCH, STEPS, SCHEDULE = 16, 16, 120, linear_betas()


class Diffusers(UNet2DModel):
    def forward(self, x: Tensor, t: Tensor) -> Tensor: return super().forward(x, t).sample


def with_diffusers(width: int) -> nn.Module:
    return Diffusers(SIZE, 1, 1, block_out_channels=(width, 2 * width), layers_per_block=2, norm_num_groups=8,
                     down_block_types=("DownBlock2D", "AttnDownBlock2D"), attention_head_dim=2 * width,
                     up_block_types=("AttnUpBlock2D", "UpBlock2D"))


def with_denoising(width: int) -> nn.Module:
    return Unet(width, channels=1, dim_mults=(1, 2), full_attn=(False, True))


def parameters(model: nn.Module) -> int: return sum(p.numel() for p in model.parameters())


def closest(build: Callable[[int], nn.Module], wanted: int) -> nn.Module:
    width = min(range(16, 65, 8), key=lambda width: abs(parameters(build(width)) - wanted))
    torch.manual_seed(0)
    return build(width)


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    "Smooth blobs of one bright spot each, an index and noise."
    g = generator(step, "batch")
    at, grid = 3 + 10 * torch.rand(BATCH, 2, 1, 1, generator=g), torch.arange(SIZE)
    x = 2 * torch.exp(-((grid[:, None] - at[:, :1]) ** 2 + (grid - at[:, 1:]) ** 2) / 8) - 1
    t = torch.randint(SCHEDULE.steps, (BATCH,), generator=g)
    return x, t, torch.randn(x.shape, generator=g)


def step_of(model: nn.Module) -> Callable[[int], float]:
    adam = torch.optim.Adam(model.train().parameters(), 1e-3)
    def step(i: int) -> float:
        adam.zero_grad()
        loss = diffusion_loss(model, *batch(i), SCHEDULE)
        loss.backward()
        adam.step()
        return loss.item()
    return step


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = UNet(1, SIZE, 32, (1, 2), 2, (8,), 0.0)
    models = {"ours": ours, "diffusers": closest(with_diffusers, parameters(ours)),
              "denoising-diffusion-pytorch": closest(with_denoising, parameters(ours))}
    steps = {name: step_of(model) for name, model in models.items()}
    losses = {name: float(np.mean([step(i) for i in range(STEPS)][-20:])) for name, step in steps.items()}
    for name, model in models.items(): print(f"{name:30}{parameters(model):10,} parameters, loss {losses[name]:.4f}")
    found = turns({name: lambda step=step: step(0) for name, step in steps.items()}, 15, 0.2)
    for peer in list(models)[1:]:
        agrees = abs(losses[peer] / losses["ours"] - 1) <= 0.25
        said = (f"{parameters(models[peer]) / parameters(ours):.2f} of our parameters, "
                f"{losses[peer] / losses['ours']:.2f} of our loss{'' if agrees else ': not equal'}")
        note("U-Net training step", f"{SIZE} x {SIZE} pixels, batch {BATCH}", peer, found[peer] / found["ours"], said,
             ["torch", peer], 1.2)
