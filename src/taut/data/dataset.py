"""Data ready to train on: read, understood, checked, split and stored small.

Rows stay in their own units and, where they fit, in bytes; a batch is one indexing operation. Grey
images may be *binarised*, read as x ~ Bernoulli(p) with p = grey / 255: ``"dynamic"`` draws the
training bits anew at each use, so a model sees the distribution and not one sample of it, while
validation and test are drawn once, since a score needs fixed data. ``"threshold"`` asks p >= 1/2
instead, once, in all parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from taut.data.counts import problems as problems_of_counts
from taut.data.notes import array_notes, drift_notes, few_notes, is_divided_by_255, shared_notes
from taut.data.readers import AS_FOUND, Options, Source, Streamed, kind_of, read
from taut.data.rows import Rows
from taut.data.schema import (
    Kind,
    Schema,
    chunks,
    flat_columns,
    found,
    has_gaps,
    infer,
    integers_only,
    outside_levels,
    problems,
)
from taut.data.sources import AnnDataFiles
from taut.data.sparse import SparseRows
from taut.data.split import Copies, copies_of, fingerprint, row_hashes, split_hashes
from taut.data.tables.numeric_notes import number_notes
from taut.data.tables.prepare import Asked, check_table, prepare_tables
from taut.data.tables.words import float_storage
from taut.system.errors import DataError, UsageError, shown

BINARIZE = ("none", "dynamic", "threshold")
Input = str | Path | np.ndarray | torch.Tensor
MIN_ROWS = 10


@dataclass(frozen=True, eq=False)
class Dataset:
    """Creates data ready to train on; ``prepare`` is the way to one.

    Args:
        schema: What one datum is, after binarising.
        train: Training rows: uint8 if the levels fit, else float; NaN is missing. With
            ``binarize="dynamic"`` they are grey: bytes mean p = x / 255, floats are p.
        validation: Validation rows; they may be none.
        test: Test rows; they may be none.
        train_labels: Labels of the training rows, if the source has them.
        validation_labels: Likewise.
        test_labels: Likewise.
        notes: What a person should know about these data, a line each.
        fingerprint: Names exactly these data, before the split (with an official test set:
            ``train+test``).
        name: The string to read the training source again; empty for arrays.
        binarize: How grey became bits.
        streamed: Whether the rows stay in their file.
        divided: Hashes of the rows whose copies are in more than one part.
    """

    schema: Schema
    train: Rows
    validation: Rows
    test: Rows
    train_labels: np.ndarray | None
    validation_labels: np.ndarray | None
    test_labels: np.ndarray | None
    notes: tuple[str, ...]
    fingerprint: str
    name: str
    binarize: str
    streamed: bool = False
    divided: np.ndarray = field(default_factory=lambda: np.empty(0, "S16"))


def prepare(
    source: object,
    *,
    key: str | None = None,
    options: Options = AS_FOUND,
    kind: Kind | None = None,
    levels: tuple[int, int] | None = None,
    shape: tuple[int, ...] | None = None,
    binarize: str = "none",
    schema: str | Path | Schema | None = None,
    missing_values: tuple[str, ...] = (),
    condition: tuple[str, ...] = (),
    test: object | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Returns the data of ``source``, checked and split.

    Args:
        source: What ``read`` takes.
        key: Which array of an .npz file.
        options: How the source is read.
        kind: Overrides the inferred kind of an array.
        levels: Overrides the inferred levels (lowest, highest) of an array.
        shape: Shape of one datum, where the source holds it flattened.
        binarize: ``"none"``, ``"dynamic"`` or ``"threshold"``.
        schema: For a table: a TOML file that says what columns are, or a schema made before, which
            is then kept.
        missing_values: For a table: further texts and numbers that mean missing.
        condition: For a table: names of the columns that are the context of the others.
        test: An official test set; nothing is split off for testing then, and ``test_fraction`` has
            no meaning.
        validation_fraction: Share of the rows for validation; may be 0.
        test_fraction: Share of the rows for testing; may be 0.
        split: ``"copies"`` keeps all copies of a row in one part, ``"rows"`` splits each by itself;
            by default rows of many copies are divided where a part would otherwise be unlike the
            data (``taut.data.split``).
        seed: Of the bits of validation and test under ``"dynamic"``. The split does not depend on
            it.

    Fails:
        UsageError: an option is wrong or contradicts another.
        DataError: the data cannot be read, or must not be trained on; it lists every problem of
            both sources.
    """
    if binarize not in BINARIZE:
        raise UsageError(f"binarize must be one of {', '.join(BINARIZE)}, not {binarize!r}")
    sources = [read(source, key, options)]
    if test is not None:
        streamed = isinstance(sources[0].data, Streamed) if kind_of(source).streams else None
        sources.append(read(test, None, replace(options, stream=streamed).only(kind_of(test))))
    names = [
        shown(s.name) or f"the {part} data"
        for s, part in zip(sources, ("training", "test"), strict=False)
    ]
    fractions = (validation_fraction, 0.0 if test is not None else test_fraction)
    if any(s.is_table for s in sources):
        of_arrays = {
            "kind": kind,
            "levels": levels,
            "shape": shape,
            "binarize": None if binarize == "none" else binarize,
        }
        if wrong := [name for name, value in of_arrays.items() if value is not None]:
            raise UsageError(
                f"--{wrong[0]} is for arrays and images; what the columns of a table are is said "
                f"by --schema FILE"
            )
        given = schema if isinstance(schema, Schema) else None if schema is None else Path(schema)
        return _table_dataset(
            sources, names, Asked(given, missing_values, condition), fractions, split
        )
    of_tables = {
        "schema": None if isinstance(schema, Schema) else schema,
        "missing_values": missing_values,
        "condition": condition,
    }
    if wrong := [name for name, value in of_tables.items() if value]:
        raise UsageError(
            f"--{wrong[0].replace('_', '-')} is for tables with named columns: a CSV or Parquet "
            f"file, or a data frame"
        )
    of_dense = {
        "levels": levels,
        "shape": shape,
        "binarize": None if binarize == "none" else binarize,
    }
    wrong = [name for name, value in of_dense.items() if value is not None]
    if not wrong and kind in (None, "count"):
        sources = [_counted(s, given) for s, given in zip(sources, (source, test), strict=False)]
    if any(not isinstance(s.data, np.ndarray) for s in sources):
        if wrong:
            raise UsageError(
                f"--{wrong[0]} is for dense arrays; a sparse matrix holds counts: give it dense, "
                f"as .npy"
            )
        advice = [
            _advice(s, given, options) for s, given in zip(sources, (source, test), strict=False)
        ]
        return _sparse_dataset(sources, names, kind, fractions, split, advice)
    return _array_dataset(sources, names, kind, levels, shape, binarize, fractions, split, seed)


def _counted(source: Source, given: object) -> Source:
    """What an AnnData holds are counts, however it stores them.

    The same are the same data, split alike; others are refused.
    """
    dense = isinstance(source.data, np.ndarray) and isinstance(kind_of(given), AnnDataFiles)
    return source._replace(data=SparseRows.of(source.data)) if dense else source


def _advice(source: Source, given: object, options: Options) -> str:
    """What to do with a matrix that holds no counts."""
    if not isinstance(kind_of(given), AnnDataFiles):
        return (
            "a sparse matrix holds counts; give other numbers dense: .toarray(), or "
            "sparse_output=False where it was made"
        )
    here = (
        "no matrix of the file holds counts"
        if options.layer is None
        else f"counts are not in --layer {shown(options.layer)}"
    )
    return (
        f"{here}; give raw counts with another --layer or file, or read a dense matrix with --kind "
        f"real"
    )


def _array_dataset(
    sources: list[Source],
    names: list[str],
    kind: Kind | None,
    levels: tuple[int, int] | None,
    shape: tuple[int, ...] | None,
    binarize: str,
    fractions: tuple[float, float],
    by: str | None,
    seed: int,
) -> Dataset:
    shaped = [_shaped(s.data, shape, name) for s, name in zip(sources, names, strict=True)]
    arrays, wrong = [array for array, _ in shaped], [line for _, lines in shaped for line in lines]
    if binarize == "none":
        known = (
            (0, 16)
            if sources[0].name == "digits" and levels is None and kind in (None, "levels")
            else levels
        )
        seen = infer(arrays[0], kind, known)
    else:
        seen = _grey_schema(arrays[0], kind, (0, 16) if sources[0].name == "digits" else levels)
    wrong += _problems(arrays[0], seen, names[0], binarize, training=True)
    for array, name in zip(arrays[1:], names[1:], strict=True):
        wrong += _problems(array, seen, name, binarize, training=False)
    if wrong:
        raise DataError(wrong)
    stored = [_stored(array, seen, binarize) for array in arrays]
    hashes = [row_hashes(array) for array in stored]
    copies = copies_of(hashes[0], *fractions, by, by_nature=seen.discrete and not seen.is_image)
    parts = split_hashes(hashes[0], *fractions, copies.most)
    trained, where = stored[0][parts[0]], f"{names[0]}, its training rows"
    if (
        binarize == "none"
        and trained.ndim == 2
        and (wrong := flat_columns(chunks(trained), seen, where))
    ):
        raise DataError(wrong)
    rows, labels = _parts(stored, [s.labels for s in sources], parts)
    if binarize == "dynamic":
        rows[1:] = [
            _fixed_bits(x, seed, part)
            for x, part in zip(rows[1:], ("validation", "test"), strict=True)
        ]
    comparable = len({array.dtype for array in stored}) == 1
    notes = (
        *(array_notes(arrays[0], seen, names[0]) if binarize == "none" else ()),
        *copies.notes,
        *(shared_notes(hashes) if comparable else ()),
    )
    final = seen if binarize == "none" else Schema("binary", seen.event_shape, 0.0, 1.0)
    mark = "+".join(fingerprint(s.data) for s in sources)
    return _dataset(sources, final, rows, labels, notes, mark, binarize=binarize, copies=copies)


def _sparse_dataset(
    sources: list[Source],
    names: list[str],
    kind: Kind | None,
    fractions: tuple[float, float],
    by: str | None,
    advice: Sequence[str],
) -> Dataset:
    if kind not in (None, "count"):
        raise UsageError(f"a sparse matrix holds counts; for --kind {kind} give it dense, as .npy")
    found_in = [
        problems_of_counts(s.data, n, way, s.columns)
        for s, n, way in zip(sources, names, advice, strict=True)
    ]
    wrong = [line for lines, _ in found_in for line in lines]
    matrices = [
        s.data if isinstance(s.data, SparseRows) else SparseRows.of(s.data) for s in sources
    ]
    widths = {m.shape[1] for m in matrices}
    if len(widths) > 1:
        wrong.append(
            f"{names[1]}: rows have {matrices[1].shape[1]} columns, but {matrices[0].shape[1]} are "
            f"needed"
        )
    if len(matrices[0]) < MIN_ROWS:
        wrong.append(
            f"{names[0]}: has {len(matrices[0])} rows, but at least {MIN_ROWS} are needed; give "
            f"more data"
        )
    if wrong:
        raise DataError(wrong)
    hashes = [m.row_hashes() for m in matrices]
    copies = copies_of(hashes[0], *fractions, by, by_nature=True)
    parts = split_hashes(hashes[0], *fractions, copies.most)
    rows: list[Rows] = [matrices[0].subset(part) for part in parts]
    labels = [None if sources[0].labels is None else sources[0].labels[part] for part in parts]
    if len(matrices) > 1:
        rows[2], labels[2] = matrices[1], sources[1].labels
    schema = Schema("count", matrices[0].shape[1:], 0.0, float(max(m.largest() for m in matrices)))
    notes = (
        *(line for _, lines in found_in for line in lines),
        *copies.notes,
        *shared_notes(hashes),
    )
    mark = "+".join(m.fingerprint() for m in matrices)
    return _dataset(sources, schema, rows, labels, notes, mark, copies=copies)


def _table_dataset(
    sources: list[Source],
    names: list[str],
    asked: Asked,
    fractions: tuple[float, float],
    by: str | None,
) -> Dataset:
    table = prepare_tables([s.data for s in sources], names, asked, fractions, MIN_ROWS, by)
    streamed, none = isinstance(sources[0].data, Streamed), [None] * 3
    mark = table.fingerprint
    return _dataset(
        sources,
        table.schema,
        table.parts,
        none,
        table.notes,
        mark,
        streamed=streamed,
        copies=table.copies,
    )


def _dataset(
    sources: list[Source],
    schema: Schema,
    rows: Sequence[Rows],
    labels: Sequence[np.ndarray | None],
    notes: Sequence[str],
    mark: str,
    *,
    binarize: str = "none",
    streamed: bool = False,
    copies: Copies,
) -> Dataset:
    (train, validation, test), (of_train, of_validation, of_test) = rows, labels
    told = (
        *(line for s in sources for line in s.notes),
        *notes,
        *number_notes(train, schema),
        *few_notes(len(train), schema),
    )
    name = sources[0].name
    labelled = (of_train, of_validation, of_test)
    return Dataset(
        schema,
        train,
        validation,
        test,
        *labelled,
        told,
        mark,
        name,
        binarize,
        streamed,
        copies.divided,
    )


class New(NamedTuple):
    """New data for a trained model.

    Args:
        rows: Its rows; a value that the model gives no probability at all is missing in them.
        notes: What a person should know of them.
        table: The table they came from, if one.
        impossible: Numbers of the rows that held such a value: their log p(x) is minus infinity.
    """

    rows: Rows
    notes: tuple[str, ...]
    table: Any = None
    impossible: tuple[int, ...] = ()


def check_against(
    source: object,
    schema: Schema,
    *,
    key: str | None = None,
    options: Options = AS_FOUND,
    binarize: str = "none",
    seed: int = 0,
) -> New:
    """Returns new data for a trained model, stored as its own test set was.

    Flat rows take the schema's event shape. Grey data are binarised once, with the bits that
    ``prepare`` gives an official test set under this ``seed``; data that are bits already stay as
    they are. The columns of a table are found by name.

    Fails:
        DataError: the data are not what the model was trained on; it lists every problem.
    """
    data, _, name, notes, _ = read(source, key, options.only(kind_of(source)))
    where = shown(name) or "the data"
    if schema.kind == "table":
        if not Source(data, None, name).is_table:
            raise DataError(
                f"{where}: is an array, and the model was trained on a table with named columns: "
                f"give such a table"
            )
        rows, more, table = check_table(data, schema, where)
        return New(rows, (*notes, *more), table)
    if Source(data, None, name).is_table:
        raise DataError(
            f"{where}: is a table, and the model was trained on {schema.describe()}: give an array"
        )
    if not isinstance(data, np.ndarray):
        wrong = (
            []
            if data.shape[1:] == schema.event_shape
            else [_other_width(data.shape[1:], schema, where)]
        )
        wrong += (
            []
            if schema.kind == "count"
            else [f"{where}: is sparse, and the model is of {schema.kind} data: give it dense"]
        )
        if wrong := wrong + problems_of_counts(data, where)[0]:
            raise DataError(wrong)
        return New(data, notes)
    array = data
    if array.ndim <= 2 and array.size == len(array) * schema.num_elements:
        array = array.reshape(len(array), *schema.event_shape)
    seen = schema if binarize == "none" else _grey_schema(array, None, None)
    shape_matters = Schema(seen.kind, schema.event_shape, seen.low, seen.high)
    if wrong := _problems(array, shape_matters, where, binarize, training=False):
        raise DataError(wrong)
    rows = torch.from_numpy(_stored(array, seen, binarize))
    notes = (
        *notes,
        *outside_levels(
            array, schema, where, "log p(x) of their rows is finite, but low; {} to expect them"
        ),
        *drift_notes(array, schema),
    )
    return New(_fixed_bits(rows, seed, "test") if binarize == "dynamic" else rows, notes)


def _other_width(shape: tuple[int, ...], schema: Schema, where: str) -> str:
    return (
        f"{where}: rows have shape {shape}, but {schema.event_shape} is needed; give the same "
        f"columns in the same order"
    )


def draw_bits(x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Returns bits, each 1 with its own probability p, in torch's default dtype.

    A byte x means p = x / 255, a float p itself.
    """
    if x.dtype == torch.uint8 and x.device.type == "cpu":
        # torch widens bytes faster than booleans
        bits = torch.from_numpy(_bits_of_bytes(x, generator).view(np.uint8))
    else:
        p = x / 255 if x.dtype == torch.uint8 else x
        bits = torch.rand(p.shape, dtype=p.dtype, device=p.device, generator=generator) < p
    return bits.to(torch.get_default_dtype())


def _bits_of_bytes(x: torch.Tensor, generator: torch.Generator | None) -> np.ndarray:
    """Returns bits of probability x / 255, from one random byte each.

    In base 256, x / 255 is 0.xxx...: a uniform number is below it if its first digit is below x,
    and where that digit is x the next ones decide. Those come from one more number for each row, by
    the generator of Steele, Lea and Flood (2014).
    """
    grey = x.reshape(len(x), math.prod(x.shape[1:])).numpy()
    words = math.ceil(grey.shape[1] / 8)
    noise = (
        torch.empty(len(x), words + 1, dtype=torch.int64)
        .random_(-(2**63), None, generator=generator)
        .numpy()
    )
    digits = noise.view(np.uint8)[:, : grey.shape[1]]
    bits = digits < grey
    tie = np.flatnonzero(digits == grey)
    if len(tie):
        row, column = np.divmod(tie, grey.shape[1])
        state = noise[row, words].view(np.uint64) + (column + 1).astype(np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
        bits[row, column] = (state >> np.uint64(11)) * 2.0**-53 < grey[row, column] / 255
    return bits.reshape(x.shape)


def batch(
    data: Rows,
    index: torch.Tensor,
    binarize: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Returns the rows ``index`` of ``data`` in torch's default dtype, binarised anew if asked."""
    # faster than data[index]
    rows = data.index_select(0, index) if isinstance(data, torch.Tensor) else data[index]
    return draw_bits(rows, generator) if binarize else rows.to(torch.get_default_dtype())


def _shaped(
    array: np.ndarray, shape: tuple[int, ...] | None, name: str
) -> tuple[np.ndarray, list[str]]:
    if shape is not None:
        if min(shape, default=0) < 1:
            raise UsageError(f"--shape {'x'.join(map(str, shape))}: every side must be at least 1")
        if math.prod(shape) * len(array) == array.size:
            return array.reshape(len(array), *shape), []
        held, wanted = array.size // len(array), math.prod(shape)
        sides = "x".join(map(str, shape))
        return array, [
            f"{name}: rows of {held} values cannot take --shape {sides}, {wanted} values; correct "
            f"--shape"
        ]
    if array.ndim == 1:
        return array, [
            f"{name}: is one-dimensional, {len(array)} numbers; give another --key, or --shape 1 "
            f"if each is a row"
        ]
    return array, []


def _grey_schema(array: np.ndarray, kind: Kind | None, levels: tuple[int, int] | None) -> Schema:
    """What grey data must be before they become bits: levels 0..255, or real with p in [0, 1]."""
    if kind not in (None, "binary"):
        raise UsageError(f"--binarize makes binary data; leave --kind {kind} away")
    if levels not in (None, (0, 255)):
        low, high = levels
        rescaled = f"(x - {low}) / {high - low}" if low else f"x / {high}"
        raise UsageError(
            f"--binarize reads levels 0..255, not {low}..{high}; leave it away, or save {rescaled} "
            f"and give that"
        )
    levels_only = integers_only(array) and (array.dtype.kind != "f" or array.max() > 1)
    return Schema(
        "levels" if levels_only else "real", array.shape[1:], 0.0, 255.0 if levels_only else 1.0
    )


def _problems(
    array: np.ndarray, schema: Schema, name: str, binarize: str, *, training: bool
) -> list[str]:
    min_rows = MIN_ROWS if training else 1
    if binarize == "none":
        return problems(array, schema, name, min_rows, training=training, beyond=not training)
    grey = _grey_schema(array, None, None)
    grey = Schema(grey.kind, schema.event_shape, grey.low, grey.high)
    # a pixel that is always black is fine as a bit
    lines = problems(array, grey, name, min_rows, training=False)
    if grey.kind == "real":
        mend = "--binarize needs levels 0..255 or values in [0, 1]"
        lines += found(
            name, array, lambda x: np.isfinite(x) & ((x < 0) | (x > 1)), "outside [0, 1]", mend
        )
    if training and _is_bits(array):
        lines.append(f"{name}: is binary already; leave --binarize away")
    return lines


def _is_bits(array: np.ndarray) -> bool:
    return all(bool(np.all((x == 0) | (x == 1))) for x in chunks(array))


def _stored(array: np.ndarray, schema: Schema, binarize: str) -> np.ndarray:
    """Bytes where the values are bytes.

    Otherwise float32, or float64 if the data have it and torch computes in it.
    """
    if binarize != "none" and _is_bits(array):
        # grey 255 is a sure 1
        return array.astype(np.uint8) * np.uint8(255 if binarize == "dynamic" else 1)
    if binarize != "none":
        divided = is_divided_by_255(array)
        grey = np.rint(255.0 * array).astype(np.uint8) if divided else array
        bytes_only = divided or integers_only(array)
        if binarize == "threshold":
            return (grey >= (128 if bytes_only else 0.5)).astype(np.uint8)
        if bytes_only:
            return grey.astype(np.uint8)
    elif (
        schema.kind != "real"
        and array.size
        and array.min() >= 0
        and array.max() <= 255
        and not has_gaps(array)
    ):
        return array.astype(np.uint8)
    exact = np.result_type(array.dtype, np.float32)
    return array.astype(np.float32 if exact == np.float32 else float_storage())


def _parts(
    stored: list[np.ndarray],
    labels: list[np.ndarray | None],
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[list[Any], list[np.ndarray | None]]:
    rows: list[Any] = [torch.from_numpy(stored[0][part]) for part in parts]
    names = [None if labels[0] is None else labels[0][part] for part in parts]
    if len(stored) > 1:
        rows[2], names[2] = torch.from_numpy(stored[1]), labels[1]
    return rows, names


def _fixed_bits(grey: torch.Tensor, seed: int, part: str) -> torch.Tensor:
    """Bits drawn once, stored as bytes, from a stream of their own.

    Other users of ``seed`` must not repeat them.
    """
    own = int.from_bytes(
        blake2b(f"taut.data {part} {seed}".encode(), digest_size=7).digest(), "little"
    )
    return draw_bits(grey, torch.Generator().manual_seed(own)).to(torch.uint8)
