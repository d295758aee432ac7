"DECU's latents and the judge of its pictures: trained and killed, kept, decoded; photographs and the published file."
import numpy as np
import pytest
import torch
from PIL import Image
from staged import Killed, built
from torch import nn

from uncpaper.data.photos import read_table
from uncpaper.models import latent as library
from uncpaper.papers import decu
from uncpaper.papers.decu import latents
from uncpaper.papers.decu.latents import (
    Encode, InParts, Latents, Photographs, Published, PublishedCodec, TrainAutoencoder)
from uncpaper.papers.decu.settings import seen_as
from uncpaper.papers.shared import judge
from uncpaper.papers.shared.judge import TrainJudge, nearest, opinion, sure
from uncpaper.pictures import Pictures, to_bytes
from uncpaper.schedules import latent_betas


def digits(count: int, first: int = 0, size: int = 8) -> InParts:
    return InParts(Pictures("digits", "all", count, first, "shuffled"), size)


LARGER = digits(300, size=16)
AUTOENCODER = TrainAutoencoder(LARGER, steps=100, batch=16, width=8, codes=64)


@pytest.mark.parametrize("stage, module, loss", [
    (TrainAutoencoder(digits(60), steps=10, batch=16, width=4, codes=8, latent=2), latents, "reconstruction"),
    (TrainJudge(digits(60), epochs=3, batch=20, width=2), judge, "label_loss"),
], ids=["autoencoder", "judge"])
def test_a_killed_training_continues_to_the_same_bytes(stage, module, loss, tmp_path, monkeypatch):
    whole = built(stage, module, module, loss, tmp_path / "whole", monkeypatch)
    for stop in (2, 4):
        with pytest.raises(Killed): built(stage, module, module, loss, tmp_path / "cut", monkeypatch, stop)
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["checkpoint"]
    again = built(stage, module, module, loss, tmp_path / "cut", monkeypatch)
    assert again["history"].equals(whole["history"]) and again.get("scale") == whole.get("scale")
    assert set(again["weights"]) == set(whole["weights"])
    for name, value in whole["weights"].items(): assert torch.equal(again["weights"][name], value), name


# the judge

@pytest.fixture(scope="module")
def judged(home) -> TrainJudge:
    stage = TrainJudge(digits(1000), epochs=7, batch=40)
    stage.result()
    return stage


def test_the_judge_learns_digits_and_is_sure_of_them(judged):
    x, y = digits(797, 1000).load()
    said = opinion(judged, x)
    assert (said.argmax(1) == y).double().mean() > 0.93 and said.dtype == torch.float64
    torch.testing.assert_close(said.sum(1), torch.ones(797, dtype=torch.float64), rtol=0, atol=1e-12)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert sure(said) > sure(opinion(judged, noise)) and sure(said, 0.999) <= sure(said, 0.5)
    assert judged.result()["history"].step.tolist() == [25 * (i + 1) for i in range(7)]


def test_an_opinion_depends_on_the_picture_alone(judged):
    x = digits(30, 1000).load().x
    together, order = opinion(judged, x), torch.randperm(30)
    torch.testing.assert_close(opinion(judged, x[order]), together[order], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.cat([opinion(judged, one[None]) for one in x]), together, rtol=1e-4, atol=1e-6)
    assert torch.equal(opinion(judged, x), together) # and on no random number


def test_pictures_of_members_are_judged_in_their_places_and_in_the_size_that_the_judge_knows(judged):
    x, y = digits(24, 1000).load()
    pictures = to_bytes(x).unflatten(0, (2, 3, 4))
    assert torch.equal(seen_as(judged, pictures).flatten(), opinion(judged, x).argmax(1))
    twice = pictures.repeat_interleave(2, -1).repeat_interleave(2, -2) # made small again by means
    assert torch.equal(seen_as(judged, twice), seen_as(judged, pictures))


def test_sure_and_nearest_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.91, 0.09], [0.2, 0.8], [0.05, 0.95]])
    assert (sure(p), sure(p, 0.5), sure(p, 0.95)) == (0.5, 1.0, 0.0)
    others = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    found = nearest(torch.tensor([0.1, 0.8, 3.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2), others)
    assert found.place.tolist() == [0, 1, 1]
    torch.testing.assert_close(found.distance, torch.tensor([0.1, 0.2, 2.0]), rtol=1e-5, atol=1e-6)


# latents

@pytest.fixture(scope="module")
def encoded(home) -> Latents:
    latents.loaded.cache_clear()
    found = Latents(Encode(AUTOENCODER, LARGER))
    found.load()
    return found


def test_the_autoencoder_gives_pictures_back(home):
    model, scale = AUTOENCODER.load()
    x, history = LARGER.load().x, AUTOENCODER.result()["history"]
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    with torch.no_grad(): z, back = model.encode(x).latents, model(x)
    assert z.shape == (300, 4, 4, 4) and z.std().item() == pytest.approx(scale, rel=1e-5)
    expected = (back.sample - x).square().mean() + back.commit_loss
    assert latents.reconstruction(model, x).item() == pytest.approx(expected.item(), rel=1e-6)
    assert history.error.iloc[-1] < 0.85 * history.error.iloc[0]
    assert (back.sample - x).square().mean() < 0.6 * (x - x.mean()).square().mean() # an even grey


def test_latents_are_kept_in_order_scaled_and_decoded_to_what_the_autoencoder_says(encoded):
    (model, scale), (x, y) = AUTOENCODER.load(), LARGER.load()
    z, label = encoded.load()
    assert (z.dtype, z.shape, encoded.encoded.result()["z"].dtype) == (torch.float32, (300, 4, 4, 4), torch.float16)
    assert torch.equal(label, y) and z.std().item() == pytest.approx(1, abs=1e-3)
    with torch.no_grad():
        direct = model.encode(x).latents
        torch.testing.assert_close(z * scale, direct, rtol=2e-3, atol=2e-3) # half precision: 11 bits
        torch.testing.assert_close(encoded.decoded(z), model.decode(z * scale).sample, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoded.decoded(z[7:9]), encoded.decoded(z)[7:9], rtol=1e-4, atol=1e-4)
    assert (encoded.name, encoded.size, encoded.channels, encoded.classes) == ("digits", 4, 4, 10)
    assert [s.kind for s in encoded.encoded.upstream] == ["TrainAutoencoder"] and encoded.encoded.data == ("digits",)


def test_an_album_comes_part_by_part_and_whole():
    parts, whole = list(digits(600).parts()), digits(600).load()
    assert [len(p.y) for p in parts] == [250, 250, 100]
    for name in ("x", "y"): assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))


# photographs

def photograph(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=95)


def slope(height, width, seed=0):
    "Smooth colours."
    corners = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def imagenet(data_folder):
    "Two classes in folders that are not made in order: 66 and 3 pictures, one of them grey."
    train = data_folder / "imagenet" / "train"
    for i in (2, 0, 1): photograph(train / "n02" / f"n02_{i}.JPEG", slope(40 + 8 * i, 56, i))
    for i in range(66):
        pixels = slope(32, 48, 10 + i)
        photograph(train / "n01" / f"n01_{i:02}.JPEG", pixels[..., 0] if i == 5 else pixels)
    return train


def test_photographs_are_a_run_of_each_class(imagenet):
    names = [path.name for path, _ in Photographs(most=2, size=16, first=1).files()]
    assert names == ["n01_01.JPEG", "n01_02.JPEG", "n02_1.JPEG", "n02_2.JPEG"]
    assert [label for _, label in Photographs(2, 16, 2).files()] == [0, 0, 1] # as many as there are
    pictures = Photographs(most=70, size=16)
    parts, whole = list(pictures.parts()), pictures.load()
    assert [len(p.y) for p in parts] == [64, 5] and whole.y.tolist() == [0] * 66 + [1] * 3
    assert torch.equal(torch.cat([p.x for p in parts]), whole.x) and whole.x.shape == (69, 3, 16, 16)
    assert whole.x.dtype == torch.float32 and -1 <= whole.x.min() < -0.5 < 0.5 < whole.x.max() <= 1
    assert torch.equal(whole.x[5, 0], whole.x[5, 1]) # grey
    assert torch.equal(Photographs(1, 16, 2).load().x, whole.x[[2, 68]]) and pictures.data == ("imagenet-train",)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_photograph_is_shortened_and_its_middle_cut_out(imagenet, size):
    found = Photographs(1, size, 2).load().x
    for x, path, width in zip(found, (imagenet / "n01" / "n01_02.JPEG", imagenet / "n02" / "n02_2.JPEG"), (48, 56)):
        with Image.open(path) as image:
            whole = image.resize((width * size // image.height, size), Image.Resampling.BICUBIC)
        left = (whole.width - size) // 2 # 32 x 48 and 56 x 56: no half pixels
        expected = torch.from_numpy(np.array(whole.crop((left, 0, left + size, size)))).permute(2, 0, 1)
        assert (to_bytes(x).int() - expected.int()).abs().max() <= 2


@pytest.mark.parametrize("most", [0, 1301])
def test_a_number_of_photographs_that_no_class_has_is_refused(most):
    with pytest.raises(ValueError, match=f"^most must be between 1 and 1300, got {most}$"): Photographs(most)


# the published file

TINY_UNET = dict(channels=3, size=4, width=8, multipliers=(1, 2), blocks=1, attention=(2,), context=16)
TINY_CODEC = dict(channels=3, latent=3, codes=32, width=8, multipliers=(1, 2, 4), blocks=1)


@pytest.fixture
def originals(imagenet, data_folder, home, monkeypatch):
    "A file in the published form, of two classes: U-Net, autoencoder, table."
    torch.manual_seed(0)
    parts = library.latent_unet(**TINY_UNET), library.vq_autoencoder(**TINY_CODEC), nn.Embedding(3, 16)
    schedule = latent_betas()
    state = {"betas": schedule.betas.float(), "alphas_cumprod": (schedule.alpha(torch.arange(1000)) ** 2).float()}
    for part in parts: state |= library.to_compvis(part)
    (data_folder / "cin256-v2").mkdir()
    torch.save({"state_dict": state}, data_folder / "cin256-v2" / "model.ckpt")
    monkeypatch.setattr(Photographs, "classes", 2)
    monkeypatch.setattr(latents, "load_latent", lambda path: library.load_latent(path, TINY_UNET, TINY_CODEC, 3))
    latents.loaded.cache_clear()
    yield [part.eval().requires_grad_(False) for part in parts]
    latents.loaded.cache_clear()


def test_the_published_file_is_read_as_it_is(originals, data_folder):
    network, codec, table = originals
    published = Published(Latents(Encode(PublishedCodec(), Photographs(3, 16))))
    labelled = published.labelled()
    assert labelled.nothing == 2 and torch.equal(labelled.table.weight, table.weight)
    assert not labelled.training and not any(p.requires_grad for p in labelled.parameters())
    z, y = published.images.load()
    x = Photographs(3, 16).load().x
    assert y.tolist() == [0, 0, 0, 1, 1, 1] and PublishedCodec().load()[1] == 1
    torch.testing.assert_close(z, codec.encode(x).latents, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(published.images.decoded(z), codec.decode(z).sample, rtol=1e-4, atol=1e-4)
    t, label = torch.full((6,), 500.0), torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad(): said = labelled(z, t, label)
    torch.testing.assert_close(said, network(z, t, table.weight[label][:, None]).sample, rtol=1e-5, atol=1e-5)
    rows, labels = read_table(data_folder / "cin256-v2", "classes")
    assert torch.equal(rows, table.weight) and labels.tolist() == [0, 1, 2]


def test_the_published_path_from_photographs_to_branches(originals):
    "The original's settings at a tiny size: a random row that says nothing, guidance 5, no noise."
    published = Published(Latents(Encode(PublishedCodec(), Photographs(3, 16))))
    tables = decu.TrainTables(published, decu.Bins(published.images, (1, 3), 2, 0), 3, batch=2, nothing="random")
    found = tables.result()
    assert found["frozen"] == decu.digest(published.labelled().network.state_dict())
    assert found["tables"].shape == (2, 3, 16)
    drawn = decu.Branch(tables, 1, noises=2, calls=4, guidance=5.0)
    result, members = drawn.result(), decu.Members(tables)
    assert result["pictures"].shape == (2, 2, 2, 3, 16, 16) and result["distances"].shape == (3, 2, 2, 2, 2)
    assert result["calls"]["counted now"] == drawn.predicted == 2 * 2 * (1 + 2 * 4)
    label, schedule = torch.tensor([0, 0, 1, 1]), latent_betas()
    states = list(members.draw(label, drawn.seeds * 2, drawn.times, drawn.times[1], 5.0))
    z, (t, s), network = states[1].x[0], drawn.times[1:3], published.labelled().network
    def said(m, row): return network(z, torch.full((4,), float(t)), found["tables"][m, row])
    with torch.no_grad(): noise = [-4 * said(m, torch.full_like(label, 2)) + 5 * said(m, label) for m in (0, 1)]
    a, prior = (schedule.alpha(i).item() ** 2 for i in (t, s))
    kappa = (1 - prior) ** 0.5 - (prior * (1 - a) / a) ** 0.5
    apart = kappa * (noise[0] - noise[1])
    torch.testing.assert_close(states[2].x[0] - states[2].x[1], apart, rtol=1e-3, atol=1e-4)
    expected = apart.double().flatten(1).square().sum(1).view(2, 2)
    torch.testing.assert_close(result["distances"][0, ..., 0, 1].double(), expected, rtol=1e-3, atol=1e-6)
    pictures = to_bytes(published.images.decoded(states[-1].x[1]))
    assert (pictures.unflatten(0, (2, 2)).int() - result["pictures"][:, :, 1].int()).abs().max() <= 1
