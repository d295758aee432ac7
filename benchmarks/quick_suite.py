"""
How long do the quick experiments take, beside papermill that runs the same notebooks one after the other?

    python benchmarks/quick_suite.py [PAPER, or PAPER/EXPERIMENT]

Both begin with an empty store in a project folder of their own (links to this one) and have both cores; wall-clock
times, one after the other, once each. Papermill gets each notebook with the parameters of its quick profile, and shares
finished stages between notebooks as ours does, since the notebooks keep them. A ratio is time(papermill) / time(ours).
Wanted: 1.8. All papers take some twenty minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm.auto import tqdm

from _rounds import note, taken
from uncpaper.places import home
from uncpaper.reproduce.experiments import Experiment, experiments, find

BIN = Path(sys.executable).parent


def project() -> Path:
    "A folder with everything but what was built."
    folder = Path(tempfile.mkdtemp(prefix="uncpaper-"))
    for path in home().iterdir():
        if path.name not in ("runs", "_site", ".git"): (folder / path.name).symlink_to(path)
    return folder


def call(words: list, folder: Path) -> None:
    environment = {**os.environ, "UNCPAPER_HOME": str(folder), "PYTHONPATH": str(folder)}
    done = subprocess.run([str(word) for word in words], env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode: raise RuntimeError(f"{words} failed: {done.stderr[-2000:]}")


def by_papermill(chosen: list[Experiment], folder: Path) -> None:
    for e in tqdm(chosen, desc="papermill", leave=False):
        given = folder / "given.json"
        given.write_text(json.dumps(e.parameters("quick")))
        out = folder / f"{e.name.replace('/', '-')}.ipynb"
        call([BIN / "papermill", e.path, out, "-f", given, "--cwd", e.path.parent, "--no-progress-bar"], folder)


def by_uncpaper(what: str, folder: Path) -> None:
    call([BIN / "uncpaper", "run", what, "--profile", "quick", "--cores", "2"], folder)


if __name__ == "__main__":
    chosen = find(sys.argv[1]) if len(sys.argv) == 2 else experiments()
    theirs = taken(lambda: by_papermill(chosen, project()), 1, time.perf_counter)
    ours = taken(lambda: by_uncpaper(" ".join(sys.argv[1:]) or "--all", project()), 1, time.perf_counter)
    note("Quick suite", f"{sys.argv[1] if len(sys.argv) == 2 else 'all papers'}: {len(chosen)} notebooks", "papermill",
         [theirs / ours], "every notebook ran", ["papermill"], 1.8, seconds=ours)
