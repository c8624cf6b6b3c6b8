r"""``taut choose``: which of some models, by what they say of rows that none was trained on.

Each candidate is a run of its own below the folder of the study. They are compared by log p(x) of
the validation rows, row by row, over all seeds,

$$ d_n = \frac1S \sum_s \big( \ell_{n,s} - \ell^{\text{best}}_{n,s} \big), $$

and the smallest whose mean difference is within one standard error of the best is chosen: what is
larger is not known to be better. Its test rows are read once, at the end.

The candidates wait in a study of Optuna, in a journal file: any number of processes, on one machine
or on several that share the folder, take the next one by the same command. One whose process was
killed is taken over where it stood, since the lock of its folder is free.

References: akiba2019.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taut.build.config import Config
from taut.data import Dataset
from taut.evidence import Estimate
from taut.evidence.results import finite
from taut.report.staircase import study_page
from taut.runs.assemble import assemble
from taut.runs.audit import some_rows
from taut.runs.carry_out import carry_out
from taut.runs.fit import resume, start
from taut.runs.folder import Stored, load, read_data
from taut.runs.measure import copies, evidence_of
from taut.runs.place import make_folder, stem
from taut.runs.telling import Telling
from taut.system import locks, records, storage
from taut.system.counting import check_count
from taut.system.errors import TautError, UsageError, shown
from taut.training.pace import epochs_of

__all__ = ["ANSWER", "STUDY", "candidates_of", "choose", "join", "smallest_within_one_error"]

STUDY, JOURNAL, ANSWER = "study.json", "journal.log", "answer.json"
NAME = "taut"  # of the study in its journal
SHORTEST = 1 / 60  # minutes of a training, at least
COMPARED = 2000  # validation rows, at most
PAUSE = 1.0  # seconds before it is looked again if another process has ended
BASELINES = ("HiddenTree(num_states=1)", "FactorAnalysis()", "Mixture()", "HiddenTree()")


def candidates_of(options: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Returns the settings of each candidate: all combinations of the values, in their order.

    Args:
        options: The values of each setting, by SECTION.NAME.

    Examples:
        >>> candidates_of({"model.latent_dim": ["2", "5"]})
        [{'model.latent_dim': '2'}, {'model.latent_dim': '5'}]
    """
    names = list(options)
    return [dict(zip(names, each, strict=True)) for each in itertools.product(*options.values())]


def choose(
    source: str,
    out: str | Path | None = None,
    *,
    candidates: Sequence[Mapping[str, object]],
    minutes: float,
    seeds: int = 1,
    baselines: bool = True,
    config: Config | None = None,
    tell: Telling | None = None,
) -> dict[str, Any]:
    """Trains candidates and returns which is chosen, and the table: ``answer.json``.

    Args:
        source: The data, as ``taut fit`` takes them.
        out: The folder of the study; by default the next free one below runs/.
        candidates: What differs from ``config`` in each, by SECTION.NAME: values or their text.
        minutes: Time of one process for all trainings together; each gets an equal share.
        seeds: Trainings of each candidate.
        baselines: Whether models whose log p(x) is exact are candidates too, where the data allow.
        config: All other settings.
        tell: What is told of the progress.

    Raises:
        UsageError: a setting that does not exist, a candidate that cannot be built, a budget that
            is too small, or no validation rows.
    """
    config, seeds = config or Config(), check_count("seeds", seeds)
    data = read_data(source, config)
    if len(data.validation) < 2:
        raise UsageError(
            "nothing tells which candidate is better without validation rows: give "
            "--set data.validation_fraction=0.1"
        )
    wanted = [{place: str(value) for place, value in each.items()} for each in candidates]
    for each in wanted:
        _build(data, _settings(config, each), each)
    if baselines:
        wanted += [each for each in _baselines(data, config) if each not in wanted]
    share = minutes / (len(wanted) * seeds)
    if share < SHORTEST:
        raise UsageError(
            f"--minutes {minutes:g} for {len(wanted) * seeds} trainings is {60 * share:.2g} s for "
            f"each, and a training needs at least {60 * SHORTEST:.0f} s: give more, or fewer "
            "candidates"
        )
    _optuna()  # where it is missing, no empty folder is left
    folder = make_folder(out, f"{stem(source)}-study", overwrite=False)
    info = storage.fingerprinted(
        {
            "source": str(Path(source).resolve()) if Path(source).exists() else source,
            "fingerprint": data.fingerprint,
            "minutes": minutes,
            "seeds": seeds,
            "candidates": wanted,
            "config": config.to_dict(),
        }
    )
    try:
        with _study(folder, make=True) as study:
            for seed, number in itertools.product(range(seeds), range(len(wanted))):
                facts = {"candidate": number, "seed": seed}
                study.enqueue_trial(facts, user_attrs=facts)
        storage.write_json(folder / STUDY, info)  # last: a folder that has it can be joined
    finally:
        locks.release(folder)
    return join(source, folder, tell=tell, data=data)


def join(
    source: str | None, folder: str | Path, *, tell: Telling | None = None, data: Any = None
) -> dict[str, Any]:
    """Takes candidates of a study until none waits, and returns the answer: the one that ends last
    gives it, the others wait for it.

    Args:
        source: The data; None: where the study has them from.
        folder: The folder of the study.
        tell: What is told of the progress.
        data: The data, where they were read already.
    """
    folder, tell = Path(folder), tell or Telling()
    file = folder / STUDY
    if not file.is_file():
        raise UsageError(f"{shown(folder)} is not a study: there is no {STUDY} in it")
    info = storage.read_unbroken_json(file)
    records.checked(info, records.STUDY, file)
    config = Config.from_dict(info["config"])
    if data is None:
        data = read_data(source or info["source"], config)
    if data.fingerprint != info["fingerprint"]:
        raise UsageError(
            f"{shown(str(source))}: these are not the data of {shown(folder)} (fingerprint "
            f"{data.fingerprint}, not {info['fingerprint']})"
        )
    with _study(folder) as study:
        while True:
            taken = _take(study, folder)
            if taken is None and not _running(study):
                break
            if taken is None:
                time.sleep(PAUSE)
                continue
            trial, path = taken
            try:
                _run(study, trial, path, info, data, tell)
            finally:
                locks.release(path)
        return _answered(study, folder, info, data)


def smallest_within_one_error(rows: Sequence[Mapping[str, Any]]) -> int:
    """Returns which candidate is the smallest of those within one standard error of the best.

    Args:
        rows: For each its ``parameters`` and ``difference`` to the best, ``value`` and ``error``.
    """
    near = [
        i
        for i, row in enumerate(rows)
        if row["difference"]["value"] is not None
        and row["difference"]["value"] >= -(row["difference"]["error"] or 0.0)
    ]
    return min(near, key=lambda i: (rows[i]["parameters"], -rows[i]["difference"]["value"]))


def _settings(config: Config, candidate: Mapping[str, str], **training: Any) -> Config:
    """Returns the configuration of a candidate; an exact model has no settings of a VAE."""
    values = config.to_dict()
    values["training"] |= training
    if candidate.get("model.model", "VAE") != "VAE":
        values["model"] = {}
        values["training"] |= {"objective": None, "learning_rate": None, "max_epochs": None}
    for place, value in candidate.items():
        section, _, name = place.partition(".")
        values.setdefault(section, {})[name] = value
    return Config.from_dict(values)


def _build(data: Dataset, config: Config, candidate: Mapping[str, str]) -> None:
    """Builds a candidate, so that one that cannot be is refused before anything is trained."""
    if any(place.startswith("data.") for place in candidate):
        raise UsageError(
            f"{_named(candidate)}: candidates are models of the same data: compare ways of reading "
            "them in studies of their own"
        )
    try:
        assemble(data, config)
    except TautError as error:
        raise UsageError(f"{_named(candidate)}: {error}") from None


def _baselines(data: Dataset, config: Config) -> Iterator[dict[str, str]]:
    """Yields the exact models that the data allow: independent columns, a Gaussian and mixtures."""
    for spec in BASELINES:
        candidate = {"model.model": spec}
        with suppress(TautError):
            assemble(data, _settings(config, candidate))
            yield candidate


def _rows(data: Dataset) -> Tensor:
    """Returns the validation rows that candidates are compared on."""
    return some_rows(data.validation, COMPARED, 0, "choose")


def _named(candidate: Mapping[str, str]) -> str:
    return ", ".join(f"{place.partition('.')[2]}={value}" for place, value in candidate.items())


# ----------------------------------------------------------------------------------- the queue


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UsageError("taut choose needs Optuna: pip install 'taut[choose]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextmanager
def _study(folder: Path, make: bool = False) -> Iterator[Any]:
    """Gives the study of a folder."""
    optuna = _optuna()
    from optuna.storages.journal import JournalFileBackend

    store = optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    if make:
        yield optuna.create_study(storage=store, study_name=NAME, direction="maximize")
    else:
        yield optuna.load_study(storage=store, study_name=NAME)


def _take(study: Any, folder: Path) -> tuple[Any, Path] | None:
    """Returns a candidate that this process now holds, and its folder: one that waits, or one whose
    process has ended; None where there is neither.
    """
    from optuna.trial import TrialState

    if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.ask()  # it runs from here on, as one whose process has ended does
    for trial in _running(study):
        path = folder / f"run-{trial.number + 1}"
        path.mkdir(exist_ok=True)
        if not _free(path):
            continue
        known = study.get_trials(deepcopy=False)[trial.number]
        if known.state == TrialState.RUNNING:
            return known, path
        locks.release(path)
    return None


def _free(path: Path) -> bool:
    """Takes the lock of a folder, unless another process has it."""
    try:
        return locks.acquire(path)
    except UsageError:
        return False


def _running(study: Any) -> list[Any]:
    from optuna.trial import TrialState

    return list(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def _run(
    study: Any, trial: Any, path: Path, info: Mapping[str, Any], data: Dataset, tell: Telling
) -> None:
    """Trains a candidate, measures each validation row and tells the study the mean."""
    from optuna.trial import TrialState

    candidate = info["candidates"][trial.user_attrs["candidate"]]
    config = Config.from_dict(info["config"])
    share = info["minutes"] / (len(info["candidates"]) * info["seeds"])
    seed = config.training.seed + trial.user_attrs["seed"]
    passes = math.ceil(epochs_of(data, _settings(config, candidate).training))
    wanted = _settings(config, candidate, seed=seed, minutes=share, max_epochs=passes)
    tell.line(f"{path.name}: {_named(candidate)}, seed {seed}")
    try:
        if not (path / storage.MANIFEST).exists():
            _train(path, wanted, data, config.training.seed, tell)
        run = load(path)
        rows = evidence_of(run.model, _rows(data), wanted.evaluation.num_samples, 0)
    except TautError as error:
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        tell.line(f"{path.name} failed: {error}")
        return
    each = [finite(value) for value in rows.log_evidence.tolist()]
    storage.write_json(path.with_suffix(".json"), storage.fingerprinted({"log_evidence": each}))
    value = rows.log_evidence.mean()  # a row without a number says more than the others
    study.tell(trial.number, float(value.nan_to_num(nan=-math.inf)), skip_if_finished=True)


def _train(path: Path, config: Config, data: Dataset, split: int, tell: Telling) -> None:
    if (path / "run.json").is_file() and any((path / "checkpoints").glob("step-*")):
        run, _, state = resume(path)
    else:
        run, _, state = start(data, path, config, overwrite=True, data_seed=split)
    carry_out(run, dataclasses.replace(data, test=data.test[:0]), state, tell)


# ----------------------------------------------------------------------------------- the answer


def _answered(study: Any, folder: Path, info: Mapping[str, Any], data: Dataset) -> dict[str, Any]:
    """Returns the answer of a study, and writes it where it is not there yet; another process that
    is writing it is waited for.
    """
    while not _free(folder):
        time.sleep(PAUSE)
    try:
        if (folder / ANSWER).exists():
            return storage.read_json(folder / ANSWER)
        answer = _compared(study, folder, info, data)
        storage.write_json(folder / ANSWER, answer)
        storage.write_bytes(folder / "report.html", study_page(answer, folder).encode())
        return answer
    finally:
        locks.release(folder)


def _compared(study: Any, folder: Path, info: Mapping[str, Any], data: Dataset) -> dict[str, Any]:
    x = _rows(data)
    groups = copies(x, data.divided)
    means, sizes, runs, failed = dict[int, list[Tensor]](), dict[int, int](), dict[int, str](), []
    for trial in study.get_trials(deepcopy=False):
        number, path = trial.user_attrs["candidate"], folder / f"run-{trial.number + 1}"
        if trial.value is None or not math.isfinite(trial.value):
            failed.append(number)
            continue
        known = storage.read_unbroken_json(path.with_suffix(".json"))
        values = torch.tensor(known["log_evidence"], dtype=torch.float64)
        means.setdefault(number, []).append(values)
        runs.setdefault(number, path.name)
        weights = storage.read_shapes(path / "model.safetensors")
        sizes[number] = sum(math.prod(shape) for shape in weights.values())
    whole = {n: torch.stack(v) for n, v in means.items() if n not in failed}
    if not whole:
        raise UsageError(f"no candidate of {shown(folder)} could be trained: see its runs")
    best = max(whole, key=lambda n: float(whole[n].mean()))
    rows: list[dict[str, Any]] = [
        {
            "candidate": _named(info["candidates"][n]),
            "run": runs[n],
            "parameters": sizes[n],
            "log_evidence": _estimate(each, groups),
            "difference": _estimate(each - whole[best], groups),
            "chosen": False,
        }
        for n, each in sorted(whole.items())
    ]
    chosen = rows[smallest_within_one_error(rows)]
    chosen["chosen"] = True
    return {
        "source": info["source"],
        "num_data": len(x),
        "seeds": info["seeds"],
        "rows": rows,
        "failed": sorted({_named(info["candidates"][n]) for n in failed}),
        "test": _tested(load(folder / chosen["run"]), data),
    }


def _estimate(values: Tensor, groups: Tensor | None) -> dict[str, float | None]:
    """Returns the mean over seeds and rows, (S, N), with the standard error of both."""
    found = Estimate.of(values.mean(0), None, groups)
    error = found.test_error
    if error is not None and len(values) > 1:
        error = math.hypot(error, float(values.mean(1).std()) / len(values) ** 0.5)
    return {"value": found.value, "error": error}


def _tested(run: Stored, data: Dataset) -> dict[str, Any]:
    """Returns log p(x) of the test rows under the chosen run; nothing where there are none."""
    x = data.test
    if not len(x):
        return {}
    rows = evidence_of(run.model, x, run.config.evaluation.num_samples, 0)
    groups = copies(x, data.divided)
    found = Estimate.of(rows.log_evidence, rows.log_evidence_error, groups)
    return {"num_data": len(x), "log_evidence": found.to_dict()}
