"""Notes for the user about accepted arrays: decisions, losses by storage, densities without a
bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taut.data.counts import problems as problems_of_counts
from taut.data.schema import MAX_LEVELS, Schema, chunks, integers_only, listing
from taut.data.tables.prepare import MISSING_NOTE
from taut.data.tables.words import exact_integers, float_storage

__all__ = ["array_notes", "drift_notes", "few_notes", "is_divided_by_255", "shared_notes"]

SATURATED = 0.6  # share of the pixels of an image that are black or white
SAMPLE = 20_000  # rows that are looked at to tell what was rounded or saturated


def array_notes(array: np.ndarray, schema: Schema, name: str) -> list[str]:
    """Returns a line for each thing to know about an array that is read as a schema.

    Args:
        array: The data, N first.
        schema: The schema as which it is read.
        name: The name of the data in the lines.
    """
    lines = []
    if schema.missing:
        lines.append(
            f"{100 * float(np.isnan(array).mean()):.3g} % of the entries are missing: "
            f"{MISSING_NOTE}"
        )
    if array.dtype.kind == "f" and schema.discrete:
        lines.append(
            f"integers stored as {array.dtype}, read as {schema.kind}; --kind real reads them as "
            f"real numbers"
        )
    if schema.kind == "count":
        lines += problems_of_counts(array, name)[1]
    if schema.kind == "levels" and schema.high == 255:
        lines += _saturation(array, schema)
    if schema.kind == "real":
        lines += _real_notes(array, schema)
    return lines


def _at_an_end(levels: np.ndarray) -> np.ndarray:
    return (levels == 0) | (levels == 255)


def _saturation(array: np.ndarray, schema: Schema) -> list[str]:
    """Says so where bytes are black and white, or mostly one of them."""
    share = float(_at_an_end(array[:SAMPLE]).mean())
    if share == 1 and all(bool(_at_an_end(x).all()) for x in chunks(array)):
        return ["only two values, 0 and 255: --binarize threshold makes them bits"]
    if schema.is_image and share >= SATURATED:
        return [
            f"{100 * share:.0f} % of the pixels are 0 or 255: --binarize dynamic learns black and "
            "white, with grey as the probability of white"
        ]
    return []


def _real_notes(array: np.ndarray, schema: Schema) -> list[str]:
    lines = []
    if is_divided_by_255(array):
        lines.append(
            "grey levels stored as k/255, read as real: a density of levels has no bound; better "
            "multiply by 255 and round, or use --binarize"
        )
    elif integers_only(array) and schema.high - schema.low < MAX_LEVELS:
        lines.append(
            "integers, read as real: a density of integers has no bound; without --kind real they "
            "are levels"
        )
    elif array.ndim == 2:
        lines += _repeated(array)
    if array.dtype.kind in "iu" and np.abs(array.astype(np.float64)).max() > exact_integers():
        lines.append(
            f"integers above {exact_integers()} lose digits in {np.dtype(float_storage()).name}; "
            f"are they ids?"
        )
    if array.ndim == 2:
        # A stored number is known to eps times its size; from a hundredth of the spread on, a
        # density begins to show that.
        rounding = np.finfo(float_storage()).eps * np.nanmax(np.abs(array), axis=0)
        coarse = rounding > 0.01 * np.nanstd(array, axis=0)
        if coarse.any():
            which, storage = listing(np.flatnonzero(coarse)), np.dtype(float_storage()).name
            lines.append(
                f"columns (from 0) {which} hardly vary compared with their size, so {storage} "
                f"rounds them: subtract a constant"
            )
    return lines


def _repeated(array: np.ndarray) -> list[str]:
    """Returns a line for columns with one value in most rows, and one for columns with few
    different values: their density may have no bound.
    """
    # A value that fills more than half of a column must be its median.
    often = (array == np.nanmedian(array, axis=0)).mean(axis=0) > 0.5
    rows = array[:: -(-len(array) // SAMPLE)]
    present = [column[~np.isnan(column)] for column in rows.T]
    few = np.array([len(x) > 1000 and len(np.unique(x)) < len(x) / 10 for x in present]) & ~often
    lines = []
    if often.any():
        which = listing(np.flatnonzero(often))
        lines.append(
            f"columns (from 0) {which} repeat one value in most rows: their density may have no "
            f"bound"
        )
    if few.any():
        which = listing(np.flatnonzero(few))
        lines.append(
            f"columns (from 0) {which} are rounded to few different values: their density may have "
            f"no bound, so that log p(x) can grow without end; integers, such as ten times a "
            f"number of one decimal, are read as levels"
        )
    return lines


def shared_notes(hashes: Sequence[np.ndarray]) -> list[str]:
    """Returns a line about rows of an official test set, the second of two, that are also in the
    training data.
    """
    if len(hashes) < 2:
        return []
    shared = int(np.isin(hashes[1], hashes[0]).sum())
    if not shared:
        return []
    return [
        f"{shared} of {len(hashes[1])} rows of the test set are also in the data: its score is "
        f"optimistic"
    ]


def few_notes(num_rows: int, schema: Schema) -> list[str]:
    """Returns a line if there are fewer than ten training rows for each latent dimension that a
    model gets by default.
    """
    if num_rows >= 10 * schema.usual_latent_dim:
        return []
    few = (
        f"{num_rows} training rows are fewer than 10 for each of {schema.usual_latent_dim} latent "
        f"dimensions"
    )
    return [f"{few}: expect a simple model and wide errors, or give more data"]


def drift_notes(array: np.ndarray, schema: Schema) -> list[str]:
    """Returns a line if the mean of new real data is outside the training values by more than their
    range.
    """
    if schema.kind != "real" or bool(np.isnan(array).all()):
        return []
    mean, reach = float(np.nanmean(array, dtype=np.float64)), schema.high - schema.low
    if schema.low - reach <= mean <= schema.high + reach:
        return []
    held = (
        f"the mean is {mean:.6g}, far from the {schema.low:.6g}..{schema.high:.6g} of the training"
    )
    return [f"{held}: is it the same data, in the same unit?"]


def is_divided_by_255(array: np.ndarray) -> bool:
    """Returns whether every value is k / 255, up to two roundings in its own dtype."""
    if array.dtype.kind != "f":
        return False
    tolerance = 2 * 255 * np.finfo(array.dtype).eps  # times 255, since 255 x is compared
    if not all(bool(np.all((x >= 0) & (x <= 1))) for x in chunks(array)):
        return False
    scaled = (255.0 * x for x in chunks(array))
    return all(bool(np.all(np.abs(x - np.rint(x)) <= tolerance)) for x in scaled)
