"Original EiV command lines: every option of the seven scripts, every refusal, and what the experiments declare."

import functools
import math
import shlex
from pathlib import Path
from unittest.mock import Mock

import pytest
from translations import noted, planned, refused_by, runs_at

from uncpaper.originals.eiv import OPTIONS, SCRIPTS, asked, translate
from uncpaper.originals.eiv_files import SETS, Tree
from uncpaper.originals.engine import Translation

refused = functools.partial(refused_by, translate)
runs = functools.partial(runs_at, "paper")

# Names and defaults of the original's configuration files

ORIGINAL = {
    "data": "mnist", "data.path": "../../data", "data.path_zeta_train": "data/train",
    "data.path_zeta_test": "data/test", "data.param.dim": 32,
    "diffusion.betas": "linear", "diffusion.timesteps": 1000, "device": "cuda:0", "seed": 2, "plot.interval": 1,
    "plot.cmap": "viridis", "plot.extension": "pdf",
    "inference.n_img": 9, "inference.n_row": 3, "inference.n_col": 3, "diff": "diff", "diff/model": "unet",
    "diff.model.param.dim_mults": (1, 2, 2, 2), "diff.model.param.nf": 128,
    "diff.model.param.n_res_block": 2, "diff.model.param.attn_resolutions": (16,),
    "diff.model.param.nonlinearity": "swish", "diff.model.param.resamp_with_conv": True,
    "diff.model.param.conditional": True, "diff.model.param.sigma_min": 0.01, "diff.model.param.sigma_max": 50,
    "diff.model.param.dropout": 0.1, "diff.model.param.timesteps": 1000,
    "diff.checkpoint.load.path": "/checkpoints", "diff.checkpoint.load.name": "/best_model.pth.tar",
    "diff.checkpoint.save.path": "/checkpoints", "diff.checkpoint.save.name": "/best_model.pth.tar",
    "diff.checkpoint.save.save": True, "diff.step.start": 0, "diff.step.end": 800_000,
    "diff.step.frequ_to_save": 100_000, "diff.optim.adam.beta1": 0.9, "diff.optim.adam.beta2": 0.999,
    "diff.optim.adam.eps": 1e-8, "diff.optim.grad_clip": 1.0, "diff.optim.warmup": 5000, "diff.optim.decay": 0.9999,
    "diff.optim.loss": "l2", "diff.optim.lr": 4e-4, "diff.optim.batch_size": 128,
    "diff.optim.n_workers": 8, "pred": "pred", "pred/model": "mlp", "pred.model.param.p": 0.5,
    "pred.model.param.in_features": 1024, "pred.checkpoint.load.pred.name_suffix": ".pth.tar",
    "pred.checkpoint.load.diff": "saved_models/diff/cifar10_model.pth.tar", "pred.checkpoint.save.path": "/checkpoints",
    "pred.checkpoint.save.save": True, "pred.n_zeta.train": 5,
    "pred.n_zeta.test": 5, "pred.n_zeta_mean": False, "pred.n_theta": 50, "pred.dataset.train": True,
    "pred.timesteps.train": 500, "pred.timesteps.test.start": 0, "pred.timesteps.test.end": 501,
    "pred.timesteps.test.step_size": 100, "pred.timesteps.inference": (30, 60, 90, 120, 150), "pred.epoch.start": 0,
    "pred.epoch.end": 10, "pred.epoch.frequ_to_save": 10_000,
    "pred.optim.adam.beta1": 0.9, "pred.optim.adam.beta2": 0.999, "pred.optim.adam.eps": 1e-8, "pred.optim.lr": 4e-4,
    "pred.optim.wd": 1e-4, "pred.optim.batch_size": 256, "pred.optim.n_workers": 20,
}
FROM_THE_GROUP = {"data.name", "data.param.n_channel", "data.param.n_class", "diff.model.name", "pred.model.name"}
BASE = "data=mnist diff/model=ddpm"

DIFFUSION = ("data=cifar10 diff/model=ddpm diff.model.param.dim_mults=[1,2,2,2] plot.cmap=viridis")
SCRIPT_LINES = { # the lines of the shell scripts, with their variables put in
    "train_net.py": f"{DIFFUSION} diff.step.start=0 diff.step.end=800000 diff.optim.batch_size=128 device=cuda:0 "
                    f"seed=41",
    "generate_samples.py": f"{DIFFUSION} diff.checkpoint.load.name=/best_model.pth.tar diff.optim.batch_size=128 "
                           f"device=cuda:0 seed=41",
    "generate_animation.py": f"{DIFFUSION} diff.checkpoint.load.name=/best_model.pth.tar diff.optim.batch_size=128 "
                             f"device=cuda:0 seed=41",
    "generate_dataset.py": "data=cifar10 diff/model=ddpm diff.model.param.dim_mults=[1,2,2,2] "
                           "diff.optim.batch_size=128 pred.dataset.train=True pred.timesteps.train=120 "
                           "pred.n_zeta.test=5 device=cuda:0 seed=42",
    "train_net_pred.py": "data=cifar10 diff/model=ddpm pred/model=resnet9_dropout pred.optim.lr=0.001 "
                         "pred.optim.batch_size=256 pred.n_zeta.train=5 pred.n_zeta_mean=False pred.n_zeta.test=5 "
                         "pred.timesteps.train=120 pred.n_theta=1 diff.model.param.dim_mults=[1,2,2,2] "
                         "pred.epoch.start=0 pred.epoch.end=100 device=cuda:0 seed=1 pred.model.param.p=0.5",
    "infer_pred.py": "data=cifar10 diff/model=ddpm pred/model=resnet9_dropout pred.n_theta=50 "
                     "pred.optim.batch_size=256 pred.n_zeta.train=5 pred.n_zeta.test=50 pred.n_zeta_mean=False "
                     "pred.timesteps.inference=[1,30,60,90,120,150] diff.model.param.dim_mults=[1,2,2,2] "
                     "pred.epoch.start=0 pred.epoch.end=100 device=cuda:0 seed=1 pred.model.param.p=0.5",
    "store_pred.py": "data=cifar10 diff/model=ddpm pred/model=resnet9_dropout pred.n_theta=50 "
                     "pred.optim.batch_size=256 pred.n_zeta.train=5 pred.n_zeta.test=50 pred.timesteps.train=120 "
                     "diff.model.param.dim_mults=[1,2,2,2] pred.epoch.start=0 pred.epoch.end=100 device=cuda:0 seed=1 "
                     "pred.model.param.p=0.5",
}


def line(script, *words):
    "A line of a script; later words replace those of the same option, and None takes one away."
    given = {}
    for word in [*SCRIPT_LINES[script].split(), *words]: given[word.partition("=")[0]] = word
    return shlex.join(["python", script, "-m", *given.values()])


# The table

def test_the_table_is_the_originals_configuration():
    assert {o.name: o.default for o in OPTIONS if o.name not in FROM_THE_GROUP} == ORIGINAL
    assert len({o.name for o in OPTIONS}) == len(OPTIONS) == len(ORIGINAL) + len(FROM_THE_GROUP)
    assert all(o.remark and set(o.scripts) <= set(SCRIPTS) for o in OPTIONS)


def sample(option):
    "A value that can be met, as it is written."
    if option.name in FROM_THE_GROUP:
        return {"data.name": "mnist", "data.param.n_channel": "1", "data.param.n_class": "10",
                "diff.model.name": "ddpm", "pred.model.name": "mlp"}[option.name]
    value = option.only[0] if option.only else option.default
    return "[" + ",".join(map(str, value)) + "]" if option.kind is tuple else str(value)


@pytest.mark.parametrize("option", OPTIONS, ids=[o.name for o in OPTIONS])
def test_every_option_of_every_script_becomes_something_or_is_noted(option):
    for script in SCRIPTS:
        given = {"data": "mnist", "diff/model": "ddpm", option.name: sample(option)}
        text = shlex.join(["python", script, *(f"{name}={value}" for name, value in given.items())])
        found = translate(text)
        has_effect = option.acts(script) and bool(option.here or option.only)
        assert any(note.startswith(f"{option.name}: ignored") for note in found.notes) == (not has_effect)
        assert dict(asked(text).given) == given
        runs(found)


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.only], ids=[o.name for o in OPTIONS if o.only])
def test_a_value_that_cannot_be_met_says_why(option):
    wrong = {bool: "False", float: "0.123", int: "77", str: "nonsense", tuple: "[7,7]"}[option.kind]
    for script in option.scripts or SCRIPTS:
        error = refused(f"python {script} {'diff/model=ddpm ' * (option.name != 'diff/model')}{option.name}={wrong}")
        assert error.field == option.name and error.reason == option.remark and all(str(value) in error.allowed
                                                                                    for value in option.only)


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.kind is not str],
                         ids=[o.name for o in OPTIONS if o.kind is not str])
def test_a_value_of_another_kind_is_refused(option):
    for script in option.scripts or SCRIPTS:
        error = refused(f"python {script} {BASE} {option.name}=x")
        assert error.field == option.name and error.reason.startswith("not ")


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.least > -math.inf],
                         ids=[o.name for o in OPTIONS if o.least > -math.inf])
def test_numbers_have_a_range(option):
    for script in option.scripts or SCRIPTS:
        for value in ["-3", *(["nan", "inf"] if option.kind is float else []),
                      *(["1000"] if option.most == 999 else [])]:
            error = refused(f"python {script} {BASE} {option.name}=" + (f"[{value}]" if option.kind is tuple
                                                                        else value))
            assert error.field == option.name and error.reason == "out of range"


# Lines

@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("words, field, fragment", [
    ("", "diff/model", "neither unet, which is the default"), ("diff/model=unet", "diff/model", "neither unet"),
    ("diff/model=mlp", "diff/model", "has a network behind it"),
    (f"{BASE} stray", "stray", "not an option with its value"), (f"{BASE} +a=1", "+a", "adds or removes"),
    (f"{BASE} ++seed=1", "++seed", "adds or removes"), (f"{BASE} ~plot", "~plot", "adds or removes"),
    (f"{BASE} --cfg job", "--cfg", "not an option"), (f"{BASE} seed=1 seed=2", "seed", "given twice"),
    (f"{BASE} seed=1,2", "seed", "several values are a sweep"), (f"{BASE} seed=", "seed", "not an integer"),
    (f"{BASE} 'seed=1", "command line", "quotation"), (f"{BASE} colour=red", "colour", "no option of the original"),
    ("data=svhn diff/model=ddpm", "data", "pictures of 32 x 32"),
    (f"{BASE} data.name=cifar10", "data.name", "comes with the data set, mnist"),
    (f"{BASE} data.param.n_class=100", "data.param.n_class", "comes with the data set"),
])
def test_wrong_lines(script, words, field, fragment):
    error = refused(f"python {script} {words}")
    assert error.field == field and fragment in error.reason


@pytest.mark.parametrize("word, near", [
    ("pred.n_zetas.test=5", "pred.n_zeta.test"), ("difff/model=ddpm", "diff/model"), ("diff.model=ddpm", "diff/model"),
    ("pred.timestep.inference=[30]", "pred.timesteps.inference"), ("sead=1", "seed"),
    ("diff.optim.batchsize=64", "diff.optim.batch_size"), ("difusion.betas=linear", "diffusion.betas"),
])
def test_a_misspelling_is_told_its_neighbour(word, near):
    error = refused(f"python train_net.py {BASE} {word}")
    assert error.field == word.partition("=")[0] and f"a misspelling of {near!r}?" in error.reason


def test_what_is_allowed_is_near_what_was_given():
    assert refused(f"python train_net.py {BASE} plot.colour=x").allowed == "plot.interval, plot.cmap, plot.extension"
    everything = "data, diffusion, device, seed, plot, inference, diff, pred"
    assert refused(f"python train_net.py {BASE} colour=x").allowed == everything


@pytest.mark.parametrize("text, fragment",
                         [("python main.py seed=1", "no script of the original"),
                          (". run_pred_train.sh", "a shell script holds its own settings"), ("", "no script")])
def test_a_line_needs_a_script(text, fragment):
    assert fragment in refused(text).reason


def test_what_stands_before_the_script_is_dropped():
    for before in ("CUDA_VISIBLE_DEVICES=0 nohup python3 ./EiV/", "srun python ", ""):
        assert asked(f"{before}train_net.py {BASE} seed=7")["seed"] == (7,)
    assert asked(f"python train_net.py \\\n  {BASE} \\\n  seed=7")["seed"] == (7,)
    assert asked(["python", "train_net.py", "diff/model=ddpm", "seed=7"])["seed"] == (7,)


def test_sweeps():
    found = translate(line("train_net_pred.py", "seed=1,2,3,4,5", "pred.timesteps.train=1,30,60,90,120,150",
                           "pred.n_zeta_mean=True,False"))
    assert found.parameters["seeds"] == 5 and found.parameters["levels"] == [1, 30, 60, 90, 120, 150]
    assert noted(found, "this line is AIV and EiV")
    runs(found)
    for option in OPTIONS:
        if option.swept or option.kind is tuple: continue
        given = {"data": "mnist", "diff/model": "ddpm", option.name: "1,2"}
        assert "cannot be swept" in refused(shlex.join(["train_net.py", "--multirun",
                                                        *(f"{name}={value}" for name, value in given.items())])).reason


# The shell scripts' lines

@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("data, model", [("cifar10", "resnet9_dropout"), ("cifar100", "resnet9"), ("mnist", "mlp")])
def test_a_line_of_the_shell_scripts_can_be_planned(script, data, model):
    words = [f"data={data}", *([f"pred/model={model}"] if "pred" in script else [])]
    found = translate(line(script, *words))
    assert type(found) is Translation and SETS[data].ours in (found.parameters.get("task"),
                                                              *found.parameters.get("tasks", []))
    runs(found)
    assert planned(found)


def test_training_the_diffusion_model_is_the_paper_profile():
    found = translate(line("train_net.py"))
    assert dict(found.parameters) == dict(seeds=1, tasks=["cifar-10"], labelled=50_000, learned=50_000,
                                          denoiser_steps=800_000, denoiser_batch=128, denoiser_lr=2e-4,
                                          denoiser_warm=5000, decay=0.9999)
    assert found.experiment == "eiv/generation" and not found.call and noted(found, "the original never set it",
                                                                             "device: ignored", "plot.cmap: ignored",
                                                                             "averaged weights after the last step")
    training = max((s for s in planned(found) if type(s).__name__ == "TrainDenoiser"),
                   key=lambda s: s.steps)  # the other is the weak model of the guided chain
    assert (training.steps, training.batch, training.lr, training.warm, training.decay, training.seed,
            training.backbone, training.flips) == (800_000, 128, 2e-4, 5000, 0.9999, 41, "ddpm_unet", True)


def test_classifiers_of_the_paper():
    found = translate(line("train_net_pred.py", "seed=1,2"))
    assert dict(found.parameters) == dict(seeds=2, task="cifar-10", labelled=50_000, learned=50_000, levels=[120], K=5,
                                          network="resnet9_dropout", epochs=100, batch=256, lr=1e-3, augment="full")
    classifiers = {s for s in planned(found) if type(s).__name__ == "TrainClassifier"}
    assert {(s.network, s.epochs, s.batch, s.lr, s.augment)
            for s in classifiers} == {("resnet9_dropout", 100, 256, 1e-3, "full")}
    assert {s.method for s in classifiers} == {"EiV", "AIV", "non-EiV, fresh noise",
                                               "non-EiV, fixed noise"} and {s.seed for s in classifiers} == {0, 1}


def test_zetas_of_both_splits():
    for split, name in (("True", "K"), ("False", "K_test")):
        found = translate(line("generate_dataset.py", f"pred.dataset.train={split}", "pred.n_zeta.test=7",
                               "pred.timesteps.train=90"))
        assert found.parameters[name] == 7 and found.parameters["levels"] == [90]
        zetas = [s for s in planned(found) if type(s).__name__ == "Zetas"
                 and (s.images.pictures.split == "train") == (split == "True")]
        assert zetas and all(s.K == 7 and s.T == 90 for s in zetas)
    assert noted(found, "nothing is copied", "stretched each batch")


@pytest.mark.parametrize("script, words, name, value", [
    ("train_net.py", ["diff.optim.batch_size=64"], "denoiser_lr", 1e-4),
    ("train_net.py", ["diff.optim.lr=1e-3"], "denoiser_lr", 5e-4),
    ("train_net.py", ["diff.step.end=1e5"], "denoiser_steps", 100_000),
    ("train_net.py", ["diff.optim.warmup=100"], "denoiser_warm", 100),
    ("train_net.py", ["diff.optim.decay=0.99"], "decay", 0.99), ("train_net.py", ["data=mnist"], "learned", 60_000),
    ("train_net_pred.py", ["pred.optim.batch_size=128"], "lr", 5e-4),
    ("train_net_pred.py", ["pred.optim.batch_size=128"], "batch", 128),
    ("train_net_pred.py", ["data=mnist"], "augment", "flips"),
    ("train_net_pred.py", ["pred.n_zeta.train=20"], "K", 20),
    ("train_net_pred.py", ["pred.timesteps.train=0"], "levels", [0]),
    ("infer_pred.py", ["pred.n_zeta.test=5"], "K_test", 5),
    ("infer_pred.py", ["pred.n_theta=1"], "draws", 1),
    ("infer_pred.py", ["pred.timesteps.inference=[ 30, 60 ]"], "levels", [30, 60]),
    ("infer_pred.py", ["pred.epoch.end=50"], "epochs", 50),
    ("store_pred.py", ["pred.timesteps.train=30"], "levels", [30]),
    ("store_pred.py", ["pred/model=resnet9"], "network", "resnet9"),
    ("store_pred.py", ["data=cifar100"], "task", "cifar-100"),
    ("generate_samples.py", ["data=mnist"], "tasks", ["mnist-full"]),
    ("generate_animation.py", ["seed=1,2"], "seeds", 2),
])
def test_an_option_becomes_a_parameter(script, words, name, value):
    found = translate(line(script, *words))
    assert found.parameters[name] == value
    runs(found)


@pytest.mark.parametrize("script, words, absent", [
    ("train_net_pred.py", ["pred.n_zeta.train=0", "pred.n_zeta.test=0"], ("K", "K_test")),
    ("infer_pred.py", ["pred.n_zeta.train=0", "pred.n_zeta.test=0"], ("K", "K_test")),
    ("train_net_pred.py", [], ("K_test", "draws", "denoiser_steps")), ("infer_pred.py", [], ("lr", "batch", "augment")),
    ("generate_samples.py", [], ("denoiser_steps", "denoiser_lr")),
])
def test_what_a_line_does_not_say_is_the_profiles(script, words, absent):
    assert not set(absent) & set(translate(line(script, *words)).parameters)


# Defects of the original

@pytest.mark.parametrize("words, levels, quoted", [
    ([], [30, 60, 90, 120, 150], True), (['pred.timesteps.inference="[1,30]"'], [1, 30], True),
    (["pred.timesteps.inference='[1,30]'"], [1, 30], True), (["pred.timesteps.inference=[1,30]"], [1, 30], False),
])
def test_a_list_in_quotes_is_read_as_a_list(words, levels, quoted):
    found = translate(shlex.join(["python", "infer_pred.py", "data=mnist", "diff/model=ddpm", *words]))
    assert found.parameters["levels"] == levels and noted(found, "read character by character") == quoted


@pytest.mark.parametrize("text", ["1e-8", "1.0e-8", "0.00000001", "1E-8"])
def test_small_numbers_are_numbers(text):
    for script, name in (("train_net.py", "diff.optim.adam.eps"), ("train_net_pred.py", "pred.optim.adam.eps")):
        assert asked(line(script, f"{name}={text}"))[name] == 1e-8
    assert translate(line("train_net.py", "diff.optim.lr=4e-4")).parameters["denoiser_lr"] == 2e-4


@pytest.mark.parametrize("script, words, field, fragment", [
    ("train_net.py", ["diff.step.start=1000"], "diff.step.start", "a column that it does not have"),
    ("train_net_pred.py", ["pred.epoch.start=50"], "pred.epoch.start", "began anew"),
    ("train_net_pred.py", ["pred/model=vit_s"], "pred/model", "vit_s"),
    ("train_net_pred.py", ["pred/model=mlp"], "pred/model", "1024 inputs and 10 outputs"),
    ("infer_pred.py", ["data=cifar100", "pred/model=mlp"], "pred/model", "fit mnist only"),
    ("train_net_pred.py", ["pred.n_zeta.train=0"], "pred.n_zeta.test", "non-EiV, there are no draws"),
    ("infer_pred.py", ["pred.n_zeta.test=0"], "pred.n_zeta.test", "there must be draws at test"),
    ("store_pred.py", ["pred.n_zeta.train=0"], "pred.n_zeta.train", "all three methods"),
    ("store_pred.py", ["pred.n_zeta.test=0"], "pred.n_zeta.test", "there must be draws"),
    ("generate_dataset.py", ["pred.n_zeta.test=0"], "pred.n_zeta.test", "no draws to make"),
    ("train_net.py", ["diffusion.betas=sigmoid"], "diffusion.betas", "uncpaper.schedules has all four"),
    ("train_net.py", ["diff.model.param.dim_mults=[1,2,4,8]"], "diff.model.param.dim_mults", "published network"),
    ("train_net_pred.py", ["pred.model.param.p=0.2"], "pred.model.param.p", "p = 0.5"),
    ("train_net_pred.py", ["pred.model.name=mlp"], "pred.model.name", "pred/model says it, resnet9_dropout"),
])
def test_what_the_original_could_not_do(script, words, field, fragment):
    error = refused(line(script, *words))
    assert error.field == field and fragment in error.reason


@pytest.mark.parametrize("script, words, fragment", [
    ("train_net.py", ["diff.checkpoint.save.name=x"], "diff.checkpoint.save.name: ignored, never read"),
    ("train_net.py", ["diff.model.param.sigma_max=3"], "never read by the original"),
    ("train_net.py", ["pred.n_theta=3"], "pred.n_theta: ignored, train_net.py does not depend on it"),
    ("train_net.py", ["pred/model=vit_s"], "pred/model: ignored"),
    ("train_net.py", ["hydra.run.dir=x"], "hydra.run.dir: ignored"),
    ("train_net_pred.py", ["pred.n_zeta_mean=True"], "this line is AIV"),
    ("train_net_pred.py", ["pred.n_zeta.train=0", "pred.n_zeta.test=0"], "this line is non-EiV, fresh noise"),
    ("train_net_pred.py", ["pred.n_zeta.train=0", "pred.n_zeta.test=0", "pred.n_zeta_mean=True"],
     "changed a folder's name only"), ("train_net_pred.py", ["data=mnist"], "mirrored digits too"),
    ("infer_pred.py", [], "mirrored them at random, each zeta by itself"),
    ("infer_pred.py", [], "losses of the original's table cannot be compared"),
    ("infer_pred.py", ["pred/model=resnet9"], "no dropout"),
    ("infer_pred.py", ["pred.optim.batch_size=64"], "pred.optim.batch_size: ignored"),
    ("store_pred.py", ["pred.n_zeta_mean=True"], "pred.n_zeta_mean: ignored"),
    ("store_pred.py", [], "all three methods' predictives"),
    ("generate_animation.py", ["plot.interval=10"], "plot.interval: ignored"),
    ("generate_dataset.py", [], "the original never set it"),
    ("infer_pred.py", ["pred.timesteps.test.end=5"], "never read by the original"),
])
def test_a_note(script, words, fragment):
    assert noted(translate(line(script, *words)), fragment)


# Calls for the original's files

def called(translation):
    "What the call gives to each reader."
    readers = {name: Mock() for name in ("read_denoiser", "read_classifier", "read_predictives")}
    eval(translation.call, {"Tree": Tree, **readers})
    return {name: [(c.args, c.kwargs) for c in reader.call_args_list]
            for name, reader in readers.items() if reader.called}


def test_calls_read_what_the_original_read():
    where = "results/cifar10/ddpm[1, 2, 2, 2]/lossl2/seed41/lr0.0004/bs128/checkpoints/best_model.pth.tar"
    raw = {"weights": "raw", "mode": "train"}
    for script in ("generate_samples.py", "generate_animation.py"):
        assert called(translate(line(script))) == {"read_denoiser": [((where, "cifar10"), raw)]}
    copied = "saved_models/diff/cifar10_model.pth.tar"
    assert called(translate(line("generate_dataset.py"))) == {"read_denoiser": [((copied, "cifar10"), raw)]}
    for mean, folder in (("False", "n_zeta5"), ("True", "n_zeta5mean")):
        reads = called(translate(line("infer_pred.py", "pred.timesteps.inference=[1,120]", f"pred.n_zeta_mean={mean}",
                                      "seed=3")))["read_classifier"]
        where = Path(f"results_pred/cifar10/resnet9_dropoutddpm/{folder}/seed3/checkpoints")
        assert [args for args, _ in reads] == [(where / f"{T}cifar100099.pth.tar", "cifar10") for T in (1, 120)]
    [(args, _)] = called(translate(line("infer_pred.py", "pred.timesteps.inference=[1]", "pred.n_zeta.train=0",
                                        "pred.n_zeta.test=0")))["read_classifier"]
    assert "n_zeta0/seed1" in str(args[0])
    [(args, _)] = called(translate(line("store_pred.py")))["read_predictives"]
    folder = "results_pred/cifar10/resnet9_dropoutddpm/n_zeta5/seed1"
    assert str(args[0]) == f"{folder}/cifar10_n_theta50_n_zeta50_t120seed1.npz"
    for script in ("train_net.py", "train_net_pred.py"): assert not translate(line(script)).call


def test_nothing_given_is_nothing_ignored():
    assert asked("python train_net.py diff/model=ddpm").ignored() == ()
