"Original command lines on the command line: whose a line is, what is printed, and refusals in one line, exit code 2."
import shlex
import sys
from types import SimpleNamespace

import pytest

from uncpaper.reproduce import cli
from uncpaper.reproduce.requests import BadRequest

BIV = """python main.py --experiment_settings "demo,7159,bike,True,7000" --model_settings "vanilla_ann,biv,0.5"
    --noise_settings "True,uniform" --params_settings "meanvar" --parameters "False,10,12"
    --extra_exp "256,0,True,0.01" """
BY_POSITION = ("sbatch --gres=gpu:rtx8000:1 run.sh 'demo,7159,utkf,True' 'mse,resnet' False 'gamma,-1' -1 'meanvar,-1' "
               "'10,5' 0.5 0.5")
DDU = r"""CUDA_VISIBLE_DEVICES=0 python train.py \
       --seed 1 \
       --dataset cifar10 \
       --model wide_resnet \
       -sn -mod \
       --coeff 3.0 """
EVALUATE = "python evaluate.py --seed 1 --load-path /path/to/models/ --model wide_resnet --runs 5 --model-type softmax"
EIV = """python ./net/infer_pred.py -m data=cifar10 diff/model=ddpm pred/model=resnet9_dropout pred.n_theta=50
    pred.n_zeta.train=5 pred.n_zeta.test=50 pred.timesteps.inference=[1,30] pred.epoch.end=100 device=cuda:0 seed=1"""


@pytest.fixture
def translated(monkeypatch, capsys):
    "What the command prints, and its exit code."
    def said(*words):
        monkeypatch.setattr(sys, "argv", ["uncpaper", "translate", *words])
        with pytest.raises(SystemExit) as stop: cli.main()
        return stop.value.code, capsys.readouterr()
    return said


@pytest.mark.parametrize("line, command, remark", [
    (BIV, "uncpaper run biv/single -p task=bike-sharing -p model=bike_mlp -p loss=biv", "the tag 'demo' is dropped"),
    (BY_POSITION, "uncpaper run biv/single -p task=utkface", "ignored, there is no noise"),
    (DDU, "uncpaper run ddu/ood -p seeds=1 -p members=1 -p task=cifar-10", "--seed: 1 is not carried over"),
    (EVALUATE, "uncpaper run ddu/ood -p seeds=5", "from uncpaper.originals.ddu_files import *"),
    (EIV, "uncpaper run eiv/accuracy --profile paper -p seeds=1", "device: ignored, a GPU is used where there is one"),
])
def test_a_line_becomes_a_command_and_remarks(translated, line, command, remark):
    code, said = translated(line)
    first, *rest = said.out.splitlines()
    assert code == 0 and first.startswith(command) and shlex.split(first)[:2] == ["uncpaper", "run"]
    assert all(text.startswith("# ") for text in rest) and any(remark in text for text in rest)


def test_the_call_that_reads_the_originals_files_comes_last(translated):
    last = [translated(line)[1].out.splitlines()[-1] for line in (EVALUATE, EIV, DDU)]
    assert last[0].startswith("#   evaluate('/path/to/models/', seed=1, ") and "read_classifier(Tree(" in last[1]
    assert "trained beside it" in last[2]


@pytest.mark.parametrize("words, message", [
    (["train.py --seed 1 --opt adam"], "--opt: got 'adam': the paper's networks are trained by SGD; allowed: sgd"),
    (["train_net.py diff/model=ddpm sead=1"], "sead: got 'sead': no option of the original, a misspelling of 'seed'?"),
    (["main.py --noise True --parmas_settings x"], "parmas_settings: got 'parmas_settings': no group of the original"),
    (["python train.py --seed '1"], "command line: got \"python train.py --seed '1\": No closing quotation"),
    (["nothing.py"], "there is no script of an original in the line (biv: main.py, run.sh; ddu: train.py, "),
    (["--paper", "biv", "--", "--noise True"], "experiment_settings: got nothing: missing"),
    (["--paper", "gan", "train.py"], "paper must be one of biv, ddu, decu, dgm, eiv; got 'gan'"),
    (["--paper", "eiv", "evaluate.py --seed 1"], "command line: got 'evaluate.py --seed 1': no script of the original"),
])
def test_refusals_are_one_line_with_exit_code_2(translated, words, message):
    code, said = translated(*words)
    assert code == 2 and said.err.startswith(f"uncpaper: {message}") and said.err.count("\n") == 1 and not said.out


def test_whose_a_line_is(monkeypatch):
    one, other = (SimpleNamespace(SCRIPTS=scripts) for scripts in (("run.py", "train.py"), ("train.py",)))
    monkeypatch.setattr(cli, "originals", lambda: {"one": one, "other": other})
    assert cli.original_of("nohup python3 ./code/run.py 1") is one and cli.original_of("train.py", "other") is other
    with pytest.raises(BadRequest) as error: cli.original_of("python train.py")
    assert "scripts of several originals in the line (one: run.py, train.py; other: train.py)" in str(error.value)
