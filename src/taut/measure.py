"""The final measurement of a run: the numbers of ``evaluation.json``, and the pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution

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
    groups = _copies(x)
    result = {"data": part, "seed": seed, **evidence.to_dict(groups)}
    result["warnings"] += _warnings(part, groups)
    baseline = independent_marginals(building.summarize(data), x, run.schema)
    estimates = evidence.summary(groups)
    if baseline is not None:  # it has no samples, hence no Monte Carlo error
        estimates["baseline"] = Estimate.of(baseline, torch.zeros_like(baseline), groups)
    result["baseline"] = estimates["baseline"].to_dict() if baseline is not None else None
    if run.schema.discrete:
        factor = -1 / (run.schema.num_elements * math.log(2))
        names = ("elbo", "log_evidence", "baseline")
        result["bits_per_dimension"] = {n: estimates[n].scaled(factor).to_dict() for n in names if n in estimates}
    storage.write_json(run.path / "evaluation.json", result)
    _draw_pictures(run, x)
    storage.write_manifest(run.path)


def _copies(x: Tensor) -> Tensor | None:
    """Returns the group of equal rows that each datum belongs to, (N,); None where all are distinct."""
    rows, groups = torch.unique(x.flatten(1), dim=0, return_inverse=True)
    return groups if len(rows) < len(x) else None


def _warnings(part: str, groups: Tensor | None) -> list[str]:
    lines = []
    if part == "train":
        lines.append("nothing was held out: these are the data of the training, and the numbers are optimistic")
    elif part == "validation":
        lines.append("no test data: the validation data chose the weights that are measured on them, which is optimistic")
    distinct = 0 if groups is None else int(groups.max()) + 1
    if groups is not None and distinct < 0.95 * len(groups):
        lines.append(
            f"only {distinct} of {len(groups)} data are distinct; copies were kept on one side of the split, so the numbers are "
            "for patterns that the training never saw, and their test-set error counts copies as one"
        )
    return lines


def _draw_pictures(run: Run, x: Tensor) -> None:
    """Draws samples and reconstructions: for each, what the model says is typical (mean) and what it draws."""
    if not run.schema.is_image:
        return
    low, high, model = run.schema.low, run.schema.high, run.model
    with torch.no_grad(), stream(run.config.training.seed, "pictures"):
        device = next(model.parameters()).device
        z = model.prior().sample(torch.Size((40,)))
        decoded = model.decode(z[None])
        sheets = [pictures.grid(t[0], low, high, 10) for t in (*_mean(decoded), decoded.sample())]
        storage.write_bytes(run.path / "samples.png", pictures.to_png(sheets))
        data = x[:10].to(device=device, dtype=torch.get_default_dtype())
        posterior = model.encode(data)
        decoded = model.decode(torch.stack(_mean(posterior) or [posterior.sample()]))
        rows = [data, *(t[0] for t in (*_mean(decoded), decoded.sample()))]
        sheets = [pictures.grid(t, low, high, 10) for t in rows]
        storage.write_bytes(run.path / "reconstructions.png", pictures.to_png(sheets))


def _mean(distribution: Distribution) -> list[Tensor]:
    """Returns the mean of a distribution, or nothing where it has none (a flow, say)."""
    try:
        return [distribution.mean]
    except NotImplementedError:
        return []
