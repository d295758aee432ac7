"""
Many at once: a stage that several processes ask for is built once, whoever is killed; notebooks side by side do not
get into each other's way (`make stress` runs two hundred of them).
"""
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import nbformat
import torch
from conftest import Project

from uncpaper.numerics import generator
from uncpaper.reproduce.stages import Stage

FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Slow(Stage):
    diary: str # a file where each build notes who builds, and how far the last one had come
    kind: ClassVar[str] = "Slow"

    def build(self, folder):
        half = folder / "half"
        note(self.diary, f"{os.getpid()} {half.exists()}")
        half.touch()
        time.sleep(1.5)
        return {"builder": os.getpid()}


def note(diary: str, line: str) -> None:
    with open(diary, "a") as file: file.write(f"{line}\n")


def builds(diary: str) -> list[list[str]]:
    return [line.split() for line in Path(diary).read_text().splitlines()] if Path(diary).exists() else []


def ask(stage: Slow, answers: multiprocessing.SimpleQueue) -> None:
    answers.put(stage.result()["builder"])


def ask_together(stage: Slow, count: int, answers: multiprocessing.SimpleQueue) -> list:
    asking = [FORK.Process(target=ask, args=(stage, answers)) for _ in range(count)]
    for process in asking: process.start()
    return asking


def test_a_stage_that_many_ask_for_is_built_once_and_all_wait_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    stage, answers = Slow(str(tmp_path / "diary")), FORK.SimpleQueue()
    for process in ask_together(stage, 5, answers): process.join(60)
    (builder, _), = builds(stage.diary)
    assert [answers.get() for _ in range(5)] == [int(builder)] * 5


def test_when_a_builder_is_killed_one_of_those_who_wait_takes_over_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    stage, answers = Slow(str(tmp_path / "diary")), FORK.SimpleQueue()
    asking = ask_together(stage, 5, answers)
    end = time.monotonic() + 60
    while not builds(stage.diary) and time.monotonic() < end: time.sleep(0.05)
    time.sleep(0.3)
    os.kill(int(builds(stage.diary)[0][0]), signal.SIGKILL)
    for process in asking: process.join(60)
    (killed, _), (second, gone_on) = builds(stage.diary)
    assert sorted(p.exitcode for p in asking) == [-signal.SIGKILL, 0, 0, 0, 0]
    assert [answers.get() for _ in range(4)] == [int(second)] * 4 and killed != second and gone_on == "True"


COUNT = int(os.environ.get("UNCPAPER_NOTEBOOKS", 8))


def add_notebooks(project: Project, count: int) -> None:
    "Copies of the page's example, each with a number of trials of its own, which prints what it has found."
    folder = project.home / "nbs/papers/coins"
    for n in range(count):
        notebook = nbformat.read(folder / "flips.ipynb", 4)
        for old, new in {"coins/flips": f"coins/n{n}", "seeds = 5": "seeds = 1", "trials = 400": f"trials = {100 + n}",
                         "study.claim(": "print(distance(10)[0]) #", "study.value(": "#"}.items():
            for cell in notebook.cells: cell.source = cell.source.replace(old, new)
        nbformat.write(notebook, folder / f"n{n}.ipynb")
    (folder / "flips.ipynb").unlink()
    (folder / "profiles.yaml").write_text("\n".join(f"n{n}: {{quick: {{}}}}" for n in range(count)))
    published = (folder / "published.yaml").read_text()
    (folder / "published.yaml").write_text(published[:published.index("claims:")])


def found(project: Project, n: int) -> float:
    "What the executed notebook of a number printed."
    path, = (project.home / "runs/store").glob(f"coins.n{n}.quick-*/notebook.ipynb")
    said = [o.text for c in nbformat.read(path, 4).cells for o in c.get("outputs", ()) if o.get("name") == "stdout"]
    return float(said[-1])


def expected(n: int) -> float:
    heads = torch.rand(100 + n, 10, generator=generator(0, "coins", 10)) < 0.5
    return (heads.float().mean(1) - 0.5).abs().mean().item()


def test_notebooks_side_by_side_lose_no_result_and_take_nobody_elses(project):
    add_notebooks(project, COUNT)
    process = project.start("run", "coins", "--cores", "4")
    out, err = process.communicate(timeout=60 + 20 * COUNT)
    assert process.returncode == 0, out + err
    assert [found(project, n) for n in range(COUNT)] == [expected(n) for n in range(COUNT)]
