"The data sets: what is loaded, what is refused, and what a digest sees."
import dataclasses
import gzip
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from uncpaper import data

DATA = data.roots()[-1]
EMBEDDED = [name for name in data.names() if data.card(name).embedded]


@pytest.fixture
def wine(data_folder) -> Path:
    "A copy of the red wines, to be spoilt."
    shutil.copytree(DATA / "wine-red", data_folder / "wine-red")
    return data_folder / "wine-red" / "winequality-red.csv"


def flip(path: Path, position: int = 1000) -> None:
    "Change one bit of a file."
    content = bytearray(path.read_bytes())
    content[min(position, len(content) - 1)] ^= 1
    path.write_bytes(content)


def register(monkeypatch, card: data.DataSet) -> None:
    monkeypatch.setitem(data.registry, card.name, card)


# ---- what is loaded ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_pictures(name, split):
    x, y = data.load(name, split)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((10_000, 1, 28, 28), torch.uint8, (10_000,), torch.int64)
    assert (int(x.min()), int(x.max()), y.unique().tolist()) == (0, 255, list(range(10)))


def test_class_counts():
    assert data.load("mnist", "train").y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.load("mnist", "test").y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.load("fashion-mnist", "test").y.bincount().tolist() == [1000] * 10


def test_digits():
    from sklearn.datasets import load_digits
    x, y = data.load("digits", "all")
    assert (x.shape, x.dtype, y.dtype) == ((1797, 1, 8, 8), torch.uint8, torch.int64)
    assert (x[:, 0].numpy() == load_digits().images).all()


def test_bikes():
    x, y = data.load("bike-sharing", "all")
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((17_379, 19), torch.float32, (17_379, 1), torch.float32)
    assert y.mean() == pytest.approx(189.463, abs=1e-3) and y.std() == pytest.approx(181.388, abs=1e-3)
    assert x.isfinite().all()
    # 2011-01-01, a Saturday at midnight, clear, 16 rentals; the last hour of 2012, a Monday, 49 rentals
    assert x[0, :5].tolist() == [0, 1, 0, 1, 0] and x[0, 5:12].tolist() == [0, 0, 0, 0, 0, 1, 0] and y[0] == 16
    assert x[-1, 0] == 1 and x[-1, 5:12].tolist() == [1, 0, 0, 0, 0, 0, 0] and y[-1] == 49
    circle = x[:, 1:5].double()
    assert torch.allclose(circle[:, 0] ** 2 + circle[:, 1] ** 2, torch.ones(()).double(), atol=1e-6)
    assert set(x[:, 14].tolist()) == {1, 2, 3, 4}


def test_bike_weather_is_that_of_the_hour_before(tmp_path):
    header = "dteday,season,hr,holiday,weekday,workingday,weathersit,temp,atemp,hum,windspeed,casual,registered,cnt\n"
    lines = ["2011-01-01,winter,1pm,No,,No,,1,2,3,4,0,5,5", "2011-01-01,winter,12am,No,Sat,No,Clear,1,2,3,4,0,1,1",
             "2011-01-01,winter,12pm,No,Sat,No,Mist,1,2,3,4,0,4,4"]
    (tmp_path / "bikes.csv").write_text(header + "\n".join(lines) + "\n")
    rows = data.bike_rows(tmp_path / "bikes.csv")
    assert rows.time.dt.hour.tolist() == [0, 12, 13] and rows.weathersit.tolist() == [1, 2, 2]
    assert data.bike_features(rows)["Saturday"].tolist() == [1, 1, 1]


def test_red_wine():
    x, y = data.load("wine-red", "all")
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1599, 11), torch.float32, (1599, 1), torch.float32)
    assert y.flatten().long().bincount()[3:].tolist() == [10, 53, 681, 638, 199, 18]
    assert len(x.unique(dim=0)) == 1359


def test_cards_are_complete():
    for name in data.names():
        card = data.card(name)
        said = card.title, card.splits, card.x, card.y, card.licence, card.citation, card.homepage
        assert card.name == name and all(said)
        assert card.title in card._repr_markdown_()
    assert list(data.cards().index) == data.names()


@pytest.mark.parametrize("name", [name for name in data.names() if data.card(name).channels])
def test_cards_of_pictures_say_one_thing_in_words_and_numbers(name):
    card = data.card(name)
    assert f"(n, {card.channels}, {card.size}, {card.size})" in card.x
    assert card.peak in ((1.0,) if "float32" in card.x else (255, 16)) and card.facts[:2] == (card.size, card.channels)


@pytest.mark.parametrize("name", [*EMBEDDED, "digits"])
def test_what_cards_say_is_true_of_what_is_loaded(name):
    card = data.card(name)
    parts = [data.load(name, split) for split in card.splits]
    assert [len(x) for x, _ in parts] == list(card.splits.values()) and all(len(x) == len(y) for x, y in parts)
    if not card.channels: assert card.facts == (None,) * 4 and all(x.ndim == 2 for x, _ in parts)
    else:
        for x, y in parts:
            assert x.shape[1:] == (card.channels, card.size, card.size)
            assert (int(x.min()), float(x.max())) == (0, card.peak)
            assert y.unique().tolist() == list(range(card.classes))


def test_parts_of_the_digits_share_no_picture():
    every, train, test = (data.load("digits", split) for split in ("all", "train", "test"))
    rows = torch.cat(data.shuffled_split(1797, (1200, 597), seed=0))
    assert torch.cat([train.x, test.x]).equal(every.x[rows]) and torch.cat([train.y, test.y]).equal(every.y[rows])


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_folders(name):
    place = DATA / name
    assert data.folder(name) == place and data.missing(name) == []
    assert set(data.checksums(name)) == set(data.card(name).files)
    assert {"LICENSE", "README.md"} <= {path.name for path in place.iterdir()}


# ---- what is refused --------------------------------------------------------------------------------------------

def test_unknown_names():
    with pytest.raises(ValueError, match="name must be one of ambiguous-mnist, bike-sharing, .*wine-white; got 'wine'"):
        data.load("wine", "all")
    with pytest.raises(ValueError, match="split of mnist must be one of train, test; got 'all'"):
        data.load("mnist", "all")
    for call in (data.digest, data.folder, data.download, data.missing): pytest.raises(ValueError, call, "wine")


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_flipped_bit_is_refused_and_named(name, data_folder):
    shutil.copytree(DATA / name, data_folder / name)
    split = next(iter(data.card(name).splits))
    data.load(name, split)
    before = data.digest(name)
    for file in data.card(name).files:
        flip(data_folder / name / file)
        with pytest.raises(data.DataCorrupt, match=f"{file}: SHA-256 is .* expected .* `python data/remake.py {name}`"):
            data.load(name, split)
        assert data.digest(name) != before
        shutil.copy(DATA / name / file, data_folder / name / file)
        assert data.digest(name) == before
    data.load(name, split)


def test_a_file_that_is_gone_is_named(wine):
    wine.unlink()
    (wine.parent / "SHA256SUMS").unlink()
    assert data.folder("wine-red") == DATA / "wine-red"    # nothing of it is left here, so the project's own is found
    data.load("wine-red", "all")


def test_missing_checksums_are_named(wine):
    (wine.parent / "SHA256SUMS").unlink()
    with pytest.raises(data.DataMissing, match="wine-red: no SHA256SUMS in .*wine-red; restore it"):
        data.load("wine-red", "all")
    assert len(data.digest("wine-red")) == 64


@pytest.mark.parametrize("name, remedy", [
    ("mnist-full", r"download\('mnist-full'\)"), ("wine-white", r"download\('wine-white'\)"),
    ("utkface", "https://susanqq.github.io/UTKFace/"),
])
def test_missing_set_says_where_to_get_it_and_where_to_put_it(name, remedy, data_folder):
    with pytest.raises(data.DataMissing, match=remedy) as caught: data.load(name, next(iter(data.card(name).splits)))
    assert isinstance(caught.value, FileNotFoundError)
    assert str(data_folder / data.card(name).folder) in str(caught.value) and "\n" not in str(caught.value)


# ---- digests, listening -----------------------------------------------------------------------------------------

def test_digest_is_of_the_files_now(wine):
    first = data.digest("wine-red")
    listing = f"{hashlib.sha256(wine.read_bytes()).hexdigest()}  winequality-red.csv\n"
    assert first == hashlib.sha256(listing.encode()).hexdigest()
    (wine.parent / "README.md").write_text("other words")
    assert data.digest("wine-red") == first
    flip(wine)
    assert data.digest("wine-red") != first


def test_digest_reads_a_settled_file_once(monkeypatch):
    data.digest("wine-red")
    monkeypatch.setattr(data.archives, "time_ns", lambda: 2**62)
    data.digest("wine-red")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    data.digest("wine-red")
    data.load("wine-red", "all")


def test_digest_sees_changes_that_keep_size_and_time(wine):
    digests, found = set(), wine.stat()
    for position in range(20):
        flip(wine, position)
        os.utime(wine, ns=(found.st_atime_ns, found.st_mtime_ns))
        digests.add(data.digest("wine-red"))
    assert len(digests) == 20


def test_digest_of_absent_and_packaged_sets(data_folder):
    assert len({data.digest(name) for name in data.names()}) >= 6
    assert data.digest("utkface") == hashlib.sha256().hexdigest()
    assert data.digest("digits") == data.digest("digits")


def test_loading_collects_names():
    with data.loading() as outer:
        data.load("wine-red", "all")
        with data.loading() as inner: data.load("digits", "all")
        pytest.raises(ValueError, data.load, "digits", "validation")
    data.load("bike-sharing", "all")
    assert (outer, inner) == ({"wine-red", "digits"}, {"digits"})


def test_register_refuses_a_taken_name():
    card = data.card("digits")
    assert data.register(card) is card
    with pytest.raises(ValueError, match="name 'digits' must be new"):
        data.register(dataclasses.replace(card, title="Mine"))


# ---- sets that the user brings ----------------------------------------------------------------------------------

def idx(kind: int, *shape: int, content: bytes) -> bytes:
    return struct.pack(f">{1 + len(shape)}I", 0x800 | kind, *shape) + content


@pytest.mark.parametrize("name", ["mnist-full", "fashion-mnist-full"])
def test_full_mnist(name, data_folder, monkeypatch):
    card = data.card(name)
    place = data_folder / card.folder
    place.mkdir(parents=True)
    for stem, n in (("train", 6), ("t10k", 2)):
        pixels = bytes(i % 256 for i in range(n * 784))
        (place / f"{stem}-images-idx3-ubyte").write_bytes(idx(3, n, 28, 28, content=pixels))
        (place / f"{stem}-labels-idx1-ubyte").write_bytes(idx(1, n, content=bytes(range(n))))
    remedy = "train-images-idx3-ubyte: SHA-256 is .* delete it, then call .*download"
    with pytest.raises(data.DataCorrupt, match=remedy): data.load(name, "train")
    register(monkeypatch, dataclasses.replace(card, sha256={file: data.sha256(place / file) for file in card.files}))
    x, y = data.load(name, "train")
    assert (x.shape, x.dtype, y.tolist(), x.flatten()[300]) == ((6, 1, 28, 28), torch.uint8, list(range(6)), 300 % 256)
    assert data.load(name, "test").x.shape == (2, 1, 28, 28)


def test_checksums_of_full_sets_fit_the_embedded_ones():
    for name in ("mnist", "fashion-mnist"):
        for kind in ("images-idx3", "labels-idx1"):
            content = gzip.decompress((DATA / name / f"t10k-{kind}-ubyte.gz").read_bytes())
            assert hashlib.sha256(content).hexdigest() == data.card(f"{name}-full").sha256[f"t10k-{kind}-ubyte"]


@pytest.mark.parametrize("content", [
    b"", b"\0\0", b"\x1f\x8b\x08\0", idx(1, 3, content=b"12"), idx(1, 3, content=b"1234"), b"\0\0\x08\x03\0\0",
    idx(3, 2**31, 2**31, 2**31, content=b""),
])
def test_idx_refuses_what_is_not_idx(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="file must"): data.read_idx(tmp_path / "file")


def test_white_wine(data_folder, monkeypatch):
    file = data_folder / "wine-white" / "winequality-white.csv"
    file.parent.mkdir()
    header = ("fixed acidity;volatile acidity;citric acid;residual sugar;chlorides;free sulfur dioxide;"
              "total sulfur dioxide;density;pH;sulphates;alcohol;quality")
    rows = "7;0.27;0.36;20.7;0.045;45;170;1.001;3;0.45;8.8;6\n6.3;0.3;0.34;1.6;0.049;14;132;0.994;3.3;0.49;9.5;5\n"
    file.write_text(";".join(f'"{name}"' for name in header.split(";")) + "\n" + rows)
    with pytest.raises(data.DataCorrupt, match="winequality-white.csv: SHA-256 is"): data.load("wine-white", "all")
    register(monkeypatch, dataclasses.replace(data.card("wine-white"), sha256={file.name: data.sha256(file)}))
    x, y = data.load("wine-white", "all")
    assert (x.shape, y.tolist(), x[1, 3]) == ((2, 11), [[6], [5]], torch.tensor(1.6))


def test_wine_refuses_other_columns(tmp_path):
    (tmp_path / "wine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="wine.csv must have 11 measurements and quality"):
        data.wine_table(tmp_path / "wine.csv")


def test_white_wine_checksum():
    assert data.card("wine-white").sha256["winequality-white.csv"].startswith("76c3f809")


def faces(folder: Path, ages) -> Path:
    folder.mkdir(parents=True)
    for age in ages:
        Image.new("RGB", (200, 200), (2 * age, 0, 0)).save(folder / f"{age}_1_4_20170109{age:09}.jpg.chip.jpg")
    return folder


def test_faces(data_folder):
    place = faces(data_folder / "UTKFace", range(1, 101))
    for name in ("61_1_20170109142408075.jpg.chip.jpg", "portrait.jpg"): Image.new("RGB", (200, 200)).save(place / name)
    with pytest.warns(UserWarning, match="2 of 102 files left out"): train = data.load("utkface", "train")
    with pytest.warns(UserWarning): test = data.load("utkface", "test")
    assert (train.x.shape, train.x.dtype, train.y.shape) == ((80, 3, 200, 200), torch.uint8, (80, 1))
    assert test.x.shape == (20, 3, 200, 200)
    assert sorted(torch.cat([train.y, test.y]).flatten().tolist()) == list(range(1, 101))
    assert train.y.flatten().tolist() != sorted(train.y.flatten().tolist())
    for x, y in (train, test): assert ((x[:, 0].float().mean((1, 2)) - 2 * y.flatten()).abs() < 3).all()


def test_faces_keep_their_split_when_folders_move(data_folder):
    place = faces(data_folder / "UTKFace", range(1, 11))
    flat = data.load("utkface", "test").y
    (place / "part1").mkdir()
    for path in list(place.glob("[1-4]_*")): path.rename(place / "part1" / path.name)
    assert data.load("utkface", "test").y.equal(flat)


def test_faces_of_another_size_are_refused(data_folder):
    place = faces(data_folder / "UTKFace", range(1, 6))
    for path in place.iterdir(): Image.new("RGB", (64, 48)).save(path)
    with pytest.raises(ValueError, match="must be 200 x 200 pixels, it is 64 x 48"): data.load("utkface", "train")


def test_face_archive_is_unpacked_beside_itself(data_folder, tmp_path):
    place = faces(tmp_path / "UTKFace", range(1, 6))
    with zipfile.ZipFile(data_folder / "UTKFace.zip", "w") as file:
        for path in place.iterdir(): file.write(path, f"UTKFace/{path.name}")
    first = data.digest("utkface")
    assert data.load("utkface", "train").x.shape == (4, 3, 200, 200)
    assert data.digest("utkface") == first


def test_two_processes_may_unpack_the_same_archive(data_folder, tmp_path, monkeypatch):
    place = faces(tmp_path / "UTKFace", range(1, 6))
    with tarfile.open(data_folder / "UTKFace.tar.gz", "w:gz") as tar: tar.add(place, "UTKFace")
    rename = Path.rename
    def late(self, target):
        "The other process renames its folder a moment before ours does."
        if self.name == "whole": shutil.copytree(self, target)
        return rename(self, target)
    monkeypatch.setattr(Path, "rename", late)
    assert data.load("utkface", "test").x.shape == (1, 3, 200, 200)
    assert {path.name for path in data_folder.iterdir()} == {"UTKFace", "UTKFace.tar.gz"}


def test_first_data_folder_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCPAPER_DATA", os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")]))
    faces(tmp_path / "b" / "UTKFace", [1])
    assert data.folder("utkface") == tmp_path / "b" / "UTKFace"
    faces(tmp_path / "a" / "UTKFace", [1])
    assert data.folder("utkface") == tmp_path / "a" / "UTKFace"
    assert data.folder("mnist") == DATA / "mnist"


# ---- downloading ------------------------------------------------------------------------------------------------

@pytest.fixture
def served(data_folder, tmp_path, monkeypatch):
    "The red wines as a set that is downloaded, packed, from an address on this machine."
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    content = (DATA / "wine-red" / "winequality-red.csv").read_bytes()
    (tmp_path / "red.csv.gz").write_bytes(gzip.compress(content))
    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments): super().__init__(*arguments, directory=tmp_path)
        def log_message(self, *_): pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/red.csv.gz"
    card = dataclasses.replace(
        data.card("wine-white"), name="served", folder="served", read=data.read_red_wine,
        files=("winequality-red.csv",),
        urls={"winequality-red.csv": url}, sha256={"winequality-red.csv": hashlib.sha256(content).hexdigest()})
    register(monkeypatch, card)
    yield card
    server.shutdown()
    server.server_close()


def test_download(served, data_folder):
    pytest.raises(data.DataMissing, data.load, "served", "all")
    assert data.download("served") == data_folder / "served"
    assert data.load("served", "all").x.shape == (1599, 11)
    assert [path.name for path in (data_folder / "served").iterdir()] == ["winequality-red.csv"]
    flip(data_folder / "served" / "winequality-red.csv")
    data.download("served")
    data.load("served", "all")


def test_download_of_other_bytes_keeps_nothing(served, data_folder, monkeypatch):
    register(monkeypatch, dataclasses.replace(served, sha256={"winequality-red.csv": "0" * 64}))
    with pytest.raises(data.DataCorrupt, match="red.csv.gz: SHA-256 is .* nothing was kept"): data.download("served")
    assert list((data_folder / "served").iterdir()) == []


def test_cut_download_keeps_nothing(served, data_folder, tmp_path):
    (tmp_path / "red.csv.gz").write_bytes((tmp_path / "red.csv.gz").read_bytes()[:5000])
    with pytest.raises(data.DataMissing, match="could not download"): data.download("served")
    assert list((data_folder / "served").iterdir()) == []


def test_download_without_network(data_folder, monkeypatch):
    def unreachable(*_, **__): raise socket.gaierror("no name server")
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    with pytest.raises(data.DataMissing) as caught: data.download("wine-white")
    message = str(caught.value)
    for part in ("could not download https://", str(data_folder / "wine-white"), "winequality-white.csv"):
        assert part in message


@pytest.mark.parametrize("name", ["utkface", "mnist", "digits"])
def test_sets_without_address_are_not_downloaded(name):
    with pytest.raises(ValueError, match="name must be one of fashion-mnist-full, mnist-full, svhn, wine-white; got"):
        data.download(name)


# ---- standardising ----------------------------------------------------------------------------------------------

@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(2, 5), st.integers(0, 1000))
def test_standardiser(n, features, seed):
    x = torch.randn(n, features, generator=torch.Generator().manual_seed(seed)) * torch.arange(features) + 50
    fitted = data.Standardiser.fit(x)
    z = fitted.apply(x)
    assert (z[:, 0] == 0).all() and torch.allclose(fitted.invert(z), x, atol=1e-3)
    # of a float32 near 50, in standard deviations: large where two rows almost agree
    rounding = 1e-5 / float(fitted.std.min())
    assert torch.allclose(z.mean(0), torch.zeros(features), atol=1e-3 + rounding)
    if n > 100: assert torch.allclose(z[:, 1:].std(0, correction=0), torch.ones(features - 1), atol=1e-3)


def test_standardiser_of_pictures_and_errors():
    x = data.load("digits", "all").x
    fitted = data.Standardiser.fit(x, over=(0, 1, 2, 3))
    assert fitted.mean.shape == (1, 1, 1, 1) and fitted.mean.item() == pytest.approx(x.double().mean().item())
    assert fitted.std.item() == pytest.approx(x.double().std(correction=0).item())
    with pytest.raises(ValueError, match="over must contain axis 0"): data.Standardiser.fit(x, over=(1,))
    with pytest.raises(ValueError, match="x must have rows"): data.Standardiser.fit(x[:0])


# ---- the script that remakes the files --------------------------------------------------------------------------

def remake(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, DATA / "remake.py", *arguments], capture_output=True, text=True)


def test_remake_check_passes():
    done = remake("--check")
    assert done.returncode == 0 and "all files are as SHA256SUMS says" in done.stdout


def test_remake_check_names_what_differs(tmp_path):
    shutil.copytree(DATA / "wine-red", tmp_path / "wine-red")
    flip(tmp_path / "wine-red" / "winequality-red.csv")
    done = remake("wine-red", "--check", "--into", str(tmp_path))
    assert done.returncode == 1 and "winequality-red.csv: " in done.stdout
    assert remake("--check", "wine").returncode == 2


def test_package_imports_only_what_its_floor_allows():
    "uncpaper.data and pictures in a fresh interpreter: neither pandas, scikit-learn nor PIL until they are needed."
    heavy = {"pandas", "sklearn", "scipy", "PIL", "fastcore", "nbdev", "torchvision"}
    code = f"import sys, uncpaper.data, uncpaper.pictures; print(*sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
