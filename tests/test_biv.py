"BIV's stages: the main claim at a small size, pairing, and the published size on a few files of the true format."
import numpy as np
import pytest
import torch
from PIL import Image

from uncpaper.papers.biv import (
    BIKE_MU, BIV, IV, L2, SGD, Angles, Bike, Cutoff, Faces, RedWine, Train, exponential, noisy_labels,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))


def lowest(loss, seed: int, **options) -> float:
    return Train(Bike(2000, 1000), loss, exponential(BIKE_MU), seed, 300, **options).result()["summary"]["min"]


def test_biv_beats_l2_by_a_twentieth_on_average_over_five_paired_seeds():
    l2, biv = ([lowest(loss, seed) for seed in range(5)] for loss in (L2(), BIV(0.1)))
    assert np.mean(biv) < 0.95 * np.mean(l2)


def test_pairing_everything_but_the_loss_depends_on_the_seed_alone():
    task = Bike(500, 100)
    p, q = task.load(3), task.load(3)
    assert torch.equal(p.x, q.x) and torch.equal(p.test_y, q.test_y)
    a, b = (noisy_labels(p.y, p.unit, exponential(BIKE_MU), 3) for _ in range(2))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    disturbed = noisy_labels(p.y, p.unit, exponential(BIKE_MU), 3, disturbance=1.0)
    assert torch.equal(disturbed[0], a[0]), "the noise must follow the true variance"
    assert not torch.equal(disturbed[1], a[1])
    other = noisy_labels(p.y, p.unit, exponential(BIKE_MU), 4)
    assert not torch.equal(other[0], a[0])


def test_the_same_stage_gives_the_same_bits_again():
    from uncpaper.reproduce.stages import default_store
    stage = Train(Bike(400, 100), BIV(0.1), exponential(BIKE_MU), 0, 40)
    first = default_store().contents(stage.ensure().key)
    (default_store().folder(stage.key) / "summary.json").unlink()
    assert not stage.done() and default_store().contents(stage.ensure().key) == first


def test_no_wine_stands_on_both_sides():
    p = RedWine().load(0)
    rows = lambda x, y: {tuple(r) for r in torch.cat([x, y], 1).numpy().round(5).tolist()}
    assert not rows(p.x, p.y) & rows(p.test_x, p.test_y)


def test_cutoff_is_in_the_labels_own_unit_and_an_empty_batch_is_skipped():
    loss = Cutoff(100.0)
    r, v = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.99], [1.01]])  # in units of a label with deviation 10
    assert loss(r, torch.zeros(2, 1), v, unit=10.0).item() == 1.0
    assert loss(r, torch.zeros(2, 1), v + 1, unit=10.0) is None
    nothing_survives = Train(Bike(400, 100), Cutoff(1e-6), exponential(BIKE_MU), 0, 40).result()
    assert nothing_survives["history"].test_mse.nunique() == 1 and nothing_survives["history"].train_loss.isna().all()


def test_a_run_that_diverges_ends_with_a_number():
    result = Train(Bike(400, 100), IV(1e-6), exponential(BIKE_MU), 0, 60, optimiser=SGD(lr=1.0)).result()
    assert result["summary"]["end"] == 10.0


def test_angles_turn_by_what_their_label_says():
    p = Angles(train=200, test=100).load(0)
    assert p.test_x.shape == (100, 1, 12, 12)
    degrees = p.test_y * p.unit
    assert 30 < p.unit < 40 and degrees.abs().max() < 70


@pytest.mark.parametrize("resnet", [True, False])
def test_faces_at_the_published_size_from_a_folder_of_the_true_format(tmp_path, monkeypatch, resnet):
    folder = tmp_path / "data" / "UTKFace"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for age in range(20, 40):
        face = Image.fromarray(rng.integers(0, 255, (200, 200, 3), dtype=np.uint8))
        face.save(folder / f"{age}_0_0_2017010100000{age}.jpg.chip.jpg")
    monkeypatch.setenv("UNCPAPER_DATA", str(tmp_path / "data"))
    from uncpaper import data
    if data.missing("utkface"): folder.rename(data.folder("utkface"))
    result = Train(Faces(train=16, test=4, resnet=resnet), BIV(0.5), exponential(2000.0), 0, steps=1, batch=8).result()
    assert np.isfinite(result["history"].test_mse).all() and len(result["history"]) == 1
