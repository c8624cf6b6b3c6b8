"""Training the posterior of a run on, under the same decoder and prior."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from taut.build.checks import check_parts
from taut.build.model import build_objective, build_vae, complete, unshared
from taut.build.statistics import summarize
from taut.data import Dataset
from taut.model import VAE
from taut.priors import VampPrior
from taut.runs.assemble import going_together, merge
from taut.runs.fit import begin
from taut.runs.fitted import Fitted, Source
from taut.runs.folder import Run, data_of
from taut.runs.place import make_folder
from taut.system.errors import UsageError, shown
from taut.system.seeds import stream
from taut.training.loop import State

__all__ = ["tighten"]

TIGHTENING = "StickingTheLanding(num_samples=4)"  # its noise vanishes as q approaches the posterior
# training data that an encoder may learn by heart: half of each batch is then drawn by the model
FEW = 10_000
# share of the rate at which an encoder is trained on: the full rate would first undo what it has
# learned
GENTLE = 0.2


def tighten(
    run: Run,
    out: str | Path | None = None,
    *,
    posterior: str | None = None,
    encoder: str | None = None,
    source: Source | None = None,
    test: Source | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> tuple[Run, Dataset, State]:
    """Returns a new run whose posterior is to be trained on under the same decoder and prior, ready
    for ``train_run``.

    For a fixed decoder log p(x) is a ceiling: a better posterior raises the bound toward it from
    beneath. Where the training data are few, half of each batch is drawn by the model itself
    (``simulated``): such rows never run out.

    Args:
        run: The run, finished.
        out: The folder to make; by default the next free one below runs/.
        posterior: Another family. What fits of the old posterior is taken over: a full covariance
            starts as the diagonal one was.
        encoder: Another network; its first weights are new.
        source: The data, where they were an array or have moved.
        test: The official test set, likewise.
        overwrite: Whether a run folder that exists is replaced.
        **settings: Any setting of ``taut.build.config.TrainingConfig``; the objective is
            StickingTheLanding() by default.

    Raises:
        UsageError: a posterior that cannot be reparameterized, or a setting is wrong.
    """
    if out is not None and Path(out).resolve() == run.path.resolve():
        raise UsageError(f"{shown(out)} is the run that is tightened: choose another --out")
    theirs = run.model
    if not isinstance(theirs, VAE):
        raise UsageError(
            f"{shown(run.path)} holds {run.config.model.model}, whose posterior is exact: every "
            "gap is zero, and there is nothing to tighten"
        )
    data = run.data() if source is None and test is None else data_of(run, source, test)
    old = run.config
    before = {
        name: run.evaluation()[name]
        for name in ("elbo", "log_evidence", "inference_gap", "num_samples")
    }
    gentle = 1.0 if encoder else GENTLE
    defaults = {
        "objective": TIGHTENING,
        "max_epochs": None,
        "minutes": None,
        "learning_rate": old.training.peak * gentle,
        "simulated": 0.5 if len(data.train) < FEW else 0.0,
    }
    merged = merge(old, defaults | settings)
    config = dataclasses.replace(
        merged,
        model=complete(
            dataclasses.replace(
                unshared(old.model),
                posterior=posterior or old.model.posterior,
                encoder=encoder or old.model.encoder,
            ),
            data.schema,
        ),
    )
    objective = build_objective(config.training.objective or TIGHTENING)
    with stream(config.training.seed, "init"), going_together():
        model = build_vae(config.model, data.schema, summarize(data))
        model.prior.load_state_dict(_prior_of(theirs))
        model.likelihood.load_state_dict(theirs.likelihood.state_dict())
        if encoder is None:
            _take_over(model.posterior, theirs.posterior)
    model.prior.requires_grad_(False)
    model.likelihood.requires_grad_(False)
    with stream(config.training.seed, "check"), going_together():
        check_parts(model, objective, data, shown(data.name) or "the data")
        if config.training.simulated:  # what cannot be drawn fails here, before there is a folder
            with torch.no_grad():
                model.redraw(data.train[:2].to(torch.get_default_dtype()))
    name = run.path.resolve().name
    fitted = Fitted(model=model, schema=data.schema, config=config, objective=objective)
    facts = {k: v for k, v in run.info.items() if k != "candidates"} | {
        "fingerprint": data.fingerprint,
        "data_seed": run.data_seed,
        "tightened": {"from": name, "before": before},
    }
    if "exact" in run.info:
        facts["exact"] = run.info["exact"] | {"competes": False}
    return begin(fitted, data, lambda: make_folder(out, f"{name}-tight", overwrite), facts)


def _prior_of(model: VAE) -> dict[str, torch.Tensor]:
    """Returns the state of a prior that stays as it is whatever happens to the posterior."""
    if isinstance(model.prior, VampPrior):
        return model.prior.unshared()
    return model.prior.state_dict()


def _take_over(new: torch.nn.Module, old: torch.nn.Module) -> None:
    """Gives a posterior the weights of another one.

    An output layer that has more outputs than the old one takes over the first and starts the
    others at zero: a Normal with a full covariance lists means and diagonal first, and so starts as
    the diagonal one it came from. A module that the old one lacks, such as the layers of a flow,
    starts as it always does: as the identity.
    """
    theirs = old.state_dict()
    known = {name.partition(".")[0] for name in theirs}
    mine = new.state_dict()
    for name, tensor in mine.items():
        if name.partition(".")[0] not in known:
            continue
        source = theirs.get(name)
        if (
            source is None
            or source.shape[1:] != tensor.shape[1:]
            or (source.dim() and len(source) > len(tensor))
        ):
            raise UsageError(
                "the new posterior does not fit the old one's weights: give --encoder too, to "
                "start a new one"
            )
        if source.shape == tensor.shape:
            mine[name] = source
        else:
            mine[name] = torch.cat([source, torch.zeros_like(tensor[len(source) :])])
    new.load_state_dict(mine)
