"""Data ready to train on: read, understood, checked, split and stored small.

Rows stay in their own units and, where they fit, in bytes; a batch is one indexing operation. Grey images may be
*binarised*, read as x ~ Bernoulli(p) with p = grey / 255: ``"dynamic"`` draws the training bits anew at each use, so a
model sees the distribution and not one sample of it, while validation and test are drawn once, since a score needs
fixed data. ``"threshold"`` asks p >= 1/2 instead, once, in all parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from taut.data.readers import read
from taut.data.schema import (
    Kind,
    Schema,
    chunks,
    constant_columns,
    exact_integers,
    float_storage,
    found,
    infer,
    integers_only,
    listing,
    problems,
)
from taut.data.split import fingerprint, num_duplicates, row_hashes, split
from taut.errors import DataError, UsageError, shown

BINARIZE = ("none", "dynamic", "threshold")
Input = str | Path | np.ndarray | torch.Tensor
MIN_ROWS = 10


@dataclass(frozen=True, eq=False)
class Dataset:
    """Creates data ready to train on; ``prepare`` is the way to one.

    Args:
        schema: What one datum is, after binarising.
        train: Training rows: uint8 if the levels fit, else float. With ``binarize="dynamic"`` they are grey: bytes mean
            p = x / 255, floats are p.
        validation: Validation rows; they may be none.
        test: Test rows; they may be none.
        train_labels: Labels of the training rows, if the source has them.
        validation_labels: Likewise.
        test_labels: Likewise.
        notes: What a person should know about these data, a line each.
        fingerprint: Names exactly these data, before the split (with an official test set: ``train+test``).
        name: The string to read the training source again; empty for arrays.
        binarize: How grey became bits.
    """

    schema: Schema
    train: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor
    train_labels: np.ndarray | None
    validation_labels: np.ndarray | None
    test_labels: np.ndarray | None
    notes: tuple[str, ...]
    fingerprint: str
    name: str
    binarize: str


def prepare(
    source: object,
    *,
    key: str | None = None,
    kind: Kind | None = None,
    levels: tuple[int, int] | None = None,
    shape: tuple[int, ...] | None = None,
    binarize: str = "none",
    test: object | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Returns the data of ``source``, checked and split.

    Args:
        source: What ``read`` takes.
        key: Which array of an .npz file.
        kind: Overrides the inferred kind.
        levels: Overrides the inferred levels (lowest, highest).
        shape: Reshapes each row, such as (28, 28) for rows of 784.
        binarize: Reads grey (levels 0..255, or reals in [0, 1]) as probabilities of a bit.
        test: An official test set: nothing is split off for testing then, and ``test_fraction`` has no meaning.
        validation_fraction: Share of the rows for validation; may be 0.
        test_fraction: Share of the rows for testing; may be 0.
        seed: Of the bits of validation and test under ``"dynamic"``. The split does not depend on it.

    Fails:
        UsageError: an option is wrong or contradicts another.
        DataError: the data cannot be read, or must not be trained on; it lists every problem of both sources.
    """
    if binarize not in BINARIZE:
        raise UsageError(f"binarize must be one of {', '.join(BINARIZE)}, not {binarize!r}")
    sources = [read(source, key)] + ([] if test is None else [read(test)])
    names = [shown(s.name) or f"the {part} array" for s, part in zip(sources, ("data", "test"), strict=False)]
    shaped = [_shaped(s.array, shape, name) for s, name in zip(sources, names, strict=True)]
    arrays, wrong = [array for array, _ in shaped], [line for _, lines in shaped for line in lines]
    if binarize == "none":
        known = (0, 16) if sources[0].name == "digits" and levels is None and kind in (None, "levels") else levels
        seen = infer(arrays[0], kind, known)
    else:
        seen = _grey_schema(arrays[0], kind, (0, 16) if sources[0].name == "digits" else levels)
    wrong += _problems(arrays[0], seen, names[0], binarize, training=True)
    for array, name in zip(arrays[1:], names[1:], strict=True):
        wrong += _problems(array, seen, name, binarize, training=False)
    if wrong:
        raise DataError(wrong)
    stored = [_stored(array, seen, binarize) for array in arrays]
    parts = split(stored[0], validation_fraction, 0.0 if test is not None else test_fraction)
    if binarize == "none" and (wrong := constant_columns(stored[0][parts[0]], seen, f"{names[0]}, its training rows")):
        raise DataError(wrong)
    rows, labels = _parts(stored, [s.labels for s in sources], parts)
    if binarize == "dynamic":
        rows[1:] = [_fixed_bits(x, seed, part) for x, part in zip(rows[1:], ("validation", "test"), strict=True)]
    return Dataset(
        schema=seen if binarize == "none" else Schema("binary", seen.event_shape, 0.0, 1.0),
        train=rows[0],
        validation=rows[1],
        test=rows[2],
        train_labels=labels[0],
        validation_labels=labels[1],
        test_labels=labels[2],
        notes=(*_notes(arrays[0], seen, binarize), *_duplicate_notes(stored)),
        fingerprint="+".join(fingerprint(s.array) for s in sources),
        name=sources[0].name,
        binarize=binarize,
    )


def check_against(
    source: object, schema: Schema, *, key: str | None = None, binarize: str = "none", seed: int = 0
) -> torch.Tensor:
    """Returns new data for a trained model, stored as its own test set was.

    Flat rows take the schema's event shape. Grey data are binarised once, with the bits that ``prepare`` gives an
    official test set under this ``seed``; data that are bits already stay as they are.

    Fails:
        DataError: the data are not what the model was trained on; it lists every problem.
    """
    array, _, name = read(source, key)
    if array.ndim <= 2 and array.size == len(array) * schema.num_elements:
        array = array.reshape(len(array), *schema.event_shape)
    seen = schema if binarize == "none" else _grey_schema(array, None, None)
    shape_matters = Schema(seen.kind, schema.event_shape, seen.low, seen.high)
    wrong = _problems(array, shape_matters, shown(name) or "the array", binarize, training=False)
    if wrong:
        raise DataError(wrong)
    rows = torch.from_numpy(_stored(array, seen, binarize))
    return _fixed_bits(rows, seed, "test") if binarize == "dynamic" else rows


def draw_bits(x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Returns bits, each 1 with its own probability p, in torch's default dtype.

    A byte x means p = x / 255, and r uniform on 0..254 is below x exactly that often (but for the 2^-32 of torch's
    modulo of 32 random bits); a float is p itself.
    """
    if x.dtype == torch.uint8:
        bits = torch.empty_like(x).random_(0, 255, generator=generator) < x
    else:
        bits = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator) < x
    return bits.to(torch.get_default_dtype())


def batch(
    data: torch.Tensor, index: torch.Tensor, binarize: bool = False, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Returns the rows ``index`` of ``data`` in torch's default dtype, binarised anew if asked."""
    rows = data[index]
    return draw_bits(rows, generator) if binarize else rows.to(torch.get_default_dtype())


def _shaped(array: np.ndarray, shape: tuple[int, ...] | None, name: str) -> tuple[np.ndarray, list[str]]:
    if shape is not None:
        if min(shape, default=0) < 1:
            raise UsageError(f"--shape {'x'.join(map(str, shape))}: every side must be at least 1")
        if math.prod(shape) * len(array) == array.size:
            return array.reshape(len(array), *shape), []
        held, wanted = array.size // len(array), math.prod(shape)
        sides = "x".join(map(str, shape))
        return array, [f"{name}: rows of {held} values cannot take --shape {sides}, {wanted} values; correct --shape"]
    if array.ndim == 1:
        return array, [f"{name}: is one-dimensional, {len(array)} numbers; give another --key, or --shape 1 if each is a row"]
    return array, []


def _grey_schema(array: np.ndarray, kind: Kind | None, levels: tuple[int, int] | None) -> Schema:
    """What grey data must be before they become bits: levels 0..255, or real with p in [0, 1]."""
    if kind not in (None, "binary"):
        raise UsageError(f"--binarize makes binary data; leave --kind {kind} away")
    if levels not in (None, (0, 255)):
        low, high = levels
        rescaled = f"(x - {low}) / {high - low}" if low else f"x / {high}"
        raise UsageError(f"--binarize reads levels 0..255, not {low}..{high}; leave it away, or save {rescaled} and give that")
    levels_only = integers_only(array) and (array.dtype.kind != "f" or array.max() > 1)
    return Schema("levels" if levels_only else "real", array.shape[1:], 0.0, 255.0 if levels_only else 1.0)


def _problems(array: np.ndarray, schema: Schema, name: str, binarize: str, *, training: bool) -> list[str]:
    min_rows = MIN_ROWS if training else 1
    if binarize == "none":
        return problems(array, schema, name, min_rows, training=training)
    grey = _grey_schema(array, None, None)
    grey = Schema(grey.kind, schema.event_shape, grey.low, grey.high)
    lines = problems(array, grey, name, min_rows, training=False)  # a pixel that is always black is fine as a bit
    if grey.kind == "real":
        mend = "--binarize needs levels 0..255 or values in [0, 1]"
        lines += found(name, array, lambda x: np.isfinite(x) & ((x < 0) | (x > 1)), "outside [0, 1]", mend)
    if training and _is_bits(array):
        lines.append(f"{name}: is binary already; leave --binarize away")
    return lines


def _is_bits(array: np.ndarray) -> bool:
    return all(bool(np.all((x == 0) | (x == 1))) for x in chunks(array))


def _is_divided_by_255(array: np.ndarray) -> bool:
    """Whether every value is k / 255 but for two roundings in its own dtype (times 255, since 255 x is compared)."""
    if array.dtype.kind != "f":
        return False
    tolerance = 2 * 255 * np.finfo(array.dtype).eps
    inside = all(bool(np.all((x >= 0) & (x <= 1))) for x in chunks(array))
    return inside and all(bool(np.all(np.abs(255.0 * x - np.rint(255.0 * x)) <= tolerance)) for x in chunks(array))


def _stored(array: np.ndarray, schema: Schema, binarize: str) -> np.ndarray:
    """Bytes where the values are bytes; otherwise float32, or float64 if the data have it and torch computes in it."""
    if binarize != "none" and _is_bits(array):
        return array.astype(np.uint8) * np.uint8(255 if binarize == "dynamic" else 1)  # grey 255 is a sure 1
    if binarize != "none":
        divided = _is_divided_by_255(array)
        grey = np.rint(255.0 * array).astype(np.uint8) if divided else array
        bytes_only = divided or integers_only(array)
        if binarize == "threshold":
            return (grey >= (128 if bytes_only else 0.5)).astype(np.uint8)
        if bytes_only:
            return grey.astype(np.uint8)
    elif schema.discrete and schema.low >= 0 and schema.high <= 255:
        return array.astype(np.uint8)
    exact = np.result_type(array.dtype, np.float32)
    return array.astype(np.float32 if exact == np.float32 else float_storage())


def _parts(
    stored: list[np.ndarray], labels: list[np.ndarray | None], parts: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[list[torch.Tensor], list[np.ndarray | None]]:
    rows = [torch.from_numpy(stored[0][part]) for part in parts]
    names = [None if labels[0] is None else labels[0][part] for part in parts]
    if len(stored) > 1:
        rows[2], names[2] = torch.from_numpy(stored[1]), labels[1]
    return rows, names


def _fixed_bits(grey: torch.Tensor, seed: int, part: str) -> torch.Tensor:
    """Bits drawn once, stored as bytes, from a stream of their own: other users of ``seed`` must not repeat them."""
    own = int.from_bytes(blake2b(f"taut.data {part} {seed}".encode(), digest_size=7).digest(), "little")
    return draw_bits(grey, torch.Generator().manual_seed(own)).to(torch.uint8)


def _notes(array: np.ndarray, schema: Schema, binarize: str) -> list[str]:
    if binarize != "none":
        return []
    lines = []
    if array.dtype.kind == "f" and schema.discrete:
        lines.append(f"integers stored as {array.dtype}, read as {schema.kind}; --kind real reads them as real numbers")
    if schema.kind == "real" and _is_divided_by_255(array):
        lines.append(
            "grey levels stored as k/255, read as real: a density of levels has no bound; better multiply by 255 and"
            " round, or use --binarize"
        )
    if schema.kind == "real" and array.dtype.kind in "iu" and np.abs(array.astype(np.float64)).max() > exact_integers():
        lines.append(f"integers above {exact_integers()} lose digits in {np.dtype(float_storage()).name}; are they ids?")
    if schema.kind == "real" and array.ndim == 2:
        # a value that fills more than half of a column must be its median
        often = np.flatnonzero((array == np.median(array, axis=0)).mean(axis=0) > 0.5)
        if len(often):
            lines.append(f"columns (from 0) {listing(often)} repeat one value in most rows: their density may have no bound")
        # a stored number is known to eps times its size; a hundredth of the spread is where a density begins to show it
        coarse = np.flatnonzero(np.finfo(float_storage()).eps * np.abs(array).max(axis=0) > 0.01 * array.std(axis=0))
        if len(coarse):
            stored = np.dtype(float_storage()).name
            lines.append(
                f"columns (from 0) {listing(coarse)} hardly vary beside their size, so {stored} rounds them: subtract a constant"
            )
    if schema.kind == "levels" and schema.high == 255 and all(bool(np.all((x == 0) | (x == 255))) for x in chunks(array)):
        lines.append("only two values, 0 and 255: --binarize threshold makes them bits")
    return lines


def _duplicate_notes(stored: list[np.ndarray]) -> list[str]:
    count, rows = num_duplicates(stored[0]), len(stored[0])
    lines = [f"{count} of {rows} rows ({100 * count / rows:.3g} %) repeat another; copies stay on one side"] if count else []
    if len(stored) > 1 and stored[0].dtype == stored[1].dtype:
        shared = int(np.isin(row_hashes(stored[1]), row_hashes(stored[0])).sum())
        if shared:
            lines.append(f"{shared} of {len(stored[1])} rows of the test set are also in the data: its score is optimistic")
    return lines
