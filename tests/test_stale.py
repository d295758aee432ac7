"What a change makes run again, and what not: exactly what depends on it."
import shutil

import pytest
from conftest import Project, make_project


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "The page's example, run once."
    project = make_project(tmp_path_factory.mktemp("finished"))
    project("run", "coins", "-p", "seeds=2", "-p", "trials=20")
    return project


@pytest.fixture
def done(finished, tmp_path):
    "A copy of it, with the times of its files."
    shutil.copytree(finished.home, tmp_path / "copy")
    return Project(tmp_path / "copy")


def rerun(project, *settings: str) -> set[str]:
    "The kinds of entries that another run makes or makes anew."
    before = project.stored()
    project("run", "coins", "-p", "seeds=2", "-p", "trials=20", *settings)
    after = project.stored()
    assert set(before) <= set(after), "something finished was lost"
    return {key for key, time in after.items() if before.get(key) != time}


def kinds(keys: set[str]) -> dict[str, int]:
    names = [k.rsplit("-", 1)[0].split(".")[0] for k in keys]
    return {n: names.count(n) for n in set(names)}


def test_nothing_changed_nothing_runs(done):
    assert rerun(done) == set()


def test_comment_docstring_and_layout_run_nothing(done):
    notebook = "nbs/papers/coins/flips.ipynb"
    done.edit(notebook, "    def build(self, folder):\\n",
              "    def build(self, folder):  # remark\\n        'Flip the coins.'\\n\\n")
    done.edit(notebook, "study.plan({(n, seed):", "# the plan\\nstudy.plan({(n,   seed):")
    assert rerun(done) == set()


def test_parameter_and_seed(done):
    assert kinds(rerun(done, "-p", "flips=[10, 500, 1000]")) == {"Flip": 2, "coins": 1}
    assert kinds(rerun(done, "-p", "seeds=3")) == {"Flip": 2, "coins": 1}


def test_function_that_the_stage_calls(done):
    notebook = "nbs/papers/coins/flips.ipynb"
    done.edit(notebook, "< 0.5", "<= 0.5")
    assert kinds(rerun(done)) == {"Flip": 4, "coins": 1}


def test_cell_after_the_plan_runs_only_the_notebook(done):
    done.edit("nbs/papers/coins/flips.ipynb", 'yscale=\\"log\\"', 'yscale=\\"linear\\"')
    assert kinds(rerun(done)) == {"coins": 1}


def test_byte_of_a_stored_result(done):
    key = next(k for k in done.stored("Flip"))
    file = done.home / "runs/store" / key / "distance.json"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert rerun(done) == {key}
    assert file.read_bytes() == content


def test_byte_of_a_report(done):
    key = next(k for k in done.stored("coins"))
    file = done.home / "runs/store" / key / "main.svg"
    file.write_bytes(file.read_bytes() + b"\n")
    assert rerun(done) == {key}


def test_downstream_runs_again_only_if_the_result_came_out_differently(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    from chain import Double, Source
    from uncpaper.reproduce.stages import default_store
    double = Double(Source(3))
    assert double.result() == {"value": 6.0}
    store, made = default_store(), default_store().manifest(double.key)["upstream"]
    (store.folder(double.of.key) / "value.json").write_text("4.0")
    double.of.ensure()
    assert double.done() and default_store().manifest(double.key)["upstream"] == made

    with store.writing(double.of.key) as (folder, manifest):   # as if another machine had rounded differently
        (folder / "value.json").write_text("5.0")
        manifest |= {"upstream": {}}
    assert not double.done()
    assert double.result() == {"value": 10.0}


def test_function_in_another_module_and_only_its_callers(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    import chain
    keys = lambda: (chain.Source(3).key, chain.Double(chain.Source(3)).key, chain.Other().key)
    source, double, other = keys()
    monkeypatch.setattr(chain, "twice", chain.thrice)
    assert keys()[0] == source and keys()[1] != double and keys()[2] == other
    monkeypatch.setattr(chain, "OFFSET", 1.0)
    assert keys()[0] != source and keys()[2] == other


@pytest.fixture
def wine(tmp_path, monkeypatch, root):
    "A copy of the data folder with one set, as UNCPAPER_DATA."
    shutil.copytree(root / "data/wine-red", tmp_path / "data/wine-red")
    monkeypatch.setenv("UNCPAPER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    return tmp_path / "data/wine-red"


def test_byte_of_the_data(wine):
    from uncpaper import data
    from uncpaper.papers.biv import L2, Bike, RedWine, Train
    keys = lambda: (Train(RedWine(), L2(), None, 0, 10).key, Train(Bike(), L2(), None, 0, 10).key)
    before = keys()
    file = next(p for p in wine.iterdir() if p.suffix in {".csv", ".gz"})
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    after = keys()
    assert after[0] != before[0] and after[1] == before[1]
    with pytest.raises(data.DataCorrupt, match=file.name): Train(RedWine(), L2(), None, 0, 10).result()
    file.write_bytes(content)
    assert keys() == before


def test_reader_of_one_data_set(wine, monkeypatch):
    from uncpaper.data import tabular
    from uncpaper.papers.biv import L2, Bike, RedWine, Train
    keys = lambda: (Train(RedWine(), L2(), None, 0, 10).key, Train(Bike(), L2(), None, 0, 10).key)
    before = keys()
    reader = tabular.wine_table
    monkeypatch.setattr(tabular, "wine_table", lambda *a, **k: reader(*a, **k))
    after = keys()
    assert after[0] != before[0] and after[1] == before[1]
