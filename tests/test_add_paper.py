"A newcomer follows the page Add a paper, and nothing else."
import json


def test_the_papers_example_runs_and_stands_everywhere(project):
    assert "coins/flips" in project("list")
    before = json.loads(project("ledger", "--json"))
    assert [(r["claim"], r["verdict"]) for r in before] == [("many-flips-closer", "not run")]

    project("run", "coins", "--cores", "2")
    rows = {r["claim"]: r for r in json.loads(project("ledger", "--json"))}
    claim, value = rows["many-flips-closer"], rows["many-flips-distance"]
    assert (claim["verdict"], claim["seeds"], claim["profile"], claim["stale"]) == ("holds", 5, "quick", False)
    # E|mean - 1/2| of n flips is sqrt(1 / (2 pi n)) for large n
    assert abs(value["ours"] - (1 / (2 * 3.141592653589793 * 1000)) ** 0.5) < 4 * value["standard_error"]
    assert claim["low"] > 0 and 0 < claim["p"] < 0.025

    project("record", "coins", "--profile", "quick")
    recorded = json.loads((project.home / "results/quick/coins/flips/result.json").read_text())
    assert recorded["claims"][0]["verdict"] == "holds"

    project("site")
    page = (project.home / "_site/nbs/papers/coins/flips.html").read_text()
    assert 'class="verdict holds"' in page and "0.0126" in page and "flips-quick-main.svg" in page
    assert (project.home / "_site/nbs/papers/coins/flips-quick-main.svg").exists()


def test_a_claim_that_the_notebook_forgets_stops_the_run(project):
    another = "  - {id: heavier, experiment: flips, sentence: Coins are heavy., source: p. 2, measure: distance}\n"
    project.edit("nbs/papers/coins/published.yaml", "values:", f"{another}values:")
    process = project.start("run", "coins")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "claims that the notebook does not test: heavier" in err


def test_a_mistake_in_a_file_is_one_line_that_names_it(project):
    project.edit("nbs/papers/coins/profiles.yaml", "{seeds: 10}", "{sedes: 10}")
    unknown = "uncpaper: coins/profiles.yaml: flips: parameter 'sedes' is unknown: allowed are seeds, trials, flips\n"
    assert project("list", code=2) == unknown
    project.edit("nbs/papers/coins/profiles.yaml", "{sedes: 10}", "{seeds: ten}")
    assert "parameter 'seeds' must be a int like 5, got 'ten'" in project("list", code=2)
    project.edit("nbs/papers/coins/profiles.yaml", "laptop: {seeds: ten}", "desktop: {seeds: 10}")
    assert "coins/profiles.yaml: flips.desktop" in project("list", code=2)
    project.edit("nbs/papers/coins/profiles.yaml", "desktop:", "laptop:")
    project.edit("nbs/papers/coins/published.yaml", "experiment: flips\n", "experimnt: flips\n")
    assert "coins/published.yaml: claims.0" in project("list", code=2)
