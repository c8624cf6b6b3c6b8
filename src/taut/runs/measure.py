"""The final measurement of a run: the numbers of ``evaluation.json``, and the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from taut.build.config import ModelConfig
from taut.build.model import build
from taut.data import Dataset, Rows, hashes_of
from taut.evidence import Estimate, Evidence, doctor, importance_blocks, settle
from taut.evidence.baseline import independent_marginals
from taut.evidence.levels_section import rates_of_groups
from taut.evidence.results import bits_per_dimension, observed_elements
from taut.evidence.rows import RowEvidence
from taut.evidence.samples import sample_quality
from taut.model import Model
from taut.models.exact import ExactModel
from taut.models.hierarchical import HierarchicalVAE
from taut.models.stepwise import StepwiseModel
from taut.runs.folder import Stored
from taut.runs.gain import before_of, gain_of_prior
from taut.runs.making import totals_of
from taut.system import locks, parallel, storage
from taut.system.errors import DataError
from taut.system.seeds import generator, stream
from taut.training import checkpoint
from taut.use import pictures
from taut.use.blocks import Block, blocks_of, device_of

__all__ = [
    "EXACT_FOLDER",
    "copies",
    "draw_pictures",
    "evaluate",
    "evidence_of",
    "exact_of_run",
    "log_prob_of",
    "measured_part",
    "numbers",
]

# rows of the final measurement that get a better method than importance sampling, at most
CLIMBING = 100
EXACT_FOLDER = "exact"  # of a run folder: see taut.runs.candidates
EXACT_ROWS = 256
SAMPLES = 1000  # by which a model without a density is judged, at most


def evaluate(run: Stored, data: Dataset) -> Iterator[Evidence]:
    """Measures the trained model on held-out data, yielding each block of them, and finishes the
    folder.
    """
    seed = run.config.training.seed
    x = getattr(data, measured_part(data))
    blocks: list[Evidence] = []
    if run.model.no_density:
        parallel.on_main(lambda: _evaluate_samples(run, data))
        return
    try:
        for block in importance_blocks(run.model, x, run.config.evaluation.num_samples, seed=seed):
            blocks.append(block)
            yield block
        rows, levels = _settled(run.model, x, blocks, seed), {}
        if isinstance(run.model, HierarchicalVAE) and run.model.levels > 1:
            groups = copies(x, data.divided)
            levels = {"levels": rates_of_groups(run.model, x, groups=groups, seed=seed)}

        def write() -> None:
            given_total = totals_of(run.model) is not None
            found = numbers(rows, data, given_total=given_total)
            found |= levels
            if (exact := exact_of_run(run)) is not None:
                found |= _against(exact, run.info["exact"]["model"], rows, x, data)
            if (before := before_of(run)) is not None:
                both = rows, evidence_of(before, x, run.config.evaluation.num_samples, seed)
                groups = copies(x, data.divided)
                found["gain_of_prior"] = gain_of_prior(run.model, before, x, both, groups, seed)
            ended = run.info.get("ended")
            found["unfinished"] = doctor.unfinished(
                run.history(), ended, run.config.training, run.config.model.model
            )
            _finish(run, data, found)

        parallel.on_main(write)
    finally:
        locks.release(run.path)


def _evaluate_samples(run: Stored, data: Dataset) -> None:
    """Measures a model that has no density by its samples, and finishes the folder."""
    part, seed = measured_part(data), run.config.training.seed
    train, x = (_some(rows, seed) for rows in (data.train, getattr(data, part)))
    found: dict[str, Any] = {"data": part, "num_data": len(x), "warnings": [], "samples": None}
    try:
        found["samples"] = sample_quality(run.model, train, x, num_data=len(x), seed=seed)
    except ValueError as error:  # too few rows
        found["warnings"].append(str(error))
    try:
        _finish(run, data, found)
    finally:
        locks.release(run.path)


def _some(rows: Rows, seed: int) -> Tensor:
    """Returns at most so many rows, drawn: those of a folder are sorted by class."""
    index = torch.randperm(len(rows), generator=generator(seed, "samples"))[:SAMPLES]
    return rows[index].to(torch.get_default_dtype())


def _finish(run: Stored, data: Dataset, found: dict[str, Any]) -> None:
    """Writes what was measured, the pictures, and last the manifest."""
    seed = run.config.training.seed
    storage.write_json(run.path / "evaluation.json", {"seed": seed, **found})
    # Of a run that was extended these are of other weights.
    for name in ("audit.json", "gradients.json", "report.html", "map.png", "traversal.png"):
        (run.path / name).unlink(missing_ok=True)
    for name, content in draw_pictures(run.model, data, seed).items():
        storage.write_bytes(run.path / name, content)
    storage.write_manifest(run.path)


def evidence_of(model: Model, x: Rows, num_samples: int, seed: int) -> RowEvidence:
    """Returns what is known of log p(x) of rows, as after a training."""
    return _settled(model, x, list(importance_blocks(model, x, num_samples, seed=seed)), seed)


def _settled(model: Model, x: Rows, blocks: list[Evidence], seed: int) -> RowEvidence:
    """Returns quick numbers: few rows move to a better proposal, and an audit does the rest."""
    first = Evidence.concatenate(blocks)
    return settle(model, x, first, seed=seed, climbing=CLIMBING, annealed=0)


def _against(
    exact: ExactModel, name: str, rows: RowEvidence, x: Rows, data: Dataset
) -> dict[str, Any]:
    """Returns how the model compares with an exact one, row by row."""
    groups, known = copies(x, data.divided), log_prob_of(exact, x)
    own = Estimate.of(known, torch.zeros_like(known), groups)
    gain = Estimate.of(rows.log_evidence - known, rows.log_evidence_error, groups)
    return {
        "exact_baseline": {"model": name, **own.to_dict()},
        "gain_over_exact": gain.to_dict(),
    }


def measured_part(data: Dataset) -> str:
    """Returns the part of the data that the model is measured on."""
    part = next((p for p in ("test", "validation") if len(getattr(data, p))), "train")
    if part == "train" and data.binarize == "dynamic":
        raise DataError(
            "nothing is held out to measure the model on: give --test FILE or a test fraction "
            "above 0"
        )
    return part


def numbers(rows: RowEvidence, data: Dataset, *, given_total: bool = False) -> dict[str, Any]:
    """Returns what is known of a model from the evidence of the part of the data it is measured on,
    as plain values.

    Args:
        rows: The evidence.
        data: The data.
        given_total: Whether the model is of a row of counts given its total.
    """
    part, schema = measured_part(data), data.schema
    x = getattr(data, part)
    groups = copies(x, data.divided)
    result = {"data": part, **rows.to_dict(groups)}
    result["warnings"] += _warnings(part, x, data.divided, groups)
    baseline = independent_marginals(data, x, given_total=given_total)
    result["baseline"] = None
    if baseline is not None:
        # It has no samples, hence no Monte Carlo error. The gain is paired, row by row.
        known = Estimate.of(baseline, torch.zeros_like(baseline), groups)
        result["baseline"] = known.to_dict()
        gain = Estimate.of(rows.log_evidence - baseline, rows.log_evidence_error, groups)
        result["gain"] = gain.to_dict()
    if schema.kind in ("binary", "levels"):
        names = [n for n in ("elbo", "log_evidence", "baseline") if result[n] is not None]
        elements = observed_elements(x)
        result["bits_per_dimension"] = {n: bits_per_dimension(result[n], elements) for n in names}
    return result


def exact_of_run(run: Stored) -> ExactModel | None:
    """Returns the exact model that was fitted next to that of a run, if there is one."""
    found = run.info.get("exact")
    if not found or run.config.model.model == found["model"]:
        return None
    if not (run.path / EXACT_FOLDER).exists():
        return None
    _, state = checkpoint.load_last(run.path / EXACT_FOLDER)
    model = build(ModelConfig(found["model"]), run.schema)
    assert isinstance(model, ExactModel)
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.tensors.items()})
    return model.eval()


def log_prob_of(model: ExactModel, x: Rows) -> Tensor:
    """Returns log p(x) of rows under an exact model, (N,), float64."""

    def known(block: Block) -> Tensor:
        return model.log_prob(block.x).double().cpu()

    return torch.cat(list(blocks_of(model, x, EXACT_ROWS, known)))


def copies(x: Rows, divided: np.ndarray) -> Tensor | None:
    """Returns the observation that each row belongs to, (N,); None where each is one of its own.

    Copies that were kept in one part are one observation: the split drew them together. Rows whose
    copies were divided among the parts were drawn one by one.

    Args:
        x: The data.
        divided: Hashes of the rows that were divided.
    """
    hashes = hashes_of(x)
    rows, groups = np.unique(hashes, return_inverse=True)
    single = np.isin(hashes, divided)
    groups[single] = len(rows) + np.arange(single.sum())
    rows, groups = np.unique(groups, return_inverse=True)
    if len(rows) == len(x):
        return None
    return torch.from_numpy(groups)


def _warnings(part: str, x: Rows, divided: np.ndarray, groups: Tensor | None) -> list[str]:
    lines = []
    if part == "train":
        lines.append(
            "nothing was held out: these are the data of the training, and the numbers are "
            "optimistic"
        )
    elif part == "validation":
        lines.append(
            "no test data: the validation data chose the weights that are measured on them, which "
            "is optimistic"
        )
    there = int(np.isin(hashes_of(x), divided).sum()) if len(divided) else 0
    if there and part != "train":
        lines.append(
            f"{there} of {len(x)} rows repeat rows of the training, which repeat by their nature: "
            "the numbers are for new rows of the same population, of which each counts as one"
        )
    distinct = len(x)
    if groups is not None:
        distinct = int(groups.max()) + 1
    if distinct < 0.95 * len(x):
        lines.append(
            f"only {distinct} of {len(x)} rows are observations of their own; the other copies "
            "were kept on one side of the split, so the numbers are for patterns that the "
            "training never saw, and their test-set error counts copies as one"
        )
    return lines


def draw_pictures(model: Model, data: Dataset, seed: int) -> dict[str, bytes]:
    """Returns PNG files by name: samples and reconstructions.

    For each, what is typical (mean) and what the model draws.
    """
    if not data.schema.is_image:
        return {}
    low, high, x = data.schema.low, data.schema.high, getattr(data, measured_part(data))
    count = min(10, len(x))
    # spread evenly: the rows of a folder are sorted by class
    x = x[torch.arange(count) * len(x) // count]
    if isinstance(model, StepwiseModel) or model.no_density:
        with torch.no_grad(), stream(seed, "pictures"):
            grids = [pictures.grid(each, low, high, 10) for each in (x, model.sample(40).cpu())]
        names = [f"real: {measured_part(data)} images", "samples: draws of x"]
        return {"samples.png": pictures.to_png(grids, names)}
    with torch.no_grad(), stream(seed, "pictures"):
        decoded = model.decode(model.latent_prior().sample(torch.Size((1, 40))))
        mean = _mean(decoded)
        samples = [pictures.grid(t[0], low, high, 10) for t in (*mean, decoded.sample())]
        made = ["samples: the mean of p(x|z), z from the prior"][: len(mean)]
        made.append("samples: draws of x from p(x|z), of the same z")
        shown = x.to(device=device_of(model), dtype=torch.get_default_dtype())
        what = "the posterior mean"
        try:
            z = model.point(shown)
        except NotImplementedError:  # a flow, say
            z, what = model.encode(shown).sample(), "a draw of the posterior"
        decoded = model.decode(z[None])
        mean = _mean(decoded)
        rows = [
            pictures.grid(t, low, high, 10)
            for t in (shown, *(t[0] for t in (*mean, decoded.sample())))
        ]
        again = [f"reconstructions: the mean of p(x|z), z {what}"][: len(mean)]
        again = [f"real: {measured_part(data)} images", *again, "reconstructions: a draw of x"]
    return {
        "samples.png": pictures.to_png(samples, made),
        "reconstructions.png": pictures.to_png(rows, again),
    }


def _mean(distribution: Distribution) -> list[Tensor]:
    """Returns the mean of a distribution, or nothing where it has none (a flow, say)."""
    try:
        return [distribution.mean]
    except NotImplementedError:
        return []
