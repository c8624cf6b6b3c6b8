"""One image file: its header, and its pixels exactly as they were stored.

A file of a few bytes may claim any size, so the pixels are counted before memory is given to them.
Whatever Pillow would do silently (cut 16 bits to 8, drop transparency, show a picture lying on its
side) is done openly, or refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from taut.system.errors import shown

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

__all__ = [
    "COLOUR",
    "DEEP",
    "GREY",
    "PALETTE",
    "Header",
    "Plan",
    "pixels_of",
    "read_header",
    "reason",
    "strict_pillow",
]

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
MAX_PIXELS = 64_000_000
GREY = {"1", "L", "LA"}
PALETTE = {"P", "PA"}
COLOUR = {"RGB", "RGBX", "RGBA", "CMYK", "YCbCr", "LAB"}
DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
# EXIF's orientation: the number of Pillow's Transpose that undoes it
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


class Header(NamedTuple):
    """The header of an image file, or of one of its pages."""

    path: Path
    size: tuple[int, int]  # height and width, once upright
    mode: str
    frames: int  # of an animation, or pages
    stretched: bool  # Pillow maps its fewer levels to 0..255
    turned: bool
    clear: bool = False  # some pixel is transparent: known only once decoded
    page: int = 0


class Plan(NamedTuple):
    """The changes to an image: height and width, and how it gets them."""

    size: tuple[int, int]
    resize: bool
    crop: bool
    alpha: str | None


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Silences Pillow's warnings about things checked here, and has it refuse truncated images.

    A process may have told it to fill those with grey.
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


def read_header(path: Path) -> Header:
    """Returns the header of a file.

    Raises:
        ValueError: the file is not an image whose levels Pillow can read without loss.
    """
    from PIL import Image

    if not path.is_file():
        raise ValueError("is not a regular file, or is a broken link")
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
        # Pillow has already turned the size of a TIFF.
        if turned and _orientation(image) >= 5 and image.format != "TIFF":
            width, height = height, width
        stretched = _check_depth(image)
        # 1 or 2: counting the frames of other formats would mean to decode them.
        frames = 1 + bool(getattr(image, "is_animated", False))
        if frames > 1 and image.format == "TIFF":
            frames = int(getattr(image, "n_frames", 1))
            image.seek(0)
        return Header(path, (height, width), image.mode, frames, stretched, turned)


def _check_depth(image: ImageFile) -> bool:
    """Returns whether Pillow stretches the levels of an image to 0..255.

    Raises:
        ValueError: Pillow would lose some of them.
    """
    raw, most = _stored_as(image)
    if _misread(image, raw):
        raise ValueError("is an uncompressed YCbCr TIFF: save it as RGB, or install Pillow 13")
    if image.mode in DEEP:
        return False
    if image.mode not in GREY | PALETTE | COLOUR:
        raise ValueError(
            "holds floating-point pixels, which have no levels; save the images as one array in a "
            ".npy file"
        )
    if raw.endswith((";16B", ";16L", ";16N")) or (most or 0) > 255:
        raise ValueError(
            "has 16 bits a channel, of which Pillow keeps 8; save it with 8, or all in one .npy "
            "file"
        )
    return image.mode == "1" or raw in ("L;2", "L;4") or most not in (None, 255)


def _stored_as(image: ImageFile) -> tuple[str, int | None]:
    """Returns the layout that Pillow unpacks, such as ``"RGB;16B"``, and the largest level, if a
    PGM or PPM states one.
    """
    arguments = image.tile[0][3] if image.tile else ""
    raw, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
    if rest and image.format == "PPM":
        return str(raw), int(rest[0])
    return str(raw), None


def _misread(image: ImageFile, raw: str) -> bool:
    """Returns whether Pillow takes the three bytes of a pixel for four, as it does before 13."""
    ycbcr = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 6
    return ycbcr and raw == "RGBX" and image.tile[0][0] == "raw"


def _orientation(image: Image) -> int:
    from PIL.Image import Image as Base

    # A PNG's own getexif would decode it, in search of one at its end.
    return int(Base.getexif(image).get(0x0112, 1))


def reason(error: Exception) -> str:
    """Returns the reason why a file cannot be read, as a clause."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"is none of {', '.join(FORMATS)}, whatever its name says, or its header is damaged"
    if isinstance(error, Image.DecompressionBombError):
        return f"claims more than {MAX_PIXELS // 10**6} million pixels; scale it down"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shown(error) or type(error).__name__


def pixels_of(header: Header, plan: Plan) -> tuple[np.ndarray, Header]:
    """Returns the pixels of an image, changed by a plan, and its header, now fully known.

    Raises:
        ValueError: the pixels are not those that the header promises.
    """
    from PIL import Image

    # A stream, not a path: Pillow maps the raw TIFF of a path into memory, and scrambles one that
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
        pixels, clear = _flattened(image, plan.alpha, most)
    turned = header.turned or turn is not None
    return _fitted(pixels, plan), header._replace(turned=turned, clear=clear)


def _flattened(image: Image, alpha: str | None, most: int | None) -> tuple[np.ndarray, bool]:
    """Returns the levels of an image without transparency, and whether some pixel had it."""
    from PIL import Image as Images

    if image.mode in DEEP:
        return _deep_levels(image, alpha, most)
    grey, clear = image.mode in GREY, False
    if image.has_transparency_data:
        image = image.convert("RGBA")
        clear = bool((np.asarray(image)[..., 3] < 255).any())
        if clear and alpha == "composite":
            image = Images.alpha_composite(Images.new("RGBA", image.size, "white"), image)
        return np.asarray(image)[..., 0 if grey else slice(3)], clear
    return np.asarray(image.convert("L" if grey else "RGB")), clear


def _deep_levels(image: Image, alpha: str | None, most: int | None) -> tuple[np.ndarray, bool]:
    # NumPy 2.0 may crash where numbers of another byte order meet one that they cannot hold.
    levels = np.asarray(image).astype(np.int32)
    if most is not None:  # Pillow has stretched them to 0..65535
        levels = np.rint(levels * (most / 65535)).astype(np.int32)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(
            f"holds values {levels.min()}..{levels.max()}, not levels 0..65535; save all in one "
            f".npy file"
        )
    hole = levels == image.info.get("transparency", -1)
    filled = np.where(hole & (alpha == "composite"), 65535, levels)
    return filled.astype(np.uint16), bool(hole.any())


def _fitted(pixels: np.ndarray, plan: Plan) -> np.ndarray:
    (height, width), (H, W) = pixels.shape[:2], plan.size
    if (height, width) == (H, W):
        return pixels
    if not plan.resize:
        top, left = (height - H) // 2, (width - W) // 2
        return pixels[top : top + H, left : left + W]
    from PIL import Image

    h, w = float(height), float(width)
    if plan.crop and height * W <= width * H:  # the longer side shrinks to the aspect ratio
        w = W * height / H
    elif plan.crop:
        h = H * width / W
    box = ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2)
    shallow = pixels.dtype == np.uint8
    levels = np.ascontiguousarray(pixels) if shallow else pixels.astype(np.float32)
    resized = Image.fromarray(levels).resize((W, H), Image.Resampling.BICUBIC, box)
    scaled = np.asarray(resized)
    if shallow:
        return scaled
    return np.rint(scaled).clip(0, 65535).astype(np.uint16)
