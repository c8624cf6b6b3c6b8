"""Generators of synthetic rows by other libraries, for ``benchmarks/synthetic.py --peers``.

A generator takes the training rows of a table and returns a function of how many rows and a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

STATES, BINS, EPOCHS, BATCH, RATE, PATIENCE = 64, 100, 200, 256, 0.01, 10


def libcirkit(train: np.ndarray, levels: list[str]) -> Callable[[int, int], np.ndarray]:
    """Returns a hidden Chow-Liu tree of libcirkit with 64 states, trained by Adam until a tenth of
    the rows is no better for ten passes.

    Its leaves are categories: numbers of more than 100 values are put into as many cells of equal
    count, and a drawn cell is one of the training values in it. One kind of leaf for all columns,
    since a kind for each ends in an IndexError with a Chow-Liu tree (0.3.1).
    """
    from cirkit.backend.torch.queries import SamplingQuery
    from cirkit.pipeline import PipelineContext
    from cirkit.templates.data_modalities import tabular_data
    from cirkit.templates.utils import Parameterization

    torch.manual_seed(0)
    codes = np.empty(train.shape, int)
    for c, column in enumerate(train.T):
        values, codes[:, c] = np.unique(column, return_inverse=True)
        if len(values) > BINS:
            edges = np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1]))
            cells = np.searchsorted(edges, column, side="right")
            codes[:, c] = np.unique(cells, return_inverse=True)[1]  # none of them is empty
    x = torch.as_tensor(codes)[torch.randperm(len(codes))]
    held, x = x[: len(x) // 10], x[len(x) // 10 :]
    circuit = tabular_data(
        "chow-liu-tree",
        data=x,
        input_layers={"name": "categorical", "args": {"num_categories": int(codes.max()) + 1}},
        num_input_units=STATES,
        sum_product_layer="cp",
        num_sum_units=STATES,
        sum_weight_param=Parameterization(activation="softmax", initialization="normal"),
    )
    context = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True)
    model: Any = context.compile(circuit)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    best, kept, worse = -np.inf, model.state_dict(), 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = -model(x[rows]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            reached = float(model(held).mean())
        worse = 0 if reached > best else worse + 1
        if reached > best:
            best, kept = reached, {k: v.clone() for k, v in model.state_dict().items()}
        if worse >= PATIENCE:
            break
    model.load_state_dict(kept)

    def draw(count: int, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        drawn = SamplingQuery(model)(count)[0].numpy().astype(int)
        made = np.empty((count, train.shape[1]))
        for c, column in enumerate(train.T):
            order = np.argsort(codes[:, c], kind="stable")
            ends = np.append(0, np.bincount(codes[:, c], minlength=codes.max() + 1).cumsum())
            # a category that the column has not gets a value of the nearest that it has
            cell = np.minimum(drawn[:, c], codes[:, c].max())
            place = ends[cell] + rng.integers(1 << 30, size=count) % (ends[cell + 1] - ends[cell])
            made[:, c] = column[order[place]]
        return made

    return draw


def tvae(train: np.ndarray, levels: list[str]) -> Callable[[int, int], np.ndarray]:
    """Returns ctgan's TVAE with its own settings; whole numbers are given as such, so that it
    rounds what it makes.
    """
    import pandas as pd
    from ctgan import TVAE

    names = [f"c{i}" for i in range(train.shape[1])]
    discrete = [n for n, kind in zip(names, levels, strict=True) if kind in ("cat", "ordinal")]
    frame = pd.DataFrame(train, columns=names)
    whole = [
        n for n, column in zip(names, train.T, strict=True) if (column == column.round()).all()
    ]
    frame[whole] = frame[whole].astype(int)
    frame[discrete] = frame[discrete].astype(str)
    model = TVAE(enable_gpu=False)
    torch.manual_seed(0)
    model.fit(frame, discrete)

    def draw(count: int, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (what ctgan draws from)
        return np.asarray(model.sample(count).astype(float).to_numpy())

    return draw


PEERS = {"libcirkit, hidden Chow-Liu tree": libcirkit, "ctgan, TVAE": tvae}
