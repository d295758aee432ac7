"""
How long until the command line answers, beside Python with torch and beside papermill?

    python benchmarks/command_line.py

Each command is a process of its own, in turns; times are processor times of the process and its children, after one
run that warms up (and fills the memory of answers). A ratio is time(peer) / time(ours).
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

from _rounds import note, turns

BIN = Path(sys.executable).parent
PEERS = {"python -c 'import torch'": [sys.executable, "-c", "import torch"],
         "papermill --help": [BIN / "papermill", "--help"]}
OURS = ("--help", "list", "ledger", "explain biv/wine")


def run(words: list) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)


def clock() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    calls = {f"uncpaper {said}": [BIN / "uncpaper", *said.split()] for said in OURS} | PEERS
    found = turns({name: lambda words=words: run(words) for name, words in calls.items()}, 5, 0.0, clock)
    for name in calls:
        if name in PEERS: continue
        for peer in PEERS:
            note("Command line", name, peer, found[peer] / found[name], "exit code 0", ["torch", "papermill"],
                 seconds=float(sorted(found[name])[2]))
