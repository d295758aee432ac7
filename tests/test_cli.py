"The command line: what it prints, and its exit codes 0, 1 and 2."
import json
import sys

import pytest
from conftest import make_project

from uncpaper.reproduce import cli


def test_list_explain_run_ledger(project):
    assert "coins/flips" in project("list")
    plan = project("explain", "coins/flips", "--profile", "laptop")
    assert "21 stages" in plan and plan.count(" no ") == 21
    said = project("run", "coins/flips", "-p", "seeds=2", "-p", "trials=10", "--cores", "1")
    assert "too few runs to tell" in said and "custom" in said
    plan = project("explain", "coins/flips", "-p", "seeds=2", "-p", "trials=10")
    assert plan.count(" yes ") == 5 and "about 0 s" in plan
    rows = json.loads(project("ledger", "--json"))
    fields = "paper experiment claim published ours standard_error verdict seeds profile stale"
    assert set(fields.split()) <= set(rows[0])
    assert rows[0]["verdict"] == "not run", "a run with parameters of its own does not speak for a profile"
    assert json.loads(project("ledger", "coins", "--verdict", "holds", "--json")) == []
    assert json.loads(project("ledger", "coins/flips", "--verdict", "not run", "--json")) == rows[:1]


def refusal(capsys, monkeypatch, words) -> str:
    "What the command says, in this process, when it ends with exit code 2."
    monkeypatch.setattr(sys, "argv", ["uncpaper", *words])
    with pytest.raises(SystemExit) as end: cli.main()
    assert end.value.code == 2
    return capsys.readouterr().err


def test_wrong_requests_are_one_line_with_exit_code_2(project, monkeypatch, capsys):
    monkeypatch.setenv("UNCPAPER_HOME", str(project.home))
    wrong = {
        ("run", "dice"): "no paper or experiment 'dice': there are coins; coins/flips",
        ("explain", "flip"): "no paper or experiment 'flip': did you mean coins/flips?",
        ("ledger", "coin"): "no paper or experiment 'coin': did you mean coins?",
        ("ledger", "--verdict", "true"): "verdict must be one of holds, fails, no difference that matters, ",
        ("ledger", "--profile", "huge"): "profile must be one of quick, laptop, paper; got 'huge'",
        ("run",): "say what to run: --all, or one of coins, coins/flips",
        ("run", "coins", "-p", "sides=6"): "parameter 'sides' is unknown: allowed are seeds, trials, flips",
        ("run", "coins", "-p", "seeds=many"): "parameter 'seeds' must be a int like 5, got 'many'",
        ("run", "coins", "-p", "flips=[1, a]"): "parameter 'flips' must be a list like [10, 1000], got [1, 'a']",
        ("run", "coins", "-p", "a b=1"): "parameter 'a b' is not a name",
        ("run", "coins", "-p", "seeds"): "parameter 'seeds' must read name=value",
        ("run", "coins", "-p", "seeds=010"): "parameter 'seeds' must be a int like 5, got '010'",
        ("run", "coins", "-p", "seeds=1:30"): "parameter 'seeds' must be a int like 5, got '1:30'",
        ("run", "coins", "-p", "seeds=1e1"): "parameter 'seeds' must be a int like 5, got 10.0",
        ("run", "coins", "-p", "flips=[1"): "'[1' cannot be read: ",
        ("run", "coins", "--profile", "huge"):
            "profile 'huge' is unknown for coins/flips: allowed are quick, laptop, paper",
        ("record", "coins", "--profile", "quick"):
            "coins/flips at quick is not finished: uncpaper run coins/flips --profile quick",
    }
    for words, message in wrong.items():
        error = refusal(capsys, monkeypatch, words)
        assert error.startswith(f"uncpaper: {message}") and error.count("\n") == 1, error
    assert project("run", "dice", code=2) == refusal(capsys, monkeypatch, ("run", "dice"))
    assert not project.stored()


def test_a_run_that_fails_has_exit_code_1_and_keeps_the_rest(project):
    project.edit("nbs/papers/coins/flips.ipynb", 'yscale=\\"log\\"', 'yscale=\\"no such scale\\"')
    project.start("run", "coins").communicate(timeout=300)
    assert len(project.stored("Flip")) == 10 and not project.stored("coins")
    process = project.start("run", "coins")
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1 and "no such scale" in error


def test_summary_is_short_and_says_where_to_read_on(project):
    said = project("summary")
    assert "Many flips" not in said and "not run" in said and "uncpaper ledger" in said and said.count("\n") < 20


def test_doctor(project):
    said = project("doctor")
    for word in ("torch", "device", "data: mnist", "quarto"): assert word in said


def test_a_project_may_lie_anywhere(tmp_path):
    project = make_project(tmp_path / "it's a \"place\" für $HOME & more")
    assert "holds" in project("run", "coins", "--cores", "1")


def test_temporary_files_may_lie_anywhere(project, monkeypatch):
    place = project.home / ("a long name " * 10)
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    assert "holds" in project("run", "coins", "--cores", "1")
    assert not list(place.glob("uncpaper-*"))
