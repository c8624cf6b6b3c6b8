"""Files as they are named: do they exist, and are they files?"""

from __future__ import annotations

import difflib
import stat
from pathlib import Path

from taut.system.errors import DataError, UsageError, shown

__all__ = ["SUPPORTED", "regular_size"]

SUPPORTED = (
    ".csv, .tsv (also .gz, .zip, .bz2, .xz), .parquet, .feather, .jsonl, .xlsx, .npy, .npz, .h5ad, "
    "10x .h5, .mtx, idx files"
    " (-ubyte, .idx, also .gz), a folder of images or of Parquet files, digits, openml:NAME"
)


def regular_size(path: Path, folder_too: bool = False) -> int:
    """Returns the bytes of a regular file, 0 of a folder where one may be given.

    Raises:
        UsageError: there is no such file, or it is not a regular one.
        DataError: it is a folder.
    """
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
        names = [p.name for p in path.parent.iterdir()]
    except (OSError, ValueError):
        return ", and its folder does not exist either"
    if path.parent == Path():
        names.append("digits")
    nearest = difflib.get_close_matches(path.name, names, n=1)
    if nearest:
        return f"; did you mean {shown(path.parent / nearest[0])}?"
    return f"; supported: {SUPPORTED}"
