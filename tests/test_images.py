"""A folder of images becomes exactly the pixels its files hold.

Whatever had to be decided is a note, or refused.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile

from taut.data import images, prepare
from taut.data.images import read_folder
from taut.system.errors import DataError, UsageError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (5, 7), dtype=np.uint16)
ALPHA = np.dstack([COLOUR, np.arange(35, dtype=np.uint8).reshape(5, 7) * 7])
WHITE_OVER = "lay them on white with --alpha composite"


def save(path: Path, array: np.ndarray | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def refused(folder: Path, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_folder(folder, **options)
    return caught.value.problems


# What is read is what was written.


@pytest.mark.parametrize("array", [GREY, COLOUR, DEEP], ids=["grey", "colour", "deep"])
@pytest.mark.parametrize("name", ["a.png", "a.TIFF", "a.lzw.tif"])
def test_pixels_are_exact(tmp_path: Path, array: np.ndarray, name: str) -> None:
    save(tmp_path / name, array, **({"compression": "tiff_lzw"} if name == "a.lzw.tif" else {}))
    save(tmp_path / "b.png", array[::-1])
    read, labels, notes = read_folder(tmp_path)
    assert read.dtype == array.dtype
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, np.stack([array, array[::-1]]))
    assert (labels, notes) == (None, [])


@pytest.mark.parametrize("name", ["a.webp", "a.bmp", "a.ppm"])
def test_pixels_of_other_lossless_formats(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, COLOUR, **({"lossless": True} if name == "a.webp" else {}))
    np.testing.assert_array_equal(read_folder(tmp_path)[0], COLOUR[None])


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", COLOUR)
    np.testing.assert_array_equal(read_folder(tmp_path)[0][0], np.asarray(Image.open(path)))


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm", "int32"])
def test_16_bits_of_either_byte_order_keep_their_levels(tmp_path: Path, kind: str) -> None:
    levels = np.array([[0, 1, 255, 256], [257, 40000, 65534, 65535]], np.uint16)
    if kind == "pgm":
        (tmp_path / "a.pgm").write_bytes(b"P5 4 2 65535\n" + levels.astype(">u2").tobytes())
    else:
        array = levels.astype({"tiff": ">u2", "int32": np.int32}.get(kind, np.uint16))
        save(tmp_path / f"a.{'png' if kind == 'png' else 'tif'}", array)
    if kind == "tiff":
        assert (tmp_path / "a.tif").read_bytes()[:2] == b"MM"
    read, _, notes = read_folder(tmp_path)
    assert read.dtype == np.dtype(np.uint16)
    assert read.tolist() == [levels.tolist()]
    assert notes == []


@pytest.mark.parametrize("most", [256, 1023, 4095, 40000, 65534, 65535])
def test_pgm_of_more_than_8_bits_keeps_its_levels(tmp_path: Path, most: int) -> None:
    levels = np.arange(most + 1, dtype=np.uint16)
    (tmp_path / "a.pgm").write_bytes(
        b"P5 %d 1 %d\n" % (most + 1, most) + levels.astype(">u2").tobytes()
    )
    read, _, notes = read_folder(tmp_path)
    np.testing.assert_array_equal(read[0, 0], levels)
    assert notes == []


def test_few_bits_are_stretched_and_noted(tmp_path: Path) -> None:
    (tmp_path / "a1.png").write_bytes(png(4, 1, 1, 0, b"\0\xa0"))
    (tmp_path / "a2.png").write_bytes(png(4, 1, 2, 0, b"\0\x1b"))
    (tmp_path / "a4.png").write_bytes(png(4, 1, 4, 0, b"\0\x01\xef"))
    (tmp_path / "a7.pgm").write_bytes(b"P5 4 1 5\n\0\1\2\5")
    (tmp_path / "a8.png").write_bytes(png(4, 1, 8, 0, b"\0\0\1\2\3"))
    read, _, notes = read_folder(tmp_path)
    assert read[:, 0].tolist() == [
        [255, 0, 255, 0],
        [0, 85, 170, 255],
        [0, 17, 238, 255],
        [0, 51, 102, 255],
        [0, 1, 2, 3],
    ]
    assert notes == ["4 of 5 images with fewer levels, stretched to 0..255"]


def test_black_and_white_is_grey_and_the_note_says_how_to_make_bits(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.array([[True, False]]))
    read, _, notes = read_folder(tmp_path)
    assert read.tolist() == [[[255, 0]]]
    assert notes == [
        "1 of 1 image with fewer levels, stretched to 0..255; --binarize threshold makes bits of "
        "black and white"
    ]


def test_order_is_that_of_the_sorted_paths_and_subfolders_are_labels(tmp_path: Path) -> None:
    for value, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png", "dog/10.PNG"]):
        save(tmp_path / name, np.full((2, 2), value, np.uint8))
    read, labels, notes = read_folder(tmp_path)
    assert read[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert labels is not None
    assert labels.tolist() == ["cat", "cat", "dog", "dog"]
    assert notes == ["the labels are the names of the 2 subfolders"]


def test_each_part_of_a_data_set_has_its_own_labels(tmp_path: Path) -> None:
    for k in range(30):
        save(tmp_path / "data" / "cd"[k % 2] / f"{k:02}.png", np.full((2, 2), 4 * k, np.uint8))
    for name, grey in (("c", 201), ("c", 203), ("d", 205)):
        save(tmp_path / "test" / name / f"{grey}.png", np.full((2, 2), grey, np.uint8))
    data = prepare(tmp_path / "data", test=tmp_path / "test")
    assert data.test_labels is not None
    assert data.test_labels.tolist() == ["c", "c", "d"]
    for rows, labels in (
        (data.train, data.train_labels),
        (data.validation, data.validation_labels),
    ):
        assert labels is not None
        assert labels.tolist() == ["cd"[int(x) // 4 % 2] for x in rows[:, 0, 0]]


@pytest.mark.parametrize(
    "names", [["cat/1.png", "2.png"], ["cat/1.png", "cat/2.png"], ["cat/1.png", "dog/a/1.png"]]
)
def test_no_labels_unless_every_image_lies_in_one_of_several_subfolders(
    tmp_path: Path, names: list[str]
) -> None:
    for name in names:
        save(tmp_path / name, GREY)
    assert read_folder(tmp_path)[1] is None


# B02: nothing to read.


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "the folder is empty"),
        ([".a.png", ".git/b.png"], "but 2 hidden entries"),
        (
            ["a.txt", "b.TXT", "c.csv", "README", ".x"],
            "but 4 other files (.txt: 2, .csv: 1, no suffix: 1) and 1 hidden entry",
        ),
    ],
)
def test_b02_folder_without_images_lists_what_it_holds(
    tmp_path: Path, names: list[str], words: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (line,) = refused(tmp_path)
    assert words in line
    assert str(tmp_path) in line
    assert ".jpeg, .jpg, .pbm" in line


def test_other_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY)
    save(tmp_path / ".thumbs" / "b.png", GREY)
    (tmp_path / "labels.csv").write_text("x")
    read, _, notes = read_folder(tmp_path)
    assert len(read) == 1
    assert notes == ["omitted 1 other file: .csv: 1"]


# B04, B05: unreadable files.


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.gif", "a.bmp", "a.ppm"])
def test_b04_truncated_file_is_listed(tmp_path: Path, name: str) -> None:
    size = (40, 40, 3)
    path = save(tmp_path / name, RANDOM.integers(0, 256, size, dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    save(tmp_path / "good.png", np.zeros(size, np.uint8))
    first, second = refused(tmp_path)
    assert "1 of 2 images (50 %) cannot be read" in first
    assert "--skip-bad" in first
    assert second.startswith(f"  {name} (")
    read, _, notes = read_folder(tmp_path, skip_bad=0.5)
    assert read.shape == (1, 40, 40, 3)
    assert not read.any()
    assert notes[0].startswith(f"omitted 1 of 2 images that cannot be read: {name} (")


def test_b05_text_renamed_empty_and_strange_files_are_listed_ten_at_most(tmp_path: Path) -> None:
    (tmp_path / "00.png").write_text("not a picture")
    (tmp_path / "01.png").touch()
    (tmp_path / "02.png").symlink_to("nowhere")
    (tmp_path / "03.png").symlink_to("03.png")
    os.mkfifo(tmp_path / "04.png")
    save(tmp_path / "05.tif", GREY.astype(np.float32))
    for number in range(10, 17):
        (tmp_path / f"{number}.png").write_text("no")
    for number in range(20, 27):
        save(tmp_path / f"{number}.png", GREY)
    lines = refused(tmp_path, skip_bad=0.5)
    assert "13 of 20 images (65 %) cannot be read" in lines[0]
    assert (
        lines[1]
        == "  00.png (is none of PNG, JPEG, WEBP, TIFF, BMP, GIF, PPM, whatever its name says, or "
        "its header is damaged)"
    )
    assert lines[2:4] == [
        "  01.png (is empty)",
        "  02.png (is not a regular file, or is a broken link)",
    ]
    assert lines[4:6] == [
        f"  0{number}.png (is not a regular file, or is a broken link)" for number in (3, 4)
    ]
    assert lines[6].startswith("  05.tif (holds floating-point pixels")
    assert lines[11:] == ["  and 3 more"]
    read, _, notes = read_folder(tmp_path, skip_bad=0.65)
    np.testing.assert_array_equal(read, np.stack([GREY] * 7))
    assert notes[0].startswith("omitted 13 of 20 images that cannot be read: 00.png (")
    assert notes[0].endswith(", and 3 more")


def test_all_unreadable_is_refused_whatever_the_share(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no")
    assert "1 of 1 image (100 %)" in refused(tmp_path, skip_bad=0.99, resize=(8, 8))[0]


def test_a_share_is_compared_exactly(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number:02}.pgm").write_bytes(b"no" if number < 29 else b"P5 1 1 255\n\7")
    assert len(read_folder(tmp_path, skip_bad=0.29)[0]) == 71  # 0.29 * 100 < 29 in floating point
    assert "29 of 100 images (29 %)" in refused(tmp_path, skip_bad=0.28)[0]


def test_truncated_files_are_refused_even_where_a_process_lets_pillow_fill_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.jpg", RANDOM.integers(0, 256, (40, 40), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-200])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert "truncated" in refused(tmp_path)[1]
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_coloured_file_left_out_does_not_colour_the_others(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ppm", COLOUR)
    path.write_bytes(path.read_bytes()[:-5])
    save(tmp_path / "b.png", GREY)
    np.testing.assert_array_equal(read_folder(tmp_path, skip_bad=0.5)[0], GREY[None])


def test_labels_stay_with_their_images_when_bad_ones_are_left_out(tmp_path: Path) -> None:
    for value, name in enumerate(["a/1.png", "b/1.png", "c/1.png"]):
        save(tmp_path / name, np.full((2, 2), value, np.uint8))
    (tmp_path / "b/0.png").write_text("no")
    truncated = tmp_path / "a/0.jpg"
    save(truncated, GREY[:2, :2])
    truncated.write_bytes(truncated.read_bytes()[:-10])
    read, labels, _ = read_folder(tmp_path, skip_bad=0.4)
    assert labels is not None
    assert list(zip(read[:, 0, 0].tolist(), labels.tolist(), strict=True)) == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]


# B06: sizes that do not fit into memory.


@pytest.mark.parametrize(
    ("side", "words"),
    [(9_000, "claims 9000x9000 pixels"), (17_000, "claims more than 64 million pixels")],
)
def test_b06_huge_image_is_refused_before_it_is_decoded(
    tmp_path: Path, side: int, words: str
) -> None:
    (tmp_path / "bomb.png").write_bytes(png(side, side, 8, 0, b""))
    lines = refused(tmp_path)
    assert words in lines[1]
    assert "more than 64 million" in lines[1]
    assert "scale it down" in lines[1]


def test_arrays_beyond_the_limit_are_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        save(tmp_path / f"{name}.png", COLOUR)
    monkeypatch.setattr(images, "MAX_BYTES", 2 * COLOUR.size)
    assert read_folder(tmp_path)[0].nbytes == 2 * COLOUR.size
    monkeypatch.setattr(images, "MAX_BYTES", 2 * COLOUR.size - 1)
    (line,) = refused(tmp_path)
    assert "2 images of 5x7 need" in line
    assert "--resize 64x64" in line
    monkeypatch.undo()
    assert "need 55.9 GiB (limit 16)" in refused(tmp_path, resize=(100_000, 100_000))[0]


# B07: sizes that differ.


def test_b07_mixed_sizes_are_refused_with_a_histogram(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", np.zeros((8, 6), np.uint8))
    for height in range(10, 22):
        save(tmp_path / f"{height}.png", np.zeros((height, 6), np.uint8))
    (line,) = refused(tmp_path)
    assert "images of 13 sizes (height x width): 8x6: 3, 10x6: 1, 11x6: 1," in line
    assert "and 3 more sizes" in line
    assert "--resize 64x64" in line
    assert "--crop" in line
    (line,) = refused(tmp_path, resize=(4, 3))
    assert "--resize 4x3 would distort images of differing shapes" in line
    assert "add --crop" in line


def test_crop_alone_cuts_the_centre_to_the_smallest_sides(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY)
    tall = RANDOM.integers(0, 256, (8, 4), dtype=np.uint8)
    save(tmp_path / "b.png", tall)
    read, _, notes = read_folder(tmp_path, crop=True)
    np.testing.assert_array_equal(read, np.stack([GREY[:, 1:5], tall[1:6]]))
    assert notes == ["2 of 2 images cut to their centre, 5x4, the smallest height and width"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resize_with_crop_keeps_the_shape_and_takes_the_centre(tmp_path: Path, dtype: type) -> None:
    wide = np.zeros((6, 18), dtype)
    wide[:, 3:15] = (
        200  # the central square is 6:12, and bicubic scaling to a half looks 3 pixels beyond it
    )
    save(tmp_path / "a.png", wide)
    save(tmp_path / "b.png", np.full((3, 3), 7, dtype))
    read, _, notes = read_folder(tmp_path, resize=(3, 3), crop=True)
    assert read.dtype == np.dtype(dtype)
    assert read.tolist() == [[[200] * 3] * 3, [[7] * 3] * 3]
    assert notes == ["1 of 2 images scaled to 3x3 (bicubic, the centre of their shape)"]


def test_resize_is_height_by_width_and_enlarging_is_noted(tmp_path: Path) -> None:
    for height in (4, 6):
        save(tmp_path / f"{height}.png", np.full((height, 2 * height, 3), height, np.uint8))
    read, _, notes = read_folder(tmp_path, resize=(5, 10))
    assert read.shape == (2, 5, 10, 3)
    assert np.unique(read[0]).tolist() == [4]
    assert notes == [
        "2 of 2 images scaled to 5x10 (bicubic)",
        "1 of 2 images smaller than 5x10, enlarged: their finest detail is made up",
    ]


def test_resize_of_16_bits_keeps_16_bits_and_equals_that_of_real_numbers(tmp_path: Path) -> None:
    deep = RANDOM.integers(0, 65536, (12, 12), dtype=np.uint16)
    save(tmp_path / "a.png", deep)
    expected = np.asarray(
        Image.fromarray(deep.astype(np.float32)).resize((4, 4), Image.Resampling.BICUBIC)
    )
    np.testing.assert_array_equal(
        read_folder(tmp_path, resize=(4, 4))[0][0], np.rint(expected).clip(0, 65535)
    )


def test_shapes_that_differ_by_rounding_only_are_one_shape(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((100, 133), np.uint8))
    save(tmp_path / "b.png", np.zeros((200, 267), np.uint8))
    read, _, notes = read_folder(tmp_path, resize=(50, 67))
    assert read.shape == (2, 50, 67)
    assert notes == ["2 of 2 images scaled to 50x67 (bicubic)"]
    assert read_folder(tmp_path, resize=(50, 50))[2] == [
        "2 of 2 images scaled to 50x50 (bicubic), which changes their aspect ratio"
    ]


@pytest.mark.parametrize("array", [GREY, COLOUR], ids=["grey", "colour"])
def test_resize_is_bicubic_and_antialiased(tmp_path: Path, array: np.ndarray) -> None:
    save(tmp_path / "a.png", array)
    image = Image.fromarray(array)
    expected = np.asarray(image.resize((3, 2), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read_folder(tmp_path, resize=(2, 3))[0][0], expected)
    square = np.asarray(image.crop((1, 0, 6, 5)).resize((5, 5), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read_folder(tmp_path, resize=(5, 5), crop=True)[0][0], square)


# B08: modes.


def palette(*colours: tuple[int, int, int]) -> Image.Image:
    image = Image.new("P", (2, 2))
    image.putpalette([value for colour in colours for value in colour])
    image.putdata([0, 1, 1, 0])
    return image


def test_b08_palettes_become_their_colours_or_grey(tmp_path: Path) -> None:
    save(tmp_path / "a.png", palette((3, 3, 3), (200, 200, 200)))
    save(tmp_path / "b.png", np.array([[1, 2], [3, 4]], np.uint8))
    read, _, notes = read_folder(tmp_path)
    assert read.tolist() == [[[3, 200], [200, 3]], [[1, 2], [3, 4]]]
    assert read.flags.c_contiguous
    assert notes == []
    save(tmp_path / "c.png", palette((1, 2, 3), (4, 5, 6)))
    read, _, notes = read_folder(tmp_path)
    assert read[2].tolist() == [[[1, 2, 3], [4, 5, 6]], [[4, 5, 6], [1, 2, 3]]]
    assert read[1, 0].tolist() == [[1, 1, 1], [2, 2, 2]]
    assert notes == [
        "1 of 3 images grey, made RGB like the coloured ones",
        "2 of 3 images of a palette, read as its colours, RGB",
    ]


def test_b08_grey_beside_colour_becomes_rgb(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY)
    save(tmp_path / "b.png", COLOUR)
    read, _, notes = read_folder(tmp_path)
    np.testing.assert_array_equal(read, np.stack([np.dstack([GREY] * 3), COLOUR]))
    assert notes == ["1 of 2 images grey, made RGB like the coloured ones"]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_b08_other_colours_are_converted(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (3, 2), (10, 100, 120, 0)[: len(Image.new(mode, (1, 1)).getbands())])
    save(tmp_path / "a.tif", image)
    if mode == "YCbCr" and int(PIL.__version__.partition(".")[0]) < 13:  # it runs into what follows
        assert any("save it as RGB, or install Pillow 13" in line for line in refused(tmp_path))
        return
    read, _, notes = read_folder(tmp_path)
    np.testing.assert_array_equal(read[0], np.asarray(image.convert("RGB")))
    assert notes == [f"1 of 1 image converted from {mode} to RGB"]


def test_b08_transparency_is_refused_dropped_or_laid_on_white(tmp_path: Path) -> None:
    save(tmp_path / "a.png", ALPHA)
    save(tmp_path / "b.png", COLOUR)
    (line,) = refused(tmp_path)
    assert (
        "1 image with transparent pixels, the first a.png; drop transparency with --alpha "
        "drop, or lay them" in line
    )
    read, _, notes = read_folder(tmp_path, alpha="drop")
    np.testing.assert_array_equal(read, np.stack([COLOUR, COLOUR]))
    assert notes == ["1 of 2 images with transparency dropped"]
    read, _, notes = read_folder(tmp_path, alpha="composite")
    opacity = ALPHA[..., 3:] / 255
    exact = COLOUR * opacity + 255 * (1 - opacity)
    assert np.abs(read[0] - exact).max() <= 1  # Pillow blends in integers
    assert read[0, 0, 0].tolist() == [255, 255, 255]
    assert notes == ["1 of 2 images with transparency laid on white"]


@pytest.mark.parametrize("kind", ["LA", "P", "tRNS", "16", "P-bytes", "PA", "RGB"])
def test_b08_every_way_to_be_transparent(tmp_path: Path, kind: str) -> None:
    grey = np.array([[10, 20], [30, 40]], np.uint8)
    dropped: Any = grey.tolist()
    name, options = "a.png", {}
    if kind == "LA":
        image = Image.fromarray(np.dstack([grey, [[0, 255], [255, 255]]]).astype(np.uint8), "LA")
    elif kind == "tRNS":
        image, options = Image.fromarray(grey), {"transparency": 10}
    elif kind == "16":
        image, options, dropped = (
            Image.fromarray(grey * np.uint16(300)),
            {"transparency": 3000},
            (grey * np.uint16(300)).tolist(),
        )
    elif kind == "RGB":
        image, options = Image.fromarray(np.dstack([grey] * 3)), {"transparency": (10, 10, 10)}
        dropped = np.dstack([grey] * 3).tolist()
    else:
        image = palette((10, 10, 10), (20, 20, 20))
        image.putdata([0, 1, 1, 1])
        dropped = [[10, 20], [20, 20]]
        options = {"P": {"transparency": 0}, "P-bytes": {"transparency": b"\x00\xfe"}}.get(kind, {})
        if kind == "PA":
            image, name = image.convert("PA"), "a.tif"
            image.putalpha(Image.fromarray(np.array([[0, 255], [255, 255]], np.uint8)))
    save(tmp_path / name, image, **options)
    assert WHITE_OVER in refused(tmp_path)[0]
    assert read_folder(tmp_path, alpha="drop")[0][0].tolist() == dropped
    read = read_folder(tmp_path, alpha="composite")[0][0]
    top = 65535 if kind == "16" else 255
    assert read[0, 0].tolist() == ([top] * 3 if kind == "RGB" else top)
    if kind != "P-bytes":
        assert read[1].tolist() == dropped[1]


def test_b08_opaque_alpha_is_no_transparency(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.dstack([COLOUR, np.full((5, 7), 255, np.uint8)]))
    save(tmp_path / "b.png", COLOUR, transparency=(1, 2, 3))
    read, _, notes = read_folder(tmp_path)
    np.testing.assert_array_equal(read, np.stack([COLOUR, COLOUR]))
    assert notes == []


def test_b08_16_bits_beside_8_are_refused(tmp_path: Path) -> None:
    for name in "abc":
        save(tmp_path / f"{name}.png", GREY)
    save(tmp_path / "d.png", DEEP)
    (line,) = refused(tmp_path)
    assert (
        "1 image of 16 bits a pixel and 3 of 8, such as d.png (16); save all with the same depth"
        in line
    )


# B09: 16 bits are never cut to 8.


@pytest.mark.parametrize("suffix", ["png", "alpha.png", "ppm"])
def test_b09_16_bit_colour_is_refused_rather_than_cut(tmp_path: Path, suffix: str) -> None:
    data = {
        "png": png(2, 1, 16, 2, b"\0" + bytes(range(12))),
        "alpha.png": png(2, 1, 16, 6, b"\0" + bytes(range(16))),
        "ppm": b"P6 2 1 65535\n" + bytes(range(12)),
    }
    (tmp_path / f"a.{suffix}").write_bytes(data[suffix])
    assert "has 16 bits a channel, of which Pillow keeps 8" in refused(tmp_path)[1]


def test_b09_bright_16_bit_levels_are_not_clipped(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.array([[300, 65535]], np.uint16))
    assert read_folder(tmp_path)[0].tolist() == [[[300, 65535]]]


def test_b09_levels_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", np.array([[-1, 70000]], np.int32))
    assert "holds values -1..70000, not levels 0..65535" in refused(tmp_path)[1]


# B10: pictures on their side.


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.lzw.tif", "deep.png", "deep.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_b10_exif_orientation_is_applied_and_counted(
    tmp_path: Path, name: str, orientation: int
) -> None:
    array = DEEP if name.startswith("deep") else COLOUR
    upright = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: np.rot90,
    }[orientation](array)
    exif = Image.Exif()
    exif[0x0112] = orientation
    extra = {"a.lzw.tif": {"compression": "tiff_lzw"}, "a.webp": {"lossless": True}}.get(name, {})
    save(tmp_path / name, array, exif=exif, **extra)
    save(tmp_path / "b.png", upright)
    read, _, notes = read_folder(tmp_path)
    np.testing.assert_array_equal(read, np.stack([upright, upright]))
    assert notes == (
        ["1 of 2 images turned upright, as their EXIF orientation says"] if orientation > 1 else []
    )


def test_b10_orientation_stored_after_the_pixels_of_a_png(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.png", GREY).read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 3
    early = save(tmp_path / "a.png", GREY, exif=exif).read_bytes()
    start = early.index(b"eXIf") - 4
    chunk = early[start : start + 12 + struct.unpack(">I", early[start : start + 4])[0]]
    (tmp_path / "a.png").write_bytes(plain[:-12] + chunk + plain[-12:])
    read, _, notes = read_folder(tmp_path)
    np.testing.assert_array_equal(read[0], np.rot90(GREY, 2))
    assert notes == ["1 of 1 image turned upright, as their EXIF orientation says"]


# B11: more than one picture in a file.


def test_a_stack_of_more_pages_than_are_read_is_refused_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taut.data.images.MAX_PAGES", 11)
    save(tmp_path / "v.tif", GREY, save_all=True, append_images=[Image.fromarray(GREY)] * 11)
    [line] = refused(tmp_path)
    assert "v.tif claims 12 pages of 5x7; save them as one array in a .npy file" in line


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_pages_of_a_single_tiff_are_images(tmp_path: Path, dtype: type) -> None:
    stack = np.random.default_rng(0).integers(0, 200, (12, 6, 5)).astype(dtype)
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(tmp_path / "v.tif", save_all=True, append_images=pages[1:])
    read, labels, notes = read_folder(tmp_path)
    np.testing.assert_array_equal(read, stack)
    assert (labels, notes) == (None, ["12 pages of v.tif are read as images"])
    pages[0].save(tmp_path / "w.tif", save_all=True, append_images=pages[1:])
    read, _, notes = read_folder(tmp_path)
    np.testing.assert_array_equal(read, stack[[0, 0]])
    assert notes == ["2 of 2 images with several frames or pages: only the first is read"]


def test_pages_that_are_not_alike_refuse_the_stack(tmp_path: Path) -> None:
    pages = [
        Image.fromarray(np.zeros((6, 5), np.uint8)),
        Image.fromarray(np.zeros((6, 5, 3), np.uint8)),
    ]
    pages[0].save(tmp_path / "v.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(
        DataError, match=r"its page 1 \(from 0\) is RGB, the first L; save them alike"
    ):
        read_folder(tmp_path)


def test_a_palette_of_colours_is_noted(tmp_path: Path) -> None:
    mask = Image.new("P", (4, 4))
    mask.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    mask.putdata([i % 3 for i in range(16)])
    mask.save(tmp_path / "a.png")
    assert read_folder(tmp_path)[2] == ["1 of 1 image of a palette, read as its colours, RGB"]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_b11_first_frame_only_with_a_note(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (10, 200)]
    save(
        tmp_path / name,
        frames[0],
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if "webp" in name else {}),
    )
    read, _, notes = read_folder(tmp_path)
    assert np.unique(read).tolist() == [10]
    assert notes == ["1 of 1 image with several frames or pages: only the first is read"]


# B12: what a file system can hold.


def test_b12_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    save(tmp_path / "data" / "b" / "1.png", GREY)
    save(tmp_path / "elsewhere" / "2.png", GREY[::-1])
    (tmp_path / "data" / "b" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "data" / "b")
    (tmp_path / "data" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "loop").symlink_to("loop")
    read, labels, notes = read_folder(tmp_path / "data")
    np.testing.assert_array_equal(read, np.stack([GREY, GREY[::-1]]))
    assert labels is not None
    assert labels.tolist() == ["b", "c"]
    assert notes[:2] == [
        "omitted 1 other file: no suffix: 1",
        "omitted 2 linked folders already read",
    ]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses names that are not UTF-8")
def test_b12_names_that_are_not_utf8_or_hold_control_characters(tmp_path: Path) -> None:
    for folder, value in ((b"x\xff", 1), (b"y\n", 2)):
        save(
            tmp_path / os.fsdecode(folder) / os.fsdecode(b"\xfe.png"),
            np.full((2, 2), value, np.uint8),
        )
    read, labels, _ = read_folder(tmp_path)
    assert read[:, 0, 0].tolist() == [1, 2]
    assert labels is not None
    assert labels.tolist() == ["x\\xff", "y\n"]
    (tmp_path / os.fsdecode(b"y\n") / os.fsdecode(b"\xfe.png")).write_text("no")
    assert refused(tmp_path)[1].startswith(r"  'y\n/\udcfe.png' (is none of")


@pytest.mark.parametrize("closed", ["", "inner"])
def test_folder_without_permission(
    tmp_path: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.png", GREY)
    (tmp_path / "inner").mkdir()
    scandir = os.scandir  # chmod would not stop root, who runs these tests in a container

    def guarded(folder: Path) -> Any:
        if folder == tmp_path / closed:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(
        DataError if closed else UsageError,
        match=r"the folder cannot be read \(Permission denied\)",
    ):
        read_folder(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"nowhere: the folder cannot be read \(No such file or directory\)"
    ):
        read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resize": (0, 8)}, "--resize 0x8: height and width must be at least 1"),
        ({"alpha": "black"}, "--alpha must be drop or composite, not black"),
        ({"skip_bad": 1.0}, "--skip-bad is a share of the files, at least 0 and below 1"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        read_folder(tmp_path, **options)


def test_all_problems_are_listed_at_once_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_text("no")
    save(tmp_path / "b.png", GREY)
    save(tmp_path / "c.png", DEEP[:4])
    monkeypatch.setattr(images, "_decode", lambda *_: pytest.fail("decoded"))
    lines = refused(tmp_path)
    assert [
        word in line
        for word, line in zip(["cannot be read", "a.png", "16 bits", "2 sizes"], lines, strict=True)
    ] == [True] * 4
