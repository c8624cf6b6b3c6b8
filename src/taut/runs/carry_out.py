"""A training is carried out, measured, and its progress is told of."""

from __future__ import annotations

from contextlib import closing

from taut.data import Dataset
from taut.evidence.exact_baseline import in_words
from taut.runs.candidates import COMPARED, beside, compare, fit_exact
from taut.runs.fit import evaluate, train_run
from taut.runs.folder import Stored
from taut.runs.logs import Log
from taut.runs.telling import Telling
from taut.training.loop import Record, State

__all__ = ["carry_out"]


def carry_out(
    run: Stored, data: Dataset, state: State, tell: Telling, log: str | Log | None = None
) -> None:
    """Trains the model of a run from a state on, measures it and tells of both."""
    with (
        tell.progress(beside(run, data), 1) as advance,
        closing(fit_exact(run, data)) as passes,
    ):
        share = 0.0
        for record, now in passes:
            advance(now - share, _bound(record))
            share = now
    with (
        tell.progress("training", state.total_steps) as advance,
        closing(train_run(run, data, state, log)) as records,
    ):
        done, total = state.step, state.total_steps
        for record in records:
            place = total * record.step // state.total_steps
            advance(place - done, _bound(record))
            done = place
    with tell.progress("comparing", min(COMPARED, len(data.validation))) as advance:
        for block in compare(run, data):
            advance(len(block.ess), "")
    if said := in_words(run.info.get("candidates")):
        tell.line(said)
    rows = len(data.test) or len(data.validation) or len(data.train)
    with tell.progress("measuring", rows) as advance:
        for block in evaluate(run, data):
            advance(len(block.ess), "")


def _bound(record: Record) -> str:
    if record.validation is None:
        return f"bound {record.bound:.2f} nats"
    return f"held-out bound {record.validation:.2f} nats"
