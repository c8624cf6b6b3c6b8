"""The matrix of bad input, B01 to B52: one test a row, each through the real command on a file as a
person might have it.

What works must give the numbers that the plain form of the same data gives; what does not must end
in lines that say what is wrong, where, and how to mend it: exit code 2 for usage, 3 for refused
data. The details are in the tests of each reader.
"""

from __future__ import annotations

import csv as reader
import json
import os
import shutil
import signal
import socket
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from scipy import sparse
from typer.testing import CliRunner, Result

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import anndata

from taut.cli.app import app
from taut.data import arrays, prepare

DONE, BUG, USAGE, DATA = range(4)
MLP = "MLP(hidden=(8,))"
QUICK = [
    "--latent-dim",
    "2",
    "--encoder",
    MLP,
    "--decoder",
    MLP,
    "--max-epochs",
    "1",
    "--num-samples",
    "5",
    "--threads",
    "1",
]
RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(60, 3))
GREY = RNG.integers(0, 256, (60, 4, 4), dtype=np.uint8)
COUNTS = RNG.poisson(2.0, (60, 7)).astype(np.float32)
X = [f"{x:.3f}" for x in RNG.normal(size=60)]
TABLE = "x,c,k\n" + "".join(f"{x},{'abc'[i % 3]},{i % 7}\n" for i, x in enumerate(X))


@pytest.fixture(autouse=True)
def _alone(_seeded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    for variable in [v for v in os.environ if v.startswith("TAUT_")]:
        monkeypatch.delenv(variable)
    yield
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a table, of an array of real numbers and of counts, and their data."""
    folder = tmp_path_factory.mktemp("made")
    before, threads, handler = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        signal.getsignal(signal.SIGTERM),
    )
    torch.set_default_dtype(torch.float32)
    (folder / "table.csv").write_text(TABLE)
    np.save(folder / "real.npy", REAL)
    np.save(folder / "counts.npy", COUNTS)
    for name, flags in (("table.csv", []), ("real.npy", []), ("counts.npy", ["--kind", "count"])):
        out = folder / f"run-{name.partition('.')[0]}"
        result = call("fit", folder / name, "--out", out, *QUICK, *flags)
        assert result.exit_code == DONE, result.stderr
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)
    return folder


def call(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env=environment)


def refused(arguments: Sequence[object], *words: str, code: int = DATA, lines: int = 1) -> None:
    """Asserts that a command ends in an exit code and lines that hold the words, and shows nothing
    else.
    """
    result = call(*arguments)
    shown = [line for line in result.stderr.splitlines() if line.startswith("taut: ")]
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert len(shown) == lines, shown
    for word in words:
        assert word in "\n".join(shown), (word, shown)


def checked(*arguments: object) -> dict[str, Any]:
    """Returns what ``taut check`` found."""
    result = call("check", *arguments, "--json")
    assert result.exit_code == DONE, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def noted(found: dict[str, Any], *words: str) -> None:
    """Asserts that one note holds all of the words."""
    assert any(all(word in note for word in words) for note in found["notes"]), found["notes"]


def kinds(found: dict[str, Any]) -> dict[str, str]:
    return {column["name"]: column["kind"] for column in found["schema"]["columns"]}


def column(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(c for c in found["schema"]["columns"] if c["name"] == name)


def npy(array: np.ndarray, name: str = "a.npy") -> str:
    with Path(name).open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=array.dtype == object)
    return name


def csv(content: str | bytes, name: str = "a.csv") -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def table(name: str = "a.parquet", **columns: Any) -> str:
    parquet.write_table(pa.table(columns), name)
    return name


def folder(
    name: str = "images", count: int = 12, mode: str = "L", size: tuple[int, int] = (6, 5)
) -> Path:
    """Makes a folder of PNG files, always with the same content for the same arguments."""
    path, rng = Path(name), np.random.default_rng(1)
    path.mkdir()
    for i in range(count):
        image = Image.fromarray(rng.integers(0, 256, (*size, 4), dtype=np.uint8))
        (image if mode.endswith("A") else image.convert("RGB")).convert(mode).save(
            path / f"{i:02d}.png"
        )
    return path


# ----------------------------------------------------------------------------------- paths, folders


def test_B01_missing_no_permission_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    csv(TABLE, "table.csv")
    refused(
        ["check", "tabel.csv"], "tabel.csv: no such file", "did you mean table.csv?", code=USAGE
    )
    refused(["fit", "nowhere/a.npy"], "nowhere/a.npy", "its folder does not exist", code=USAGE)
    refused(["check", "x" * 5000], "cannot be read (File name too long)", code=USAGE)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("a.npy")
        refused(["check", "a.npy"], "a.npy: is not a regular file", code=USAGE)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    refused(["check", "table.csv"], "table.csv: cannot be read (Permission denied)", code=USAGE)


def test_B02_empty_folder_no_images_only_hidden_files() -> None:
    Path("empty").mkdir()
    refused(["check", "empty"], "empty: the folder is empty", ".png")
    Path("texts").mkdir()
    for name in ("a.txt", "b.txt", "c.md"):
        Path("texts", name).write_text("x")
    refused(["check", "texts"], "3 other files (.txt: 2, .md: 1)", "give one with files", ".png")
    Path("hidden").mkdir()
    Path("hidden", ".a.png").write_bytes(b"x")
    refused(["check", "hidden"], "no images, but 1 hidden entry", ".png")


def test_B03_few_rows() -> None:
    refused(["check", npy(REAL[:9])], "9 rows are too few: at least 10 are needed; give more data")
    refused(
        ["check", csv("\n".join(TABLE.splitlines()[:6]))],
        "5 rows are too few: at least 10 are needed; give more data",
    )
    folder("nine", 9)
    refused(["check", "nine"], "9 rows are too few: at least 10 are needed")
    for name in (
        npy(REAL[:12]),
        csv("\n".join(TABLE.splitlines()[:13])),
        str(folder("twelve", 12)),
    ):
        result = call("check", name)
        assert result.exit_code == DONE
        lines = dict(
            line.split(maxsplit=1)
            for line in result.stdout.splitlines()
            if line and not line.startswith(" ")
        )
        latent = int(lines["posterior"].split(", ")[1].split()[0])
        train = int(lines["rows"].split()[1].strip(","))
        assert (
            f"{train} training rows are fewer than 10 for each of {latent} latent dimensions"
            in result.stdout
        )
    assert checked(npy(REAL))["notes"] == []  # 48 training rows, two latent dimensions


# ------------------------------------------------------------------------------------------- images


def test_B04_truncated_jpeg() -> None:
    Path("images").mkdir()
    for i in range(12):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32), dtype=np.uint8)).save(
            f"images/{i:02d}.jpg"
        )
    whole = Path("images/07.jpg").read_bytes()
    Path("images/07.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    refused(
        ["check", "images"],
        "1 of 12 images (8.33 %) cannot be read",
        "--skip-bad",
        "07.jpg (image file is truncated",
        lines=2,
    )
    refused(
        ["check", "images", "--skip-bad", "0.05"], "1 of 12 images (8.33 %) cannot be read", lines=2
    )
    found = checked("images", "--skip-bad", "0.1")
    assert sum(found["rows"].values()) == 11
    noted(found, "omitted 1 of 12 images that cannot be read", "07.jpg")


def test_B05_text_named_png() -> None:
    folder()
    Path("images/03.png").write_text("I am a text")
    refused(
        ["check", "images"],
        "1 of 12 images",
        "03.png (is none of PNG, JPEG",
        "whatever its name says",
        lines=2,
    )


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes(999)))
        + chunk(b"IEND", b"")
    )


def test_B06_image_of_300_million_pixels() -> None:
    folder()
    # the second is one that Pillow would only warn of
    for width, height in ((20_000, 15_000), (10_000, 10_000)):
        Path("images/03.png").write_bytes(png_claiming(width, height))
        refused(
            ["check", "images"], "03.png (claims", "more than 64 million", "scale it down", lines=2
        )


def test_B07_mixed_sizes() -> None:
    # by decision the flags are --resize and --crop
    shutil.copytree(folder("large", 3, size=(12, 10)), "images")
    for path in folder("small", 9).iterdir():
        shutil.copy(path, f"images/s{path.name}")
    refused(
        ["check", "images"],
        "images of 2 sizes (height x width): 6x5: 9, 12x10: 3",
        "--resize",
        "--crop",
    )
    scaled = checked("images", "--resize", "6x5")
    assert scaled["schema"]["event_shape"] == [6, 5]
    noted(scaled, "3 of 12 images scaled to 6x5")
    noted(checked("images", "--crop"), "3 of 12 images cut to their centre, 6x5")
    refused(["check", "images", "--resize", "0x5"], "--resize 0x5", code=USAGE)


MODES: list[tuple[str, Sequence[str], Sequence[int], str]] = [
    ("L", (), [6, 5], ""),
    ("RGB", (), [6, 5, 3], "6 of 12 images grey, made RGB like the coloured ones"),
    ("P", (), [6, 5, 3], "6 of 12 images grey, made RGB"),
    ("RGBA", ("--alpha", "drop"), [6, 5, 3], "6 of 12 images with transparency dropped"),
    ("RGBA", ("--alpha", "composite"), [6, 5, 3], "6 of 12 images with transparency laid on white"),
    ("LA", ("--alpha", "drop"), [6, 5], "6 of 12 images with transparency dropped"),
    ("1", (), [6, 5], "6 of 12 images with fewer levels, stretched to 0..255"),
]


def test_B08_mixed_modes() -> None:
    for i, (mode, flags, shape, note) in enumerate(MODES):
        path = folder(f"f{i}", 6)
        for other in folder(f"g{i}", 6, mode).iterdir():
            shutil.copy(other, path / f"x{other.name}")
        found = checked(path, *flags)
        assert found["schema"]["event_shape"] == shape
        if note:
            noted(found, note)
        if flags:
            refused(
                ["check", path],
                "6 images with transparent pixels",
                "--alpha drop",
                "--alpha composite",
            )
    Path("cmyk").mkdir()
    for i in range(12):
        Image.fromarray(
            np.random.default_rng(i).integers(0, 256, (6, 5, 4), dtype=np.uint8), "CMYK"
        ).save(f"cmyk/{i}.tif")
    noted(checked("cmyk"), "12 of 12 images converted from CMYK to RGB")


def test_B09_sixteen_bits() -> None:
    # by decision they are not divided by 65535: levels stay levels, every one of them
    levels = RNG.integers(0, 65_536, (12, 6, 5)).astype(np.uint16)
    levels[0, 0, :2] = 0, 65_535
    Path("deep").mkdir()
    for i, one in enumerate(levels):
        Image.fromarray(one).save(f"deep/{i:02d}.png")
    found = checked("deep")
    assert (found["schema"]["kind"], found["schema"]["low"], found["schema"]["high"]) == (
        "levels",
        0,
        65_535,
    )
    assert found["fingerprint"] == checked(npy(levels))["fingerprint"]
    shutil.copy(folder() / "00.png", "deep/99.png")
    refused(
        ["check", "deep"],
        "16 bits a pixel and 1 of 8, such as 99.png (8)",
        "save all with the same depth",
    )


def test_B10_orientation() -> None:
    upright = folder("upright", 12, size=(6, 6))
    Path("turned").mkdir()
    for path in upright.iterdir():
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned a quarter clockwise
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_90).save(f"turned/{path.name}", exif=exif)
    found = checked("turned")
    assert found["fingerprint"] == checked("upright")["fingerprint"]
    noted(found, "12 of 12 images turned upright, as their EXIF orientation says")


def test_B11_several_frames() -> None:
    first, second = (
        sorted(folder(name, 12, mode).iterdir()) for name, mode in (("first", "L"), ("second", "1"))
    )
    Path("pages").mkdir()
    for a, b in zip(first, second, strict=True):
        with Image.open(a) as one, Image.open(b) as two:
            one.save(f"pages/{a.stem}.tif", save_all=True, append_images=[two.convert("L")])
    found = checked("pages")
    assert found["fingerprint"] == checked("first")["fingerprint"]
    noted(found, "12 of 12 images with several frames or pages: only the first is read")
    Path("animated").mkdir()
    for a, b in zip(first, second, strict=True):
        with Image.open(a) as one, Image.open(b) as two:
            one.save(f"animated/{a.stem}.gif", save_all=True, append_images=[two.convert("L")])
    noted(
        checked("animated"), "12 of 12 images with several frames or pages: only the first is read"
    )


def test_B12_links_that_loop_and_names_that_are_no_text() -> None:
    # a million files are listed the same way, by os.scandir
    path = folder()
    (path / "sub").mkdir()
    (path / "sub" / "loop").symlink_to(path.absolute(), target_is_directory=True)
    (path / "self").symlink_to("self")
    (path / "00.png").rename(path / os.fsdecode(b"caf\xe9.png"))
    found = checked("images")
    assert sum(found["rows"].values()) == 12
    noted(found, "omitted 1 linked folder already read")
    (path / os.fsdecode(b"\xff\x1b[31m.png")).write_bytes(b"x")
    refused(["check", "images"], "1 of 13 images", r"\x1b[31m.png", lines=2)


def test_B13_duplicates_stay_on_one_side() -> None:
    path = folder("images", 40)
    for i in range(20):
        shutil.copy(path / f"{i:02d}.png", path / f"again{i:02d}.png")
    copies = csv(TABLE + "".join(line + "\n" for line in TABLE.splitlines()[1:31]))
    for name, line in (
        ("images", "20 of 60 rows (33.3 %) repeat another"),
        (copies, "30 of 90 rows (33.3 %) repeat another"),
    ):
        found = checked(name)
        noted(found, line, "copies stay on one side")
        data = prepare(name)
        parts = [
            {row.numpy().tobytes() for row in part[:]}
            for part in (data.train, data.validation, data.test)
        ]
        assert all(parts[0].isdisjoint(other) for other in parts[1:])
        assert parts[1].isdisjoint(parts[2])
        assert found["rows"] == {
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
        }
    survey = csv("a,b\n" + "yes,no\n" * 60 + "no,no\n" * 30 + "no,yes\n" * 10)
    found = checked(survey)
    noted(
        found,
        "97 of 100 rows (97 %) repeat another",
        "the 100 that occur more than 4 times (the commonest are 60 % of all)",
    )
    assert found["rows"] == {"train": 80, "validation": 10, "test": 10}
    noted(checked(survey, "--split", "rows"), "each is split by itself")
    noted(checked(survey, "--split", "copies"), "copies stay on one side")
    line = "unknown 'row'; did you mean 'rows'? Choose from rows, copies"
    refused(["check", survey, "--split", "row"], line, code=USAGE)


# ------------------------------------------------------------------------------------------- arrays


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("unpickled",)


def test_B14_object_array() -> None:
    refused(
        ["check", npy(np.array([Bomb()], dtype=object))],
        "a.npy: holds Python objects",
        "never unpickles",
        ".astype('float32')",
    )
    assert not Path("unpickled").exists()


def test_B15_header_claims_8_terabytes() -> None:
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"
    Path("a.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(80)
    )
    refused(
        ["check", "a.npy"],
        "claims shape (1000000, 1000000), 8000000000000 bytes, but 80 bytes follow",
        "numpy.save",
    )


def test_B16_truncated_empty_0d_5d() -> None:
    whole = Path(npy(GREY)).read_bytes()
    Path("a.npy").write_bytes(whole[:-3])
    refused(["check", "a.npy"], "960 bytes, but 957 bytes follow", "truncated", "numpy.save")
    Path("a.npy").write_bytes(b"")
    refused(["check", "a.npy"], "the file is empty; write or download it again")
    refused(
        ["check", npy(np.zeros((0, 3)))],
        "is empty (shape (0, 3)); at least one row of one value is needed",
    )
    refused(
        ["check", npy(np.array(3.0))],
        "is a single number (0-d); the first axis must count the rows",
    )
    # by decision five axes are data too, and with --shape they are whatever the person says
    assert checked(npy(GREY.reshape(60, 2, 2, 2, 2)))["schema"]["event_shape"] == [2, 2, 2, 2]


def test_B17_npz_of_several_arrays() -> None:
    np.savez("two.npz", first=REAL, second=GREY)
    refused(
        ["check", "two.npz"],
        "two.npz: holds 2 arrays; choose one with --key: first (60, 3), second (60, 4, 4)",
    )
    refused(["check", "two.npz", "--key", "fist"], "did you mean first?")
    assert checked("two.npz", "--key", "second")["fingerprint"] == checked(npy(GREY))["fingerprint"]


def test_B18_zip_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MAX_UNCOMPRESSED_BYTES", 10**6)
    np.savez_compressed("bomb.npz", x=np.zeros((10**6, 2), np.uint8))
    assert Path("bomb.npz").stat().st_size < 10_000
    refused(
        ["check", "bomb.npz"],
        "bomb.npz:x: unpacks to 0.0 GiB (limit 16); save it as .npy if that is meant",
    )


def test_B19_types_of_numbers() -> None:
    taken = [
        (GREY > 99, "binary", (0, 1)),
        (GREY, "levels", (0, 255)),
        (GREY.astype(np.int16), "levels", (GREY.min(), GREY.max())),
        (REAL.astype(np.float16), "real", (np.float16(REAL.min()), np.float16(REAL.max()))),
    ]
    for array, kind, (low, high) in taken:
        schema = checked(npy(array))["schema"]
        assert (schema["kind"], schema["low"], schema["high"]) == (kind, low, high)
    for array, words in (
        (
            REAL.astype(complex),
            "complex numbers: save the real and the imaginary part as two real columns",
        ),
        (REAL.astype(str), "text: encode it as numbers"),
        (GREY.astype("M8[D]"), "dates: convert them to numbers"),
        (GREY.astype("m8[s]"), "durations: convert them to numbers"),
    ):
        refused(["check", npy(array)], f"a.npy: holds {words}")


def test_B20_byte_order_and_memory_order() -> None:
    native = checked(npy(REAL))["fingerprint"]
    assert checked(npy(REAL.astype(">f8")))["fingerprint"] == native
    assert checked(npy(np.asfortranarray(REAL)))["fingerprint"] == native
    assert checked(npy(np.repeat(REAL, 2, axis=1)[:, ::2]))["fingerprint"] == native
    assert b"'fortran_order': True" in Path(npy(np.asfortranarray(REAL))).read_bytes()


def test_B21_numbers_too_large_for_float32() -> None:
    large = REAL.copy()
    large[7, 2] = 1e39
    refused(
        ["check", npy(large)],
        "1 values (0.556 %) are beyond the range of float32, the first at row 7, column 2",
        "rescale",
    )
    rows = "".join(f"{'1e39' if i == 7 else x},{i % 3}\n" for i, x in enumerate(X))
    refused(
        ["check", csv("x,k\n" + rows)],
        "column 'x' holds values up to 1e+39, beyond the range of float32; rescale it",
    )
    ids = 2**53 + 1 + 2 * np.arange(60)
    refused(
        ["check", npy(np.c_[ids, ids[::-1]])],
        "too large to be told apart in float32; subtract 9007199254740992",
    )
    noted(
        checked(npy(np.c_[10**11 * ids[:, None] % 2**54, ids[:, None] % 7])),
        "integers above 16777216 lose digits in float32; are they ids?",
    )
    found = checked(csv("user_id,x\n" + "".join(f"{n},{x}\n" for n, x in zip(ids, X, strict=True))))
    assert kinds(found)["user_id"] == "id"
    noted(found, "'user_id' looks like an id, omitted")


def test_B22_nan_in_an_image() -> None:
    holes = GREY / 255
    holes[3, 1, 2] = holes[5, 0, 0] = np.nan
    words = [
        "2 values (0.208 %) are NaN, the first at row 3, element (1, 2) (from 0)",
        "fill them or drop those data",
    ]
    refused(["check", npy(holes)], *words)
    refused(["fit", "a.npy", "--out", "new", *QUICK], *words)
    assert not Path("new").exists()


def test_B23_nan_in_a_table() -> None:
    gaps = REAL.copy()
    gaps[3:6, 1] = np.nan
    found = checked(npy(gaps))
    assert found["schema"]["missing"]
    noted(
        found,
        "1.67 % of the entries are missing: they are integrated out of log p(x), and the "
        "encoder receives the mask",
    )
    rows = "".join(f"{'' if 3 <= i < 6 else x},{'abc'[i % 3]}\n" for i, x in enumerate(X))
    found = checked(csv("x,c\n" + rows))
    assert column(found, "x")["missing"] == 3
    noted(found, "2.5 % of the entries are missing")
    gaps[:, 1] = np.nan
    refused(["check", npy(gaps)], "columns (from 0) 1 hold no value at all; remove them")
    refused(
        ["check", csv("x,c\n" + "".join(f"{x},\n" for x in X))],
        "column 'c' holds nothing but missing values; remove it",
    )


def test_B24_infinities() -> None:
    # by decision the flag is --missing-values inf
    large = REAL.copy()
    large[7, 2], large[9, 0] = np.inf, -np.inf
    refused(
        ["check", npy(large)],
        "2 values (1.11 %) are infinite, the first at row 7, column 2",
        "replace them or drop the rows",
    )
    rows = "".join(f"{'inf' if i == 7 else x},{'abc'[i % 3]}\n" for i, x in enumerate(X))
    refused(
        ["check", csv("x,c\n" + rows)],
        "1 values (1.67 %) of 'x' are infinite, the first (inf) in row 7",
        "--missing-values",
    )
    found = checked("a.csv", "--missing-values", "inf")
    assert (column(found, "x")["missing"], column(found, "x")["kind"]) == (1, "real")


def test_B25_what_may_mean_missing() -> None:
    cells = ["-999", "?", "NA", "null", "", *("abc"[i % 3] for i in range(5))] * 6
    numbers = ["-999" if i % 10 == 1 else "NA" if i % 10 == 2 else x for i, x in enumerate(X)]
    found = checked(
        csv("x,c\n" + "".join(f"{x},{c}\n" for x, c in zip(numbers, cells, strict=True)))
    )
    assert (column(found, "x")["missing"], column(found, "x")["low"]) == (6, -999)
    assert (column(found, "c")["missing"], column(found, "c")["levels"]) == (
        18,
        ["-999", "?", "a", "b", "c"],
    )
    noted(found, "-999 in 'x' (6 values) may mean missing: --missing-values=-999")
    noted(found, "'?' in 'c' (6 values) may mean missing: --missing-values '?'")
    noted(found, "'NA' in 'x' and 1 more column (12 values) is read as missing")
    found = checked("a.csv", "--missing-values=-999", "--missing-values", "?")
    assert (column(found, "x")["missing"], column(found, "x")["low"]) == (
        12,
        min(float(x) for x in numbers if x not in ("-999", "NA")),
    )
    assert (column(found, "c")["missing"], column(found, "c")["levels"]) == (30, ["a", "b", "c"])


def test_B26_constant_column() -> None:
    found = checked(csv("x,c,k\n" + "".join(f"{x},same,5\n" for x in X)))
    assert kinds(found) == {"x": "real", "c": "constant", "k": "constant"}
    noted(found, "'c' is constant ('same'), omitted")
    # the columns of an array have no names to be left out by: the person drops them
    refused(
        ["check", npy(np.c_[REAL, np.ones(60)])],
        "columns (from 0) 3 are constant in float32",
        "infinite; remove them",
    )


def test_B27_rounded_and_nearly_constant_columns() -> None:
    rounded = RNG.normal(size=(2000, 3))
    rounded[:, 1] = rounded[:, 1].round(1)
    rounded[:1900, 2] = 0.0
    found = checked(npy(rounded))
    noted(
        found, "columns (from 0) 2 repeat one value in most rows: their density may have no bound"
    )
    noted(
        found,
        "columns (from 0) 1 are rounded to few different values",
        "integers",
        "are read as levels",
    )
    rows = "".join(",".join(f"{v:.6g}" for v in row) + "\n" for row in rounded)
    found = checked(csv("a,b,c\n" + rows))
    # both have probabilities where values repeat
    assert kinds(found) == {
        "a": "real",
        "b": "levels",
        "c": "mixed",
    }
    csv('[columns.b]\nkind = "real"\n[columns.c]\nkind = "real"\n', "real.toml")
    found = checked("a.csv", "--schema", "real.toml")
    noted(
        found,
        "more than half of the values are one value in 'c' (1,900 of 2,000 are 0)",
        "can grow without end",
    )
    noted(found, "rounded, few different values in 'b'", "can grow without end")
    whole = checked(npy((10 * rounded[:, 1:2]).round()))  # what the note offers
    assert whole["schema"]["kind"] == "levels"


def test_B28_bernoulli_outside_0_and_1() -> None:
    refused(
        ["fit", npy(REAL), "--out", "new", "--likelihood", "Bernoulli()"],
        "144 values (100.0%) lie outside the support of the likelihood, 0 or 1; the first "
        "is", "omit --likelihood",
    )  # fmt: skip
    refused(
        ["check", "a.npy", "--kind", "binary"],
        "180 values (100 %) are neither 0 nor 1",
        "omit --kind binary",
    )
    assert not Path("new").exists()


def test_B29_levels_0_to_255_for_0_to_1() -> None:
    npy(GREY, "grey.npy")
    npy(GREY / 255, "unit.npy")
    refused(
        ["fit", "grey.npy", "--out", "new", "--likelihood", "ContinuousBernoulli()"],
        "0 to 1",
        "to get DiscretizedLogistic()",
    )
    refused(
        ["check", "unit.npy", "--kind", "levels"],
        "are not integers",
        "multiply by 255 and round if they were divided by it",
    )
    noted(
        checked("unit.npy"),
        "grey levels stored as k/255, read as real",
        "multiply by 255 and round, or use --binarize",
    )
    noted(
        checked("grey.npy", "--kind", "real"),
        "a density of integers has no bound; without --kind real they are levels",
    )
    assert call("fit", "unit.npy", "--out", "run", *QUICK).exit_code == DONE
    refused(
        ["score", "run", "grey.npy"],
        "holds levels up to 255 where values in [0, 1] are expected; divide by 255",
    )


def test_B30_grey_and_bernoulli() -> None:
    # by decision it is refused: a Bernoulli of grey values is no likelihood, so there would be no
    # numbers to mark
    npy(GREY / 256, "grey.npy")
    refused(
        ["fit", "grey.npy", "--out", "new", "--likelihood", "Bernoulli()"],
        "lie outside the support of the likelihood, 0 or "
        "1", "ContinuousBernoulli()", "DiscretizedLogistic()",
    )  # fmt: skip
    refused(
        ["check", "grey.npy", "--kind", "binary"],
        "neither 0 nor 1",
        "grey values: use --binarize dynamic or threshold",
    )
    assert checked("grey.npy", "--binarize", "dynamic")["schema"]["kind"] == "binary"


# ------------------------------------------------------------------------------------------- counts


def h5ad(x: Any, name: str = "a.h5ad", names: Sequence[str] | None = None, **parts: Any) -> str:
    obs = pd.DataFrame(index=names or [f"cell{i}" for i in range(len(COUNTS))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = parts.pop("raw", None)
        adata = anndata.AnnData(x if raw is None else raw, obs=obs, **parts)
        if raw is not None:
            adata.raw = adata.copy()
            adata.X = x
        adata.write_h5ad(name)
    return name


def test_B31_what_is_no_count() -> None:
    for name, flags in (("a.npy", ["--kind", "count"]), ("a.h5ad", [])):

        def write(array: np.ndarray, name: str = name) -> str:
            return npy(array, name) if name == "a.npy" else h5ad(sparse.csr_matrix(array), name)

        nonzero = int((COUNTS != 0).sum())
        below = COUNTS.copy()
        row, col = np.argwhere(COUNTS)[5]
        below[row, col] = -2
        share = f"1 values ({100 / nonzero:.3g} % of those not zero)"
        refused(
            ["check", write(below), *flags],
            f"{share} are negative, the first at row {row}, column {col}",
            "smallest is -2",
        )
        logged = np.log1p(COUNTS)
        words = [
            "are not integers",
            f"the largest is {logged.max():.6g}, so they look log-normalised",
            "raw counts" if "h5ad" in name else "counts are needed",
        ]
        refused(["check", write(logged), *flags], *words)


def test_B32_row_of_zeros() -> None:
    # by decision there is no flag: such rows are kept, and noted
    zeros = COUNTS.copy()
    zeros[[3, 8]] = 0
    h5ad(sparse.csr_matrix(zeros))
    for name in (npy(zeros), "a.h5ad"):
        found = checked(name, "--kind", "count")
        assert sum(found["rows"].values()) == 60
        noted(found, "2 of 60 rows (from 0: 3, 8) are all zero; they are kept")
    library = "NegativeBinomial(library=True)"
    assert call("fit", "a.h5ad", "--out", "run", *QUICK, "--likelihood", library).exit_code == DONE
    result = call("score", "run", "a.h5ad", "--num-samples", 5, "--out", "s.npy")
    assert result.exit_code == DONE, result.stderr
    assert (
        np.load("s.npy")[[3, 8], 0] > -2
    ).all()  # with a total of zero every mean is next to zero, and zeros are sure


def test_B33_library_sizes() -> None:
    wide = COUNTS.copy()
    wide[3] = 1e5 * COUNTS[3] + 1
    h5ad(sparse.csr_matrix(wide))
    sums = wide.sum(1)
    for name in (npy(wide), "a.h5ad"):
        noted(
            checked(name, "--kind", "count"),
            f"sums of the rows span {sums.min():.0f}..{sums.max():.0f}",
            "factor of 10^4",
        )
    assert not any("span" in note for note in checked(npy(COUNTS), "--kind", "count")["notes"])


def test_B34_where_anndata_keeps_counts() -> None:
    logged, csr = np.log1p(COUNTS), sparse.csr_matrix(COUNTS)
    scores = []
    for i, (arguments, layer) in enumerate([
        ({"x": COUNTS}, []), ({"x": csr}, []), ({"x": csr.tocsc()}, []),
     ({"x": logged, "layers": {"counts": csr}}, ["counts"]),
        ({"x": logged, "layers": {"counts": COUNTS}}, ["counts"]),
     ({"x": logged, "raw": csr}, ["raw"]),
    ]):  # fmt: skip
        name = h5ad(name=f"{i}.h5ad", **arguments)  # type: ignore[arg-type]
        if layer:
            refused(["check", name], "X holds no counts, but", f"--layer {layer[0]} reads it")
        options = ["--layer", layer[0]] if layer else []
        assert checked(name, *options)["schema"]["kind"] == "count"
        assert call("fit", name, "--out", f"run{i}", *QUICK, *options).exit_code == DONE
        assert (
            call("score", f"run{i}", name, "--num-samples", 5, "--out", f"{i}.npy").exit_code
            == DONE
        )
        scores.append(np.load(f"{i}.npy"))
    for other in scores[1:]:
        np.testing.assert_array_equal(other, scores[0])
    refused(
        ["check", "3.h5ad", "--layer", "count"],
        "has no layer count; did you mean counts? --layer takes one of",
        code=USAGE,
    )


def test_B35_damaged_old_and_repeating_anndata() -> None:
    whole = Path(h5ad(sparse.csr_matrix(COUNTS))).read_bytes()
    Path("cut.h5ad").write_bytes(whole[: len(whole) // 2])
    refused(
        ["check", "cut.h5ad"],
        "cut.h5ad: is not an .h5ad file, or truncated or damaged",
        "download it again",
    )
    with h5py.File("old.h5ad", "w") as file:
        for part in ("X", "obs", "var"):
            file[part] = COUNTS
    refused(
        ["check", "old.h5ad"], "old.h5ad: was written by an anndata before 0.7", "write it again"
    )
    names = [f"cell{i // 2}" for i in range(60)]
    noted(
        checked(h5ad(sparse.csr_matrix(COUNTS), names=names)),
        "obs_names: 30 repeat an earlier one",
        "told apart by number",
    )


# ------------------------------------------------------------------------------------------- tables


def test_B36_levels_one_many_and_unseen(made: Path) -> None:
    many = "x,c\n" + "".join(f"{i % 9}.5,level{i // 2}\n" for i in range(100_000))
    refused(
        ["check", csv(many)],
        "column 'c' holds 50,000 different texts, too many for a category",
        'kind = "id"',
    )
    assert kinds(checked(csv("x,c\n" + "".join(f"{x},only\n" for x in X))))["c"] == "constant"
    # by decision an unseen level is missing to the model, which then makes no claim about it
    csv(TABLE.replace(",a,", ",new,"))
    csv(TABLE.replace(",a,", ",,"), "gaps.csv")
    result = call("score", made / "run-table", "a.csv", "--num-samples", 5, "--out", "new.npy")
    assert result.exit_code == DONE, result.stderr
    assert (
        "20 values of 'c' are levels never seen in training ('new'): read as missing"
        in result.stderr
    )
    assert (
        call(
            "score", made / "run-table", "gaps.csv", "--num-samples", 5, "--out", "gaps.npy"
        ).exit_code
        == DONE
    )
    np.testing.assert_array_equal(np.load("new.npy"), np.load("gaps.npy"))


def test_B37_column_of_ids() -> None:
    found = checked(
        csv("who,x,c\n" + "".join(f"person {i:03d},{x},{'abc'[i % 3]}\n" for i, x in enumerate(X)))
    )
    assert kinds(found) == {"who": "id", "x": "real", "c": "category"}
    noted(found, "'who' looks like an id, omitted; kind = \"category\" in a schema file keeps it")


def test_B38_one_text_late_among_numbers() -> None:
    rows = [f"{x},{'abc'[i % 3]}" for i, x in enumerate(X * 5)]
    rows[291] = "oops,a"
    refused(
        ["check", csv("x,c\n" + "\n".join(rows))],
        "a.csv: column 'x': 299 of its 300 values are numbers, but not 'oops', the first in row "
        "291 (from 0, header not counted)",
        "correct the file, or --missing-values 'oops' if that means missing, or kind = "
        '"category" or "id" in a --schema FILE',
    )
    csv('[columns.x]\nkind = "category"\n', "kept.toml")
    assert kinds(checked("a.csv", "--schema", "kept.toml"))["x"] == "category"
    csv('[columns.x]\nkind = "real"\n', "schema.toml")
    refused(
        ["check", "a.csv", "--schema", "schema.toml"],
        "kind real needs numbers, but it holds texts, the first ('oops') in row 291",
    )
    for flags in (["--schema", "schema.toml"], []):
        found = checked("a.csv", *flags, "--missing-values", "oops")
        assert (column(found, "x")["kind"], column(found, "x")["missing"]) == ("real", 1)
    # seven numbers may be levels: not refused, but said
    few = [
        "oops,a",
        *(f"{i % 7},{'abc'[i % 3]}" for i in range(299)),
    ]
    found = checked(csv("x,c\n" + "\n".join(few)))
    assert kinds(found)["x"] == "category"
    noted(
        found,
        "'x' is read as a category; 299 of its 300 values are numbers, the first that is none "
        "('oops') in row 0",
    )


def test_B39_ragged_rows_open_quotes_nul_bytes() -> None:
    refused(
        ["check", csv(TABLE + "1,a\n")],
        "a.csv: line 62: expected 3 fields, found 2; complete the row",
    )
    refused(
        ["check", csv(TABLE + "1,a,2,3\n")],
        "a.csv: line 62: expected 3 fields, found 4; put quotes around",
    )
    refused(
        ["check", csv(TABLE + '1,"a,2\n3,b,4\n')],
        "line 62: a quote opens and is never closed; close it, or remove it",
    )
    refused(
        ["check", csv(TABLE + "1,\0a,2\n")], "line 62: holds a NUL byte; it is damaged or not text"
    )


def test_B40_delimiters_and_decimal_commas() -> None:
    plain = checked(csv(TABLE))
    for content, flags, note in (
        (
            TABLE.replace(",", ";").replace(".", ","),
            [],
            "read with delimiter ';' and decimal comma",
        ),
        (TABLE.replace(",", "\t"), [], "read with delimiter tab"),
        (TABLE.replace(",", "|"), [], "read with delimiter '|'"),
        (TABLE.replace(",", ";").replace(".", ","), ["--delimiter", ";", "--decimal", ","], ""),
        (TABLE.replace(",", "^"), ["--delimiter", "^"], ""),
    ):
        found = checked(csv(content), *flags)
        assert (found["schema"], found["fingerprint"]) == (plain["schema"], plain["fingerprint"])
        if note:
            noted(found, note)
    refused(["check", "a.csv", "--decimal", ";"], "--decimal: unknown ';'; choose from", code=USAGE)
    refused(
        ["check", npy(REAL), "--delimiter", ";"],
        "--delimiter is for text table",
        "omit it",
        code=USAGE,
    )


def test_B41_encodings() -> None:
    text = TABLE.replace(",a,", ",café,")
    plain = checked(csv(text))["fingerprint"]
    assert checked(csv(b"\xef\xbb\xbf" + text.encode()))["fingerprint"] == plain
    # it says so by its first bytes
    assert checked(csv(text.encode("utf-16")))["fingerprint"] == plain
    refused(
        ["check", csv(text.encode("utf-16-le"))],
        "line 1: holds a NUL byte; --encoding utf-16-le if it is that",
    )
    assert checked("a.csv", "--encoding", "utf-16-le")["fingerprint"] == plain
    refused(
        ["check", csv(text.encode("latin-1"))],
        "is not UTF-8: line 2, byte 0xe9; --encoding latin-1",
        "café",
    )
    assert checked("a.csv", "--encoding", "latin-1")["fingerprint"] == plain
    refused(
        ["check", "a.csv", "--encoding", "latin1x"], "--encoding latin1x is not known", code=USAGE
    )


def test_B42_names_of_columns() -> None:
    body = TABLE.partition("\n")[2]
    refused(
        ["check", csv("x,x,k\n" + body)],
        "line 1: columns 0, 1 (from 0) are all named x; give each its own name",
    )
    refused(
        ["check", csv("x,,k\n" + body)],
        "line 1: columns 1 (from 0) have no name; name or remove them",
    )
    hostile = '<b onclick="x">\n\x1b[31m'
    csv('"' + hostile.replace('"', '""') + '",c,k\n' + body)
    assert list(kinds(checked("a.csv"))) == [hostile, "c", "k"]
    shown = call("check", "a.csv").stdout
    assert r"\n\x1b[31m" in shown
    assert "\x1b" not in shown


def test_B43_header_alone_nothing_no_header() -> None:
    refused(
        ["check", csv("x,c,k\n")],
        "a.csv: has a header but no rows; give a file with at least one row of data",
    )
    refused(["check", csv("")], "a.csv: is empty; give a file whose first line names the columns")
    refused(
        ["check", csv("1,2\n3,4\n")],
        "line 1 holds only numbers (1, 2): a header is missing; --no-header, or add a first line "
        "with names",
    )


def test_B44_dates_times_durations_truth_values() -> None:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    days = [start + timedelta(days=i % 28, hours=i % 5) for i in range(60)]
    rows = [
        f"{d:%Y-%m-%d},{d.isoformat()},{'yes' if i % 3 else 'no'},{i % 2 == 0},{X[i]}"
        for i, d in enumerate(days)
    ]
    found = checked(csv("day,time,answer,flag,x\n" + "\n".join(rows)))
    assert kinds(found) == {
        "day": "date",
        "time": "date",
        "answer": "binary",
        "flag": "binary",
        "x": "real",
    }
    first = (start - datetime(1970, 1, 1, tzinfo=UTC)).days
    assert (column(found, "day")["low"], column(found, "day")["high"]) == (first, first + 27)
    assert (column(found, "day")["type"], column(found, "time")["type"]) == (
        "date",
        "timestamp UTC",
    )
    assert (column(found, "answer")["levels"], column(found, "flag")["levels"]) == (
        ["no", "yes"],
        ["False", "True"],
    )
    moved = [
        r.replace("+00:00", "+02:00").replace(
            d.isoformat()[:19], (d + timedelta(hours=2)).isoformat()[:19]
        )
        for r, d in zip(rows, days, strict=True)
    ]
    assert (
        checked(csv("day,time,answer,flag,x\n" + "\n".join(moved)))["fingerprint"]
        == found["fingerprint"]
    )
    took = pa.array([timedelta(minutes=i) for i in range(60)])
    refused(
        ["check", table(took=took, x=REAL[:, 0])],
        "column 'took' holds 'duration[us]' values",
        "give them as a number",
    )


def test_B45_types_of_parquet() -> None:
    x = pa.array(REAL[:, 0])
    taken = {
        "price": pa.array([Decimal(f"{i % 9}.25") for i in range(60)]),
        "colour": pa.array(["red", "green", "blue"] * 20).dictionary_encode(),
        "small": pa.array([i % 5 for i in range(60)], pa.int8()),
        "half": pa.array(REAL[:, 1].astype(np.float16)),
        "flag": pa.array([True, False] * 30),
    }
    found = checked(table(x=x, **taken))
    assert kinds(found) == {
        "x": "real",
        "price": "real",
        "colour": "category",
        "small": "levels",
        "half": "real",
        "flag": "binary",
    }
    refused(
        [
            "check",
            table(
                x=x,
                many=pa.array([[1, 2]] * 60),
                record=pa.array([{"a": 1}] * 60),
                nothing=pa.nulls(60),
            ),
        ],
        "column 'many' holds 'list<",
        "give each entry a column of its own",
        "column 'record' holds 'struct<",
        "column 'nothing' holds nothing but missing values; remove it",
        lines=3,
    )


def test_B46_damaged_parquet() -> None:
    parquet.write_table(
        pa.table({"x": RNG.normal(size=300), "y": RNG.normal(size=300)}),
        "a.parquet",
        row_group_size=100,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    whole = Path("a.parquet").read_bytes()
    Path("cut.parquet").write_bytes(whole[: len(whole) // 2])
    refused(["check", "cut.parquet"], "cut.parquet")
    place = parquet.ParquetFile("a.parquet").metadata.row_group(1).column(0).data_page_offset + 200
    Path("bad.parquet").write_bytes(
        whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
    )
    refused(["check", "bad.parquet"], "bad.parquet", "row group 1")
    refused(["check", "bad.parquet", "--stream"], "bad.parquet", "row group 1")


def test_B47_one_huge_row_group() -> None:
    rows = 70_000
    name = table(
        x=RNG.normal(size=rows).astype(np.float32), c=pa.array(["a", "b", "c", "b"] * (rows // 4))
    )
    streamed, whole = checked(name, "--stream"), checked(name, "--no-stream")
    noted(
        streamed,
        "one row group of 70,000 rows: rewriting the file with row groups of 50,000 trains faster",
    )
    assert (streamed["fingerprint"], streamed["rows"], streamed["schema"]) == (
        whole["fingerprint"],
        whole["rows"],
        whole["schema"],
    )


# ----------------------------------------------------------------------------------------- new data


def test_B48_new_tables_with_other_columns(made: Path) -> None:
    run = made / "run-table"
    rows = [line.split(",") for line in TABLE.splitlines()]
    csv("\n".join(",".join((k, x, c)) for x, c, k in rows), "reordered.csv")
    for name in (made / "table.csv", Path("reordered.csv")):
        assert (
            call("score", run, name, "--num-samples", 5, "--out", f"{name.stem}.npy").exit_code
            == DONE
        )
    np.testing.assert_array_equal(np.load("reordered.npy"), np.load("table.npy"))
    csv("\n".join(",".join((x, k, "1")) for x, _, k in rows).replace("x,k,1", "x,k,more", 1))
    refused(
        ["score", run, "a.csv"],
        "1 of 3 columns are missing: 'c'; add them",
        "1 columns are not the model's: 'more'",
        lines=2,
    )
    refused(
        ["score", made / "run-real", npy(REAL[:, :2])], "rows have shape (2,), but (3,) is needed"
    )


def test_samples_of_levels_that_begin_like_formulas_are_known_again() -> None:
    """Of a blood test, say: "+" is written as "'+", which was read as a level never seen."""
    signs = TABLE.replace("x,c,k", "x,name,k").replace(",a,", ",+,").replace(",b,", ",-,")
    csv(signs.replace(",c,", ",=c,"))
    assert call("fit", "a.csv", "--model", "Mixture()", "--out", "run").exit_code == DONE
    assert call("sample", "run", "--num-samples", 40, "--out", "b.csv").exit_code == DONE
    assert "'+" in Path("b.csv").read_text()
    result = call("score", "run", "b.csv", "--num-samples", 5)
    assert result.exit_code == DONE, result.stderr
    assert "never seen" not in result.stderr
    csv(Path("b.csv").read_text().replace("'+", "'~", 1), "c.csv")
    assert "'~" in call("score", "run", "c.csv", "--overwrite").stderr


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (TABLE.replace(",a,", ",café,").encode("latin-1"), "--encoding"),
        (TABLE.partition("\n")[2], "--no-header"),
        (TABLE.replace(X[3], "?"), "--missing-values"),
        (TABLE.encode("utf-16-le"), "--encoding"),
    ],
)
@pytest.mark.parametrize("verb", ["score", "encode", "impute"])
def test_a_remedy_that_only_a_training_has_is_said_to_be_one(
    verb: str, content: str | bytes, word: str, made: Path
) -> None:
    said = "that is an option of `taut fit`, and new data are read as those of the training were"
    refused([verb, made / "run-table", csv(content)], word, said)
    assert word not in call(verb, "--help").stdout


def test_B49_new_data_of_another_scale(made: Path) -> None:
    far = [
        "x,c,k",
        *(f"{float(x) + 20 * np.std(REAL):.3f},{'abc'[i % 3]},{i % 7}" for i, x in enumerate(X)),
    ]
    for run, data, name, words in (
        ("run-table", "table.csv", csv("\n".join(far)), ["'x'", "mean"]),
        (
            "run-real",
            "real.npy",
            npy(REAL + 20),
            ["the mean is", "is it the same data, in the same unit?"],
        ),
    ):
        result = call("score", made / run, name, "--num-samples", 5, "--out", f"{run}.npy")
        assert result.exit_code == DONE, result.stderr
        assert any(all(word in line for word in words) for line in result.stderr.splitlines()), (
            result.stderr
        )
        assert (
            call(
                "score", made / run, made / data, "--num-samples", 5, "--out", f"{data}.npy"
            ).exit_code
            == DONE
        )
        far, near = np.load(f"{run}.npy")[:, 0], np.load(f"{data}.npy")[:, 0]
        assert far.max() < near.min()  # so a number, however far
    refused(
        ["score", made / "run-table", csv(TABLE.replace(X[7], "oops", 1))],
        "are not numbers, the first ('oops') in row 7",
    )


def test_B50_batches_of_one_row(made: Path) -> None:
    result = call("fit", npy(REAL), "--out", "run", *QUICK, "--batch-size", 47)  # 48 training rows
    assert result.exit_code == DONE, result.stderr
    assert call("fit", "a.npy", "--out", "ones", *QUICK, "--batch-size", 1).exit_code == DONE
    for name, rows in (("one", REAL[:1]), ("all", REAL)):
        assert (
            call("encode", made / "run-real", npy(rows), "--out", f"{name}.npy").exit_code == DONE
        )
    np.testing.assert_allclose(np.load("one.npy")[0], np.load("all.npy")[0], rtol=0, atol=1e-6)


def test_B51_mistakes_of_the_configuration(made: Path) -> None:
    # more of them, one by one, in test_config.py and test_cli.py
    Path("c.toml").write_text(
        "[training]\nbatch_sise = 5\nseed = 'x'\nlearning_rate = -1\nminutes = 'two'\n"
        "[traning]\na = 1\n[evaluation]\nnum_samples = nan\n"
    )
    refused(
        ["fit", made / "real.npy", "--out", "new", "--config", "c.toml", "--set", "data.kind=bool"],
        "did you mean "
        "'batch_size'", "did you mean "
                        "'training'", "training.seed: expected a whole number, not 'x'",
        "training.learning_rate: expected a number of at least 0, not "
        "-1", "training.minutes", "evaluation.num_samples",
        "data.kind: unknown 'bool'", code=USAGE, lines=7,
    )  # fmt: skip
    assert not Path("new").exists()


def test_B52_hostile_names_and_labels() -> None:
    levels = ["=cmd()", "<script>alert(1)</script>", "../../etc", "\x1b[31mred", "x" * 10_000]
    header = '"=x","<script>alert(2)</script>","\x1b[2J"'
    rows = [f'{x},"{levels[i % 5]}",{i % 7}' for i, x in enumerate(X)]
    name = csv(header + "\n" + "\n".join(rows), "<script>alert(3)<script>.csv")
    outputs = [
        call("check", name),
        call("fit", name, "--out", "run", *QUICK),
        call("score", "run", "--cells", "--num-samples", 5, "--out", "scores.csv"),
        call("sample", "run", "--num-samples", 40, "--out", "samples.csv"),
        call("audit", "run", "--minutes", 0, "--num-data", 10, "--num-samples", 10, "--threads", 1),
    ]
    for result in outputs:
        assert result.exit_code == DONE, result.stderr
        assert "\x1b" not in result.output
        assert max(map(len, result.output.splitlines())) < 1000
    page = Path("run/report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(3)" in page
    with Path("samples.csv").open(newline="") as file:
        cells = [cell for row in reader.reader(file) for cell in row]
    assert cells[0] == "'=x"
    assert "'=cmd()" in cells
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)
    texts = ["x" * 200_000 if i % 2 else "y" * 200_000 for i in range(60)]
    quoted = "x,c\n" + "".join(f'{x},"{text}"\n' for x, text in zip(X, texts, strict=True))
    for long in (table(x=REAL[:, 0], c=texts), csv(quoted)):
        result = call("check", long)
        assert result.exit_code == DONE, result.stderr
        assert max(map(len, result.stdout.splitlines())) < 1000
    refused(["check", csv(quoted + '1,"b\n')], "a.csv: line 62: a quote opens and is never closed")
    assert reader.field_size_limit() == 131_072  # as it was
