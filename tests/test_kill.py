"Killed at any moment and started again: nothing finished is lost, nothing is left half-written."
import json
import os
import random
import signal
import time

import pytest


def entries_are_whole(project) -> None:
    from uncpaper.reproduce.store import Store
    store = Store(project.home / "runs/store")
    for key in project.stored(): assert store.intact(key), key


@pytest.mark.parametrize("seed", range(3))
def test_sigkill_at_a_random_moment(project, seed):
    project.edit("nbs/papers/coins/flips.ipynb", "        heads =",
                 "        import time; time.sleep(0.3)\\n        heads =")
    moment = random.Random(seed)
    finished: dict[str, int] = {}
    for _ in range(3):
        process = project.start("run", "coins")
        time.sleep(moment.uniform(4, 11))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = project.stored()
        again = [key for key, written in finished.items() if now.get(key) != written]
        assert not again, "a finished result was lost or made again"
        entries_are_whole(project)
        finished = now
    project("run", "coins")
    now = project.stored()
    assert all(now.get(key) == written for key, written in finished.items())
    entries_are_whole(project)
    assert len(project.stored("Flip")) == 10 and len(project.stored("coins")) == 1
    assert not list((project.home / "runs/store").glob("*.partial"))
    claims = [r["verdict"] for r in json.loads(project("ledger", "--json")) if r["kind"] == "claim"]
    assert claims == ["holds"]


def test_training_killed_in_a_process_of_its_own_ends_with_the_same_bits(tmp_path, monkeypatch):
    import subprocess, sys
    script = (
        "import sys, torch; from pathlib import Path; from torch import nn; torch.set_num_threads(1)\n"
        "from uncpaper.training import Minibatches, fit; from uncpaper.numerics import generator\n"
        "x = torch.randn(256, 4, generator=generator(0, 'x')); torch.manual_seed(1)\n"
        "m = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 1))\n"
        "o = torch.optim.Adam(m.parameters())\n"
        "loss = lambda m, x: (m(x) - x.sum(1, keepdim=True)).square().mean()\n"
        "norm = lambda m: {'norm': sum(p.norm().item() for p in m.parameters())}\n"
        "rows = fit(m, (x,), loss, Minibatches(256, 32, 0), o, 3000, norm, 50, checkpoint=Path(sys.argv[1]) / 'c',\n"
        "           seconds=0.05)\n"
        "for row in rows: print(row['step'], row['norm'], flush=True)\n")
    def start(folder):
        return subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True)
    whole, _ = start(tmp_path / "whole").communicate(timeout=200)
    for _ in range(2):
        process = start(tmp_path / "killed")
        for line in process.stdout:
            if int(line.split()[0]) % 900 == 0: break
        process.kill()
        process.communicate()
    assert (tmp_path / "killed" / "c").exists()
    assert start(tmp_path / "killed").communicate(timeout=200)[0] == whole
