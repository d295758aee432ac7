"Pictures: which rows, which size, which scale, and what chance does to them."
import dataclasses
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from uncpaper import data
from uncpaper.numerics import generator
from uncpaper.pictures import (COLOURED, GREY, ORDERS, Normalisation, Pictures, augmented, cropped, from_bytes,
                               fully_augmented, greyed, larger, mirrored, resized, shifted, signed, smaller, to_bytes)
from uncpaper.reproduce.stages import Stage

OURS = {"digits": "train", "mnist": "test", "fashion-mnist": "train", "glyphs": "all", "patches": "all"}


# ---- scale and size ---------------------------------------------------------------------------------------------

def test_normalise():
    x = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    expected = (torch.tensor([0, 128 / 255, 1]) - 0.1307) / 0.3081
    assert torch.allclose(GREY.apply(x).flatten(), expected)
    assert torch.allclose(GREY.apply(x.float() / 255).flatten(), expected)
    colours = COLOURED.apply(torch.ones(2, 3, 4, 5))
    assert colours.shape == (2, 3, 4, 5)
    assert colours[0, :, 0, 0].tolist() == pytest.approx([0.5086 / 0.2023, 0.5178 / 0.1994, 0.5535 / 0.2010])
    with pytest.raises(ValueError, match="mean and std must have 1 values, one a channel, got 3 and 1"):
        Normalisation(COLOURED.mean, GREY.std).apply(x)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 100), st.data())
def test_resize_keeps_brightness_and_range(height, width, seed, draw):
    size = draw.draw(st.integers(1, min(height, width)))
    x = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    small = smaller(x, size)
    assert small.shape == (2, 3, size, size) and small.dtype == torch.uint8
    assert (small.double().mean((2, 3)) - x.double().mean((2, 3))).abs().max() <= 0.5
    assert (small.amax((2, 3)) <= x.amax((2, 3))).all() and (small.amin((2, 3)) >= x.amin((2, 3))).all()


def test_resize_against_peers():
    x = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for size in (32, 16, 8): assert (smaller(x, size) - F.avg_pool2d(x.double(), 64 // size)).abs().max() <= 0.5
    halves = F.interpolate(x.double(), size=32, mode="bilinear", align_corners=False)
    assert (smaller(x, 32) - halves).abs().max() <= 0.5
    assert smaller(x, 64).equal(x)
    fractional = torch.tensor([[0, 90, 180]], dtype=torch.uint8).expand(3, 3)[None, None]
    assert smaller(fractional, 2)[0, 0, 0].tolist() == [30, 150]    # (2 * 0 + 90) / 3, (90 + 2 * 180) / 3
    for size in (0, 65):
        with pytest.raises(ValueError, match="size must be between 1 and 64, got"): smaller(x, size)


def test_larger_against_plain_bilinear_interpolation():
    x = torch.randint(0, 256, (2, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    theirs = F.interpolate(x.float(), size=32, mode="bilinear", align_corners=False)
    assert torch.allclose(larger(x, 32), theirs, atol=1e-3) and resized(x, 32).equal(larger(x, 32))
    assert resized(x, 28) is x and resized(x, 14).equal(smaller(x, 14))


def test_floats_are_made_smaller_without_rounding():
    x = torch.randint(0, 256, (3, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    exact = smaller(x.float(), 8)
    assert exact.dtype == torch.float32 and exact.round().byte().equal(smaller(x, 8))


@given(st.floats(-2, 2))
def test_bytes_are_the_nearest_and_clamped(value):
    byte = int(to_bytes(torch.tensor(value)))
    assert abs(byte - min(max((value + 1) * 127.5, 0), 255)) <= 0.5 + 1e-4
    assert float(from_bytes(torch.tensor(byte, dtype=torch.uint8))) == pytest.approx(2 * byte / 255 - 1, abs=1e-6)


# ---- which pictures ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", OURS)
def test_pictures_are_the_stored_rows_over_their_peak(name):
    x, y = data.load(name, OURS[name])
    found = Pictures(name, OURS[name], 50, 7).load(data.card(name).size)
    assert found.x.dtype == torch.float32 and found.x.equal(x[7:57].float() / (16 if name == "digits" else 255))
    assert found.y.equal(y[7:57]) and Pictures(name, OURS[name], 50).data == (name,)


@pytest.mark.parametrize("name", OURS)
def test_shuffled_pictures_are_parts_of_one_order(name):
    x, y = data.load(name, OURS[name])
    order = torch.randperm(len(x), generator=generator(0, "order", name, OURS[name]))
    parts = [Pictures(name, OURS[name], 40, first, "shuffled").load(data.card(name).size) for first in (0, 40)]
    assert torch.cat([part.y for part in parts]).equal(y[order[:80]])
    assert signed(torch.cat([part.x for part in parts])).equal(x[order[:80]].float() / data.card(name).peak * 2 - 1)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("size", [6, 28, 32])
def test_every_set_comes_in_every_size(name, size):
    x = Pictures(name, OURS[name], 20).load(size).x
    assert x.shape == (20, 1, size, size) and 0 <= x.min() and x.max() <= 1


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 600), st.integers(0, 700), st.sampled_from(list(ORDERS)))
def test_rows_are_distinct_and_inside_or_refused(first, count, order):
    asked = Pictures("patches", "all", count, first, order)
    if first + count > 640:
        with pytest.raises(ValueError, match="count of patches all must be at most"): asked.rows(640)
    else:
        rows = asked.rows(640)
        assert len(rows) == count == len(rows.unique()) and ((rows >= 0) & (rows < 640)).all()


@pytest.mark.parametrize("changes, message", [
    (dict(count=1201), "count of digits train must be at most 1200, got 1201"),
    (dict(first=1000, count=201), "count of digits train must be at most 200 from row 1000 on, got 201"),
    (dict(order="sorted"), "order must be one of stored, shuffled; got 'sorted'"),
    (dict(first=-1), "first must be >= 0, got -1"), (dict(name="pets"), "name must be one of .*; got 'pets'"),
    (dict(split="val"), "split of digits must be one of all, train, test; got 'val'"),
])
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Pictures("digits", "train", 10), **changes).load(8)


# ---- what a result made from pictures depends on ----------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Brightness(Stage):
    "A stage that looks at pictures."
    pictures: Pictures
    kind: ClassVar[str] = "Brightness"

    def build(self, folder: Path) -> dict:
        return {"mean": float(self.pictures.load(8).x.mean())}


def test_a_fact_on_a_card_is_in_the_keys_of_its_set_and_a_new_set_in_none(monkeypatch):
    def keys() -> list[str]: return [Brightness(Pictures(name, "train", 10)).key for name in ("digits", "mnist")]
    before, card = keys(), data.card("digits")
    monkeypatch.setitem(data.registry, "other", dataclasses.replace(card, name="other"))
    assert keys() == before
    monkeypatch.setitem(data.registry, "digits", dataclasses.replace(card, note="Seen before."))
    assert keys() == before
    monkeypatch.setitem(data.registry, "digits", dataclasses.replace(card, peak=17))
    assert keys()[0] != before[0] and keys()[1] == before[1]


def test_a_stage_names_the_sets_of_its_pictures():
    assert Brightness(Pictures("digits", "train", 10)).data == ("digits",)


# ---- chance -----------------------------------------------------------------------------------------------------

@pytest.fixture
def colours() -> torch.Tensor:
    return torch.rand(400, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_half_of_the_pictures_are_mirrored_each_by_itself(colours):
    torch.manual_seed(0)
    seen = mirrored(colours)
    flipped = (seen != colours).flatten(1).any(1)
    assert seen.equal(torch.where(flipped.view(-1, 1, 1, 1), colours.flip(3), colours))
    assert flipped.double().mean() == pytest.approx(0.5, abs=0.08)
    groups = mirrored(colours.view(100, 4, 3, 16, 16)) != colours.view(100, 4, 3, 16, 16)
    assert 0 < groups.flatten(2).any(2).sum(1).double().var()    # draws of one picture differ among themselves


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 8), st.integers(0, 8))
def test_shifted_against_padding_and_cutting(row, column):
    x = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(1))
    seen = shifted(x, torch.full((2, 1, 1), row), torch.full((2, 1, 1), column))
    assert seen.equal(F.pad(x, (4, 4, 4, 4))[:, :, row : row + 9, column : column + 7])


def test_augmented_pictures_are_windows_of_a_picture_or_its_mirror_image(colours):
    torch.manual_seed(0)
    windows = [F.pad(x, (4, 4, 4, 4)).unfold(2, 16, 1).unfold(3, 16, 1) for x in (colours[:20], colours[:20].flip(3))]
    seen = augmented(colours[:20])[:, :, None, None]
    places = torch.stack([(w == seen).all(5).all(4).all(1) for w in windows])    # (2, picture, 9, 9)
    assert (places.sum((0, 2, 3)) == 1).all() and places.any(3).any(2).any(1).all()


def test_three_in_ten_are_grey(colours):
    torch.manual_seed(0)
    seen = greyed(colours)
    grey = (seen == seen[:, :1]).flatten(1).all(1)
    assert grey.double().mean() == pytest.approx(0.3, abs=0.07) and seen[~grey].equal(colours[~grey])
    luminance = (torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1) * colours[grey]).sum(1)
    assert torch.allclose(seen[grey][:, 0], luminance, atol=1e-6)


def test_half_of_the_pictures_are_cropped_and_none_leaves_its_range(colours):
    torch.manual_seed(0)
    seen = cropped(colours)
    whole = (seen - colours).flatten(1).abs().amax(1) < 1e-4
    assert whole.double().mean() == pytest.approx(0.5, abs=0.08)
    assert (seen.amax((2, 3)) <= colours.amax((2, 3)) + 1e-6).all()
    assert (seen.amin((2, 3)) >= colours.amin((2, 3)) - 1e-6).all()
    ramp = torch.linspace(0, 1, 16).expand(400, 1, 16, 16)
    spread = cropped(ramp).amax((1, 2, 3)) - cropped(ramp).amin((1, 2, 3))
    assert spread.min() > 0.2**0.5 - 0.15    # the smallest side is the root of a fifth of the area


def test_the_full_recipe_keeps_shape_and_takes_draws_of_pictures(colours):
    draws = colours.view(100, 4, 3, 16, 16)
    torch.manual_seed(0)
    seen = fully_augmented(draws)
    torch.manual_seed(0)
    assert seen.shape == draws.shape and seen.equal(cropped(greyed(mirrored(draws))))
