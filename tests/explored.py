"""Runs of every kind of data, trained for a moment, and a server that shows them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from test_cells import run

from taut.explorer import server
from taut.explorer.shelf import Shelf


class Umap:
    """Stands in for the module of umap-learn, which takes half a minute to compile itself: the
    first two columns, upside down.
    """

    asked: ClassVar[dict[str, Any]] = {}

    @classmethod
    def UMAP(cls, **asked: Any) -> type[Umap]:
        cls.asked = asked
        return cls

    @staticmethod
    def fit_transform(x: np.ndarray) -> np.ndarray:
        return -x[:, :2]


KINDS = ("image", "levels", "table", "gaps", "counts", "conditioned", "hierarchy")
RNG_SEED = 0


def make(path: Path) -> dict[str, Path]:
    """Returns the folder of a run of each kind."""
    torch.set_default_dtype(torch.float32)
    rng = np.random.default_rng(RNG_SEED)
    size = rng.normal(size=120)
    weight = np.round(70 + 12 * size + rng.normal(size=120), 1)
    kind = np.where(size > 0, "large", "small <b>")
    other = np.round(3 * size + rng.normal(size=120), 2)
    rows = list(zip(weight, kind, other, strict=True))
    header = "weight,kind,a rather long_name of a column"
    whole = [f"{w},{k},{o}" for w, k, o in rows]
    holes = [f"{'' if i % 7 == 0 else w},{k},{o}" for i, (w, k, o) in enumerate(rows)]
    (path / "table.csv").write_text("\n".join([header, *whole]))
    (path / "gaps.csv").write_text("\n".join([header, *holes]))
    bits = (rng.random((120, 4, 4)) < 0.5 + 0.4 * np.sign(size)[:, None, None]).astype(np.uint8)
    np.save(path / "bits.npy", bits)
    np.save(path / "levels.npy", np.clip(np.round(2 + size[:, None] + rng.random((120, 3))), 0, 4))
    np.save(path / "counts.npy", rng.poisson(np.exp(1 + size[:, None] * [0.5, -0.5, 0, 1])))
    few = ["--latent-dim", "2", "--threads", "1", "--max-epochs", "8", "--num-samples", "20"]
    vae = ["--model", "VAE()", "--objective", "ELBO()"]
    wide = ["--encoder", "MLP(hidden=(20,))", "--decoder", "MLP(hidden=(20,))"]
    levels = ["--model", "HierarchicalVAE(levels=2, width=10)"]
    given = {
        "image": ("bits.npy", wide),
        "levels": ("levels.npy", wide),
        "table": ("table.csv", [*vae, *wide]),
        "gaps": ("gaps.csv", [*vae, *wide]),
        "counts": ("counts.npy", ["--kind", "count", *wide]),
        "conditioned": ("table.csv", ["--condition", "kind", *vae, *wide]),
        "hierarchy": ("bits.npy", levels),
    }
    for name, (file, options) in given.items():
        done = run("fit", path / file, *few, *options, "--out", path / name)
        assert done.exit_code == 0, done.stderr
    return {name: path / name for name in given}


@contextmanager
def served(paths: Sequence[Path], source: str | None = None) -> Iterator[int]:
    """Serves runs, and gives the port."""
    opened = server.open_socket(0)
    running = server.make_server(Shelf(paths, source=source))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        while not running.started:
            time.sleep(0.01)
        yield opened.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join()
        opened.close()


def ask(
    port: int, path: str, body: Any = None, raw: bytes | None = None, **headers: str
) -> tuple[int, Any]:
    """Returns the status and the JSON of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    own = {name.replace("_", "-"): value for name, value in headers.items()}
    content = raw
    if body is not None:
        content = json.dumps(body).encode()
    if content is not None:
        own = {"content-type": "application/json"} | own
    method = "GET" if content is None else "POST"
    connection.request(method, path, content, own)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    kind = answer.headers.get("content-type", "")
    return answer.status, json.loads(text) if kind == "application/json" else text
