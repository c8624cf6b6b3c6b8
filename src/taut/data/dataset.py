"""Data ready to train on: read, understood, checked, split and stored small.

Rows stay in their own units and, where they fit, in bytes; a batch is one indexing operation. Grey
images may be *binarised*, read as x ~ Bernoulli(p) with p = grey / 255: ``"dynamic"`` draws the
training bits again at each use, so a model sees the distribution and not one sample of it, while
validation and test are drawn once, since a score needs fixed data. ``"threshold"`` asks p >= 1/2
instead, once, in all parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from taut.data.bits import (
    BINARIZE,
    draw_bits,
    fixed_bits,
    grey_problems,
    grey_schema,
    in_floats,
    stored_grey,
)
from taut.data.counts import other_names
from taut.data.counts import problems as problems_of_counts
from taut.data.notes import array_notes, few_notes, shared_notes
from taut.data.obs import codes_of, columns_of
from taut.data.problems import flat_columns, problems, too_few
from taut.data.readers import AS_FOUND, Options, Source, Streamed, kind_of, read
from taut.data.rows import Rows
from taut.data.schema import Kind, Schema, chunks, has_gaps, infer
from taut.data.sources import AnnDataFiles
from taut.data.sparse import SparseRows
from taut.data.split import Copies, copies_of, fingerprint, row_hashes, split_hashes
from taut.data.tables.numeric_notes import number_notes
from taut.data.tables.prepare import Asked, prepare_tables
from taut.system.errors import DataError, UsageError, shown

Input = str | Path | np.ndarray | torch.Tensor
MIN_ROWS = 10
Labels = np.ndarray | None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Creates data ready to train on; ``prepare`` is the way to one.

    Args:
        schema: The kind and shape of a data point, after binarising.
        train: Training rows: uint8 if the levels fit, else float; NaN is missing. With
            ``binarize="dynamic"`` they are grey: bytes mean p = x / 255, floats are p.
        validation: Validation rows; they may be none.
        test: Test rows; they may be none.
        train_labels: Labels of the training rows, if the source has them.
        validation_labels: Likewise.
        test_labels: Likewise.
        notes: Lines for the user about these data.
        fingerprint: A name of exactly these data, before the split (with an official test set:
            ``train+test``).
        name: The string that reads the training source again; empty for arrays.
        binarize: The way in which grey became bits.
        streamed: Whether the rows stay in their file.
        divided: Hashes of the rows whose copies are in more than one part.
        row_names: Names of the rows (cells) of the three parts, where the source has them.
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
    row_names: tuple[Labels, Labels, Labels] = (None, None, None)


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
        source: Anything that ``read`` takes.
        key: Name of an array in an .npz file.
        options: The options of the reader.
        kind: Overrides the inferred kind of an array.
        levels: Overrides the inferred levels (lowest, highest) of an array.
        shape: Shape of one data point, if the source holds it flattened.
        binarize: ``"none"``, ``"dynamic"`` or ``"threshold"``.
        schema: For a table: a TOML file that describes the columns, or a schema made before, which
            is kept.
        missing_values: For a table: further texts and numbers that mean missing.
        condition: Names of the columns that are the context of the others: of a table, or of
            ``obs`` of an AnnData.
        test: An official test set; then nothing is split off for testing, and ``test_fraction`` has
            no effect.
        validation_fraction: Share of the rows for validation; may be 0.
        test_fraction: Share of the rows for testing; may be 0.
        split: ``"copies"`` keeps all copies of a row in one part, ``"rows"`` splits each by itself;
            by default rows of many copies are divided where a part would otherwise be unlike the
            data (``taut.data.split``).
        seed: Seed of the bits of validation and test under ``"dynamic"``. The split does not depend
            on it.

    Raises:
        UsageError: an option is wrong or contradicts another.
        DataError: the data cannot be read, or must not be trained on; it lists every problem of
            both sources.
    """
    if binarize not in BINARIZE:
        raise UsageError(f"binarize must be one of {', '.join(BINARIZE)}, not {binarize!r}")
    sources = [read(source, key, options)]
    if test is not None:
        streamed = isinstance(sources[0].data, Streamed) if kind_of(source).streams else None
        sources.append(read(test, None, kind_of(test).meant(replace(options, stream=streamed))))
    names = [
        shown(s.name) or f"the {part} data"
        for s, part in zip(sources, ("training", "test"), strict=False)
    ]
    fractions = (validation_fraction, test_fraction if test is None else 0.0)
    of_arrays = {"kind": kind, "levels": levels, "shape": shape}
    named = [name for name, value in of_arrays.items() if value is not None]
    if binarize != "none":
        named.append("binarize")
    if any(s.is_table for s in sources):
        if named:
            raise UsageError(
                f"--{named[0]} is for arrays and images; for a table, --schema FILE describes the "
                f"columns"
            )
        described = Path(schema) if isinstance(schema, str) else schema
        asked = Asked(described, missing_values, condition)
        return _table_dataset(sources, names, asked, fractions, split)
    of_tables = {
        "schema": schema and not isinstance(schema, Schema),
        "missing-values": missing_values,
    }
    if wrong := [name for name, value in of_tables.items() if value]:
        raise UsageError(
            f"--{wrong[0]} is for tables with named columns: a CSV or Parquet file, or a data frame"
        )
    named = [name for name in named if name != "kind"]
    inputs = (source, test)
    if not named and kind in (None, "count"):
        sources = [_counted(s, given) for s, given in zip(sources, inputs, strict=False)]
    if any(not isinstance(s.data, np.ndarray) for s in sources):
        if named:
            raise UsageError(
                f"--{named[0]} is for dense arrays; a sparse matrix holds counts: give it dense, "
                f"as .npy"
            )
        advice = [_advice(s, given, options) for s, given in zip(sources, inputs, strict=False)]
        return _sparse_dataset(sources, names, kind, fractions, split, advice, condition)
    if condition:
        raise UsageError(
            "--condition is for tables with named columns (a CSV or Parquet file, a data frame) "
            "and for the counts of an .h5ad file, whose obs it names"
        )
    return _array_dataset(sources, names, kind, levels, shape, binarize, fractions, split, seed)


def _counted(source: Source, given: object) -> Source:
    """Returns a source with the matrix of an AnnData as counts, however it stores them.

    So the same counts are the same data, split alike, and other numbers are refused.
    """
    dense = isinstance(source.data, np.ndarray) and isinstance(kind_of(given), AnnDataFiles)
    if dense:
        return source._replace(data=SparseRows.of(source.data))
    return source


def _advice(source: Source, given: object, options: Options) -> str:
    """Returns the advice for a matrix that does not hold counts."""
    if not isinstance(kind_of(given), AnnDataFiles):
        return (
            "a sparse matrix holds counts; give other numbers dense: .toarray(), or "
            "sparse_output=False where it was made"
        )
    here = "no matrix of the file holds counts"
    if options.layer is not None:
        here = f"counts are not in --layer {shown(options.layer)}"
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
    arrays, wrong = [], []
    for source, name in zip(sources, names, strict=True):
        array, lines = _shaped(source.data, shape, name)
        arrays.append(array)
        wrong += lines
    digits = sources[0].name == "digits"
    if binarize != "none":
        if digits:
            levels = (0, 16)
        seen = grey_schema(arrays[0], kind, levels)
        final = Schema("binary", seen.event_shape, 0.0, 1.0)
    else:
        if digits and levels is None and kind in (None, "levels"):
            levels = (0, 16)
        final = seen = infer(arrays[0], kind, levels)
    for number, (array, name) in enumerate(zip(arrays, names, strict=True)):
        wrong += array_problems(array, seen, name, binarize, training=number == 0)
    if wrong:
        raise DataError(wrong)
    kept = [stored(array, seen, binarize) for array in arrays]
    hashes = [row_hashes(array) for array in kept]
    copies = copies_of(hashes[0], *fractions, by, by_nature=seen.discrete and not seen.is_image)
    parts = split_hashes(hashes[0], *fractions, copies.most)
    trained = kept[0][parts[0]]
    if binarize == "none" and trained.ndim == 2:
        wrong = flat_columns(chunks(trained), seen, f"{names[0]}, its training rows")
        if wrong:
            raise DataError(wrong)
    rows = [torch.from_numpy(kept[0][part]) for part in parts]
    labels = _labels_of(sources[0], parts)
    if len(kept) > 1:
        rows[2], labels[2] = torch.from_numpy(kept[1]), sources[1].labels
    notes = list(copies.notes)
    if binarize == "none":
        notes = array_notes(arrays[0], seen, names[0]) + notes
    if len({array.dtype for array in kept}) == 1:
        notes += shared_notes(hashes)
    if binarize == "dynamic":
        rows[1:] = [fixed_bits(rows[1], seed, "validation"), fixed_bits(rows[2], seed, "test")]
    mark = "+".join(fingerprint(s.data) for s in sources)
    made = _dataset(sources, final, rows, labels, notes, mark, binarize=binarize, copies=copies)
    return _named(made, sources, parts)


def _sparse_dataset(
    sources: list[Source],
    names: list[str],
    kind: Kind | None,
    fractions: tuple[float, float],
    by: str | None,
    advice: Sequence[str],
    condition: Sequence[str],
) -> Dataset:
    if kind not in (None, "count"):
        raise UsageError(f"a sparse matrix holds counts; for --kind {kind} give it dense, as .npy")
    wrong, notes = [], []
    matrices: list[SparseRows] = []
    for source, name, way in zip(sources, names, advice, strict=True):
        lines, told = problems_of_counts(source.data, name, way, source.columns)
        wrong += lines
        notes += told
        data = source.data
        if isinstance(data, np.ndarray):
            data = SparseRows.of(data)
        matrices.append(data)
    width, rows = matrices[0].shape[1], len(matrices[0])
    if matrices[-1].shape[1] != width:
        wrong.append(
            f"{names[1]}: rows have {matrices[1].shape[1]} columns, but {width} are needed"
        )
    wrong += other_names(sources[-1].columns, sources[0].columns, names[-1])
    if rows < MIN_ROWS:
        wrong.append(too_few(names[0], rows, MIN_ROWS))
    if wrong:
        raise DataError(wrong)
    high = float(max(m.largest() for m in matrices))
    context = columns_of(sources[0].obs, condition, names[0])
    if context:
        each = zip(matrices, sources, names, strict=True)
        matrices = [m.joined(codes_of(s.obs, context, name)) for m, s, name in each]
    hashes = [m.row_hashes() for m in matrices]
    copies = copies_of(hashes[0], *fractions, by, by_nature=True)
    parts = split_hashes(hashes[0], *fractions, copies.most)
    subsets: list[Rows] = [matrices[0].subset(part) for part in parts]
    labels = _labels_of(sources[0], parts)
    if len(matrices) > 1:
        subsets[2], labels[2] = matrices[1], sources[1].labels
    schema = Schema(
        "count",
        (width + len(context),),
        0.0,
        high,
        condition=tuple(column.name for column in context),
        context=context,
    )
    notes += [*copies.notes, *shared_notes(hashes)]
    mark = "+".join(m.fingerprint() for m in matrices)
    made = _dataset(sources, schema, subsets, labels, notes, mark, copies=copies)
    return _named(made, sources, parts)


def _table_dataset(
    sources: list[Source],
    names: list[str],
    asked: Asked,
    fractions: tuple[float, float],
    by: str | None,
) -> Dataset:
    table = prepare_tables([s.data for s in sources], names, asked, fractions, MIN_ROWS, by)
    return _dataset(
        sources,
        table.schema,
        table.parts,
        [None, None, None],
        table.notes,
        table.fingerprint,
        streamed=isinstance(sources[0].data, Streamed),
        copies=table.copies,
    )


def _dataset(
    sources: list[Source],
    schema: Schema,
    rows: Sequence[Rows],
    labels: Sequence[Labels],
    notes: Sequence[str],
    mark: str,
    *,
    binarize: str = "none",
    streamed: bool = False,
    copies: Copies,
) -> Dataset:
    train, validation, test = rows
    told = [line for source in sources for line in source.notes]
    told += [*notes, *number_notes(train, schema), *few_notes(len(train), schema)]
    return Dataset(
        schema=schema,
        train=train,
        validation=validation,
        test=test,
        train_labels=labels[0],
        validation_labels=labels[1],
        test_labels=labels[2],
        notes=tuple(told),
        fingerprint=mark,
        name=sources[0].name,
        binarize=binarize,
        streamed=streamed,
        divided=copies.divided,
    )


def _labels_of(source: Source, parts: Sequence[np.ndarray]) -> list[Labels]:
    if source.labels is None:
        return [None, None, None]
    return [source.labels[part] for part in parts]


def _named(data: Dataset, sources: Sequence[Source], parts: Sequence[np.ndarray]) -> Dataset:
    """Returns data with the names of their rows and columns, where the source has any."""
    names = [np.array(sources[0].rows)[part] if sources[0].rows else None for part in parts]
    if len(sources) > 1:
        names[2] = np.array(sources[1].rows) if sources[1].rows else None
    schema = replace(data.schema, names=sources[0].columns)
    return replace(data, schema=schema, row_names=(names[0], names[1], names[2]))


def batch(
    data: Rows,
    index: torch.Tensor,
    binarize: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Returns the rows ``index`` of ``data`` in torch's default dtype, as new bits if
    ``binarize``.
    """
    # Faster than data[index].
    rows = data.index_select(0, index) if isinstance(data, torch.Tensor) else data[index]
    if binarize:
        return draw_bits(rows, generator)
    return rows.to(torch.get_default_dtype())


def _shaped(
    array: np.ndarray, shape: tuple[int, ...] | None, name: str
) -> tuple[np.ndarray, list[str]]:
    if shape is not None:
        sides, wanted = "x".join(map(str, shape)), math.prod(shape)
        if min(shape, default=0) < 1:
            raise UsageError(f"--shape {sides}: every side must be at least 1")
        if wanted * len(array) == array.size:
            return array.reshape(len(array), *shape), []
        held = array.size // len(array)
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


def array_problems(
    array: np.ndarray, schema: Schema, name: str, binarize: str, *, training: bool
) -> list[str]:
    """Returns everything that keeps an array from being data of a schema, a line each.

    Args:
        array: The data, N first.
        schema: The expected kind and shape of a data point.
        name: The name of the data in the lines.
        binarize: ``"none"``, or the way in which grey becomes bits.
        training: Whether a model is to learn from them.
    """
    min_rows = MIN_ROWS if training else 1
    if binarize != "none":
        return grey_problems(array, schema, name, min_rows, training=training)
    return problems(array, schema, name, min_rows, training=training, beyond=not training)


def stored(array: np.ndarray, schema: Schema, binarize: str) -> np.ndarray:
    """Returns an array as it is stored: bytes where the values are bytes, else floats."""
    if binarize != "none":
        return stored_grey(array, binarize)
    whole = schema.kind != "real" and array.size > 0 and not has_gaps(array)
    if whole and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    return in_floats(array)
