"The flipbook: two faces of the same pictures, and what is refused."
import base64
import gzip
import json
from html.parser import HTMLParser
from itertools import product

import matplotlib.pyplot as plt
import pytest
from browser import find
from matplotlib.figure import Figure
from playwright.sync_api import sync_playwright

from uncpaper.widgets import Flipbook, data_uri

AXES = {"slope": [-1, 0.5, 1], "time": [0, 1], "<ink>": ["blue", 'a "red" & more']}


def line(slope: float, time: float, **words: str) -> Figure:
    figure, axes = plt.subplots(figsize=(2, 1.5))
    axes.plot([0, 1], [time, slope], color=words["<ink>"].split()[-1].replace("more", "red"))
    return figure


@pytest.fixture(scope="module")
def book() -> Flipbook:
    return Flipbook.draw(AXES, line, caption="Lines & more.", play="time")


class Face(HTMLParser):
    "What a reader of the HTML finds: tags with their attributes, and the pictures in it."
    def __init__(self, page: str):
        super().__init__()
        self.tags, self.packed = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes): self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][1].get("class") == "packed": self.packed += data.strip()

    def all(self, tag: str) -> list[dict]: return [a for t, a in self.tags if t == tag]

    @property
    def pictures(self) -> list[str]: return json.loads(gzip.decompress(base64.b64decode(self.packed)))


@pytest.mark.parametrize("format", ["svg", "png"])
def test_the_page_holds_every_picture_in_the_order_of_the_axes(format):
    book = Flipbook.draw(AXES, line, format=format)
    face = Face(book._repr_html_())
    assert face.pictures == [data_uri(book.pictures[c]) for c in product(*AXES.values())]
    assert len(set(face.pictures)) == 12
    assert face.all("img")[0]["src"] == face.pictures[0]
    assert plt.get_fignums() == []


def test_controls_are_labelled_and_words_are_escaped(book):
    face = Face(book._repr_html_())
    assert [a["name"] for a in face.all("input")] == ["slope", "time"]
    assert [a["name"] for a in face.all("select")] == ["<ink>"]
    assert len(face.all("label")) == 3 and len(face.all("option")) == 2
    assert json.loads(face.all("select")[0]["data-words"]) == AXES["<ink>"]
    assert face.all("img")[0]["alt"] == "Lines & more.; slope -1, time 0, <ink> blue"
    assert not any("id" in a for _, a in face.tags) # nothing that could clash with a second one


def test_nothing_is_loaded(book):
    tags = Face(book._repr_html_()).tags
    assert all(a[k].startswith("data:image/") for _, a in tags for k in ("src", "href") if k in a)
    assert not [t for t, _ in tags if t in ("link", "iframe", "object")]


def test_the_same_bytes_every_time(book):
    assert Flipbook.draw(AXES, line, caption="Lines & more.", play="time")._repr_html_() == book._repr_html_()


def test_the_live_face_follows_its_controls(book):
    bar, image, _ = book.live().children
    player, slope, time, ink = bar.children
    assert image.format == "svg+xml" and image.value == book.pictures[(-1, 0, "blue")]
    slope.value, ink.value = 0.5, AXES["<ink>"][1]
    assert image.value == book.pictures[(0.5, 0, AXES["<ink>"][1])]
    player.value = 1
    assert time.value == 1 and image.value == book.pictures[(0.5, 1, AXES["<ink>"][1])]


def test_two_live_faces_do_not_follow_each_other(book):
    first, second = book.live(), book.live()
    first.children[0].children[1].value = 1
    assert second.children[1].value == book.pictures[(-1, 0, "blue")]


def test_refusals(book):
    hole = {c: p for c, p in book.pictures.items() if c != (1, 0, "blue")}
    for wrong, said in [
        (lambda: Flipbook(book.axes, hole), "none for slope = 1, time = 0, <ink> = 'blue'"),
        (lambda: Flipbook(book.axes, {**book.pictures, (9,): b"<svg/>"}), r"\(9,\) is no combination"),
        (lambda: Flipbook({"n": [1]}, {(1,): b"GIF89a"}), "must be an SVG or a PNG file"),
        (lambda: Flipbook({}, {}), "axes must name at least one axis"),
        (lambda: Flipbook({"n": []}, {}), "axes: n must be a list of different values, at least one"),
        (lambda: Flipbook({"n": "abc"}, {}), "axes: n must be a list of different values"),
        (lambda: Flipbook.draw({"n": [1, 1]}, line), "axes: n must be a list of different values"),
        (lambda: Flipbook(book.axes, book.pictures, play="n"), "play must be one of"),
        (lambda: book.picture(slope=1, time=0), "choice must be one of the values of each of"),
        (lambda: Flipbook.draw(AXES, line, format="gif"), "format must be one of svg, png; got 'gif'"),
    ]:
        with pytest.raises(ValueError, match=said): wrong()
    plt.close("all")


@pytest.fixture
def page(book, tmp_path):
    "Two flipbooks on one page, in a browser without a network; whatever is asked for or complained about is noted."
    numbers = {"slope": [0, 1], "time": [0], "<ink>": ["blue"]}
    file = tmp_path / "page.html"
    second = Flipbook.draw(numbers, line, format="png")
    file.write_text("<!doctype html><meta charset='utf-8'>" + book._repr_html_() + second._repr_html_())
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=find(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(offline=True, viewport={"width": 390, "height": 800}).new_page()
        noted = []
        page.on("request", lambda r: noted.append(r.url) if r.url.startswith("http") else None)
        page.on("pageerror", lambda e: noted.append(str(e)))
        page.on("console", lambda m: noted.append(m.text))
        page.goto(file.as_uri())
        page.wait_for_selector(".flipbook:last-of-type .controls:visible")
        yield page
        assert not noted
        browser.close()


NONE = "NO BROWSER: the flipbook was not looked at (install chromium, or: playwright install chromium)"


@pytest.mark.browser
@pytest.mark.skipif(find() is None, reason=NONE)
def test_in_a_browser(page, book):
    first, second = page.locator(".flipbook").all()
    source = lambda f: f.locator("img").get_attribute("src")
    other = source(second)
    assert source(first) == data_uri(book.pictures[(-1, 0, "blue")])

    first.get_by_label("slope").focus()
    page.keyboard.press("ArrowRight")
    assert source(first) == data_uri(book.pictures[(0.5, 0, "blue")])
    assert first.locator("output").first.inner_text() == "0.5"
    assert first.locator("img").get_attribute("alt") == "Lines & more.; slope 0.5, time 0, <ink> blue"

    first.get_by_label("<ink>").select_option(label=AXES["<ink>"][1])
    first.get_by_role("button", name="Play").click()
    assert source(first) == data_uri(book.pictures[(0.5, 1, AXES["<ink>"][1])])
    assert first.get_by_role("button").inner_text() == "Play" # at the end it stops

    assert source(second) == other and second.get_by_role("button").count() == 0
    assert first.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
