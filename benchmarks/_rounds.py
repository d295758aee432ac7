"What benchmarks share: candidates that take turns in one process, a ratio with its spread, a line in the site's table."
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np

TABLE = Path(__file__).resolve().parents[1] / "results" / "benchmarks.jsonl"


def turns(calls: Mapping[str, Callable], rounds: int, seconds: float = 0.1, clock: Callable = time.process_time
          ) -> dict[str, np.ndarray]:
    """
    Seconds a call, (round,), of each candidate. In a round each takes its turn of so many seconds, and the order
    changes from round to round, so that whatever else the machine does falls on all. The first round only warms up.
    """
    times, names = {name: [] for name in calls}, list(calls)
    often = {name: max(1, round(seconds / max(1e-7, taken(call, 1, clock)))) for name, call in calls.items()}
    for turn in range(rounds + 1):
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            times[name].append(taken(calls[name], often[name], clock))
    return {name: np.array(found[1:]) for name, found in times.items()}


def taken(call: Callable, often: int, clock: Callable) -> float:
    "Seconds a call."
    start = clock()
    for _ in range(often): call()
    return (clock() - start) / often


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def note(benchmark: str, case: str, peer: str, ratios: Sequence[float], agrees: str, packages: Sequence[str],
         wanted: float | None = None, unit: str = "time", **more: float) -> None:
    "Print a ratio, peer over ours, with the middle half of the rounds, and add it to the table that the site shows."
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    target = "" if wanted is None else f"  wanted {wanted:g}: {'reached' if middle >= wanted else 'not reached'}"
    print(f"{case:52}{peer:32}{middle:9.3g}  ({low:.3g} to {high:.3g}){target}  {agrees}", flush=True)
    line = dict(benchmark=benchmark, case=case, peer=peer, unit=unit, ratio=middle, low=low, high=high,
                rounds=len(ratios), wanted=wanted, agrees=agrees, **more,
                versions={"python": platform.python_version(), **{p: version(p) for p in packages}},
                machine=processor(), when=datetime.now(timezone.utc).date().isoformat())
    add(line)


def add(line: dict) -> None:
    "Put a line into the table, in place of the one that says the same thing of the same machine."
    TABLE.parent.mkdir(exist_ok=True)
    same = ("benchmark", "case", "peer", "machine")
    lines = [json.loads(text) for text in TABLE.read_text().splitlines()] if TABLE.exists() else []
    kept = [old for old in lines if any(old.get(name) != line.get(name) for name in same)]
    TABLE.write_text("".join(json.dumps(one) + "\n" for one in (*kept, line)))
