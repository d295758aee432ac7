"Processes that start warm: the same bytes as fresh ones, each failing for itself, none left behind."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import Project, make_project, results
from uncpaper.reproduce.warm import ADDRESS, python, serving

FRESH = ("--", "--nocolor") # words for Snakemake: every job starts fresh


def put(project: Project, code: str, name: str = "flips") -> None:
    "Put a line before the last cell of a notebook."
    path = project.home / f"nbs/papers/coins/{name}.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[-1].source = f"{code}\n{notebook.cells[-1].source}"
    nbformat.write(notebook, path)


def outputs(project: Project) -> list[dict]:
    "What the executed notebook shows."
    notebook, = (project.home / "runs/store").glob("coins*/notebook.ipynb")
    return [output for cell in nbformat.read(notebook, 4).cells for output in cell.get("outputs", ())]


def test_a_warm_run_and_a_fresh_one_leave_the_same_bytes(tmp_path):
    warm, fresh = (make_project(tmp_path / name) for name in ("warm", "fresh"))
    line = "import multiprocessing; print(multiprocessing.parent_process()); plt.rcParams['svg.hashsalt'] = 'coins'"
    for project in (warm, fresh): put(project, line)
    warm("run", "coins")
    fresh("run", "coins", *FRESH)
    said = [next(o.text for o in outputs(p) if o.get("name") == "stdout") for p in (warm, fresh)]
    assert "_ParentProcess" in said[0] and said[1] == "None\n", "one kernel was to be forked, the other not"
    found = results(warm.store)
    assert found == results(fresh.store) and any(name.endswith("main.svg") for name in found)
    pictures = [[o.data for o in outputs(p) if "image/png" in o.get("data", ())] for p in (warm, fresh)]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 1, "a kernel draws into its notebook"


def without_claims(source: str) -> str:
    return "\n".join(line for line in source.splitlines() if not line.startswith(("study.claim", "study.value")))


def add_experiment(project: Project, name: str, claims: bool) -> None:
    "A copy of the page's example with other stages; published.yaml has no claims of such an experiment."
    folder = project.home / "nbs/papers/coins"
    notebook = nbformat.read(folder / "flips.ipynb", 4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("coins/flips", f"coins/{name}").replace("seeds = 5", "seeds = 1")
        cell.source = cell.source.replace("trials = 400", "trials = 300") # stages of its own, too few for lots
        if not claims: cell.source = without_claims(cell.source)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    with (folder / "profiles.yaml").open("a") as file: file.write(f"{name}: {{quick: {{}}}}\n")


def test_a_failing_notebook_stops_what_needs_it_and_nothing_else(project):
    add_experiment(project, "abacus", claims=True)
    add_experiment(project, "tosses", claims=False)  # needs what abacus builds first
    error = project("run", "coins", "--cores", "1", code=1)
    assert "'many-flips-closer' does not stand in published.yaml for this experiment" in error
    assert [len(project.stored(f"coins.{name}")) for name in ("abacus", "flips", "tosses")] == [0, 1, 0]
    flips = project.stored("coins.flips")
    (project.home / "nbs/papers/coins/abacus.ipynb").unlink()
    project("run", "coins")
    assert len(project.stored("coins.tosses")) == 1 and project.stored("coins.flips") == flips


def processes(home: Path) -> dict[int, str]:
    "Processes that were started for a project, and their words."
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try: ours = f"UNCPAPER_HOME={home}\0".encode() in (folder / "environ").read_bytes()
        except OSError: continue
        if ours: found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


def end_all(process: subprocess.Popen) -> None: os.killpg(process.pid, signal.SIGKILL)
def interrupt(process: subprocess.Popen) -> None: os.killpg(process.pid, signal.SIGINT)
def end(process: subprocess.Popen) -> None: process.terminate()


@pytest.mark.parametrize("stop", [end_all, interrupt, end])
def test_an_interrupted_run_leaves_nobody_behind(project, stop):
    put(project, "import os, pathlib, time; pathlib.Path('kernel').write_text(str(os.getpid())); time.sleep(200)")
    process = project.start("run", "coins")
    wait_for(lambda: (project.home / "kernel").exists(), 120)
    assert int((project.home / "kernel").read_text()) in processes(project.home)
    stop(process)
    process.communicate()
    wait_for(lambda: not processes(project.home), 30)
    assert not project.stored("coins") and len(project.stored("Flip")) == 10


def test_snakemake_ends_with_the_run_that_started_it(project):
    process = project.start("run", "coins")
    wait_for(lambda: any("-m snakemake" in words for words in processes(project.home).values()), 120)
    process.terminate() # and nobody else
    process.communicate()
    wait_for(lambda: not processes(project.home), 30)
    assert not project.stored("coins")


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def test_where_cuda_was_touched_a_process_becomes_a_fresh_one(root):
    code = ("import os, sys, torch; from uncpaper.reproduce import warm; torch.cuda._is_in_bad_fork = lambda: True\n"
            "words = ['-c', 'import sys; print(sys.argv, \"torch\" in sys.modules, flush=True); sys.exit(5)', 'a']\n"
            "warm.run({'words': words, 'folder': '/', 'environment': dict(os.environ)}, [], os.getppid())")
    # a session leader cannot start another session, so a child does it
    parent = "import os, sys\nif child := os.fork(): sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    done = subprocess.run([sys.executable, "-c", parent + code], capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout) == (5, "['-c', 'a'] False\n"), done.stderr


def test_without_its_server_a_process_is_a_fresh_one(root, tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(root))
    with serving() as server:
        environment = {**os.environ, **server}
        words = [*python(environment), "-c", "import sys; print('torch' in sys.modules)"]
        assert subprocess.check_output(words, env=environment, text=True) == "True\n"
        number, = [p for p, words in processes(tmp_path).items() if "warm import main" in words]
        os.kill(number, signal.SIGKILL)
        assert subprocess.check_output(words, env=environment, text=True) == "False\n"


def test_elsewhere_there_is_no_server(monkeypatch):
    with serving() as server: assert list(server) == [ADDRESS]
    monkeypatch.setattr(sys, "platform", "darwin")
    with serving() as server: assert server == {}
