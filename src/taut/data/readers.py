"""Turns what the user has (a file, a folder, a frame, an array) into one plain array, a table, or
sparse counts.

``sources`` knows the kinds of files, ``arrays`` reads arrays. Every refusal is one line: what is
wrong, where, and what to do.
"""

from __future__ import annotations

import http.client
import re
from pathlib import Path

import numpy as np
import torch

from taut.data.arrays import from_tensor, plain, read_array
from taut.data.sources import AS_FOUND, KINDS, Source, SourceKind, Streamed, kind_of
from taut.data.sparse import from_scipy
from taut.system.errors import DataError, UsageError, shown
from taut.system.reading import Options

__all__ = ["AS_FOUND", "Options", "Source", "Streamed", "kind_of", "read"]

FETCH = {"s3": "aws s3 cp", "gs": "gsutil cp", "file": "gsutil cp"}  # else curl


def read(source: object, key: str | None = None, options: Options = AS_FOUND) -> Source:
    """Returns the data that ``source`` names or is.

    Args:
        source: A path, ``"FILE.npz:KEY"``, ``"digits"``, ``"openml:NAME"``, a numpy array, a torch
            tensor, a data frame (pandas, polars, Arrow), a scipy sparse matrix or an AnnData
            object.
        key: Which array of an .npz file to read.
        options: How.

    Raises:
        UsageError: the path is missing or unreadable, or an option is given where there is nothing
            to choose.
        DataError: the data cannot be read, or hold nothing that can be modelled.
    """
    kind = kind_of(source)
    if foreign := kind.foreign(options):
        means = " and ".join(k.name for k in KINDS if foreign[0] in k.options)
        raise UsageError(
            f"--{foreign[0].replace('_', '-')} is for {means}; {_called(source)} is read as "
            f"{kind.name}: omit it"
        )
    if isinstance(source, str | Path):
        return _read_named(str(source), key, kind, options)
    if key is not None:
        raise UsageError("--key chooses an array of an .npz file; omit it for data in memory")
    return _read_memory(source, options)


def _called(source: object) -> str:
    if isinstance(source, str | Path):
        return shown(source)
    return f"a {type(source).__name__}"


def _read_named(text: str, key: str | None, kind: SourceKind, options: Options) -> Source:
    path, inner_key = _split_key(text)
    if path.suffix.lower() == ".npz":
        if key is not None and inner_key is not None:
            raise UsageError(f"{shown(text)}: the key is given twice; omit --key {shown(key)}")
        return _read_npz(path, key if key is not None else inner_key)
    if key is not None:
        raise UsageError(f"{shown(text)}: --key chooses an array of an .npz file; omit it here")
    if text == "digits":
        return _digits()
    if (url := re.match(r"(https?|ftp|s3|gs|file)://", text)) is not None:
        raise UsageError(
            f"{shown(text)}: is an address, and only files are read; fetch it first: "
            f"{FETCH.get(url[1], 'curl -LO')} {shown(text)}"
        )
    if text.startswith("openml:"):
        return _openml(text)
    try:
        return kind.read(path, options)
    except OSError as error:
        raise UsageError(
            f"{shown(path)}: cannot be read ({error.strerror or shown(error)})"
        ) from error


def _read_npz(path: Path, key: str | None) -> Source:
    array, name = read_array(path, key), str(path.absolute())
    if key is None or not isinstance(array, np.ndarray):
        return Source(array, None, name)
    return Source(array, None, f"{name}:{key}")


def _read_memory(source: object, options: Options) -> Source:
    from taut.data.h5ad import from_anndata
    from taut.data.tables.frames import from_frame

    if isinstance(source, torch.Tensor):
        source = from_tensor(source)
    if isinstance(source, np.ndarray):
        return Source(plain(source, "the array"), None, "")
    if type(source).__name__ == "AnnData":
        matrix, labels, genes, notes, obs = from_anndata(source, options.layer)
        cells = tuple(map(str, obs.index))
        return Source(matrix, labels, "", tuple(notes), tuple(genes), cells, obs)
    if type(source).__module__.startswith("scipy.sparse"):
        return Source(from_scipy(source), None, "")
    table = from_frame(source)
    if table is None:
        raise UsageError(
            f"data must be a path, an array, a tensor, a data frame or a sparse matrix, not "
            f"{type(source).__name__}"
        )
    return Source(table, None, "")


def _split_key(text: str) -> tuple[Path, str | None]:
    match = re.fullmatch(r"(.*\.npz):(.+)", text, re.IGNORECASE | re.DOTALL)
    if match is None:
        return (Path(text), None)
    return (Path(match[1]), match[2])


def _digits() -> Source:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Source(bunch.images.astype(np.uint8), bunch.target, "digits")


def _openml(name: str) -> Source:
    from sklearn.datasets import fetch_openml

    try:
        bunch = fetch_openml(name.removeprefix("openml:"), as_frame=False, parser="liac-arff")
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{shown(name)}: openml.org did not answer ({shown(error)}); try later or give a file"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{shown(name)}: cannot be fetched ({shown(error)}); give a numeric data set or a file"
        ) from error
    categories = [column for column in bunch.feature_names if column in (bunch.categories or {})]
    if categories:
        listed = shown(", ".join(categories[:10])) + (", ..." if len(categories) > 10 else "")
        raise DataError(
            f"{shown(name)}: columns of categories are not supported: {listed}; encode them and "
            f"give a file"
        )
    if not isinstance(bunch.data, np.ndarray):
        raise DataError(f"{shown(name)}: is sparse; make it dense and give it as .npy")
    labels = bunch.target
    if labels is not None and labels.dtype == object:
        labels = labels.astype(str)
    return Source(plain(bunch.data, shown(name)), labels, name)
