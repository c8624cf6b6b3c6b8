"""Writes shapes.npy, images of one shape each, and shapes.csv, what made them.

The factors are known: a disc or a square, its size, and where it is.
"""

from pathlib import Path

import numpy as np

rng = np.random.default_rng(0)
n, side = 3000, 16
square, size = rng.integers(0, 2, n), rng.integers(0, 5, n)
x, y = rng.integers(0, 15, n), rng.integers(0, 15, n)
row, column = np.mgrid[:side, :side]
down = np.abs(row - 3.3 - 0.6 * y[:, None, None])
across = np.abs(column - 3.3 - 0.6 * x[:, None, None])
distance = np.where(square[:, None, None] > 0, np.maximum(down, across), np.hypot(down, across))
np.save("shapes.npy", (distance <= 1.5 + 0.4 * size[:, None, None]).astype(np.uint8))
lines = [
    f"{('disc', 'square')[a]},{b},{c},{d}" for a, b, c, d in zip(square, size, x, y, strict=True)
]
Path("shapes.csv").write_text("\n".join(["shape,size,x,y", *lines]) + "\n")
