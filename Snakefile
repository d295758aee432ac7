# One rule: a job of the plan, by its name, after the jobs it needs.
# `uncpaper run ...` writes the plan and calls this; for a cluster add Snakemake's own options:
#   uncpaper run --all --profile paper -- --executor slurm --jobs 50
import json
import shlex

from uncpaper.reproduce.warm import python

PLAN = json.load(open(config["plan"]))
PYTHON = shlex.join(python())


rule all:
    input:
        [f"{name}.done" for name in PLAN],


rule job:
    input:
        lambda wildcards: [f"{name}.done" for name in PLAN[wildcards.name]["needs"]],
    output:
        touch("{name}.done"),
    wildcard_constraints:
        name="[^/]+",
    resources:
        runtime=lambda wildcards: 10 + int(PLAN[wildcards.name]["seconds"] / 20),  # minutes, three times the estimate
    log:
        "{name}.log",
    shell:
        "{PYTHON} -c 'from uncpaper.reproduce.batch import main; main()' {config[plan]:q} {wildcards.name:q}"
        " > {log:q} 2>&1 || (cat {log:q} >&2; exit 1)"
