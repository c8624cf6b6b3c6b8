"""The final measurement of a run: the numbers of ``evaluation.json``, and the pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taut import build as building
from taut import pictures, storage
from taut.data import Dataset
from taut.errors import DataError
from taut.evidence import Estimate, Evidence, importance_blocks
from taut.evidence.baseline import independent_marginals
from taut.seeds import stream

if TYPE_CHECKING:
    from taut.run import Run

__all__ = ["evaluate", "measured_part"]


def measured_part(data: Dataset) -> str:
    """Returns the part of the data that the model is measured on."""
    part = "test" if len(data.test) else "validation" if len(data.validation) else "train"
    if part == "train" and data.binarize == "dynamic":
        raise DataError("nothing is held out to measure the model on: give --test FILE or a test fraction above 0")
    return part


def evaluate(run: Run, data: Dataset) -> Iterator[Evidence]:
    """Measures the trained model on held-out data, block by block, and finishes the folder."""
    part = measured_part(data)
    x = getattr(data, part)
    seed = run.config.training.seed
    blocks = []
    for block in importance_blocks(run.model, x, run.config.evaluation.num_samples, seed=seed):
        blocks.append(block)
        yield block
    evidence = Evidence.concatenate(blocks)
    result = {"data": part, "seed": seed, **evidence.to_dict()}
    baseline = independent_marginals(building.summarize(data), x, run.schema)
    marginals = None if baseline is None else Estimate.of(baseline, torch.zeros_like(baseline))  # no samples, no such error
    result["baseline"] = None if marginals is None else marginals.to_dict()
    if run.schema.discrete:
        factor = -1 / (run.schema.num_elements * math.log(2))
        estimates = evidence.summary() | ({} if marginals is None else {"baseline": marginals})
        names = ("elbo", "log_evidence", "baseline")
        result["bits_per_dimension"] = {n: estimates[n].scaled(factor).to_dict() for n in names if n in estimates}
    storage.write_json(run.path / "evaluation.json", result)
    _draw_pictures(run, x)
    storage.write_manifest(run.path)


def _draw_pictures(run: Run, x: Tensor) -> None:
    """Draws samples and reconstructions: for each, what the model says is typical (mean) and what it draws."""
    if not run.schema.is_image:
        return
    low, high, model = run.schema.low, run.schema.high, run.model
    with torch.no_grad(), stream(run.config.training.seed, "pictures"):
        device = next(model.parameters()).device
        z = model.prior().sample(torch.Size((40,)))
        decoded = model.decode(z[None])
        sheets = [pictures.grid(t[0], low, high, 10) for t in (decoded.mean, decoded.sample())]
        storage.write_bytes(run.path / "samples.png", pictures.to_png(sheets))
        data = x[:10].to(device=device, dtype=torch.get_default_dtype())
        decoded = model.decode(model.encode(data).mean[None])
        rows = [data, decoded.mean[0], decoded.sample()[0]]
        sheets = [pictures.grid(t, low, high, 10) for t in rows]
        storage.write_bytes(run.path / "reconstructions.png", pictures.to_png(sheets))
