"""Turns what a person has (a file, a folder, a frame, an array) into one plain array, a table, or
sparse counts.

A file may come from anywhere, so its header is believed only as far as the file's size bears it
out, and nothing is ever unpickled: reading data must not run code. Every refusal is one line: what
is wrong, where, and how to mend it.
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
from dataclasses import dataclass, fields
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from taut.data.formats import COUNTS, TABLES, conversion, is_counts_folder
from taut.data.sparse import SparseRows, from_scipy
from taut.data.tables.parquet import SUFFIXES, holds_parquet
from taut.system.errors import DataError, UsageError, shown
from taut.system.memory import available, check_fits

MAX_UNCOMPRESSED_BYTES = 16 * 2**30
MAX_GZIP_RATIO = 1032  # deflate cannot pack tighter, so a header that claims more lies
SMALLER = "save it as a smaller type (uint8, float32)"
SUPPORTED = (
    ".csv, .tsv (also .gz, .zip, .bz2, .xz), .parquet, .feather, .jsonl, .xlsx, .npy, .npz, .h5ad, "
    "10x .h5, .mtx, idx files"
    " (-ubyte, .idx, also .gz), a folder of images or of Parquet files, digits, openml:NAME"
)
TEXT_TABLE = re.compile(r"\.(csv|tsv|txt)(\.(gz|zip|bz2|xz))?$", re.IGNORECASE)
PICKLED = {".pt", ".pth", ".pkl", ".pickle", ".joblib"}
IDX_NAME = re.compile(r"(\.idx|[.-]idx\d(-\w+)?|-ubyte)$|\.gz$", re.IGNORECASE)
IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
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


class Streamed(NamedTuple):
    """A Parquet file, or a folder of them, that is read again and again in place of being held in
    memory.
    """

    path: Path
    marks: tuple[
        tuple[int, int, int] | None, ...
    ] = ()  # of its files, to see that they do not change


class Source(NamedTuple):
    """What was read.

    Args:
        data: An array (N first, native byte order, C order), a ``pyarrow.Table``, sparse counts, or
            a file to be streamed.
        labels: Of the rows, if the source has them.
        name: The string to read it again; empty for what was in memory.
        notes: What a person should know, a line each.
        columns: The names of the columns of counts, if the source has them.
    """

    data: Any
    labels: np.ndarray | None
    name: str
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def is_table(self) -> bool:
        return isinstance(self.data, Streamed) or type(self.data).__module__.startswith("pyarrow")


@dataclass(frozen=True)
class Options:
    """How a source is read, where there is a choice.

    Args:
        delimiter: Of a text table; by default the one that is found.
        decimal: "." or ",", likewise.
        encoding: Of a text table; by default UTF-8, or what its first bytes say.
        header: Whether its first line names the columns; by default it does, unless it looks like a
            row.
        layer: Which matrix of an .h5ad file: a layer, or raw.
        resize: Height and width that images are scaled to.
        crop: Whether the centre of an image is cut out, in place of changing its proportions.
        alpha: What is done with transparent images: drop or composite.
        skip_bad: Share of unreadable images that may be left out.
        stream: Whether a Parquet file stays on disk; by default where it would fill a quarter of
            the free memory.
    """

    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    header: bool | None = None
    layer: str | None = None
    resize: tuple[int, int] | None = None
    crop: bool = False
    alpha: str | None = None
    skip_bad: float = 0.0
    stream: bool | None = None

    def only(self, kind: str) -> Options:
        """Returns these options without those that mean nothing for a kind of source."""
        return Options(**{name: getattr(self, name) for name in _MEANT_FOR[kind]})

    def foreign(self, kind: str) -> list[str]:
        """Returns the names of options that are set and mean nothing for a kind of source."""
        return [
            f.name
            for f in fields(self)
            if getattr(self, f.name) != f.default and f.name not in _MEANT_FOR[kind]
        ]


AS_FOUND = Options()
_MEANT_FOR: dict[str, tuple[str, ...]] = {
    "text tables": ("delimiter", "decimal", "encoding", "header"),
    "Parquet files": ("stream",),
    "images": ("resize", "crop", "alpha", "skip_bad"),
    ".h5ad files": ("layer",),
    "tables of another format": (),
    "matrices of counts": (),
    "arrays": (),
}


def kind_of(source: object) -> str:
    """Returns which options a source has.

    Text table, Parquet, images, .h5ad or array (everything else).
    """
    if not isinstance(source, str | Path):
        return ".h5ad files" if type(source).__name__ == "AnnData" else "arrays"
    path = Path(source)
    if (folder := _folder_kind(path)) is not None:
        return folder
    if path.suffix.lower() in SUFFIXES:
        return "Parquet files"
    if path.suffix.lower() in TABLES:
        return "tables of another format"
    if path.name.lower().endswith(COUNTS):
        return "matrices of counts"
    return (
        "text tables"
        if TEXT_TABLE.search(path.name)
        else ".h5ad files"
        if path.suffix.lower() == ".h5ad"
        else "arrays"
    )


def _folder_kind(path: Path) -> str | None:
    try:
        if not path.is_dir():
            return None
    except OSError:  # such as a name that is too long: the reader says so
        return None
    try:
        if is_counts_folder(path):
            return "matrices of counts"
        return "Parquet files" if holds_parquet(path) else "images"
    except OSError:  # it must not be listed: the reader says so
        return "images"


def read(source: object, key: str | None = None, options: Options = AS_FOUND) -> Source:
    """Returns the data that ``source`` names or is.

    Args:
        source: A path, ``"FILE.npz:KEY"``, ``"digits"``, ``"openml:NAME"``, a numpy array, a torch
            tensor, a data frame (pandas, polars, Arrow), a scipy sparse matrix or an AnnData
            object.
        key: Which array of an .npz file to read.
        options: How.

    Fails:
        UsageError: the path is missing or unreadable, or an option is given where there is nothing
            to choose.
        DataError: the data cannot be read, or hold nothing that can be modelled.
    """
    kind = kind_of(source)
    if foreign := options.foreign(kind):
        means = " and ".join(k for k, names in _MEANT_FOR.items() if foreign[0] in names)
        raise UsageError(
            f"--{foreign[0].replace('_', '-')} is for {means}; {_called(source)} is read as "
            f"{kind}: leave it away"
        )
    if isinstance(source, str | Path):
        return _read_named(str(source), key, kind, options)
    if key is not None:
        raise UsageError("--key chooses an array of an .npz file; leave it away for data in memory")
    return _read_memory(source, options)


def _called(source: object) -> str:
    return shown(source) if isinstance(source, str | Path) else f"a {type(source).__name__}"


def _read_named(text: str, key: str | None, kind: str, options: Options) -> Source:
    path, inner_key = _split_key(text)
    if path.suffix.lower() == ".npz":
        if key is not None and inner_key is not None:
            raise UsageError(
                f"{shown(text)}: the key is given twice; leave --key {shown(key)} away"
            )
        return _read_file(path, key if key is not None else inner_key)
    if key is not None:
        raise UsageError(
            f"{shown(text)}: --key chooses an array of an .npz file; leave it away here"
        )
    if text == "digits":
        return _digits()
    if (url := re.match(r"(https?|ftp|s3|gs|file)://", text)) is not None:
        command = (
            "curl -LO"
            if url[1] in ("http", "https", "ftp")
            else "aws s3 cp"
            if url[1] == "s3"
            else "gsutil cp"
        )
        raise UsageError(
            f"{shown(text)}: is an address, and only files are read; fetch it first: {command} "
            f"{shown(text)}"
        )
    if text.startswith("openml:"):
        return _openml(text)
    try:
        return _read_path(path, kind, options)
    except OSError as error:
        raise UsageError(
            f"{shown(path)}: cannot be read ({error.strerror or shown(error)})"
        ) from error


def _read_path(path: Path, kind: str, options: Options) -> Source:
    name = str(path.absolute())
    folder_too = kind in ("Parquet files", "matrices of counts")
    size = 0 if kind == "images" else _regular_size(path, folder_too)
    if kind == "images" and path.suffix.lower() in (".zarr",):
        raise DataError(f"{shown(path)}: cannot be read; convert it: {conversion(path)}")
    if kind == "tables of another format":
        from taut.data.formats import read_table

        table, notes = read_table(path)
        return Source(table, None, name, tuple(notes))
    if kind == "matrices of counts":
        from taut.data.formats import read_counts

        counts, notes = read_counts(path)
        return Source(counts, None, name, tuple(notes))
    if kind == "text tables":
        from taut.data.tables.delimited import read_csv

        check_fits(
            size, shown(path), "convert it to Parquet, which can stay on the disk (--stream)"
        )
        table, notes = read_csv(
            path,
            delimiter=options.delimiter,
            decimal=options.decimal,
            encoding=options.encoding,
            header=options.header,
        )
        return Source(table, None, name, tuple(notes))
    if kind == "Parquet files":
        return _read_parquet(path, options.stream, name)
    if kind == "images":
        from taut.data.images import read_folder

        array, labels, notes = read_folder(
            path,
            resize=options.resize,
            crop=options.crop,
            alpha=options.alpha,
            skip_bad=options.skip_bad,
        )
        return Source(array, labels, name, tuple(notes))
    if kind == ".h5ad files":
        from taut.data.h5ad import read_h5ad

        matrix, labels, genes, notes = read_h5ad(path, layer=options.layer)
        return Source(matrix, labels, name, tuple(notes), tuple(genes))
    return _read_file(path, None)


def _read_parquet(path: Path, stream: bool | None, name: str) -> Source:
    from taut.data.tables.parquet import marks, num_bytes, read_parquet

    if stream is None:
        stream = num_bytes(path) > _free_memory() / 4
    return Source(Streamed(path, marks(path)) if stream else read_parquet(path), None, name)


def _free_memory() -> int:
    return available() or 4 * 2**30  # not every system tells


def _read_memory(source: object, options: Options) -> Source:
    from taut.data.h5ad import from_anndata
    from taut.data.tables.frames import from_frame

    if isinstance(source, torch.Tensor):
        source = _from_tensor(source)
    if isinstance(source, np.ndarray):
        return Source(_plain(source, "the array"), None, "")
    if type(source).__name__ == "AnnData":
        matrix, labels, genes, notes = from_anndata(source, options.layer)
        return Source(matrix, labels, "", tuple(notes), tuple(genes))
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
    return (Path(text), None) if match is None else (Path(match[1]), match[2])


def _read_file(path: Path, key: str | None) -> Source:
    where, suffix = shown(path), path.suffix.lower()
    size = _regular_size(path)
    if suffix in PICKLED:
        raise DataError(
            f"{where}: {suffix} files are pickles, which can run code when read; save the array as "
            f".npy"
        )
    if size == 0:
        raise DataError(f"{where}: the file is empty; write or download it again")
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
            stream.seek(0)
            array: Any
            if suffix == ".npy":
                array = _read_npy(stream, size, where)
            elif suffix == ".npz":
                array = _read_npz(stream, key, where)
            elif IDX_NAME.search(path.name) or (len(magic) == 4 and _is_idx(magic)):
                array = _read_idx(stream, size, where)
            else:
                way = (
                    f"convert it: {command}"
                    if (command := conversion(path))
                    else f"supported: {SUPPORTED}"
                )
                raise DataError(
                    f"{where}: cannot read {suffix or 'a file without a suffix'}; {way}"
                )
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({error.strerror or shown(error)})") from error
    name = str(path.absolute())
    if type(array) is SparseRows:
        return Source(array, None, name)
    return Source(_plain(array, where), None, name if key is None else f"{name}:{key}")


def _regular_size(path: Path, folder_too: bool = False) -> int:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UsageError(f"{shown(path)}: no such file{_nearest_file(path)}") from error
    except OSError as error:
        raise UsageError(f"{shown(path)}: cannot be read ({error.strerror})") from error
    if stat.S_ISDIR(status.st_mode):
        if folder_too:
            return 0
        raise DataError(
            f"{shown(path)}: is a folder; save its contents as one array in a .npy file and give "
            f"that"
        )
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{shown(path)}: is not a regular file; give a file: {SUPPORTED}")
    return status.st_size


def _nearest_file(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir()] + (
            ["digits"] if path.parent == Path() else []
        )
    except (OSError, ValueError):
        return ", and its folder does not exist either"
    nearest = difflib.get_close_matches(path.name, names, n=1)
    return (
        f"; did you mean {shown(path.parent / nearest[0])}?"
        if nearest
        else f"; supported: {SUPPORTED}"
    )


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
    return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)


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
            f"{where}: is no .npz file, or truncated or damaged ({shown(error)}); write it again "
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
    kind = next(
        (
            k
            for k in ("csr", "csc", "coo")
            if stored.endswith((k.encode(), "".join(c + "\0\0\0" for c in k).encode()))
        ),
        "",
    )
    if not kind:
        raise DataError(
            f"{where}: holds a sparse matrix that is neither csr, csc nor coo; save matrix.tocsr()"
        )
    parts: dict[str, np.ndarray] = {}
    for name in ("shape", "data", *(("row", "col") if kind == "coo" else ("indices", "indptr"))):
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
    if kind == "coo":
        matrix = scipy.sparse.coo_matrix((parts["data"], (parts["row"], parts["col"])), shape)
    else:
        make = scipy.sparse.csr_matrix if kind == "csr" else scipy.sparse.csc_matrix
        matrix = make((parts["data"], parts["indices"], parts["indptr"]), shape)
    return from_scipy(matrix, where)


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
        plain: BufferedIOBase = gzip.GzipFile(fileobj=stream) if packed else stream
        magic = plain.read(4)
        if len(magic) < 4 or not _is_idx(magic):
            raise DataError(
                f"{where}: is not an idx file (it begins {magic.hex()}); supported: {SUPPORTED}"
            )
        sizes = plain.read(4 * magic[3])
        shape = tuple(int(n) for n in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
        if len(shape) == magic[3]:
            _check_shape(shape, where)
        dtype = np.dtype(IDX_DTYPES[magic[2]])
        claimed = math.prod(shape) * dtype.itemsize
        room = (
            min(size * MAX_GZIP_RATIO, MAX_UNCOMPRESSED_BYTES) if packed else size - 4 - len(sizes)
        )
        if len(shape) < magic[3] or claimed > room:
            raise DataError(
                f"{where}: is truncated: its header claims shape {shape}, {claimed} bytes; "
                f"download it again"
            )
        check_fits(claimed, where, SMALLER)
        array = _fill(plain, dtype, math.prod(shape), where)
        if plain.read(1):
            raise DataError(
                f"{where}: holds more than the {claimed} bytes of its header's {shape}; download "
                f"it again"
            )
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{where}: is truncated or damaged ({shown(error)}); download it again"
        ) from error
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
    labels = (
        bunch.target.astype(str)
        if bunch.target is not None and bunch.target.dtype == object
        else bunch.target
    )
    return Source(_plain(bunch.data, shown(name)), labels, name)


def _from_tensor(tensor: torch.Tensor) -> np.ndarray:
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


def _plain(array: np.ndarray, where: str) -> np.ndarray:
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
    dtype = np.dtype(np.float32) if array.dtype == np.float16 else array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array.astype(dtype, copy=False))
