"Remembered answers: never an old one, whatever is changed; and the command that has one loads nothing."
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from conftest import Project, make_project

from uncpaper.reproduce import cli, memory
from uncpaper.reproduce.experiments import find
from uncpaper.reproduce.ledger import record
from uncpaper.reproduce.runs import run_of
from uncpaper.reproduce.start import told


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "The project of the page, with a finished run and a recorded one."
    project = make_project(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCPAPER_HOME", str(project.home))
        experiment, = find("coins")
        for profile in ("quick", "laptop"): run_of(experiment, profile).report()
        record(experiment, "laptop")
    return project


@pytest.fixture
def here(finished, tmp_path, monkeypatch, data_folder):
    "A copy of it, in this process."
    shutil.copytree(finished.home, tmp_path / "copy")
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path / "copy"))
    return Project(tmp_path / "copy")


def said(*words: str) -> str:
    "What the command prints, as a process would that begins now; or how it refuses."
    output = io.StringIO()
    with patch.object(sys, "argv", ["uncpaper", *words]), patch.object(memory, "STARTED", time.time()):
        try:
            with contextlib.redirect_stdout(output): told(lambda: cli.app(list(words)))
        except (SystemExit, ValueError) as error: return f"{type(error).__name__}: {error}"
    return output.getvalue()


def cold(home: Path, *words: str) -> str:
    "The same without any memory."
    shutil.rmtree(home / "runs/memory", ignore_errors=True)
    return said(*words)


def one(folder: Path, pattern: str) -> Path:
    return next(folder.rglob(pattern))


def flip(path: Path) -> None:
    "Change one byte, and put the size and the time that a program can set back to what they were."
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES = {
    "a notebook": lambda p: p.edit("nbs/papers/coins/flips.ipynb", "seeds", "runs"),
    "the claims": lambda p: p.edit("nbs/papers/coins/published.yaml", "matters: ", "matters: 1"),
    "the profiles": lambda p: p.edit("nbs/papers/coins/profiles.yaml", "laptop", "paper"),
    "a stored number": lambda p: flip(one(p.home / "runs/store", "coins.flips.quick*/result.json")),
    "a stored stage": lambda p: shutil.rmtree(one(p.home / "runs/store", "coins.flips.quick*")),
    "a recorded number": lambda p: flip(p.home / "results/laptop/coins/flips/result.json"),
    "a recorded run": lambda p: shutil.rmtree(p.home / "results/laptop"),
    "another paper": lambda p: shutil.copytree(p.home / "nbs/papers/coins", p.home / "nbs/papers/dice"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_answer_is_the_one_that_a_cold_computation_gives(here, change):
    time.sleep(2 * memory.SETTLED)
    questions = ("list",), ("ledger", "--json"), ("explain", "coins")
    before = [said(*q) for q in questions]
    assert all(said(*q) == answer for q, answer in zip(questions, before))
    CHANGES[change](here)
    after = [said(*q) for q in questions]
    assert after == [cold(here.home, *q) for q in questions] and after != before


def test_data_and_packages_are_part_of_the_state(here, data_folder):
    "What plans depend on outside the project: another file in a data folder, another package in the interpreter."
    seen = {memory.state(memory.for_plans()).digest}
    (data_folder / "wine.csv").write_text("1;2")
    seen.add(memory.state(memory.for_plans()).digest)
    flip(data_folder / "wine.csv")
    seen.add(memory.state(memory.for_plans()).digest)
    assert len(seen) == 3
    assert Path(memory.__file__).parents[1] in memory.for_plans()
    before = memory.interpreter()
    with patch.object(memory.os, "listdir", lambda folder: ["torch-99.dist-info"]):
        assert memory.interpreter() != before


def test_keys_are_remembered_until_something_changes(here):
    time.sleep(2 * memory.SETTLED)
    said("list")
    kept = json.loads((here.home / "runs/memory/keys-coins.json").read_text())["known"]
    experiment, = find("coins")
    assert kept == {f"coins/flips {p}": run_of(experiment, p).key for p in experiment.profiles}
    with patch("uncpaper.reproduce.planned.run_of", side_effect=AssertionError("planned again")):
        said("ledger", "coins")  # another question: the keys are known
        CHANGES["the claims"](here)
        with pytest.raises(AssertionError, match="planned again"): said("ledger", "coins")


def test_the_command_loads_no_more_than_it_needs(here):
    "Neither help nor a remembered answer loads torch, nor what takes as long."
    code = """
import sys
from uncpaper.reproduce.start import main
try: main()
except SystemExit: pass
print(sorted({"torch", "pandas", "scipy", "pydantic"} & set(sys.modules)), file=sys.stderr)"""
    time.sleep(2 * memory.SETTLED)
    loaded = []
    for words in (["--help"], ["list"], ["list"]):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, env=here.environment, capture_output=True, text=True)
        assert "Usage" in done.stdout or "coins/flips" in done.stdout, done.stderr
        loaded.append(json.loads(done.stderr.strip().splitlines()[-1].replace("'", '"')))
    assert loaded[0] == loaded[2] == [] and "torch" in loaded[1]
