"""Pictures of data: a grid of images as one PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from taut.types import image_layout

__all__ = ["grid", "to_png"]

CELL = 56  # pixels that a small image is enlarged to, at least
GAP = 2
LINE = 20  # pixels of a caption


def grid(images: Tensor, low: float, high: float, columns: int) -> np.ndarray:
    r"""Returns images side by side as bytes, (height, width, 3), row by row.

    Args:
        images: (N, \*image): (H, W), (H, W, C) or (C, H, W) each, with 1, 3 or 4 channels.
        low: The value shown black.
        high: The value shown white.
        columns: Images in a row.
    """
    channels, height, width, axis = image_layout(tuple(images.shape[1:]))
    x = images.detach().cpu().double()
    if axis is None:
        x = x.unsqueeze(-1)
    elif axis == 0:
        x = x.movedim(1, -1)
    x = x[..., :3]
    if channels == 1:
        x = x.expand(*x.shape[:-1], 3)
    span = high - low if high > low else 1.0
    # a picture shows black to white; no number uses it
    pixels = ((x - low) / span).clamp(0, 1).mul(255).round().byte().numpy()
    zoom = max(1, math.ceil(CELL / max(height, width)))
    pixels = pixels.repeat(zoom, 1).repeat(zoom, 2)
    rows = math.ceil(len(pixels) / columns)
    sheet = np.full(
        (rows * (height * zoom + GAP) + GAP, columns * (width * zoom + GAP) + GAP, 3), 128, np.uint8
    )
    for number, image in enumerate(pixels):
        top = GAP + number // columns * (height * zoom + GAP)
        left = GAP + number % columns * (width * zoom + GAP)
        sheet[top : top + height * zoom, left : left + width * zoom] = image
    return sheet


def to_png(sheets: Sequence[np.ndarray], captions: Sequence[str] = ()) -> bytes:
    """Returns sheets of one width, one above the other, as the bytes of a PNG file.

    Args:
        sheets: Bytes, (height, width, 3) each.
        captions: What each shows: a line above it.
    """
    parts = list(sheets)
    if captions:
        pairs = zip(captions, sheets, strict=True)
        parts = [part for text, sheet in pairs for part in (_line(text, sheet.shape[1]), sheet)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(parts)).save(buffer, "PNG")
    return buffer.getvalue()


def _line(text: str, width: int) -> np.ndarray:
    """Returns a line of text, black on white, (LINE, width, 3); what does not fit is cut off."""
    image = Image.new("RGB", (width, LINE), "white")
    ImageDraw.Draw(image).text((6, 4), text, "black", ImageFont.load_default())
    return np.asarray(image)
