"What a GPU can be asked: the script for one, rehearsed; the words that ask for speed; several processes."
import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import torch

from uncpaper.reproduce.memory import interpreter
from uncpaper.reproduce.stages import Stage, alone
from uncpaper.reproduce.store import default_store

ABSENT = ("pyarrow", "pydantic", "pydantic_core", "typer", "rich", "jupyterlab", "ipywidgets", "jupyter_client",
          "nbclient", "nbformat", "papermill", "snakemake", "execnb", "fastcore", "nbdev", "smalldocs", "diffusers",
          "IPython")
WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder
class Others:
    find_distributions = PathFinder.find_distributions
    def find_spec(name, *rest): return None if name.partition(".")[0] in {names} else PathFinder.find_spec(name, *rest)
sys.meta_path = [Others if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = {words}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def rehearsed(root, tmp_path_factory) -> Path:
    "What the script writes where nothing is installed but what a GPU's image has."
    script, path = root / "benchmarks" / "gpu.py", tmp_path_factory.mktemp("gpu") / "gpu.json"
    code = WITHOUT.format(names=set(ABSENT), words=[str(script), "--rehearse", str(path)])
    env = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return path


@pytest.fixture(scope="module")
def gpu(root) -> ModuleType:
    "The script, in this process."
    spec = importlib.util.spec_from_file_location("gpu", root / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_for_a_gpu_is_rehearsed_with_nothing_but_torch_and_the_package(rehearsed):
    said = json.loads(rehearsed.read_text())
    assert said["rehearsal"] and said["device"].startswith("CPU") and said["versions"]["torch"] == torch.__version__
    assert not said["left_out"] and all(line["agrees"] for line in said["agreement"])
    asked = {line["what"] for line in said["agreement"]}
    assert {"loss", "gradient", "score", "log-density", "metric", "information of members"} <= asked
    assert {line["of"].partition(":")[0] for line in said["agreement"] if line["what"] == "gradient"} == \
        {"biv", "ddu", "eiv", "decu", "dgm"}
    # float64 and float32 are not the same numbers: an agreement that compares nothing has no error at all
    assert sum(line["error"] > 0 for line in said["agreement"]) > 20
    assert {line["task"] for line in said["speed"]} == {"train", "forward", "sample"}
    assert {"float32", "bf16 channels_last", "compiled", "graphs"} <= {line["mode"] for line in said["speed"]}
    for line in said["speed"]:
        assert line["least"] <= line["per_second"] <= line["largest"] and line["setup_s"] >= 0
        assert (line["flops"] or 0) > 0 if line["mode"] == "float32" else line["flops"] is None


def test_the_script_goes_on_where_it_was_cut_off(gpu, rehearsed, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    said, path = json.loads(rehearsed.read_text()), tmp_path / "gpu.json"
    last, lines = said["speed"][-1], said["speed"][:-1]
    path.write_text(json.dumps({**said, "speed": lines}))
    assert gpu.main(["--rehearse", str(path), "--minutes", "0"]) == 0
    cut = json.loads(path.read_text())
    assert cut["speed"] == lines and [(one["mode"], one["why"]) for one in cut["left_out"]] == \
        [(last["mode"], "no time was left")]
    assert gpu.main(["--rehearse", str(path)]) == 0
    done = json.loads(path.read_text())
    assert done["speed"][:-1] == lines and done["speed"][-1]["mode"] == last["mode"] and not done["left_out"]


def test_without_a_gpu_the_script_says_so_at_once(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([str(tmp_path / "gpu.json")]) == 2
    assert capsys.readouterr().err.startswith("gpu.py: torch sees no GPU here") and not (tmp_path / "gpu.json").exists()


def test_answers_that_differ_do_not_agree(gpu):
    right = torch.arange(1.0, 5.0)
    off = lambda place, dtype: right.to(dtype) * (1.001 if dtype == torch.float32 else 1)
    for tolerance, agrees in ((1e-2, True), (1e-4, False)):
        line = gpu.agreement("numbers", "four", tolerance, off, torch.device("cpu"))
        assert line["agrees"] == agrees and line["error"] == pytest.approx(1e-3, rel=1e-3)


@dataclass(frozen=True)
class Product(Stage):
    kind: ClassVar[str] = "Product"

    def build(self, folder: Path) -> dict:
        x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        return {"x": (x @ x).float()}


def test_speed_is_in_the_key_and_the_manifest_only_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    monkeypatch.delenv("UNCPAPER_SPEED", raising=False)
    plain, exact, python = Product().key, Product().result()["x"], interpreter()
    assert default_store().manifest(plain)["speed"] == []
    monkeypatch.setenv("UNCPAPER_SPEED", "bf16")
    fast = Product()
    assert fast.key != plain and interpreter() != python
    rough = fast.result()["x"]
    assert default_store().manifest(fast.key)["speed"] == ["bf16"]
    assert 1e-4 < (rough - exact).norm() / exact.norm() < 1e-2
    monkeypatch.setenv("UNCPAPER_SPEED", "")
    assert Product().key == plain and interpreter() == python


def test_bad_words_and_missing_gpus_are_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    monkeypatch.setenv("UNCPAPER_SPEED", "fp8")
    with pytest.raises(ValueError, match="UNCPAPER_SPEED must be words of tf32, .*; got fp8"): Product().key
    monkeypatch.setenv("UNCPAPER_SPEED", "")
    monkeypatch.setenv("UNCPAPER_GPUS", str(torch.cuda.device_count() + 1))
    with pytest.raises(ValueError, match="UNCPAPER_GPUS must be at most"):
        with alone(1): raise AssertionError("begun")


def test_two_processes_make_the_steps_of_one_with_the_double_batch(root, tmp_path):
    "Also with a rule of the step size, averaged weights and clipped gradients, as the published trainings have them."
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    def trained(processes: int) -> list[dict]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        env = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1",
                            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        def start(i: int) -> subprocess.Popen:
            place = {"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(processes)} if processes > 1 else {}
            return subprocess.Popen([sys.executable, script, tmp_path / f"{i}.pt"], env=env | place)
        started = [start(i) for i in range(processes)]
        assert [p.wait(timeout=300) for p in started] == [0] * processes
        return [torch.load(tmp_path / f"{i}.pt") for i in range(processes)]
    (one,), two = trained(1), trained(2)
    for a, b, c in zip(one["losses"], two[0]["losses"], two[1]["losses"]):
        assert b != c and abs(a - (b + c) / 2) < 1e-5 * max(1, a)
    for name, value in one["weights"].items():
        first, second = (part["weights"][name] for part in two)
        assert torch.equal(first, second) and (value - first).abs().max() < 1e-5, name


TRAINING = """
import sys, torch
from uncpaper.losses import diffusion_loss
from uncpaper.models.unet import UNet
from uncpaper.parallel import Part
from uncpaper.schedules import linear_betas
from uncpaper.training import Averaged, Minibatches, fit, nothing, warm_up

torch.set_num_threads(1)
torch.manual_seed(0)
x, noise, t = torch.randn(32, 1, 8, 8), torch.randn(32, 1, 8, 8), torch.randint(1000, (32,))
model = Averaged(UNet(1, 8, 8, (1, 2), 1, (), 0.0), 0.9)
def loss(model, x, t, noise): return diffusion_loss(model, x, t, noise, linear_betas())
sgd = model.follow(torch.optim.SGD(model.raw.parameters(), 0.1, momentum=0.9))
rule = torch.optim.lr_scheduler.LambdaLR(sgd, warm_up(3, 6))
rows = fit(model, (x, t, noise), loss, Part.here(Minibatches(32, 8, 0)), sgd, 6, nothing, 1, scheduler=rule, clip=1.0)
losses = [row["train_loss"] for row in rows]
torch.save({"losses": losses, "weights": model.state_dict()}, sys.argv[1])
"""
