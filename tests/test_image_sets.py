"The sets of pictures: those that travel with the project and those that a reader brings."
import dataclasses
import hashlib
import io
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from uncpaper import data
from uncpaper.pictures import smaller

DATA = data.roots()[-1]
BROUGHT = ["ambiguous-mnist", "celeba", "cifar-10", "cifar-100", "cin256-v2", "imagenet", "imagenet-100", "imagenet-o",
           "imagenet-o-64", "imagenet-train", "svhn", "tiny-imagenet"]


def change(monkeypatch, name: str, **fields) -> None:
    "Change a card for the length of a test, say to the checksums of its own small files."
    monkeypatch.setitem(data.registry, name, dataclasses.replace(data.card(name), **fields))


# ---- what travels with the project ------------------------------------------------------------------------------

def centres(x: torch.Tensor) -> torch.Tensor:
    "Centre of mass, in pixels from the middle, (n, 2)."
    ink, place = x[:, 0].double(), torch.arange(28) - 13.5
    return torch.stack([(ink.sum(2) * place).sum(1), (ink.sum(1) * place).sum(1)], 1) / ink.sum((1, 2))[:, None]


def test_glyphs():
    x, y = data.load("glyphs", "all")
    assert (x.shape, x.dtype, y.dtype, y.bincount().tolist()) == ((468, 1, 28, 28), torch.uint8, torch.int64, [12] * 39)
    assert len(data.GLYPH_LETTERS) == 39 and not set(data.GLYPH_LETTERS) & set("BIOSZbgiloqsz")
    assert len(x.flatten(1).unique(dim=0)) == 468 and (x.amax((1, 2, 3)) == 255).all()
    assert centres(x).abs().max() <= 0.51
    boxes = [[int((picture.amax(axis) > 0).sum()) for axis in (0, 1)] for picture in x[:, 0]]
    assert {max(box) for box in boxes} <= {19, 20}


def test_patches():
    x, y = data.load("patches", "all")
    assert (x.shape, x.dtype, y.bincount().tolist()) == ((640, 1, 28, 28), torch.uint8, [80] * 8)
    assert len(x.flatten(1).unique(dim=0)) == 640 and x.double().std((1, 2, 3)).min() > 11.9


def remake():
    "The script that makes the embedded files, as a module."
    import importlib.util
    spec = importlib.util.spec_from_file_location("remake", DATA / "remake.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["glyphs", "patches"])
def test_a_set_made_again_differs_by_rounding_at_most(name, tmp_path):
    "Another FreeType or JPEG decoder may move an edge; the pictures stay what they are."
    module = remake()
    module.remake([name], tmp_path, tmp_path)
    (x, y), (ours, labels) = data.read_all(tmp_path / name, "all"), data.load(name, "all")
    assert y.equal(labels) and x.shape == ours.shape
    assert (x.double() - ours.double()).abs().mean() < 4


def test_the_script_s_averaging_is_ours():
    module, x = remake(), data.load("mnist", "test").x[:3]
    for size in (5, 8, 14, 27):
        theirs = np.rint(module.shrunk(x[1, 0].numpy().astype(float), size, size))
        assert theirs == pytest.approx(smaller(x, size)[1, 0].numpy(), abs=1)


# ---- pickles ----------------------------------------------------------------------------------------------------

class Python2Pickler(pickle._Pickler):
    "Writes texts and arrays as Python 2 did."
    dispatch = dict(pickle._Pickler.dispatch)

    def save_text(self, text):
        content = text if isinstance(text, bytes) else text.encode()
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_text


def write_pickle(path: Path, content) -> None:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    path.write_bytes(buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def test_our_pickles_are_of_the_published_form(tmp_path):
    "The standard unpickler reads them as CIFAR is usually read."
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_pickle(tmp_path / "batch", {"data": pixels, "labels": [1, 2]})
    with (tmp_path / "batch").open("rb") as file: theirs = pickle.load(file, encoding="bytes")
    assert (theirs[b"data"] == pixels).all() and theirs[b"labels"] == [1, 2]
    assert b"numpy.core.multiarray\n_reconstruct" in (tmp_path / "batch").read_bytes()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_of_bytes_are_read(tmp_path, order, protocol):
    pixels = np.asarray(np.arange(12, dtype=np.uint8).reshape(3, 4), order=order)
    if protocol == 2: write_pickle(tmp_path / "batch", {"data": pixels})
    else: (tmp_path / "batch").write_bytes(pickle.dumps({b"data": pixels}, protocol=protocol))
    assert (data.read_pickle(tmp_path / "batch")[b"data"].pixels == pixels).all()


class Calls:
    "Pickles to a call."
    def __init__(self, function, *arguments): self.call = function, arguments
    def __reduce__(self): return self.call


@pytest.mark.parametrize("attack", [os.mkdir, exec, eval, __import__, getattr, print, np.load, np.fromfile])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_acts_is_refused_before_it_does(tmp_path, attack, protocol, capsys):
    target = tmp_path / "made"
    argument = f"__import__('os').mkdir({str(target)!r})" if attack in (exec, eval) else str(target)
    batch = {b"data": Calls(attack, argument), b"labels": [0]}
    (tmp_path / "batch").write_bytes(pickle.dumps(batch, protocol=protocol))
    with pytest.raises(ValueError, match="pickle must hold nothing but .*, it asks for"):
        data.read_pickle(tmp_path / "batch")
    with pytest.raises(ValueError, match="pickle must hold nothing but"):
        data.cifar_batch(tmp_path / "batch", b"labels", 10)
    assert not target.exists() and capsys.readouterr().out == ""


@pytest.mark.parametrize("array", [
    np.arange(3.0), np.array([object()]), np.array(["a"]), np.zeros(2, "u1,u1"), np.arange(3, dtype=np.int64),
])
def test_other_arrays_are_refused(tmp_path, array):
    (tmp_path / "batch").write_bytes(pickle.dumps({b"data": array}))
    with pytest.raises(ValueError, match="arrays in a pickle must be of type u1|it asks for"):
        data.read_pickle(tmp_path / "batch")


def test_names_of_arrays_do_nothing_but_hold_bytes(tmp_path):
    "BUILD, the opcode that sets the state of anything, finds nothing here to change."
    for name in (b"numpy.core.multiarray\n_reconstruct", b"numpy\nndarray", b"numpy\ndtype"):
        (tmp_path / "batch").write_bytes(b"\x80\x02c" + name + b"\n}X\x01\x00\x00\x00aK\x01sb.")
        pytest.raises(TypeError, data.read_pickle, tmp_path / "batch")
    assert not hasattr(data.PickledBytes, "a")


# ---- CIFAR ------------------------------------------------------------------------------------------------------

def cifar10(folder: Path, rows: int = 3) -> Path:
    folder.mkdir(parents=True)
    for i, file in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        pixels = np.repeat(np.array([[10 * i, 10 * i + 1, 10 * i + 2]], np.uint8), rows, 0).repeat(1024, 1)
        batch = {"batch_label": "b", "labels": [i] * rows, "data": pixels, "filenames": ["f"] * rows}
        write_pickle(folder / file, batch)
    return folder


def cifar100(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file, n in (("train", 4), ("test", 2)):
        labels = {"fine_labels": list(range(n)), "coarse_labels": [0] * n}
        write_pickle(folder / file, {**labels, "data": np.full((n, 3072), n, np.uint8)})
    return folder


def test_cifar10(data_folder, monkeypatch):
    cifar10(data_folder / "cifar-10-batches-py")
    with pytest.raises(data.DataCorrupt, match="data_batch_1: MD5 is .*, expected c99cafc15224…"):
        data.load("cifar-10", "test")
    change(monkeypatch, "cifar-10", read=data.read_cifar10)
    x, y = data.load("cifar-10", "train")
    assert (x.shape, x.dtype, y.dtype) == ((15, 3, 32, 32), torch.uint8, torch.int64)
    assert y.tolist() == [i for i in range(5) for _ in range(3)]
    assert x[3].amin((1, 2)).tolist() == x[3].amax((1, 2)).tolist() == [10, 11, 12]    # planes: red, green, blue
    assert data.load("cifar-10", "test").y.tolist() == [5, 5, 5]


def test_torchvision_reads_the_same(data_folder, monkeypatch):
    from torchvision.datasets import CIFAR10
    place = cifar10(data_folder / "cifar-10-batches-py")
    write_pickle(place / "batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    theirs = CIFAR10(data_folder, train=True)
    x, y = data.read_cifar10(place, "train")
    assert (theirs.data == x.permute(0, 2, 3, 1).numpy()).all() and theirs.targets == y.tolist()


def test_cifar100_from_its_archive(data_folder, tmp_path, monkeypatch):
    place = cifar100(tmp_path / "cifar-100-python")
    with tarfile.open(data_folder / "cifar-100-python.tar.gz", "w:gz") as tar: tar.add(place, "cifar-100-python")
    assert data.missing("cifar-100") == []
    with pytest.raises(data.DataCorrupt, match="MD5 is"): data.load("cifar-100", "test")
    md5 = {file: hashlib.md5((place / file).read_bytes()).hexdigest() for file in ("train", "test")}
    change(monkeypatch, "cifar-100", read=data.after_md5(data.read_cifar100, md5))
    assert data.load("cifar-100", "train").y.tolist() == [0, 1, 2, 3] and (data.load("cifar-100", "test").x == 2).all()
    write_pickle(data_folder / "cifar-100-python" / "cifar-100-python" / "test", {})
    with pytest.raises(data.DataCorrupt, match="test: MD5 is"): data.load("cifar-100", "train")


def test_md5_are_torchvisions():
    from torchvision.datasets import CIFAR10, CIFAR100
    for theirs, ours in ((CIFAR10, data.photos._MD5_CIFAR10), (CIFAR100, data.photos._MD5_CIFAR100)):
        assert dict(theirs.train_list + theirs.test_list) == ours


@pytest.mark.parametrize("content, message", [
    ([1], "must hold data"), ({"labels": [1]}, "must hold data"), ({"data": b"12", "labels": [1]}, "must hold data"),
    ({"data": np.zeros((2, 3072), np.uint8)}, "must hold data"),
    ({"data": np.zeros((3072, 2), np.uint8), "labels": [1, 2]}, "must hold data"),
    ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
     "must hold one label for each of its 2 pictures, it holds 1"),
    ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]}, "labels of batch must be 0 to 9, they are 1 to 10"),
    ({"data": np.zeros((2, 3072), np.uint8), "labels": [-1, 1]}, "labels of batch must be 0 to 9, they are -1 to 1"),
])
def test_other_batches_are_refused(tmp_path, content, message):
    write_pickle(tmp_path / "batch", content)
    with pytest.raises(ValueError, match=message): data.cifar_batch(tmp_path / "batch", b"labels", 10)


# ---- SVHN -------------------------------------------------------------------------------------------------------

def svhn(folder: Path, labels=((10,), (1,), (9,))) -> np.ndarray:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 3), dtype=np.uint8)
    content = {"X": pixels, "y": np.array(labels, np.uint8)}
    for split in ("train", "test"): savemat(folder / f"{split}_32x32.mat", content, do_compression=True)
    return pixels


def test_svhn(data_folder, monkeypatch):
    pixels = svhn(data_folder / "svhn")
    remedy = r"train_32x32.mat: SHA-256 is .* then call uncpaper.data.download\('svhn'\)"
    with pytest.raises(data.DataCorrupt, match=remedy): data.load("svhn", "train")
    change(monkeypatch, "svhn", sha256={})
    x, y = data.load("svhn", "test")
    assert (x.dtype, y.dtype, y.tolist()) == (torch.uint8, torch.int64, [0, 1, 9])
    assert (x.numpy() == pixels.transpose(3, 2, 0, 1)).all()


@pytest.mark.parametrize("labels, message", [
    (((1,), (2,)), "one label for each of its 3 pictures, it holds 2"), (((1,), (2,), (11,)), "labels of"),
    (((0,), (1,), (2,)), "labels of"),
])
def test_svhn_refuses_other_labels(tmp_path, labels, message):
    svhn(tmp_path / "svhn", labels)
    with pytest.raises(ValueError, match=message): data.read_svhn(tmp_path / "svhn", "train")


def test_svhn_refuses_other_pictures(tmp_path):
    savemat(tmp_path / "train_32x32.mat", {"X": np.zeros((3, 32, 32, 3), np.uint8), "y": np.ones((3, 1), np.uint8)})
    message = r"X of train_32x32.mat must be \(32, 32, 3, n\) uint8, it is \(3, 32, 32, 3\) uint8"
    with pytest.raises(ValueError, match=message): data.read_svhn(tmp_path, "train")


# ---- folders of pictures ----------------------------------------------------------------------------------------

def tiny(folder: Path, size: int = 64) -> Path:
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("n02\nn01\nn03\n")
    pictures = {"val_0.JPEG": ("RGB", (200, 40, 90), "n01"), "val_1.JPEG": ("L", 77, "n03"),
                "val_10.JPEG": ("RGB", (0, 0, 0), "n02")}
    for name, (mode, colour, _) in pictures.items():
        Image.new(mode, (size, size), colour).save(folder / "val" / "images" / name)
    lines = [f"{name}\t{word}\t0\t32\t44\t62" for name, (_, _, word) in reversed(pictures.items())]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_tiny_imagenet(data_folder):
    tiny(data_folder / "tiny-imagenet-200")
    x, y = data.load("tiny-imagenet", "val")
    assert (x.shape, x.dtype, y.tolist()) == ((3, 3, 64, 64), torch.uint8, [1, 2, 0])
    assert x[1].unique().tolist() == [77] and (x[0, :, 5, 5].float() - torch.tensor([200.0, 40, 90])).abs().max() <= 2


def test_tiny_imagenet_from_its_archive(data_folder, tmp_path):
    place = tiny(tmp_path / "tiny-imagenet-200")
    with zipfile.ZipFile(data_folder / "tiny-imagenet-200.zip", "w") as file:
        for path in sorted(place.rglob("*")): file.write(path, path.relative_to(tmp_path))
    assert data.load("tiny-imagenet", "val").y.tolist() == [1, 2, 0]


def test_tiny_imagenet_refuses_what_does_not_fit(data_folder):
    place = tiny(data_folder / "tiny-imagenet-200")
    notes = place / "val" / "val_annotations.txt"
    good = notes.read_text()
    notes.write_text(good.replace("n03", "n04"))
    with pytest.raises(ValueError, match="classes of val_annotations.txt must be in wnids.txt, n04 is not"):
        data.load("tiny-imagenet", "val")
    notes.write_text(good + good.splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="must name each picture once, it names 3 of 3 in 4 lines"):
        data.load("tiny-imagenet", "val")
    notes.write_text("".join(good.splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="must name each picture once, it names 2 of 3 in 2 lines"):
        data.load("tiny-imagenet", "val")
    notes.write_text(good)
    Image.new("RGB", (64, 32)).save(place / "val" / "images" / "val_0.JPEG")
    with pytest.raises(ValueError, match="val_0.JPEG: pictures must be 64 x 64 pixels, it is 64 x 32"):
        data.load("tiny-imagenet", "val")


def imagenet(folder: Path, *shapes: tuple[int, int]) -> list[Path]:
    "A picture a class of smooth noise; the classes are made in reverse order."
    generator, paths = np.random.default_rng(0), []
    for number, shape in reversed(list(enumerate(shapes))):
        paths.insert(0, folder / f"n{number:08}" / "picture.JPEG")
        paths[0].parent.mkdir(parents=True)
        Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(shape).save(paths[0])
    return paths


SHAPES = [(300, 411), (640, 427), (100, 90), (256, 256), (225, 1000)]


def test_imagenet_is_cropped_as_by_torchvision(data_folder):
    from torchvision import transforms
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    paths = imagenet(data_folder / "imagenet" / "val", *SHAPES)
    x, y = data.load("imagenet", "val")
    assert (x.shape, x.dtype, y.tolist()) == ((5, 3, 224, 224), torch.uint8, list(range(5)))
    for path, ours in zip(paths, x): assert (np.array(theirs(Image.open(path))) == ours.permute(1, 2, 0).numpy()).all()


def test_the_first_hundred_classes_of_imagenet_and_700_pictures_of_each(data_folder):
    for part, counts in {"train": {0: 703, 1: 2, 100: 3}, "val": {0: 1, 99: 1, 100: 1}}.items():
        for number in range(101):
            folder = data_folder / "imagenet" / part / f"n{number:08}"
            folder.mkdir(parents=True)
            for i in range(counts.get(number, 1)):
                Image.new("RGB", (80, 73), (number, 0, 0)).save(folder / f"{i:04}.JPEG", quality=95)
    x, y = data.load("imagenet-100", "train")
    assert x.shape == (700 + 2 + 98, 3, 64, 64) and y.bincount().tolist() == [700, 2, *[1] * 98]
    assert (x[:, 0].float().mean((1, 2)) - y).abs().max() <= 3
    assert data.load("imagenet-100", "val").y.tolist() == list(range(100))


def test_small_pictures_of_imagenet_o_are_shrunk_as_those_of_imagenet(data_folder):
    imagenet(data_folder / "imagenet-o", *SHAPES)
    imagenet(data_folder / "imagenet" / "val", *SHAPES)
    imagenet(data_folder / "imagenet" / "train", *SHAPES)
    assert data.load("imagenet-o-64", "test").x.equal(data.load("imagenet-100", "val").x)


def test_a_part_of_imagenet(data_folder):
    imagenet(data_folder / "imagenet-o" / "imagenet-o", *SHAPES[:3])
    files = data.class_files(data_folder / "imagenet-o")
    assert [label for _, label in files] == [0, 1, 2]
    x, y = data.read_pictures(files[1:2], data.centre_crop)
    assert x.shape == (1, 3, 224, 224) and y.tolist() == [1] and data.load("imagenet-o", "test").x[1:2].equal(x)
    with pytest.raises(ValueError, match="files must hold at least one picture"):
        data.read_pictures([], data.centre_crop)


# ---- CelebA -----------------------------------------------------------------------------------------------------

def celebrities(folder: Path, parts: str = "0012") -> list[Path]:
    (folder / "img_align_celeba").mkdir(parents=True)
    generator, paths = np.random.default_rng(0), []
    for number in range(1, len(parts) + 1):
        paths.append(folder / "img_align_celeba" / f"{number:06}.jpg")
        Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((178, 218)).save(paths[-1])
    lines = [f"{path.name} {part}\n" for path, part in zip(paths, parts)]
    (folder / "list_eval_partition.txt").write_text("".join(lines))
    return paths


def test_celeba(data_folder, monkeypatch):
    from torchvision import transforms
    paths = celebrities(data_folder / "celeba")
    with pytest.raises(data.DataCorrupt, match="list_eval_partition.txt: MD5 is .* expected d32c9cbf5e04…"):
        data.load("celeba", "train")
    change(monkeypatch, "celeba", read=data.read_celebrities)
    x, y = data.load("celeba", "train")
    assert (x.shape, x.dtype, y.dtype, y.tolist()) == ((2, 3, 64, 64), torch.uint8, torch.int64, [1, 2])
    theirs = transforms.Resize((64, 64))    # as the paper's code does: no crop
    for path, ours in zip(paths, x): assert (np.array(theirs(Image.open(path))) == ours.permute(1, 2, 0).numpy()).all()
    assert [data.load("celeba", split).y.tolist() for split in ("val", "test")] == [[3], [4]]


def test_celeba_list_is_torchvisions(data_folder, tmp_path):
    from torchvision.datasets import CelebA
    published = {name: md5 for _, md5, name in CelebA.file_list}["list_eval_partition.txt"]
    celebrities(data_folder / "celeba")
    with pytest.raises(data.DataCorrupt, match=f"expected {published[:12]}"): data.load("celeba", "test")


def test_celeba_refuses_what_does_not_fit(tmp_path):
    paths = celebrities(tmp_path / "celeba")
    Image.new("RGB", (178, 178)).save(paths[3])
    with pytest.raises(ValueError, match="000004.jpg: pictures must be 178 x 218 pixels, it is 178 x 178"):
        data.read_celebrities(tmp_path, "test")
    paths[2].unlink()
    with pytest.raises(FileNotFoundError, match="000003.jpg"): data.read_celebrities(tmp_path, "val")
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("image_id,partition\n000001.jpg,0\n")
    with pytest.raises(ValueError, match="must be a picture and 0, 1 or 2, one is 'image_id,partition'"):
        data.read_celebrities(tmp_path, "train")


# ---- Ambiguous-MNIST --------------------------------------------------------------------------------------------

def ambiguous(folder: Path, pictures: torch.Tensor, labels: torch.Tensor) -> Path:
    folder.mkdir(parents=True)
    torch.save(pictures, folder / "amnist_samples.pt")
    torch.save(labels, folder / "amnist_labels.pt")
    return folder


def test_ambiguous_mnist(data_folder, monkeypatch):
    pictures = (torch.arange(6_003).view(-1, 1, 1, 1) / 6_003).expand(-1, 1, 28, 28)
    labels = torch.randint(0, 10, (6_003, 10), generator=torch.Generator().manual_seed(0))
    ambiguous(data_folder / "AmbiguousMNIST", pictures, labels)
    with pytest.raises(data.DataCorrupt, match="amnist_samples.pt: MD5 is .* expected 4f7865093b1d…"):
        data.load("ambiguous-mnist", "train")
    change(monkeypatch, "ambiguous-mnist", read=data.read_ambiguous)
    # as the authors' package does it: every picture ten times, one label each, then cut
    x, y = pictures.expand(-1, 10, 28, 28).reshape(-1, 1, 28, 28), labels.reshape(-1)
    for split, part in (("train", slice(60_000)), ("test", slice(60_000, None))):
        found = data.load("ambiguous-mnist", split)
        assert found.x.dtype == torch.float32 and found.x.equal(x[part]) and found.y.equal(y[part])


@pytest.mark.parametrize("pictures, labels, message", [
    ((3, 28, 28), (3, 10), "must be"), ((3, 1, 28, 28), (3,), "must be"),
    ((3, 1, 28, 28), (2, 10), "one label for each of its 3 pictures"),
])
def test_ambiguous_mnist_refuses_what_does_not_fit(tmp_path, pictures, labels, message):
    place = ambiguous(tmp_path / "a", torch.zeros(pictures), torch.zeros(labels, dtype=torch.int64))
    with pytest.raises(ValueError, match=message): data.read_ambiguous(place, "train")


def test_tensors_that_act_are_refused(tmp_path):
    place = ambiguous(tmp_path / "a", torch.zeros(1, 1, 28, 28), torch.zeros(1, 10))
    torch.save({"x": Calls(os.mkdir, str(tmp_path / "made"))}, place / "amnist_samples.pt")
    with pytest.raises(pickle.UnpicklingError): data.read_ambiguous(place, "train")
    assert not (tmp_path / "made").exists()


# ---- cards ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", BROUGHT)
def test_a_set_that_is_not_there_says_where_to_get_it_and_where_to_put_it(name, data_folder):
    card = data.card(name)
    remedy = "download('svhn')" if name == "svhn" else card.homepage
    with pytest.raises(data.DataMissing) as caught: data.load(name, next(iter(card.splits)))
    message = str(caught.value)
    assert remedy in message and str(data_folder / card.folder) in message and "\n" not in message
    assert not card.embedded and data.digest(name) == hashlib.sha256().hexdigest()


@pytest.mark.parametrize("name", BROUGHT)
def test_git_ignores_what_a_reader_brings(name):
    paths = [DATA / path for path in (f"{data.card(name).folder}/file", *data.card(name).archives)]
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=DATA, capture_output=True, text=True).stdout
    assert ignored.count("\n") == len(paths)


def test_a_missing_file_of_a_set_is_named(data_folder):
    cifar10(data_folder / "cifar-10-batches-py")
    (data_folder / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(data.DataMissing, match=r"cifar-10: no \*\*/data_batch_4 in"): data.load("cifar-10", "test")
    with pytest.raises(data.DataMissing, match="no data_batch_4 in"):
        data.read_cifar10(data_folder / "cifar-10-batches-py", "train")
