"""
Kills, many of them, and what is left: `python tests/faults.py [KILLS]`, or `make faults`.

A third of the kills hits a process that trains and stores, a third a whole run of a small project, with all its
processes or one of them, a third the building of its site. After each the store is looked at, and the work goes on
where it was; where it is done, it is compared with work that nobody disturbed, and begins anew.
"""
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import torch
from conftest import Project, make_project, results, stored

from uncpaper.reproduce.stages import in_order
from uncpaper.reproduce.store import Store

COUNTED = ("kills", "unreadable", "made again", "unlike", "alive", "left behind")


def processes(home: Path) -> dict[int, str]:
    "Processes that were started for a project, and their words."
    found = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get("UNCPAPER_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
        except psutil.Error: continue
    return found


def litter(home: Path, temporary: Path) -> list[str]:
    "What should not be there when all is done: locks, unfinished entries, temporary files."
    ours = [p for p in temporary.iterdir() if not p.name.startswith("torchinductor")] # a cache of torch's, for all
    runs = home / "runs"
    patterns = (".plan-*", "*.lock", "store/.locks/*", "store/*.partial")
    return [str(path) for path in (*ours, *(p for pattern in patterns for p in runs.glob(pattern)))]


class Watched:
    "A store that is looked at after each kill: entries stay readable, and what is finished is never made again."
    def __init__(self, store: Path, counts: Counter):
        self.store, self.counts, self.before = store, counts, {}

    def look(self) -> None:
        now = stored(self.store)
        self.counts["unreadable"] += sum(not Store(self.store).intact(key) for key in now)
        self.counts["made again"] += sum(now.get(key) != written for key, written in self.before.items())
        self.before = now


# a process that trains and stores

def stages() -> list:
    from chain import Norm, Trained
    return in_order([Norm(Trained(seed)) for seed in range(4)])


def forked(home: Path) -> int:
    "A process that builds the stages; its number."
    if (child := os.fork()): return child
    try:
        os.environ["UNCPAPER_HOME"] = str(home)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2) # progress bars
        for stage in stages(): stage.ensure()
        os._exit(0)
    finally: os._exit(1)


def waited(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_trainings(kills: int, moment: random.Random, counts: Counter, top: Path) -> None:
    clock = time.monotonic()
    assert waited(forked(top / "whole")) == 0
    takes, whole, done = time.monotonic() - clock, results(top / "whole/runs/store"), 0
    while done < kills:
        home = top / "killed"
        watched = Watched(home / "runs/store", counts)
        for _ in range(8): # in eight parts at most, and then to the end
            process = forked(home)
            time.sleep(moment.uniform(0, takes / 4))
            os.kill(process, signal.SIGKILL)
            done += waited(process) == -signal.SIGKILL
            watched.look()
        assert waited(forked(home)) == 0
        watched.look()
        Store(home / "runs/store").sweep()
        counts["unlike"] += results(home / "runs/store") != whole
        counts["left behind"] += len([*home.glob("runs/store/.locks/*"), *home.glob("runs/store/*.partial")])
        shutil.rmtree(home)
    counts["kills"] += done


# the command line, and what it starts

def family(command: subprocess.Popen) -> list[psutil.Process]:
    try: return psutil.Process(command.pid).children(recursive=True)
    except psutil.Error: return []


def has(process: psutil.Process, *words: str) -> bool:
    try: return any(word in " ".join(process.cmdline()) for word in words)
    except psutil.Error: return False


def works_in(process: psutil.Process, of: str) -> bool:
    "Whether a process that a server has forked works in such a folder."
    try: return has(process, "warm import main") and of in process.cwd() and process.parent().cwd() != process.cwd()
    except (psutil.Error, AttributeError): return False


TARGETS: dict[str, Callable[[subprocess.Popen, Path], list[psutil.Process]]] = {
    "all": lambda command, home: [command, *family(command)],
    "command": lambda command, home: [command],
    "scheduler": lambda command, home: [p for p in family(command) if has(p, "-m snakemake")],
    "server": lambda command, home: [p for p in family(command) if has(p, "warm import main")][:1],
    "worker": lambda command, home: [p for p in family(command)
                                     if works_in(p, ".plan-") or has(p, "site import page_of")],
    "kernel": lambda command, home: [p for p in family(command)
                                     if works_in(p, str(home)) and not works_in(p, ".plan-")],
    "renderer": lambda command, home: [p for p in family(command) if has(p, "smalldocs")],
}


def kill(command: subprocess.Popen, target: str, home: Path, delay: float) -> bool:
    "Wait until there is a target, and then a while; kill it, if it is still there. Whether it was."
    while not TARGETS[target](command, home):
        if command.poll() is not None: return False
        time.sleep(0.02)
    time.sleep(delay)
    found = TARGETS[target](command, home) if command.poll() is None else []
    for process in found:
        with suppress(psutil.Error): process.kill()
    return bool(found)


def deserted(home: Path, seconds: float = 10) -> int:
    "How many processes of a project live on when some seconds have passed."
    end = time.monotonic() + seconds
    while (alive := processes(home)) and time.monotonic() < end: time.sleep(0.1)
    return len(alive)


def small_project(home: Path) -> Project:
    "A project with one experiment, of which each stage takes a while, and two pages."
    project = make_project(home)
    project.edit("nbs/papers/coins/flips.ipynb", "        heads =",
                 "        import time; time.sleep(0.1)\\n        heads =")
    notebook = nbformat.read(path := home / "nbs/papers/coins/flips.ipynb", 4)
    salted = "plt.rcParams['svg.hashsalt'] = 'coins'" # parts of pictures are else named by chance
    notebook.cells[-1].source = f"{salted}\n{notebook.cells[-1].source}"
    nbformat.write(notebook, path)
    pages = {"index": "6 * 7", "other": "import tempfile, time\ntempfile.mkdtemp()\ntime.sleep(1)\n1 + 1"}
    for name, code in pages.items():
        cells = [nbformat.v4.new_markdown_cell(f"# {name}"), nbformat.v4.new_code_cell(code)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), home / f"nbs/{name}.ipynb")
    return project


def site_of(project: Project) -> dict[str, bytes]:
    files = [p for p in (project.home / "_site").rglob("*") if p.is_file()]
    return {str(p.relative_to(project.home)): p.read_bytes() for p in files}


def killed_commands(words: tuple[str, ...], targets: tuple[str, ...], kills: int, moment: random.Random,
                    counts: Counter, top: Path) -> None:
    "Kill `uncpaper WORDS` at random instants; compare what it makes in the end with what it makes undisturbed."
    undisturbed = small_project(top / "whole")
    if words[0] == "site": undisturbed("run", "coins")
    clock = time.monotonic()
    undisturbed(*words)
    takes, done = time.monotonic() - clock, 0
    whole, site = results(top / "whole/runs/store"), site_of(undisturbed)
    while done < kills:
        shutil.rmtree(top / "killed", ignore_errors=True)
        project = small_project(top / "killed")
        if words[0] == "site": shutil.copytree(top / "whole/runs/store", project.home / "runs/store",
                                               ignore=shutil.ignore_patterns("page*"))
        watched = Watched(project.home / "runs/store", counts)
        watched.look()
        for target in moment.sample(targets, min(len(targets), kills - done)):
            command = project.start(*words)
            done += kill(command, target, project.home, moment.uniform(0, takes / 2 if target in WHOLE else 0.3))
            command.communicate()
            counts["alive"] += deserted(project.home)
            watched.look()
            counts["unlike"] += bool(site_of(project)) and set(site_of(project)) != set(site)
        project(*words)
        watched.look()
        counts["unlike"] += results(project.home / "runs/store") != whole or site_of(project) != site
        counts["left behind"] += len(left := litter(project.home, Path(tempfile.gettempdir())))
        if left: print("left behind:", *left, flush=True)
    counts["kills"] += done


WHOLE = ("all", "command") # at work from the beginning to the end; others come and go
RUN, SITE = ("all", "command", "scheduler", "server", "worker", "kernel"), ("all", "command", "worker", "renderer")


def campaigns(kills: int, moment: random.Random, counts: Counter, top: Path) -> Iterator[str]:
    "The three kinds of work, each with its share of the kills."
    share = kills // 3
    killed_trainings(kills - 2 * share, moment, counts, top / "training")
    yield "trainings"
    killed_commands(("run", "coins"), RUN, share, moment, counts, top / "run")
    yield "runs"
    killed_commands(("site",), SITE, share, moment, counts, top / "site")
    yield "sites"


def main(kills: int, seed: int = 0) -> int:
    "Print what was counted; 0 where nothing was lost and nothing left."
    torch.set_num_threads(1)
    counts = Counter(dict.fromkeys(COUNTED, 0))
    with tempfile.TemporaryDirectory() as top:
        tempfile.tempdir = os.environ["TMPDIR"] = f"{top}/temporary"
        Path(tempfile.tempdir).mkdir()
        for name in campaigns(kills, random.Random(seed), counts, Path(top)):
            print(f"{name}: {', '.join(f'{counts[what]} {what}' for what in COUNTED)}", flush=True)
        tempfile.tempdir = None
    return sum(counts[what] for what in COUNTED[1:])


if __name__ == "__main__": sys.exit(bool(main(*map(int, sys.argv[1:]))))
