"What is exported says what it is: a docstring, types, shapes of tensors, a lesson on its page; and lines that fit."
import ast
import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(p for p in (ROOT / "uncpaper").rglob("*.py") if p.name != "_modidx.py" and p.stat().st_size > 30)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
WIDTH = 120


def exported(tree: ast.Module) -> set[str]:
    names = [s.value for s in tree.body if isinstance(s, ast.Assign) and getattr(s.targets[0], "id", "") == "__all__"]
    return {e.value for n in names for e in n.elts}


def public(tree: ast.Module) -> list[tuple[str, ast.AST, ast.ClassDef | None]]:
    "Exported functions and classes, and the public methods of these: dotted name, node, the class of a method."
    found = []
    for node in tree.body:
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)) or node.name not in exported(tree): continue
        found.append((node.name, node, None))
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, FUNCTIONS) and (not inner.name.startswith("_") or inner.name == "__init__"):
                found.append((f"{node.name}.{inner.name}", inner, node))
    return found


def documented(trees: dict[Path, ast.Module]) -> set[tuple[str, str]]:
    "Methods with a docstring: class and name."
    classes = [n for t in trees.values() for n in ast.walk(t) if isinstance(n, ast.ClassDef)]
    return {(c.name, f.name) for c in classes for f in c.body if isinstance(f, FUNCTIONS) and ast.get_docstring(f)}


def ancestors(cls: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> set[str]:
    names = {getattr(b, "id", getattr(b, "attr", "")) for b in cls.bases}
    return names.union(*(ancestors(classes[n], classes) for n in names if n in classes and classes[n] is not cls))


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {p: ast.parse(p.read_text()) for p in MODULES}


def test_every_exported_function_class_and_public_method_has_a_docstring(trees):
    "A method may leave it to a base class of ours, or to torch's for `forward`."
    told = documented(trees)
    classes = {n.name: n for t in trees.values() for n in ast.walk(t) if isinstance(n, ast.ClassDef)}
    missing = []
    for path, tree in trees.items():
        for name, node, cls in public(tree):
            if ast.get_docstring(node) or name.endswith(".__init__"): continue
            inherited = cls and {(a, node.name) for a in ancestors(cls, classes)} & told
            if not inherited: missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert not missing, f"{len(missing)} without a docstring:\n" + "\n".join(missing)


def arguments_of(node: ast.AST) -> list[ast.arg]:
    found = (*node.args.posonlyargs, *node.args.args, node.args.vararg, *node.args.kwonlyargs)
    return [x for x in found if x is not None and x.arg not in ("self", "cls")]


def test_every_argument_has_a_type(trees):
    functions = [(f"{path.relative_to(ROOT)}: {name}", node) for path, tree in trees.items()
                 for name, node, _ in public(tree) if isinstance(node, FUNCTIONS)]
    missing = [f"{where}({x.arg})" for where, node in functions for x in arguments_of(node) if x.annotation is None]
    missing += [f"{where} -> ?" for where, node in functions if node.returns is None and node.name != "__init__"]
    assert not missing, f"{len(missing)} without a type:\n" + "\n".join(missing)


def is_tensor(annotation: ast.expr | None) -> bool:
    return annotation is not None and ast.unparse(annotation) in {"Tensor", "torch.Tensor", "Tensor | None"}


SHAPE = re.compile(r"#.*(\(|scalar|shape|like |as |broadcast)")


def test_every_tensor_has_its_shape_beside_it(trees):
    missing = []
    for path, tree in trees.items():
        lines = path.read_text().splitlines()
        def told(line: int) -> bool: return bool(SHAPE.search(lines[line - 1]))
        for name, node, _ in public(tree):
            where = f"{path.relative_to(ROOT)}: {name}"
            if isinstance(node, ast.ClassDef):
                fields = [s for s in node.body if isinstance(s, ast.AnnAssign) and is_tensor(s.annotation)]
                missing += [f"{where}.{f.target.id}" for f in fields if not told(f.lineno)]
            else:
                tensors = [x for x in arguments_of(node) if is_tensor(x.annotation)]
                missing += [f"{where}({x.arg})" for x in tensors if not told(x.lineno)]
                if is_tensor(node.returns) and not told(node.returns.lineno): missing.append(f"{where} ->")
    assert not missing, f"{len(missing)} tensors without a shape:\n" + "\n".join(missing)


def notebooks() -> list[Path]:
    return sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def code_cells(path: Path) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def is_export(source: str) -> bool:
    return bool(re.match(r"#\|\s*export", source))


def test_every_exported_name_has_a_lesson_on_its_page():
    missing = []
    for path in notebooks():
        cells = code_cells(path)
        lessons = set(re.findall(r"\w+", "\n".join(c for c in cells if not is_export(c))))
        for source in filter(is_export, cells):
            names = [s.name for s in ast.parse(source).body if isinstance(s, (*FUNCTIONS, ast.ClassDef))]
            missing += [f"{path.relative_to(ROOT)}: {n}" for n in names if not n.startswith("_") and n not in lessons]
    assert not missing, f"{len(missing)} without a lesson:\n" + "\n".join(missing)


def test_a_concept_a_cell():
    sizes = sorted(len(c.splitlines()) for p in notebooks() for c in code_cells(p) if is_export(c))
    median, most = statistics.median(sizes), sizes[len(sizes) * 9 // 10]
    assert median <= 14 and most <= 32, f"lines of an export cell: median {median}, 90 % have at most {most}"


def test_lines_fit():
    lines = [(p, line) for p in notebooks() for c in code_cells(p) for line in c.splitlines()]
    wide = [f"{p.relative_to(ROOT)}: {line.strip()[:60]}…" for p, line in lines if len(line) > WIDTH]
    files = [*(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "nbs").rglob("*.yaml"),
             *(ROOT / "data").glob("*.py"), ROOT / "Snakefile", ROOT / "setup.py"]
    numbered = [(p, i, line) for p in files for i, line in enumerate(p.read_text().splitlines(), 1)]
    wide += [f"{p.relative_to(ROOT)}:{i}" for p, i, line in numbered if len(line) > WIDTH]
    assert not wide, f"{len(wide)} lines of more than {WIDTH} characters:\n" + "\n".join(wide)
