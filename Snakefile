# A job of the plan, by its name, after the jobs it needs. `uncpaper run ...` writes the plan and calls this.
# Jobs that ask for the same are one rule: a cluster takes them as one array.
import json
import re
import shlex

from uncpaper.reproduce.warm import python

PLAN = json.load(open(config["plan"], encoding="utf-8"))
PYTHON = shlex.join(python())
ALIKE = {}
for name, job in PLAN.items():
    ALIKE.setdefault(tuple(job["asks"].items()), []).append(name)


rule all:
    input:
        [f"{name}.done" for name in PLAN],


for number, (asks, names) in enumerate(ALIKE.items()):
    asks = dict(asks)

    rule:
        name:
            f"jobs_{number}"
        input:
            lambda wildcards: [f"{name}.done" for name in PLAN[wildcards.name]["needs"]],
        output:
            touch("{name}.done"),
        wildcard_constraints:
            name="|".join(map(re.escape, names)),
        threads: asks["threads"]
        resources:
            mem_mb=lambda wildcards, attempt, first=asks["megabytes"]: first * attempt,
            runtime=lambda wildcards, attempt, first=asks["minutes"]: min(first * attempt, 1440),
            **({"gpu": asks["gpus"], "gpu_manufacturer": "nvidia"} if asks["gpus"] else {}),
        log:
            "{name}.log",
        shell:
            "{PYTHON} -c 'from uncpaper.reproduce.batch import main; main()' {config[plan]:q} {wildcards.name:q}"
            " > {log:q} 2>&1 || (cat {log:q} >&2; exit 1)"
