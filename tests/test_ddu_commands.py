"Original DDU command lines: every flag of the four scripts, every refusal, and what the experiments declare."

import functools
import inspect
import math
import shlex
from unittest.mock import Mock

import pytest
from translations import noted, refused_by, runs_at

from uncpaper.originals.ddu import FLAGS, asked, translate
from uncpaper.originals.ddu_files import evaluate
from uncpaper.originals.engine import spelt
from uncpaper.reproduce.experiments import find
from uncpaper.reproduce.runs import run_of

refused = functools.partial(refused_by, translate)
runs = functools.partial(runs_at, "")

# Names and defaults of the original's parsers, and which flags take no value

TRAIN = {"--seed": int, "--dataset": "cifar10", "--dataset-root": "./", "--data-aug": True, "-b": 128, "-tb": 128,
         "--no-gpu": False, "--model": "resnet50", "-sn": False,
         "--coeff": 3.0, "-mod": False, "-e": 350, "--lr": 0.1, "--mom": 0.9, "--nesterov": False, "--decay": 5e-4,
         "--opt": "sgd", "--loss": "cross_entropy", "--loss-mean": False,
         "--log-interval": 50, "--save-interval": 25, "--saved_model_name": "resnet50_350.model", "--save-path": "./",
         "--first-milestone": 150, "--second-milestone": 250}
EVALUATE = {"--seed": int, "--dataset": "cifar10", "--ood_dataset": "svhn", "--data-aug": False, "--no-gpu": False,
            "-b": 128, "--load-path": "../Models/Normal/",
            "--model": "resnet50", "--runs": 5, "-sn": False, "--coeff": 3.0, "-mod": False, "--ensemble": 5,
            "--model-type": "softmax"}
ACTIVE = {"--seed": int, "--model": "resnet18", "-ambiguous": False, "--dataset-root": "./",
          "--trained-model": "resnet18_sn", "-tsn": False, "--tcoeff": 3.0, "-tmod": False,
          "--saved-model-path": "./", "--saved-model-name": "resnet18_sn_3.0_50.model", "--threshold": 1.0,
          "--subsample": 1000, "--num-ensemble": 5, "-sn": False, "--coeff": 3.0,
          "-mod": False, "--al-type": "softmax", "-mi": False, "--num-initial-samples": 20,
          "--max-training-samples": 300, "--acquisition-batch-size": 5, "-e": 20, "-b": 64,
          "-tb": 512, "-sb": 128}
ORIGINAL = {"train.py": TRAIN, "train_ensemble.py": TRAIN | {"--ensemble": 5}, "evaluate.py": EVALUATE,
            "active_learning_script.py": ACTIVE}
ALL = [(script, flag) for script, flags in FLAGS.items() for flag in flags]


def planned(translation):
    "The stages that the command would run; nothing is run."
    [experiment] = find(translation.experiment)
    return run_of(experiment, **translation.parameters).stages


# The table

def test_the_table_is_the_original_parsers():
    assert {script: {flag.name: flag.default for flag in flags} for script, flags in FLAGS.items()} == ORIGINAL


@pytest.mark.parametrize("script, flag", ALL, ids=[f"{script}{flag.name}" for script, flag in ALL])
def test_every_flag_has_a_meaning_and_parses(script, flag):
    assert flag.remark and flag.kind is (int if flag.name == "--seed" else type(flag.default))
    value = flag.only[0] if flag.only else {int: 20, float: 0.5, str: "x", bool: True}[flag.kind]
    words = [flag.name] * (value is not False) + [str(value)] * (flag.kind is not bool)
    line = shlex.join([script, *(["--seed", "1"] if flag.name != "--seed" else []), *words])
    found = asked(line)
    assert found[flag.name] == value and (flag.name in found.given) == bool(words)


@pytest.mark.parametrize("script, flag", [(s, f) for s, f in ALL if f.only],
                         ids=[f"{s}{f.name}" for s, f in ALL if f.only])
def test_a_value_that_cannot_be_met_says_why(script, flag):
    words = [flag.name] + {bool: [], float: ["0.123"], int: ["77"], str: ["nonsense"]}[flag.kind]
    error = refused(shlex.join([script, "--seed", "1", *words]))
    assert error.field == flag.name and error.reason == flag.remark
    assert all(spelt(value) in error.allowed for value in flag.only)


@pytest.mark.parametrize("script, flag", [(s, f) for s, f in ALL if f.least > -math.inf],
                         ids=[f"{s}{f.name}" for s, f in ALL if f.least > -math.inf])
def test_numbers_have_a_floor(script, flag):
    for value in ("-3", "nan", "inf") if flag.kind is float else ("-3",):
        line = shlex.join([script, *(["--seed", "1"] if flag.name != "--seed" else []), flag.name, value])
        assert refused(line).field == flag.name


@pytest.mark.parametrize("script", FLAGS)
@pytest.mark.parametrize("words, flag, fragment", [
    ("", "--seed", "must be given"), ("--seed", "--seed", "expected one argument"),
    ("--seed x", "--seed", "invalid int value"), ("--seed 1 --colour red", "--colour", "no flag of"),
    ("--seed 1 stray", "stray", "no flag of"), ("--seed '1", "command line", "quotation"),
    ("--seed 1 --coef", "--coeff", "expected one argument"),
])
def test_wrong_lines(script, words, flag, fragment):
    error = refused(f"python {script} {words}")
    assert error.field == flag and fragment in error.reason


def test_a_line_needs_a_script():
    assert "no script" in refused("--seed 1").reason
    assert "a misspelling of '--ood_dataset'" in refused("evaluate.py --seed 1 --ood-dataset svhn").reason
    assert asked("CUDA_VISIBLE_DEVICES=0,1 nohup python3 ./DDU/train.py --seed 7 &>log".split(" &>")[0])["--seed"] == 7


# Training

def test_a_training_of_the_readme():
    found = translate("python train.py \\\n  --seed 1 \\\n  --dataset cifar10 \\\n  --model wide_resnet \\\n  -sn -mod "
                      "\\\n  --coeff 3.0")
    assert found.experiment == "ddu/ood" and dict(found.parameters) == dict(
        seeds=1, members=1, task="cifar-10", train=50_000, test=10_000, others=["svhn"], network="wide_resnet_28_10",
        flat="vgg16", spectral_norm=3.0, modified=True, epochs=350, batch=128, lr=0.1)
    assert noted(found, "--seed: 1 is not carried over", "row DDU") and not found.call
    runs(found)


@pytest.mark.parametrize("words, name, value", [
    ("--dataset cifar100", "task", "cifar-100"), ("--model vgg16", "network", "vgg16"),
    ("--model resnet18", "network", "resnet18"), ("", "network", "resnet50"),
    ("-sn", "spectral_norm", 3.0), ("-sn --coeff 6", "spectral_norm", 6.0), ("-sn", "modified", False),
    ("-b 64", "batch", 64), ("-e 200", "epochs", 200), ("--lr 0.05", "lr", 0.05),
    ("--no-gpu", "members", 1), ("-e 70 --first-milestone 30 --second-milestone 50", "epochs", 70),
])
def test_a_training_flag(words, name, value):
    found = translate(f"train.py --seed 3 {words}")
    assert found.parameters[name] == value
    runs(found)


@pytest.mark.parametrize("words, fragment", [
    ("", "without -sn: the experiment's plain networks"), ("--coeff 2", "--coeff: ignored, not used without -sn"),
    ("-e 200", "after epochs 85 and 142"), ("-tb 9", "-tb: ignored"),
    ("--no-gpu", "ACCELERATE_USE_CPU=1"), ("--save-path x", "--save-path: ignored"),
    ("--saved_model_name x", "never read"), ("--data-aug", "--data-aug: ignored, always on"),
    ("--log-interval 9", "--log-interval: ignored"), ("--save-interval 9", "--save-interval: ignored"),
    ("--dataset-root x", "--dataset-root: ignored"),
])
def test_a_training_note(words, fragment):
    assert noted(translate(f"train.py --seed 3 {words}"), fragment)


def test_an_ensemble_is_trained():
    found = translate("train_ensemble.py --seed 1 --model wide_resnet --ensemble 3")
    assert found.parameters["members"] == 3
    runs(found)


@pytest.mark.parametrize("words, flag, fragment", [
    ("--dataset svhn", "--dataset", "no experiment here trains on svhn"), ("--model lenet", "--model", "28 x 28"),
    ("-mod", "-mod", "uncpaper run ddu/ablations"),
    ("-e 70 --first-milestone 20", "--first-milestone", "3/7"), ("--second-milestone 300", "--second-milestone", "5/7"),
])
def test_a_training_that_is_refused(words, flag, fragment):
    error = refused(f"train.py --seed 1 {words}")
    assert error.field == flag and fragment in error.reason


# Dirty-MNIST

@pytest.mark.parametrize("spelling", ["dirty_mnist", "dirty-mnist"])
def test_both_spellings_of_dirty_mnist(spelling):
    found = translate(f"python train.py --seed 1 --dataset {spelling} --dataset-root /home/user/amnist/ --model "
                      f"resnet18 -sn --coeff 3.0 -e 100")
    assert found.experiment == "ddu/dirty-mnist"
    assert found.parameters["networks"] == ["lenet", "vgg16", "resnet18"]
    assert found.parameters["epochs"] == 100 and found.parameters["ambiguous"] == "published"
    assert noted(found, "--dataset-root: ignored", "all three networks", "copies of one ambiguous picture")
    runs(found)


def test_the_three_networks_of_the_figure():
    for words in ("--model lenet", "--model vgg16", "--model resnet50 -sn --coeff 2", "--model lenet -sn -mod"):
        runs(translate(f"train.py --seed 1 --dataset dirty_mnist {words}"))
    found = translate("train.py --seed 1 --dataset dirty_mnist --model resnet50 -sn --coeff 2")
    assert found.parameters["spectral_norm"] == 2.0
    assert noted(translate("train.py --seed 1 --dataset dirty_mnist --model lenet -sn"), "LeNet has neither")


@pytest.mark.parametrize("words, flag", [
    ("--model wide_resnet", "--model"), ("--model vgg16 -sn", "-sn"), ("--model resnet18", "-sn"),
    ("--model resnet18 -sn -mod", "-mod"), ("--model lenet -b 64", "-b"), ("--model lenet --lr 1", "--lr"),
])
def test_what_the_figure_does_not_have(words, flag):
    assert refused(f"train.py --seed 1 --dataset dirty_mnist {words}").field == flag


def test_ensembles_know_no_dirty_mnist():
    assert "train_ensemble.py knows" in refused("train_ensemble.py --seed 1 --dataset dirty_mnist").reason


# Evaluation

def called(translation):
    "What the call gives to `evaluate`, by its signature."
    stand_in = Mock()
    eval(translation.call, {"evaluate": stand_in})
    return inspect.signature(evaluate).bind(*stand_in.call_args.args, **stand_in.call_args.kwargs).arguments


def test_an_evaluation_of_the_readme():
    found = translate("python evaluate.py --seed 1 --dataset cifar10 --ood_dataset svhn --load-path /path/to/models/ "
                      "--model wide_resnet --runs 5 -sn -mod --coeff 3.0 --model-type softmax")
    assert runs(found)["seeds"] == 5 and found.parameters["others"] == ["svhn"] and found.parameters["members"] == 1
    assert called(found) == dict(load_path="/path/to/models/", seed=1, model="wide_resnet", runs=5,
                                 model_type="softmax", dataset="cifar10", ood="svhn", spectral_norm=3.0, modified=True)
    assert noted(found, "to read those that are there") and found.parameters["unseen"] == 26_032


def test_the_evaluation_of_an_ensemble():
    found = translate("evaluate.py --seed 1 --dataset cifar100 --ood_dataset cifar10 --model-type ensemble --ensemble "
                      "3 --runs 1 --load-path it's".replace("'", "\\'"))
    assert (runs(found)["members"], found.parameters["task"]) == (3, "cifar-100")
    assert found.parameters["others"] == ["cifar-10"]
    assert called(found)["ensemble"] == 3 and called(found)["load_path"] == "it's"
    assert noted(found, "the original read five networks in any case")


@pytest.mark.parametrize("words, flag", [
    ("--dataset svhn", "--dataset"), ("--ood_dataset cifar10", "--ood_dataset"),
    ("--ood_dataset mnist", "--ood_dataset"), ("--model lenet", "--model"), ("--data-aug", "--data-aug"),
    ("--model-type ensemble -sn", "--model-type"), ("--model-type all", "--model-type"), ("--ensemble 6", "--ensemble"),
    ("--runs 0", "--runs"), ("-mod", "-mod"),
])
def test_an_evaluation_that_is_refused(words, flag):
    assert refused(f"evaluate.py --seed 1 {words}").field == flag


# Active learning

DIRTY_AL = """python active_learning_script.py --seed 1 --model resnet18 -sn -mod -ambiguous
    --dataset-root /home/user/amnist/ --trained-model resnet18 -tsn --saved-model-path /path/to/pretrained/model
    --saved-model-name resnet18_sn_3.0_1_350.model --threshold 1.0 --subsample 1000 --al-type gmm"""


def test_active_learning_of_the_readme():
    found = translate(DIRTY_AL)
    assert found.experiment == "ddu/active-learning" and runs(found) == dict(
        seeds=5, digits="mnist-full", clean=60_000, drawn=1000, unique=6000, tested=10_000, network="resnet18",
        steps=1580, lr=0.001, cycle=False, batch=5, until=300, members=5)
    assert noted(found, "this command's curve is DDU with the pool of ambiguous", "--dataset-root: ignored",
                 "--trained-model: ignored", "-tsn: ignored", "--saved-model-name: ignored")


def test_active_learning_is_the_paper_profile():
    [experiment] = find("ddu/active-learning")
    assert runs(translate(DIRTY_AL)) == experiment.profiles["paper"]


@pytest.mark.parametrize("words, name, value", [
    ("--subsample 500", "drawn", 500), ("--num-ensemble 3", "members", 3), ("-e 10", "steps", 790),
    ("--acquisition-batch-size 10", "batch", 10),
    ("--max-training-samples 200", "until", 200), ("--max-training-samples 299", "until", 300),
    ("--acquisition-batch-size 9", "until", 308), ("--max-training-samples 20", "until", 20),
])
def test_an_acquisition_flag(words, name, value):
    found = translate(f"active_learning_script.py --seed 1 {words}")
    assert found.parameters[name] == value
    runs(found)


@pytest.mark.parametrize("words, fragment", [
    ("", "curve is softmax with the pool of clean digits"), ("--al-type ensemble", "curve is ensemble PE"),
    ("--al-type ensemble -mi", "curve is ensemble MI"),
    ("--al-type gmm -mi", "-mi: did nothing with --al-type gmm"), ("-sn", "not both given"),
    ("--coeff 1", "--coeff: ignored, never passed on"), ("-tb 1", "-tb: ignored"), ("-sb 1", "-sb: ignored"),
])
def test_an_acquisition_note(words, fragment):
    assert noted(translate(f"active_learning_script.py --seed 1 {words}"), fragment)


@pytest.mark.parametrize("words, flag", [
    ("--model vgg16", "--model"), ("--threshold 0.5", "--threshold"),
    ("--num-initial-samples 10", "--num-initial-samples"), ("-b 32", "-b"), ("--al-type random", "--al-type"),
    ("--num-ensemble 1", "--num-ensemble"), ("--subsample 10", "--subsample"),
])
def test_an_acquisition_that_is_refused(words, flag):
    assert refused(f"active_learning_script.py --seed 1 {words}").field == flag


# Plans

@pytest.mark.parametrize("line, count", [
    ("train.py --seed 1 --model wide_resnet -sn -mod", 4), ("train_ensemble.py --seed 1 --model vgg16", 6),
    ("evaluate.py --seed 1 --dataset cifar100 --ood_dataset cifar10 --model-type gmm --runs 3 -sn", 12),
    ("train.py --seed 1 --dataset dirty-mnist --model resnet18 -sn", 3), (DIRTY_AL, 55),
])
def test_commands_plan_what_they_say(line, count):
    assert len(planned(translate(line))) == count
