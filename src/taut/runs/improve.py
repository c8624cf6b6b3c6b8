r"""``taut improve``: findings carried out one by one, each with its nats before and after.

An audit on the validation rows names changes and what they are worth. The top one whose command
can be carried out is: its run is trained, and the difference of each validation row before and
after is taken,

$$ t = \bar d / \mathrm{se}(d), \qquad d_n = \ell_n^{\text{after}} - \ell_n^{\text{before}}. $$

It is kept only if a one-sided test of $\mathbb{E}[d] \le 0$ rejects at alpha over the number of
trials (Bonferroni). $\ell$ is the ELBO where decoder and prior stay or only the prior or the scale
is another, which is the very number that the finding predicts, and log p(x) where all is trained
anew: there the prediction is a claim about the model before. Once no finding is worth a trial,
changes whose worth no audit tells are tried (``runs.guesses``), and judged alike. The test rows are
read once, at the end, for the first model and the last.

The folder holds ``improve.json``, which is written after each step, the run ``start`` and a run
for each step; killed at any moment, it goes on from there.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import scipy.stats
import torch

from taut.build.config import Config
from taut.build.usual import exact_of
from taut.data import Dataset
from taut.evidence import Estimate
from taut.evidence.audit import Effort
from taut.evidence.rows import RowEvidence
from taut.report.staircase import page
from taut.runs.audit import audit_run, some_rows
from taut.runs.carry_out import carry_out
from taut.runs.fit import resume, start
from taut.runs.folder import Stored, load, read_data
from taut.runs.gain import bound_of, gain_of
from taut.runs.guesses import guesses as guesses_of
from taut.runs.measure import copies, evidence_of
from taut.runs.place import make_folder, stem
from taut.runs.remedy import Remedy, begin, copy_run, limits, read
from taut.runs.telling import Telling
from taut.system import locks, records, storage
from taut.system.counting import check_amount, check_count
from taut.system.errors import TautError, UsageError, shown

__all__ = ["STATE", "again", "improve"]

STATE = "improve.json"
START = "start"  # the folder of the first run
ALPHA = 0.05  # chance that any change of a whole improvement is kept in error
ROWS = 500  # validation rows that are looked at, at most
LITTLE = Effort(
    num_samples=1000,
    num_chains=8,
    max_temperatures=50,
    simulated=4,
    naive=4,
    samples=200,
    task_seconds=0.0,
)
SHARE = 0.5  # of the time left that a training may take
# Share of the encoder's gap that its remedy may leave open, where no trial was made: an encoder
# that is trained on comes close to the best posterior of each row, not up to it.
OPEN = 0.1
BOUNDS = ("elbo", "log_evidence")


def improve(
    source: str | Path,
    out: str | Path | None = None,
    *,
    minutes: float,
    gain: float = 0.2,
    trials: int = 8,
    max_epochs: int | None = None,
    num_data: int = ROWS,
    config: Config | None = None,
    guesses: bool = True,
    seed: int = 0,
    tell: Telling | None = None,
) -> dict[str, Any]:
    """Improves a run, or a first model of data, and returns what was tried: ``improve.json``.

    Args:
        source: A run folder, which stays as it is, or data as ``taut fit`` takes them.
        out: The folder to make; by default the next free one below runs/.
        minutes: Time for all of it.
        gain: Nats: a finding that is worth less is not worth a training.
        trials: Changes that are tried, at most.
        max_epochs: Passes over the training data of each training, at most.
        num_data: Validation rows that are looked at, at most.
        config: Settings of the first model of data; None for a run, which has its own.
        guesses: Whether, once no finding is worth a training, changes are tried whose worth no
            audit tells.
        seed: The same seed gives the same numbers.
        tell: What is told of the progress.

    Raises:
        UsageError: no rows are held out to choose by, settings for a run that has its own, or a
            number that is none.
        DataError: the data are not those of the run.
    """
    trials, num_data = check_count("trials", trials), check_count("num_data", num_data)
    minutes, gain = check_amount("minutes", minutes, above=True), check_amount("gain", gain)
    if max_epochs is not None:
        max_epochs = check_count("max_epochs", max_epochs)
    is_run = (Path(source) / "run.json").is_file()
    if is_run and config is not None:
        raise UsageError(f"{shown(str(source))} is a run, which has settings of its own: omit them")
    if is_run:
        _check(load(source).data(), num_data)
    else:
        _check(read_data(str(source), config or Config()), num_data)
    name = Path(source).resolve().name if is_run else stem(str(source))
    folder = make_folder(out, f"{name}-improved", overwrite=None)
    info = {
        "source": str(Path(source).resolve()) if Path(source).exists() else str(source),
        "minutes": minutes,
        "gain": gain,
        "trials": trials,
        "max_epochs": max_epochs,
        "num_data": num_data,
        "config": None if is_run else (config or Config()).to_dict(),
        "guesses": guesses,
        "seed": seed,
        "seconds": 0.0,
        "current": START,
        "steps": [],
        "ended": None,
        "test": None,
    }
    try:
        _Improvement(folder, info, tell or Telling()).save()
    finally:
        locks.release(folder)
    return again(folder, tell=tell)


def again(
    path: str | Path, *, tell: Telling | None = None, asked: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Goes on with an improvement that was stopped; the same as if it never had been.

    Args:
        path: Its folder.
        tell: What is told of the progress.
        asked: Settings that were given again, by name.

    Raises:
        UsageError: one of them is another than it was begun with.
    """
    folder = Path(path)
    info = storage.read_unbroken_json(folder / STATE)
    records.checked(info, records.IMPROVEMENT, folder / STATE)
    for name, value in (asked or {}).items():
        if info.get(name) != value:
            raise UsageError(
                f"{shown(path)} goes on as it was begun, with {name} {info.get(name)}: omit it, or "
                "begin another improvement"
            )
    with locks.locked(folder):
        storage.clear_temporary(folder)
        work = _Improvement(folder, info, tell or Telling())
        if info["test"] is None:
            work.go_on()
    return work.info


class _Improvement:
    """An improvement in its folder."""

    def __init__(self, folder: Path, info: dict[str, Any], tell: Telling) -> None:
        self.folder, self.info, self.tell = folder, info, tell
        self.began = time.monotonic()
        self.known: dict[str, RowEvidence] = {}
        self.cut = False  # whether the last audit had no time for all of its sections
        self.data: Dataset

    def save(self) -> None:
        """Writes the state, and the page that shows it."""
        now = time.monotonic()
        self.info["seconds"] += now - self.began
        self.began = now
        info = {k: v for k, v in self.info.items() if k != "sha256"}
        self.info = storage.fingerprinted(info)
        storage.write_json(self.folder / STATE, self.info)
        storage.write_bytes(self.folder / "report.html", page(self.info, self.folder).encode())

    def left(self) -> float:
        """Returns the minutes that are left."""
        spent = self.info["seconds"] + time.monotonic() - self.began
        return float(self.info["minutes"]) - spent / 60

    def go_on(self) -> None:
        """Takes steps until nothing is worth one, or the time is up, and reads the test rows."""
        run = self.first()
        while self.info["ended"] is None:
            if len(self.info["steps"]) >= self.info["trials"]:
                self.info["ended"] = "trials"
                break
            began = time.monotonic()
            finding = self.find(run)
            if finding is None:
                self.info["ended"] = "short" if self.cut else "nothing"
            elif self.left() <= (time.monotonic() - began) / 60:
                self.info["ended"] = "time"
            else:
                run = self.step(run, *finding)
            self.save()
        self.info["test"] = self.tested()
        self.save()

    def first(self) -> Stored:
        """Returns the run that stands now; makes the first one where there is none."""
        path, config = self.folder / START, self.info["config"]
        if config is None:
            if not path.exists():
                copy_run(Path(self.info["source"]), path)
        else:
            settings = Config.from_dict(config)

            def make() -> tuple[Stored, Dataset, Any]:
                data, training = read_data(self.info["source"], settings), settings.training
                if exact_of(settings.model) is None:
                    most = max(SHARE * self.left(), 1e-3)
                    ends = limits(data, settings, most, training.max_epochs)
                    training = dataclasses.replace(training, **ends)
                limited = dataclasses.replace(settings, training=training)
                return start(data, path, limited, overwrite=True)

            self.train(path, make)
        run = load(self.folder / self.info["current"])
        self.data = run.data()
        _check(self.data, self.info["num_data"])
        return run

    def train(self, path: Path, make: Any, longer: Stored | None = None) -> None:
        """Trains a run and measures it on its validation rows: one that was stopped from where it
        was, and else one that is made.

        Args:
            path: Its folder.
            make: Makes it.
            longer: The finished run of which it begins as a copy.
        """
        if (path / storage.MANIFEST).exists():
            made = storage.read_json(path / "run.json")
            if longer is None or made.get("extended") != longer.info.get("extended"):
                return
            run, data, state = make()
        elif (path / "run.json").is_file() and any((path / "checkpoints").glob("step-*")):
            run, data, state = resume(path)
        else:
            run, data, state = make()
        carry_out(run, dataclasses.replace(data, test=data.test[:0]), state, self.tell)

    def find(self, run: Stored) -> tuple[Mapping[str, Any], Remedy] | None:
        """Returns the top finding whose command can be carried out and was not yet, of an audit on
        the validation rows.
        """
        run.kept = self.data
        file = run.path / "audit.json"
        if file.exists():
            audit = storage.read_checked_json(file)
        else:
            effort = dataclasses.replace(LITTLE, minutes=max(SHARE * self.left(), 0.0))
            with self.tell.stages() as report:
                audit = audit_run(
                    run,
                    part="validation",
                    num_data=self.info["num_data"],
                    effort=effort,
                    seed=self.info["seed"],
                    report=report,
                )
        self.cut = audit["stopped"] is not None
        tried = {(s["from"], s["remedy"]) for s in self.info["steps"]}
        tried |= {(self.info["current"], known) for _, known in tried if known.startswith("fit ")}
        for finding in audit["findings"]:
            remedy, nats = read(finding["command"]), finding["nats"]
            worth = finding["name"] == "collapse" or (nats or 0.0) > self.info["gain"]
            if remedy and worth and (self.info["current"], str(remedy)) not in tried:
                return finding, remedy
        if self.info.get("guesses") and not self.cut:
            for name, remedy in guesses_of(self.trained()):
                if (self.info["current"], str(remedy)) not in tried:
                    return {"name": name, "nats": None}, remedy
        return None

    def step(self, run: Stored, finding: Mapping[str, Any], remedy: Remedy) -> Stored:
        """Carries out a finding, and returns the run that stands then."""
        steps, began = self.info["steps"], self.info["seconds"]
        name = f"step-{len(steps) + 1}"
        fixed = remedy.keeps_decoder(run)
        done: dict[str, Any] = {
            "finding": finding["name"],
            "from": self.info["current"],
            "run": name,
            "remedy": str(remedy),
            "decoder_stays": fixed,
            "bound": "elbo" if fixed else "log_evidence",
            "predicted": _predicted(finding, remedy),
            "came_true": None,
            "p_value": None,
            "covered": None,
            "kept": False,
            "refused": None,
        }
        self.tell.line(f"{name}: {finding['name']}, {done['remedy']}")
        try:
            path, longer = self.folder / name, run if remedy.verb == "resume" else None
            self.train(path, lambda: self.begun(remedy, run, path), longer)
            after = load(self.folder / name)
        except TautError as error:
            done["refused"] = str(error).partition("\n")[0]
            after = run
        else:
            done |= self.judged(done, run, after)
        self.save()
        steps.append(done | {"minutes": round((self.info["seconds"] - began) / 60, 2)})
        if not done["kept"]:
            return run
        self.info["current"] = name
        return after

    def begun(self, remedy: Remedy, run: Stored, out: Path) -> tuple[Stored, Dataset, Any]:
        return begin(
            remedy,
            run,
            self.data,
            out,
            trained=self.trained(),
            minutes=max(SHARE * self.left(), 1e-3),
            max_epochs=self.info["max_epochs"],
        )

    def trained(self) -> Config:
        """Returns the configuration of the last run whose parts were all trained."""
        whole = START
        for step in self.info["steps"]:
            if step["kept"] and not step["decoder_stays"]:
                whole = step["run"]
        return load(self.folder / whole).config

    def judged(self, done: Mapping[str, Any], run: Stored, after: Stored) -> dict[str, Any]:
        """Returns what came true of a prediction, and whether the change is kept."""
        x = some_rows(self.data.validation, self.info["num_data"], self.info["seed"], "audit")
        groups = copies(x, self.data.divided)
        old, new = (self.evidence(each, x) for each in (run, after))
        found = gain_of(new, old, done["bound"], groups)
        error = max(e for e in (found.test_error, found.mc_error, 0.0) if e is not None)
        count = len(x) if groups is None else int(groups.max()) + 1
        lost = int((~new.known).sum()) - int((~old.known).sum())
        p_value = 1.0
        if lost <= 0 and math.isfinite(found.value):
            t = found.value / max(error, 1e-12)
            p_value = float(scipy.stats.t.sf(t, max(count - 1, 1)))
        predicted, covered = done["predicted"], None
        if predicted is not None:
            covered = covers(predicted, found.value, error)
        return {
            "came_true": {"value": found.value, "error": error},
            "p_value": p_value,
            "covered": covered,
            "kept": p_value < ALPHA / self.info["trials"],
        }

    def evidence(self, run: Stored, x: torch.Tensor) -> RowEvidence:
        """Returns what is known of the validation rows under a run, measured once."""
        name = run.path.name
        if name not in self.known:
            samples = run.config.evaluation.num_samples
            self.known[name] = evidence_of(run.model, x, samples, self.info["seed"])
        return self.known[name]

    def tested(self) -> dict[str, Any]:
        """Returns the bounds of the first model and the last on the test rows, and how far apart
        they are; nothing where no rows were held out for that.
        """
        x = self.data.test
        if not len(x):
            return {}
        groups, rows = copies(x, self.data.divided), []
        for name in (START, self.info["current"]):
            run = load(self.folder / name)
            samples = run.config.evaluation.num_samples
            rows.append(evidence_of(run.model, x, samples, self.info["seed"]))
        return {
            "num_data": len(x),
            **{
                bound: {
                    "first": Estimate.of(*bound_of(rows[0], bound), groups).to_dict(),
                    "last": Estimate.of(*bound_of(rows[1], bound), groups).to_dict(),
                    "difference": gain_of(rows[1], rows[0], bound, groups).to_dict(),
                }
                for bound in BOUNDS
            },
        }


def covers(predicted: Mapping[str, float], value: float, error: float) -> bool:
    """Returns whether what came true agrees with what was predicted, within two errors of their
    difference.
    """
    least, most = predicted["value"], predicted.get("most", predicted["value"])
    if value <= least:
        return least - value <= 2 * math.hypot(predicted["error"], error)
    return value - most <= 2 * math.hypot(predicted.get("most_error", predicted["error"]), error)


def _predicted(finding: Mapping[str, Any], remedy: Remedy) -> dict[str, float] | None:
    """Returns the nats that a finding promises, with the error of the measurement and of what its
    remedy may leave open; where a trial was made, those that it reached and the most there can be.
    """
    if finding["nats"] is None:
        return None
    value, error = float(finding["nats"]), finding["error"] or 0.0
    if finding.get("name") == "overfitting":  # what is lost to it is the most that there is to win
        return {"value": 0.0, "error": 0.0, "most": value, "most_error": error}
    if finding.get("most") is not None:
        most, most_error = float(finding["most"]), float(finding["most_error"] or 0.0)
        return {"value": value, "error": error, "most": max(value, most), "most_error": most_error}
    left = OPEN * value if remedy.verb == "tighten" else 0.0
    return {"value": value, "error": math.hypot(error, left)}


def _check(data: Dataset, num_data: int) -> None:
    if len(data.validation) < 2 or num_data < 2:
        raise UsageError(
            "nothing tells if a change is better without validation rows: give "
            "--set data.validation_fraction=0.1, or --num-data of at least 2"
        )
