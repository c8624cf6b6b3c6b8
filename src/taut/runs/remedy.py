"""What the command of a finding does, done: from ``taut tighten RUN`` to a run that is ready for
its training.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from taut.build.config import Config, settings
from taut.build.usual import exact_of, objective_of
from taut.data import Dataset
from taut.runs.fit import resume, start
from taut.runs.folder import TRAINED_ALONE, Stored
from taut.runs.refit import refit
from taut.runs.rescale import rescale
from taut.runs.tighten import tighten
from taut.system import storage
from taut.training.loop import State
from taut.training.pace import epochs_of

__all__ = ["Remedy", "begin", "copy_run", "limits", "read"]

VERBS = ("tighten", "refit", "resume", "fit")


class Remedy(NamedTuple):
    """What a command does.

    Args:
        verb: tighten, refit, resume or fit.
        options: Names without dashes and values, in their order.
    """

    verb: str
    options: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        words = [f"--{name} {shlex.quote(value)}" for name, value in self.options]
        return " ".join([self.verb, *words])

    def keeps_decoder(self, run: Stored) -> bool:
        """Returns whether decoder and, but for a refit, prior stay: what a finding predicts is then
        an estimate of the very number that comes true.
        """
        alone = any(word in run.info for word in TRAINED_ALONE)
        return self.verb in ("tighten", "refit") or (self.verb == "resume" and alone)


def read(command: str) -> Remedy | None:
    """Returns what a command does; None where it trains nothing.

    Examples:
        >>> read('taut tighten RUN --posterior "FullCovarianceNormal()"')
        Remedy(verb='tighten', options=(('posterior', 'FullCovarianceNormal()'),))
        >>> read("taut check DATA") is None
        True
    """
    words = shlex.split(command)
    if len(words) < 3 or words[0] != "taut" or words[1] not in VERBS:
        return None
    names, values = words[3::2], words[4::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        return None
    return Remedy(
        words[1], tuple((n.removeprefix("--"), v) for n, v in zip(names, values, strict=True))
    )


def begin(
    remedy: Remedy,
    run: Stored,
    data: Dataset,
    out: Path,
    *,
    trained: Config,
    minutes: float | None,
    max_epochs: int | None,
) -> tuple[Stored, Dataset, State]:
    """Returns a new run, ready for its training; the one that it comes from stays as it is.

    Args:
        remedy: What to do.
        run: The run that the finding is of.
        data: Its data.
        out: The folder to make, instead of what a kill left there.
        trained: The configuration of the last run whose parts were all trained: those of a run that
            was tightened are of a posterior alone.
        minutes: Time for the training, at most.
        max_epochs: Passes over the training data, at most.
    """
    run.kept, given = data, dict(remedy.options)
    alone = dataclasses.replace(run.config.training, objective="ELBO()")  # without a warm-up
    ends = limits(data, dataclasses.replace(run.config, training=alone), minutes, max_epochs)
    if remedy.verb == "tighten":
        return tighten(run, out, overwrite=True, **_names(given), **ends)
    if remedy.verb == "refit" and "likelihood" in given:
        return rescale(run, out, overwrite=True, **_names(given), minutes=minutes)
    if remedy.verb == "refit":
        return refit(run, out, overwrite=True, **_names(given), **ends)
    if remedy.verb == "resume":
        copy_run(run.path, out)
        passes = given.get("max-epochs")
        more = None if passes is None else int(passes)
        most = min(float(given.get("minutes", math.inf)), minutes or math.inf)
        return resume(out, max_epochs=more, minutes=most if most < math.inf else None)
    config = _fresh(remedy, run, trained)
    if exact_of(config.model) is None:
        ends = limits(data, config, minutes, max_epochs)
        training = dataclasses.replace(config.training, **ends)
        config = dataclasses.replace(config, training=training)
    return start(data, out, config, overwrite=True, data_seed=run.data_seed)


def copy_run(path: Path, to: Path) -> None:
    """Copies a finished run, without what was found out about it since: there whole, or not."""
    temporary = storage.temporary_folder(to.parent)
    later = ("audit.json", "gradients.json", "report.html")
    storage.copy_folder(path, temporary, (".*", *later))
    storage.write_manifest(temporary)
    storage.commit_folder(temporary, to)


def limits(
    data: Dataset, config: Config, minutes: float | None, max_epochs: int | None
) -> dict[str, Any]:
    """Returns the settings that end a training: after as many passes as usual, or those given, and
    sooner where the time is up.
    """
    objective = objective_of(config, data)
    usual = epochs_of(
        data, dataclasses.replace(config.training, objective=objective, max_epochs=max_epochs)
    )
    return {"max_epochs": math.ceil(usual), "minutes": minutes}


def _names(given: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in given.items()}


def _fresh(remedy: Remedy, run: Stored, trained: Config) -> Config:
    """Returns the configuration of ``taut fit DATA`` with the options of a remedy: data and
    training are those of the last whole training, an objective too where the command does not
    change it.
    """
    values, known = trained.to_dict(), settings()
    values["model"] = {}
    own = values["training"]["objective"]
    values["training"] |= {"objective": None, "max_epochs": None, "minutes": None}
    for name, value in remedy.options:
        place = f"{getattr(known.get(name.replace('-', '_')), 'section', '')}.{name}"
        if name == "set":
            place, _, value = value.partition("=")
        section, _, own_name = place.replace("-", "_").partition(".")
        values.setdefault(section, {})[own_name] = value
    if values["training"]["objective"] == run.config.training.objective:
        values["training"]["objective"] = own
    if values["model"].get("model") not in (None, "VAE"):
        values["training"] |= {"objective": None, "learning_rate": None}
    return Config.from_dict(values)
