"A key depends on what code does: not on where it stands, what it is called, or which Python reads it."
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = """
RATE = 0.5

def scaled(x, by=2):
    "x times a number."
    return x * by * RATE

def total(values, start=0.0):
    for value in values: start = start + scaled(value, by=3)
    return start
"""
STAGE = """
from dataclasses import dataclass
from typing import ClassVar
from helpers import total
from uncpaper.reproduce.stages import Stage

@dataclass(frozen=True)
class Options:
    rate: float = 0.1

@dataclass(frozen=True)
class Work(Stage):
    options: Options
    seed: int
    kind: ClassVar[str] = "Work"
    def build(self, folder):
        return {"total": total([self.seed, self.options.rate])}

stage = Work(Options(), 3)
"""


@pytest.fixture
def key_of(tmp_path, monkeypatch):
    "The key of `stage` in a module `work`, from the sources of some modules."
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    made = []

    def key(**sources: str) -> str:
        folder = tmp_path / f"sources{len(made)}"
        folder.mkdir()
        for name, source in sources.items(): (folder / f"{name}.py").write_text(source)
        made.append(folder)
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        try: return importlib.import_module("work").stage.key
        finally:
            sys.path.remove(str(folder))
            for name in sources: sys.modules.pop(name, None)
    return key


SAME = {
    "comment, docstring, layout": lambda h, w: (
        h.replace('"x times a number."', "# a remark").replace("0.5", " .5"), w),
    "a parameter, with the calls that name it": lambda h, w: (h.replace("by", "factor"), w),
    "local variables": lambda h, w: (h.replace("value in", "item in").replace("scaled(value", "scaled(item"), w),
    "a helper": lambda h, w: (h.replace("scaled", "multiplied"), w),
    "a constant": lambda h, w: (h.replace("RATE", "FACTOR"), w),
    "a class in a field": lambda h, w: (h, w.replace("Options", "Settings")),
    "the stage's class": lambda h, w: (h, w.replace("class Work", "class Job").replace("= Work(", "= Job(")),
    "annotations": lambda h, w: (h.replace("values, start", "values: list[float], start: float"), w),
    "an import's form": lambda h, w: (
        h, w.replace("from helpers import total", "import helpers").replace("total([", "helpers.total([")),
}


@pytest.mark.parametrize("what", SAME)
def test_other_names_and_another_layout_are_the_same_code(key_of, what):
    helpers, work = SAME[what](HELPERS, STAGE)
    assert (helpers, work) != (HELPERS, STAGE)
    assert key_of(helpers=helpers, work=work) == key_of(helpers=HELPERS, work=STAGE)


def test_code_may_move_and_modules_may_be_split(key_of):
    before = key_of(helpers=HELPERS, work=STAGE)
    first, second = HELPERS.split("def total")
    assert key_of(helpers="from scales import scaled\n\ndef total" + second, scales=first, work=STAGE) == before
    assert key_of(work=HELPERS + STAGE.replace("from helpers import total\n", "")) == before
    assert key_of(library=HELPERS, work=STAGE.replace("from helpers", "from library")) == before


def test_two_functions_that_do_the_same_may_become_one(key_of):
    twin = HELPERS + "\ndef doubled(x, by=2): return x * by * RATE\n"
    both = twin.replace("start + scaled(value, by=3)", "start + scaled(value, by=3) + doubled(value)")
    one = HELPERS.replace("start + scaled(value, by=3)", "start + scaled(value, by=3) + scaled(value)")
    assert key_of(helpers=both, work=STAGE) == key_of(helpers=one, work=STAGE)


OTHER = {
    "a constant": lambda h, w: (h.replace("RATE = 0.5", "RATE = 0.6"), w),
    "its type": lambda h, w: (h.replace("start=0.0", "start=0"), w),
    "a default": lambda h, w: (h.replace("by=2", "by=4"), w),
    "a called function": lambda h, w: (h.replace("x * by", "x + by"), w),
    "an argument": lambda h, w: (h.replace("by=3", "by=5"), w),
    "the order of parameters": lambda h, w: (
        h.replace("scaled(x, by=2)", "scaled(by=2, x=1)").replace("(value, by=3)", "(value, x=3)"), w),
    "a default in a field's class": lambda h, w: (h, w.replace("rate: float = 0.1", "rate: float = 0.2")),
    "a field's value": lambda h, w: (h, w.replace("Work(Options(), 3)", "Work(Options(), 4)")),
    "a library function": lambda h, w: (h.replace("for value in values", "for value in sorted(values)"), w),
    "the declared name": lambda h, w: (h, w.replace('"Work"', '"Job"')),
}


@pytest.mark.parametrize("what", OTHER)
def test_what_code_does_is_in_the_key(key_of, what):
    helpers, work = OTHER[what](HELPERS, STAGE)
    assert (helpers, work) != (HELPERS, STAGE)
    assert key_of(helpers=helpers, work=work) != key_of(helpers=HELPERS, work=STAGE)


def test_a_parameter_that_is_asked_for_by_name_keeps_its_name(key_of):
    passed = "import functools\n" + HELPERS.replace("scaled(value, by=3)", "functools.partial(scaled, by=3)(value)")
    swapped = passed.replace("scaled(x, by=2)", "scaled(by, x=2)")
    assert key_of(helpers=passed, work=STAGE) != key_of(helpers=swapped, work=STAGE)


def test_functions_in_a_circle(key_of):
    circle = HELPERS + "\ndef even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\n"
    work = STAGE.replace("import total", "import even, total").replace('{"total":', '{"even": even(4), "total":')
    before = key_of(helpers=circle, work=work)
    renamed = circle.replace("even", "straight").replace("odd", "uneven")
    caller = work.replace("import even", "import straight").replace("even(4)", "straight(4)")
    assert key_of(helpers=renamed, work=caller) == before
    assert key_of(helpers=circle.replace("n != 0 and", "n != 1 and"), work=work) != before


def interpreters() -> list[Path]:
    "Every Python 3.11 to 3.13 that is found: on the PATH, and beside each other in pyenv's folder."
    names = [f"python3.{minor}" for minor in (11, 12, 13)]
    found = [Path(p) for n in names if (p := shutil.which(n))]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found += [p for n in names for p in sorted(root.glob(f"versions/*/bin/{n}"))]
    return [p for p in dict.fromkeys(p.resolve() for p in found) if works(p)]


def works(python: Path) -> bool:
    "Whether a name on the PATH is an interpreter that starts (pyenv has names for those that are switched off)."
    return not subprocess.run([python, "-c", "pass"], capture_output=True).returncode


FORMS = """
import hashlib, importlib.util, json, sys
spec = importlib.util.spec_from_file_location("syntax", sys.argv[1])
syntax = importlib.util.module_from_spec(spec)
spec.loader.exec_module(syntax)
digest = lambda form: hashlib.sha256(repr((form.tokens, form.parameters, sorted(form.strings))).encode()).hexdigest()
asked = json.load(sys.stdin)
functions = [digest(syntax.function_form(source, line, name)) for source, line, name in asked["functions"]]
print(json.dumps(functions + [digest(syntax.script_form(cells)) for cells in asked["scripts"]]))
"""


@pytest.fixture(scope="module")
def planned_code():
    "The sources of every function and notebook that the key of any planned run depends on, and the keys."
    from uncpaper.reproduce import fingerprint
    from uncpaper.reproduce.experiments import experiments
    from uncpaper.reproduce.runs import run_of
    from uncpaper.reproduce.stages import in_order, one_look
    functions, scripts = set(), []
    original = fingerprint.function_form

    def seen(source, line, name):
        functions.add((source, line, name))
        return original(source, line, name)
    fingerprint.function_form = seen
    try:
        with one_look():
            runs = [run_of(e, profile) for e in experiments() for profile in e.profiles]
            keys = [s.key for s in in_order(runs)]
    finally: fingerprint.function_form = original
    for e in experiments(): scripts.append([c.source for c in e.code if "parameters" not in c.tags])
    return {"functions": sorted(functions), "scripts": scripts}, keys


def test_every_planned_run_has_the_same_key_under_every_python(root, planned_code):
    "What a key takes from the interpreter is the form of each definition and notebook; the rest is hashes of hashes."
    asked, keys = planned_code
    assert len(asked["functions"]) > 300 and len(keys) > 2000
    said = {}
    for python in {Path(sys.executable), *interpreters()}:
        words = [python, "-c", FORMS, root / "uncpaper/reproduce/syntax.py"]
        said[python] = subprocess.run(words, input=json.dumps(asked), capture_output=True, text=True, check=True).stdout
    assert len(set(said.values())) == 1, sorted(map(str, said))


def test_what_a_card_says_a_set_is_counts_and_what_people_call_it_does_not(monkeypatch):
    from dataclasses import replace

    from uncpaper import data
    from uncpaper.papers.biv import L2, Bike, Train
    before = Train(Bike(), L2(), None, 0, 10).key
    card = data.card("bike-sharing")
    monkeypatch.setitem(data.registry, "bike-sharing", replace(card, title="Bicycles"))
    assert Train(Bike(), L2(), None, 0, 10).key == before    # what people call it
    monkeypatch.setitem(data.registry, "bike-sharing", replace(card, peak=2.0))
    assert Train(Bike(), L2(), None, 0, 10).key != before    # what it is


KEYS = """
import json
from uncpaper.papers import biv, ddu, eiv
from uncpaper.papers.shared.denoising import TrainDenoiser
from uncpaper.reproduce.stages import code_behind, one_look
stages = [biv.Train, ddu.Train, ddu.Score, eiv.Zetas, eiv.TrainClassifier, eiv.Predict, TrainDenoiser]
with one_look(): print(json.dumps({cls.__qualname__ + cls.__module__: code_behind(cls) for cls in stages}))
"""


def test_a_notebook_finds_what_a_process_has_built():
    "Some libraries give a notebook something else under the same name: progress bars."
    import nbformat
    from nbclient import NotebookClient
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(KEYS)])
    NotebookClient(notebook, kernel_name="python3").execute()
    there = next(o.text for o in notebook.cells[0].outputs if o.get("name") == "stdout")
    here = subprocess.run([sys.executable, "-c", KEYS], capture_output=True, text=True, check=True).stdout
    assert json.loads(there) == json.loads(here)
