"Stages built where there is only torch, packed, and read where everything is: same keys, same bytes, or a refusal."
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from conftest import make_project

from uncpaper.reproduce.away import main
from uncpaper.reproduce.experiments import find
from uncpaper.reproduce.parcels import CONTENTS, KNOWN, TAKEN, member, pack, unpack
from uncpaper.reproduce.plans import stages_of
from uncpaper.reproduce.requests import BadRequest
from uncpaper.reproduce.store import Store, default_store

THERE = {"torch", "torchvision", "numpy", "pandas", "scipy", "scikit-learn", "pillow", "matplotlib", "safetensors",
         "accelerate", "tqdm", "filelock", "pyyaml"}
ABSENT = {"pydantic", "papermill", "snakemake", "ipywidgets", "nbformat", "nbclient", "jupyter_client", "IPython",
          "diffusers", "pyarrow", "typer", "rich", "nbdev", "fastcore"}


def with_needs(names: set[str]) -> dict:
    "Installed packages and all that they need, but for what is to be absent."
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop().lower()
        if name in found or name in ABSENT: continue
        try: found[name] = distribution(name)
        except PackageNotFoundError: continue
        waiting += [re.match(r"[\w.-]+", r)[0] for r in found[name].requires or () if "extra ==" not in r]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    "A Python with links to what a machine with a GPU has, and nothing else."
    top = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", top], check=True)
    site = next(top.glob("lib/python*/site-packages"))
    for package in with_needs(THERE).values():
        for name in {f.parts[0] for f in package.files or ()} - {"..", "__pycache__"}:
            if not (site / name).exists(): (site / name).symlink_to(package.locate_file(name))
    return top / "bin/python"


@pytest.fixture
def machine(tmp_path, root, bare):
    "A checkout on a bare machine, and its command line."
    make_project(tmp_path / "gpu")

    def say(*words: str, code: int = 0) -> str:
        done = subprocess.run([bare, "-m", "uncpaper.reproduce.away", *words], text=True, capture_output=True,
                              env={**os.environ, "UNCPAPER_HOME": str(tmp_path / "gpu"), "PYTHONPATH": str(root)})
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout
    return say


def test_what_is_absent_is_absent(bare):
    code = f"import importlib.util; print([n for n in {sorted(ABSENT)} if importlib.util.find_spec(n)])"
    assert subprocess.run([bare, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


SMALL = "-p", "seeds=2", "-p", "trials=10"


def test_a_bare_machine_builds_and_packs_and_a_full_one_reads_on(machine, project, tmp_path, monkeypatch):
    parcel = tmp_path / "coins.tar"
    said = machine("build", "coins/flips", *SMALL)
    assert " stages built; all that were asked for are there" in said
    assert "stages packed in" in machine("pack", str(parcel), "--what", "coins/flips", *SMALL)
    assert "stages taken" in project("unpack", str(parcel))
    monkeypatch.setenv("UNCPAPER_HOME", str(project.home))
    plan = stages_of(find("coins/flips")[0], seeds=2, trials=10)
    there, here = Store(tmp_path / "gpu/runs/store"), default_store()
    assert plan and all(s.done() for s in plan)
    assert {s.key for s in plan} == {p.name for p in here.root.glob("*-*")}
    before = project.stored()
    assert [s.result() for s in plan] == [there.read(s.key) for s in plan]
    assert project.stored() == before, "something was built"
    assert "0 stages built" in project("build", "coins/flips", *SMALL)


WRONG = {
    ("build", "coins/flip"): "did you mean coins/flips?",
    ("build", "coins", "-p", "seeds=[1"): "'[1' cannot be read: ",
    ("build", "coins", "-p", "profile=quick"): "parameter 'profile' is unknown: allowed are seeds, trials, flips",
    ("build", "coins", "-p", f"flips={'[' * 3000}"): "cannot be read: it is too deep",
    ("build", "coins", "--stage", "Train"): "no stage is called 'Train': there are ",
    ("pack", "none.tar", "--what", "coins"): "nothing of coins at quick is built here yet",
    ("unpack", "none.tar"): "none.tar cannot be unpacked: ",
}


def test_refusals_are_one_line_on_a_bare_machine_too(machine, project, monkeypatch, capsys):
    monkeypatch.setenv("UNCPAPER_HOME", str(project.home))
    for words, message in WRONG.items():
        with pytest.raises(SystemExit) as end: main(words)
        said = capsys.readouterr().err
        assert end.value.code == 2
        assert said.startswith("uncpaper: ") and message in said and said.count("\n") == 1, said
    assert "did you mean coins/flips?" in machine("build", "coins/flip", code=2)


@pytest.fixture
def entry(tmp_path):
    "A store with one finished entry, and its parcel."
    store, key = Store(tmp_path / "there"), "Train-0123456789abcdef"
    with store.writing(key) as (folder, manifest):
        (folder / "x.json").write_text(json.dumps([1.5] * 99))
        (folder / "inner").mkdir()
        (folder / "inner" / "y.json").write_text("2.5")
        manifest |= dict(key=key, inputs={}, seconds=1.0, threads=1, started="2026-01-01T00:00:00+00:00", upstream={})
    return store, key, pack(tmp_path / "parcel.tar", [key], store)


def test_every_flipped_byte_is_found_and_every_cut(entry, tmp_path):
    store, key, parcel = entry
    whole, target = parcel.read_bytes(), Store(tmp_path / "here")
    with tarfile.open(parcel) as tar: spans = [(m.offset_data, m.size) for m in tar]
    last = sum(spans[-1])
    flips = [whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1:] for at, size in spans for i in range(at, at + size, 37)]
    cuts = [whole[:n] for n in range(0, last, 211)]
    assert len(flips) > 20 and len(cuts) > 10
    for damaged in (*flips, *cuts):
        (tmp_path / "bad.tar").write_bytes(damaged)
        with pytest.raises(BadRequest, match="nothing was taken"): unpack(tmp_path / "bad.tar", target)
        assert not [p for p in target.root.iterdir() if p.name != ".locks"]
    assert unpack(parcel, target) == {key: TAKEN} and target.read(key) == store.read(key)


def crafted(entry, path: Path, change) -> Path:
    "The parcel with a member added by hand."
    with tarfile.open(entry[2]) as old, tarfile.open(path, "w") as new:
        for m in old: new.addfile(m, old.extractfile(m))
        change(new, entry[1])
    return path


def linked(tar, name, target, kind):
    link = member(name, 0)
    link.type, link.linkname = kind, target
    tar.addfile(link)


def sparse(tar, key):
    "A few bytes that stand for a terabyte."
    bomb = member(f"{key}/z.json", 0)
    bomb.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(10**12),
                        "GNU.sparse.numblocks": "1", "GNU.sparse.map": f"{10**12},0"}
    tar.addfile(bomb)


HOSTILE = {
    "a link": lambda tar, key: linked(tar, f"{key}/z", "/etc/passwd", tarfile.SYMTYPE),
    "a hard link": lambda tar, key: linked(tar, f"{key}/z", f"{key}/x.json", tarfile.LNKTYPE),
    "a device": lambda tar, key: linked(tar, f"{key}/z", "", tarfile.CHRTYPE),
    "upwards": lambda tar, key: tar.addfile(member("../evil", 1), io.BytesIO(b"x")),
    "upwards from inside": lambda tar, key: tar.addfile(member(f"{key}/../../evil", 1), io.BytesIO(b"x")),
    "absolute": lambda tar, key: tar.addfile(member("/tmp/uncpaper-evil", 1), io.BytesIO(b"x")),
    "twice": lambda tar, key: tar.addfile(member(f"{key}/x.json", 1), io.BytesIO(b"x")),
    "the list twice": lambda tar, key: tar.addfile(member(CONTENTS, 2), io.BytesIO(b"{}")),
    "unlisted file": lambda tar, key: tar.addfile(member(f"{key}/z.json", 1), io.BytesIO(b"1")),
    "unlisted entry": lambda tar, key: tar.addfile(member("Z-0123456789abcdef/x", 1), io.BytesIO(b"1")),
    "the locks": lambda tar, key: tar.addfile(member(".locks/x.lock", 1), io.BytesIO(b"1")),
    "a sparse bomb": sparse,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_parcels_are_refused_in_one_line_and_leave_nothing(entry, tmp_path, what):
    target = Store(tmp_path / "deep/er/here")
    path = crafted(entry, tmp_path / "hostile.tar", HOSTILE[what])
    with pytest.raises(BadRequest) as refused: unpack(path, target)
    assert "nothing was taken" in str(refused.value) and "\n" not in str(refused.value)
    assert not [*target.root.iterdir()] and not [*tmp_path.rglob("*evil*")]
    assert not Path("/tmp/uncpaper-evil").exists()


def test_packed_tars_are_refused_unread(entry, tmp_path):
    for mode in ("gz", "xz"):
        with tarfile.open(tmp_path / mode, f"w:{mode}") as tar:
            tar.addfile(member("x", 10**7), io.BytesIO(bytes(10**7)))
        with pytest.raises(BadRequest, match="nothing was taken"): unpack(tmp_path / mode, Store(tmp_path / "here"))


def listing(tmp_path, entries: object, **files: bytes) -> Path:
    "A parcel with this list and these files."
    said = json.dumps({"version": 1, "entries": entries}).encode()
    with tarfile.open(tmp_path / "made.tar", "w") as tar:
        for name, content in {CONTENTS: said, **files}.items():
            tar.addfile(member(name, len(content)), io.BytesIO(content))
    return tmp_path / "made.tar"


@pytest.mark.parametrize(
    "entries", [[], None, {"../x": ""}, {".locks": ""}, {"Train-0123456789abcdef": 1}, {"a/b-0": ""}])
def test_lists_of_another_form_are_refused(tmp_path, entries):
    made = listing(tmp_path, entries)
    with pytest.raises(BadRequest, match="nothing was taken"): unpack(made, Store(tmp_path / "here"))


def test_what_is_there_is_left_alone_and_what_is_damaged_there_is_replaced(entry, tmp_path):
    store, key, parcel = entry
    target = Store(tmp_path / "here")
    unpack(parcel, target)
    times = {p: p.stat().st_mtime_ns for p in target.folder(key).rglob("*")}
    assert unpack(parcel, target) == {key: KNOWN}
    assert {p: p.stat().st_mtime_ns for p in target.folder(key).rglob("*")} == times
    (target.folder(key) / "x.json").write_text("[]")
    assert unpack(parcel, target) == {key: TAKEN} and target.intact(key)


def test_a_fault_of_a_stage_keeps_its_traceback(project):
    notebook = "nbs/papers/coins/flips.ipynb"
    project.edit(notebook, "def build(self, folder):", "def build(self, folder):\\n        {}[7]")
    said = project("build", "coins/flips", *SMALL, code=1)
    assert "Traceback" in said and "KeyError: 7" in said


def test_tables_of_a_bare_machine_are_the_same_tables(bare, root, tmp_path):
    import pandas as pd
    from uncpaper.reproduce.store import read_value
    code = ("import sys, pandas as pd; from pathlib import Path; from uncpaper.reproduce.store import write_value\n"
            "write_value(Path(sys.argv[1]), 't', pd.DataFrame({'x': [1 / 3, None], 'name': ['a', 'ü'], 'n': [1, 2]}))")
    subprocess.run([bare, "-c", code, tmp_path], check=True, env={**os.environ, "PYTHONPATH": str(root)})
    there = read_value(tmp_path / "t.table")
    pd.testing.assert_frame_equal(there, pd.DataFrame({"x": [1 / 3, None], "name": ["a", "ü"], "n": [1, 2]}))
