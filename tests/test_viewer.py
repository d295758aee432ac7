"The viewer of rollouts: what its page holds and shows, what its live face computes and when, and what is refused."
import base64
import gzip
import io
import json
import math
import re
from functools import partial
from threading import Event
from urllib.request import urlopen

import ensemble
import numpy as np
import pytest
import torch
from browser import find
from ensemble import AXES, MEMBERS, SIZE, TIMES, frames, rollouts
from PIL import Image
from playwright.sync_api import sync_playwright

from uncpaper.data import load
from uncpaper.diffusion import DDIM, Frame, Guided, MixtureDenoiser, branch
from uncpaper.pictures import signed
from uncpaper.widgets import Rollouts, RolloutViewer
from uncpaper.widgets.drawing import CIVIDIS, picture_pixels
from uncpaper.widgets.live import LiveFace, row_of
from uncpaper.widgets.packing import STEPS, Tree, coded, to_levels


@pytest.fixture(scope="module")
def viewer() -> RolloutViewer:
    return RolloutViewer(rollouts(pixels="spread <of> pixels"), caption="Three & more.")


@pytest.fixture(scope="module")
def html(viewer) -> str:
    return viewer._repr_html_()


class Held:
    "What a page holds, unpacked by what the format says, pixel by pixel in plain Python."
    def __init__(self, page: str):
        packed = re.search(r'class="packed">([^<]+)<', page)[1]
        line, _, data = gzip.decompress(base64.b64decode(packed)).partition(b"\n")
        self.told = json.loads(line)
        _, channels, height, width = self.told["size"]
        self.shape, nodes, kept = (channels, height, width), len(self.told["parents"]), np.frombuffer(data, np.int8)
        differing = kept[: 2 * nodes * math.prod(self.shape)].reshape(2, nodes, -1).astype(int)
        self.means, self.states = {-1: np.zeros(1, int)}, {-1: np.zeros(1, int)}
        for n, (parent, group) in enumerate(zip(self.told["parents"], self.told["groups"])):
            a, b, c, d, e = self.told["weights"][group]
            mean, state = self.means[parent], self.states[parent]
            m = self.rebuilt(a * mean + b * state, differing[0, n], self.told["steps"][0])
            s = self.rebuilt(c * mean + d * state + e * m, differing[1, n], self.told["steps"][1])
            self.means[n], self.states[n] = m, s
        maps = kept[differing.size :].reshape(len(self.told["ways"]), len(self.told["ways"][0]), height, width)
        self.maps = np.cumsum(maps.astype(int) * self.told["steps"][2], axis=1) - 128

    @staticmethod
    def rebuilt(weighted: np.ndarray, differing: np.ndarray, step: int) -> np.ndarray:
        return np.clip(np.floor(weighted / 1024 + 0.5).astype(int) + step * differing, -128, 127)

    def pictures(self, choice: int, place: int, levels: dict) -> np.ndarray:
        "(member, channel, height, width), in 1/64."
        return np.stack([levels[n].reshape(self.shape) for n in self.told["ways"][choice][place]])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_page_holds_every_frame_of_every_choice_to_half_a_step(channels):
    viewer = RolloutViewer(rollouts(partial(frames, channels=channels)))
    held = Held(viewer._repr_html_())
    highest = max(f.pixels.max().item() for choice in viewer.frames for f in choice)
    for choice, (values, of) in enumerate(zip(viewer.rollouts.choices(), viewer.frames)):
        expected = list(frames(*values, channels=channels))
        assert len(of) == len(TIMES)
        for place, frame in enumerate(expected):
            for name, levels in (("mean", held.means), ("state", held.states)):
                away = held.pictures(choice, place, levels) - to_levels(getattr(frame, name)).astype(int)
                assert away.shape[0] == (1 if frame.t > values[1] else MEMBERS)
                assert np.abs(away).max() <= STEPS[name] / 2
            away = (held.maps[choice, place] + 128) / 255 * highest - frame.pixels.numpy()
            assert np.abs(away).max() <= (held.told["steps"][2] / 2 + 0.5) / 255 * highest + 1e-9


def test_a_shared_chain_is_kept_once(viewer):
    tree = Tree.empty()
    late, early = (tree.chain(frames("b", at)) for at in AXES["branch_at"])
    assert [len(nodes) for nodes in late] == [1] * 4 + [MEMBERS] * 5
    assert len({n for nodes in late for n in nodes}) == 4 + 5 * MEMBERS
    assert late[:4] == [[nodes[0]] for nodes in early[:4]] # member 0 led while they shared a chain
    assert all(nodes[0] == others[0] for nodes, others in zip(late, early))
    assert len(tree.parents) == 9 * MEMBERS + 5 * (MEMBERS - 1)


def test_a_flow_is_predicted_from_the_step_before_and_noise_is_not():
    def zeros(eta: float) -> float:
        denoiser, tree = MixtureDenoiser(ensemble.SCHEDULE, torch.ones(1, 400) * 0.5, var=0.1), Tree.empty()
        start = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
        states = branch(denoiser, denoiser, start, DDIM(12).times(denoiser.schedule, 999), 999, 1, DDIM(12, eta), [0])
        tree.chain(Frame(s.t, s.x.view(1, 1, 20, 20), s.mean.view(1, 1, 20, 20), 0.0, torch.zeros(20, 20))
                   for s in states)
        return (coded(tree).kept[1, 1:-1] == 0).mean()
    assert zeros(0.0) > 0.85 > 0.5 > zeros(1.0)


def test_the_same_bytes_every_time_and_nothing_is_loaded(viewer, html):
    assert RolloutViewer(rollouts(pixels="spread <of> pixels"), viewer.caption)._repr_html_() == html
    assert re.findall(r'(?:src|href)="(?!data:image/png)', html) == [] and "http" not in html
    assert ' id="' not in html # nothing that could clash with a second one
    assert html.count("<style>") == 1 and "<figcaption>Three &amp; more.</figcaption>" in html
    rules = re.sub(r"@\w+ [^{]+{|/\*.*?\*/", "", re.search(r"<style>(.*?)</style>", html, re.S)[1])
    assert all(r.strip().startswith(".rollouts") for r in re.findall(r"([^{}]+){", rules))


def test_without_scripts_there_is_a_strip_of_the_first_choice_that_branches_on_the_way(html):
    source, told = re.search(r'<img class="strip" src="([^"]+)" alt="([^"]+)"', html).groups()
    with urlopen(source) as answer: strip = np.asarray(Image.open(io.BytesIO(answer.read())))
    shown = [list(frames("<a>", TIMES[4]))[i] for i in (0, 1, 3, 4, 5, 7, 8)]
    assert strip.shape == (MEMBERS * (SIZE + 1) - 1, 7 * (SIZE + 1) - 1, 4)
    for column, frame in enumerate(shown):
        rows = range(MEMBERS) if len(frame.state) > 1 else [1]
        for row, x in zip(rows, frame.state):
            top, left = row * (SIZE + 1), column * (SIZE + 1)
            assert (strip[top : top + SIZE, left : left + SIZE] == picture_pixels(x)).all()
    assert not strip[:SIZE, : 3 * SIZE, 3].any() # nothing beside a chain that is shared
    assert "t = 999, " in told and "3 members" in told
    assert '<div class="face" hidden>' in html


def test_a_sixth_of_the_largest_page_has_a_sixth_of_its_bytes():
    "5 of 10 classes, 2 of 3 branch points, 1 of 2 scales of guidance; 13 frames of 5 members, 28 x 28 pixels."
    digits, sampler = load("mnist", "train"), DDIM(24)
    x = signed(digits.x.float() / (255 if digits.x.dtype == torch.uint8 else 1)).flatten(1)
    times = sampler.times(ensemble.SCHEDULE, 999)
    every = MixtureDenoiser(ensemble.SCHEDULE, x[:60], 0.02)
    def denoised(class_: float, branch_at: float):
        own = x[digits.y == class_]
        members = [Guided(MixtureDenoiser(ensemble.SCHEDULE, own[15 * m :][:15], 0.02), every, 2.0) for m in range(5)]
        start = torch.randn(1, 784, generator=torch.Generator().manual_seed(0))
        together = ensemble.Together(members)
        for i, s in enumerate(branch(members[0], together, start, times, branch_at, 5, sampler)):
            if i % 2: continue
            mean = s.mean.view(-1, 1, 28, 28)
            yield Frame(s.t, s.x.view(-1, 1, 28, 28), mean, 0.0, ensemble.spread(mean.clamp(-1, 1)))
    page = RolloutViewer(Rollouts({"class_": range(5), "branch_at": [times[0], times[12]]}, denoised, 13))._repr_html_()
    assert 50_000 < len(page.encode()) < 1_500_000 / 6


def pause(t: float, members: int = 2, **changed) -> Frame:
    x = torch.zeros(members, 1, 2, 2)
    return Frame(t, x, x, 0.0, torch.zeros(2, 2))._replace(**changed)


def noisy(n: float):
    for t in (1, 0): yield pause(t, state=(x := torch.randn(2, 3, 300, 300)), mean=x.flip(0), pixels=x[0, 0].abs())


@pytest.mark.parametrize("made, count, said", [
    (lambda n: [pause(2), pause(1, members=n)], 2, r"state must have 2 members as before, got 1"),
    (lambda n: [pause(2), pause(2)], 2, "t must fall, got 2 after 2"),
    (lambda n: [pause(2, pixels=torch.zeros(3, 2)), pause(1)], 2, r"pixels must be \(2, 2\), got \(3, 2\)"),
    (lambda n: [pause(2), pause(1)], 3, "count must be that of the frames, 3, got 2"),
    (lambda n: [pause(2), pause(1), pause(0)], 2, "count must be that of the frames, 2, got more"),
    (lambda n: [pause(2, members=n), pause(1, members=n)], 2, "choices must have one number of members and one size"),
    (noisy, 2, r"must fit 1.5 MB, got \d+\.\d\d MB for 2 choices of 2 frames of 2 pictures 3 x 300 x 300: drop values"),
])
def test_refusals_are_one_line(made, count, said):
    with pytest.raises(ValueError, match=said) as refused:
        RolloutViewer(Rollouts({"n": [1, 2]}, made, count))._repr_html_()
    assert "\n" not in str(refused.value)


class Gated:
    "Frames that wait until they are let on; the choices that were computed, and how far."
    def __init__(self): self.go, self.calls, self.yielded, self.broken = Event(), [], 0, False

    def __call__(self, class_: str, branch_at: float):
        self.calls.append((class_, branch_at))
        for i, frame in enumerate(frames(class_, branch_at)):
            if self.broken and i == 3: raise RuntimeError("out of <memory>\nat 3")
            if i == 2: assert self.go.wait(10)
            self.yielded += 1
            yield frame


@pytest.fixture
def gated() -> Gated:
    made = Gated()
    yield made
    made.go.set()


def live(gated: Gated) -> LiveFace:
    return LiveFace(rollouts(gated))


def pixels(face: LiveFace) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(face.picture.value)))


def shown(face: LiveFace, class_: str, at: float, place: int, view: int) -> bool:
    seen = [f for each in face.computation.kept.values() for f in each]
    highest = max(f.pixels.max().item() for f in seen)
    expected = row_of(list(frames(class_, at))[place], view, MEMBERS, highest)
    return np.array_equal(pixels(face), expected)


def test_the_live_face_shows_frames_as_they_arrive_and_then_follows_its_controls(gated):
    face = live(gated)
    assert face.button.description == "Cancel" and not face.button.disabled
    gated.go.set()
    face.computation.thread.join()
    assert face.progress.value == len(TIMES) and face.button.disabled and "all 9 frames" in face.message.value
    assert shown(face, "<a>", TIMES[4], 8, 0)
    for place in (0, 5):
        face.step.value = place
        for view in range(3):
            face.view.value = view
            assert shown(face, "<a>", TIMES[4], place, view)
            assert f"step {place} of 8" in face.title.value
    face.player.value = 6
    assert face.step.value == 6 and shown(face, "<a>", TIMES[4], 6, 2)
    assert "ln 3 = 1.10" in face.curve.value and "members part" in face.curve.value


def test_a_choice_that_is_kept_is_not_computed_again(gated):
    gated.go.set()
    face = live(gated)
    face.computation.thread.join()
    for class_, at in (("b", TIMES[4]), ("b", TIMES[0]), ("<a>", TIMES[0]), ("<a>", TIMES[4]), ("b", TIMES[4])):
        face.controls["class_"].value, face.controls["branch_at"].value = class_, at
        face.computation.thread.join()
        assert shown(face, class_, at, 8, 0)
    assert sorted(set(gated.calls)) == sorted(gated.calls) and len(gated.calls) == 4


def test_what_is_cancelled_stops_and_begins_anew(gated):
    face = live(gated)
    thread = face.computation.thread
    while gated.yielded < 2: thread.join(0.01)
    face.button.click()
    assert "cancelled after 2 of 9 frames" in face.message.value and face.button.description == "Compute"
    gated.go.set()
    thread.join()
    assert gated.yielded == 3 and face.progress.value == 2 # it noticed at its next frame, which nobody saw
    face.button.click()
    face.computation.thread.join()
    assert face.computation.status == "done" and gated.calls == [("<a>", TIMES[4])] * 2


def test_asking_for_something_else_cancels(gated):
    face = live(gated)
    first = face.computation.thread
    while gated.yielded < 2: first.join(0.01)
    for class_ in ("b", "<a>", "b"): face.controls["class_"].value = class_
    gated.go.set()
    face.computation.thread.join()
    first.join()
    assert gated.calls[-1] == ("b", TIMES[4]) and len(gated.calls) == 2 # the others never began
    assert shown(face, "b", TIMES[4], 8, 0) and list(face.computation.kept) == [("b", TIMES[4])]


def test_what_goes_wrong_is_one_line_in_the_widget(gated):
    gated.broken, gated.go = True, Event()
    gated.go.set()
    face = live(gated)
    face.computation.thread.join()
    assert face.message.value == '<span role="alert">RuntimeError: out of &lt;memory&gt;</span>'
    assert face.progress.value == 3 and "step 2 of 8" in face.title.value # what there is is shown
    gated.broken = False
    face.button.click()
    face.computation.thread.join()
    assert face.computation.status == "done" and "role=\"status\"" in face.message.value


NONE = "NO BROWSER: the viewer was not looked at (install chromium, or: playwright install chromium)"


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=find(), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, html, tmp_path):
    "Two viewers on one page, in a browser without a network; whatever is asked for or complained about is noted."
    file, contexts, noted = tmp_path / "page.html", [], []
    second = RolloutViewer(rollouts(partial(frames, channels=3)))._repr_html_()
    size = '<meta name="viewport" content="width=device-width">'
    file.write_text(f"<!doctype html><meta charset='utf-8'>{size}{html}{second}")
    def page(**settings):
        contexts.append(chromium.new_context(offline=True, **{"viewport": {"width": 390, "height": 800}, **settings}))
        page = contexts[-1].new_page()
        page.on("request", lambda r: noted.append(r.url) if r.url.startswith("http") else None)
        page.on("pageerror", lambda e: noted.append(str(e)))
        page.on("console", lambda m: None if "willReadFrequently" in m.text else noted.append(m.text)) # our own reading
        page.goto(file.as_uri())
        return page
    yield page
    for context in contexts: context.close()
    assert not noted


def canvas(locator) -> np.ndarray:
    "(height, width, 4): the pixels of a canvas."
    read = "c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    height, width, *values = locator.evaluate(read)
    return np.array(values).reshape(height, width, 4)


def drawn(levels: np.ndarray) -> np.ndarray:
    "(channel, height, width) in 1/64 -> (height, width, 3)"
    bytes_ = np.clip(np.rint((levels + 64) * 255 / 128), 0, 255)
    return np.moveaxis(np.broadcast_to(bytes_, (3, *levels.shape[1:])), 0, -1)


@pytest.mark.browser
@pytest.mark.skipif(find() is None, reason=NONE)
@pytest.mark.parametrize("which", [0, 1])
def test_the_browser_draws_the_pixels_that_were_packed(opened, html, which):
    page = opened()
    one = page.locator(".rollouts").nth(which)
    held = Held((html, RolloutViewer(rollouts(partial(frames, channels=3)))._repr_html_())[which])
    one.locator(".face").wait_for()
    one.get_by_role("combobox", name="class").select_option("b")
    tiles, slider = one.locator(".tile"), one.get_by_label("step", exact=True)
    for place in (0, 4, 8):
        slider.fill(str(place))
        for view, levels in enumerate((held.states, held.means)):
            one.locator(".views button").nth(view).click()
            expected = held.pictures(2, place, levels)
            for m in range(MEMBERS):
                assert np.abs(canvas(tiles.nth(m))[..., :3] - drawn(expected[m if place >= 4 else 0])).max() <= 1
        one.locator(".views button").nth(2).click()
        assert (canvas(one.locator(".map"))[..., :3] == CIVIDIS[held.maps[2, place] + 128]).all()


@pytest.mark.browser
@pytest.mark.skipif(find() is None, reason=NONE)
def test_with_the_keyboard(opened):
    page = opened(viewport={"width": 1280, "height": 900})
    first, second = page.locator(".rollouts").all()
    second.locator(".face").wait_for()
    slider, said = first.get_by_label("step", exact=True), lambda: first.locator(".title").inner_text()
    title = lambda place: f"step {place} of 8"
    assert title(8) in said() and "clean" in said() and not first.locator(".strip").is_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown") # the menu
    assert first.locator(".stage").get_attribute("aria-label").startswith("state; class b, branch at")
    for _ in range(2): page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "state"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("ArrowLeft")
    assert title(7) in said()
    page.keyboard.press("Tab")
    page.keyboard.press(" ")
    assert first.get_by_role("button", name="predicted clean image").get_attribute("aria-pressed") == "true"
    slider.focus()
    page.keyboard.press("Home")
    assert title(0) in said() and slider.get_attribute("aria-valuetext") == said()
    assert first.locator(".note").inner_text() == "one chain, shared by all 3 members"
    page.keyboard.press(" ")
    assert first.get_by_role("button", name="Pause").is_visible()
    first.get_by_text(title(8)).wait_for()
    assert first.get_by_role("button", name="Play").is_visible() # at the end it stops
    assert first.locator(".note").inner_text() == "3 members, each on a way of its own"
    assert title(8) in second.locator(".title").inner_text() # untouched


@pytest.mark.browser
@pytest.mark.skipif(find() is None, reason=NONE)
@pytest.mark.parametrize("settings", [{"viewport": {"width": 1280, "height": 900}}, {"color_scheme": "dark"},
                                      {"reduced_motion": "reduce"}])
def test_nothing_jumps_and_nothing_is_too_wide(opened, settings):
    page = opened(**settings)
    first = page.locator(".rollouts").first
    first.locator(".face").wait_for()
    places = lambda: [first.locator(part).bounding_box() for part in (".stage", ".plot", ".frame", "figcaption")]
    before = places()
    for place in range(9):
        first.get_by_label("step", exact=True).fill(str(place))
        for view in range(3):
            first.locator(".views button").nth(view).click()
            assert places() == before
    plot = before[1]
    page.mouse.click(plot["x"] + plot["width"] * 0.5, plot["y"] + 20) # the curve can be pointed at
    assert "step 4 of 8" in first.locator(".title").inner_text()
    thumb = first.locator(".cursor").bounding_box()
    assert abs(thumb["x"] - plot["x"] - plot["width"] / 2) < 2
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    moves = first.locator(".tile").first.evaluate("c => getComputedStyle(c).transitionDuration")
    assert (moves == "0s") == ("reduced_motion" in settings)


@pytest.mark.browser
@pytest.mark.skipif(find() is None, reason=NONE)
def test_without_scripts_the_strip_is_there_and_no_control(opened):
    page = opened(java_script_enabled=False)
    first = page.locator(".rollouts").first
    assert first.locator(".strip").is_visible() and first.locator("figcaption").is_visible()
    assert first.locator(".strip").bounding_box()["width"] > 300
    assert not first.locator(".face").is_visible()
