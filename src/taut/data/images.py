"""A folder of image files as one array of pixels, exactly as they were stored, with a note about
every decision.

The headers are read first, so that everything wrong with the folder is listed before anything is
decoded. ``taut.data.image_files`` reads a single file.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taut.data.image_files import (
    COLOUR,
    DEEP,
    GREY,
    PALETTE,
    Header,
    Plan,
    pixels_of,
    read_header,
    reason,
    strict_pillow,
)
from taut.system.errors import DataError, UsageError, shown

__all__ = ["IMAGE_SUFFIXES", "image_files", "read_folder"]

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff"))
IMAGE_SUFFIXES |= {".bmp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm"}
MAX_BYTES = 16 * 2**30
MAX_PAGES = 1_000_000
LISTED = 10


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
    None. A note is a line about a decision.

    * Grey of 1 to 8 bits becomes grey 0..255; fewer levels are stretched to it (black 0, white
      255).
    * Grey of more than 8 bits keeps its levels exactly, as uint16; outside 0..65535 it is refused.
    * RGB stays RGB. A palette becomes its colours as RGB, or grey if no palette image of the folder
      has a colour.
    * CMYK, YCbCr and LAB are converted to RGB by Pillow; colour profiles are not applied.
    * Transparency has no effect if every pixel is opaque; else it is refused, or treated as
      ``alpha`` says.
    * Of a mixture of grey and colour all become RGB; one of 16 and 8 bits is refused.
    * 16-bit colour and floating point are refused: Pillow cannot read them without loss, or they
      have no levels.

    Args:
        path: The folder, searched recursively; hidden files and folders are skipped, links are
            followed once.
        resize: Scales each image to this height and width, with antialiased bicubic interpolation.
        crop: Keeps the centre: with ``resize`` the largest part of its aspect ratio, scaled; alone
            as many pixels as the smallest height and the smallest width.
        alpha: ``"drop"`` drops transparency, ``"composite"`` lays transparent images on white.
        skip_bad: Largest share of the files that may be unreadable, and are then omitted: damaged,
            of more than 64 million pixels, 16-bit colour, floating point.

    Raises:
        DataError: no images, unreadable ones, mixed sizes or depths, transparency, more than 16
            GiB; all problems listed.
        UsageError: an option is out of its range, or the folder cannot be read.
    """
    _check_options(resize, alpha, skip_bad)
    where = shown(path)
    files, notes = _find(path)
    with strict_pillow():
        headers, bad = _read_headers(path, files)
        problems = _too_many_bad(where, bad, len(files), skip_bad) + _mixed_depths(where, headers)
        plan, more = _plan(where, headers, resize, crop, alpha)
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
            " drop transparency with --alpha drop, or lay them on white with --alpha composite"
        )
    if problems:
        raise DataError(problems)
    if bad:
        notes.append(
            f"omitted {len(bad)} of {_count(len(files), 'image')} that cannot be read: "
            f"{', '.join(_first(bad))}"
        )
    labels, named = _labels(path, kept)
    return array, labels, notes + told + _decisions(kept, plan, array) + named


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
    """Returns the image files below a folder, sorted, and notes about other entries.

    Linked folders are read after all others, so that an image counts at its own place, and loops
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
            entries = [] if known else list(os.scandir(folder))
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
        for entry in entries:
            suffix = Path(entry.name).suffix.lower()
            if entry.name.startswith("."):
                hidden += 1
            elif _is_folder(entry):
                if entry.is_symlink():
                    queue.append(Path(entry.path))
                else:
                    queue.appendleft(Path(entry.path))
            elif suffix in IMAGE_SUFFIXES:
                images.append(Path(entry.path))
            else:
                other[shown(suffix) or "no suffix"] += 1
    if problems or not images:
        raise DataError(problems or _no_images(root, other, hidden))
    notes = []
    if other:
        suffixes = _histogram(other, "suffixes")
        notes.append(f"omitted {_count(other.total(), 'other file')}: {suffixes}")
    if repeated:
        notes.append(f"omitted {_count(repeated, 'linked folder')} already read")
    return sorted(images), notes


def image_files(root: Path) -> list[Path]:
    """Returns the images of a folder in the order in which they are read."""
    return _find(root)[0]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _no_images(root: Path, other: Counter[str], hidden: int) -> str:
    held = []
    if other:
        suffixes = _histogram(other, "suffixes")
        held.append(f"{_count(other.total(), 'other file')} ({suffixes})")
    if hidden:
        held.append(_count(hidden, "hidden entry", "hidden entries"))
    content = "the folder is empty"
    if held:
        content = f"the folder holds no images, but {' and '.join(held)}"
    return f"{shown(root)}: {content}; give one with files {', '.join(sorted(IMAGE_SUFFIXES))}"


def _read_headers(root: Path, files: Sequence[Path]) -> tuple[list[Header], list[str]]:
    headers, bad = [], []
    for path in files:
        try:
            headers.append(read_header(path))
        # A damaged file raises whatever the plugin meets: struct.error, SyntaxError, KeyError.
        except Exception as error:
            bad.append(f"{_name(root, path)} ({reason(error)})")
    return headers, bad


def _too_many_bad(where: str, bad: Sequence[str], total: int, skip_bad: float) -> list[str]:
    if not bad or (len(bad) / total <= skip_bad and len(bad) < total):
        return []
    share = f"{len(bad)} of {_count(total, 'image')} ({100 * len(bad) / total:.3g} %)"
    remedy = "fix or delete them, or allow their share with --skip-bad"
    listed = [f"  {line}" for line in _first(bad)]
    return [f"{where}: {share} cannot be read; {remedy}:", *listed]


def _mixed_depths(where: str, headers: Sequence[Header]) -> list[str]:
    deep = [header.mode in DEEP for header in headers]
    if not any(deep) or all(deep):
        return []
    few = sum(deep) <= len(deep) / 2
    name, bits = shown(headers[deep.index(few)].path.name), 16 if few else 8
    return [
        f"{where}: {_count(sum(deep), 'image')} of 16 bits a pixel and {len(deep) - sum(deep)} of "
        f"8, such as {name} ({bits}); save all with the same depth"
    ]


def _plan(
    where: str,
    headers: Sequence[Header],
    resize: tuple[int, int] | None,
    crop: bool,
    alpha: str | None,
) -> tuple[Plan, list[str]]:
    sizes = Counter(header.size for header in headers)
    seen = _histogram(Counter({f"{h}x{w}": count for (h, w), count in sizes.items()}), "sizes")
    smallest = (min((h for h, _ in sizes), default=1), min((w for _, w in sizes), default=1))
    size = resize or smallest
    plan = Plan(size, resize is not None, crop, alpha)
    problems = []
    if len(sizes) > 1 and not crop and resize is None:
        problems.append(
            f"{where}: images of {len(sizes)} sizes (height x width): {seen}; scale them with "
            f"--resize 64x64, cut their centre with --crop, or both where their shapes differ"
        )
    elif len(sizes) > 1 and not crop and not _one_shape(sizes):
        problems.append(
            f"{where}: --resize {size[0]}x{size[1]} would distort images of differing shapes "
            f"(height x width): {seen}; add --crop to cut them to one shape"
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
    """Returns whether all can be scalings of one picture, each side rounded to whole pixels."""
    lows = [(h - 0.5) / (w + 0.5) for h, w in sizes]
    highs = [(h + 0.5) / (w - 0.5) for h, w in sizes]
    return max(lows) <= min(highs)


def _layout(
    headers: Sequence[Header], size: tuple[int, int]
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Returns shape and dtype of the array of all images."""
    modes = {header.mode for header in headers}
    channels = () if modes.isdisjoint(COLOUR | PALETTE) else (3,)
    depth = np.uint8 if modes.isdisjoint(DEEP) else np.uint16
    return (len(headers), *size, *channels), np.dtype(depth)


def _pages(where: str, headers: Sequence[Header]) -> tuple[list[Header], list[str]]:
    """Returns a header for each page of a single TIFF, as microscopes write their stacks, else the
    given ones; and a note.
    """
    first = headers[0]
    stack = len(headers) == 1 and first.frames > 1
    if not stack or first.path.suffix.lower() not in (".tif", ".tiff"):
        return list(headers), []
    name = shown(first.path.name)
    if first.frames > MAX_PAGES or first.frames * math.prod(first.size) > MAX_BYTES:
        claimed = f"{first.frames} pages of {first.size[0]}x{first.size[1]}"
        raise DataError(f"{where}: {name} claims {claimed}; save them as one array in a .npy file")
    pages = [first._replace(page=number, frames=1) for number in range(first.frames)]
    return pages, [f"{len(pages)} pages of {name} are read as images"]


def _decode(
    root: Path, headers: Sequence[Header], plan: Plan
) -> tuple[np.ndarray, list[Header], list[str]]:
    shape, dtype = _layout(headers, plan.size)
    array = np.empty(shape, dtype)
    kept: list[Header] = []
    bad = []
    for header in headers:
        try:
            pixels, header = pixels_of(header, plan)
        except Exception as error:  # as of the headers
            bad.append(f"{_name(root, header.path)} ({reason(error)})")
            continue
        if pixels.ndim != array.ndim - 1:
            pixels = pixels[..., None]
        array[len(kept)] = pixels
        kept.append(header)
    array = array[: len(kept)]
    only_palettes = array.ndim == 4 and not any(header.mode in COLOUR for header in kept)
    if only_palettes and all((rows == rows[..., :1]).all() for rows in array):
        array = np.ascontiguousarray(array[..., 0])
    return array, kept, bad


def _labels(root: Path, headers: Sequence[Header]) -> tuple[np.ndarray | None, list[str]]:
    parts = [header.path.relative_to(root).parts for header in headers]
    names = {part[0] for part in parts}
    if len(names) < 2 or any(len(part) != 2 for part in parts):
        return None, []
    texts = [os.fsencode(part[0]).decode("utf-8", "backslashreplace") for part in parts]
    return np.array(texts), [f"the labels are the names of the {len(names)} subfolders"]


def _decisions(kept: Sequence[Header], plan: Plan, array: np.ndarray) -> list[str]:
    """Returns a note about each change that was made to some images."""
    height, width = plan.size
    modes = Counter(header.mode for header in kept)
    sizes = [header.size for header in kept]
    frames = sum(header.frames > 1 for header in kept)
    stretched = "with fewer levels, stretched to 0..255"
    if set(modes) == {"1"}:
        stretched += "; --binarize threshold makes bits of black and white"
    transparency = "laid on white" if plan.alpha == "composite" else "dropped"
    notes = [
        (sum(header.turned for header in kept), "turned upright, as their EXIF orientation says"),
        (frames, "with several frames or pages: only the first is read"),
        (sum(header.stretched for header in kept), stretched),
        (sum(header.clear for header in kept), f"with transparency {transparency}"),
    ]
    if array.ndim == 4:
        notes.append((_total(modes, GREY), "grey, made RGB like the coloured ones"))
    notes += [(modes[mode], f"converted from {mode} to RGB") for mode in ("CMYK", "YCbCr", "LAB")]
    if array.ndim == 4:
        notes.append((_total(modes, PALETTE), "of a palette, read as its colours, RGB"))
    other_size = sum(size != plan.size for size in sizes)
    if plan.resize:
        notes.append((other_size, _scaling(plan, sizes)))
    smaller = sum(h < height or w < width for h, w in sizes)
    made_up = f"smaller than {height}x{width}, enlarged: their finest detail is made up"
    notes.append((smaller, made_up))
    if not plan.resize:
        centre = f"cut to their centre, {height}x{width}, the smallest height and width"
        notes.append((other_size, centre))
    return [f"{count} of {_count(len(kept), 'image')} {change}" for count, change in notes if count]


def _scaling(plan: Plan, sizes: Sequence[tuple[int, int]]) -> str:
    size = f"{plan.size[0]}x{plan.size[1]}"
    if plan.crop:
        return f"scaled to {size} (bicubic, the centre of their shape)"
    scaled = f"scaled to {size} (bicubic)"
    if _one_shape({*sizes, plan.size}):
        return scaled
    return f"{scaled}, which changes their aspect ratio"


def _total(modes: Counter[str], of: Iterable[str]) -> int:
    return sum(modes[mode] for mode in of)


def _name(root: Path, path: Path) -> str:
    return shown(path.relative_to(root))


def _count(number: int, one: str, many: str = "") -> str:
    if number == 1:
        return f"1 {one}"
    return f"{number} {many or one + 's'}"


def _first(lines: Sequence[str]) -> list[str]:
    if len(lines) <= LISTED:
        return list(lines)
    return [*lines[:LISTED], f"and {len(lines) - LISTED} more"]


def _histogram(counts: Counter[str], unit: str) -> str:
    """Returns the most frequent names with their counts, and the number of further ones."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{name}: {count}" for name, count in ordered[:LISTED])
    if len(counts) > LISTED:
        listed += f" and {len(counts) - LISTED} more {unit}"
    return listed
