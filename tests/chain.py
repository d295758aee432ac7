"Three small stages for the tests of staleness."
from dataclasses import dataclass
from typing import ClassVar

from uncpaper.reproduce.stages import Stage

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
