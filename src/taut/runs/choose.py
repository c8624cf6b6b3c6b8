r"""``taut choose``: which of some models, by what they say of rows that none was trained on.

Each candidate is a run of its own below the folder of the study. They are compared by log p(x) of
the validation rows, row by row, over all seeds,

$$ d_n = \frac1S \sum_s \big( \ell_{n,s} - \ell^{\text{best}}_{n,s} \big), $$

and the smallest whose mean difference is within one standard error of the best is chosen: what is
larger is not known to be better. Its test rows are read once, at the end.

The candidates wait in a study of Optuna, in a journal file: any number of processes, on one machine
or on several that share the folder, take the next one by the same command. One whose process was
killed is taken over where it stood, since the lock of its folder is free.

By successive halving all VAEs are trained for a share of their passes, the best of them (one in so
many) go on where they stopped, and so on to the whole. Every decision is written before anyone acts
on it, and those who find it half carried out carry out the rest.

References: akiba2019.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taut.build.config import Config, ModelConfig
from taut.build.usual import exact_of, objective_of, own_parts
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
from taut.system.counting import check_amount, check_count
from taut.system.errors import StorageError, TautError, UsageError, shown
from taut.training.pace import epochs_of

__all__ = [
    "ANSWER",
    "STUDY",
    "candidates_of",
    "choose",
    "join",
    "shares_of",
    "smallest_within_one_error",
]

STUDY, JOURNAL, ANSWER = "study.json", "journal.log", "answer.json"
NAME = "taut"  # of the study in its journal
SHORTEST = 1 / 60  # minutes of a training, at least
COMPARED = 2000  # validation rows, at most
# what Optuna raises of the lines of a journal that is damaged
OF_LINES = (ValueError, LookupError, TypeError, AttributeError, AssertionError)
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


def shares_of(num_candidates: int, halving: int | None) -> list[float]:
    """Returns the share of the passes that is done at the end of each rung, the last being 1.

    Args:
        num_candidates: How many are halved.
        halving: One in so many goes on; None: all are trained to the end at once.

    Examples:
        >>> shares_of(9, 3)
        [0.1111111111111111, 0.3333333333333333, 1.0]
    """
    shares, left = [1.0], num_candidates
    while halving is not None and left > 1:
        shares.insert(0, shares[0] / halving)
        left = math.ceil(left / halving)
    return shares


def choose(
    source: str,
    out: str | Path | None = None,
    *,
    candidates: Sequence[Mapping[str, object]],
    minutes: float,
    seeds: int = 1,
    baselines: bool = True,
    halving: int | None = None,
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
        halving: One in so many VAEs goes on at each rung of successive halving; None: all are
            trained to the end.
        config: All other settings.
        tell: What is told of the progress.

    Raises:
        UsageError: a setting that does not exist, a candidate that cannot be built, a budget that
            is too small, or no validation rows.
    """
    config, seeds = config or Config(), check_count("seeds", seeds)
    minutes = check_amount("minutes", minutes, above=True)
    if halving is not None:
        halving = check_count("halving", halving, 2)
    data = read_data(source, config)
    if len(data.validation) < 2:
        raise UsageError(
            "nothing tells which candidate is better without validation rows: give "
            "--set data.validation_fraction=0.1"
        )
    wanted = [{place: str(value) for place, value in each.items()} for each in candidates]
    for i, each in enumerate(wanted):
        if each in wanted[:i]:
            raise UsageError(
                f"{_named(each)} is a candidate twice: omit one (--seeds trains each several times)"
            )
        _build(data, _settings(config, each), each)
    if baselines:
        wanted += [each for each in _baselines(data, config) if each not in wanted]
    share = _first_minutes(wanted, halving, minutes / seeds)
    if share < SHORTEST:
        raise UsageError(
            f"--minutes {minutes:g} for {len(wanted) * seeds} trainings is {60 * share:.2g} s for "
            f"each, and a training needs at least {60 * SHORTEST:.0f} s: give more, or fewer "
            "candidates"
        )
    _optuna()  # where it is missing, no empty folder is left
    folder = make_folder(out, f"{stem(source)}-study", overwrite=None)
    info = storage.fingerprinted(
        {
            "source": str(Path(source).resolve()) if Path(source).exists() else source,
            "fingerprint": data.fingerprint,
            "minutes": minutes,
            "seeds": seeds,
            "candidates": wanted,
            "config": config.to_dict(),
            **({} if halving is None else {"halving": halving}),
        }
    )
    try:
        with _study(folder, make=True) as study:
            for seed, number in itertools.product(range(seeds), range(len(wanted))):
                _enqueue(study, number, seed, 0)
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
                if _promoted(study, folder, info, data):
                    continue
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
    """Returns the configuration of a candidate; an exact model has no settings of a VAE, and one of
    another kind those of its own parts.
    """
    values = config.to_dict()
    values["training"] |= training
    own = _own_parts(candidate)
    if own is not None:
        values["model"] = {name: value for name, value in values["model"].items() if name in own}
        values["training"]["objective"] = None
    if own == ():
        values["training"] |= {"learning_rate": None, "max_epochs": None}
    for place, value in candidate.items():
        section, _, name = place.partition(".")
        values.setdefault(section, {})[name] = value
    return Config.from_dict(values)


def _own_parts(candidate: Mapping[str, str]) -> tuple[str, ...] | None:
    """Returns the settings of a VAE that a candidate has too; None where it is one."""
    return own_parts(ModelConfig(model=candidate.get("model.model")))


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
    named = (f"{place.partition('.')[2]}={value}" for place, value in candidate.items())
    return ", ".join(named) or "by default"


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

    journal = folder / JOURNAL

    def store() -> Any:
        return optuna.storages.JournalStorage(JournalFileBackend(str(journal)))

    if make:
        yield optuna.create_study(storage=store(), study_name=NAME, direction="maximize")
        return
    try:
        _end_with_a_line(journal)
        study = optuna.load_study(storage=store(), study_name=NAME)
    except (*OF_LINES, optuna.exceptions.OptunaError) as error:
        raise StorageError(
            f"{shown(journal)} is damaged ({type(error).__name__}): restore it from a copy, or "
            "begin another study; the run folders beside it are not touched"
        ) from None
    yield study


def _end_with_a_line(journal: Path) -> None:
    """Drops the line that a killed process did not finish, so that none is added to it."""
    from optuna.storages.journal import JournalFileSymlinkLock

    def unfinished() -> int:
        content = storage.read_file(journal)
        return len(content) - 1 - content.rfind(b"\n")

    if not unfinished():
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        if dropped := unfinished():
            os.truncate(journal, journal.stat().st_size - dropped)
    finally:
        lock.release()


def _take(study: Any, folder: Path) -> tuple[Any, Path] | None:
    """Returns a candidate that this process now holds, and its folder: one that waits, or one whose
    process has ended; None where there is neither.
    """
    from optuna.trial import TrialState

    if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.ask()  # it runs from here on, as one whose process has ended does
    for trial in _running(study):
        path = folder / _folder_of(study, trial)
        path.mkdir(exist_ok=True)
        if not _free(path):
            continue
        known = study.get_trials(deepcopy=False)[trial.number]
        if known.state == TrialState.RUNNING:
            return known, path
        locks.release(path)
    return None


def _enqueue(study: Any, number: int, seed: int, rung: int) -> None:
    facts = {"candidate": number, "seed": seed, "rung": rung}
    study.enqueue_trial(facts, user_attrs=facts)


def _rung(trial: Any) -> int:
    return int(trial.user_attrs.get("rung", 0))


def _folder_of(study: Any, trial: Any) -> str:
    """Returns the run folder of a trial: that of the first rung of its candidate and seed."""
    own = [trial.user_attrs[name] for name in ("candidate", "seed")]
    for other in study.get_trials(deepcopy=False):
        if own == [other.user_attrs[name] for name in ("candidate", "seed")]:
            return f"run-{other.number + 1}"
    raise AssertionError("a trial is among those of its study")


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
    seed = config.training.seed + trial.user_attrs["seed"]
    passes, minutes = _budget(info, data, trial)
    own = candidate
    if trial.user_attrs["candidate"] in _halved(info["candidates"]):  # passes are those of the rung
        own = {k: v for k, v in candidate.items() if k != "training.max_epochs"}
    wanted = _settings(config, own, seed=seed, minutes=minutes, max_epochs=passes)
    tell.line(f"{path.name}: {_named(candidate)}, seed {seed}")
    try:
        if not (path / storage.MANIFEST).exists() or _lacking(path, passes):
            _train(path, wanted, data, config.training.seed, tell, passes, minutes)
        run = load(path)
        rows = evidence_of(run.model, _rows(data), wanted.evaluation.num_samples, 0)
    except TautError as error:
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        tell.line(f"{path.name} failed: {error}")
        return
    each = [finite(value) for value in rows.log_evidence.tolist()]
    storage.write_json(path.with_suffix(".json"), storage.fingerprinted({"log_evidence": each}))
    # A row without a number, or of no probability at all, says more than the others.
    value = float(rows.log_evidence.mean()) if bool(rows.known.all()) else -math.inf
    study.tell(trial.number, value, skip_if_finished=True)


def _train(
    path: Path,
    config: Config,
    data: Dataset,
    split: int,
    tell: Telling,
    passes: int,
    minutes: float,
) -> None:
    if not (path / "run.json").is_file() or not any((path / "checkpoints").glob("step-*")):
        run, _, state = start(data, path, config, overwrite=True, data_seed=split)
    elif _lacking(path, passes):
        run, _, state = resume(path, minutes=minutes, max_epochs=passes)
    else:
        run, _, state = resume(path)
    carry_out(run, dataclasses.replace(data, test=data.test[:0]), state, tell)


def _lacking(path: Path, passes: int) -> bool:
    """Returns whether a run was planned for fewer passes than its rung has; a model that is exact
    was trained to its end.
    """
    config = Config.from_dict(storage.read_json(path / "run.json")["config"])
    exact = exact_of(config.model) is not None
    return not exact and (config.training.max_epochs or passes) < passes


# --------------------------------------------------------------------------- successive halving


def _halved(candidates: Sequence[Mapping[str, str]]) -> list[int]:
    """Returns which candidates are VAEs; all others are trained to their end."""
    return [i for i, each in enumerate(candidates) if _own_parts(each) is None]


def _whole_minutes(wanted: Sequence[Mapping[str, str]], halving: int | None, all_: float) -> float:
    """Returns the minutes of a training to the end, given those of all trainings."""
    left, work, before = len(_halved(wanted)), float(len(wanted) - len(_halved(wanted))), 0.0
    for share in shares_of(left, halving):
        work, before = work + left * (share - before), share
        left = math.ceil(left / (halving or 1))
    return all_ / work


def _first_minutes(wanted: Sequence[Mapping[str, str]], halving: int | None, all_: float) -> float:
    """Returns the minutes of the shortest part of a training."""
    return _whole_minutes(wanted, halving, all_) * shares_of(len(_halved(wanted)), halving)[0]


def _budget(info: Mapping[str, Any], data: Dataset, trial: Any) -> tuple[int, float]:
    """Returns the passes that a candidate has made at the end of a rung, and the minutes of it."""
    number, halving, rung = trial.user_attrs["candidate"], info.get("halving"), _rung(trial)
    candidate, halved = info["candidates"][number], _halved(info["candidates"])
    config = _settings(Config.from_dict(info["config"]), candidate)
    training = dataclasses.replace(config.training, objective=objective_of(config, data))
    passes = math.ceil(epochs_of(data, training))
    whole = _whole_minutes(info["candidates"], halving, info["minutes"] / info["seeds"])
    if number not in halved:
        return passes, whole
    shares = [0.0, *shares_of(len(halved), halving)]
    done = max(1, math.ceil(passes * shares[rung + 1] - 1e-9))
    return done, whole * (shares[rung + 1] - shares[rung])


def _promoted(study: Any, folder: Path, info: Mapping[str, Any], data: Dataset) -> bool:
    """Decides who goes on to the next rung, once all of the last one are trained, and returns
    whether there is something to train; a decision that was made is carried out to its end.
    """
    halving, halved = info.get("halving"), _halved(info["candidates"])
    if halving is None:
        return False
    while not _free(folder):
        time.sleep(PAUSE)
    try:
        for rung in range(1, len(shares_of(len(halved), halving))):
            file = folder / f"rung-{rung}.json"
            if not file.exists():
                kept = _decided(study, folder, info, data, rung)
                storage.write_json(file, storage.fingerprinted(kept))
            known = study.get_trials(deepcopy=False)
            there = {
                (t.user_attrs["candidate"], t.user_attrs["seed"]) for t in known if _rung(t) == rung
            }
            all_ = itertools.product(range(info["seeds"]), _kept(file))
            lacking = [(n, seed) for seed, n in all_ if (n, seed) not in there]
            for number, seed in lacking:
                _enqueue(study, number, seed, rung)
            if lacking or any(not t.state.is_finished() for t in known):
                return True
        return False
    finally:
        locks.release(folder)


def _kept(file: Path) -> list[int]:
    return [int(number) for number in storage.read_unbroken_json(file)["kept"]]


def _decided(
    study: Any, folder: Path, info: Mapping[str, Any], data: Dataset, rung: int
) -> dict[str, Any]:
    """Returns who goes on to a rung, and the paired differences to the best that say so."""
    before = _halved(info["candidates"])
    if rung > 1:
        before = _kept(folder / f"rung-{rung - 1}.json")
    groups = copies(_rows(data), data.divided)
    means = {n: v for n, v in _measured(study, folder)[0].items() if n in before}
    ordered = sorted(means, key=lambda n: (-float(means[n].mean()), n))
    kept = ordered[: math.ceil(len(before) / info["halving"])]
    rows = [
        {
            "candidate": _named(info["candidates"][n]),
            "difference": _estimate(means[n] - means[ordered[0]], groups),
        }
        for n in ordered
    ]
    return {"kept": sorted(kept), "rows": rows}


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
    whole, runs, failed = _measured(study, folder)
    stopped = _stopped(folder, info)
    ended = whole.keys() - stopped
    if not ended:
        raise UsageError(f"no candidate of {shown(folder)} could be trained: see its runs")
    best = max(ended, key=lambda n: (float(whole[n].mean()), -n))
    rows: list[dict[str, Any]] = [
        {
            "candidate": _named(info["candidates"][n]),
            "run": runs[n],
            "parameters": _size(folder / runs[n]),
            "log_evidence": _estimate(each, groups),
            "difference": _estimate(each - whole[best], groups),
            "chosen": False,
            **({"stopped": _passes(folder / runs[n])} if n in stopped else {}),
        }
        for n, each in sorted(whole.items())
    ]
    to_the_end = [row for row in rows if "stopped" not in row]
    chosen = to_the_end[smallest_within_one_error(to_the_end)]
    chosen["chosen"] = True
    return {
        "source": info["source"],
        "num_data": len(x),
        "seeds": info["seeds"],
        "rows": rows,
        "failed": sorted({_named(info["candidates"][n]) for n in failed}),
        "test": _tested(load(folder / chosen["run"]), data),
    }


def _measured(study: Any, folder: Path) -> tuple[dict[int, Tensor], dict[int, str], list[int]]:
    """Returns log p(x) of each candidate that could be trained, (S, N), its first run, and those
    that could not.
    """
    means, runs, failed = dict[int, list[Tensor]](), dict[int, str](), list[int]()
    for trial in study.get_trials(deepcopy=False):
        number = trial.user_attrs["candidate"]
        if trial.value is None or not math.isfinite(trial.value):
            failed.append(number)
        elif _rung(trial) == 0:  # later rungs write into the same file
            path = folder / _folder_of(study, trial)
            known = storage.read_unbroken_json(path.with_suffix(".json"))
            values = torch.tensor(known["log_evidence"], dtype=torch.float64)
            means.setdefault(number, []).append(values)
            runs.setdefault(number, path.name)
    return {n: torch.stack(v) for n, v in means.items() if n not in failed}, runs, failed


def _stopped(folder: Path, info: Mapping[str, Any]) -> set[int]:
    """Returns which candidates were stopped early: VAEs that did not reach the last rung."""
    halved = _halved(info["candidates"])
    rungs = len(shares_of(len(halved), info.get("halving"))) - 1
    if not rungs:
        return set()
    return set(halved) - set(_kept(folder / f"rung-{rungs}.json"))


def _passes(run: Path) -> float:
    """Returns the passes that a run has made, be it that the time ended them."""
    return float(storage.read_lines(run / "history.jsonl", records.HISTORY)[-1]["epoch"])


def _size(run: Path) -> int:
    weights = storage.read_shapes(run / "model.safetensors")
    return sum(math.prod(shape) for shape in weights.values())


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
