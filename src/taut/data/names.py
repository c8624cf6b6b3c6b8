"""The names of cells and genes that 10x writes next to its counts."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taut.system.errors import DataError, shown
from taut.system.memory import check_fits

__all__ = ["Names", "names_in_folder", "names_in_group"]

Names = tuple[tuple[str, ...], tuple[str, ...]]  # of the cells, of the genes; empty where unknown
CELLS = ("barcodes.tsv", "barcodes.tsv.gz")
GENES = ("features.tsv", "features.tsv.gz", "genes.tsv", "genes.tsv.gz")
MOST = 2**28  # bytes of a packed file of names, unpacked


def names_in_folder(folder: Path, sizes: Sequence[int]) -> Names:
    """Returns the names in the files next to a matrix: of genes the second field, which is the
    symbol, where there is one.

    Args:
        folder: The folder.
        sizes: Numbers of cells and genes.

    Raises:
        DataError: a file holds another number of them.
    """
    found = []
    for files, size, what in zip((CELLS, GENES), sizes, ("cells", "genes"), strict=True):
        path = next((folder / name for name in files if (folder / name).is_file()), None)
        lines = _lines(path) if path else []
        fields = [line.split("\t") for line in lines]
        place = 0 if what == "cells" else 1
        names = tuple(field[min(place, len(field) - 1)] for field in fields)
        found.append(_counted(names, int(size), what, shown(path)))
    return found[0], found[1]


def names_in_group(group: Any, sizes: Sequence[int], where: str) -> Names:
    """Returns the names in an HDF5 group of 10x, likewise.

    Args:
        group: The group that holds the matrix.
        sizes: Numbers of cells and genes.
        where: The name of the file.

    Raises:
        DataError: it holds another number of them.
    """
    found = []
    for places, size, what in (
        (("barcodes",), sizes[0], "cells"),
        (("features/name", "features/id", "gene_names", "genes"), sizes[1], "genes"),
    ):
        part = next((group[place] for place in places if place in group), None)
        names: tuple[str, ...] = ()
        if part is not None and hasattr(part, "dtype") and part.dtype.kind in "SO":
            check_fits(2 * part.size * max(part.dtype.itemsize, 64), where, "save it as .h5ad")
            names = tuple(bytes(name).decode(errors="replace") for name in part[()].ravel())
        found.append(_counted(names, int(size), what, where))
    return found[0], found[1]


def _lines(path: Path) -> list[str]:
    with path.open("rb") as stream:
        packed = path.suffix == ".gz"
        plain: Any = gzip.GzipFile(fileobj=stream) if packed else stream
        content = plain.read(MOST)
    text: str = content.decode(errors="replace")
    return text.splitlines()


def _counted(names: tuple[str, ...], size: int, what: str, where: str) -> tuple[str, ...]:
    if names and len(names) != size:
        raise DataError(
            f"{where}: names {len(names):,} {what}, and the matrix has {size:,}; write it again"
        )
    return names
