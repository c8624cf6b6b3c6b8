"""Reads what is neither text, Parquet, array nor .h5ad: Arrow, Feather, JSON lines, Excel, counts
of 10x and Matrix Market.

What cannot be read is refused with the one command that converts it.
"""

from __future__ import annotations

import gzip
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taut.data.h5ad import look_first
from taut.data.names import Names, names_in_folder, names_in_group
from taut.data.sparse import SparseRows, from_scipy
from taut.data.tables.frames import without_views
from taut.system.errors import DataError, OutOfMemoryError, TautError, UsageError, shown
from taut.system.memory import check_fits

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "CONVERT",
    "COUNTS",
    "TABLES",
    "conversion",
    "is_counts_folder",
    "read_counts",
    "read_table",
]

TABLES = (".feather", ".arrow", ".ipc", ".jsonl", ".ndjson", ".xlsx")
COUNTS = (".mtx", ".mtx.gz", ".h5")
MATRICES = ("matrix.mtx", "matrix.mtx.gz")
SMALLER = "convert it to Parquet, which can stay on the disk (--stream)"
CONVERT = {
    ".mat": "import numpy, scipy.io; numpy.save('{0}.npy', scipy.io.loadmat('{1}')['NAME'])",
    ".dcm": "import numpy, pydicom; numpy.save('{0}.npy', "
    "pydicom.dcmread('{1}').pixel_array[None])",
    ".zarr": "import anndata; anndata.read_zarr('{1}').write_h5ad('{0}.h5ad')",
    ".h5": "import h5py, numpy; numpy.save('{0}.npy', h5py.File('{1}')['NAME'][:])",
    ".hdf5": "import h5py, numpy; numpy.save('{0}.npy', h5py.File('{1}')['NAME'][:])",
    ".loom": "import anndata; anndata.read_loom('{1}').write_h5ad('{0}.h5ad')",
    ".json": "import pandas; pandas.read_json('{1}').to_parquet('{0}.parquet')",
    ".xls": "import pandas; pandas.read_excel('{1}').to_parquet('{0}.parquet')",
    ".ods": "import pandas; pandas.read_excel('{1}').to_parquet('{0}.parquet')",
    ".orc": "import pandas; pandas.read_orc('{1}').to_parquet('{0}.parquet')",
    ".dta": "import pandas; pandas.read_stata('{1}').to_parquet('{0}.parquet')",
    ".sav": "import pandas; pandas.read_spss('{1}').to_parquet('{0}.parquet')",
    ".sas7bdat": "import pandas; pandas.read_sas('{1}').to_parquet('{0}.parquet')",
    ".nii": "import nibabel, numpy; numpy.save('{0}.npy', nibabel.load('{1}').get_fdata())",
    ".nc": "import xarray; "
    "xarray.open_dataset('{1}').to_dataframe().reset_index().to_parquet('{0}.parquet')",
}


def conversion(path: Path) -> str | None:
    """Returns the command that makes a file of a format that can be read, if its suffix tells
    which.
    """
    code = CONVERT.get(path.suffix.lower())
    if code is None:
        return None
    return f'python -c "{code.format(shown(path.stem), shown(path.name))}"'


def is_counts_folder(path: Path) -> bool:
    """Returns whether a folder holds the matrix of counts that Cell Ranger and STARsolo write."""
    return any((path / name).is_file() for name in MATRICES)


def read_table(path: Path) -> tuple[pa.Table, list[str]]:
    """Returns the table of a file whose suffix is one of ``TABLES``, and notes.

    Raises:
        DataError: it is damaged, or holds no table.
        UsageError: a library is missing.
        OutOfMemoryError: it does not fit.
    """
    import pyarrow as pa

    where, suffix = shown(path), path.suffix.lower()
    check_fits(path.stat().st_size, where, SMALLER)
    try:
        if suffix == ".xlsx":
            return _sheet(path, where)
        read = _arrow
        if suffix in (".jsonl", ".ndjson"):
            read = _json_lines
        table = read(path)
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{where}: is not a file of the format {suffix}, or truncated or damaged "
            f"({shown(error)}); write it "
            f"again"
        ) from error
    if not table.num_rows:
        raise DataError(f"{where}: has no rows; give a file with at least one row of data")
    return table, []


def _arrow(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.feather

    with path.open("rb") as stream:
        magic = stream.read(6)
    if magic in (b"ARROW1", b"FEA1\0\0") or magic.startswith(b"FEA1"):
        return without_views(pyarrow.feather.read_table(path, memory_map=False))
    with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return without_views(reader.read_all())


def _json_lines(path: Path) -> pa.Table:
    import pyarrow.json

    return pyarrow.json.read_json(path, pyarrow.json.ReadOptions(block_size=2**24))


def _sheet(path: Path, where: str) -> tuple[pa.Table, list[str]]:
    try:
        import openpyxl
    except ImportError as error:
        raise UsageError(
            f"{where}: needs openpyxl to be read; pip install 'taut[excel]', or save the sheet as "
            f"CSV"
        ) from error
    try:
        with zipfile.ZipFile(path) as archive:  # before anything is unpacked
            check_fits(2 * sum(info.file_size for info in archive.infolist()), where, SMALLER)
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheet, others = book.worksheets[0], book.sheetnames[1:]
        rows = [list(row) for row in sheet.iter_rows(values_only=True)]
        book.close()
    except TautError:
        raise
    except (
        Exception
    ) as error:  # a damaged file raises whatever zipfile, the XML parser and openpyxl meet
        raise DataError(
            f"{where}: is not an .xlsx file, or truncated or damaged ({shown(error)}); save it "
            f"again"
        ) from error
    notes = []
    if others:
        notes.append(f"{where}: only its first sheet is read, not {shown(', '.join(others[:5]))}")
    return _of_cells(rows, where), notes


def _of_cells(rows: list[list[Any]], where: str) -> pa.Table:
    import pyarrow as pa

    rows = [row for row in rows if any(cell is not None for cell in row)]
    if len(rows) < 2:
        raise DataError(
            f"{where}: its first sheet has no header and rows; give one whose first row names the "
            f"columns"
        )
    width = max(i + 1 for row in rows for i, cell in enumerate(row) if cell is not None)
    head, *body = [(row + [None] * width)[:width] for row in rows]
    names = ["" if name is None else str(name).strip() for name in head]
    columns = zip(*body, strict=True)
    return pa.Table.from_arrays([_typed(list(cells)) for cells in columns], names=names)


def _typed(cells: list[Any]) -> pa.Array:
    import pyarrow as pa

    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {int, float}:
        return pa.array(_each(float, cells))
    try:
        if len(kinds) <= 1:
            return pa.array(cells)
    except (pa.ArrowException, OverflowError):
        pass
    return pa.array(_each(str, cells), pa.string())


def _each(make: Callable[[Any], Any], cells: list[Any]) -> list[Any]:
    return [None if cell is None else make(cell) for cell in cells]


def read_counts(path: Path) -> tuple[SparseRows, list[str], Names]:
    """Returns the counts (cells, genes) of a 10x .h5 file, a .mtx file, or a folder of one, notes,
    and the names of cells and genes where it has them.

    Raises:
        DataError: it is damaged, or holds other things.
        UsageError: a library is missing.
        OutOfMemoryError: it does not fit.
    """
    where = shown(path)
    try:
        import scipy.sparse
    except ImportError as error:
        raise UsageError(f"{where}: needs scipy to be read; pip install scipy") from error
    try:
        if path.is_dir():
            file = next(path / name for name in MATRICES if (path / name).is_file())
            # genes are its rows
            matrix = scipy.sparse.csr_matrix(_matrix_market(file, shown(file)).T)
            note = (
                f"{where}: {matrix.shape[0]:,} cells and {matrix.shape[1]:,} genes of {file.name}"
            )
            return from_scipy(matrix, where), [note], names_in_folder(path, matrix.shape)
        if path.suffix.lower() == ".h5":
            matrix, names = _ten_x(path, where)
            return from_scipy(matrix, where), [], names
        rows = scipy.sparse.csr_matrix(_matrix_market(path, where))  # a dense one is taken, too
        note = f"{where}: the rows of the matrix are the rows of the data"
        return from_scipy(rows, where), [note], ((), ())
    except (TautError, MemoryError, OutOfMemoryError):
        raise
    except PermissionError as error:
        raise UsageError(f"{where}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged file raises whatever h5py and scipy meet
        raise DataError(
            f"{where}: is not a matrix of counts, or truncated or damaged ({shown(error)}); "
            f"write it "
            f"again"
        ) from error


def _matrix_market(path: Path, where: str) -> Any:
    size = path.stat().st_size
    check_fits(size, where, "save it as .h5ad")
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        data = bytearray()
        plain: Any = gzip.GzipFile(fileobj=stream) if packed else stream
        try:
            while piece := plain.read(2**24):
                data += piece
                check_fits(len(data), where, "save it as .h5ad")
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(
                f"{where}: is truncated or damaged ({shown(error)}); write or download it again"
            ) from error
    return _market_numbers(bytes(data), where)


def _market_numbers(data: bytes, where: str) -> Any:
    """Returns the matrix in a Matrix Market file, sparse or dense.

    The numbers are read here: scipy's own reader ends the whole process on some damaged files.
    """
    import scipy.sparse

    words = data[:200].lower().split(None, 5)[:5]
    kinds = ([b"coordinate", b"array"], [b"integer", b"real", b"double", b"pattern"], [b"general"])
    if words[:2] != [b"%%matrixmarket", b"matrix"] or any(
        word not in known for word, known in zip(words[2:], kinds, strict=False)
    ):
        raise DataError(
            f"{where}: is not a general Matrix Market matrix of integers or reals; save it as .h5ad"
        )
    start = 0
    while data[start : start + 1] in (b"%", b"\n", b"\r"):
        start = data.index(b"\n", start) + 1
    head, _, body = data[start:].partition(b"\n")
    sizes = [int(word) for word in head.split()]
    sparse = words[2] == b"coordinate"
    if len(sizes) != 2 + sparse or min(sizes) < 0:
        raise DataError(
            f"{where}: its header {shown(head.decode(errors='replace'))} is damaged; write it again"
        )
    entries, width = sizes[0] * sizes[1], 1
    if sparse:
        entries, width = sizes[2], 3 - (words[3] == b"pattern")
    if entries * 2 > len(data) or max(sizes[:2]) > max(2**24, len(data)):
        raise DataError(
            f"{where}: its header claims {head.decode(errors='replace')!r}, more than its "
            f"{len(data)} bytes can hold"
        )
    check_fits(32 * entries + 8 * sum(sizes[:2]), where, "save it as .h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns where what follows is not a number
        numbers = np.fromstring(body.decode("ascii"), sep=" ")
    if numbers.size != width * entries:
        raise DataError(
            f"{where}: holds {numbers.size} numbers where its header claims {width * entries}; "
            f"write it again"
        )
    if not sparse:
        return numbers.reshape(sizes[1], sizes[0]).T
    table = numbers.reshape(entries, width)
    places = table[:, :2].astype(np.int64) - 1
    if not ((places >= 0) & (places < sizes[:2]) & (table[:, :2] == places + 1)).all():
        raise DataError(
            f"{where}: an entry lies outside its {sizes[0]} x {sizes[1]} matrix; write it again"
        )
    values = np.ones(entries)
    if width == 3:
        values = table[:, 2]
    return scipy.sparse.coo_matrix((values, (places[:, 0], places[:, 1])), shape=sizes[:2])


def _ten_x(path: Path, where: str) -> tuple[Any, Names]:
    try:
        import h5py
    except ImportError as error:
        raise UsageError(f"{where}: needs h5py to be read; pip install 'taut[anndata]'") from error
    import scipy.sparse

    look_first(path, where)
    with h5py.File(path, "r") as file:
        group = file.get("matrix")
        if (
            group is None
            or not hasattr(group, "keys")
            or not {"data", "indices", "indptr", "shape"} <= set(group.keys())
        ):
            raise DataError(
                f"{where}: is an HDF5 file, but no matrix of 10x; "
                f"{conversion(path) or 'save it as .h5ad'} makes an array"
            )
        parts = {name: group[name] for name in ("data", "indices", "indptr", "shape")}
        for name, part in parts.items():
            claimed, held = part.size * part.dtype.itemsize, part.id.get_storage_size()
            if claimed > max(2**20, 1032 * held):
                raise DataError(
                    f"{where}, {name}: claims {claimed} bytes where the file holds {held}; "
                    f"download it again"
                )
        check_fits(
            2 * sum(part.size * part.dtype.itemsize for part in parts.values()),
            where,
            "save it as .h5ad",
        )
        arrays = {name: np.asarray(part[()]) for name, part in parts.items()}
        names = names_in_group(group, arrays["shape"][::-1].tolist(), where)
    genes, cells = (int(n) for n in arrays["shape"])
    if len(arrays["indptr"]) != cells + 1 or genes < 1:
        raise DataError(
            f"{where}: claims {cells} cells, but its indptr has {len(arrays['indptr'])} entries; "
            f"download it again"
        )
    matrix = scipy.sparse.csr_matrix((cells, genes), dtype=arrays["data"].dtype)
    matrix.data, matrix.indices, matrix.indptr = arrays["data"], arrays["indices"], arrays["indptr"]
    # a column for each cell is a row of the transposed matrix; from_scipy checks the indices
    return matrix, names
