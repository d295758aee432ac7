"The website as it lies in _site: whole, linked, and independent of the network."
import html
import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from uncpaper.reproduce.experiments import experiments, papers, published
from uncpaper.reproduce.reports import Result
from uncpaper.reproduce.ledger import best, evidence, rows


class Page(HTMLParser):
    "Links, ids and loaded resources of a page."
    def __init__(self, text: str):
        super().__init__()
        self.links, self.ids, self.loads = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        self.ids |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag in ("img", "script", "iframe", "source") and a.get("src"): self.loads.append(a["src"])
        if tag == "link" and a.get("href") and a.get("rel") not in ("canonical",): self.loads.append(a["href"])


@pytest.fixture(scope="module")
def site(root) -> Path:
    assert (root / "_site/index.html").exists(), "no site: make docs"
    return root / "_site"


@cache
def parsed(path: Path) -> Page:
    return Page(path.read_text())


def test_every_link_leads_somewhere(site):
    broken = []
    for page in site.rglob("*.html"):
        for link in parsed(page).links + parsed(page).loads:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("#") and len(link) == 1: continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir(): target = target / "index.html"
            if not target.exists(): broken.append((str(page.relative_to(site)), link))
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in parsed(target).ids:
                broken.append((str(page.relative_to(site)), link))
    assert not broken


def test_nothing_is_loaded_from_the_network(site):
    loads = [(page.name, load) for page in site.rglob("*.html") for load in parsed(page).loads]
    assert not [(page, load) for page, load in loads if re.match("(https?:)?//", load)]
    elsewhere = r"url\(['\"]?https?:|@import ['\"]?(url\()?['\"]?https?:"
    for sheet in site.rglob("*.css"): assert not re.search(elsewhere, sheet.read_text()), sheet


def test_every_notebook_has_a_page_and_no_page_failed(root, site):
    for notebook in (root / "nbs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in notebook.parts: continue
        page = site / notebook.relative_to(root).with_suffix(".html")
        assert page.exists(), notebook
        assert "Traceback (most recent call last)" not in page.read_text(), notebook
        assert not re.search(r'class="co">#\| *(export|default_exp|hide)\b', page.read_text()), notebook


def test_an_experiments_page_has_verdicts_figures_numbers_and_provenance(site):
    for e in experiments():
        text = (site / "nbs/papers" / f"{e.name}.html").read_text()
        found = evidence(e)
        assert {x.profile for x in found} >= {"quick", "laptop"}, e.name
        for claim in e.claims: assert f'id="claim-{claim.id}"' in text, claim.id
        for x in found:
            assert x.manifest["key"] in text and "SHA-256 of the data" in text
            for figure in x.result.figures: assert f"{e.path.stem}-{x.profile}-{figure}.svg" in text
        for value in found[-1].result.values: assert value.source.split(",")[0] in text


def test_the_ledgers_page_has_every_row_and_each_claims_best_evidence_without_scripts(site):
    text = html.unescape((site / "nbs/ledger.html").read_text())
    lines = re.findall(r"<tr data-.*?</tr>", text)
    assert len(lines) == len(rows())
    seen = [line for line in lines if not re.match(r"<tr [^>]*hidden", line)]
    assert len(seen) == len(best(rows())) + len(best(rows(), "value"))
    for row in best(rows()):
        card = f"{row.experiment}.html#claim-{row.claim}"
        assert any(row.sentence in line and card in line for line in seen), row.claim


def test_the_front_page_has_few_telling_claims_and_failures_among_them(site):
    text = html.unescape((site / "nbs/index.html").read_text())
    telling = {p: [c.id for c in published(p).claims if c.telling] for p in papers()}
    assert all(1 <= len(ids) <= 2 for ids in telling.values())
    shown = [r for r in best(rows()) if r.claim in telling[r.paper]]
    assert {"holds", "fails"} <= {r.verdict for r in shown}
    for row in shown: assert row.sentence in text and f"{row.experiment}.html#claim-{row.claim}" in text
    assert "ledger.html" in text and text.count('class="verdict') == len(shown)


def test_the_front_page_plays_a_recorded_rollout(site, root):
    text = (site / "nbs/index.html").read_text()
    cells = json.loads((root / "results/laptop/decu/rollouts/notebook.ipynb").read_text())["cells"]
    pages = ["".join(o["data"].get("text/html", "")) for c in cells for o in c.get("outputs", []) if "data" in o]
    viewer = next(page for page in pages if 'class="rollouts"' in page)
    assert re.search(r'class="rollouts".*', viewer)[0] in text and len(viewer) < 1_500_000
    assert 'class="rollouts"' not in (root / "README.md").read_text()


def test_the_front_page_says_truly_which_papers_stand(root):
    text = (root / "README.md").read_text()
    for paper in papers(): assert f"nbs/papers/{paper}/index.ipynb" in text
    stand = re.split(r", | and ", re.search(r"Five papers stand: (.*?)\.", text)[1])
    assert {published(p).paper.short for p in papers()} == set(stand) and len(stand) == 5
    assert ("Nothing has been run at the published size" in text) == all(r.profile != "paper" for r in rows())


def test_the_commands_stand_at_the_top_of_the_readme_and_its_tables_are_whole(root):
    lines = (root / "README.md").read_text().splitlines()
    assert {"make reproduce", "make test"} <= {line.partition("#")[0].strip() for line in lines[:30]}
    tables = "\n".join(line if line.startswith("|") else "" for line in lines)
    for table in re.split(r"\n\n+", tables.strip()):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_results_and_their_schema_are_on_the_site(site):
    assert json.loads((site / "nbs/reproduce/result.schema.json").read_text()) == Result.model_json_schema()
    for file in (site / "nbs/papers").rglob("*-quick.json"): Result.model_validate_json(file.read_text())


def test_search_finds_the_papers_words(site):
    index = json.loads((site / "search.json").read_text())
    assert any("heteroscedastic" in entry["text"].lower() for entry in index)
    assert (site / "site_libs/mathjax.js").stat().st_size > 1e6
