"""
How exact is a chain of few calls? The map of the probability flow at 8 and 32 calls, beside azula and diffusers.

    pip install azula==0.11.1 diffusers==0.42.1
    python benchmarks/few_steps.py

The denoiser is exact: that of a mixture of Gaussians around 64 real digits of 8 x 8 pixels in [-1, 1], standard
deviation 0.2, so that an error is the solver's alone. All have the published linear schedule of 1,000 steps and start
from the same noise at its last index; diffusers' schedulers get its betas, azula its scales, and each is asked once a
step. The truth is a chain of 900 calls of ours, which agrees with one of 600 to a hundredth of the smallest error here.
Errors are root mean squares over pixels, in the unit of the pictures; a ratio is error(peer) / error(ours), over eight
batches of 32 pictures. Of diffusers' DPM-Solver++ and UniPC each order and each of four ways to space the steps is
tried, of azula every sampler that asks once a step and draws nothing, and the best of each is what stands beside ours.
"""

import sys

import numpy as np
import torch
from torch import Tensor

from _rounds import note
from uncpaper.data import load
from uncpaper.diffusion import DPMSolver2M, MixtureDenoiser, last, sample
from uncpaper.schedules import linear_betas

try:
    import azula.denoise, azula.noise, azula.sample
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
except ModuleNotFoundError:
    print("azula and diffusers are needed: pip install azula==0.11.1 diffusers==0.42.1", file=sys.stderr)
    sys.exit(2)

SCHEDULE, BATCHES, SIZE = linear_betas(), 8, 32
LAST = SCHEDULE.steps - 1


def digits() -> MixtureDenoiser:
    x = load("digits", "all").x[:64].double()
    return MixtureDenoiser(SCHEDULE, 2 * x.flatten(1) / x.max() - 1, 0.04)


def ours(denoiser: MixtureDenoiser, x: Tensor, calls: int) -> Tensor:
    return last(sample(denoiser, x, LAST, DPMSolver2M(calls)))


SPACINGS = {"linspace": {}, "trailing": {"timestep_spacing": "trailing"}, "Karras": {"use_karras_sigmas": True},
            "log-SNR": {"use_lu_lambdas": True}}


def by_diffusers(kind: type, order: int, spacing: str) -> object:
    betas = 1 - (SCHEDULE.table[1:, 0] / SCHEDULE.table[:-1, 0]) ** 2
    def run(denoiser: MixtureDenoiser, x: Tensor, calls: int) -> Tensor:
        scheduler = kind(trained_betas=betas.numpy(), solver_order=order, **SPACINGS[spacing])
        scheduler.set_timesteps(calls)
        for t in scheduler.timesteps:
            alpha, sigma = SCHEDULE.scales(min(float(t), LAST))
            x = scheduler.step((x - alpha * denoiser(x, min(float(t), LAST)).mean) / sigma, t, x).prev_sample
        return x
    return run


class Scales(azula.noise.Schedule):
    "Our schedule for azula, whose time goes from 1 to 0, clean: a little noise is left there, for its logarithm."
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        index = index_at(t)
        return SCHEDULE.alpha(index), SCHEDULE.sigma(index).clamp_min(1e-6)


def index_at(t: Tensor) -> Tensor:
    "Of our table: -1 at azula's time 0, 999 at 1."
    index = t.double() * SCHEDULE.steps - 1
    return torch.where(index < 0, -1.0, index.clamp(max=LAST))


class Exact(azula.denoise.Denoiser):
    def __init__(self, denoiser: MixtureDenoiser):
        super().__init__()
        self.denoiser, self.schedule, self.calls = denoiser, Scales(), 0

    def forward(self, x: Tensor, t: Tensor) -> azula.denoise.DiracPosterior:
        self.calls += 1
        return azula.denoise.DiracPosterior(self.denoiser(x, index_at(t.reshape(-1)[0])).mean)


def by_azula(kind: type, **options: float) -> object:
    def run(denoiser: MixtureDenoiser, x: Tensor, calls: int) -> Tensor:
        exact = Exact(denoiser)
        y = kind(exact, steps=calls, silent=True, **options)(x)
        if exact.calls != calls: raise ValueError(f"{exact.calls} calls")
        return y
    return run


def error(solver: object, denoiser: MixtureDenoiser, starts: list[Tensor], truths: list[Tensor], calls: int
          ) -> np.ndarray: # (batch,)
    return np.array([(solver(denoiser, x, calls) - y).square().mean().sqrt().item() for x, y in zip(starts, truths)])


def best(solvers: dict[str, object], *asked) -> tuple[str, np.ndarray]:
    "The one with the least median error; those that refuse a setting are passed by."
    found = {}
    for name, solver in solvers.items():
        try: found[name] = error(solver, *asked)
        except (ValueError, TypeError, NotImplementedError): continue
    return min(((n, e) for n, e in found.items() if np.isfinite(e).all()), key=lambda item: np.median(item[1]))


AZULA = {name: by_azula(getattr(azula.sample, name)) for name in dir(azula.sample)
         if name.endswith("Sampler") and name not in ("Sampler", "DDPMSampler")}
DIFFUSERS = {f"diffusers {label}": {f"order {order}, {spacing}": by_diffusers(kind, order, spacing)
                                    for order in (1, 2, 3) for spacing in SPACINGS}
             for label, kind in (("DPM-Solver++", DPMSolverMultistepScheduler), ("UniPC", UniPCMultistepScheduler))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    denoiser = digits()
    starts = [torch.randn(SIZE, 64, dtype=torch.float64) for _ in range(BATCHES)]
    truths = [ours(denoiser, x, 900) for x in starts]
    certain = np.median([(ours(denoiser, x, 600) - y).square().mean().sqrt() for x, y in zip(starts, truths)])
    for calls in (8, 32):
        mine = error(ours, denoiser, starts, truths, calls)
        assert certain < np.median(mine) / 100, (certain, mine)
        for peer, solvers in ({"azula": AZULA} | DIFFUSERS).items():
            name, theirs = best(solvers, denoiser, starts, truths, calls)
            package = peer.partition(" ")[0]
            note("Few calls", f"{calls} calls", f"{peer} ({name})", theirs / mine,
                 f"our error {np.median(mine):.2g}, truth known to {certain:.0e}", ["torch", package], 1.0, "error")
