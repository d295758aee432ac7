"What the tests of every translated command line ask of a translation, of its notes, and of a refusal."
import ast
import functools
import shlex

import pytest

from uncpaper.originals.engine import Refused
from uncpaper.reproduce.cli import settings
from uncpaper.reproduce.experiments import checked, find
from uncpaper.reproduce.runs import run_of
from uncpaper.reproduce.stages import in_order


def refused_by(translate, line):
    with pytest.raises(Refused) as error: translate(line)
    message = str(error.value)
    assert isinstance(error.value, ValueError) and "\n" not in message
    assert message.startswith(f"{error.value.field}: got ") and message.endswith(f"; allowed: {error.value.allowed}")
    assert error.value.allowed
    return error.value


def noted(translation, *fragments):
    return all(any(fragment in note for note in translation.notes) for fragment in fragments)


@functools.cache
def experiment_of(name):
    [experiment] = find(name)
    return experiment


def runs_at(profile, translation):
    "The parameters that the command sets at a profile, empty for quick, checked against what the experiment declares."
    experiment, words = experiment_of(translation.experiment), shlex.split(translation.command())
    start = ["uncpaper", "run", translation.experiment, *(["--profile", profile] if profile else [])]
    assert words[:len(start)] == start and words[len(start)::2] == ["-p"] * len(translation.parameters)
    given = settings(words[len(start) + 1::2])
    assert given == dict(translation.parameters)
    assert not profile or profile in experiment.profiles
    return checked(given, experiment.defaults)


def planned(translation):
    "The stages that the command would run, with those that they need; nothing is run."
    return _planned(translation.experiment, translation.profile, str(dict(translation.parameters)))


@functools.cache
def _planned(experiment, profile, parameters):
    given = ast.literal_eval(parameters)
    return in_order(run_of(experiment_of(experiment), *([profile] if profile else []), **given).stages)
