"""
A real Slurm on this machine, as `make slurm` sets up: what runs through it is what runs here, whatever is killed.
Skipped, with its reason, where no Slurm answers.
"""
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Project, make_project

EXPERIMENTS = ["biv/single", "ddu/two-moons", "decu/pipeline", "dgm/spread", "eiv/noise-gallery"]
OPTIONS = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2",
           "--seconds-between-status-checks", "2", "--latency-wait", "5")
TIMES = {"started", "stage_seconds"}


def why_not() -> str:
    "Why nothing can be submitted from here; nothing where it can."
    if not shutil.which("sinfo"): return "Slurm is not installed (make slurm, as root on Debian)"
    said = subprocess.run(["sinfo", "--noheader", "--states=idle,mixed,allocated"], capture_output=True, text=True)
    if said.returncode or not said.stdout.strip(): return f"Slurm has no node that works: {said.stderr.strip()}"
    from uncpaper.reproduce.clusters import executors
    return "" if "slurm" in executors() else "the extra `cluster` is not installed (pip install -e '.[cluster]')"


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(autouse=True)
def nobody_is_left():
    yield
    subprocess.run(["scancel", "--user", str(os.getuid()), "--signal=KILL"], check=True)
    wait_for(lambda: not running(), 60)


def running() -> list[str]:
    "Numbers of jobs that run or wait."
    said = subprocess.run(["squeue", "--noheader", "--format=%A %T"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in said.splitlines() if line.split()[1] in ("PENDING", "RUNNING", "COMPLETING")]


def array_sizes() -> Counter[str]:
    "How many tasks each array has had, by its number; 1 for a job by itself."
    said = subprocess.run(["squeue", "--noheader", "--array", "--states=all", "--format=%F"],
                          capture_output=True, text=True, check=True).stdout
    return Counter(said.split())


def kill_jobs() -> None:
    for job in running(): subprocess.run(["scancel", "--signal=KILL", "--full", job], check=False)


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def all_papers(home: Path) -> Project:
    "The project's own pages, with a store that is empty."
    home.mkdir()
    for name in ("nbs", "cluster", "Snakefile"): (home / name).symlink_to(ROOT / name)
    return Project(home)


def submit(project: Project, *words: str) -> subprocess.Popen:
    return project.start("run", *words, "--executor", "slurm", "--", *OPTIONS)


def finished(process: subprocess.Popen, code: int = 0) -> str:
    out, err = process.communicate(timeout=900)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return out + err


def entries(project: Project) -> dict[str, object]:
    "Key -> the hashes of all files of a stage, or the numbers of a run."
    found: dict[str, object] = {}
    for path in (project.home / "runs/store").glob("*-*/manifest.json"):
        said = path.parent / "result.json"
        if not said.exists():
            found[path.parent.name] = json.loads(path.read_text())["files"]
            continue
        result = json.loads(said.read_text())
        result["provenance"] = {k: v for k, v in result["provenance"].items() if k not in TIMES}
        found[path.parent.name] = result
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Project:
    "All that is compared with, run without Slurm."
    project = all_papers(tmp_path_factory.mktemp("local") / "home")
    for experiment in EXPERIMENTS: project("run", experiment)
    return project


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_job_that_is_killed_is_submitted_again_and_every_result_is_the_same(tmp_path, here, experiment):
    project = all_papers(tmp_path / "home")
    process = submit(project, experiment)
    wait_for(lambda: project.stored() or process.poll() is not None, 300)
    kill_jobs()
    before = project.stored()
    assert process.poll() is None and not project.stored(experiment.replace("/", ".")), "it was to be killed half-way"
    finished(process)
    after = project.stored()
    assert all(after[key] == written for key, written in before.items()), "what was finished is made once"
    there = entries(project)
    assert any(key.startswith(experiment.replace("/", ".")) for key in there)
    assert there == {key: value for key, value in entries(here).items() if key in there}


def test_a_command_that_is_killed_goes_on_when_it_is_given_again(tmp_path, here):
    project = all_papers(tmp_path / "home")
    process = submit(project, "dgm/spread")
    wait_for(lambda: project.stored() or process.poll() is not None, 300)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kill_jobs()
    before = project.stored()
    finished(submit(project, "dgm/spread"))
    after = project.stored()
    assert before and all(after[key] == written for key, written in before.items())
    there = entries(project)
    assert there == {key: value for key, value in entries(here).items() if key in there}


def many_flips(home: Path, line: str) -> Project:
    "The page's example, whose stages say that each is worth a job; a line more before each flips its coins."
    project = make_project(home)
    shutil.copytree(ROOT / "cluster", home / "cluster")
    project.edit("nbs/papers/coins/flips.ipynb", '    kind: ClassVar[str] = \\"Flip\\"\\n',
                 '    kind: ClassVar[str] = \\"Flip\\"\\n    cost: ClassVar[float] = 300.0\\n')
    project.edit("nbs/papers/coins/flips.ipynb", "        heads =", f"        {line}\\n        heads =")
    return project


def test_members_go_side_by_side_as_an_array_and_one_that_fails_is_tried_again(tmp_path):
    once = ("import os, pathlib; mark = pathlib.Path(os.environ[\\\"UNCPAPER_HOME\\\"], \\\"mark\\\"); "
            "first = self.seed == 1 and not mark.exists(); first and (mark.touch(), os.kill(os.getpid(), 9))")
    project, before = many_flips(tmp_path / "home", once), array_sizes()
    finished(submit(project, "coins", "-p", "seeds=2"))
    assert (project.home / "mark").exists() and len(project.stored("Flip")) == 4 and project.stored("coins")
    assert sorted((array_sizes() - before).values()) == [1, 1, 4], "the members, one of them again, the notebook"


def test_a_member_that_always_fails_is_reported_and_the_rest_goes_on(tmp_path):
    project = many_flips(tmp_path / "home", "assert self.seed != 1 or self.coins == 10, \\\"she is ill\\\"")
    said = finished(submit(project, "coins", "-p", "seeds=2"), code=1)
    assert len(project.stored("Flip")) == 3 and not project.stored("coins")
    assert "she is ill" in said
