"Original DGM command lines: every flag and key, every refusal, what stopped the original, and what calls build."
import functools
import math
import shlex
from importlib import import_module

import pytest
import torch
from translations import noted, planned, refused_by, runs_at

from uncpaper.generation import CD, ND, TD, DrawnNoise, FixedNoise, Vanilla, noisy_loss, refusal
from uncpaper.originals.dgm import (FLAGS, KEYS, MARKS, MISSING, MODELS, SCRIPTS, SETS, TWO_STEPS, asked, defaults_of,
                                    keys_of, literal, translate)
from uncpaper.originals.engine import spelt
from uncpaper.reproduce.cli import original_of, originals

refused = functools.partial(refused_by, translate)
runs = functools.partial(runs_at, "paper")

# Keys and defaults of the original's tables, for grey and for coloured pictures; what is read without a default

BASE = {"flatten": True, "denoising_sigma": None, "dequantize": False, "scale_data": True, "whitening_transform": False,
        "optimizer": "adam", "lr": 0.001, "use_lr_scheduler": False, "max_epochs": 100, "max_grad_norm": 10,
        "early_stopping_metric": None, "max_bad_valid_epochs": None, "train_batch_size": 128, "valid_batch_size": 128,
        "test_batch_size": 128, "make_valid_loader": True, "data_root": "data/", "logdir_root": "runs/"}
TOLD = {"use_tweedie_if_denoising": True, "max_sigma": None, "conditioning_dims_1": None, "conditioning_dims_2": None,
        "conditioning_dims_3": None}
DENSE = {"encoder_net": "mlp", "encoder_hidden_dims": (256,), "decoder_net": "mlp", "decoder_hidden_dims": (256,)}
PIXELS = {"encoder_net": "cnn", "encoder_hidden_channels": (32, 32, 16, 16), "encoder_kernel_size": (3,) * 4,
          "encoder_stride": (1,) * 4, "decoder_net": "cnn", "decoder_hidden_channels": (16, 16, 32, 32),
          "decoder_kernel_size": (3,) * 4, "decoder_stride": (1,) * 4, "flatten": False}
WIDE = PIXELS | {"encoder_hidden_channels": (64, 64, 32, 32), "decoder_hidden_channels": (32, 32, 64, 64)}
PAIR = {"lr": 0.001, "use_lr_scheduler": False, "discriminator_hidden_dims": (256, 256), "disc_lr": 0.001,
        "use_disc_lr_scheduler": True} # of the first two the original's table says None; no result depends on them
AVB = PAIR | {"latent_dim": 20, "single_sigma": True, "input_sigma": 3.0, "prior_sigma": 1.0, "nll_lr": 0.001,
              "use_nll_lr_scheduler": True}
L2 = {"early_stopping_metric": "l2_reconstruction_error"}
FLOW = {"transform": "simple_nsf", "hidden_units": 128, "num_layers": 4, "num_blocks_per_layer": 3, "lr": 0.0005,
        "early_stopping_metric": "loss", "max_bad_valid_epochs": 30, "net": "mlp"}
EBM = {"max_length_buffer": 8192, "x_lims": (0, 1), "ld_steps": 60, "ld_step_size": 10, "ld_eps_new": 0.05,
       "ld_sigma": 0.005, "ld_grad_clamp": 0.03, "loss_alpha": 1.0, "spectral_norm": True, "lr": 0.0003,
       "max_grad_norm": 1.0}
BIGAN = PAIR | L2 | {"max_bad_valid_epochs": 50, "latent_dim": 20, "num_discriminator_steps": 2, "wasserstein": True,
                     "clamp": 0.01, "gradient_penalty": True, "lambda": 10.0, "recon_weight": 1.0, "disc_lr": 0.0001,
                     "ge_lr": 0.0001, "use_ge_lr_scheduler": True, "max_epochs": 200}
WAE = PAIR | L2 | WIDE | {"latent_dim": 20, "max_epochs": 300, "_lambda": 10.0, "sigma": 1.0, "disc_lr": 0.0005,
                          "rec_lr": 0.001, "use_disc_lr_scheduler": False, "use_rec_lr_scheduler": False,
                          "max_bad_valid_epochs": 30}
ORIGINAL = { # model, --is-gae -> what is in the tables, of grey pictures; and what is otherwise of coloured ones
    ("flow", False): (TOLD | FLOW, {"scale_data": False, "whitening_transform": True}),
    ("vae", False): (TOLD | DENSE | {"latent_dim": 20, "single_sigma": True, "net": "mlp"}, {}),
    ("avb", False): (TOLD | DENSE | AVB | {"noise_dim": 128, "net": "mlp"}, {}),
    ("arm", False): (TOLD | {"k_mixture": 10, "flatten": False, "early_stopping_metric": "loss",
                             "max_bad_valid_epochs": 10, "use_lr_scheduler": True, "hidden_size": 256,
                             "num_layers": 2}, {}),
    ("ebm", False): (TOLD | EBM | {"net": "mlp", "energy_func_hidden_dims": (256, 128)},
                     {"net": "cnn", "energy_func_hidden_channels": (64, 64, 32, 32), "flatten": False,
                      "energy_func_kernel_size": (3,) * 4, "energy_func_stride": (1,) * 4}),
    ("ae", True): (DENSE | {"latent_dim": 20}, PIXELS),
    ("vae", True): (TOLD | DENSE | {"latent_dim": 20, "single_sigma": True, "net": "mlp"}, PIXELS | {"net": "cnn"}),
    ("avb", True): (TOLD | DENSE | AVB | L2 | {"max_bad_valid_epochs": 10, "noise_dim": 256, "max_epochs": 50},
                    PIXELS | {"max_epochs": 100}),
    ("bigan", True): (DENSE | BIGAN | {"net": "mlp"}, PIXELS | {"net": "cnn"}),
    ("wae", True): (WAE, {}),
}
READ = {"logit_transform", "clamp_samples", "metric_kwargs", "conditioning_network_activation", "encoder_activation",
        "decoder_activation", "discriminator_activation", "energy_func_activation", "base_distribution"}
MEASURED = {"valid_metrics", "test_metrics"} # lists of words
GREY_ONLY = {"encoder_hidden_dims", "decoder_hidden_dims", "energy_func_hidden_dims"}
TABLES = [(*table, dataset) for table in ORIGINAL for dataset in ("mnist", "svhn")]
ALL = [(model, gae, dataset, name) for model, gae, dataset in TABLES for name in keys_of(model, gae, dataset)]


def line(*settings, model="flow", gae=False, dataset="mnist", more=()):
    "A line with its settings."
    words = ["python", "main.py", "--dataset", dataset, "--model", model, *["--is-gae"] * gae, *more]
    return shlex.join([*words, *(word for text in settings for word in ("--config", text))])


def built(translation):
    "What a call makes: a model, and a method."
    names = dict(pair for module in translation.module.split() for pair in vars(import_module(module)).items())
    return eval(translation.call, names)


def trained(translation, row):
    "The trainings of a row that the command would run, by the noise of the row."
    kind = {"vanilla": FixedNoise(0.0)}.get(row, row)
    return [s for s in planned(translation) if s.kind == "TrainGenerator" and s.noise == kind]


# The tables

@pytest.mark.parametrize("model, gae, dataset", TABLES)
def test_the_tables_are_the_originals(model, gae, dataset):
    grey, coloured = ORIGINAL[model, gae]
    expected = BASE | grey | (coloured if dataset == "svhn" else {})
    if coloured and "encoder_net" in coloured or model == "ebm":
        expected = {n: v for n, v in expected.items() if dataset == "mnist" or n not in GREY_ONLY}
    found = defaults_of(model, gae, dataset)
    missing = set(MISSING.get((model, gae), ()))
    assert set(found) - READ - MEASURED - {"sigma_denoising"} == set(expected) | missing
    assert {name: found[name] for name in expected} == expected


def test_every_model_has_a_table_and_every_key_a_model():
    assert {(model, gae) for gae, models in MODELS.items() for model in models} == set(ORIGINAL)
    assert set(KEYS) == {name for *_, name in ALL}
    assert SCRIPTS == ("main.py",) and [flag.name for flag in FLAGS["main.py"]] == [
        "--dataset", "--model", "--is-gae", "--load-dir", "--max-epochs-loaded", "--load-best-valid-first",
        "--only-test", "--test-ood"]


def sample(option):
    "A value that can be met, as it would be written."
    if option.only: return str(list(option.only[0]) if isinstance(option.only[0], tuple) else option.only[0])
    if option.default is None: return "None"
    return str(list(option.default)) if option.kind is tuple else str(option.default)


@pytest.mark.parametrize("model, gae, dataset, name", ALL)
def test_every_key_can_be_said_and_changes_nothing_at_its_default(model, gae, dataset, name):
    plain = translate(line(model=model, gae=gae, dataset=dataset))
    option = keys_of(model, gae, dataset)[name]
    text = sample(option)
    if option.kind is str and text != "None": text = repr(text)
    found = translate(line(f"{name}={text}", model=model, gae=gae, dataset=dataset))
    assert (found.experiment, found.parameters, found.call) == (plain.experiment, plain.parameters, plain.call)
    ignored = any(note == f"{name}: ignored, {option.remark}" for note in found.notes)
    assert ignored == (not option.here and not option.only) and option.remark


FIXED = [row for row in ALL if len(keys_of(*row[:3])[row[3]].only) == 1]

@pytest.mark.parametrize("model, gae, dataset, name", FIXED)
def test_a_value_that_cannot_be_met_says_why(model, gae, dataset, name):
    option = keys_of(model, gae, dataset)[name]
    other = {bool: not option.default, tuple: "[7]", str: "nonsense", int: 7, float: 0.7}[option.kind]
    error = refused(line(f"{name}={other}", model=model, gae=gae, dataset=dataset))
    assert error.field == name and error.reason == option.remark and error.allowed == spelt(option.only[0])


@pytest.mark.parametrize("name", [key.name for key in KEYS.values() if key.least > -math.inf])
def test_numbers_have_a_range(name):
    model, gae, dataset = next(row[:3] for row in ALL if row[3] == name and not keys_of(*row[:3])[name].only)
    option = keys_of(model, gae, dataset)[name]
    values = ["-1", "[-1]"] if option.kind is tuple else ["-1", "word", "1e999"]
    for value in values:
        error = refused(line(f"{name}={value}", model=model, gae=gae, dataset=dataset))
        assert error.field == name and ("out of range" in error.reason or "not a" in error.reason)


# Lines

@pytest.mark.parametrize("text, field, fragment", [
    ("python train.py", "command line", "no script of the original"), ("main.py '", "command line", "quotation"),
    ("main.py", "--dataset", "must be given"), ("main.py --dataset mnist", "--model", "must be given"),
    ("main.py --dataset klein --model vae", "--dataset", "knows no other"),
    ("main.py --dataset cifar-10 --model vae", "--dataset", "a misspelling of 'cifar10'?"),
    ("main.py --dataset mnist --model gan", "--model", "knows no other"),
    ("main.py --dataset mnist --model flow --is-gae", "--model", "no model with --is-gae"),
    ("main.py --dataset mnist --model wae", "--model", "no model without --is-gae"),
    ("main.py --dataset mnist --model vae --is_gae", "--is_gae", "a misspelling of '--is-gae'?"),
    ("main.py --dataset mnist --model vae --sigma 0.1", "--sigma", "no flag of main.py"),
    ("main.py --dataset mnist --model vae lr=0.1", "lr=0.1", "no flag of main.py"),
    ("main.py --dataset mnist --model vae --config", "--config", "not a key with its value"),
    ("main.py --load-dir runs/x", "--load-dir", "in the folder's config.json"),
    ("main.py --dataset mnist --model flow --max-epochs-loaded 0", "--max-epochs-loaded", "out of range"),
    ("main.py --dataset sphere --model vae --is-gae", "--dataset", "points do not have"),
    ("main.py --dataset sphere --model ebm", "--dataset", "points do not have"),
])
def test_wrong_lines(text, field, fragment):
    error = refused(text)
    assert error.field == field and fragment in error.reason


@pytest.mark.parametrize("setting, field, fragment", [
    ("lr", "lr", "not a key with its value"), ("lr=", "lr", "not a key"), ("=3", "--config", "not a key"),
    ("max_sigmas=0.1", "max_sigmas", "ignores what it does not know, a misspelling of 'max_sigma'?"),
    ("noise_sigma=0.1", "noise_sigma", "a misspelling of 'denoising_sigma'?"),
    ("learning_rate=0.1", "learning_rate", "ignores what it does not know"),
    ("use_tweedie=False", "use_tweedie", "a misspelling of 'use_tweedie_if_denoising'?"),
    ("latent_dim=3", "latent_dim", "flow never reads it, and the original ignored it; avb, vae, ae --is-gae"),
    ("conditioning_dims_1=[256,64", "conditioning_dims_1", "no Python literal"),
    ("data_root=/data", "data_root", "quotes of its own"),
    ("conditioning_dims_1=256", "conditioning_dims_1", "not a list"),
    ("denoising_sigma=small", "denoising_sigma", "not a number"), ("max_epochs=1.5", "max_epochs", "not an integer"),
    ("train_batch_size=50000", "train_batch_size", "out of range"), ("optimizer=adamw", "optimizer", "knows no other"),
    ("scale_data=False", "scale_data", "grey levels"), ("whitening_transform=True", "scale_data", "original stops"),
    ("flatten=False", "flatten", "this flow is of vectors"),
])
def test_wrong_settings(setting, field, fragment):
    error = refused(line(setting))
    assert error.field == field and fragment in error.reason


def test_a_key_twice_is_refused_and_a_path_in_quotes_is_not():
    assert "given twice" in refused(line("lr=0.1", "lr=0.2")).reason
    assert asked(line("data_root='/data'"))["data_root"] == "/data"
    assert noted(translate(line("data_root='/data'")), "data_root: ignored, pictures are found in data/")


def test_values_are_read_as_python_reads_them():
    assert [literal(text) for text in ("1e-3", "None", "True", "true", "[1, 2]", "'a'")] == [
        0.001, None, True, "true", [1, 2], "a"]
    found = asked(line("conditioning_dims_1=(256, 64)", "max_epochs=1e1", "max_sigma=1"))
    assert [found[name] for name in ("conditioning_dims_1", "max_epochs", "max_sigma")] == [(256, 64), 10, 1.0]


@pytest.mark.parametrize("flag", TWO_STEPS)
def test_two_steps_are_the_librarys(flag):
    error = refused(f"python main.py --dataset mnist {flag} ae")
    assert error.field == flag and "TwoStep(784, autoencoder, law) of uncpaper.models.twostep" in error.allowed
    assert flag in MARKS and "TwoStep" in import_module("uncpaper.models.twostep").__all__


def test_a_main_py_is_this_papers_by_its_flags():
    known = originals()
    for text in (line(), line("lr=1", model="vae", gae=True), "./main.py --gae-model ae --de-model vae"):
        assert original_of(text) is known["dgm"]
    assert original_of('main.py --noise_settings "True,uniform"') is known["biv"]
    assert original_of("main.py --base a.yaml -t --gpus 0,") is known["decu"]


# The noise

WIDTHS = "conditioning_dims_1=[256,64]"

@pytest.mark.parametrize("settings, experiment, size, row", [
    ([], "dgm/table-1", 0.01, "vanilla"),
    (["denoising_sigma=0.1", "use_tweedie_if_denoising=False"], "dgm/table-1", 0.1, "ND"),
    (["denoising_sigma=0.1"], "dgm/released", 0.1, "TD, released"),
    (["denoising_sigma=0.1", "use_tweedie_if_denoising=True"], "dgm/released", 0.1, "TD, released"),
    (["max_sigma=0.5", WIDTHS], "dgm/table-1", 0.5, "CD"),
    (["use_tweedie_if_denoising=False"], "dgm/table-1", 0.01, "vanilla"),
    (["denoising_sigma=None", "max_sigma=None"], "dgm/table-1", 0.01, "vanilla"),
    (["sigma_denoising=0.1"], "dgm/table-1", 0.1, "vanilla is what the line trained, and TD what was meant"),
    (["sigma_denoising=0.1", "use_tweedie_if_denoising=False"], "dgm/table-1", 0.1, "ND what was meant"),
    (["denoising_sigma=0.1", "sigma_denoising=0.2"], "dgm/released", 0.1, "TD, released"),
])
def test_the_row_that_a_flow_is(settings, experiment, size, row):
    found = translate(line(*settings))
    assert found.experiment == experiment and found.parameters["sigmas"] == [size] and not found.call
    assert row in found.notes[0] and found.profile == "paper" and found.parameters["seeds"] == 1
    assert noted(found, "the README's spelling, which the original ignored") == ("what was meant" in row)
    runs(found)


@pytest.mark.parametrize("settings", [("denoising_sigma=0.1",), ("sigma_denoising=0.1",)])
@pytest.mark.parametrize("model, gae", [("flow", False), ("vae", True), ("ebm", False), ("avb", False)])
def test_noise_of_two_kinds_is_refused(settings, model, gae):
    error = refused(line(*settings, "max_sigma=0.2", model=model, gae=gae))
    assert error.field == "max_sigma" and error.given == 0.2 and "it would be added twice" in error.reason


def test_any_word_counts_as_true():
    meant = translate(line("denoising_sigma=0.1", "use_tweedie_if_denoising=false"))
    assert meant.experiment == "dgm/released"
    assert noted(meant, "'false' is a word to the original, and any word counts as true; False was meant")
    right = translate(line("denoising_sigma=0.1", "use_tweedie_if_denoising=true"))
    assert noted(right, "'true' is a word to the original, and any word counts") and not noted(right, "was meant")
    assert translate(line("use_lr_scheduler=false")).notes != translate(line("use_lr_scheduler=False")).notes
    assert not noted(translate(line("use_lr_scheduler=yes")), "False kept the step size")
    assert translate(line("dequantize=no")).experiment == "dgm/dequantised"


# What is trained

@pytest.mark.parametrize("dataset, task, steps", [
    ("mnist", "mnist-full", 42_100), ("fashion-mnist", "fashion-mnist-full", 42_100), ("svhn", "svhn", 51_500),
    ("cifar10", "cifar-10", 35_100), ("celeba", "celeba", 127_100)])
@pytest.mark.parametrize("model, gae", [("flow", False), ("vae", True)])
def test_what_a_plain_line_trains(dataset, task, steps, model, gae):
    found = translate(line(model=model, gae=gae, dataset=dataset))
    assert found.parameters["tasks"] == [task] and found.parameters[f"{model}_steps"] == steps
    [training] = trained(found, "vanilla")
    sizes = {"flow": ("best", 0.0005), "vae": ("last", 0.001)}[model]
    assert (training.steps, training.batch, training.keep, training.lr) == (steps, 128, *sizes)
    assert training.scaling == ("whiten" if model == "flow" and dataset not in ("mnist", "fashion-mnist") else "range")
    assert training.source.size == SETS[dataset].size and training.source.dimension == SETS[dataset].dimension
    assert noted(found, "early stopping") == (model == "flow") and noted(found, "-p features=inception")
    runs(found)


@pytest.mark.parametrize("dataset, size", [("mnist", 64), ("svhn", 1024), ("celeba", 4096)])
def test_an_autoencoder_that_is_told(dataset, size):
    settings = "max_sigma=0.1", f"conditioning_dims_1=[256,{size}]", "conditioning_dims_2=[256,8]"
    found = translate(line(*settings, model="vae", gae=True, dataset=dataset))
    [training] = trained(found, DrawnNoise(0.1))
    assert training.family.conditioning == ((256, size), (256, 8))
    assert found.notes[0].startswith("row: CD is what the line trained")


@pytest.mark.parametrize("settings, parameter, value", [
    ("lr=0.01", "flow_lr", 0.01), ("hidden_units=64", "flow_hidden", 64), ("num_layers=2", "flow_layers", 2),
    ("max_epochs=3", "flow_steps", 1263), ("train_batch_size=540", "batch", 540),
    ("train_batch_size=540", "flow_steps", 10_000)])
def test_sizes_of_a_flow(settings, parameter, value):
    found = translate(line(settings))
    assert found.parameters[parameter] == value
    runs(found)


def test_sizes_of_an_autoencoder():
    found = translate(line("latent_dim=5", "encoder_hidden_dims=[64]", "decoder_hidden_dims=[64]", model="vae"))
    [training] = trained(found, "vanilla")
    assert (training.family.latent, training.family.hidden) == (5, (64,)) and noted(found, "without it the original")
    assert refused(line("encoder_hidden_dims=[64]", model="vae")).allowed == "[64]"


def test_the_released_step_shares_its_training_with_the_right_one():
    found = translate(line("denoising_sigma=0.05", dataset="svhn"))
    assert len(trained(found, FixedNoise(0.05))) == 1
    drawn = [stage.drawing.denoised for stage in planned(found) if stage.kind == "Judged"]
    assert sorted(drawn) == ["no", "released", "tweedie"]
    assert noted(found, "almost the same for all pictures") and not noted(found, "255^2")
    assert noted(translate(line("denoising_sigma=0.05", model="vae", gae=True)), "255^2", "of the bound with one code")


@pytest.mark.parametrize("settings, sigmas, row", [
    ([], [0.01], "sigma 0 is"), (["denoising_sigma=0.1", "use_tweedie_if_denoising=False"], [0.1], "sigma 0.1 is")])
def test_dequantised_flows(settings, sigmas, row):
    found = translate(line("dequantize=True", *settings, dataset="cifar10"))
    assert (found.experiment, found.parameters["sigmas"]) == ("dgm/dequantised", sigmas) and row in found.notes[0]
    assert {s.dequantise for s in planned(found) if s.kind == "TrainGenerator"} == {False, True}
    runs(found)


@pytest.mark.parametrize("more, epochs, ignored", [
    (["--max-epochs-loaded", "5"], 100, {"--max-epochs-loaded"}),
    (["--load-dir", "runs/x", "--max-epochs-loaded", "5"], 5, {"--load-dir"}),
    (["--load-dir", "runs/x", "--only-test", "--test-ood"], 100, {"--load-dir", "--only-test", "--test-ood"}),
    (["--load-best-valid-first"], 100, {"--load-best-valid-first"})])
def test_runs_that_go_on(more, epochs, ignored):
    found = translate(line(more=more))
    assert found.parameters["flow_steps"] == 421 * epochs
    assert {note.split(":")[0] for note in found.notes if ": ignored" in note} == ignored


# Calls

SIZES = [ # model, --is-gae, data set, weights of the original's
    ("vae", False, "cifar10", 1_592_105), ("avb", False, "mnist", 718_118), ("avb", True, "mnist", 750_886),
    ("avb", True, "cifar10", 1_276_330), ("ae", True, "mnist", 412_964), ("ae", True, "cifar10", 412_039),
    ("wae", True, "mnist", 726_774), ("wae", True, "cifar10", 959_992), ("bigan", True, "mnist", 685_093),
    ("bigan", True, "cifar10", 1_269_896), ("arm", False, "mnist", 799_262), ("arm", False, "cifar10", 811_590),
    ("ebm", False, "mnist", 233_985), ("ebm", False, "svhn", 84_865)]

@pytest.mark.parametrize("model, gae, dataset, count", SIZES)
def test_a_call_builds_the_originals_model(model, gae, dataset, count):
    found = translate(line(model=model, gae=gae, dataset=dataset))
    network, method = built(found)
    assert sum(p.numel() for p in network.parameters()) == count and method == Vanilla()
    assert not found.experiment and not found.parameters and network.dimension == SETS[dataset].dimension
    assert noted(found, "data: fitted(x, 'range')", "training: adam")
    assert all(text.startswith("#") for text in str(found).splitlines()) and found.call in str(found)


@pytest.mark.parametrize("settings, count", [
    (["max_sigma=0.1", WIDTHS, "hidden_units=8", "num_layers=1", "max_grad_norm=5"], None),
    (["max_sigma=0.1", "hidden_units=8", "num_layers=1"], None)])
def test_a_flow_that_is_told_otherwise(settings, count):
    found = translate(line(*settings, dataset="sphere"))
    network, method = built(found)
    assert method == CD(0.1) and refusal(method, network) is None
    assert network.conditioner.width == (64 if WIDTHS in settings else 1)
    assert noisy_loss(network, torch.zeros(4, 3), method.noise).isfinite()


@pytest.mark.parametrize("model, gae, settings, way", [
    ("ebm", False, ["denoising_sigma=0.1"], TD(0.1)), ("avb", False, ["denoising_sigma=0.1"], TD(0.1)),
    ("arm", False, ["denoising_sigma=0.1"], ND(0.1)), ("ae", True, ["denoising_sigma=0.1"], ND(0.1)),
    ("ebm", False, ["max_sigma=0.1", WIDTHS], CD(0.1)), ("arm", False, ["max_sigma=0.1"], CD(0.1)),
    ("avb", False, ["max_sigma=0.1", WIDTHS, "conditioning_dims_2=[256,8]", "conditioning_dims_3=[8]"], CD(0.1)),
    ("ebm", False, ["sigma_denoising=0.1", "use_tweedie_if_denoising=False"], ND(0.1))])
def test_ways_of_other_models(model, gae, settings, way):
    found = translate(line(*settings, model=model, gae=gae))
    network, method = built(found)
    assert method == way and refusal(method, network) is None
    assert noted(found, "no experiment has this kind of model")


def test_settings_of_a_chain():
    found = translate(line("ld_steps=5", "x_lims=(-1,1)", "ld_eps_new=0", "max_length_buffer=10", "loss_alpha=0.1",
                           "energy_func_hidden_dims=[8]", "spectral_norm=False", "lr=0.1", model="ebm"))
    network, _ = built(found)
    assert (network.langevin.steps, network.langevin.limits, network.fresh, network.penalty) == (5, (-1, 1), 0, 0.1)
    assert len(network.store.states) == 10 and network.network[0].out_features == 8 and noted(found, "lr 0.1,")


@pytest.mark.parametrize("settings, model, gae, dataset, fragment", [
    (["transform=multiscale", "flatten=False"], "flow", False, "mnist", "transform: the experiments"),
    (["scale_data=False", "whitening_transform=True"], "flow", False, "mnist", "whitening_transform: the experiments"),
    (["scale_data=True", "whitening_transform=False"], "flow", False, "svhn", "whitening_transform: the experiments"),
    (["dequantize=True", "denoising_sigma=0.1"], "flow", False, "mnist", "dequantize: the experiment"),
    (["dequantize=True"], "vae", True, "mnist", "dequantize: the experiment"),
    (["optimizer=sgd"], "flow", False, "mnist", "optimizer: it is adam"),
    (["max_grad_norm=1"], "vae", True, "svhn", "max_grad_norm: it is 10"),
    ([], "flow", False, "sphere", "--dataset: the experiments"),
    ([], "vae", False, "svhn", "--is-gae: the experiments"),
    (["encoder_hidden_dims=[64,32]", "decoder_hidden_dims=[32,64]"], "vae", True, "mnist", "other networks"),
    (["encoder_hidden_channels=[8]", "decoder_hidden_channels=[8]"], "vae", True, "svhn", "other networks"),
    (["max_sigma=0.1"], "vae", True, "mnist", "conditioning_dims_1 and its kin")])
def test_what_no_experiment_has_is_said_and_called(settings, model, gae, dataset, fragment):
    found = translate(line(*settings, model=model, gae=gae, dataset=dataset))
    assert not found.experiment and found.notes[0].startswith(fragment.split(":")[0]) or noted(found, fragment)
    assert found.command().startswith("#") and found.call
    if model == "vae": assert built(found)[0].dimension == SETS[dataset].dimension


# What stopped the original

@pytest.mark.parametrize("model, gae, given, stops", [
    ("arm", False, [], "TypeError"), ("avb", True, [], "net (KeyError)"), ("avb", True, ["net=mlp"], ""),
    ("ae", True, [], "max_sigma, conditioning_dims_1, conditioning_dims_2, conditioning_dims_3, net (KeyError)"),
    ("wae", True, ["max_sigma=None"], "--config conditioning_dims_1=None"), ("bigan", True, ["net=mlp"], "max_sigma"),
    ("avb", False, [], ""), ("ebm", False, [], ""), ("flow", False, ["transform=multiscale"], "flatten=False"),
    ("flow", False, ["transform=multiscale", "flatten=False"], "")])
def test_models_at_which_the_original_stopped(model, gae, given, stops):
    found = translate(line(*given, model=model, gae=gae))
    said = [note for note in found.notes if note.startswith("the original") and "stops" in note]
    assert len(said) == bool(stops) and all(stops in note for note in said)


@pytest.mark.parametrize("given", [
    [], ["conditioning_dims_1=[256,64]", "conditioning_dims_2=[256,8]"], ["conditioning_dims_2=[256,8]"],
    ["conditioning_dims_1=[256,1024]"]])
def test_convolutions_that_could_not_be_told(given):
    error = refused(line("max_sigma=0.1", *given, model="vae", gae=True, dataset="svhn"))
    assert error.field.startswith("conditioning_dims") and "the original stopped" in error.reason


def test_all_networks_are_told_by_networks_or_none_is():
    two = "max_sigma=0.1", WIDTHS, "conditioning_dims_2=[256,8]"
    assert refused(line(*two, model="avb")).field == "conditioning_dims_3"
    assert refused(line(*two[:2], model="vae")).field == "conditioning_dims_2"
    assert refused(line(two[0], two[2], model="vae")).field == "conditioning_dims_1"


@pytest.mark.parametrize("model", ["ae", "wae", "bigan"])
def test_autoencoders_are_told_nothing(model):
    error = refused(line("max_sigma=0.1", model=model, gae=True))
    assert error.field == "max_sigma" and error.allowed == "None"
    assert noted(translate(line("disc_lr=0.1" if model != "ae" else "lr=0.1", model=model, gae=True)), "lr 0.1")


# The README

README = [ # line, experiment, parameters, what it really did
    ("python main.py --dataset mnist --model vae --is-gae --config sigma_denoising=0.01 --config "
     "use_tweedie_if_denoising=False", dict(tasks=["mnist-full"], families=["VAE"], sigmas=[0.01]),
     "row: vanilla is what the line trained, and ND what was meant"),
    ("python main.py --dataset mnist --model vae --is-gae --config sigma_denoising=0.01",
     dict(tasks=["mnist-full"], families=["VAE"], sigmas=[0.01]),
     "row: vanilla is what the line trained, and TD what was meant"),
    ('python main.py --dataset mnist --model flow --config max_sigma=0.01 --config conditioning_dims_1="[256,64]"',
     dict(tasks=["mnist-full"], families=["NF"], maxima=[0.01]), "row: CD is what the line trained"),
    ('python main.py --dataset svhn --model vae --is-gae --config max_sigma=0.01 --config '
     'conditioning_dims_1="[256,1024]" --config conditioning_dims_2="[256,8]"',
     dict(tasks=["svhn"], families=["VAE"], maxima=[0.01]), "row: CD is what the line trained")]

@pytest.mark.parametrize("text, parameters, did", README)
def test_the_readmes_lines(text, parameters, did):
    found = translate(text)
    assert found.experiment == "dgm/table-1" and found.notes[0].startswith(did)
    assert {name: found.parameters[name] for name in parameters} == parameters
    assert trained(found, "vanilla") and trained(found, FixedNoise(0.01)) and trained(found, DrawnNoise(0.01))
    runs(found)


def test_the_readmes_models():
    for model, gae in (("arm", False), ("avb", False), ("ebm", False), ("flow", False), ("vae", False), ("vae", True)):
        for dataset in ("mnist", "fashion-mnist", "svhn", "cifar10"):
            found = translate(f"python main.py --dataset {dataset} --model {model}{' --is-gae' * gae}")
            assert bool(found.experiment) != bool(found.call)
