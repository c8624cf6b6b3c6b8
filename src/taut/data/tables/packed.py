"""The text of a file: unpacked, and as UTF-8."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import cast

from taut.system.errors import DataError, UsageError, shown
from taut.system.memory import check_fits

__all__ = ["unpacked", "utf8"]

BOMS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
MAX_BYTES = 16 * 2**30


def unpacked(path: Path, where: str) -> bytes:
    """Returns what a file holds, unpacked; how it is packed is known by its first bytes."""
    with path.open("rb") as stream:
        magic = stream.read(6)
        stream.seek(0)
        try:
            if magic.startswith(b"\x1f\x8b"):
                return _whole(gzip.GzipFile(fileobj=stream), where)
            if magic.startswith(b"BZh"):
                return _whole(bz2.BZ2File(stream), where)
            if magic.startswith(b"\xfd7zXZ\0"):
                return _whole(lzma.LZMAFile(stream), where)
            if magic.startswith(b"PK\x03\x04"):
                return _from_zip(stream, where)
        except (
            gzip.BadGzipFile,
            zlib.error,
            EOFError,
            lzma.LZMAError,
            zipfile.BadZipFile,
            RuntimeError,
            ValueError,
        ) as error:
            raise DataError(
                f"{where}: is truncated or damaged ({shown(error)}); write or download it again"
            ) from error
        except OSError as error:
            # a damaged archive asks to seek before its start
            if error.errno is not None and not magic.startswith(b"PK"):
                raise
            raise DataError(
                f"{where}: is truncated or damaged ({shown(error)}); write or download it again"
            ) from error
        return stream.read()


def _from_zip(stream: io.BufferedReader, where: str) -> bytes:
    with zipfile.ZipFile(stream) as archive:
        names = [
            name
            for name in archive.namelist()
            if not name.endswith("/") and not name.startswith("__MACOSX/")
        ]
        if len(names) != 1:
            held = ", ".join(shown(name) for name in names[:5]) or "nothing"
            raise DataError(
                f"{where}: holds {len(names)} files ({held}); give an archive of one table, or "
                f"unpack it"
            )
        with archive.open(names[0]) as member:
            return _whole(cast(io.BufferedIOBase, member), where)


def _whole(stream: io.BufferedIOBase, where: str) -> bytes:
    """Reads a piece at a time: a few bytes may unpack to more than there is memory."""
    data = bytearray()
    with stream:
        while piece := stream.read(2**24):
            data += piece
            if len(data) > MAX_BYTES:
                raise DataError(
                    f"{where}: unpacks to more than 16 GiB; convert it to Parquet if that is meant"
                )
            check_fits(
                len(data), where, "convert it to Parquet, which can stay on the disk (--stream)"
            )
    return bytes(data)


def utf8(data: bytes, encoding: str | None, where: str) -> bytes:
    """Returns the text as UTF-8 without a byte order mark."""
    encoding = encoding or next(
        (name for mark, name in BOMS.items() if data.startswith(mark)), None
    )
    try:
        if encoding is not None:
            data = data.decode(encoding).encode()
    except LookupError as error:
        raise UsageError(
            f"--encoding {shown(encoding)} is not known; give one such as utf-8, latin-1 or utf-16"
        ) from error
    except UnicodeError as error:
        raise DataError(
            f"{where}: is not {shown(encoding)} ({shown(error)}); omit --encoding, or give another"
        ) from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    if (at := data.find(b"\0")) >= 0:
        sample = data[: 2**10]
        remedy = "it is damaged or not text: write it again as text"
        if at == 0 or sample.count(b"\0") > len(sample) / 4:
            remedy = f"--encoding utf-16-{'le' if at else 'be'} if it is that"
        raise DataError(f"{where}: line {_line(data, at)}: holds a NUL byte; {remedy}")
    try:
        if not data.isascii():
            data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: {_undecodable(data, error.start)}") from error
    return data


def _undecodable(data: bytes, at: int) -> str:
    # Bytes 0x80 to 0x9f are quotes and letters in Windows' encoding, and in latin-1 nothing that
    # one would type.
    likely = "cp1252" if any(0x80 <= byte < 0xA0 for byte in data[at : at + 2**20]) else "latin-1"
    before, after = data[max(0, at - 20) : at], data[at : at + 20]
    word = (before.splitlines() or [b""])[-1] + after.splitlines()[0]
    text = shown(word.decode(likely, "replace"))
    return (
        f"is not UTF-8: line {_line(data, at)}, byte {data[at]:#x}; --encoding {likely} if it "
        f"should read {text!r} there"
    )


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1
