"Three members that know other pictures each, and a chain that they share at first: rollouts for tests."
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from uncpaper.diffusion import DDIM, Frame, MixtureDenoiser, Posterior, branch
from uncpaper.ensembles import pairwise_information, wasserstein_distances
from uncpaper.schedules import linear_betas
from uncpaper.widgets import Rollouts

SCHEDULE, SAMPLER, MEMBERS, SIZE = linear_betas(), DDIM(8), 3, 7
TIMES = SAMPLER.times(SCHEDULE, 999)
AXES = {"class_": ["<a>", "b"], "branch_at": [TIMES[4], TIMES[0]]}


class Together:
    "Denoisers, each asked about its own part of a batch."
    def __init__(self, members: list[MixtureDenoiser]): self.members, self.schedule = members, members[0].schedule

    def __call__(self, x: Tensor, t: float) -> Posterior:
        means = [m(part, t).mean for m, part in zip(self.members, x.chunk(len(self.members)))]
        return Posterior(torch.cat(means), torch.zeros(()))


def spread(mean: Tensor) -> Tensor:
    return mean.double().var(0, correction=0).mean(0)


def frames(class_: str, branch_at: float, channels: int = 1) -> Iterator[Frame]:
    shape = (channels, SIZE, SIZE)
    random = torch.Generator().manual_seed(ord(class_.strip("<")[0]))
    known = torch.randn(MEMBERS, 3, math.prod(shape), generator=random).sign() * 0.9
    members = [MixtureDenoiser(SCHEDULE, centres, var=0.01) for centres in known]
    start = torch.randn(1, math.prod(shape), generator=random)
    for s in branch(members[0], Together(members), start, TIMES, branch_at, MEMBERS, SAMPLER):
        x, mean = s.x.view(-1, *shape), s.mean.view(-1, *shape)
        yield Frame(s.t, x, mean, pairwise_information(wasserstein_distances(x.flatten(1))).item(), spread(mean))


def rollouts(frames=frames, **more) -> Rollouts:
    return Rollouts(AXES, frames, len(TIMES), **{"ceiling": math.log(MEMBERS), **more})
