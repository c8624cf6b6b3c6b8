"""Turns what a person has (a file, a bundled set, an array) into one plain numeric array.

A file may come from anywhere, so its header is believed only as far as the file's size bears it out, and nothing is
ever unpickled: reading data must not run code. Every refusal is one line: what is wrong, where, and how to mend it.
"""

from __future__ import annotations

import difflib
import gzip
import http.client
import lzma
import math
import re
import stat
import zipfile
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from taut.errors import DataError, UsageError, shown

MAX_UNCOMPRESSED_BYTES = 16 * 2**30
MAX_GZIP_RATIO = 1032  # deflate cannot pack tighter, so a header that claims more lies
SUPPORTED = ".npy, .npz, idx files (-ubyte, .idx, also .gz), digits, openml:NAME"
PICKLED = {".pt", ".pth", ".pkl", ".pickle", ".joblib"}
IDX_NAME = re.compile(r"(\.idx|[.-]idx\d(-\w+)?|-ubyte)$|\.gz$", re.IGNORECASE)
IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
REFUSED = {
    "O": "Python objects, which only pickle can read (taut never unpickles): save numbers, .astype('float32')",
    "c": "complex numbers: save the real and the imaginary part as two real columns",
    "U": "text: encode it as numbers",
    "S": "text: encode it as numbers",
    "T": "text: encode it as numbers",
    "M": "dates: convert them to numbers",
    "m": "durations: convert them to numbers, .astype('float64')",
    "V": "records (named fields): save the numeric fields as one plain array",
}


class Source(NamedTuple):
    """What was read: ``array`` (N first, native byte order, C order), ``labels``, and the ``name`` to read it again."""

    array: np.ndarray
    labels: np.ndarray | None
    name: str


def read(source: object, key: str | None = None) -> Source:
    """Returns the data that ``source`` names or is.

    Args:
        source: A path, ``"FILE.npz:KEY"``, ``"digits"``, ``"openml:NAME"``, a numpy array or a torch tensor.
        key: Which array of an .npz file to read.

    Fails:
        UsageError: the path is missing or unreadable, or ``key`` is given where there is nothing to choose.
        DataError: the data are not a plain array of real numbers with at least one row.
    """
    if isinstance(source, str | Path):
        text = str(source)
        path, inner_key = _split_key(text)
        if path.suffix.lower() == ".npz":
            if key is not None and inner_key is not None:
                raise UsageError(f"{shown(text)}: the key is given twice; leave --key {shown(key)} away")
            return _read_file(path, key if key is not None else inner_key)
        if key is not None:
            raise UsageError(f"{shown(text)}: --key chooses an array of an .npz file; leave it away here")
        if text == "digits":
            return _digits()
        return _openml(text) if text.startswith("openml:") else _read_file(path, None)
    if key is not None:
        raise UsageError("--key chooses an array of an .npz file; leave it away for an array in memory")
    if isinstance(source, torch.Tensor):
        source = _from_tensor(source)
    if not isinstance(source, np.ndarray):
        raise UsageError(f"data must be a path, a numpy array or a torch tensor, not {type(source).__name__}")
    return Source(_plain(source, "the array"), None, "")


def _split_key(text: str) -> tuple[Path, str | None]:
    match = re.fullmatch(r"(.*\.npz):(.+)", text, re.IGNORECASE | re.DOTALL)
    return (Path(text), None) if match is None else (Path(match[1]), match[2])


def _read_file(path: Path, key: str | None) -> Source:
    where, suffix = shown(path), path.suffix.lower()
    size = _regular_size(path)
    if suffix in PICKLED:
        raise DataError(f"{where}: {suffix} files are pickles, which can run code when read; save the array as .npy")
    if size == 0:
        raise DataError(f"{where}: the file is empty; write or download it again")
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
            stream.seek(0)
            if suffix == ".npy":
                array = _read_npy(stream, size, where)
            elif suffix == ".npz":
                array = _read_npz(stream, key, where)
            elif IDX_NAME.search(path.name) or (len(magic) == 4 and _is_idx(magic)):
                array = _read_idx(stream, size, where)
            else:
                raise DataError(f"{where}: cannot read {suffix or 'a file without a suffix'}; supported: {SUPPORTED}")
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({error.strerror or shown(error)})") from error
    name = str(path.absolute())
    return Source(_plain(array, where), None, name if key is None else f"{name}:{key}")


def _regular_size(path: Path) -> int:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UsageError(f"{shown(path)}: no such file{_nearest_file(path)}") from error
    except OSError as error:
        raise UsageError(f"{shown(path)}: cannot be read ({error.strerror})") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{shown(path)}: is a folder; save its contents as one array in a .npy file and give that")
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{shown(path)}: is not a regular file; give a file: {SUPPORTED}")
    return status.st_size


def _nearest_file(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir()] + (["digits"] if path.parent == Path() else [])
    except (OSError, ValueError):
        return ", and its folder does not exist either"
    nearest = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {shown(path.parent / nearest[0])}?" if nearest else f"; supported: {SUPPORTED}"


def _read_npy(stream: BufferedIOBase, size: int, where: str) -> np.ndarray:
    try:
        version = np.lib.format.read_magic(stream)
        if version > (2, 0):
            raise ValueError("named fields")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
    except (OSError, zipfile.BadZipFile):
        raise
    except Exception as error:  # a damaged header raises whatever ast, tokenize or dtype parsing meets
        raise DataError(f"{where}: is not a .npy file, or its header is damaged; write it with numpy.save") from error
    _check_dtype(dtype, where)
    _check_shape(shape, where)
    held, claimed = size - stream.tell(), math.prod(shape) * dtype.itemsize
    if held != claimed or min(shape) < 0:
        raise DataError(
            f"{where}: its header claims shape {shape}, {claimed} bytes, but {held} bytes follow (truncated, damaged,"
            " or several arrays in one file); write it again with numpy.save"
        )
    flat = _fill(stream, dtype, math.prod(shape), where)
    return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)


def _read_npz(stream: BufferedIOBase, key: str | None, where: str) -> np.ndarray:
    try:
        with zipfile.ZipFile(stream) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            key = _choose(archive, members, key, where)
            info, place = members[key], f"{where}:{shown(key)}"
            if info.file_size > MAX_UNCOMPRESSED_BYTES:
                gib = info.file_size / 2**30
                raise DataError(f"{place}: unpacks to {gib:.1f} GiB (limit 16); save it as .npy if that is meant")
            with archive.open(info) as member:
                return _read_npy(cast(BufferedIOBase, member), info.file_size, place)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OSError) as error:
        raise DataError(
            f"{where}: is no .npz file, or truncated or damaged ({shown(error)}); write it again with numpy.savez"
        ) from error


def _choose(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], key: str | None, where: str) -> str:
    if not members:
        raise DataError(f"{where}: holds no arrays; write it with numpy.savez")
    if key is None and len(members) == 1:
        return next(iter(members))
    if key in members:
        return key
    listed = [f"{shown(name)} {_member_shape(archive, info)}".strip() for name, info in list(members.items())[:20]]
    arrays = ", ".join(listed) + (f" and {len(members) - 20} more" if len(members) > 20 else "")
    if key is None:
        raise DataError(f"{where}: holds {len(members)} arrays; choose one with --key: {arrays}")
    nearest = difflib.get_close_matches(key, members, n=1)
    hint = f"did you mean {shown(nearest[0])}? " if nearest else ""
    raise DataError(f"{where}: holds no array {shown(key)}; {hint}--key takes one of: {arrays}")


def _member_shape(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    try:
        with archive.open(info) as member:
            np.lib.format.read_magic(member)
            return str(np.lib.format.read_array_header_1_0(member)[0])
    except Exception:  # the list helps to choose a key; the chosen member is read, and refused, with care
        return ""


def _is_idx(magic: bytes) -> bool:
    return magic[:2] == b"\0\0" and magic[2] in IDX_DTYPES and 1 <= magic[3] <= 8


def _read_idx(stream: BufferedIOBase, size: int, where: str) -> np.ndarray:
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    try:
        plain: BufferedIOBase = gzip.GzipFile(fileobj=stream) if packed else stream
        magic = plain.read(4)
        if len(magic) < 4 or not _is_idx(magic):
            raise DataError(f"{where}: is not an idx file (it begins {magic.hex()}); supported: {SUPPORTED}")
        sizes = plain.read(4 * magic[3])
        shape = tuple(int(n) for n in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
        if len(shape) == magic[3]:
            _check_shape(shape, where)
        dtype = np.dtype(IDX_DTYPES[magic[2]])
        claimed = math.prod(shape) * dtype.itemsize
        room = min(size * MAX_GZIP_RATIO, MAX_UNCOMPRESSED_BYTES) if packed else size - 4 - len(sizes)
        if len(shape) < magic[3] or claimed > room:
            raise DataError(f"{where}: is truncated: its header claims shape {shape}, {claimed} bytes; download it again")
        array = _fill(plain, dtype, math.prod(shape), where)
        if plain.read(1):
            raise DataError(f"{where}: holds more than the {claimed} bytes of its header's {shape}; download it again")
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{where}: is truncated or damaged ({shown(error)}); download it again") from error
    return array.reshape(shape)


def _fill(stream: BufferedIOBase, dtype: np.dtype[Any], count: int, where: str) -> np.ndarray:
    """Reads straight into the array, a piece at a time: a compressed stream would otherwise hold everything twice."""
    array = np.empty(count, dtype)
    view, done = array.view(np.uint8).data, 0
    while done < len(view):
        piece = stream.read(min(2**24, len(view) - done))
        if not piece:
            raise DataError(f"{where}: is truncated: {done} of {len(view)} bytes; write or download it again")
        view[done : done + len(piece)] = piece
        done += len(piece)
    return array


def _digits() -> Source:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Source(bunch.images.astype(np.uint8), bunch.target, "digits")


def _openml(name: str) -> Source:
    from sklearn.datasets import fetch_openml

    try:
        bunch = fetch_openml(name.removeprefix("openml:"), as_frame=False, parser="liac-arff")
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{shown(name)}: openml.org did not answer ({shown(error)}); try later or give a file") from error
    except ValueError as error:
        raise DataError(f"{shown(name)}: cannot be fetched ({shown(error)}); give a numeric data set or a file") from error
    categories = [column for column in bunch.feature_names if column in (bunch.categories or {})]
    if categories:
        listed = shown(", ".join(categories[:10])) + (", ..." if len(categories) > 10 else "")
        raise DataError(f"{shown(name)}: columns of categories are not supported: {listed}; encode them and give a file")
    if not isinstance(bunch.data, np.ndarray):
        raise DataError(f"{shown(name)}: is sparse; make it dense and give it as .npy")
    labels = bunch.target.astype(str) if bunch.target is not None and bunch.target.dtype == object else bunch.target
    return Source(_plain(bunch.data, shown(name)), labels, name)


def _from_tensor(tensor: torch.Tensor) -> np.ndarray:
    try:
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
            tensor = tensor.float()  # bfloat16 and float8 have no numpy type; float32 holds all their values
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantised and meta tensors
        raise DataError(f"the tensor: {tensor.layout} {tensor.dtype} cannot become an array; give it dense") from error


def _check_dtype(dtype: np.dtype[Any], where: str) -> None:
    if dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8):
        return
    held = REFUSED.get(dtype.kind, f"{dtype} numbers: save them as float64")
    raise DataError(f"{where}: holds {held}")


def _check_shape(shape: tuple[int, ...], where: str) -> None:
    if len(shape) == 0:
        raise DataError(f"{where}: is a single number (0-d); the first axis must count the rows")
    if 0 in shape:
        raise DataError(f"{where}: is empty (shape {shape}); at least one row of one value is needed")
    if len(shape) > 32:
        raise DataError(f"{where}: has {len(shape)} axes; reshape it to rows of at most three axes")


def _plain(array: np.ndarray, where: str) -> np.ndarray:
    """Returns the same values in native byte order and C order; bool becomes uint8, float16 float32."""
    _check_dtype(array.dtype, where)
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise DataError(f"{where}: has masked entries; missing values are not supported, so fill them or drop the rows")
    _check_shape(array.shape, where)
    array = np.asarray(array)
    if array.dtype.kind == "b":
        array = (array.view(np.uint8) != 0).astype(np.uint8)  # a file may hold a true that is not 1
    dtype = np.dtype(np.float32) if array.dtype == np.float16 else array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array.astype(dtype, copy=False))
