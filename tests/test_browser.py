"The site in a real browser, from the folder it lies in, with the network off; and a viewer in JupyterLab."
import pytest
from browser import find
from lab import opened, server
from playwright.sync_api import sync_playwright

from uncpaper.reproduce.verdicts import VERDICTS

NONE = "NO BROWSER: the site was not looked at (install chromium, or: playwright install chromium)"
pytestmark = [pytest.mark.browser, pytest.mark.skipif(find() is None, reason=NONE)]


@pytest.fixture(scope="module")
def browser():
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags = ["--no-sandbox", "--disable-gpu", *quiet]
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=find(), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, root):
    "The front page, opened from the folder; what is asked of the network is refused and noted, as are scripts' errors."
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.asked, page.errors = [], []
    page.on("request", lambda r: page.asked.append(r.url) if r.url.startswith("http") else None)
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    page.goto((root / "_site/index.html").as_uri())
    page.wait_for_url("**/nbs/index.html")
    yield page
    assert not page.asked and not page.errors
    context.close()


def test_from_the_front_page_to_a_claim_to_its_figure(page):
    page.get_by_role("link", name="On bike rentals, BIV reaches a lower test error than the squared loss (L2).").click()
    page.wait_for_url("**/papers/biv/label-noise.html#claim-bike-biv-below-l2")
    claim = page.locator("#claim-bike-biv-below-l2")
    assert claim.locator(".verdict").first.inner_text() in VERDICTS
    claim.locator("summary").click()
    assert "95 % interval" in claim.inner_text()
    figure = page.locator("img[src$='laptop-main.svg']")
    figure.scroll_into_view_if_needed()
    width = figure.evaluate("image => image.complete ? image.naturalWidth : 0")
    assert width > 300
    fold = page.locator("details.provenance").first
    fold.locator("summary").click()
    assert "commit" in fold.inner_text() and "SHA-256" in fold.inner_text()


def test_the_ledger_is_filtered_and_sorted(page, root):
    page.get_by_role("link", name="The ledger").first.click()
    page.wait_for_url("**/nbs/ledger.html")
    claims = page.locator(".ledger section").first
    seen = lambda column: claims.locator(f"tbody tr:visible td:nth-child({column})").all_inner_texts()
    everything = len(seen(1))
    page.locator("select[name=verdict]").select_option("fails")
    assert 0 < len(seen(3)) < everything and all(text.startswith("fails") for text in seen(3))
    assert claims.locator("output").inner_text() == str(len(seen(3)))
    page.locator("select[name=verdict]").select_option("")
    page.locator("select[name=paper]").select_option("eiv")
    assert set(seen(1)) == {"eiv"}
    claims.get_by_role("button", name="difference").click()
    numbers = [float(text.split()[0]) for text in seen(4)]
    assert numbers == sorted(numbers)
    claims.get_by_role("button", name="difference").click()
    assert [float(text.split()[0]) for text in seen(4)] == sorted(numbers, reverse=True)
    page.goto((root / "_site/nbs/ledger.html").as_uri() + "?paper=ddu&verdict=fails")
    assert set(seen(1)) == {"ddu"} and all(text.startswith("fails") for text in seen(3))


def test_all_claims_as_one_picture_are_filtered_and_sorted(page):
    rows = page.locator(".forest tbody tr:visible")
    everything = rows.count()
    page.locator("select[name=verdict]").select_option("fails")
    verdicts = rows.locator("td:nth-child(3)").all_inner_texts()
    assert 0 < rows.count() < everything and all("fails" in verdict for verdict in verdicts)
    page.locator("select[name=verdict]").select_option("")
    page.get_by_role("button", name="against or for it").click()
    marks = rows.locator("circle").evaluate_all("marks => marks.map(mark => mark.getBoundingClientRect().x)")
    assert len(marks) > 100 and marks == sorted(marks)


DEFINED = {"expected_calibration_error": "14_metrics", "GaussianDiscriminant": "15_density"}


@pytest.mark.parametrize("asked, page_of", DEFINED.items())
def test_search_finds_definitions_first(page, asked, page_of):
    page.locator("input[type=search]:visible").first.fill(asked)
    page.wait_for_selector(".search-result:visible")
    assert page_of in page.locator(".search-result:visible").first.get_attribute("href")


def test_past_the_menus_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip-link"
    window = page.locator(".window")
    assert window.evaluate("part => part.tabIndex") == 0


def test_mathematics_is_set(page, root):
    page.goto((root / "_site/nbs/papers/biv/index.html").as_uri())
    page.wait_for_selector("mjx-container svg")
    assert "\\frac" not in page.locator("main").inner_text()


def test_search(page):
    box = page.locator("input[type=search]:visible").first
    box.fill("effective batch size")
    page.wait_for_selector(".search-result:visible")
    page.locator(".search-result:visible").first.click()
    page.wait_for_load_state()
    assert "effective batch size" in page.locator("main").inner_text().lower()


LUMINANCE = """rgb => rgb.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0)"""
CONTRAST = f"""(element, behind) => {{
    const luminance = {LUMINANCE}
    const seen = [getComputedStyle(element).color, getComputedStyle(document.querySelector(behind)).backgroundColor]
    const [low, high] = seen.map(luminance).sort((a, b) => a - b)
    return (high + 0.05) / (low + 0.05)
}}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_sidebar_and_the_search_box_can_be_read(browser, root, scheme):
    page = browser.new_context(offline=True, viewport={"width": 1300, "height": 900}, color_scheme=scheme).new_page()
    page.goto((root / "_site/nbs/verdicts.html").as_uri())
    behind = {"#quarto-sidebar a.sidebar-link": "#quarto-sidebar", "#quarto-sidebar a.active": "#quarto-sidebar",
              "#TOC a.active": "body", "#quarto-search i": "#quarto-search input"}
    page.locator("#TOC a.active").wait_for()
    for name, ground in behind.items():
        assert page.locator(name).first.evaluate(CONTRAST, ground) >= 4.5, (name, scheme)
    page.context.close()


def test_dark_and_narrow(page):
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 800})
    page.reload()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")


SEEN = """image => {
    const canvas = document.createElement("canvas")
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight
    canvas.getContext("2d").drawImage(image, 0, 0)
    return canvas.toDataURL()
}"""


def test_a_viewer_of_rollouts_in_jupyterlab(browser, root, tmp_path):
    "The live face: drag, play, choose; and the page's face below it."
    imports = "from ensemble import rollouts\nfrom uncpaper.widgets import RolloutViewer"
    cells = [f"{imports}\nviewer = RolloutViewer(rollouts())", "viewer.live()", "viewer"]
    with server(tmp_path, [root, root / "tests"]) as address:
        page = opened(browser, address, tmp_path, cells)
        face = page.locator(".widget-vbox.rollouts")
        picture, title = face.locator("img"), face.locator(".title")
        face.get_by_text("all 9 frames are there").wait_for(timeout=60000)
        ends = picture.evaluate(SEEN)

        slider = face.locator(".widget-slider", has_text="step")
        handle = slider.locator(".noUi-handle")
        box, track = handle.bounding_box(), slider.locator(".noUi-base").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(track["x"], box["y"] + box["height"] / 2, steps=5)
        page.mouse.up()
        title.get_by_text("step 0 of 8").wait_for()
        face.get_by_text("one chain, shared by all 3 members").wait_for()
        start = picture.evaluate(SEEN)
        assert start != ends

        face.locator(".jupyter-widget-play button, .widget-play button").first.click()
        title.get_by_text("step 8 of 8").wait_for(timeout=20000)
        assert picture.evaluate(SEEN) == ends

        face.locator("select").select_option("b")
        face.get_by_text("all 9 frames are there").wait_for()
        shown = "document.querySelector('.widget-vbox.rollouts img')"
        page.wait_for_function(f"was => ({SEEN})({shown}) != was", arg=ends)
        face.get_by_role("button", name="per-pixel uncertainty").click()
        face.locator(".legend").get_by_text("per-pixel uncertainty").wait_for()

        still = page.locator("figure.rollouts")
        still.locator(".face").wait_for()
        still.locator(".frame").fill("3")
        assert "step 3 of 8" in still.locator(".title").inner_text()
        assert not page.wrong
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_viewers_own_page(browser, root, scheme):
    "In the site's frame, with its style sheets."
    page = browser.new_context(offline=True, viewport={"width": 390, "height": 900}, color_scheme=scheme).new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((root / "_site/nbs/library/20h_viewer.html").as_uri())
    viewer = page.locator("figure.rollouts")
    viewer.locator(".face").wait_for()
    viewer.locator(".frame").focus()
    page.keyboard.press("Home")
    assert "one chain, shared by all 5 members" in viewer.inner_text()
    page.keyboard.press(" ")
    viewer.get_by_text("step 12 of 12").wait_for()
    assert "5 members, each on a way of its own" in viewer.inner_text()
    assert viewer.locator("svg").evaluate("svg => getComputedStyle(svg).backgroundColor") == "rgba(0, 0, 0, 0)"
    for part in (".title", ".plot .x >> nth=0", ".note"): assert viewer.locator(part).evaluate(CONTRAST, "body") >= 4.5
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    assert not wrong
    page.context.close()
