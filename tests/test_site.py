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
        self.links, self.ids, self.loads, self.names, self.mute = [], set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if a.get("id"): self.names.append(a["id"])
        if tag == "img" and not a.get("alt"): self.mute.append(a.get("src", "")[:80])
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
    elsewhere = r"url\(['\"]?https?:|@import\s*['\"]?(url\()?['\"]?https?:"
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


def test_the_front_page_has_every_claim_as_one_picture(site):
    text = html.unescape((site / "nbs/index.html").read_text())
    for row in best(rows()): assert row.sentence in text and f"{row.experiment}.html#claim-{row.claim}" in text
    drawn = sum(r.low is not None and bool(r.matters) for r in best(rows()))
    assert text.count('<svg class="forest-line') == drawn > 0 and text.count("<tr data-") == len(best(rows()))


def test_the_readme_has_few_telling_claims_and_failures_among_them(root):
    text = (root / "README.md").read_text()
    telling = {p: [c.id for c in published(p).claims if c.telling] for p in papers()}
    assert all(1 <= len(ids) <= 2 for ids in telling.values())
    shown = [r for r in best(rows()) if r.claim in telling[r.paper]]
    assert {"holds", "fails"} <= {r.verdict for r in shown}
    for row in shown: assert row.sentence.replace("|", "\\|") in text
    assert "ledger.ipynb" in text and "forest" not in text


def test_an_experiments_page_opens_with_its_figure_and_shows_it_once(site):
    for e in experiments():
        text = (site / "nbs/papers" / f"{e.name}.html").read_text()
        first = evidence(e)[-1]
        figure = f'src="{e.path.stem}-{first.profile}-{next(iter(first.result.figures))}.svg"'
        assert text.count(figure) == 1 and text.index(figure) < text.index("Provenance"), e.name
        assert text.index("Provenance") < text.index('id="the-notebook"')
        if e.claims:
            assert text.index(figure) < text.index('id="the-claims"') < text.index('<svg class="forest-line'), e.name
            assert text.index('<svg class="forest-line') < text.index("Provenance"), e.name
        notebook = re.sub("<script.*?</script>", "", text[text.index('id="the-notebook"'):], flags=re.S)
        assert '<svg role="img"' not in notebook and '<img alt="" src="data:' not in notebook


def test_every_picture_says_what_it_shows_and_every_id_is_one_things(site):
    mute = {str(p.relative_to(site)): parsed(p).mute for p in site.rglob("*.html") if parsed(p).mute}
    twice = {str(p.relative_to(site)): sorted({n for n in parsed(p).names if parsed(p).names.count(n) > 1})
             for p in site.rglob("*.html") if len(set(parsed(p).names)) < len(parsed(p).names)}
    assert (mute, twice) == ({}, {})


def test_every_page_can_be_walked_and_leads_onwards_and_is_light(root, site):
    for notebook in (root / "nbs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in notebook.parts: continue
        page = site / notebook.relative_to(root).with_suffix(".html")
        text = page.read_text()
        assert 'class="skip-link"' in text and 'id="quarto-document-content"' in text and 'rel="icon"' in text, page
        assert f"notebooks/{notebook.relative_to(root)}" in text, page
        assert (site / "notebooks" / notebook.relative_to(root)).read_bytes() == notebook.read_bytes()
        assert len(text.encode()) < 3_000_000, page
        if "<blockquote" in text: assert '<meta name="description"' in text, page


def test_pages_of_a_paper_stand_in_the_order_of_its_figures(site):
    for paper in papers():
        text = (site / f"nbs/papers/{paper}/index.html").read_text()
        bar = text[text.index('id="quarto-sidebar"'):text.index("<main")]
        places = [bar.index(f'href="{e.path.stem}.html"') for e in experiments(paper)]
        assert places == sorted(places), paper


def test_every_figure_can_be_taken_away(site):
    text, gallery = ((site / f"nbs/{name}.html").read_text() for name in ("figures", "gallery"))
    for e in experiments():
        for figure in evidence(e)[-1].result.figures:
            file = f"papers/{e.name}-{evidence(e)[-1].profile}-{figure}"
            assert f'src="{file}.svg"' in gallery
            for kind in ("svg", "png", "pdf"):
                assert f'{file}.{kind}"' in text and (site / f"nbs/{file}.{kind}").exists()


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
