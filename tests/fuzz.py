"""Damaged files, seeded: every reader and every file of a run folder, ``python tests/fuzz.py
[NUMBER] [NAME ...]``.

Each input is a valid file with bytes flipped, cut off, spliced, repeated or blanked. taut may read
it or refuse it in a line (a ``TautError``); anything else is a fault: another exception, more than
``SECONDS`` of work, more than ``MEMORY`` of memory. A reader runs in a process of its own, whose
memory the system limits. The last line is ``N inputs, 0 faults``; a fault exits with 1.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import multiprocessing
import os
import queue
import resource
import shutil
import signal
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

NUMBER = 300  # inputs a reader
SECONDS = 10  # of work for one input
PATIENCE = 120  # seconds for one on a busy machine
MEMORY = 2**30  # beyond what the process has when it starts
SEED = 1
ROWS = 40

Make = Callable[[Path], Path]  # writes a valid file or folder into a folder and returns it


def _table() -> Any:
    import pandas as pd

    r = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": r.normal(size=ROWS).round(3),
            "k": r.choice(list("abc"), ROWS),
            "n": r.poisson(3, ROWS),
            "d": pd.date_range("2021-01-01", periods=ROWS).strftime("%Y-%m-%d"),
        }
    )


def _csv(folder: Path) -> Path:
    _table().to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


def _gzipped(folder: Path) -> Path:
    (folder / "t.csv.gz").write_bytes(gzip.compress(_csv(folder).read_bytes()))
    return folder / "t.csv.gz"


def _parquet(folder: Path) -> Path:
    _table().to_parquet(folder / "t.parquet", index=False, row_group_size=15)
    return folder / "t.parquet"


def _parts(folder: Path) -> Path:
    (folder / "parts").mkdir()
    for i in range(2):
        _table().to_parquet(folder / "parts" / f"{i}.parquet", index=False)
    return folder / "parts"


def _json_lines(folder: Path) -> Path:
    _table().to_json(folder / "t.jsonl", orient="records", lines=True)
    return folder / "t.jsonl"


def _feather(folder: Path) -> Path:
    _table().to_feather(folder / "t.feather")
    return folder / "t.feather"


def _packed(folder: Path, suffix: str, pack: Callable[[bytes], bytes]) -> Path:
    path = folder / f"t.csv.{suffix}"
    path.write_bytes(pack(_csv(folder).read_bytes()))
    return path


def _zip(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", content)
    return stream.getvalue()


def _excel(folder: Path) -> Path:
    _table().to_excel(folder / "t.xlsx", index=False)
    return folder / "t.xlsx"


def _counts() -> Any:
    from scipy import sparse

    counts = np.random.default_rng(0).poisson(1.0, (ROWS, 8))
    return sparse.csc_matrix(counts.T)  # genes x cells, as 10x and Matrix Market have them


def _ten_x(folder: Path) -> Path:
    import h5py

    matrix = _counts()
    with h5py.File(folder / "x.h5", "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = matrix.shape
    return folder / "x.h5"


def _market(folder: Path) -> Path:
    from scipy import io as market

    market.mmwrite(folder / "x.mtx", _counts().T)
    return folder / "x.mtx"


def _npy(folder: Path) -> Path:
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32))
    return folder / "x.npy"


def _npz(folder: Path) -> Path:
    np.savez_compressed(folder / "x.npz", x=np.random.default_rng(0).normal(size=(ROWS, 4)))
    return folder / "x.npz"


def _idx(folder: Path) -> Path:
    x = np.random.default_rng(0).integers(0, 256, (ROWS, 5, 5), dtype=np.uint8)
    (folder / "x-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, *x.shape) + x.tobytes())
    return folder / "x-idx3-ubyte"


def _idx_gz(folder: Path) -> Path:
    (folder / "x-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(folder).read_bytes()))
    return folder / "x-idx3-ubyte.gz"


def _images(folder: Path, kind: str) -> Path:
    from PIL import Image

    images = folder / kind
    images.mkdir()
    for i in range(12):
        grey = np.random.default_rng(i).integers(0, 256, (6, 6), dtype=np.uint8)
        Image.fromarray(grey).save(images / f"{i:02}.{kind}")
    return images


def _png(folder: Path) -> Path:
    return _images(folder, "png")


def _tiff(folder: Path) -> Path:
    return _images(folder, "tiff")


def _jpeg(folder: Path) -> Path:
    return _images(folder, "jpeg")


def _h5ad(folder: Path) -> Path:
    import anndata
    from scipy import sparse

    counts = np.random.default_rng(0).poisson(1.0, (ROWS, 8)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anndata.AnnData(sparse.csr_matrix(counts)).write_h5ad(folder / "x.h5ad")
    return folder / "x.h5ad"


READERS: dict[str, Make] = {
    "csv": _csv, "csv.gz": _gzipped, "parquet": _parquet, "parquet folder": _parts,
    "jsonl": _json_lines, "feather": _feather, "npy": _npy, "npz": _npz, "idx": _idx,
    "csv.zip": partial(_packed, suffix="zip", pack=_zip),
    "csv.bz2": partial(_packed, suffix="bz2", pack=bz2.compress),
    "csv.xz": partial(_packed, suffix="xz", pack=lzma.compress),
    "xlsx": _excel, "10x h5": _ten_x, "mtx": _market,
    "idx.gz": _idx_gz, "png": _png, "tiff": _tiff, "jpeg": _jpeg, "h5ad": _h5ad,
}  # fmt: skip


def _run_folder(folder: Path) -> Path:
    """Returns a finished run folder with an audit."""
    import taut
    from taut.evidence.audit import Effort
    from taut.runs.audit import audit_run

    x = np.random.default_rng(0).normal(size=(ROWS, 3))
    small = "MLP(hidden=(4,))"
    kwargs = {"encoder": small, "decoder": small, "latent_dim": 2, "max_epochs": 1}
    effort = Effort(20, 4, 4, 3, simulated=4, naive=4, train=20, samples=20)
    run = taut.fit(x, out=folder / "run", num_samples=10, **kwargs)
    audit_run(run, x, num_data=4, effort=effort)
    return folder / "run"


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns bytes with one kind of damage."""
    size, kind = len(data), int(rng.integers(6))
    if not size:
        return rng.bytes(8)
    a, b = sorted(int(i) for i in rng.integers(0, size + 1, 2))
    if kind == 0:
        flipped = bytearray(data)
        for place in rng.integers(0, size, int(rng.integers(1, 9))):
            flipped[place] ^= 1 << int(rng.integers(8))
        return bytes(flipped)
    if kind == 1:
        return data[:a]
    if kind == 2:  # a splice: a piece of it stands elsewhere
        return data[:b] + data[a : min(b, a + 64)] + data[b:]
    if kind == 3:
        return data[:a] + rng.bytes(min(b - a, 16)) + data[a + min(b - a, 16) :]
    if kind == 4:
        return data[:a] + bytes(min(b - a, 32)) + data[a + min(b - a, 32) :]
    return data[:a] + data[a + min(b - a, 8) :]


def _read(path: Path) -> None:
    from taut.data import prepare

    prepare(path)


def _use(path: Path) -> None:
    """What people do with a run folder: load it, score with it, render its report."""
    import taut
    from taut.runs.audit import write_report

    run = taut.load(path)
    taut.importance(run.model, np_tensor(), 5)
    run.evaluation()
    run.history()
    write_report(run)


def np_tensor() -> Any:
    import torch

    return torch.zeros(2, 3)


class _TooLongError(Exception):
    pass


def _alarm(number: int, frame: object) -> None:
    raise _TooLongError


def attack(make: Make, use: Callable[[Path], None], number: int, faults: Any, current: Any) -> None:
    """Puts to ``faults`` what went wrong for each of a number of damaged copies, and at
    last None.
    """
    from taut.system.errors import TautError

    os.close(2)  # what libraries write of a damaged file
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _alarm)
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory(prefix="taut-fuzz-") as name:
        whole = make(Path(name))
        use(whole)
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, virtual + MEMORY))
        files = sorted(p for p in whole.rglob("*") if p.is_file()) or [whole]
        for i in range(number):
            copy = Path(name) / "copy" / whole.name
            shutil.rmtree(copy.parent, ignore_errors=True)
            copy.parent.mkdir()
            (shutil.copytree if whole.is_dir() else shutil.copy)(whole, copy)
            victim = files[i % len(files)]
            target = copy / victim.relative_to(whole) if whole.is_dir() else copy
            target.write_bytes(damaged(victim.read_bytes(), rng))
            current.value = i
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                use(copy)
            except TautError:
                pass
            except BaseException as error:
                line = str(error).splitlines()[0][:120] if str(error) else ""
                faults.put(f"input {i} ({target.name}): {type(error).__name__}: {line}")
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - now
        if peak > MEMORY:
            faults.put(f"memory: {peak / 2**20:.0f} MiB")
    faults.put(None)


def fuzz(make: Make, use: Callable[[Path], None], number: int) -> list[str]:
    """Returns the faults that a number of damaged inputs found, from a process of its own."""
    context = multiprocessing.get_context("fork")
    faults, current = context.Queue(), context.Value("i", -1)
    process = context.Process(target=attack, args=(make, use, number, faults, current))
    process.start()
    found: list[str] = []
    before, waited = None, 0
    while True:
        try:
            line = faults.get(timeout=1)
        except queue.Empty:
            waited = waited + 1 if current.value == before else 0
            before = current.value
            if process.is_alive() and waited < PATIENCE:
                continue
            # No signal reaches Python in a library that hangs.
            found.append(f"input {before}: hangs, or ended with {process.exitcode}")
            process.kill()
            break
        if line is None:
            break
        found.append(line)
    process.join()
    return found


def main() -> None:
    words = sys.argv[1:]
    number = int(words.pop(0)) if words and words[0].isdigit() else NUMBER
    import taut  # noqa: F401 (before the fork, so that each process has it)

    everything = [(name, make, _read) for name, make in READERS.items()]
    everything.append(("run folder", _run_folder, _use))
    chosen = [row for row in everything if not words or any(w in row[0] for w in words)]
    total = 0
    for name, make, use in chosen:
        found = fuzz(make, use, number)
        total += len(found)
        print(
            f"{name:16} {number} inputs, {len(found)} faults", *found[:10], sep="\n    ", flush=True
        )
    print(f"{number * len(chosen)} inputs, {total} faults")
    sys.exit(total > 0)


if __name__ == "__main__":
    main()
