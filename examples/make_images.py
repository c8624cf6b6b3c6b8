"""Writes three folders of PNG files from what scikit-learn brings along.

``handwriting``: 1,797 digits of 16x16 pixels, a subfolder for each. ``pieces``: 300 pieces of two
    photographs, in colour, of
several sizes, ten of them with a transparent corner. ``deep``: 200 of the digits in 16 bits a
pixel.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

rng = np.random.default_rng(0)
digits, photographs = load_digits(), load_sample_images().images
for folder in ("pieces", "deep", *(f"handwriting/{label}" for label in range(10))):
    Path(folder).mkdir(parents=True, exist_ok=True)

for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
    image = Image.fromarray((15 * pixels).astype(np.uint8)).resize((16, 16))
    image.save(f"handwriting/{label}/{number:04}.png")
    if number < 200:
        deep = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize((16, 16))).clip(0, 16)
        Image.fromarray((4000 * deep).astype(np.uint16)).save(f"deep/{number:04}.png")

for number in range(300):
    height, width = rng.integers(24, 40, 2)
    top, left = rng.integers(0, 427 - height), rng.integers(0, 640 - width)
    piece = Image.fromarray(photographs[number % 2][top : top + height, left : left + width])
    if number < 10:
        opacity = np.full((height, width), 255, np.uint8)
        opacity[:5, :5] = 0
        piece.putalpha(Image.fromarray(opacity))
    piece.save(f"pieces/{number:04}.png")
