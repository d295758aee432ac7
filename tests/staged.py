"What the tests of papers' stages share: a training that is killed, and the plans of all experiments."
import functools
from contextlib import contextmanager

import pytest

from uncpaper.reproduce.experiments import find
from uncpaper.reproduce.runs import run_of
from uncpaper.reproduce.stages import one_look


class Killed(Exception):
    "Stands for a signal."


def built(stage, module, place, name, folder, monkeypatch, stop=None, counts=lambda *given: True):
    """
    What a stage returns that writes a checkpoint after each step of `module.fit`; `stop`: killed after so many calls
    of `place.name`, the loss, of those that count.
    """
    loss, done = getattr(place, name), []

    def counted(*given):
        if counts(*given):
            if len(done) == stop: raise Killed
            done.append(1)
        return loss(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", functools.partial(module.fit, seconds=0.0))
        patch.setattr(place, name, counted)
        folder.mkdir(exist_ok=True)
        return stage.build(folder)


@contextmanager
def planned(root, paper):
    "Every experiment of a paper at every profile: (name, profile) -> its run, with the code looked at once."
    with pytest.MonkeyPatch.context() as patch, one_look():
        patch.delenv("UNCPAPER_HOME", raising=False)
        patch.chdir(root)
        yield {(e.path.stem, profile): run_of(e, profile) for e in find(paper) for profile in e.profiles}
