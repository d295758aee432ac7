"Original BIV command lines: every group of both generations, every refusal, and the numbers of the noise settings."

import math
import shlex
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from translations import noted, refused_by

from uncpaper.noise import GammaVariance, UniformVariance, VarianceMixture
from uncpaper.originals.biv import GROUPS, group_of, split_groups, translate
from uncpaper.originals.engine import Refused
from uncpaper.papers.biv import BIV, IV, L2, Adam, Bike, Cutoff, Faces, RedWine, Train
from uncpaper.papers.biv.parameters import single, variance_from
from uncpaper.reproduce.cli import settings
from uncpaper.reproduce.experiments import checked, find
from uncpaper.reproduce.requests import BadRequest
from uncpaper.reproduce.runs import run_of

OLD = {"experiment_settings": "demo,7159,utkf,True", "model_settings": "biv,resnet", "noise": "True",
       "noise_settings": "uniform,-1",
       "average_variance": "-1", "params_settings": "meanvar,-1", "parameters": "10,30,20,10", "epsilon": "0.5",
       "distributions_ratio": "0.5"}
NEW = {"experiment_settings": "demo,7159,bike,True,7000", "model_settings": "vanilla_ann,biv,0.5",
       "noise_settings": "True,uniform",
       "params_settings": "meanvar", "parameters": "False,10,12", "extra_exp": "256,0,True,0.01"}


def words(base, **changes):
    groups = {name: text for name, text in (base | changes).items() if text is not None}
    return [word for name, text in groups.items() for word in (f"--{name}", text)]


def read(base, **changes):
    return translate(words(base, **changes))


def parameter(base, name, **changes):
    return read(base, **changes).parameters[name]


def law(base, **changes):
    return variance_from(parameter(base, "variance", **changes))


def refused(base, **changes):
    return refused_by(translate, words(base, **changes))


# Every group of both generations

def test_first_generation_whole():
    assert read(OLD).parameters == dict(
        task="utkface", model="age_resnet18", loss="biv", epsilon=0.5,
        variance=str(VarianceMixture([UniformVariance.from_moments(10, 20), UniformVariance.from_moments(30, 10)],
                                     [0.5, 0.5])),
        disturbance=0.0, train_size=16_000, test_size=4_000, batch_size=256, steps=20 * 63, learning_rate=1e-3,
        seed=7159)


def test_second_generation_whole():
    assert read(NEW).parameters == dict(
        task="bike-sharing", model="bike_mlp", loss="biv", epsilon=0.5,
        variance=str(UniformVariance.from_moments(10, 12)), disturbance=0.0,
        train_size=7000, test_size=3379, batch_size=256, steps=100 * 28, learning_rate=0.01, seed=7159)


@pytest.mark.parametrize("base, changes, name, value", [
    (OLD, dict(experiment_settings="t,1001,wine,True", model_settings="biv,vanilla_ann"), "task", "wine-red"),
    (OLD, dict(experiment_settings="t,1001,utkf,True"), "seed", 1001),
    (OLD, dict(experiment_settings="t,42.0,utkf,True"), "seed", 42),
    (OLD, dict(experiment_settings="t,1,wine,True", model_settings="biv,vanilla_ann"), "model", "wine_mlp"),
    (OLD, dict(model_settings="biv,vanilla_cnn"), "model", "age_cnn"),
    (OLD, dict(model_settings="mse,resnet"), "loss", "mse"),
    (OLD, dict(model_settings="iv,resnet"), "loss", "iv"),
    (OLD, dict(noise="False", model_settings="mse,resnet"), "variance", "none"),
    (OLD, dict(noise_settings="uniform,20", model_settings="mse,resnet"), "loss", "cutoff"),
    (OLD, dict(noise_settings="uniform,20", model_settings="mse,resnet"), "cutoff", 20),
    (OLD, dict(noise_settings="uniform,inf", model_settings="mse,resnet"), "loss", "mse"),
    (OLD, dict(noise_settings="uniform,-0.5", model_settings="mse,resnet"), "loss", "mse"),
    (OLD, dict(params_settings="boundaries,-1", parameters="4,16"), "variance", str(UniformVariance(4.0, 16.0))),
    (OLD, dict(noise_settings="gamma,-1", params_settings="alphabeta,-1", parameters="0.5,0.05"), "variance",
     str(GammaVariance(0.5, 0.05))),
    (OLD, dict(params_settings="meanvar,0.25", parameters="10,99"), "variance",
     str(UniformVariance.from_scale(10, 0.25))),
    (OLD, dict(epsilon="1e-3"), "epsilon", 1e-3),
    (OLD, dict(epsilon="+1"), "epsilon", 1),
    (OLD, dict(epsilon=None), "epsilon", 0.5),
    (NEW, dict(experiment_settings="t,1,utkf,True,12000", model_settings="resnet,biv"), "train_size", 12_000),
    (NEW, dict(experiment_settings="t,1,utkf,True,12000", model_settings="resnet,biv"), "test_size", 4_000),
    (NEW, dict(experiment_settings="t,1,utkf,True,12000", model_settings="resnet,biv"), "steps", 20 * 47),
    (NEW, dict(experiment_settings="t,1,bike,True,14000"), "steps", 5500),
    (NEW, dict(experiment_settings="t,1,bike,True,7000", extra_exp="64,0,True,0.01"), "steps", 100 * 110),
    (NEW, dict(experiment_settings="t,1,bike,True,100"), "batch_size", 100),
    (NEW, dict(experiment_settings="t,1,bike,True,100"), "steps", 100),
    (NEW, dict(experiment_settings="t,1,wine,True,4000"), "train_size", 1199),
    (NEW, dict(experiment_settings="t,1,wine,True,4000"), "test_size", 400),
    (NEW, dict(experiment_settings="t,1,wine,True,4000"), "steps", 20 * 5),
    (NEW, dict(experiment_settings="t,1,wine,True,4000", extra_exp="256,1,True,0.01"), "disturbance", 0.0),
    (NEW, dict(experiment_settings="t,1,wine,True,4000", extra_exp="2000,0,True,0.01"), "batch_size", 1199),
    (NEW, dict(model_settings="vanilla_ann,biv"), "epsilon", 0.1),
    (NEW, dict(model_settings="vanilla_ann,iv,0.25"), "epsilon", 0.25),
    (NEW, dict(model_settings="vanilla_ann,cutoffMSE,9"), "cutoff", 9),
    (NEW, dict(model_settings="vanilla_ann,mse", noise_settings="False"), "variance", "none"),
    (NEW, dict(extra_exp=None), "learning_rate", 0.01),
    (NEW, dict(extra_exp="64,1,True,0.001"), "batch_size", 64),
    (NEW, dict(extra_exp="64,1,True,0.001"), "disturbance", 1.0),
    (NEW, dict(extra_exp="64,1,True,0.001"), "learning_rate", 0.001),
    (NEW, dict(extra_exp="256,0,False,0.01"), "loss", "iv"),
    (NEW, dict(noise_settings="True,gamma", params_settings="alphabeta", parameters="0.5,0.05"), "variance",
     str(GammaVariance(0.5, 0.05))),
    (NEW, dict(parameters="True,10,0.25"), "variance", str(UniformVariance.from_scale(10, 0.25))),
    (NEW, dict(params_settings="boundaries", parameters="4,16"), "variance", str(UniformVariance(4.0, 16.0))),
])
def test_one_value(base, changes, name, value):
    assert parameter(base, name, **changes) == value


def test_table_has_every_group():
    names = {generation: [group.name for group in groups] for generation, groups in GROUPS.items()}
    assert names == {"2020": list(OLD), "2022": list(NEW)}
    assert all(group.here and group.remark for groups in GROUPS.values() for group in groups)
    with pytest.raises(KeyError): group_of("2022", "epsilon")


# Numbers

def ends(variance):
    return [(part.low, part.high) for part in variance.components]


def test_uniform_by_mean_and_variance():
    variance = law(OLD, parameters="10,12")
    assert (variance.low, variance.high) == pytest.approx((4, 16))
    largest = law(OLD, parameters="10,33.333333333333336")
    assert (largest.low, largest.high) == pytest.approx((0, 20), abs=1e-6)


def test_scale_applies_to_every_component_with_its_own_mean():
    assert ends(law(OLD, params_settings="meanvar,0.25",
                    parameters="10,30,0,0")) == [pytest.approx((5, 15)), pytest.approx((15, 45))]
    new = law(NEW, noise_settings="True,binary_uniform", params_settings="meanvar,0.5",
              parameters="True,10,30,0.25,0.9")
    assert ends(new) == [pytest.approx((5, 15)), pytest.approx((15, 45))]


def test_gamma_by_mean_and_variance():
    variance = law(OLD, noise_settings="gamma,-1", parameters="10,5,200,200", distributions_ratio="0.3")
    assert [(part.shape, part.rate) for part in variance.components] == [pytest.approx((0.5, 0.05)),
                                                                         pytest.approx((0.125, 0.025))]
    assert (variance.mean, variance.variance) == (pytest.approx(6.5), pytest.approx(205.25))


@pytest.mark.parametrize("average, p, first, second", [(2000, 0.5, 0, 4000), (3000, 0.3, 10, 4281.428571)])
def test_average_variance(average, p, first, second):
    variance = law(OLD, average_variance=str(average), distributions_ratio=str(p), parameters=f"{first},1,0,12")
    assert [part.mean for part in variance.components] == [pytest.approx(first), pytest.approx(second)]
    assert variance.mean == pytest.approx(average)
    new = law(NEW, noise_settings="True,binary_uniform", params_settings=f"meanvar_avg,{p},{average}",
              parameters=f"False,{first},1,0,12")
    assert ends(new) == ends(variance)


def test_average_variance_keeps_the_second_variance():
    assert law(OLD, average_variance="2000", parameters="10,1,20,12").components[1].variance == pytest.approx(12)


def test_average_variance_is_2000_unless_given():
    translation = read(OLD, average_variance=None)
    assert variance_from(translation.parameters["variance"]).mean == pytest.approx(2000)
    assert noted(translation, "not given, the original's default; X = 2000 makes the second mean 3990 in place of 30")


def test_boundaries_and_moments_read_the_same_numbers_differently():
    assert ends(law(OLD, params_settings="boundaries,-1", parameters="0,1,20,10")) == [(0, 20), (1, 10)]
    assert refused(OLD, parameters="0,1,20,10", average_variance="2000").given == "0,20"


@pytest.mark.parametrize("count, shares", [(2, [0.3, 0.7]), (3, [0.15, 0.15, 0.7]), (4, [0.15, 0.15, 0.35, 0.35])])
def test_weights_of_several_components(count, shares):
    variance = law(OLD, params_settings="boundaries,-1", parameters=",".join(["1"] * count + ["2"] * count),
                   distributions_ratio="0.3")
    assert list(variance.weights) == pytest.approx(shares)


def test_point_mass():
    variance = law(NEW, parameters="False,10,0")
    assert (variance.low, variance.high) == (10, 10)


@given(st.floats(1e-3, 1e6))
def test_largest_scale_is_never_refused(mean):
    variance = law(OLD, params_settings="meanvar,1", parameters=f"{mean!r},0")
    assert (variance.low, variance.high) == (pytest.approx(0, abs=1e-6 * mean), pytest.approx(2 * mean))


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_boundaries_go_through_unchanged(low, width):
    variance = law(OLD, params_settings="boundaries,-1", parameters=f"{low!r},{low + width!r}")
    assert (variance.low, variance.high) == (low, low + width)


# Two generations, one meaning

def test_both_generations_say_the_same():
    old = read(OLD, model_settings="biv,resnet", params_settings="boundaries,-1", parameters="0,1,20,10").parameters
    new = read(NEW, experiment_settings="demo,7159,utkf,True,16000", model_settings="resnet,biv,0.5",
               noise_settings="True,binary_uniform",
               params_settings="boundaries,0.5", parameters="0,1,20,10", extra_exp="256,0,True,0.001").parameters
    assert new == old


@pytest.mark.parametrize("base, model_settings", [(OLD, "resnet,biv"), (NEW, "biv,vanilla_ann,0.5")])
def test_order_of_loss_and_model_is_read_by_the_words(base, model_settings):
    translation = read(base, model_settings=model_settings)
    assert translation.parameters == read(base).parameters
    assert noted(translation, "stands first") and not noted(read(base), "stands first")


# Ways of writing a command

def test_string_and_words_and_equals_signs():
    line = shlex.join(words(OLD))
    spelled = [f"--{name}={text}" for name, text in OLD.items()]
    assert translate(line) == translate(words(OLD)) == translate(spelled) == translate("python3 src/main.py " + line)
    assert translate(line.replace(" --", " \\\n  --")) == translate(line)


def test_nine_positions_are_the_nine_groups():
    assert translate(list(OLD.values())) == read(OLD)
    assert translate("sbatch --gres=gpu:rtx8000:1 run.sh " + shlex.join(OLD.values())) == read(OLD)


def test_blanks_around_commas():
    assert parameter(OLD, "variance", parameters="10, 30, 20, 10") == parameter(OLD, "variance")


# Round trips

WINE = dict(experiment_settings="t,1,wine,True,4000")
FACES = dict(experiment_settings="t,1,utkf,True,12000", model_settings="resnet,biv")
PARTS = UniformVariance.from_moments(10, 20), UniformVariance.from_moments(30, 10)
NOISE = UniformVariance.from_moments(10, 12)
ACCEPTED = [  # a command line and the run that it becomes
    (OLD, {}, Train(Faces(), BIV(0.5), VarianceMixture(PARTS, [0.5, 0.5]), 7159, 1260)),
    (OLD, dict(model_settings="iv,vanilla_cnn", epsilon="1e-5"),
     Train(Faces(resnet=False), IV(1e-5), VarianceMixture(PARTS, [0.5, 0.5]), 7159, 1260)),
    (OLD, dict(noise="False", model_settings="mse,resnet"), Train(Faces(), L2(), None, 7159, 1260)),
    (OLD, dict(noise_settings="uniform,20", model_settings="mse,resnet", parameters="10,12"),
     Train(Faces(), Cutoff(20.0), NOISE, 7159, 1260)),
    (OLD, dict(experiment_settings="t,1,wine,True", model_settings="biv,vanilla_ann", parameters="10,12"),
     Train(RedWine(), BIV(0.5), NOISE, 1, 100)),
    (NEW, {}, Train(Bike(), BIV(0.5), NOISE, 7159, 2800, optimiser=Adam(0.01))),
    (NEW, dict(extra_exp="64,0.5,True,0.001"), Train(Bike(), BIV(0.5), NOISE, 7159, 11_000, batch=64, disturbance=0.5)),
    (NEW, dict(extra_exp="256,0,False,0.001"), Train(Bike(), IV(0.5), NOISE, 7159, 2800)),
    (NEW, dict(experiment_settings="t,1,bike,True,100", extra_exp="256,0,True,0.001"),
     Train(Bike(100), BIV(0.5), NOISE, 1, 100, batch=100)),
    (NEW, dict(model_settings="vanilla_ann,cutoffMSE,9"),
     Train(Bike(), Cutoff(9.0), NOISE, 7159, 2800, optimiser=Adam(0.01))),
    (NEW, dict(noise_settings="True,gamma", parameters="False,20000,4e8"),
     Train(Bike(), BIV(0.5), GammaVariance(1.0, 5e-5), 7159, 2800, optimiser=Adam(0.01))),
    (NEW, WINE, Train(RedWine(), BIV(0.5), NOISE, 1, 100, optimiser=Adam(0.01))),
    (NEW, FACES, Train(Faces(12_000), BIV(0.1), NOISE, 1, 940, optimiser=Adam(0.01))),
]


@pytest.mark.parametrize("base, changes, train", ACCEPTED)
def test_what_is_accepted_is_a_run_of_the_experiment(base, changes, train):
    translation, (experiment,) = read(base, **changes), find("biv/single")
    parameters = checked(translation.parameters, experiment.defaults)
    assert set(experiment.defaults) - set(translation.parameters) <= {"epsilon", "cutoff"}
    assert single(**parameters) == single(**translation.parameters) == train


@pytest.mark.parametrize("base, changes, train", ACCEPTED)
def test_command_and_keywords_say_what_the_parameters_say(base, changes, train):
    translation = read(base, **changes)
    assert eval(f"dict({translation.keywords()})") == translation.parameters
    program, run, experiment, *flags = shlex.split(translation.command())
    assert (program, run, experiment) == ("uncpaper", "run", "biv/single") and set(flags[::2]) == {"-p"}
    assert settings(flags[1::2]) == translation.parameters
    assert list(settings(flags[1::2])) == list(translation.parameters)


@pytest.mark.parametrize("base, changes, train", [case for case in ACCEPTED if not isinstance(case[2].task, Faces)])
def test_a_rendered_command_can_be_planned(base, changes, train):
    experiment, = find("biv/single")
    run = run_of(experiment, **settings(shlex.split(read(base, **changes).command())[4::2]))
    assert run.stages == (train,) and run.profile == "custom"


@pytest.mark.parametrize("changes, given, reason", [
    (dict(experiment_settings="t,1,wine,True,4000", extra_exp="599,0,True,0.01"), "599", "leaves one of 1199 rows"),
    (dict(experiment_settings="t,1,wine,True,4000", extra_exp="1,0,True,0.01"), "1", "leaves one of 1199 rows"),
    (dict(experiment_settings="t,1,bike,False,7000"), "False", "always standardised"),
])
def test_what_cannot_run_here_is_refused(changes, given, reason):
    error = refused(NEW, **changes)
    assert error.given == given and reason in error.reason


# A distribution as text

@pytest.mark.parametrize("law",
                         [UniformVariance(0, 4), UniformVariance.from_moments(10, 20), GammaVariance(1.0, 5e-5),
                          GammaVariance(0.5, 1e20),
                                 VarianceMixture(PARTS, [0.3, 0.7]), VarianceMixture([GammaVariance(1, 2)], [1.0]),
                                 None])
def test_a_distribution_survives_its_text(law):
    assert variance_from(str(law)) == law


@given(st.floats(1e-6, 1e9), st.floats(1e-9, 1e9), st.floats(0, 1))
def test_any_mixture_survives_its_text(low, rate, p):
    law = VarianceMixture([UniformVariance(low, 2 * low), GammaVariance(low, rate)], [p, 1 - p])
    assert variance_from(str(law)) == law


def test_arguments_by_position_and_clean_labels():
    assert variance_from(" VarianceMixture((UniformVariance(1, 2), GammaVariance(3, rate=4)), (0.5, 0.5)) ") == \
        VarianceMixture([UniformVariance(1, 2), GammaVariance(3, 4)], [0.5, 0.5])
    assert variance_from("none") is variance_from("None") is None


@pytest.mark.parametrize("text", [
    "__import__('os')", "__import__('os').system('true')", "GammaVariance.from_moments(1, 1)", "open('x')",
    "[].append(1)", "(lambda: 1)()",
    "GammaVariance(shape=__import__('os'), rate=1)", "GammaVariance(*(1, 2))", "GammaVariance(**{'shape': 1})",
    "GammaVariance(1, 1 + 1)",
    "GammaVariance(True, 1)", "GammaVariance('1', 2)", "GammaVariance(1)", "GammaVariance(1, 2, 3)",
    "GammaVariance(form=1, rate=2)",
    "GammaVariance(0, 1)", "GammaVariance(1, -1)", "GammaVariance(1, 1e999)", "GammaVariance(1, 1" + 400 * "0" + ")",
    "GammaVariance((1,), 2)",
    "UniformVariance(2, 1)", "UniformVariance(low=1, low=2)", "VarianceMixture(1, 2)", "VarianceMixture((1,), (1,))",
    "VarianceMixture((GammaVariance(1, 2),), (0.5,))", "gammavariance(1, 2)", "GammaVariance", "5", "(1, 2)", "",
    "GammaVariance(1,", "x = 1", "1\n2",
    "\0", "(" * 5000, "-" * 100_000 + "1", "f(" * 90 + ")" * 90])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError) as error: variance_from(text)
    message = str(error.value)
    assert message.startswith("variance: got ") and "\n" not in message
    assert message.endswith("; allowed: none, UniformVariance(low, high), GammaVariance(shape, rate), "
                            "VarianceMixture(components, weights)")


# What the experiment refuses

SMALL = dict(task="bike-sharing", model="bike_mlp", loss="biv", epsilon=0.1, cutoff=20_000.0,
             variance="GammaVariance(1, 0.00005)", disturbance=0.0,
             train_size=2000, test_size=1000, batch_size=256, learning_rate=1e-3, steps=240, seed=0)


def test_the_experiment_makes_one_stage_of_its_parameters():
    experiment, = find("biv/single")
    assert run_of(experiment).stages == (single(**SMALL),
                                         ) == (Train(Bike(2000, 1000), BIV(0.1), GammaVariance(1, 5e-5), 0, 240),)
    laptop = run_of(experiment, "laptop").stages[0]
    assert (laptop.task, laptop.steps) == (Bike(), 2800)


@pytest.mark.parametrize("changes, message", [
    (dict(task="bike"), "task must be one of utkface, wine-red, bike-sharing; got 'bike'"),
    (dict(model="wine_mlp"), "model for bike-sharing must be one of bike_mlp; got 'wine_mlp'"),
    (dict(task="utkface"), "model for utkface must be one of age_cnn, age_resnet18; got 'bike_mlp'"),
    (dict(loss="cutoffMSE"), "loss must be one of mse, iv, biv, cutoff; got 'cutoffMSE'"),
    (dict(train_size=16_380), "train_size for bike-sharing with test_size 1000 must be between 1 and 16379, got 16380"),
    (dict(train_size=0), "train_size for bike-sharing"),
    (dict(test_size=17_379), "test_size for bike-sharing must be between 1 and 17378, got 17379"),
    (dict(test_size=0), "test_size for bike-sharing"),
    (dict(task="wine-red", model="wine_mlp"),
     "train_size for wine-red with test_size 1000 must be between 1 and 599, got 2000"),
    (dict(task="wine-red", model="wine_mlp", train_size=257, test_size=400), "must leave no batch of one row"),
    (dict(task="utkface", model="age_cnn", train_size=16_001),
     "train_size for utkface must be between 1 and 16000, got 16001"),
    (dict(task="utkface", model="age_cnn", test_size=4_001),
     "test_size for utkface must be between 1 and 4000, got 4001"),
    (dict(batch_size=2001), "batch_size with train_size 2000 must be between 1 and 2000, got 2001"),
    (dict(epsilon=-0.1), "epsilon must be finite and >= 0, got -0.1"),
    (dict(epsilon=math.nan), "epsilon must be finite and >= 0, got nan"),
    (dict(epsilon=math.inf, loss="iv"), "epsilon must be finite and >= 0, got inf"),
    (dict(cutoff=-1.0, loss="cutoff"), "cutoff must be finite and >= 0, got -1.0"),
    (dict(variance="GammaVariance(0, 1)"), "variance: got 'GammaVariance(0, 1)': shape must be > 0"),
    (dict(disturbance=1.5), "disturbance must be between 0 and 1, got 1.5"),
    (dict(learning_rate=-1e-3), "learning_rate must be finite and >= 0, got -0.001"),
    (dict(steps=0), "steps must be finite and >= 1, got 0"),
    (dict(seed=-1), "seed must be between 0 and"),
])
def test_what_the_experiment_refuses(changes, message):
    with pytest.raises(ValueError) as error: single(**SMALL | changes)
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(BadRequest) as request: run_of(find("biv/single")[0], **changes)
    assert str(request.value) == str(error.value)


def test_only_the_number_of_the_loss_is_read():
    assert single(**SMALL | dict(cutoff=-1.0)) == single(**SMALL)
    assert single(**SMALL | dict(loss="mse", epsilon=-1.0)).loss == L2()


def test_translation_is_frozen():
    with pytest.raises(FrozenInstanceError): read(OLD).notes = ()


# Notes

@pytest.mark.parametrize("base, changes, fragment", [
    (OLD, {}, "the tag 'demo' is dropped"),
    (OLD, {}, "seeded shuffle"),
    (OLD, {}, "epsilon 0.5 is in units of the standardised label's variance; variances and cutoff are given in raw "
              "label units squared"),
    (OLD, {}, "normalise is dropped; inputs and labels are always standardised"),
    (OLD, {}, "20 epochs stood in the original's code; at 63 steps for 16000 rows they are 1260 steps"),
    (NEW, {}, "100 epochs stood in the original's code; at 28 steps for 7000 rows they are 2800 steps"),
    (NEW, dict(experiment_settings="t,1,bike,True,100"),
     "batch size 256 is larger than the training set; 100, all of it, is the same"),
    (OLD, dict(noise_settings="uniform,20", model_settings="mse,resnet"), "its epochs had fewer steps"),
    (OLD, dict(experiment_settings="t,1,wine,True", model_settings="biv,vanilla_ann"), "had no batch normalisation"),
    (NEW, dict(experiment_settings="t,1,wine,True,4000"), "here it is red wine, 1199 rows to train and 400 to test"),
    (OLD, dict(epsilon=None), "original's default 0.5"),
    (OLD, dict(epsilon="2"), "README asks for less than 1"),
    (OLD, dict(model_settings="mse,resnet"), "epsilon: ignored, loss mse has none"),
    (OLD, dict(model_settings="iv,resnet"), "iv did not run in the original"),
    (OLD, dict(noise_settings="uniform,20", model_settings="mse,resnet"), "cutoff 20 is in raw label units squared"),
    (OLD, dict(noise_settings="uniform,15", model_settings="mse,resnet", parameters="10,1,20,10",
               average_variance="2000"), "drops every label of the component whose variances begin at 3984.52"),
    (OLD, dict(params_settings="boundaries,-1", parameters="0,1,20,10", average_variance="2000"),
     "X = 2000 is ignored"),
    (OLD, dict(average_variance="2000", parameters="10,20"), "X = 2000 is ignored"),
    (OLD, dict(parameters="10,20"), "p = 0.5 is ignored, there is one component"),
    (OLD, dict(noise_settings="gamma,-1", params_settings="alphabeta,-1", parameters="0.5,0.05"),
     "the original took the two for mean and variance"),
    (OLD, dict(noise_settings="gamma,-1", params_settings="alphabeta,-1", parameters="0.5,0.05"),
     "no samples for utkf with gamma noise"),
    (OLD, dict(experiment_settings="t,1,wine,True", model_settings="biv,vanilla_ann"), "both colours"),
    (OLD, dict(params_settings="meanvar,0.25"), "heteroscedasticity scale 0.25 replaces every variance"),
    (NEW, dict(parameters="True,10,0.083"), "1 is the largest"),
    (NEW, dict(parameters="True,10,0.083"), "the README says the second"),
    (NEW, dict(parameters="10,12"), "the original needs a scale flag first"),
    (NEW, dict(noise_settings="True,gamma", parameters="10,200"), "with meanvar for gamma too"),
    (NEW, dict(params_settings="boundaries,1,2000", parameters="4,16"), "X is ignored, it belongs to meanvar_avg"),
    (NEW, dict(params_settings="meanvar_avg,0.5,2000"), "X = 2000 is ignored, it needs two components"),
    (NEW, dict(model_settings="vanilla_ann,biv"), "original's default 0.1"),
    (NEW, dict(model_settings="vanilla_ann,mse,0.5"), "third value is ignored"),
    (NEW, dict(extra_exp=None), "the original's default 256,0,True,0.01"),
    (NEW, dict(model_settings="vanilla_ann,iv"), "iv did not run in the original"),
    (NEW, dict(extra_exp="256,0,False,0.01"), "BIV without normalisation is IV"),
    (NEW, dict(extra_exp="256,0,False,0.01", model_settings="vanilla_ann,mse"), "normalise_loss is ignored"),
    (NEW, dict(extra_exp="256,1,True,0.01", model_settings="vanilla_ann,mse", noise_settings="False"),
     "disturbance is ignored, there is no noise"),
    (NEW, dict(extra_exp="256,1,True,0.01", experiment_settings="t,1,wine,True,4000"),
     "the original has none for wine"),
    (NEW, dict(model_settings="vanilla_ann,mse", noise_settings="False,uniform"),
     "params_settings, parameters, noise_settings: ignored, there is no noise"),
])
def test_notes(base, changes, fragment):
    assert noted(read(base, **changes), fragment), read(base, **changes).notes


def test_starter_run_ignores_its_noise_settings():
    starter = read(OLD, model_settings="mse,resnet", noise="False", noise_settings="gamma,1", average_variance="2000",
                   parameters="10,5")
    assert starter.parameters["variance"] == "none" and "cutoff" not in starter.parameters
    assert noted(starter, "noise_settings, average_variance, params_settings, parameters, distributions_ratio: ignored")


def test_default_average_steps_back_for_one_mode():
    assert law(OLD, average_variance=None, distributions_ratio="1").mean == pytest.approx(10)


# Refusals

@pytest.mark.parametrize("base, changes, group, fragment, allowed", [
    (OLD, dict(params_settings="manvar,-1"), "params_settings", "a misspelling of 'meanvar'",
     "boundaries, alphabeta, meanvar"),
    (OLD, dict(params_settings="manvar,-1", noise="False", model_settings="mse,resnet"), "params_settings",
     "with noise or without", "meanvar"),
    (OLD, dict(params_settings=None, parmas_settings="meanvar,-1"), "parmas_settings",
     "misspelling of 'params_settings'", "params_settings"),
    (OLD, dict(params_settings="-1", parameters="manvar,-1", epsilon="10,5", distributions_ratio=""), "params_settings",
     "fifth position", "nine distinct positions"),
    (OLD, dict(params_settings="meanvar,0.5,2000"), "params_settings", "p and X are groups of their own", "type,scale"),
    (OLD, dict(params_settings="meanvar,1.5"), "params_settings", "out of range", "1"),
    (OLD, dict(params_settings="boundaries,0.5"), "params_settings", "heteroscedasticity scale",
     "uniform with meanvar"),
    (OLD, dict(params_settings="meanvar,0.5", noise_settings="gamma,-1"), "params_settings", "heteroscedasticity scale",
     "uniform with meanvar"),
    (OLD, dict(params_settings="alphabeta,-1"), "params_settings", "uniform noise has no such parameters",
     "boundaries, meanvar"),
    (OLD, dict(params_settings="boundaries,-1", noise_settings="gamma,-1"), "params_settings",
     "gamma noise has no such parameters", "alphabeta, meanvar"),
    (OLD, dict(params_settings=None), "params_settings", "IndexError", "type,scale"),
    (OLD, dict(noise_settings=None), "noise_settings", "IndexError", "type,threshold"),
    (OLD, dict(noise_settings="normal,-1"), "noise_settings", "unknown noise type", "uniform, gamma"),
    (OLD, dict(noise_settings="True,uniform,-1"), "noise_settings", "noise flag is its own group", "type,threshold"),
    (OLD, dict(noise_settings="uniform,none"), "noise_settings", "threshold is not a number", "a number"),
    (OLD, dict(noise_settings="uniform,20"), "noise_settings", "filters and weighs", "loss mse with a threshold"),
    (OLD, dict(noise_settings="uniform,1", model_settings="mse,resnet"), "noise_settings", "no label survives",
     "a cutoff above 2.25403"),
    (OLD, dict(noise=None), "noise", "missing", "True or False"),
    (OLD, dict(noise="yes"), "noise", "unknown noise flag", "True, False"),
    (OLD, dict(noise="False"), "noise", "loss biv needs the variance", "True, or loss mse"),
    (OLD, dict(noise="False", model_settings="iv,resnet"), "noise", "loss iv needs the variance", "True, or loss mse"),
    (OLD, dict(model_settings=None), "model_settings", "missing", "loss,model"),
    (OLD, dict(model_settings="resnet,biv,0.5"), "model_settings", "epsilon is its own group", "loss,model"),
    (OLD, dict(model_settings="l1,resnet"), "model_settings", "unknown loss", "mse, iv, biv"),
    (OLD, dict(model_settings="cutoffMSE,resnet"), "model_settings", "unknown loss", "mse, iv, biv"),
    (OLD, dict(model_settings="biv,vanilla_ann"), "model_settings", "no model for data set utkf",
     "vanilla_cnn, resnet"),
    (OLD, dict(experiment_settings=None), "experiment_settings", "missing", "tag,seed,dataset,normalise"),
    (OLD, dict(experiment_settings="t,7159,bike,True"), "experiment_settings", "unknown data set", "utkf, wine"),
    (OLD, dict(experiment_settings="t,x,utkf,True"), "experiment_settings", "the seed is not a number",
     "a number >= 0"),
    (OLD, dict(experiment_settings="t,1.5,utkf,True"), "experiment_settings", "the seed is not an integer",
     "an integer"),
    (OLD, dict(experiment_settings="t,1,utkf,1"), "experiment_settings", "unknown normalisation flag", "True, False"),
    (OLD, dict(experiment_settings="t,1,utkf,False"), "experiment_settings", "always standardised", "True"),
    (OLD, dict(experiment_settings="t,1,utkf"), "experiment_settings", "3 values", "tag,seed,dataset,normalise"),
    (OLD, dict(parameters=None), "parameters", "missing", "first values, then second values"),
    (OLD, dict(parameters="10,5,3"), "parameters", "do not pair up", "as many second values"),
    (OLD, dict(parameters="10"), "parameters", "1 value where", "first values, then second values"),
    (OLD, dict(parameters="10,x"), "parameters", "not a number", "a number"),
    (OLD, dict(parameters="0,1,20,10", average_variance="2000"), "parameters", "sqrt(3", "mean >= sqrt(3 variance)"),
    (OLD, dict(parameters="10,-1"), "parameters", "variance", "variance >= 0"),
    (OLD, dict(parameters="20,4", params_settings="boundaries,-1"), "parameters", "low", "0 <= low <= high"),
    (OLD, dict(parameters="10,0", noise_settings="gamma,-1"), "parameters", "variance", "mean > 0"),
    (OLD, dict(parameters="10,50", noise_settings="gamma,-1"), "parameters", "variance", "variance >= mean^2"),
    (OLD, dict(parameters="10,5", noise_settings="gamma,-1"), "parameters", "variance", "variance >= mean^2"),
    (OLD, dict(average_variance="2000", distributions_ratio="1"), "average_variance", "p", "p < 1"),
    (OLD, dict(average_variance="1"), "average_variance", "average", "X >= p mu1"),
    (OLD, dict(average_variance="a lot"), "average_variance", "not a number", "a number"),
    (OLD, dict(distributions_ratio=None), "distributions_ratio", "missing, with 2 components", "a number from 0 to 1"),
    (OLD, dict(distributions_ratio="1.5"), "distributions_ratio", "p is out of range", "a number from 0 to 1"),
    (OLD, dict(distributions_ratio=""), "distributions_ratio", "p is not a number", "a number from 0 to 1"),
    (OLD, dict(epsilon="-0.1"), "epsilon", "out of range", "a number >= 0"),
    (OLD, dict(epsilon="10,5"), "epsilon", "2 values", "epsilon"),
    (OLD, dict(epsilon="nan"), "epsilon", "not a number", "a number >= 0"),
    (OLD, dict(extra_exp="256,0,True,0.01"), "extra_exp", "belongs to the later generation", "one generation"),
    (NEW, dict(epsilon="0.5"), "extra_exp", "belongs to the later generation and epsilon to the earlier",
     "one generation"),
    (NEW, dict(experiment_settings="t,1,bike,True,15000"), "experiment_settings", "the training size is out of range",
     "a number from 1 to 14000"),
    (NEW, dict(experiment_settings="t,1,bike,True,0"), "experiment_settings", "the training size is out of range",
     "a number from 1 to 14000"),
    (NEW, dict(experiment_settings="t,1,cars,True,7000"), "experiment_settings", "unknown data set",
     "utkf, wine, bike"),
    (NEW, dict(model_settings="vanilla_ann,cutoffMSE"), "model_settings", "1 in standardised units", "cutoffMSE,C"),
    (NEW, dict(model_settings="vanilla_ann,biv,-1"), "model_settings", "epsilon is out of range", "a number >= 0"),
    (NEW, dict(model_settings="resnet,biv"), "model_settings", "no model for data set bike", "vanilla_ann"),
    (NEW, dict(model_settings="vanilla_ann,cutoffMSE,1"), "model_settings", "no label survives", "a cutoff above 4"),
    (NEW, dict(model_settings="vanilla_ann,cutoffMSE,1", noise_settings="False"), "noise_settings",
     "loss cutoff needs the variance", "True, or loss mse"),
    (NEW, dict(noise_settings="False,uniform"), "noise_settings", "loss biv needs the variance", "True, or loss mse"),
    (NEW, dict(noise_settings="True"), "noise_settings", "noise without a type", "True,type"),
    (NEW, dict(noise_settings="True,normal"), "noise_settings", "unknown noise type", "uniform, binary_uniform, gamma"),
    (NEW, dict(noise_settings=None), "noise_settings", "missing", "flag[,type]"),
    (NEW, dict(noise_settings="True,binary_uniform"), "parameters", "1 component where binary_uniform takes 2",
     "4 numbers"),
    (NEW, dict(params_settings="meanvar,0.5", parameters="False,10,20,1,2"), "parameters",
     "2 components where uniform takes 1", "2 numbers"),
    (NEW, dict(noise_settings="True,binary_uniform", parameters="False,10,20,1,2"), "params_settings",
     "missing, with 2 components", "a number from 0 to 1"),
    (NEW, dict(noise_settings="True,binary_uniform", params_settings="meanvar_avg,1,2000",
               parameters="False,10,20,1,2"), "params_settings", "p", "p < 1"),
    (NEW, dict(noise_settings="True,gamma", parameters="True,10,0.5"), "params_settings", "heteroscedasticity scale",
     "uniform with meanvar"),
    (NEW, dict(params_settings="boundaries", parameters="True,4,16"), "parameters", "belongs to meanvar",
     "numbers only"),
    (NEW, dict(params_settings="manvar"), "params_settings", "a misspelling of 'meanvar'", "meanvar_avg"),
    (NEW, dict(params_settings="meanvar_avg,0.5"), "params_settings", "without its ratio p and average variance X",
     "meanvar_avg,p,X"),
    (NEW, dict(params_settings=None), "params_settings", "missing", "type[,p[,X]]"),
    (NEW, dict(parameters="True,10,1.5"), "parameters", "the heteroscedasticity scale is out of range",
     "a number from 0 to 1"),
    (NEW, dict(parameters="False,10,12,3"), "parameters", "do not pair up", "as many second values"),
    (NEW, dict(extra_exp="256,0,True"), "extra_exp", "3 values", "batch_size,disturbance,normalise_loss,learning_rate"),
    (NEW, dict(extra_exp="0,0,True,0.01"), "extra_exp", "the batch size is out of range", "a number >= 1"),
    (NEW, dict(extra_exp="256,2,True,0.01"), "extra_exp", "the variance disturbance is out of range",
     "a number from 0 to 1"),
    (NEW, dict(extra_exp="256,0,yes,0.01"), "extra_exp", "unknown normalisation flag", "True, False"),
])
def test_refusals(base, changes, group, fragment, allowed):
    error = refused(base, **changes)
    assert error.field == group
    assert fragment in error.reason
    assert allowed in error.allowed


def test_example_with_two_groups_only():
    two = dict(OLD, model_settings="mse,vanilla_cnn") | {name: None for name in list(OLD)[2:]}
    assert "IndexError" in refused(two).reason


@pytest.mark.parametrize("line, group, fragment", [
    ("sbatch --gres=gpu:rtx8000:1 run.sh 'demo,7159,utkf,True' 'mse,resnet' False 'gamma,-1' -1 'manvar,-1' '10,5'",
     "command line", "7 values by position"),
    ("", "command line", "0 values by position"),
    ("--noise True --noise False", "noise", "given twice"),
    ("--noise True stray", "stray", "no group of the original"),
    ("--noise 'True", "command line", "quotation"),
    ("--exp a,1,utkf,True", "exp", "no group of the original"),
])
def test_refused_lines(line, group, fragment):
    with pytest.raises(Refused, match=group) as error: translate(line)
    assert error.value.field == group and fragment in error.value.reason


def test_a_flag_without_a_value_is_empty():
    assert split_groups("--noise") == {"noise": ""}


# The bibliography that goes with it

def test_citation_file_names_papers_and_data():
    citation = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["title"], citation["version"], citation["license"]) == ("uncpaper", "0.1.0", "MIT")
    kinds = [reference["type"] for reference in citation["references"]]
    assert len(kinds) - kinds.count("data") == 5 and kinds.count("data") == 6
    assert all(reference["authors"] and reference["year"] for reference in citation["references"])


@pytest.mark.parametrize("key",
                         "eiv decu ddu dgm biv mnist fashion-mnist bike-sharing wine-quality utkface digits kish "
                         "aitken".split())
def test_bibliography_has(key):
    bibliography = (Path(__file__).parents[1] / "nbs" / "references.bib").read_text(encoding="utf-8")
    assert bibliography.count("{" + key + ",") == 1
