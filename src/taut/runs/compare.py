r"""Runs side by side on the same held-out rows, whatever kinds of models they hold.

Two models that are judged on the same rows share what makes a row likely or not, so their
difference is taken row by row: its error is that of the difference, most often far below the error
of either mean. Nats are compared only where they are nats of the same thing: of the same rows, all
densities or all probabilities, given the same context.

What has no density is compared by what it makes (``taut.evidence.samples``).
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from taut.data import Dataset, hashes_of
from taut.evidence import Estimate, Evidence, importance_blocks, settle, text
from taut.evidence.results import bits_per_dimension, observed_elements
from taut.evidence.rows import RowEvidence
from taut.evidence.samples import sample_quality, sharpness
from taut.model import Model
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.networks import Network
from taut.runs import folder
from taut.runs.audit import audit_of, some_rows, training_rows
from taut.runs.folder import Stored, held_out, version
from taut.runs.gain import gain_of
from taut.runs.measure import copies, measured_part
from taut.system import html
from taut.system.counting import check_count
from taut.system.defaults import silent
from taut.system.errors import DataError, UsageError, shown
from taut.training import checkpoint
from taut.use import pictures, tasks

__all__ = ["Comparison", "compare", "compare_runs"]

HOW = {
    "importance": "importance",
    "defensive": "importance",
    "importance_from_optimum": "importance",
    "annealing": "annealing",
    "enumeration": "sum over z",
    "exact": "closed form",
    "none": "no method",
}
# What reads a line of the table from the values of a run, as text; nothing where it has nothing.
Read = Callable[[dict[str, Any]], str]
SHOWN = 10  # images of each run on the sheet
AUDITED = ("amortization_gap", "approximation_gap", "full_covariance_gain")


@dataclass(frozen=True, eq=False)
class Comparison:
    """What ``compare`` found.

    Args:
        values: Plain values, as JSON holds them.
        sheet: A PNG with held-out images and samples of each run; nothing where rows are no images.
    """

    values: dict[str, Any]
    sheet: bytes | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers as plain values, with every paired difference."""
        return self.values

    def header(self) -> list[str]:
        """Returns the titles of the columns of ``rows``: what is compared, and each run."""
        part = self.values["data"]
        first = f"{part['num_data']} {part['part']} {part['each']}s, nats per {part['each']}"
        return [first, *(run["name"] for run in self.values["runs"])]

    def rows(self) -> list[tuple[str, list[str]]]:
        """Returns the table: what a quantity is called, and its value for each run as text."""
        found = []
        for title, read in _lines():
            cells = [read(run) for run in self.values["runs"]]
            if any(cells):
                found.append((title, [cell or "–" for cell in cells]))
        return found

    @property
    def warnings(self) -> list[str]:
        """What keeps the numbers from being believed, a line each."""
        lines = list(self.values["warnings"])
        for run in self.values["runs"]:
            lines += [f"{run['name']}: {line}" for line in run["warnings"]]
        return lines

    def to_html(self) -> str:
        """Returns the same as one page, with the sheet of samples in it."""
        from taut.report import render_comparison

        return render_comparison(self.values, self.header(), self.rows(), self.warnings, self.sheet)

    def __str__(self) -> str:
        table = [self.header(), *([title, *cells] for title, cells in self.rows())]
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        out = io.StringIO()
        for first, *rest in table:
            cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
            out.write("  ".join([first.ljust(widths[0]), *cells]).rstrip() + "\n")
        for line in self.warnings:
            out.write(f"warning: {line}\n")
        return out.getvalue().replace("\N{NO-BREAK SPACE}", " ")

    def _repr_html_(self) -> str:
        header = self.header()
        rows = [(title, *cells) for title, cells in self.rows()]
        return html.table("Runs on the same rows", header, rows, self.warnings)


def compare(
    *runs: Stored | str | Path,
    num_data: int = 1000,
    num_samples: int = 500,
    seed: int = 0,
    trust: Sequence[str] = (),
) -> Comparison:
    """Returns how runs do on the same held-out rows: nats and their paired differences, samples,
    sharpness and costs.

    Args:
        *runs: At least two: runs, or their folders.
        num_data: Rows that are looked at, drawn at random if there are more, and samples.
        num_samples: K of importance sampling, where a model needs it.
        seed: The same seed gives the same numbers.
        trust: Outside modules that the runs may import for the parts they name.

    Raises:
        UsageError: fewer than two runs, or nats that are not of the same thing.
        DataError: the runs are of other data, or hold out other rows.
    """
    num_data = check_count("num_data", num_data)
    num_samples = check_count("num_samples", num_samples)
    loaded = [r if isinstance(r, Stored) else folder.load(r, trust=trust) for r in runs]
    return compare_runs(loaded, num_data=num_data, num_samples=num_samples, seed=seed)


def compare_runs(
    runs: Sequence[Stored],
    *,
    num_data: int = 1000,
    num_samples: int = 500,
    seed: int = 0,
    advance: Callable[[int, str], None] = silent,
) -> Comparison:
    """Returns the same of runs that are loaded; ``advance`` is told of each run that is done."""
    data = _same_data(runs)
    whole = held_out(runs[0], data)
    x = some_rows(whole, num_data, seed, "audit").to(torch.get_default_dtype())
    train = training_rows(data, max(10_000, len(x)), seed).to(torch.get_default_dtype())
    groups, evidence, found, sheets = copies(x, data.divided), [], [], []
    levels = (runs[0].schema.low, runs[0].schema.high) if runs[0].schema.is_image else None
    for run, name in zip(runs, _names(runs), strict=True):
        known = None if run.model.no_density else _evidence(run.model, x, num_samples, seed)
        evidence.append(known)
        drawn = _drawn(run, len(x), seed)
        of_run = {
            "name": name,
            **_of_model(run),
            **_nats(run, known, x, groups),
            **_made(run.model, train, x, drawn, levels, seed),
        }
        found.append(of_run)
        if levels is not None and drawn["samples"] is not None:
            sheets += _pictures(run.model, name, drawn["samples"], levels, seed)
        advance(1, name)
    differences = []
    for a, b in combinations(range(len(runs)), 2):
        if (own := evidence[b]) is not None and (other := evidence[a]) is not None:
            gain = _gain(own, other, groups)
            differences.append({"of": found[b]["name"], "over": found[a]["name"], **gain})
            if a == 0:
                found[b]["over_first"] = gain
    values = {
        "taut": version(),
        "seed": seed,
        "num_samples": num_samples,
        "data": {
            "name": shown(data.name),
            "part": measured_part(data),
            "each": "image" if levels is not None else "row",
            "rows": len(whole),
            "num_data": len(x),
            "fingerprint": data.fingerprint,
            "sharpness": None if levels is None else _energy(x, levels).to_dict(),
        },
        "runs": found,
        "differences": differences,
        "warnings": _optimistic(data),
    }
    sheet = None
    if levels is not None:
        real = (f"real: {measured_part(data)} images", pictures.grid(x[:SHOWN], *levels, SHOWN))
        captions, grids = zip(real, *sheets, strict=True)
        sheet = pictures.to_png(grids, captions)
    return Comparison(text.plain(values), sheet)


def _same_data(runs: Sequence[Stored]) -> Dataset:
    """Returns the data that all runs hold out the same rows of.

    Raises:
        UsageError: fewer than two runs, or nats that are not of the same thing.
        DataError: the runs are of other data, or hold out other rows.
    """
    if len(runs) < 2:
        raise UsageError(
            "one run is compared with nothing: give two or more (`taut audit` judges one)"
        )
    first, *rest = runs
    for run in rest:
        where = f"{shown(run.path)} and {shown(first.path)}"
        if run.info["fingerprint"] != first.info["fingerprint"]:
            raise DataError(
                f"{where} were trained on other data (fingerprints {run.info['fingerprint']} and "
                f"{first.info['fingerprint']}): give runs of the same data"
            )
        for what, own, other in zip(
            ("the data are", "given are", "a row is"), _of_nats(run), _of_nats(first), strict=True
        ):
            if own != other:
                raise UsageError(
                    f"{where}: {what} {own} for the one and {other} for the other, so their nats "
                    "are of different things: give runs that read the data alike"
                )
    data = first.data()
    held = hashes_of(held_out(first, data))
    for run in rest:
        if _reading(run) == _reading(first):
            continue
        if not np.array_equal(hashes_of(held_out(run, run.data())), held):
            raise DataError(
                f"{shown(run.path)} and {shown(first.path)} hold out other rows of the same data: "
                "train them with the same --split, --test and fractions, and bits that are drawn "
                "with the same --seed"
            )
    return data


def _of_nats(run: Stored) -> tuple[str, str, str]:
    """Returns what the nats of a run are of."""
    given = ", ".join(map(shown, run.schema.condition)) or "no columns"
    if run.model.condition is not None and not run.schema.condition:
        given = "the totals"
    shape = " x ".join(map(str, run.schema.event_shape))
    return run.schema.kind, given, shape


def _reading(run: Stored) -> tuple[Any, ...]:
    """Returns what decides which rows a run holds out."""
    return run.config.data, run.info["source"], run.info["test"], run.data_seed


def _names(runs: Sequence[Stored]) -> list[str]:
    """Returns the name of each run's folder, with what leads to it where two have the same."""
    names = [run.path.resolve().name for run in runs]
    return [
        shown(name if names.count(name) == 1 else str(run.path))
        for run, name in zip(runs, names, strict=True)
    ]


def _evidence(model: Model, x: Tensor, num_samples: int, seed: int) -> RowEvidence:
    """Returns log p(x) of each row by the best estimator that the model has."""
    blocks = list(importance_blocks(model, x, num_samples, seed=seed))
    return settle(model, x, Evidence.concatenate(blocks), seed=seed)


def _of_model(run: Stored) -> dict[str, Any]:
    """Returns what a run is, and what it cost to train."""
    parameters = sum(p.numel() for p in run.model.parameters())
    if not parameters:  # of a model that is exact they are buffers
        parameters = sum(b.numel() for b in run.model.buffers() if b.is_floating_point())
    seconds = checkpoint.seconds_trained(run.path / "checkpoints")
    return {
        "path": str(run.path),
        "model": run.config.model.model or "VAE()",
        "likelihood": run.config.model.likelihood,
        "parameters": parameters,
        "training_minutes": None if seconds is None else seconds / 60,
    }


def _nats(
    run: Stored, evidence: RowEvidence | None, x: Tensor, groups: Tensor | None
) -> dict[str, Any]:
    """Returns log p(x), the bound below it and the gap between them."""
    names = ("log_evidence", "elbo", "inference_gap", "bits_per_dimension")
    if evidence is None:
        blank: dict[str, Any] = dict.fromkeys((*names, "reliable_share", "by", "gaps"))
        return {**blank, "no_density": run.model.no_density, "warnings": []}
    found = evidence.to_dict(groups)
    bits = None
    if run.schema.is_image or run.schema.kind in ("binary", "levels"):
        bits = bits_per_dimension(found["log_evidence"], observed_elements(x))
    exact = isinstance(run.model, ExactModel)
    return {
        "log_evidence": found["log_evidence"],
        "elbo": None if exact else found["elbo"],
        "inference_gap": None if exact else found["inference_gap"],
        "bits_per_dimension": bits,
        "reliable_share": found["reliable_share"],
        "by": _how(run.model, evidence, found["by"]),
        "gaps": _audited(run),
        "no_density": None,
        "warnings": found["warnings"],
    }


def _how(model: Model, evidence: RowEvidence, by: dict[str, int]) -> str:
    """Returns how log p(x) of most rows was found."""
    if evidence.first.weightless:
        return "ELBO, a bound"
    name = HOW[max(by, key=lambda each: by[each])]
    return f"{name} of paths" if isinstance(model, StepwiseModel) else name


def _audited(run: Stored) -> dict[str, Any] | None:
    """Returns the gaps that an audit of the run measured, if it was audited."""
    gaps = (audit_of(run) or {}).get("gaps") or {}
    return {name: gaps[name] for name in AUDITED if gaps.get(name)} or None


def _gain(own: RowEvidence, other: RowEvidence, groups: Tensor | None) -> dict[str, Any]:
    """Returns how much larger log p(x) and ELBO of one model are than those of another."""
    return {
        bound: gain_of(own, other, bound, groups).to_dict() for bound in ("log_evidence", "elbo")
    }


def _drawn(run: Stored, count: int, seed: int) -> dict[str, Any]:
    """Returns samples of a run, and what one of them costs."""
    if run.model.condition is not None:
        return {"samples": None, "cpu_seconds": None, "calls": None}
    calls = _calls(run.model)
    began = time.process_time()
    samples = tasks.sample(run.model, count, seed=seed)
    return {
        "samples": samples,
        "cpu_seconds": (time.process_time() - began) / count,
        "calls": calls,
    }


def _calls(model: Model) -> int | None:
    """Returns how often the network that is called most is called for one sample: what cannot be
    done at the same time. A model of many steps says so itself; None where its steps are not
    counted.
    """
    if isinstance(model, StepwiseModel):
        return model.passes
    counts: dict[nn.Module, int] = {}

    def count(module: nn.Module, _: Any) -> None:
        counts[module] = counts.get(module, 0) + 1

    hooks = [m.register_forward_pre_hook(count) for m in model.modules() if isinstance(m, Network)]
    try:
        tasks.sample(model, 1)
    finally:
        for hook in hooks:
            hook.remove()
    return max(counts.values(), default=0)


def _made(
    model: Model,
    train: Tensor,
    x: Tensor,
    drawn: dict[str, Any],
    levels: tuple[float, float] | None,
    seed: int,
) -> dict[str, Any]:
    """Returns how the samples of a model compare with held-out data, and what one costs."""
    cost = {"network_calls": drawn["calls"], "cpu_seconds_per_sample": drawn["cpu_seconds"]}
    samples = drawn["samples"]
    if samples is None:
        return {"samples": None, "sharpness": None, **cost}
    try:
        quality = sample_quality(model, train, x, num_data=len(x), samples=samples, seed=seed)
    except ValueError:  # too few rows
        quality = None
    sharp = None
    if levels is not None:
        real = _energy(x, levels)
        sharp = {"draws": _ratio(_energy(samples, levels), real).to_dict(), "means": None}
        if (mean := _means(model, len(samples), seed)) is not None:
            sharp["means"] = _ratio(_energy(mean, levels), real).to_dict()
    return {"samples": quality, "sharpness": sharp, **cost}


def _means(model: Model, count: int, seed: int) -> Tensor | None:
    """Returns the mean of p(x|z) at draws of the prior, where a model has one that a draw is not:
    the picture that is most often shown for a sample.
    """
    try:
        return tasks.sample(model, count, mean=True, seed=seed)
    except UsageError:
        return None


def _energy(images: Tensor, levels: tuple[float, float]) -> Estimate:
    """Returns the mean energy at high frequencies of images."""
    return Estimate.of(sharpness(images, low=levels[0], high=levels[1])[0])


def _ratio(a: Estimate, b: Estimate) -> Estimate:
    """Returns the ratio of two means of different rows, its error by the delta method."""
    ratio = a.value / b.value
    if a.test_error is None or b.test_error is None or not a.value:
        return Estimate(ratio, None, None)
    relative = ((a.test_error / a.value) ** 2 + (b.test_error / b.value) ** 2) ** 0.5
    return Estimate(ratio, None, abs(ratio) * relative)


def _pictures(
    model: Model, name: str, samples: Tensor, levels: tuple[float, float], seed: int
) -> list[tuple[str, np.ndarray]]:
    """Returns a caption and a row of images: draws, and means where they are something else."""
    rows = [(f"{name}: draws", samples[:SHOWN])]
    if (mean := _means(model, min(SHOWN, len(samples)), seed)) is not None:
        rows.append((f"{name}: means of p(x|z), z from the prior", mean))
    return [(caption, pictures.grid(images, *levels, SHOWN)) for caption, images in rows]


def _optimistic(data: Dataset) -> list[str]:
    """Returns the warning that the rows were not held out from all choices."""
    if measured_part(data) == "test":
        return []
    return [
        "no test data: the validation data chose the weights that are measured on them, which is "
        "optimistic"
    ]


# ----------------------------------------------------------------------------- the table as text


def _lines() -> list[tuple[str, Read]]:
    """Returns the lines of the table: a title, and what reads it from the values of a run."""

    def estimate(*path: str) -> Read:
        def read(run: dict[str, Any]) -> str:
            found: Any = run
            for name in path:
                found = (found or {}).get(name)
            return text.plus_minus(found) if found and found["value"] is not None else ""

        return read

    def gain(name: str) -> Read:
        def read(run: dict[str, Any]) -> str:
            found = (run.get("over_first") or {}).get(name)
            if not found:
                return ""
            sign = "+" if (found["value"] or 0) > 0 else ""
            return sign + text.plus_minus(found)

        return read

    def of_samples(name: str, which: str = "samples") -> Read:
        return estimate("samples", name, which)

    def plain(name: str, form: str) -> Read:
        def read(run: dict[str, Any]) -> str:
            return "" if run[name] is None else form.format(run[name])

        return read

    def evidence(run: dict[str, Any]) -> str:
        if run["no_density"]:
            return "no density"
        return text.plus_minus(run["log_evidence"])

    def milliseconds(run: dict[str, Any]) -> str:
        seconds = run["cpu_seconds_per_sample"]
        return "" if seconds is None else f"{1000 * seconds:.3g}"

    def reliable(run: dict[str, Any]) -> str:
        return "" if run["reliable_share"] is None else text.share(run["reliable_share"])

    return [
        ("model", plain("model", "{}")),
        ("p(x|z)", plain("likelihood", "{}")),
        ("log p(x)", evidence),
        ("  over the first, paired", gain("log_evidence")),
        ("  bits per dimension", estimate("bits_per_dimension")),
        ("  by", plain("by", "{}")),
        ("  reliable for", reliable),
        ("ELBO", estimate("elbo")),
        ("  over the first, paired", gain("elbo")),
        ("inference gap, log p(x) - ELBO", estimate("inference_gap")),
        ("  of it the encoder (audit)", estimate("gaps", "amortization_gap")),
        ("  of it the family (audit)", estimate("gaps", "approximation_gap")),
        ("told from data, AUC (1/2: not)", of_samples("classifier")),
        ("precision", of_samples("precision")),
        ("recall", of_samples("recall")),
        ("density", of_samples("density")),
        ("coverage", of_samples("coverage")),
        ("nearer to training rows (1/2)", of_samples("nearer")),
        ("copies of training rows", of_samples("copies")),
        ("sharpness of draws (data: 1)", estimate("sharpness", "draws")),
        ("sharpness of means (data: 1)", estimate("sharpness", "means")),
        ("network calls a sample", plain("network_calls", "{:,}")),
        ("CPU milliseconds a sample", milliseconds),
        ("training minutes", plain("training_minutes", "{:.2g}")),
        ("parameters", plain("parameters", "{:,}")),
    ]
