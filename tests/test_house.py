"The house itself: notebooks and package in step, pages clean, floors kept, nothing that does not belong."
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

FLOORS = {
    0: ["checks", "files", "places", "numerics", "statistics", "data", "noise", "schedules", "reproduce.memory",
        "reproduce.tidy", "reproduce.acceleration"],
    1: ["pictures", "models", "preprocessing", "manifolds", "reproduce.store", "reproduce.syntax", "reproduce.warm",
        "reproduce.requests"],
    2: ["training", "parallel", "diffusion", "density", "ensembles", "losses", "metrics", "plots", "generation",
        "work", "reproduce.fingerprint", "reproduce.stages"],
    3: ["reproduce.claims", "reproduce.verdicts", "reproduce.printed", "reproduce.experiments", "reproduce.study",
        "reproduce.reports", "reproduce.plans", "reproduce.parcels", "reproduce.runs", "reproduce.pace",
        "reproduce.planned", "reproduce.cost", "reproduce.clusters", "papers"],
    4: ["reproduce.batch", "reproduce.ledger", "reproduce.certify", "reproduce.changes", "reproduce.verify",
        "reproduce.forest", "reproduce.symbols", "reproduce.overviews", "reproduce.pages", "reproduce.site", "widgets"],
    5: ["reproduce.away", "reproduce.cli", "reproduce.start"],
    6: ["originals"],
}

ROOMS = {"papers", "models", "reproduce", "originals"} # packages with nothing in them but modules


def modules(root: Path) -> dict[str, Path]:
    return {".".join(p.relative_to(root / "uncpaper").with_suffix("").parts).removesuffix(".__init__"): p
            for p in (root / "uncpaper").rglob("*.py") if p.name != "_modidx.py" and p != root / "uncpaper/__init__.py"}


def imports(name: str, path: Path) -> set[str]:
    "Modules of ours that a module imports, without the leading `uncpaper.`."
    package = f"uncpaper.{name}" if path.name == "__init__.py" else f"uncpaper.{name}".rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom): continue
        base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
        origin = f"{base}.{node.module}" if node.level and node.module else base if node.level else node.module
        found |= {origin, *(f"{origin}.{a.name}" for a in node.names)}
    return {f.removeprefix("uncpaper.") for f in found if f.startswith("uncpaper.")}


def floor(name: str) -> int | None:
    return next((f for f, names in FLOORS.items() for n in names if name == n or name.startswith(n + ".")), None)


def test_a_module_imports_only_from_its_floor_or_below_and_never_in_circles(root):
    known = modules(root)
    full = {name: path for name, path in known.items() if path.stat().st_size > 20}
    graph = {name: {i for i in imports(name, path) if i in known} - {name} for name, path in full.items()}
    for name, below in graph.items():
        if name in ROOMS: continue
        assert floor(name) is not None, f"{name} has no floor"
        for other in below - ROOMS:
            assert floor(other) is not None and floor(other) <= floor(name), f"{name} imports {other} from above"
    from graphlib import TopologicalSorter
    list(TopologicalSorter(graph).static_order())


def below_of(root: Path) -> dict[str, set[str]]:
    return {name: imports(name, path) for name, path in modules(root).items()}


def test_the_machinery_knows_no_paper_and_the_science_no_machinery(root):
    for name, below in below_of(root).items():
        if name.startswith("reproduce"): assert not any(i.startswith(("papers", "originals")) for i in below), name
        elif not name.startswith(("papers", "originals")):
            assert not any(i.startswith(("reproduce", "papers", "originals")) for i in below), name


def test_a_paper_knows_the_science_its_own_pages_and_what_papers_share(root):
    for name, below in below_of(root).items():
        if not name.startswith("papers."): continue
        assert {i for i in below if i.startswith("reproduce")} <= {"reproduce.stages", "reproduce.stages.Stage"}, name
        own = name.split(".")[1]
        allowed = (own, "shared") if own != "shared" else ("shared",)
        assert not any(i.startswith("papers.") and i.split(".")[1] not in allowed for i in below), name
        assert not any(i.startswith("originals") for i in below), f"{name}: originals import papers, never the reverse"


def test_losses_pull_in_nothing_else(root):
    code = "import sys, uncpaper.losses; print([m for m in sys.modules if m.startswith('uncpaper')])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True).stdout
    assert ast.literal_eval(said) == ["uncpaper", "uncpaper.losses"]


def test_the_package_does_not_import_what_it_is_made_with(root):
    made_with = re.compile(r"^\s*(from|import) (nbdev|fastcore|execnb)", re.M)
    for name, path in modules(root).items():
        if name != "reproduce.site": assert not made_with.search(path.read_text()), name


@pytest.fixture(scope="module")
def copy(root, tmp_path_factory) -> Path:
    "The tracked files, in a repository of their own."
    target = tmp_path_factory.mktemp("copy")
    left_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("nbs", "uncpaper"): shutil.copytree(root / name, target / name, ignore=left_out)
    for name in ("settings.ini", "setup.py", "pyproject.toml"): shutil.copy(root / name, target / name)
    subprocess.run(["git", "init", "-q", "."], cwd=target, check=True)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    files = [p for n in ("nbs", "uncpaper") for p in sorted((folder / n).rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if "__pycache__" not in p.parts}


def test_exporting_and_cleaning_again_changes_nothing(copy):
    before = contents(copy)
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([Path(sys.executable).parent / command], cwd=copy, check=True, capture_output=True)
    after = contents(copy)
    assert {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)} == set()


def test_notebooks_are_clean(root):
    for path in (root / "nbs").rglob("*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code": assert not cell.outputs and cell.execution_count is None, path


def test_readme_is_the_front_page(root, tmp_path):
    from uncpaper.reproduce.site import write_readme
    before = (root / "README.md").read_text()
    try: assert write_readme().read_text() == before, "README.md is out of step: make export"
    finally: (root / "README.md").write_text(before)


def test_defaults_are_the_quick_profile_and_every_profile_is_declared(root):
    from uncpaper.reproduce.experiments import experiments
    found = experiments()
    assert len(found) >= 8
    for e in found:
        assert set(e.profiles) == {"quick", "laptop", "paper"} and e.profiles["quick"] == e.defaults, e.name
        for profile in ("laptop", "paper"): assert not e.claims or e.profiles[profile]["seeds"] >= 5, e.name


def test_every_published_number_has_a_source_and_an_experiment(root):
    from uncpaper.reproduce.experiments import experiments, papers, published
    names = {e.name for e in experiments()}
    for paper in papers():
        specs = published(paper).claims + published(paper).values
        assert len({s.id for s in specs}) == len(specs)
        for s in specs: assert s.source and f"{paper}/{s.experiment}" in names, s.id


def test_laptop_runs_are_recorded_whole_and_up_to_date(root):
    from uncpaper.reproduce.experiments import experiments
    from uncpaper.reproduce.ledger import evidence, recorded_folder
    from uncpaper.reproduce.store import sha256
    for e in experiments():
        folder = recorded_folder(e, "laptop")
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, expected in manifest["files"].items(): assert sha256(folder / name) == expected, folder / name
        laptop, = [x for x in evidence(e) if x.profile == "laptop"]
        assert not laptop.stale, f"{e.name}: recorded run is out of date"
        assert not e.claims or laptop.result.seeds >= 5


def test_quarto_file_and_citation_are_valid(root):
    quarto = yaml.safe_load((root / "_quarto.yml").read_text())
    assert quarto["project"]["type"] == "website"
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert citation["cff-version"] and citation["title"] == "uncpaper" and len(citation["references"]) >= 5


def test_no_machine_paths_and_no_package_hosts(root):
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True).stdout.splitlines()
    hosts = ["files.python" + "hosted", "pypi" + r"\.org", "registry.npm" + "js", "deb.debian" + r"\.org"]
    pattern = re.compile("|".join(["/work" + "/main", "/root" + "/", *hosts]))
    for name in listed:
        path = root / name
        if path.suffix in {".gz", ".png", ".parquet"} or not path.is_file(): continue
        assert not pattern.search(path.read_text(errors="ignore")), name
