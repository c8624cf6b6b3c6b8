"""Arrays of numbers: .npy, .npz, sparse .npz and idx files, tensors and arrays in memory.

A file may come from anywhere, so its header is believed only as far as the file's size bears it
out, and nothing is ever unpickled: reading data must not run code.
"""

from __future__ import annotations

import gzip
import lzma
import math
import re
import zipfile
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from taut.data.formats import conversion
from taut.data.paths import SUPPORTED, regular_size
from taut.data.sparse import SparseRows, from_scipy, native
from taut.system.errors import DataError, UsageError, and_more, did_you_mean, shown
from taut.system.memory import check_fits

__all__ = ["from_tensor", "plain", "read_array"]

MAX_UNCOMPRESSED_BYTES = 16 * 2**30
MAX_GZIP_RATIO = 1032  # deflate cannot pack tighter, so a header that claims more lies
SMALLER = "save it as a smaller type (uint8, float32)"
PICKLED = {".pt", ".pth", ".pkl", ".pickle", ".joblib"}
IDX_NAME = re.compile(r"(\.idx|[.-]idx\d(-\w+)?|-ubyte)$|\.gz$", re.IGNORECASE)
IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
PLACES = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}
REFUSED = {
    "O": "Python objects, which only pickle can read (taut never unpickles): save numbers, "
    ".astype('float32')",
    "c": "complex numbers: save the real and the imaginary part as two real columns",
    "U": "text: encode it as numbers",
    "S": "text: encode it as numbers",
    "T": "text: encode it as numbers",
    "M": "dates: convert them to numbers",
    "m": "durations: convert them to numbers, .astype('float64')",
    "V": "records (named fields): save the numeric fields as one plain array",
}


def read_array(path: Path, key: str | None) -> np.ndarray | SparseRows:
    """Returns the array of a file, or sparse counts.

    Args:
        path: The file: .npy, .npz or idx.
        key: Which array of an .npz file.

    Raises:
        UsageError: it cannot be read.
        DataError: it does not hold one array of numbers.
    """
    where, suffix = shown(path), path.suffix.lower()
    size = regular_size(path)
    if suffix in PICKLED:
        raise DataError(
            f"{where}: {suffix} files are pickles, which can run code when read; save the array as "
            f".npy"
        )
    if size == 0:
        raise DataError(f"{where}: the file is empty; write or download it again")
    try:
        with path.open("rb") as stream:
            array = _read_stream(stream, path, size, key)
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({error.strerror or shown(error)})") from error
    if isinstance(array, SparseRows):
        return array
    return plain(array, where)


def _read_stream(
    stream: BufferedIOBase, path: Path, size: int, key: str | None
) -> np.ndarray | SparseRows:
    where, suffix = shown(path), path.suffix.lower()
    if suffix == ".npy":
        return _read_npy(stream, size, where)
    if suffix == ".npz":
        return _read_npz(stream, key, where)
    magic = stream.read(4)
    stream.seek(0)
    if IDX_NAME.search(path.name) or (len(magic) == 4 and _is_idx(magic)):
        return _read_idx(stream, size, where)
    command = conversion(path)
    way = f"convert it: {command}" if command else f"supported: {SUPPORTED}"
    raise DataError(f"{where}: cannot read {suffix or 'a file without a suffix'}; {way}")


def _read_npy(stream: BufferedIOBase, size: int, where: str) -> np.ndarray:
    try:
        version = np.lib.format.read_magic(stream)
        if version > (2, 0):
            raise ValueError("named fields")
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, dtype = read_header(stream)
    except (OSError, zipfile.BadZipFile):
        raise
    except (
        Exception
    ) as error:  # a damaged header raises whatever ast, tokenize or dtype parsing meets
        raise DataError(
            f"{where}: is not a .npy file, or its header is damaged; write it with numpy.save"
        ) from error
    _check_dtype(dtype, where)
    _check_shape(shape, where)
    held, claimed = size - stream.tell(), math.prod(shape) * dtype.itemsize
    if held != claimed or min(shape) < 0:
        raise DataError(
            f"{where}: its header claims shape {shape}, {claimed} bytes, but {held} bytes follow "
            f"(truncated, damaged,"
            " or several arrays in one file); write it again with numpy.save"
        )
    check_fits(claimed, where, SMALLER)
    flat = _fill(stream, dtype, math.prod(shape), where)
    if fortran_order:
        return flat.reshape(shape[::-1]).T
    return flat.reshape(shape)


def _read_npz(stream: BufferedIOBase, key: str | None, where: str) -> np.ndarray | SparseRows:
    try:
        with zipfile.ZipFile(stream) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if key is None and {"format", "shape", "data"} <= set(members):
                return _read_sparse(archive, members, where)
            key = _choose(archive, members, key, where)
            info, place = members[key], f"{where}:{shown(key)}"
            if info.file_size > MAX_UNCOMPRESSED_BYTES:
                gib = info.file_size / 2**30
                raise DataError(
                    f"{place}: unpacks to {gib:.1f} GiB (limit 16); save it as .npy if that is "
                    f"meant"
                )
            with archive.open(info) as member:
                return _read_npy(cast(BufferedIOBase, member), info.file_size, place)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:
        raise DataError(
            f"{where}: is not an .npz file, or truncated or damaged ({shown(error)}); write it "
            f"again "
            f"with numpy.savez"
        ) from error


def _read_sparse(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], where: str
) -> SparseRows:
    """Returns what scipy.sparse.save_npz has written, in the formats whose rows or columns are
    packed.
    """
    import scipy.sparse

    with archive.open(members["format"]) as member:
        stored = member.read(1024)
    layout = stored.replace(b"\0", b"")[-3:].decode("ascii", "replace")  # of any string type
    if layout not in PLACES:
        raise DataError(
            f"{where}: holds a sparse matrix that is neither csr, csc nor coo; save matrix.tocsr()"
        )
    parts: dict[str, np.ndarray] = {}
    for name in ("shape", "data", *PLACES[layout]):
        if name not in members:
            raise DataError(
                f"{where}: holds a sparse matrix without {name}; write it again with "
                f"scipy.sparse.save_npz"
            )
        info = members[name]
        with archive.open(info) as member:
            parts[name] = _read_npy(cast(BufferedIOBase, member), info.file_size, f"{where}:{name}")
    shape = tuple(int(n) for n in parts["shape"])
    if len(shape) != 2 or min(shape) < 1 or max(shape) > 2**31:
        raise DataError(
            f"{where}: holds a sparse matrix of shape {shape}; rows and columns are needed"
        )
    check_fits(8 * shape[0] + 12 * len(parts["data"]), where, SMALLER)
    places = [parts[name] for name in PLACES[layout]]
    if layout == "coo":
        return from_scipy(scipy.sparse.coo_matrix((parts["data"], tuple(places)), shape), where)
    make = scipy.sparse.csr_matrix if layout == "csr" else scipy.sparse.csc_matrix
    return from_scipy(make((parts["data"], *places), shape), where)


def _choose(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], key: str | None, where: str
) -> str:
    if not members:
        raise DataError(f"{where}: holds no arrays; write it with numpy.savez")
    if key is None and len(members) == 1:
        return next(iter(members))
    if key in members:
        return key
    listed = [
        f"{shown(name)} {_member_shape(archive, info)}".strip()
        for name, info in list(members.items())[:20]
    ]
    arrays = ", ".join(listed) + and_more(members, 20)
    if key is None:
        raise DataError(f"{where}: holds {len(members)} arrays; choose one with --key: {arrays}")
    hint = did_you_mean(key, members)
    raise DataError(f"{where}: holds no array {shown(key)}; {hint}--key takes one of: {arrays}")


def _member_shape(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    try:
        with archive.open(info) as member:
            np.lib.format.read_magic(member)
            return str(np.lib.format.read_array_header_1_0(member)[0])
    except (
        Exception
    ):  # the list helps to choose a key; the chosen member is read, and refused, with care
        return ""


def _is_idx(magic: bytes) -> bool:
    return magic[:2] == b"\0\0" and magic[2] in IDX_DTYPES and 1 <= magic[3] <= 8


def _read_idx(stream: BufferedIOBase, size: int, where: str) -> np.ndarray:
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    try:
        if packed:
            unpacked: Any = gzip.GzipFile(fileobj=stream)
            most = min(size * MAX_GZIP_RATIO, MAX_UNCOMPRESSED_BYTES)
            return _read_plain_idx(unpacked, most, where)
        return _read_plain_idx(stream, size, where)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{where}: is truncated or damaged ({shown(error)}); download it again"
        ) from error


def _read_plain_idx(stream: BufferedIOBase, size: int, where: str) -> np.ndarray:
    """Reads an unpacked stream of at most ``size`` bytes."""
    magic = stream.read(4)
    if len(magic) < 4 or not _is_idx(magic):
        raise DataError(
            f"{where}: is not an idx file (it begins {magic.hex()}); supported: {SUPPORTED}"
        )
    sizes = stream.read(4 * magic[3])
    shape = tuple(int(n) for n in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
    if len(shape) == magic[3]:
        _check_shape(shape, where)
    dtype = np.dtype(IDX_DTYPES[magic[2]])
    claimed = math.prod(shape) * dtype.itemsize
    if len(shape) < magic[3] or claimed > size - 4 - len(sizes):
        raise DataError(
            f"{where}: is truncated: its header claims shape {shape}, {claimed} bytes; download it "
            f"again"
        )
    check_fits(claimed, where, SMALLER)
    array = _fill(stream, dtype, math.prod(shape), where)
    if stream.read(1):
        raise DataError(
            f"{where}: holds more than the {claimed} bytes of its header's {shape}; download it "
            f"again"
        )
    return array.reshape(shape)


def _fill(stream: BufferedIOBase, dtype: np.dtype[Any], count: int, where: str) -> np.ndarray:
    """Reads straight into the array, a piece at a time.

    A compressed stream would otherwise hold everything twice.
    """
    array = np.empty(count, dtype)
    view, done = array.view(np.uint8).data, 0
    while done < len(view):
        piece = stream.read(min(2**24, len(view) - done))
        if not piece:
            raise DataError(
                f"{where}: is truncated: {done} of {len(view)} bytes; write or download it again"
            )
        view[done : done + len(piece)] = piece
        done += len(piece)
    return array


def from_tensor(tensor: torch.Tensor) -> np.ndarray:
    """Returns the array of a tensor, as it is stored."""
    try:
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point() and tensor.dtype not in (
            torch.float16,
            torch.float32,
            torch.float64,
        ):
            # bfloat16 and float8 have no numpy type; float32 holds all their values
            tensor = tensor.float()
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantised and meta tensors
        raise DataError(
            f"the tensor: {tensor.layout} {tensor.dtype} cannot become an array; give it dense"
        ) from error


def _check_dtype(dtype: np.dtype[Any], where: str) -> None:
    if dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8):
        return
    held = REFUSED.get(dtype.kind, f"{dtype} numbers: save them as float64")
    raise DataError(f"{where}: holds {held}")


def _check_shape(shape: tuple[int, ...], where: str) -> None:
    if len(shape) == 0:
        raise DataError(f"{where}: is a single number (0-d); the first axis must count the rows")
    if 0 in shape:
        raise DataError(
            f"{where}: is empty (shape {shape}); at least one row of one value is needed"
        )
    if len(shape) > 32:
        raise DataError(f"{where}: has {len(shape)} axes; reshape it to rows of at most three axes")


def plain(array: np.ndarray, where: str) -> np.ndarray:
    """Returns the same values in native byte order and C order.

    Bool becomes uint8, float16 float32.
    """
    _check_dtype(array.dtype, where)
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise DataError(f"{where}: has masked entries; set them to NaN, which means missing")
    _check_shape(array.shape, where)
    array = np.asarray(array)
    if array.dtype.kind == "b":
        array = (array.view(np.uint8) != 0).astype(np.uint8)  # a file may hold a true that is not 1
    return np.ascontiguousarray(array.astype(native(array.dtype), copy=False))
