"""Turns a folder of image files into one array of pixels, exactly as they were stored, and says
what had to be decided.

The headers are read first, so that everything wrong with the folder is listed before anything is
decoded. A file of a few bytes may claim any size, so the pixels are counted before memory is given
to them. Whatever Pillow would quietly do (cut 16 bits to 8, drop transparency, show a picture lying
on its side) is done openly, counted in a note, or refused.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from taut.system.errors import DataError, UsageError, shown

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

__all__ = ["IMAGE_SUFFIXES", "read_folder"]

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
IMAGE_SUFFIXES = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".pbm",
        ".pgm",
        ".ppm",
        ".pnm",
    )
)
MAX_PIXELS = 64_000_000
MAX_BYTES = 16 * 2**30
MAX_PAGES = 1_000_000
LISTED = 10
GREY = {"1", "L", "LA"}
PALETTE = {"P", "PA"}
COLOUR = {"RGB", "RGBX", "RGBA", "CMYK", "YCbCr", "LAB"}
DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
# EXIF's orientation: the number of Pillow's Transpose that undoes it
UPRIGHT = {
    2: 0,
    3: 3,
    4: 1,
    5: 5,
    6: 4,
    7: 6,
    8: 2,
}


class _Header(NamedTuple):
    path: Path
    size: tuple[int, int]  # height and width, once upright
    mode: str
    frames: int  # of an animation, or pages
    stretched: bool  # Pillow maps its fewer levels to 0..255
    turned: bool
    clear: bool = False  # some pixel is transparent: known only once decoded
    page: int = 0


class _Plan(NamedTuple):
    size: tuple[int, int]
    resize: bool
    crop: bool
    alpha: str | None


def read_folder(
    path: Path,
    *,
    resize: tuple[int, int] | None = None,
    crop: bool = False,
    alpha: str | None = None,
    skip_bad: float = 0.0,
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Returns the images under a folder as (array, labels, notes), in the order of their sorted
    paths.

    The array is (N, H, W) or (N, H, W, 3), uint8 or uint16. If every image lies in an immediate
    subfolder, and there are two or more of these, their names are the labels; else the labels are
    None. A note is a line about what was decided.

    ================================
    =========================================================================== what the file holds
    what becomes of it ================================
    =========================================================================== grey of 1 to 8 bits
    grey 0..255; fewer levels are stretched to it (black 0, white 255) grey of more than 8 bits
    its levels, exactly, as uint16; outside 0..65535 refused RGB                               RGB
    palette                           its colours as RGB, or grey if no palette image of the folder
    has a colour CMYK, YCbCr, LAB                  RGB, converted by Pillow; colour profiles are not
    applied transparency                      none if every pixel is opaque; else refused, or as
    ``alpha`` says grey beside colour                all RGB 16 beside 8 bits
    refused 16-bit colour, floating point     refused: Pillow cannot read them without loss, or they
    have no levels ================================
    ===========================================================================

    Args:
        path: The folder, searched recursively; hidden files and folders are skipped, links are
            followed once.
        resize: Scales each image to this height and width, with antialiased bicubic interpolation.
        crop: Keeps the centre: with ``resize`` the largest part of its aspect ratio, scaled; alone
            as many pixels as the smallest height and the smallest width.
        alpha: ``"drop"`` leaves transparency away, ``"composite"`` lays transparent images on
            white.
        skip_bad: Largest share of the files that may be unreadable, and are then left out: damaged,
            of more than 64 million pixels, 16-bit colour, floating point.

    Fails:
        DataError: no images, unreadable ones, mixed sizes or depths, transparency, more than 16
            GiB; all problems listed.
        UsageError: an option is out of its range, or the folder cannot be read.
    """
    _check_options(resize, alpha, skip_bad)
    where = shown(path)
    files, notes = _find(path)
    with _strict_pillow():
        headers, bad = _read_headers(path, files)
        problems = _too_many_bad(where, bad, len(files), skip_bad) + _mixed_depths(where, headers)
        plan, more = _choose(where, headers, resize, crop, alpha)
        if problems or more:
            raise DataError(problems + more)
        pages, told = _pages(where, headers)
        array, kept, worse = _decode(path, pages, plan)
    bad += worse
    problems = _too_many_bad(where, bad, len(files), skip_bad)
    clear = [_name(path, header.path) for header in kept if header.clear]
    if clear and alpha is None:
        problems.append(
            f"{where}: {_count(len(clear), 'image')} with transparent pixels, the first {clear[0]};"
            " leave transparency away with --alpha drop, or lay them on white with --alpha "
            "composite"
        )
    if problems:
        raise DataError(problems)
    if bad:
        notes.append(
            f"left out {len(bad)} of {_count(len(files), 'image')} that cannot be read: "
            f"{', '.join(_first(bad))}"
        )
    labels, named = _labels(path, kept)
    return array, labels, notes + told + _decisions(kept, plan, array) + named


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Pillow warns of what is checked here.

    And a process may have told it to fill truncated images with grey.
    """
    from PIL import ImageFile

    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _check_options(resize: tuple[int, int] | None, alpha: str | None, skip_bad: float) -> None:
    if resize is not None and min(resize) < 1:
        raise UsageError(
            f"--resize {resize[0]}x{resize[1]}: height and width must be at least 1, such as 64x64"
        )
    if alpha not in (None, "drop", "composite"):
        raise UsageError(f"--alpha must be drop or composite, not {shown(alpha)}")
    if not 0 <= skip_bad < 1:
        raise UsageError(
            f"--skip-bad is a share of the files, at least 0 and below 1 (100 %), not {skip_bad:g}"
        )


def _find(root: Path) -> tuple[list[Path], list[str]]:
    """Linked folders are read after all others, so that an image counts where it lies, and loops
    end.
    """
    images: list[Path] = []
    other: Counter[str] = Counter()
    hidden, repeated, problems = 0, 0, []
    queue, seen = deque([root]), set()
    while queue:
        folder = queue.popleft()
        try:
            status = folder.stat()
            known = (status.st_dev, status.st_ino) in seen
            seen.add((status.st_dev, status.st_ino))
            listing = [] if known else list(os.scandir(folder))
        except OSError as error:
            line = (
                f"{shown(folder)}: the folder cannot be read ({error.strerror}); permit it, or "
                f"move the folder away"
            )
            if folder == root:
                raise UsageError(line) from error
            problems.append(line)
            continue
        repeated += known
        for entry in listing:
            suffix = Path(entry.name).suffix.lower()
            if entry.name.startswith("."):
                hidden += 1
            elif _is_folder(entry):
                (queue.append if entry.is_symlink() else queue.appendleft)(Path(entry.path))
            elif suffix in IMAGE_SUFFIXES:
                images.append(Path(entry.path))
            else:
                other[shown(suffix) or "no suffix"] += 1
    if problems or not images:
        raise DataError(problems or _no_images(root, other, hidden))
    notes = (
        [f"left out {_count(other.total(), 'other file')}: {_histogram(other, 'suffixes')}"]
        if other
        else []
    )
    notes += [f"left out {_count(repeated, 'linked folder')} already read"] if repeated else []
    return sorted(images), notes


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _no_images(root: Path, other: Counter[str], hidden: int) -> str:
    held = (
        [f"{_count(other.total(), 'other file')} ({_histogram(other, 'suffixes')})"]
        if other
        else []
    )
    held += [_count(hidden, "hidden entry", "hidden entries")] if hidden else []
    what = " and ".join(held) or "nothing"
    return (
        f"{shown(root)}: the folder holds no images, but {what}; give one with files "
        f"{', '.join(sorted(IMAGE_SUFFIXES))}"
    )


def _read_headers(root: Path, files: Sequence[Path]) -> tuple[list[_Header], list[str]]:
    headers, bad = [], []
    for path in files:
        try:
            headers.append(_read_header(path))
        # a damaged file raises whatever the plugin meets: struct.error, SyntaxError, KeyError
        except Exception as error:
            bad.append(f"{_name(root, path)} ({_reason(error)})")
    return headers, bad


def _read_header(path: Path) -> _Header:
    from PIL import Image

    if not path.is_file():
        raise ValueError("is no regular file, or a broken link")
    if path.stat().st_size == 0:
        raise ValueError("is empty")
    with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"claims {height}x{width} pixels, more than {MAX_PIXELS // 10**6} million; scale "
                f"it down"
            )
        turned = _orientation(image) in UPRIGHT
        # Pillow has turned a TIFF's size already
        if turned and _orientation(image) >= 5 and image.format != "TIFF":
            width, height = height, width
        raw, most = _stored_as(image)
        if image.mode not in GREY | PALETTE | COLOUR | DEEP:
            raise ValueError(
                "holds floating-point pixels, which have no levels; save the images as one array "
                "in a .npy file"
            )
        if image.mode not in DEEP and (raw.endswith((";16B", ";16L", ";16N")) or (most or 0) > 255):
            raise ValueError(
                "has 16 bits a channel, of which Pillow keeps 8; save it with 8, or all in one "
                ".npy file"
            )
        stretched = (
            image.mode == "1"
            or raw in ("L;2", "L;4")
            or (image.mode not in DEEP and most not in (None, 255))
        )
        # how many of others would mean to decode them
        frames = 1 + bool(getattr(image, "is_animated", False))
        if frames > 1 and image.format == "TIFF":
            frames = int(getattr(image, "n_frames", 1))
            image.seek(0)
        return _Header(path, (height, width), image.mode, frames, stretched, turned)


def _stored_as(image: ImageFile) -> tuple[str, int | None]:
    """The layout Pillow unpacks, such as ``"RGB;16B"``, and the largest level, where a PGM or PPM
    states one.
    """
    arguments = image.tile[0][3] if image.tile else ""
    raw, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
    return str(raw), int(rest[0]) if rest and image.format == "PPM" else None


def _orientation(image: Image) -> int:
    from PIL.Image import Image as Base

    # a PNG's own getexif would decode it, in search of one at its end
    return int(Base.getexif(image).get(0x0112, 1))


def _reason(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"is none of {', '.join(FORMATS)}, whatever its name says, or its header is damaged"
    if isinstance(error, Image.DecompressionBombError):
        return f"claims more than {MAX_PIXELS // 10**6} million pixels; scale it down"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shown(error) or type(error).__name__


def _too_many_bad(where: str, bad: Sequence[str], total: int, skip_bad: float) -> list[str]:
    if not bad or (len(bad) / total <= skip_bad and len(bad) < total):
        return []
    share = f"{len(bad)} of {_count(total, 'image')} ({100 * len(bad) / total:.3g} %)"
    mend = "mend or delete them, or allow their share with --skip-bad"
    return [f"{where}: {share} cannot be read; {mend}:", *(f"  {line}" for line in _first(bad))]


def _mixed_depths(where: str, headers: Sequence[_Header]) -> list[str]:
    deep = [header.mode in DEEP for header in headers]
    if not any(deep) or all(deep):
        return []
    few = sum(deep) <= len(deep) / 2
    name = shown(headers[deep.index(few)].path.name)
    return [
        f"{where}: {_count(sum(deep), 'image')} of 16 bits a pixel beside {len(deep) - sum(deep)} "
        f"of 8,"
        f" such as {name} ({16 if few else 8}); save all with the same depth"
    ]


def _choose(
    where: str,
    headers: Sequence[_Header],
    resize: tuple[int, int] | None,
    crop: bool,
    alpha: str | None,
) -> tuple[_Plan, list[str]]:
    sizes = Counter(header.size for header in headers)
    seen = _histogram(Counter({f"{h}x{w}": count for (h, w), count in sizes.items()}), "sizes")
    size = resize or (min((h for h, _ in sizes), default=1), min((w for _, w in sizes), default=1))
    plan = _Plan(size, resize is not None, crop, alpha)
    problems = []
    if len(sizes) > 1 and not crop and resize is None:
        problems.append(
            f"{where}: images of {len(sizes)} sizes (height x width): {seen}; scale them with "
            f"--resize 64x64, cut their"
            " centre with --crop, or both where their shapes differ"
        )
    elif len(sizes) > 1 and not crop and not _one_shape(sizes):
        problems.append(
            f"{where}: --resize {size[0]}x{size[1]} would distort images of differing shapes "
            f"(height x width): {seen};"
            " add --crop to cut them to one shape"
        )
    shape, dtype = _layout(headers, size)
    if (needed := math.prod(shape) * dtype.itemsize) > MAX_BYTES:
        gib = f"{needed / 2**30:.1f} GiB (limit {MAX_BYTES / 2**30:g})"
        problems.append(
            f"{where}: {len(headers)} images of {size[0]}x{size[1]} need {gib}; scale them with "
            f"--resize 64x64"
        )
    return plan, problems


def _one_shape(sizes: Iterable[tuple[int, int]]) -> bool:
    """Whether all can be scalings of one picture, each side rounded to whole pixels."""
    lows, highs = zip(
        *(((h - 0.5) / (w + 0.5), (h + 0.5) / (w - 0.5)) for h, w in sizes), strict=True
    )
    return max(lows) <= min(highs)


def _layout(
    headers: Sequence[_Header], size: tuple[int, int]
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    modes = {header.mode for header in headers}
    channels = () if modes.isdisjoint(COLOUR | PALETTE) else (3,)
    return (len(headers), *size, *channels), np.dtype(
        np.uint8 if modes.isdisjoint(DEEP) else np.uint16
    )


def _pages(where: str, headers: Sequence[_Header]) -> tuple[list[_Header], list[str]]:
    """Returns a header for each page where a single TIFF is all there is, as microscopes write
    their stacks; else those given.
    """
    if (
        len(headers) > 1
        or headers[0].frames == 1
        or headers[0].path.suffix.lower() not in (".tif", ".tiff")
    ):
        return list(headers), []
    needed = headers[0].frames * math.prod(headers[0].size)
    if headers[0].frames > MAX_PAGES or needed > MAX_BYTES:
        claimed = f"{headers[0].frames} pages of {headers[0].size[0]}x{headers[0].size[1]}"
        raise DataError(
            f"{where}: {shown(headers[0].path.name)} claims {claimed}; save them as one array in a "
            f".npy file"
        )
    pages = [headers[0]._replace(page=i, frames=1) for i in range(headers[0].frames)]
    return pages, [f"{len(pages)} pages of {shown(headers[0].path.name)} are read as images"]


def _decode(
    root: Path, headers: Sequence[_Header], plan: _Plan
) -> tuple[np.ndarray, list[_Header], list[str]]:
    shape, dtype = _layout(headers, plan.size)
    array = np.empty(shape, dtype)
    kept: list[_Header] = []
    bad = []
    for header in headers:
        try:
            pixels, header = _pixels(header, plan)
        except Exception as error:  # as in the headers
            bad.append(f"{_name(root, header.path)} ({_reason(error)})")
            continue
        array[len(kept)] = pixels if pixels.ndim == array.ndim - 1 else pixels[..., None]
        kept.append(header)
    array = array[: len(kept)]
    only_palettes = array.ndim == 4 and not any(header.mode in COLOUR for header in kept)
    if only_palettes and all((rows == rows[..., :1]).all() for rows in array):
        array = np.ascontiguousarray(array[..., 0])
    return array, kept, bad


def _pixels(header: _Header, plan: _Plan) -> tuple[np.ndarray, _Header]:
    from PIL import Image

    # A stream, not a path: Pillow maps a path's raw TIFF into memory, where it scrambles one that
    # lies on its side.
    with header.path.open("rb") as stream, Image.open(stream, formats=FORMATS) as opened:
        if header.page:
            opened.seek(header.page)
            if opened.mode != header.mode:
                raise ValueError(
                    f"its page {header.page} (from 0) is {opened.mode}, the first {header.mode}; "
                    f"save them alike"
                )
        most = _stored_as(opened)[1]
        opened.load()
        image: Image.Image = opened
        turn = UPRIGHT.get(_orientation(opened))  # Pillow has turned a TIFF already, and says so
        if turn is not None:
            image = opened.transpose(Image.Transpose(turn))
        if image.size != header.size[::-1]:
            raise ValueError(
                f"decodes to {image.size[1]}x{image.size[0]} pixels, but its header says otherwise"
            )
        pixels, clear = _flatten(image, plan.alpha, most)
    return _fit(pixels, plan), header._replace(
        turned=header.turned or turn is not None, clear=clear
    )


def _flatten(image: Image, alpha: str | None, most: int | None) -> tuple[np.ndarray, bool]:
    from PIL import Image as Images

    if image.mode in DEEP:
        levels = np.asarray(image)
        if most is not None:  # Pillow has stretched them to 0..65535
            levels = np.rint(levels * (most / 65535)).astype(np.int32)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(
                f"holds values {levels.min()}..{levels.max()}, not levels 0..65535; save all in "
                f"one .npy file"
            )
        hole = levels == image.info.get("transparency", -1)
        return np.where(hole & (alpha == "composite"), 65535, levels).astype(np.uint16), bool(
            hole.any()
        )
    grey, clear = image.mode in GREY, False
    if image.has_transparency_data:
        image = image.convert("RGBA")
        clear = bool((np.asarray(image)[..., 3] < 255).any())
        if clear and alpha == "composite":
            image = Images.alpha_composite(Images.new("RGBA", image.size, "white"), image)
        return np.asarray(image)[..., 0 if grey else slice(3)], clear
    return np.asarray(image.convert("L" if grey else "RGB")), clear


def _fit(pixels: np.ndarray, plan: _Plan) -> np.ndarray:
    (height, width), (H, W) = pixels.shape[:2], plan.size
    if (height, width) == (H, W):
        return pixels
    if not plan.resize:
        top, left = (height - H) // 2, (width - W) // 2
        return pixels[top : top + H, left : left + W]
    from PIL import Image

    h, w = float(height), float(width)
    if plan.crop:  # the larger side shrinks to the aspect ratio of the target
        h, w = (h, W * height / H) if height * W <= width * H else (H * width / W, w)
    box = ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2)
    if pixels.dtype == np.uint8:
        return np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels)).resize(
                (W, H), Image.Resampling.BICUBIC, box
            )
        )
    scaled = Image.fromarray(pixels.astype(np.float32)).resize(
        (W, H), Image.Resampling.BICUBIC, box
    )
    return np.rint(np.asarray(scaled)).clip(0, 65535).astype(np.uint16)


def _labels(root: Path, headers: Sequence[_Header]) -> tuple[np.ndarray | None, list[str]]:
    parts = [header.path.relative_to(root).parts for header in headers]
    names = {part[0] for part in parts}
    if len(names) < 2 or any(len(part) != 2 for part in parts):
        return None, []
    texts = [os.fsencode(part[0]).decode("utf-8", "backslashreplace") for part in parts]
    return np.array(texts), [f"the labels are the names of the {len(names)} subfolders"]


def _decisions(kept: Sequence[_Header], plan: _Plan, array: np.ndarray) -> list[str]:
    H, W = plan.size
    modes = Counter(header.mode for header in kept)
    sizes = [header.size for header in kept]
    other_size = sum(size != plan.size for size in sizes)
    scaled = f"scaled to {H}x{W} (bicubic{', the centre of their shape' if plan.crop else ''})"
    distorted = plan.resize and not plan.crop and not _one_shape({*sizes, plan.size})
    bits = "; --binarize threshold makes bits of black and white" if set(modes) == {"1"} else ""
    notes = [
        (sum(header.turned for header in kept), "turned upright, as their EXIF orientation says"),
        (
            sum(header.frames > 1 for header in kept),
            "with several frames or pages: only the first is read",
        ),
        (sum(header.stretched for header in kept), f"with fewer levels, stretched to 0..255{bits}"),
        (
            sum(header.clear for header in kept),
            f"with transparency {'laid on white' if plan.alpha == 'composite' else 'dropped'}",
        ),
        (
            sum(modes[mode] for mode in GREY) if array.ndim == 4 else 0,
            "grey, made RGB beside the coloured ones",
        ),
        *((modes[mode], f"converted from {mode} to RGB") for mode in ("CMYK", "YCbCr", "LAB")),
        (
            sum(modes[mode] for mode in PALETTE) if array.ndim == 4 else 0,
            "of a palette, read as its colours, RGB",
        ),
        (
            other_size if plan.resize else 0,
            scaled + (", which changes their aspect ratio" if distorted else ""),
        ),
        (
            sum(h < H or w < W for h, w in sizes),
            f"smaller than {H}x{W}, enlarged: their finest detail is made up",
        ),
        (
            0 if plan.resize else other_size,
            f"cut to their centre, {H}x{W}, the smallest height and width",
        ),
    ]
    return [f"{count} of {_count(len(kept), 'image')} {what}" for count, what in notes if count]


def _name(root: Path, path: Path) -> str:
    return shown(path.relative_to(root))


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _first(lines: Sequence[str]) -> list[str]:
    return (
        [*lines[:LISTED], f"and {len(lines) - LISTED} more"] if len(lines) > LISTED else list(lines)
    )


def _histogram(counts: Counter[str], what: str) -> str:
    common = [
        f"{name}: {count}"
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:LISTED]
    ]
    return ", ".join(common) + (
        f" and {len(counts) - LISTED} more {what}" if len(counts) > LISTED else ""
    )
