"""Writes scikit-learn's handwritten digits as PNG files, a subfolder for each digit: handwriting/0/0000.png, ..."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
    folder = Path("handwriting") / str(label)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 15).astype(np.uint8)).resize((16, 16)).save(folder / f"{number:04}.png")
