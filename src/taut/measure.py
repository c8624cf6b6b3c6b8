"""The final measurement of a run: the numbers of ``evaluation.json``, and the pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from taut import build as building
from taut import pictures
from taut.data import Dataset, Rows, hashes_of
from taut.errors import DataError
from taut.evidence import Estimate
from taut.evidence.baseline import independent_marginals
from taut.evidence.results import bits_per_dimension
from taut.evidence.rows import RowEvidence
from taut.model import VAE
from taut.seeds import stream

__all__ = ["copies", "draw_pictures", "measured_part", "numbers"]


def measured_part(data: Dataset) -> str:
    """Returns the part of the data that the model is measured on."""
    part = "test" if len(data.test) else "validation" if len(data.validation) else "train"
    if part == "train" and data.binarize == "dynamic":
        raise DataError("nothing is held out to measure the model on: give --test FILE or a test fraction above 0")
    return part


def numbers(rows: RowEvidence, data: Dataset) -> dict[str, Any]:
    """Returns what is known of a model from the evidence of the part of the data it is measured on, as plain values."""
    part, schema = measured_part(data), data.schema
    x = getattr(data, part)
    groups = copies(x)
    result = {"data": part, **rows.to_dict(groups)}
    result["warnings"] += _warnings(part, groups)
    baseline = independent_marginals(building.summarize(data), x, schema)
    # It has no samples, hence no Monte Carlo error.
    known = None if baseline is None else Estimate.of(baseline, torch.zeros_like(baseline), groups)
    result["baseline"] = None if known is None else known.to_dict()
    if schema.kind in ("binary", "levels"):
        names = [n for n in ("elbo", "log_evidence", "baseline") if result[n] is not None]
        result["bits_per_dimension"] = {n: bits_per_dimension(result[n], schema.num_elements) for n in names}
    return result


def copies(x: Rows) -> Tensor | None:
    """Returns the group of equal rows that each datum belongs to, (N,); None where all are distinct."""
    rows, groups = np.unique(hashes_of(x), return_inverse=True)
    return torch.from_numpy(groups) if len(rows) < len(x) else None


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


def draw_pictures(model: VAE, data: Dataset, seed: int) -> dict[str, bytes]:
    """Returns PNG files by name: samples and reconstructions; for each, what is typical (mean) and what the model draws."""
    if not data.schema.is_image:
        return {}
    low, high, x = data.schema.low, data.schema.high, getattr(data, measured_part(data))
    count = min(10, len(x))
    x = x[torch.arange(count) * len(x) // count]  # spread evenly: the rows of a folder are sorted by class
    with torch.no_grad(), stream(seed, "pictures"):
        decoded = model.decode(model.prior().sample(torch.Size((1, 40))))
        samples = [pictures.grid(t[0], low, high, 10) for t in (*_mean(decoded), decoded.sample())]
        shown = x.to(device=next(model.parameters()).device, dtype=torch.get_default_dtype())
        posterior = model.encode(shown)
        decoded = model.decode(torch.stack(_mean(posterior) or [posterior.sample()]))
        rows = [pictures.grid(t, low, high, 10) for t in (shown, *(t[0] for t in (*_mean(decoded), decoded.sample())))]
    return {"samples.png": pictures.to_png(samples), "reconstructions.png": pictures.to_png(rows)}


def _mean(distribution: Distribution) -> list[Tensor]:
    """Returns the mean of a distribution, or nothing where it has none (a flow, say)."""
    try:
        return [distribution.mean]
    except NotImplementedError:
        return []
