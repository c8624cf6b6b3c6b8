"""The model of a table whose log p(x) is exact: fitted in seconds next to a VAE, as the baseline of
its report, and kept instead of it where it is better on the validation rows.

It lies in the folder ``exact`` of the run: a checkpoint, and the lines of its own history.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import torch

from taut.build.config import Config, ModelConfig
from taut.build.model import VAE_MODEL, describe_exact, exact_of, parts_named
from taut.data import Dataset
from taut.data.tables.parquet_rows import ParquetRows
from taut.evidence import Estimate, Evidence, importance_blocks, settle
from taut.models.exact import ExactModel
from taut.runs.assemble import build_exact
from taut.runs.folder import FORMAT, Info, Run
from taut.runs.measure import CLIMBING, EXACT_FOLDER, copies, exact_of_run, log_prob_of
from taut.runs.place import abandon
from taut.system import parallel, records, storage
from taut.system.errors import TautError, TautWarning
from taut.system.seeds import generator
from taut.system.signals import held, watched
from taut.training import checkpoint
from taut.training.exact import train_exact, why_ended
from taut.training.loop import Record, State

__all__ = ["compare", "competes", "fit_exact", "planned", "tidy"]

EXACT = "HiddenForest(slack=0.1)"  # later passes: rows that are harder to tell from real ones
PASSES = 40  # of each number of states, at most
WORK = 2e11  # rows times parameters that move, over all passes: some 2 minutes of a processor
SHARE = 0.1  # of the time that a training is given
FEWEST = 50  # training rows
COMPARED = 1000  # validation rows, at most


def competes(config: Config) -> bool:
    """Returns whether nobody has said that the model is to be a VAE."""
    named = config.model.model or parts_named(config.model) or config.training.objective
    return not named


def planned(asked: Config, data: Dataset) -> dict[str, Any]:
    """Returns what ``run.json`` says of the exact model that is to be fitted to a table; nothing
    where none is.

    There is none where nothing chooses its size, where the training is of several processes or of
    rows in a file, and where some columns are given.

    Args:
        asked: The configuration as it was given.
        data: The data.
    """
    kind = data.schema.kind == "table" and not data.schema.condition
    rows = len(data.train) >= FEWEST and len(data.validation) > 0
    here = parallel.world() == 1 and not isinstance(data.train, ParquetRows)
    if not (kind and rows and here) or exact_of(asked.model) == exact_of(ModelConfig(EXACT)):
        return {}
    return {"exact": {"model": EXACT, "competes": competes(asked)}}


def fit_exact(run: Run, data: Dataset) -> Generator[tuple[Record, float], None, None]:
    """Fits the exact model that a run is to have next to it, if it is to have one and has not, and
    yields the record of each pass and the share of the work that is done.

    Rows that it refuses leave the run without one.
    """
    found = run.info.get("exact")
    if not found or (run.path / EXACT_FOLDER).exists():
        return
    training = dataclasses.replace(run.config.training, max_epochs=PASSES)
    state, lines, began, late, work = State(PASSES), list[str](), time.monotonic(), False, 0.0
    try:
        model = build_exact(dataclasses.replace(run.config, model=ModelConfig(EXACT)), data)
        with closing(train_exact(model, data, training, state)) as made:
            for record in made:
                lines.append(json.dumps(record._asdict(), allow_nan=False) + "\n")
                yield record, record.step / state.total_steps
                minutes = training.minutes
                late = minutes is not None and time.monotonic() - began > 60 * SHARE * minutes
                moved = sum(p.numel() for p in model.in_training().parameters())
                work += len(data.train) * moved
                state.done = late or work > WORK
    except TautError as error:
        warnings.warn(f"no baseline by a model that is exact: {error}", TautWarning, stacklevel=2)
        run.info = cast(Info, {k: v for k, v in run.info.items() if k != "exact"})
        _write_info(run)
        return
    except BaseException:  # a signal: nothing was trained yet, unless a training goes on
        with watched(), held():
            abandon(run.path)
        raise
    state.tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    folder = run.path / EXACT_FOLDER
    ended = why_ended(state, late)
    run.info["exact"] = {**found, "model": str(describe_exact(model)), "ended": ended}
    _write_info(run)
    folder.mkdir()
    storage.write_bytes(folder / "history.jsonl", "".join(lines).encode())
    checkpoint.save(folder, state)


def compare(run: Run, data: Dataset) -> Iterator[Evidence]:
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
    # A row without a number says more than the mean of the others.
    lacking = int((~own.isfinite()).sum()) - int((~theirs.isfinite()).sum())
    better = lacking < 0 or (lacking == 0 and difference.value > 0)
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
    run.info = cast(Info, {**run.info, "candidates": numbers})
    if better:
        _keep(run, exact)
    else:
        _write_info(run)


def _keep(run: Run, exact: ExactModel) -> None:
    """Makes the exact model that of the run.

    The weights are written first: a kill after them leaves a VAE that is trained, and compared
    again.
    """
    spec, training = run.info["exact"]["model"], run.config.training
    training = dataclasses.replace(training, objective=None, learning_rate=None)
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


def _write_info(run: Run) -> None:
    run.info = cast(Info, storage.fingerprinted({**run.info, "format": FORMAT}))
    records.checked(run.info, records.RUN, run.path / "run.json")
    storage.write_json(run.path / "run.json", run.info)
