"""Auditing a run: its data, the audit, the gradients, and the files they leave in its folder."""

from __future__ import annotations

import dataclasses
import io
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taut.data import Dataset, New, Rows, batch, fingerprint, hashes_of
from taut.evidence import doctor, section
from taut.evidence.audit import Effort, audit
from taut.evidence.baseline import independent_marginals, marginals_of_columns
from taut.evidence.clock import Report
from taut.evidence.columns import ROWS, ColumnFacts
from taut.evidence.gradients import gradients
from taut.evidence.results import bits_per_dimension, observed_elements
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.report import render
from taut.runs.folder import Source, Stored, held_out, new_data, version
from taut.runs.making import totals_of
from taut.runs.measure import copies, exact_of_run, log_prob_of, measured_part
from taut.runs.tighten import richer
from taut.system import locks, parallel, records, storage
from taut.system.defaults import never, silent
from taut.system.errors import DataError, StorageError, UsageError, shown
from taut.system.seeds import generator

__all__ = [
    "audit_of",
    "audit_run",
    "gradients_run",
    "some_rows",
    "training_rows",
    "write_report",
]

PICTURES = ("samples.png", "reconstructions.png", "map.png", "traversal.png")  # of the report
# of each line, what an audit keeps
HISTORY = (
    "epoch",
    "step",
    "bound",
    "validation",
    "learning_rate",
    "best",
)


def audit_run(
    run: Stored,
    source: Source | None = None,
    *,
    key: str | None = None,
    part: str | None = None,
    num_data: int = 1000,
    effort: Effort | None = None,
    seed: int = 0,
    stop: Callable[[], bool] = never,
    report: Report = silent,
) -> dict[str, Any]:
    """Audits a run, writes ``audit.json`` and ``report.html`` into its folder and returns the
    audit.

    Args:
        run: The run.
        source: Data to audit it on; by default those that the run itself held out.
        key: Which array of an .npz file.
        part: "validation" to audit it on the validation rows even where there are test rows.
        num_data: Rows that are looked at, drawn at random if there are more.
        effort: How much work.
        seed: The same seed gives the same numbers.
        stop: Asked between blocks of data; true ends the audit with what is done.
        report: Told the stage, how much of it is done, and how far the whole is.

    Raises:
        UsageError: the run was trained on an array in memory and no data are given, or a key
            without data.
        DataError: the data are not what the model was trained on, or have changed.
    """
    if key is not None and source is None:
        raise UsageError("--key chooses an array of DATA: give DATA too")
    with _writing(run):
        return _audit(run, source, key, part, num_data, effort or Effort(), seed, stop, report)


def _audit(
    run: Stored,
    source: Source | None,
    key: str | None,
    part: str | None,
    num_data: int,
    effort: Effort,
    seed: int,
    stop: Callable[[], bool],
    report: Report,
) -> dict[str, Any]:
    began, dataset, notes = time.monotonic(), None, []
    try:
        dataset = run.data()
    except (UsageError, DataError) as error:
        if source is None:
            raise
        notes.append(
            "the training data are not at hand, so overfitting, copies and the baseline are not "
            "measured: " + str(error).replace("\n", "; ")
        )
    x, found, more = _looked_at(run, source, key, dataset, part)
    x = some_rows(x, num_data, seed, "audit")
    train, baseline, divided, levels = None, None, np.empty(0, "S16"), None
    if dataset is not None:
        train = training_rows(dataset, max(effort.train, len(x)), seed)
        given_total = totals_of(run.model) is not None
        baseline = independent_marginals(dataset, x, given_total=given_total)
        divided = dataset.divided
    exact = None
    if (tree := exact_of_run(run)) is not None:
        exact = run.info["exact"]["model"], log_prob_of(tree, x.to(torch.get_default_dtype()))
    if run.schema.is_image:
        levels = run.schema.low, run.schema.high
    labels = _labels(dataset, found["part"], (len(x), 0 if train is None else len(train)), seed)
    result = audit(
        run.model,
        x.to(torch.get_default_dtype()),
        train=train,
        groups=copies(x, divided),
        baseline=baseline,
        exact=exact,
        levels=levels,
        columns=None if dataset is None else _columns(dataset, x),
        labels=labels,
        fitted=_fitted(run, found["part"]),
        richer={} if dataset is None else richer(run, dataset),
        effort=effort,
        seed=seed,
        stop=stop,
        report=report,
    )
    result = {
        "taut": version(),
        "run": run.path.resolve().name,
        "data": found,
        "model": {
            **dataclasses.asdict(run.config.model),
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "objective": run.config.training.objective,
        },
        "seed": seed,
        "effort": dataclasses.asdict(effort),
        "measured": {
            "date": time.strftime("%Y-%m-%d %H:%M %Z"),
            "seconds": round(time.monotonic() - began, 1),
            "command": _command(run, source, key, num_data, effort, seed),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.platform()}, {torch.get_num_threads()} threads",
        },
        "tightened": _tightened(run),
        "candidates": run.info.get("candidates"),
        "training": doctor.how_trained(run.info.get("ended"), run.config.training),
        "history": [{k: line[k] for k in HISTORY} for line in run.history()],
        **result,
    }
    if run.schema.kind in ("binary", "levels"):
        both = (("elbo", result["evidence"]["elbo"]), ("log_evidence", result["log_evidence"]))
        elements = observed_elements(x)
        result["bits_per_dimension"] = {n: bits_per_dimension(e, elements) for n, e in both}
    result["notes"] = [*notes, *more, *result["notes"]]
    # Once more, with what a run knows of its training next to what was measured.
    result["findings"] = doctor.with_names(
        doctor.diagnose(result), str(run.path), _near(run.info["source"])
    )
    latent = {} if result["stopped"] else _latent_pictures(run, x, labels, seed)
    _write(run, {"audit.json": result}, latent)
    return result


def _latent_pictures(
    run: Stored, x: torch.Tensor, labels: tuple[np.ndarray, np.ndarray] | None, seed: int
) -> dict[str, bytes]:
    """Returns the map of the rows and the traversals as PNG files, of an image or a table; none
    where the model has no latent plane or no line to go along.
    """
    if not (run.schema.is_image or run.schema.kind == "table"):
        return {}
    from taut.runs import meaning  # draws by matplotlib, which an audit of else need not wait for

    new = New(x, ())
    colour = None if labels is None else {"label": labels[1]}
    drawn = {}
    for kind in ("map", "traversal"):
        with suppress(UsageError):
            figure = meaning.picture(run, kind, None, new, colour=colour, seed=seed)
            page = io.BytesIO()
            figure.savefig(page, format="png", dpi=80, metadata={"Software": None})
            drawn[f"{kind}.png"] = page.getvalue()
    return drawn


def _looked_at(
    run: Stored,
    source: Source | None,
    key: str | None,
    dataset: Dataset | None,
    part: str | None,
) -> tuple[Rows, dict[str, Any], list[str]]:
    """Returns the rows that an audit may look at, what they are, and notes on them."""
    notes = []
    if source is not None:
        own, name = "given", shown(str(source) if isinstance(source, str | Path) else "an array")
        new = new_data(run, source, key)
        x, notes = new.rows, list(new.notes)
        if new.impossible:
            impossible = set(new.impossible)
            x = x[torch.tensor([i for i in range(len(x)) if i not in impossible])]
            notes.append(f"{len(impossible)} rows of log p(x) = -inf are omitted from this audit")
        values = x.numpy() if isinstance(x, torch.Tensor) else hashes_of(x)
        mark = fingerprint(values)
    else:
        assert dataset is not None
        own, x, name = measured_part(dataset), held_out(run, dataset), shown(dataset.name)
        if part is not None:
            own, x = part, getattr(dataset, part)
        mark = run.info["fingerprint"]
    if own == "validation" and part is None:
        notes.append(
            "no test data: the validation data chose the weights that are measured on them, which "
            "is optimistic"
        )
    found = {"name": name, "part": own, "rows": len(x), "fingerprint": mark, "each": _each(run)}
    return x, found, notes


def _columns(dataset: Dataset, x: torch.Tensor) -> ColumnFacts | None:
    """Returns what is known of the columns of rows; None of images and the like."""
    schema = dataset.schema
    if schema.is_image or len(schema.event_shape) != 1:
        return None
    marginals = marginals_of_columns(dataset, x[:ROWS])
    if marginals is None:
        return None
    word = "gene" if schema.kind == "count" and schema.names else "column"
    facts = [schema.modelled[i].describe() for i in schema.rest if schema.kind == "table"]
    kinds: list[str] = [schema.kind] * len(schema.element_names)
    columns = []
    if schema.kind == "table":
        columns = [schema.modelled[i] for i in schema.rest]
        kinds = [column.kind for column in columns]
    return ColumnFacts(schema.element_names, marginals, facts, word, kinds, columns)


def _labels(
    dataset: Dataset | None, part: str, counts: tuple[int, int], seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the labels of the training rows and of the held-out ones that are looked at, where
    the source has any: in the order of ``training_rows`` and ``some_rows``.
    """
    if dataset is None or part not in ("test", "validation"):
        return None
    train, test = dataset.train_labels, getattr(dataset, f"{part}_labels")
    if train is None or test is None:
        return None
    of_test = torch.randperm(len(test), generator=generator(seed, "audit"))[: counts[0]]
    of_train = torch.randperm(len(train), generator=generator(seed, "audit", 1))[: counts[1]]
    return train[of_train.numpy()], test[of_test.numpy()]


def _fitted(run: Stored, part: str) -> dict[str, Any] | None:
    """Returns what was measured after the training on the part of the data that is audited."""
    if not (run.path / "evaluation.json").exists():
        return None
    found = run.evaluation()
    return found if found["data"] == part else None


def _each(run: Stored) -> str:
    """Returns what a data point of a run is called."""
    if run.schema.is_image:
        return "image"
    if run.info["source"].endswith(".h5ad"):
        return "cell"
    return "row"


def training_rows(dataset: Dataset, count: int, seed: int) -> torch.Tensor:
    """Returns rows of the training data, drawn in a fixed order, so that those of an audit do not
    depend on how many of them are asked for.
    """
    index = torch.randperm(len(dataset.train), generator=generator(seed, "audit", 1))[:count]
    dynamic = dataset.binarize == "dynamic"
    return batch(dataset.train, index, dynamic, generator(seed, "audit", 2))


def _command(
    run: Stored, source: Source | None, key: str | None, num_data: int, effort: Effort, seed: int
) -> str:
    """Returns the command that does the same audit, without the folders that lead to its files: a
    report is passed on.
    """
    words = ["taut", "audit", run.path.resolve().name]
    if source is not None:
        words.append(Path(source).name if isinstance(source, str | Path) else "DATA")
    usual, options = Effort(), {"key": key, "num-data": num_data}
    options |= {
        name.replace("_", "-"): getattr(effort, name)
        for name in (
            "num_samples",
            "num_chains",
            "max_temperatures",
            "task_seconds",
            "minutes",
        )
        if getattr(effort, name) != getattr(usual, name)
    }
    options["seed"] = seed or None
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", str(value)]
    return shlex.join(shown(word) for word in words)


def gradients_run(
    run: Stored,
    *,
    batch_size: int = 100,
    num_samples: int = 8,
    repeats: int = 100,
    seed: int = 0,
    stop: Callable[[], bool] = never,
) -> dict[str, Any]:
    """Compares gradient estimators on a batch of the run's training data.

    Writes ``gradients.json`` and ``report.html``.
    """
    with _writing(run):
        return _gradients(run, batch_size, num_samples, repeats, seed, stop)


def _gradients(
    run: Stored,
    batch_size: int,
    num_samples: int,
    repeats: int,
    seed: int,
    stop: Callable[[], bool],
) -> dict[str, Any]:
    if isinstance(run.model, ExactModel):
        raise UsageError(
            f"{shown(run.path)} holds {run.config.model.model}, which is trained by expectation "
            "maximisation: there are no gradients to compare"
        )
    if isinstance(run.model, StepwiseModel):
        raise UsageError(
            f"{shown(run.path)} holds {run.config.model.model}, which has no encoder and one "
            "estimator of its gradient: there are none to compare"
        )
    dataset = run.data()
    index = torch.randperm(len(dataset.train), generator=generator(seed, "gradients"))[:batch_size]
    x = batch(dataset.train, index, dataset.binarize == "dynamic", generator(seed, "gradients", 1))
    result = {
        "taut": version(),
        "run": run.path.resolve().name,
        "seed": seed,
        **gradients(run.model, x, num_samples=num_samples, repeats=repeats, seed=seed, stop=stop),
    }
    _write(run, {"gradients.json": result})
    return result


def write_report(run: Stored) -> Path:
    """Renders ``report.html`` again from ``audit.json`` and ``gradients.json``.

    Raises:
        StorageError: the run has not been audited.
    """
    if not (run.path / "audit.json").exists():
        raise StorageError(
            f"{shown(run.path)} has no audit.json: run `taut audit {shown(run.path)}` first"
        )
    with _writing(run):
        _write(run, {})
    return run.path / "report.html"


@contextmanager
def _writing(run: Stored) -> Iterator[None]:
    """Holds the lock of a run for a block.

    An audit that another process would break into is refused before it begins.
    """
    ours = parallel.on_main(lambda: locks.acquire(run.path))
    try:
        yield
    finally:
        if ours and parallel.main():
            locks.release(run.path)


def _write(
    run: Stored, results: dict[str, dict[str, Any]], drawn: Mapping[str, bytes] | None = None
) -> None:
    parallel.on_main(lambda: _write_all(run, results, drawn or {}))


def _write_all(run: Stored, results: dict[str, dict[str, Any]], drawn: Mapping[str, bytes]) -> None:
    files = {name: storage.as_json(result) for name, result in results.items()}
    storage.add_to_manifest(run.path, {**drawn, **files})
    # The numbers are kept by now: a picture that turns out to be damaged costs only the page.
    shapes = {"audit.json": section.shape(), "gradients.json": records.GRADIENTS}
    parts = {name: _result(run.path / name, shape) for name, shape in shapes.items()}
    if parts["audit.json"] is not None:
        pictures = {
            n: storage.read_checked(run.path / n) for n in PICTURES if (run.path / n).exists()
        }
        try:
            page = render(parts["audit.json"], parts["gradients.json"], pictures)
        except Exception as error:
            names = [name for name in shapes if name not in results and parts[name] is not None]
            if not names:  # of our own making
                raise
            where = " or ".join(shown(run.path / name) for name in names)
            raise StorageError(
                f"{where} is damaged: no report can be made of it; make it again, or restore it"
            ) from error
        storage.add_to_manifest(run.path, {"report.html": page.encode()})


def audit_of(run: Stored) -> dict[str, Any] | None:
    """Returns the last audit of a run, if it was audited.

    Raises:
        StorageError: it is damaged.
    """
    return _result(run.path / "audit.json", section.shape())


def _result(path: Path, shape: Any) -> dict[str, Any] | None:
    """Returns what an audit or a comparison of gradients left, if there was one."""
    if not (path.exists() or path.is_symlink()):
        return None
    found: dict[str, Any] = records.checked(storage.read_checked_json(path), shape, path)
    return found


def _tightened(run: Stored) -> dict[str, Any] | None:
    """Returns what a tightening started from, and what it reached on the same data."""
    known = run.info.get("tightened")
    if known is None:
        return None
    after = run.evaluation()
    return {**known, "after": {name: after[name] for name in known["before"]}}


def _near(source: str) -> str:
    """Returns a source as the user would type it here.

    A path below this folder without what leads to it.
    """
    path = Path(source)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return source


def some_rows(x: Rows, count: int, seed: int, name: str) -> torch.Tensor:
    """Returns at most so many rows in a random order.

    The first, all that a stopped audit sees, are not a sorted file's.
    """
    return x[torch.randperm(len(x), generator=generator(seed, name))[:count]]
