"""The model of rows of columns whose log p(x) is exact: fitted in seconds next to a VAE, as the
baseline of its report, and kept instead of it where it is better on the validation rows.

A table has hidden trees, and where its columns are real numbers, as rows of an array are, the
better of them and a mixture of factor analysers. Beside a VAE that was asked for, rows of an array
have factor analysers alone, whose seconds are few. It lies in the folder ``exact`` of the run: a
checkpoint, and the lines of its own history.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from taut.build.config import Config, ModelConfig
from taut.build.model import describe_exact
from taut.build.spec import parse
from taut.build.usual import MOST_COLUMNS, VAE_MODEL, exact_of, gan_of, parts_named
from taut.data import Dataset, batch
from taut.data.tables.parquet_rows import ParquetRows
from taut.evidence import Estimate, Evidence, importance_blocks, settle
from taut.evidence.filling import filling_losses
from taut.model import Model
from taut.models.exact import ExactModel
from taut.models.factor_analysis import MIN_SCALE, REALS
from taut.runs.assemble import build_exact
from taut.runs.folder import FORMAT, Info, Stored
from taut.runs.measure import CLIMBING, EXACT_FOLDER, copies, exact_of_run, log_prob_of
from taut.runs.place import abandon
from taut.system import parallel, records, storage
from taut.system.errors import TautError, TautWarning
from taut.system.seeds import derive, generator
from taut.system.signals import held, watched
from taut.training import checkpoint
from taut.training.exact import train_exact, why_ended
from taut.training.loop import Record, State

__all__ = ["beside", "compare", "competes", "fit_exact", "in_short", "planned", "tidy"]

FOREST = "HiddenForest(slack=0.1)"  # later passes: rows that are harder to tell from real ones
FACTORS = "MixtureOfFactorAnalysers()"
NAMES = {FOREST: "hidden trees", FACTORS: "factor analysers"}
PASSES = {FOREST: 40, FACTORS: 1000}  # of each number of states or components, at most
WORK = 2e11  # rows times parameters that move, over all passes: some 2 minutes of a processor
SHARE = 0.1  # of the time that a training is given
FEWEST = 50  # training rows
COMPARED = 1000  # validation rows, at most
UNITS = 10_000  # training rows that the units of filling follow from, at most
SURE = 2.0  # standard errors
FINE = MIN_SCALE * (2 * math.pi) ** 0.5  # steps, in standard deviations, that no density exceeds


def competes(config: Config) -> bool:
    """Returns whether nobody has said that the model is to be a VAE."""
    named = config.model.model or parts_named(config.model) or config.training.objective
    return not named


def rivals(data: Dataset, competes: bool) -> list[str]:
    """Returns the exact models that data have next to a VAE, of which the better one counts.

    Args:
        data: The data.
        competes: Whether it may be kept, or is a baseline only.
    """
    schema = data.schema
    if schema.kind == "table" and not schema.condition:
        return [FOREST, FACTORS] if _continuous(data) else [FOREST]
    if schema.kind == "real" and schema.is_rows and schema.num_elements <= MOST_COLUMNS:
        return [FOREST, FACTORS] if competes else [FACTORS]
    return []


def _continuous(data: Dataset) -> bool:
    """Returns whether the columns of a table are real numbers, none of them on a grid so coarse
    that a factor analyser's density could be above the data's own precision.
    """
    columns = data.schema.modelled
    if len(columns) > MOST_COLUMNS or any(c.kind not in REALS for c in columns):
        return False
    some = batch(data.train, torch.arange(min(len(data.train), COMPARED))).double()
    spread = (some - some.nanmean(0)).square().nanmean(0).sqrt()
    return all(c.step <= FINE * float(s) for c, s in zip(columns, spread, strict=True))


def in_short(data: Dataset, competes: bool) -> str:
    """Returns what the exact models that data have next to a VAE are called."""
    return ", ".join(NAMES.get(spec, spec) for spec in rivals(data, competes))


def beside(run: Stored, data: Dataset) -> str:
    """Returns what the exact models are called that are fitted next to the VAE of a run."""
    return in_short(data, "exact" in run.info and run.info["exact"]["competes"])


def planned(asked: Config, data: Dataset) -> dict[str, Any]:
    """Returns what ``run.json`` says of the exact model that is to be fitted to the data; nothing
    where none is.

    There is none where nothing chooses its size, and where the training is of several processes or
    of rows in a file.

    Args:
        asked: The configuration as it was given.
        data: The data.
    """
    rows = len(data.train) >= FEWEST and len(data.validation) > 0
    here = parallel.world() == 1 and not isinstance(data.train, ParquetRows)
    if not (rows and here and (specs := rivals(data, competes(asked)))):
        return {}
    if gan_of(asked.model) is not None:
        return {}
    if exact_of(asked.model) in [exact_of(ModelConfig(spec)) for spec in specs]:
        return {}
    return {"exact": {"model": specs[0], "competes": competes(asked)}}


def fit_exact(run: Stored, data: Dataset) -> Generator[tuple[Record, float], None, None]:
    """Fits the exact model that a run is to have next to it, if it is to have one and has not, and
    yields the record of each pass and the share of the work that is done.

    Rows that it refuses leave the run without one.
    """
    found = run.info.get("exact")
    if not found or (run.path / EXACT_FOLDER).exists():
        return
    specs, fits, refusals = rivals(data, found["competes"]), list[_Fit](), list[TautError]()
    try:
        for number, spec in enumerate(specs):
            try:
                fit = _Fit(spec, run, data)
                with closing(fit.passes()) as passes:
                    for record, share in passes:
                        yield record, (number + share) / len(specs)
                fits.append(fit)
            except TautError as error:
                refusals.append(error)
    except BaseException:  # a signal: nothing was trained yet, unless a training goes on
        with watched(), held():
            abandon(run.path)
        raise
    if not fits:
        warnings.warn(
            f"no baseline by a model that is exact: {refusals[0]}", TautWarning, stacklevel=2
        )
        run.info = cast(Info, {k: v for k, v in run.info.items() if k != "exact"})
        _write_info(run)
        return
    best = max(fits, key=lambda fit: fit.reached)
    folder = run.path / EXACT_FOLDER
    run.info["exact"] = {**found, "model": str(describe_exact(best.model)), "ended": best.ended}
    _write_info(run)
    folder.mkdir()
    storage.write_bytes(folder / "history.jsonl", "".join(best.lines).encode())
    checkpoint.save(folder, best.state)


class _Fit:
    """One exact model that is fitted next to a run: its state, the lines of its history, what ended
    it and the mean log p(x) of the validation rows.
    """

    def __init__(self, spec: str, run: Stored, data: Dataset) -> None:
        self.data, self.lines = data, list[str]()
        self.training = dataclasses.replace(run.config.training, max_epochs=PASSES[spec])
        self.state = State(PASSES[spec])
        self.model = build_exact(dataclasses.replace(run.config, model=ModelConfig(spec)), data)
        self.ended, self.reached = "", -math.inf

    def passes(self) -> Generator[tuple[Record, float], None, None]:
        """Fits the model, and yields each pass and the share of them that is done."""
        state, minutes = self.state, self.training.minutes
        began, late, work = time.monotonic(), False, 0.0
        with closing(train_exact(self.model, self.data, self.training, state)) as made:
            for record in made:
                self.lines.append(json.dumps(record._asdict(), allow_nan=False) + "\n")
                yield record, record.step / state.total_steps
                moved = sum(p.numel() for p in self.model.in_training().parameters())
                work += len(self.data.train) * moved
                late = work > WORK
                if minutes is not None:
                    late = late or time.monotonic() - began > 60 * SHARE * minutes
                state.done = late
        state.tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        self.ended = why_ended(self.model, state, late)
        self.reached = float(log_prob_of(self.model, self.data.validation).mean())


def compare(run: Stored, data: Dataset) -> Iterator[Evidence]:
    """Measures the VAE of a run and its exact model on the validation rows, yielding each block,
    and makes the better one the model of the run; ``run.json`` keeps both numbers.

    Nothing is done where the exact model is a baseline only.
    """
    found = run.info.get("exact")
    exact = exact_of_run(run)
    if not found or not found["competes"] or exact is None or "candidates" in run.info:
        return
    seed = run.config.training.seed
    order = torch.randperm(len(data.validation), generator=generator(seed, "compare"))
    x = data.validation[order[:COMPARED].sort().values]
    blocks: list[Evidence] = []
    for block in importance_blocks(run.model, x, run.config.evaluation.num_samples, seed=seed):
        blocks.append(block)
        yield block
    first = Evidence.concatenate(blocks)
    vae = settle(run.model, x, first, seed=seed, climbing=CLIMBING, annealed=0)
    own, theirs, error = log_prob_of(exact, x), vae.log_evidence, vae.log_evidence_error
    groups = copies(x, data.divided)
    difference = Estimate.of(own - theirs, error, groups)
    lacking = int((~own.isfinite()).sum()) - int((~theirs.isfinite()).sum())
    filling = _filling(run.model, exact, x, data, seed)
    better = exact_is_better(lacking, difference.to_dict(), filling)
    kept = found["model"] if better else VAE_MODEL
    numbers = {
        "kept": kept,
        "num_data": len(x),
        "models": [
            {"model": found["model"], **Estimate.of(own, torch.zeros_like(own), groups).to_dict()},
            {"model": VAE_MODEL, **Estimate.of(theirs, error, groups).to_dict()},
        ],
        "difference": difference.to_dict(),
    }
    if filling:
        numbers["filling"] = filling
    run.info = cast(Info, {**run.info, "candidates": numbers})
    if better:
        _keep(run, exact)
    else:
        _write_info(run)


def exact_is_better(lacking: int, nats: Mapping[str, Any], filling: Mapping[str, Any]) -> bool:
    """Returns whether the exact model is kept, and not the VAE.

    A row without a number decides first: it says more than the mean of the others. Of data with
    gaps the better one fills in hidden entries better: whoever has gaps needs them filled. Where
    that is not sure, log p(x) decides if it is. Without gaps log p(x) decides.

    Args:
        lacking: Rows without a number, of the exact model less those of the VAE.
        nats: log p(x) of the exact model less that of the VAE, an estimate as a dictionary.
        filling: What the VAE loses more by filling in, likewise; empty of data without gaps.
    """
    if lacking:
        return lacking < 0
    if filling and (_is_sure(filling) or not _is_sure(nats)):
        return bool(filling["value"] > 0)
    return (nats["value"] or 0.0) > 0


def _is_sure(estimate: Mapping[str, Any]) -> bool:
    return abs(estimate["value"] or 0.0) > SURE * (estimate["test_error"] or math.inf)


def _filling(vae: Model, exact: ExactModel, x: Tensor, data: Dataset, seed: int) -> dict[str, Any]:
    """Returns how much more a VAE loses than the exact model where it fills in entries of rows, of
    data with gaps; nothing of others.
    """
    schema = data.schema
    columns = schema.rest or list(range(schema.num_elements))
    if not schema.missing:
        return {}
    kinds = [schema.modelled[i].kind if schema.columns else "real" for i in columns]
    train = batch(data.train, torch.arange(min(len(data.train), UNITS)))
    seed = derive(seed, "filling")
    lost = [filling_losses(m, x, train, kinds, columns, seed=seed) for m in (exact, vae)]
    groups = copies(x, data.divided)
    own, theirs, more = (Estimate.of(loss, groups=groups) for loss in (*lost, lost[1] - lost[0]))
    if not math.isfinite(more.value):
        return {}
    return {"exact": own.to_dict(), "vae": theirs.to_dict(), **more.to_dict()}


def _keep(run: Stored, exact: ExactModel) -> None:
    """Makes the exact model that of the run.

    The weights are written first: a kill after them leaves a VAE that is trained, and compared
    again.
    """
    spec, training = run.info["exact"]["model"], run.config.training
    passes = next(n for known, n in PASSES.items() if parse(known).name == parse(spec).name)
    training = dataclasses.replace(training, objective=None, learning_rate=None, max_epochs=passes)
    run.config = dataclasses.replace(run.config, model=ModelConfig(spec), training=training)
    run.model = exact
    storage.write_tensors(run.path / "model.safetensors", exact.state_dict())
    ended = run.info["exact"]["ended"]
    run.info = cast(Info, {**run.info, "ended": ended, "config": run.config.to_dict()})
    _write_info(run)
    tidy(run.path)


def tidy(path: Path) -> None:
    """Gives a run that keeps its exact model the history of that, and removes the checkpoints of
    the other.
    """
    history = path / EXACT_FOLDER / "history.jsonl"
    storage.write_bytes(path / "history.jsonl", storage.read_file(history, storage.MOST_JSON))
    shutil.rmtree(path / "checkpoints", ignore_errors=True)


def _write_info(run: Stored) -> None:
    run.info = cast(Info, storage.fingerprinted({**run.info, "format": FORMAT}))
    records.checked(run.info, records.RUN, run.path / "run.json")
    storage.write_json(run.path / "run.json", run.info)
