"Original DECU command lines: every flag of the thirteen scripts, every refusal, and what the experiments declare."

import functools
import math
import shlex
from unittest.mock import Mock

import pytest
from translations import noted, planned, refused_by, runs_at

from uncpaper.originals.decu import FLAGS, SCRIPTS, SHORT, asked, translate
from uncpaper.originals.engine import Translation, spelt
from uncpaper.reproduce.cli import original_of, originals

refused = functools.partial(refused_by, translate)
runs = functools.partial(runs_at, "paper")

# Names and defaults of the original's parsers; a type: the flag must be given

DRAWS = {"--path": str, "--sampler": "DDIM", "--ddim_eta": 0.0, "--ddim_steps": 200, "--scale": 5.0,
         "--dataset": "binned_classes"}
FIGURES = {"--unc_branch": 200, "--ddim_eta": 0.0, "--ddim_steps": 200, "--sampler": "DDIM", "--scale": 5.0}
ORIGINAL = {
    "prep_data.sh": {}, "img_diff_plot.py": {}, "plot_img_ssim.py": {},
    "main.py": {"--base": str, "-t": False, "--start_from_pretrained": False, "--synset_bins": False, "--seed": 23,
                "--component": 0, "--ensemble_name": "", "--overwrite_data_root": "", "--logdir": "logs",
                "--scale_lr": "True", "--gpus": "", "--resume": "", "--name": "", "--postfix": "", "--project": "",
                "--no-test": False, "--debug": False},
    "save_ensemble.py": {"--path": str, "--ensemble_name": "bootstrapped", "--ensemble_comps": 5},
    "sample_model.py": DRAWS | {"--unc_branch": 199},
    "certain_vs_uncertain.py": DRAWS | {"--unc_branch": 0, "--part": 1},
    "sample_model_rollout.py": DRAWS | {"--unc_branch": 199, "--uncertain_comp": False},
    "get_unc_synsets.py": DRAWS | {"--unc_branch": 199, "--base_comp": -1, "--quickrun": False},
    "make_histogram.py": FIGURES | {"--path": str, "--dataset": "binned_classes"},
    "unc_plot.py": FIGURES,
    "get_unc_pixels.py": DRAWS | {"--unc_branch": 0, "--base_comp": -1, "--paper": False},
    "pixel_unc_paper.py": {name: default for name, default in DRAWS.items() if name != "--dataset"}
                          | {"--unc_branch": 0, "--base_comp": -1, "--ensemble_name": "bootstrapped",
                             "--full_ensemble": False},
}
ALL = [(script, flag) for script, flags in FLAGS.items() for flag in flags]
README = ("python main.py --base configs/latent-diffusion/cin256-v2.yaml -t --gpus 0, --scale_lr False "
          "--start_from_pretrained --logdir /path/to/storelogs --seed 3 --component 3 --ensemble_name bootstrapped "
          "--overwrite_data_root ./imagenet_data")
NEEDED = {"main.py": {"--base": "cin256-v2.yaml", "-t": None, "--start_from_pretrained": None},
          **{script: {"--path": "E"} for script, flags in ORIGINAL.items() if flags.get("--path") is str}}
DRAWING = [script for script, flags in ORIGINAL.items() if "--sampler" in flags and flags.get("--unc_branch") != 200]


def line(script, words=""):
    "A line of a script, with what must be given put in where it is missing."
    given = shlex.split(words)
    missing = {name: value for name, value in NEEDED.get(script, {}).items() if name not in given}
    flat = [word for pair in missing.items() for word in pair if word is not None]
    return shlex.join(["python", script, *given, *flat])


def stages(translation, kind):
    "Those of a kind."
    return [s for s in planned(translation) if s.kind == kind]


# The table

def test_the_table_is_the_original_parsers():
    assert {script: {flag.name: flag.default for flag in flags} for script, flags in FLAGS.items()} == ORIGINAL
    assert SCRIPTS == tuple(FLAGS) and len(SCRIPTS) == 13


@pytest.mark.parametrize("script, flag", ALL, ids=[f"{script}{flag.name}" for script, flag in ALL])
def test_every_flag_becomes_something_or_is_noted(script, flag):
    value = flag.only[0] if flag.only else {int: 1, float: 0.0, str: "0,", bool: True}[flag.kind]
    value = {"--base": "a/cin256-v2.yaml", "--ensemble_comps": 2, "--unc_branch": flag.default,
             "--ddim_steps": 200}.get(flag.name, value)
    words = [] if value is False else [flag.name] if flag.kind is bool else [flag.name, str(value)]
    found, text = translate(line(script, shlex.join(words))), line(script, shlex.join(words))
    assert flag.remark and asked(text)[flag.name] == value and (flag.name in asked(text).given) == bool(words)
    ignored = any(note == f"{flag.name}: ignored, {flag.remark}" for note in found.notes)
    assert ignored == (bool(words) and not flag.here and not flag.only)
    runs(found)


@pytest.mark.parametrize("script, flag", [(s, f) for s, f in ALL if f.only],
                         ids=[f"{s}{f.name}" for s, f in ALL if f.only])
def test_a_value_that_cannot_be_met_says_why(script, flag):
    if flag.only == (True,): # must be given
        needed = [w for name, value in NEEDED[script].items() if name != flag.name for w in (name, value) if w]
        error = refused(shlex.join([script, *needed]))
    else: error = refused(line(script, flag.name + {bool: "", float: " 0.123", str: " nonsense"}[flag.kind]))
    assert error.field == flag.name and error.reason == flag.remark
    assert all(spelt(value) in error.allowed for value in flag.only)


@pytest.mark.parametrize("script, flag", [(s, f) for s, f in ALL if f.least > -math.inf],
                         ids=[f"{s}{f.name}" for s, f in ALL if f.least > -math.inf])
def test_numbers_have_a_range(script, flag):
    above = [str(int(flag.most) + 1)] if flag.most < math.inf else []
    for value in ("-3", *(["nan", "inf"] if flag.kind is float else []), *above):
        error = refused(line(script, f"{flag.name} {value}"))
        assert error.field == flag.name and error.reason == "out of range"


@pytest.mark.parametrize("script, flag", [(s, f) for s, f in ALL if f.kind in (int, float)],
                         ids=[f"{s}{f.name}" for s, f in ALL if f.kind in (int, float)])
def test_a_value_of_another_kind_is_refused(script, flag):
    error = refused(line(script, f"{flag.name} x"))
    assert error.field == flag.name and "invalid" in error.reason


# Lines

@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("words, field, fragment", [
    ("--colour red", "--colour", "no known flag of"), ("stray", "stray", "no known flag of"),
    ("a.b=3", "a.b=3", "no known flag of"),
])
def test_wrong_lines(script, words, field, fragment):
    error = refused(line(script, words))
    assert error.field == field and fragment in error.reason and script in error.reason
    assert error.allowed == (", ".join(flag.name for flag in FLAGS[script]) or "none")


@pytest.mark.parametrize("text, field, fragment", [
    ("python train.py --seed 1", "command line", "no script of the original"), ("", "command line", "no script"),
    ("python decode_imgs.py --path E", "command line", "no script"),
    ("python main.py --base 'cin256-v2.yaml", "command line", "quotation"),
    ("python save_ensemble.py", "--path", "must be given"),
    ("python save_ensemble.py --path", "--path", "expected one"),
    ("python main.py -t --start_from_pretrained", "--base", "must be given"),
])
def test_a_line_needs_a_script_and_what_must_be_given(text, field, fragment):
    error = refused(text)
    assert error.field == field and fragment in error.reason


@pytest.mark.parametrize("script, word, near", [
    ("get_unc_synsets.py", "--unc-branch", "--unc_branch"), ("main.py", "--ensemble_nmae", "--ensemble_name"),
    ("main.py", "--scale-lr", "--scale_lr"), ("save_ensemble.py", "--ensemble_components", "--ensemble_comps"),
    ("sample_model.py", "--ddim_step_s", "--ddim_steps"), ("get_unc_pixels.py", "--paht", "--path"),
    ("sample_model_rollout.py", "--uncertain_component", "--uncertain_comp"),
])
def test_a_misspelling_is_told_its_neighbour(script, word, near):
    error = refused(line(script, f"{word} 1"))
    assert error.field == word and f"a misspelling of {near!r}?" in error.reason


def test_a_misspelt_value_is_told_its_neighbour():
    assert "a misspelling of 'binned_classes'" in refused(line("get_unc_synsets.py", "--dataset bined_classes")).reason
    assert "a misspelling of 'DDIM'" in refused(line("sample_model.py", "--sampler DDIMM")).reason


def test_short_names_and_what_stands_before_the_script():
    names = {short: long for short, long in SHORT.items() if short != "--train"}
    for short, name in names.items():
        flag = {f.name: f for f in FLAGS["main.py"]}[name]
        value = {"--base": "cin256-v2.yaml", "--seed": "7"}.get(name, "x")
        words = [short] if flag.kind is bool else [short, value]
        given = asked(["main.py", *words, *(["--base", "b"] if name != "--base" else []), "--train",
                       "--start_from_pretrained"])
        assert str(given[name]) == ("True" if flag.kind is bool else value) and given["-t"] is True
    for before in ("CUDA_VISIBLE_DEVICES=0 nohup python3 ./DECU/", "srun python ", ""):
        assert asked(f"{before}save_ensemble.py --path \\\n  logs")["--path"] == "logs"


def test_a_main_py_is_this_papers_by_its_flags():
    known = originals()
    assert original_of(README) is known["decu"]
    assert original_of('python main.py --noise_settings "True,uniform" --model_settings "a,b"') is known["biv"]


# Data and training

def test_preparing_is_the_bins():
    for text in ("bash prep_data.sh", "./prep_data.sh", ". DECU/prep_data.sh"):
        found = translate(text)
        assert (found.experiment, dict(found.parameters)) == ("decu/bins", {"seeds": 1})
    assert noted(found, "imagenet/train and cin256-v2/model.ckpt", "no script of the original makes them")
    [bins] = stages(found, "Bins")
    assert (bins.sizes[:4], bins.members, bins.images.classes) == ((1, 10, 100, 1300), 5, 1000)


def test_a_training_of_the_readme():
    found = translate(README)
    assert found.experiment == "decu/bins"
    assert dict(found.parameters) == dict(seeds=1, task="imagenet", table_batch=32, table_lr=1e-5)
    assert noted(found, "--component: 3 is one of five members", "--seed: 3 is not carried over",
                 "28 million pictures", "row that says nothing is learned here", "--logdir: ignored",
                 "--ensemble_name: ignored", "--overwrite_data_root: ignored")
    assert not noted(found, "--scale_lr")
    [training] = stages(found, "TrainTables")
    assert (training.lr, training.batch, training.members, training.seed) == (1e-5, 32, 5, 0)
    assert (training.steps * training.batch, training.start, training.nothing) == (28_000_000, "random", "learned")
    assert type(training.backbone).__name__ == "Published"
    runs(found)


@pytest.mark.parametrize("words, batch, rate", [
    ("--gpus 0, --scale_lr False", 32, 1e-5), ("--gpus 0, --scale_lr True", 32, 3.2e-4), ("--gpus 0,", 32, 3.2e-4),
    ("", 32, 3.2e-4), ("--gpus 0,1, --scale_lr False", 64, 1e-5), ("--gpus 0,1,2,3", 128, 1.28e-3),
])
def test_the_step_size_that_the_original_made(words, batch, rate):
    found = translate(line("main.py", words))
    assert (found.parameters["table_batch"], found.parameters["table_lr"]) == (batch, pytest.approx(rate, rel=1e-12))
    assert noted(found, f"step size {batch} times that of the paper's runs") == ("False" not in words)
    [training] = stages(found, "TrainTables")
    assert (training.batch, training.lr) == (batch, found.parameters["table_lr"])


@pytest.mark.parametrize("words, field, fragment", [
    ("--component 5", "--component", "out of range"), ("--gpus 1", "--gpus", "ends in a comma"),
    ("--gpus a,b", "--gpus", "not a list of GPUs"), ("--base v1-finetune.yaml", "--base", "published model"),
    ("--scale_lr maybe", "--scale_lr", "multiplies the step size"), ("--max_epochs 3", "--max_epochs", "no known flag"),
    ("--scale_lr", "--scale_lr", "expected one argument"),
])
def test_a_training_that_is_refused(words, field, fragment):
    error = refused(line("main.py", words))
    assert error.field == field and fragment in error.reason


def test_every_component_is_the_same_run():
    lines = [README.replace("--seed 3 --component 3", f"--seed {m} --component {m}") for m in range(5)]
    assert len({translate(text).command() for text in lines}) == 1


@pytest.mark.parametrize("words, members", [("", 5), ("--ensemble_comps 10", 10), ("--ensemble_comps 2", 2)])
def test_merging_is_the_number_of_members(words, members):
    found = translate(line("save_ensemble.py", words))
    assert dict(found.parameters) == dict(seeds=1, members=members) and not found.call
    assert noted(found, "took the oldest runs", "never one of the three best", "--path: ignored")
    assert noted(found, "asked five members, whatever the file held") == (members != 5)
    assert stages(found, "TrainTables")[0].members == members


# What is drawn

@pytest.mark.parametrize("script", DRAWING)
def test_chains_are_as_long_and_as_guided_as_the_line_says(script):
    found = translate(line(script, "--ddim_steps 50 --scale 1.5 --unc_branch 0"))
    assert (found.parameters["calls"], found.parameters["guidance"]) == (50, 1.5)
    assert noted(found, "the trunk is the first member here", "members: five", "--path: ignored")
    assert all((s.calls, s.guidance) == (50, 1.5) for s in stages(found, "Branch"))
    runs(found)


@pytest.mark.parametrize("script", DRAWING)
@pytest.mark.parametrize("steps, after", [(200, 200), (50, 50), (50, 199), (1, 1)])
def test_members_must_part(script, steps, after):
    error = refused(line(script, f"--ddim_steps {steps} --unc_branch {after}"))
    assert error.field == "--unc_branch" and error.allowed == f"0 to {steps - 1}"
    assert f"members would never part in a chain of {steps} steps" in error.reason


@pytest.mark.parametrize("steps, stops", [(200, False), (50, False), (300, True), (37, True), (999, True),
                                          (500, False)])
def test_lengths_at_which_the_original_stopped(steps, stops):
    found = translate(line("get_unc_pixels.py", f"--ddim_steps {steps}"))
    assert noted(found, f"the original stopped at {steps}") == stops == (1000 in range(1, 1001, 1000 // steps))
    [branch] = stages(found, "Branch")
    assert max(branch.times) < 1000


@pytest.mark.parametrize("words, after", [("", 199), ("--unc_branch 0", 0), ("--unc_branch 100", 100)])
def test_all_classes(words, after):
    found = translate(line("get_unc_synsets.py", words))
    assert found.experiment == "decu/bins"
    assert dict(found.parameters) == dict(seeds=1, branches=[after], calls=200, guidance=5.0)
    assert noted(found, "scored five of them")
    assert noted(found, "index 1 of the schedule") == (after == 199)
    assert noted(found, "stored those after the last step") == (after != 199)
    [branch] = stages(found, "Branch")
    assert (branch.after, branch.noises, branch.eta) == (after, 10, 0)
    assert after != 199 or branch.times[after:] == [1, 0]
    runs(found)


def test_all_classes_with_noise_in_the_steps():
    found = translate(line("get_unc_synsets.py", "--ddim_eta 0.5 --unc_branch 198 --quickrun --base_comp 2"))
    assert found.experiment == "decu/estimators"
    assert dict(found.parameters) == dict(seeds=1, branches=[198], eta=0.5, calls=200, guidance=5.0)
    assert noted(found, "were the three estimators", "products over 12,288 dimensions", "--quickrun: ignored",
                 "--base_comp: ignored, never read")
    assert not noted(found, "scored five of them")
    [branch] = stages(found, "Branch")
    assert (branch.eta, branch.after) == (0.5, 198)
    runs(found)
    last = translate(line("get_unc_synsets.py", "--ddim_eta 0.5"))
    assert (last.experiment, last.parameters["branches"]) == ("decu/estimators", [199])


@pytest.mark.parametrize("script, fragment", [("make_histogram.py", "pair_dist_mat.npy"),
                                              ("unc_plot.py", "module that was not published")])
def test_figures_of_the_bins_depend_on_no_flag(script, fragment):
    plain = translate(line(script))
    found = translate(line(script, "--unc_branch 7 --ddim_eta 1 --ddim_steps 3 --sampler x --scale 2"))
    assert plain.command() == found.command() and dict(found.parameters) == {"seeds": 1}
    assert noted(found, fragment, "index 1 of the schedule", *(f"{name}: ignored" for name in FIGURES))
    assert stages(found, "Branch")[-1].after == 199


@pytest.mark.parametrize("script", ["img_diff_plot.py", "plot_img_ssim.py"])
def test_diversity(script):
    found = translate(f"python {script}")
    assert (found.experiment, dict(found.parameters)) == ("decu/diversity", {"seeds": 1})
    assert noted(found, "range of 255", "five rows", "first five of an ensemble of ten")
    assert [s.after for s in stages(found, "Branch")] == [0, 50, 100, 150, 199]
    runs(found)


@pytest.mark.parametrize("script, stops", [("get_unc_pixels.py", False), ("pixel_unc_paper.py", True)])
def test_pixels(script, stops):
    found = translate(line(script, "--unc_branch 20"))
    assert (found.experiment, dict(found.parameters)) == ("decu/pixels", dict(seeds=1, after=20, calls=200,
                                                                             guidance=5.0))
    assert translate(line(script)).parameters["after"] == 0
    assert noted(found, "one range of colours", "the first of each bin")
    assert noted(found, "one argument too many", "second of ten") == stops
    [branch] = stages(found, "Branch")
    assert branch.after == 20


@pytest.mark.parametrize("script, words, kept", [
    ("sample_model.py", "", True), ("sample_model.py", "--unc_branch 0", False),
    ("certain_vs_uncertain.py", "--part 2", False), ("certain_vs_uncertain.py", "--unc_branch 199", True),
])
def test_blocks_of_classes(script, words, kept):
    found = translate(line(script, words))
    assert found.experiment == "decu/certain-uncertain"
    assert dict(found.parameters) == dict(seeds=1, calls=200, guidance=5.0)
    assert noted(found, "are in the result of the stage Branch") == kept and noted(found, "chosen by hand")
    assert noted(found, "--part: ignored") == ("--part" in words)
    assert {s.after for s in stages(found, "Branch")} == {0, 199} # what the page says the experiment draws
    runs(found)


@pytest.mark.parametrize("script", ["sample_model.py", "certain_vs_uncertain.py"])
def test_blocks_have_two_branch_points(script):
    error = refused(line(script, "--unc_branch 100"))
    assert error.field == "--unc_branch" and "uncpaper run decu/rollouts" in error.reason
    assert error.allowed == "0 or 199"
    assert refused(line(script, "--unc_branch 1 --ddim_steps 25")).allowed == "0 or 24"


@pytest.mark.parametrize("words, after, calls, frames", [
    ("", 199, 200, 21), ("--unc_branch 100 --uncertain_comp", 100, 200, 21),
    ("--unc_branch 3 --ddim_steps 50", 3, 50, 6), ("--unc_branch 3 --ddim_steps 5", 3, 5, 2),
])
def test_rollouts(words, after, calls, frames):
    found = translate(line("sample_model_rollout.py", words))
    assert found.experiment == "decu/rollouts"
    assert dict(found.parameters) == dict(after=after, frames=frames, partings=[after], guidances=[5.0], every=10,
                                          calls=calls, guidance=5.0)
    assert noted(found, "drew forty and ten", "another one for each class")
    assert noted(found, "--uncertain_comp: ignored") == ("--uncertain_comp" in words)
    assert planned(found)
    runs(found)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_bare_line_of_every_script_can_be_planned(script):
    found = translate(line(script))
    assert type(found) is Translation and found.profile == "paper" and planned(found)
    runs(found)


def test_calls_read_the_published_model():
    for text in ("bash prep_data.sh", README):
        found, reader = translate(text), Mock()
        eval(found.call, {"load_latent": reader})
        assert reader.call_args.args == ("pretrained_models/diffusion/model.ckpt",) and not reader.call_args.kwargs
        assert found.module == "uncpaper.models.latent" and str(found).splitlines()[-1].endswith(found.call)
    from uncpaper.models import latent
    assert "load_latent" in latent.__all__
    assert not any(translate(line(script)).call for script in SCRIPTS if script not in ("prep_data.sh", "main.py"))


def test_nothing_given_is_nothing_ignored():
    assert asked("python unc_plot.py").ignored() == asked("bash prep_data.sh").ignored() == ()
