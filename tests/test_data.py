"The data sets: what is loaded, what is refused, and what a digest sees."
import dataclasses
import gzip
import hashlib
import io
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

@pytest.mark.parametrize("name, split", [(name, split) for name in ("mnist", "fashion-mnist") for split in ("train", "test")])
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
    lines = ["2011-01-01,winter,1pm,No,,No,,1,2,3,4,0,5,5", "2011-01-01,winter,12am,No,Sat,No,Clear,1,2,3,4,0,1,1", "2011-01-01,winter,12pm,No,Sat,No,Mist,1,2,3,4,0,4,4"]
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
        assert card.name == name and all((card.title, card.splits, card.x, card.y, card.licence, card.citation, card.homepage))
        assert card.title in card._repr_markdown_()
    assert list(data.cards().index) == data.names()


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_folders(name):
    place = DATA / name
    assert data.folder(name) == place and data.missing(name) == []
    assert set(data.checksums(name)) == set(data.card(name).files)
    assert {"LICENSE", "README.md"} <= {path.name for path in place.iterdir()}


# ---- what is refused --------------------------------------------------------------------------------------------

def test_unknown_names():
    with pytest.raises(ValueError, match="name must be one of ambiguous-mnist, bike-sharing, .*wine-white; got 'wine'"): data.load("wine", "all")
    with pytest.raises(ValueError, match="split of mnist must be one of train, test; got 'all'"): data.load("mnist", "all")
    for call in (data.digest, data.folder, data.download, data.missing): pytest.raises(ValueError, call, "wine")


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_flipped_bit_is_refused_and_named(name, data_folder):
    shutil.copytree(DATA / name, data_folder / name)
    split = next(iter(data.card(name).splits))
    data.load(name, split)
    before = data.digest(name)
    for file in data.card(name).files:
        flip(data_folder / name / file)
        with pytest.raises(data.DataCorrupt, match=f"{file}: SHA-256 is .* expected .* `python data/remake.py {name}`"): data.load(name, split)
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
    with pytest.raises(data.DataMissing, match="wine-red: no SHA256SUMS in .*wine-red; restore it"): data.load("wine-red", "all")
    assert len(data.digest("wine-red")) == 64


@pytest.mark.parametrize("name, remedy", [
    ("mnist-full", r"download\('mnist-full'\)"), ("wine-white", r"download\('wine-white'\)"), ("utkface", "https://susanqq.github.io/UTKFace/"),
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
    with pytest.raises(ValueError, match="name 'digits' must be new"): data.register(dataclasses.replace(card, title="Mine"))


# ---- sets that the user brings ----------------------------------------------------------------------------------

def idx(kind: int, *shape: int, content: bytes) -> bytes:
    return struct.pack(f">{1 + len(shape)}I", 0x800 | kind, *shape) + content


@pytest.mark.parametrize("name", ["mnist-full", "fashion-mnist-full"])
def test_full_mnist(name, data_folder, monkeypatch):
    card = data.card(name)
    place = data_folder / card.folder
    place.mkdir(parents=True)
    for stem, n in (("train", 6), ("t10k", 2)):
        (place / f"{stem}-images-idx3-ubyte").write_bytes(idx(3, n, 28, 28, content=bytes(i % 256 for i in range(n * 784))))
        (place / f"{stem}-labels-idx1-ubyte").write_bytes(idx(1, n, content=bytes(range(n))))
    with pytest.raises(data.DataCorrupt, match=r"train-images-idx3-ubyte: SHA-256 is .* delete it, then call .*download"): data.load(name, "train")
    register(monkeypatch, dataclasses.replace(card, sha256={file: data.sha256(place / file) for file in card.files}))
    x, y = data.load(name, "train")
    assert (x.shape, x.dtype, y.tolist(), x.flatten()[300]) == ((6, 1, 28, 28), torch.uint8, list(range(6)), 300 % 256)
    assert data.load(name, "test").x.shape == (2, 1, 28, 28)


def test_checksums_of_full_sets_fit_the_embedded_ones():
    for name in ("mnist", "fashion-mnist"):
        for kind in ("images-idx3", "labels-idx1"):
            content = gzip.decompress((DATA / name / f"t10k-{kind}-ubyte.gz").read_bytes())
            assert hashlib.sha256(content).hexdigest() == data.card(f"{name}-full").sha256[f"t10k-{kind}-ubyte"]


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\x1f\x8b\x08\0", idx(1, 3, content=b"12"), idx(1, 3, content=b"1234"), b"\0\0\x08\x03\0\0", idx(3, 2**31, 2**31, 2**31, content=b"")])
def test_idx_refuses_what_is_not_idx(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="file must"): data.read_idx(tmp_path / "file")


def test_white_wine(data_folder, monkeypatch):
    file = data_folder / "wine-white" / "winequality-white.csv"
    file.parent.mkdir()
    header = "fixed acidity;volatile acidity;citric acid;residual sugar;chlorides;free sulfur dioxide;total sulfur dioxide;density;pH;sulphates;alcohol;quality"
    file.write_text(";".join(f'"{name}"' for name in header.split(";")) + "\n7;0.27;0.36;20.7;0.045;45;170;1.001;3;0.45;8.8;6\n6.3;0.3;0.34;1.6;0.049;14;132;0.994;3.3;0.49;9.5;5\n")
    with pytest.raises(data.DataCorrupt, match="winequality-white.csv: SHA-256 is"): data.load("wine-white", "all")
    register(monkeypatch, dataclasses.replace(data.card("wine-white"), sha256={file.name: data.sha256(file)}))
    x, y = data.load("wine-white", "all")
    assert (x.shape, y.tolist(), x[1, 3]) == ((2, 11), [[6], [5]], torch.tensor(1.6))


def test_wine_refuses_other_columns(tmp_path):
    (tmp_path / "wine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="wine.csv must have 11 measurements and quality"): data.wine_table(tmp_path / "wine.csv")


def test_white_wine_checksum():
    assert data.card("wine-white").sha256["winequality-white.csv"].startswith("76c3f809")


def faces(folder: Path, ages) -> Path:
    folder.mkdir(parents=True)
    for age in ages: Image.new("RGB", (200, 200), (2 * age, 0, 0)).save(folder / f"{age}_1_4_20170109{age:09}.jpg.chip.jpg")
    return folder


def test_faces(data_folder):
    place = faces(data_folder / "UTKFace", range(1, 101))
    for name in ("61_1_20170109142408075.jpg.chip.jpg", "portrait.jpg"): Image.new("RGB", (200, 200)).save(place / name)
    with pytest.warns(UserWarning, match="2 of 102 files left out"): train = data.load("utkface", "train")
    with pytest.warns(UserWarning): test = data.load("utkface", "test")
    assert (train.x.shape, train.x.dtype, train.y.shape, test.x.shape) == ((80, 3, 200, 200), torch.uint8, (80, 1), (20, 3, 200, 200))
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


# ---- unpacking --------------------------------------------------------------------------------------------------

def tar_of(path: Path, *entries: tuple[str, dict, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, fields, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for key, value in fields.items(): setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(content))
    return path


def zip_of(path: Path, *entries: tuple[str, int, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, mode, content in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, content)
    return path


TAR_ATTACKS = {
    "parent": [("../evil", {}, b"x")], "parent inside": [("a/../../evil", {}, b"x")], "absolute": [("/tmp/evil", {}, b"x")],
    "backslash": [("..\\evil", {}, b"x")], "drive": [("C:\\evil", {}, b"x")],
    "symlink": [("evil", dict(type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")],
    "symlink then file": [("d", dict(type=tarfile.SYMTYPE, linkname=".."), b""), ("d/evil", {}, b"x")],
    "hard link": [("good", {}, b"x"), ("evil", dict(type=tarfile.LNKTYPE, linkname="good"), b"")],
    "device": [("evil", dict(type=tarfile.CHRTYPE), b"")], "fifo": [("evil", dict(type=tarfile.FIFOTYPE), b"")],
    "bomb": [("evil", {}, bytes(2_000_000))], "bomb of many": [(f"evil{i}", {}, bytes(600_000)) for i in range(2)],
}
ZIP_ATTACKS = {
    "parent": [("../evil", 0o100644, b"x")], "absolute": [("/tmp/evil", 0o100644, b"x")], "backslash": [("..\\evil", 0, b"x")],
    "symlink": [("evil", 0o120777, b"/etc/passwd")], "device": [("evil", 0o020666, b"")], "bomb": [("evil", 0o100644, bytes(2_000_000))],
}


@pytest.mark.parametrize("make, attack", [(tar_of, e) for e in TAR_ATTACKS.values()] + [(zip_of, e) for e in ZIP_ATTACKS.values()],
                         ids=[f"tar {k}" for k in TAR_ATTACKS] + [f"zip {k}" for k in ZIP_ATTACKS])
def test_attacks_are_refused_and_leave_nothing(make, attack, tmp_path):
    (tmp_path / "in").mkdir()
    archive = make(tmp_path / "archive", *attack)
    with pytest.raises(ValueError, match="archive must|files must"): data.unpack(archive, tmp_path / "in" / "target", 1_000_000)
    assert list((tmp_path / "in").iterdir()) == [] and {path.name for path in tmp_path.iterdir()} == {"in", "archive"}


def test_size_is_counted_not_believed(tmp_path):
    "A zip whose directory says 10 bytes a file but which holds 2 MB."
    archive = zip_of(tmp_path / "liar.zip", ("evil", 0o100644, bytes(2_000_000)))
    content = archive.read_bytes().replace(struct.pack("<I", 2_000_000), struct.pack("<I", 10))
    archive.write_bytes(content)
    with pytest.raises((ValueError, zipfile.BadZipFile)): data.unpack(archive, tmp_path / "target", 1_000_000)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("make, entries", [(tar_of, [("d/a", {}, b"one"), ("b", {}, b"two")]), (zip_of, [("d/a", 0o100644, b"one"), ("b", 0, b"two")])])
def test_good_archives(make, entries, tmp_path):
    target = data.unpack(make(tmp_path / "archive", *entries), tmp_path / "new" / "target", 6)
    assert {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()} == {"d/a": b"one", "b": b"two"}
    with pytest.raises(FileExistsError): data.unpack(tmp_path / "archive", target)


def test_broken_archives_leave_nothing(tmp_path):
    archive = tar_of(tmp_path / "whole", ("a", {}, os.urandom(100_000)))
    (tmp_path / "half").write_bytes(archive.read_bytes()[:50_000])
    (tmp_path / "text").write_text("no archive")
    with pytest.raises((ValueError, EOFError, tarfile.ReadError)): data.unpack(tmp_path / "half", tmp_path / "target")
    with pytest.raises(ValueError, match="archive must be a tar or zip file, text is neither"): data.unpack(tmp_path / "text", tmp_path / "target")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "half", "text"}


# ---- downloading ------------------------------------------------------------------------------------------------

@pytest.fixture
def served(data_folder, tmp_path, monkeypatch):
    "The red wines as a set that is downloaded, packed, from an address on this machine."
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    content = (DATA / "wine-red" / "winequality-red.csv").read_bytes()
    (tmp_path / "red.csv.gz").write_bytes(gzip.compress(content))
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None, "__init__": lambda self, *a: SimpleHTTPRequestHandler.__init__(self, *a, directory=tmp_path)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/red.csv.gz"
    card = dataclasses.replace(
        data.card("wine-white"), name="served", folder="served", read=data.read_red_wine, files=("winequality-red.csv",),
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
    assert "could not download https://" in message and str(data_folder / "wine-white") in message and "winequality-white.csv" in message


@pytest.mark.parametrize("name", ["utkface", "mnist", "digits"])
def test_sets_without_address_are_not_downloaded(name):
    with pytest.raises(ValueError, match="name must be one of fashion-mnist-full, mnist-full, svhn, wine-white; got"): data.download(name)


# ---- splitting and scaling --------------------------------------------------------------------------------------

@given(st.integers(1, 200), st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(0, 2**31))
def test_split_is_disjoint_and_seeded(n, sizes, seed):
    if sum(sizes) > n:
        with pytest.raises(ValueError, match="sizes must"): data.shuffled_split(n, sizes, seed)
        return
    parts = data.shuffled_split(n, sizes, seed)
    every = torch.cat(parts)
    assert [len(part) for part in parts] == sizes and len(every.unique()) == len(every) and ((every >= 0) & (every < n)).all()
    assert every.equal(torch.cat(data.shuffled_split(n, sizes, seed)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=120), st.integers(0, 2**31), st.data())
def test_grouped_split_keeps_groups_whole(groups, seed, draw):
    groups = torch.tensor(groups)
    sizes = groups.bincount()
    chosen = torch.tensor(draw.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))))
    first = int(sizes[chosen].sum())    # reachable with whole groups, for sure
    parts = data.shuffled_split(len(groups), (first, len(groups) - first), seed, groups)
    assert [len(part) for part in parts] == [first, len(groups) - first] and len(torch.cat(parts).unique()) == len(groups)
    assert not set(groups[parts[0]].tolist()) & set(groups[parts[1]].tolist())


def test_split_errors():
    with pytest.raises(ValueError, match="sizes must be >= 0"): data.shuffled_split(5, (6, -1), 0)
    with pytest.raises(ValueError, match=r"groups must have shape \(4,\)"): data.shuffled_split(4, (2,), 0, torch.zeros(3))
    with pytest.raises(ValueError, match="sizes must be sums of whole groups"): data.shuffled_split(4, (3, 1), 0, torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize("seed", range(5))
def test_wine_splits_share_no_row(seed):
    x = data.load("wine-red", "all").x
    train, test = data.shuffled_split(1599, (1199, 400), seed, data.duplicate_groups(x))
    assert len(x[train].unique(dim=0)) + len(x[test].unique(dim=0)) == 1359


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(2, 5), st.integers(0, 1000))
def test_standardiser(n, features, seed):
    x = torch.randn(n, features, generator=torch.Generator().manual_seed(seed)) * torch.arange(features) + 50
    fitted = data.Standardiser.fit(x)
    z = fitted.apply(x)
    assert (z[:, 0] == 0).all() and torch.allclose(fitted.invert(z), x, atol=1e-3)
    rounding = 1e-5 / float(fitted.std.min())    # of a float32 near 50, in standard deviations: large where two rows almost agree
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
    "uncpaper.data in a fresh interpreter: neither pandas, scikit-learn nor PIL until they are needed."
    code = "import sys, uncpaper.data; print(*sorted({'pandas', 'sklearn', 'PIL', 'fastcore', 'nbdev', 'torchvision'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
