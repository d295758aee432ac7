"Archives: what is unpacked, what is refused, and that nothing is left behind."
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from uncpaper import data


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
    "parent": [("../evil", {}, b"x")], "parent inside": [("a/../../evil", {}, b"x")],
    "absolute": [("/tmp/evil", {}, b"x")],
    "backslash": [("..\\evil", {}, b"x")], "drive": [("C:\\evil", {}, b"x")],
    "symlink": [("evil", dict(type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")],
    "symlink then file": [("d", dict(type=tarfile.SYMTYPE, linkname=".."), b""), ("d/evil", {}, b"x")],
    "hard link": [("good", {}, b"x"), ("evil", dict(type=tarfile.LNKTYPE, linkname="good"), b"")],
    "device": [("evil", dict(type=tarfile.CHRTYPE), b"")], "fifo": [("evil", dict(type=tarfile.FIFOTYPE), b"")],
    "bomb": [("evil", {}, bytes(2_000_000))], "bomb of many": [(f"evil{i}", {}, bytes(600_000)) for i in range(2)],
}
ZIP_ATTACKS = {
    "parent": [("../evil", 0o100644, b"x")], "absolute": [("/tmp/evil", 0o100644, b"x")],
    "backslash": [("..\\evil", 0, b"x")],
    "symlink": [("evil", 0o120777, b"/etc/passwd")], "device": [("evil", 0o020666, b"")],
    "bomb": [("evil", 0o100644, bytes(2_000_000))],
}


ATTACKS = {**{f"tar {k}": (tar_of, e) for k, e in TAR_ATTACKS.items()},
           **{f"zip {k}": (zip_of, e) for k, e in ZIP_ATTACKS.items()}}


@pytest.mark.parametrize("make, attack", ATTACKS.values(), ids=ATTACKS)
def test_attacks_are_refused_and_leave_nothing(make, attack, tmp_path):
    (tmp_path / "in").mkdir()
    archive = make(tmp_path / "archive", *attack)
    with pytest.raises(ValueError, match="archive must|files must"):
        data.unpack(archive, tmp_path / "in" / "target", 1_000_000)
    assert list((tmp_path / "in").iterdir()) == [] and {path.name for path in tmp_path.iterdir()} == {"in", "archive"}


def test_size_is_counted_not_believed(tmp_path):
    "A zip whose directory says 10 bytes a file but which holds 2 MB."
    archive = zip_of(tmp_path / "liar.zip", ("evil", 0o100644, bytes(2_000_000)))
    content = archive.read_bytes().replace(struct.pack("<I", 2_000_000), struct.pack("<I", 10))
    archive.write_bytes(content)
    with pytest.raises((ValueError, zipfile.BadZipFile)): data.unpack(archive, tmp_path / "target", 1_000_000)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("make, entries", [
    (tar_of, [("d/a", {}, b"one"), ("b", {}, b"two")]), (zip_of, [("d/a", 0o100644, b"one"), ("b", 0, b"two")]),
])
def test_good_archives(make, entries, tmp_path):
    target = data.unpack(make(tmp_path / "archive", *entries), tmp_path / "new" / "target", 6)
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {"d/a": b"one", "b": b"two"}
    with pytest.raises(FileExistsError): data.unpack(tmp_path / "archive", target)


def test_broken_archives_leave_nothing(tmp_path):
    archive = tar_of(tmp_path / "whole", ("a", {}, os.urandom(100_000)))
    (tmp_path / "half").write_bytes(archive.read_bytes()[:50_000])
    (tmp_path / "text").write_text("no archive")
    with pytest.raises((ValueError, EOFError, tarfile.ReadError)): data.unpack(tmp_path / "half", tmp_path / "target")
    with pytest.raises(ValueError, match="archive must be a tar or zip file, text is neither"):
        data.unpack(tmp_path / "text", tmp_path / "target")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "half", "text"}
