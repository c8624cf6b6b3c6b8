"""Training one part of a finished run on while the others stay as they are, to the bit: what
``tighten`` and ``refit`` share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from taut.build.checks import check_gentle, check_parts
from taut.build.config import Config, ModelConfig
from taut.build.model import build_objective, build_vae
from taut.build.statistics import summarize
from taut.build.usual import complete
from taut.data import Dataset
from taut.model import VAE
from taut.models.hierarchical import HierarchicalVAE
from taut.models.stepwise import StepwiseModel
from taut.runs.assemble import going_together, merge
from taut.runs.fit import begin
from taut.runs.fitted import Fitted, Source
from taut.runs.folder import TRAINED_ALONE, Stored, check_apart, data_of, freeze_the_rest
from taut.runs.measure import EXACT_FOLDER
from taut.system import storage
from taut.system.errors import UsageError, shown
from taut.system.seeds import stream
from taut.training.loop import State

__all__ = ["check_other", "ground", "planned", "train_on"]


def ground(
    run: Stored,
    out: str | Path | None,
    source: Source | None,
    test: Source | None,
    word: str,
    nothing: str,
) -> tuple[VAE, Dataset]:
    """Returns the model and the data of a run a part of which is to be trained on.

    Args:
        run: The run, finished.
        out: The folder to make.
        source: The data, where they were an array or have moved.
        test: The official test set, likewise.
        word: What becomes of the run: a key of ``TRAINED_ALONE``.
        nothing: Why there is nothing to do where its model is exact.

    Raises:
        UsageError: the folder is that of the run, or its model is no VAE whose parts can be others.
    """
    check_other(run, out, word)
    if isinstance(run.model, StepwiseModel):
        raise UsageError(f"{shown(run.path)} holds {run.config.model.model}: {run.model.fixed}")
    if run.model.no_density:
        raise UsageError(
            f"{shown(run.path)} holds {run.config.model.model}: "
            f"{run.model.no_density.replace('RUN', shown(run.path))}"
        )
    if isinstance(run.model, HierarchicalVAE):
        raise UsageError(
            f"{shown(run.path)} holds {run.config.model.model}, whose posterior is made of its "
            "prior: neither can be another; train all of it on with `taut resume`"
        )
    if not isinstance(run.model, VAE):
        raise UsageError(f"{shown(run.path)} holds {run.config.model.model}, {nothing}")
    if source is None and test is None:
        return run.model, run.data()
    return run.model, data_of(run, source, test)


def check_other(run: Stored, out: str | Path | None, word: str) -> None:
    """Refuses the folder of a run as that of the run that comes from it."""
    if out is not None and Path(out).resolve() == run.path.resolve():
        raise UsageError(f"{shown(out)} is the run that is {word}: choose another --out")
    if out is not None:
        check_apart(Path(out), (run.path, *run.inputs))


def planned(run: Stored, data: Dataset, settings: Mapping[str, Any], model: ModelConfig) -> Config:
    """Returns the configuration of a run with settings laid over it and another model; how long it
    was trained does not say how long it is to be.
    """
    merged = merge(run.config, {"max_epochs": None, "minutes": None} | dict(settings))
    return dataclasses.replace(merged, model=complete(model, data.schema))


def train_on(
    run: Stored,
    data: Dataset,
    config: Config,
    word: str,
    take: Callable[[VAE], None],
    place: Callable[[str], Path],
    **known: Any,
) -> tuple[Stored, Dataset, State]:
    """Returns a new run in which one part is to be trained on, ready for ``train_run``.

    Args:
        run: The run that it comes from.
        data: Its data.
        config: That of the new one, complete.
        word: What becomes of the run: a key of ``TRAINED_ALONE``.
        take: Gives the new model the weights of the old one.
        place: Makes the folder, given the name of the run.
        known: What else ``run.json`` is to say under that word.
    """
    name = run.path.resolve().name
    if not run.model.no_density:
        before = run.evaluation()
        numbers = ("elbo", "log_evidence", "inference_gap", "num_samples")
        known = {"before": {key: before[key] for key in numbers}, **known}
    objective = build_objective(config.training.objective or "ELBO()")
    with stream(config.training.seed, "init"), going_together():
        model = build_vae(config.model, data.schema, summarize(data))
        take(model)
    freeze_the_rest(model, word)
    with stream(config.training.seed, "check"), going_together():
        check_parts(model, objective, data, shown(data.name) or "the data")
        check_gentle(model, config.training.gentle)
        if config.training.simulated:  # what cannot be drawn fails here, before there is a folder
            with torch.no_grad():
                model.redraw(data.train[:2].to(torch.get_default_dtype()))
    fitted = Fitted(model=model, schema=data.schema, config=config, objective=objective)
    facts = {k: v for k, v in run.info.items() if k not in ("candidates", *TRAINED_ALONE)} | {
        "fingerprint": data.fingerprint,
        "data_seed": run.data_seed,
        word: {"from": name, **known},
    }
    if "exact" in run.info:
        facts["exact"] = run.info["exact"] | {"competes": False}
    made = begin(fitted, data, lambda: place(name), facts)
    exact = run.path / EXACT_FOLDER
    if exact.is_dir():  # it is of the same data
        temporary = storage.temporary_folder(made[0].path)
        storage.copy_folder(exact, temporary)
        storage.commit_folder(temporary, made[0].path / EXACT_FOLDER)
    return made
