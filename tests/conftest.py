"What several tests need: the project's folder, and a small project of their own, made as the page Add a paper says."
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture
def data_folder(tmp_path, monkeypatch) -> Path:
    "An empty data folder that is searched before the project's own."
    monkeypatch.setenv("UNCPAPER_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A store of its own, for the whole file."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCPAPER_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def fences(page: Path) -> list[tuple[str, str]]:
    "Language and content of every fenced block of a page."
    text = "\n\n".join(c.source for c in nbformat.read(page, 4).cells if c.cell_type == "markdown")
    return re.findall(r"```(\w+)\n(.*?)```", text, re.S)


def follow_the_page(home: Path) -> Path:
    "Add the paper that the page describes, file by file, cell by cell; returns its folder."
    folder = home / "nbs/papers/coins"
    folder.mkdir(parents=True)
    cells = []
    for language, content in fences(ROOT / "nbs/reproduce/add-a-paper.ipynb"):
        first, _, rest = content.partition("\n")
        if language == "yaml": (home / first.removeprefix("# ")).write_text(rest)
        elif language == "markdown": cells.append(nbformat.v4.new_markdown_cell(content.strip()))
        elif language == "python":
            tag = first.removeprefix("# tag: ")
            cells.append(nbformat.v4.new_code_cell(rest.strip(), metadata={} if tag == "# no tag" else {"tags": [tag]}))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "flips.ipynb")
    return folder


def stored(store: Path, label: str = "") -> dict[str, int]:
    "The entries of a store with the time each was written, in nanoseconds."
    return {p.parent.name: p.stat().st_mtime_ns for p in store.glob(f"{label}*/manifest.json")
            if not p.parent.name.endswith(".partial")}


TIMES = {"started", "stage_seconds"} # of provenance, which differ from run to run


def results(store: Path) -> dict[str, object]:
    "What is stored, file by file, but for manifests, executed notebooks and times."
    files = [p for p in store.glob("*-*/*") if p.name not in ("manifest.json", "manifest.sha256", "notebook.ipynb")]
    found = {str(p.relative_to(store)): p.read_bytes() for p in files}
    for name in [n for n in found if n.endswith("result.json")]:
        result = json.loads(found[name])
        result["provenance"] = {k: v for k, v in result["provenance"].items() if k not in TIMES}
        found[name] = result
    return found


class Project:
    "A project in a folder of its own, and the command line in it."
    def __init__(self, home: Path):
        self.home = home

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "UNCPAPER_HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    def start(self, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-c", "from uncpaper.reproduce.cli import main; main()", *words]
        return subprocess.Popen(command, env=self.environment, cwd=self.home, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, start_new_session=True)

    def __call__(self, *words: str, code: int = 0) -> str:
        process = self.start(*words)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, f"{words}: exit {process.returncode}\n{out}\n{err}"
        return out if code == 0 else err

    @property
    def store(self) -> Path:
        return self.home / "runs/store"

    def stored(self, label: str = "") -> dict[str, int]:
        return stored(self.store, label)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.home / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def make_project(home: Path) -> Project:
    "A project whose only paper is the page's example."
    follow_the_page(home)
    for name in ("Snakefile", "_quarto.yml", "nbs/site.css", "nbs/favicon.svg"): shutil.copy(ROOT / name, home / name)
    return Project(home)


@pytest.fixture
def project(tmp_path) -> Project:
    return make_project(tmp_path)
