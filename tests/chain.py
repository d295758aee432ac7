"Small stages for the tests of staleness and of kills."
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from torch import nn

from uncpaper.numerics import generator
from uncpaper.reproduce.stages import Stage
from uncpaper.training import Minibatches, fit

OFFSET = 0.0


def twice(x: float) -> float: return 2 * x


def thrice(x: float) -> float: return 3 * x


@dataclass(frozen=True)
class Source(Stage):
    n: int
    kind: ClassVar[str] = "Source"
    def build(self, folder): return {"value": self.n + OFFSET}


@dataclass(frozen=True)
class Double(Stage):
    of: Source
    kind: ClassVar[str] = "Double"
    def build(self, folder): return {"value": twice(self.of.result()["value"])}


@dataclass(frozen=True)
class Other(Stage):
    kind: ClassVar[str] = "Other"
    def build(self, folder): return {"value": 0.0}


@dataclass(frozen=True)
class Trained(Stage):
    "A training of a blink that writes a checkpoint after each step."
    seed: int
    steps: int = 60
    kind: ClassVar[str] = "Trained"
    def build(self, folder):
        x = torch.randn(64, 4, generator=generator(self.seed, "x"))
        torch.manual_seed(self.seed)
        model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 1))
        adam = torch.optim.Adam(model.parameters())
        def loss(model, x): return (model(x) - x.sum(1, keepdim=True)).square().mean()
        rows = fit(model, (x,), loss, Minibatches(64, 16, self.seed), adam, self.steps, lambda _: {}, 20, 0,
                   folder / "checkpoint", 0.0)
        return {"history": pd.DataFrame(rows), "weights": model.state_dict()}


@dataclass(frozen=True)
class Norm(Stage):
    "How long the weights of a training are."
    of: Trained
    kind: ClassVar[str] = "Norm"
    def build(self, folder):
        return {"norm": sum(w.double().norm().item() for w in self.of.result()["weights"].values())}
