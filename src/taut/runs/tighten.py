"""Training the posterior of a run on, under the same decoder and prior."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import torch

from taut.build.model import is_slow, unshared
from taut.data import Dataset
from taut.model import VAE
from taut.runs.fitted import Source
from taut.runs.folder import Stored
from taut.runs.onward import ground, planned, train_on
from taut.runs.place import make_folder
from taut.system.errors import UsageError
from taut.training.loop import State

__all__ = ["tighten"]

TIGHTENING = "StickingTheLanding(num_samples=4)"  # its noise vanishes as q approaches the posterior
# where the density of a given z, which that asks for, costs a pass for each dimension
TIGHTENING_SLOW = "ELBO(num_samples=4)"
# training data that an encoder may learn by heart: half of each batch is then drawn by the model
FEW = 10_000
# share of the rate at which an encoder is trained on: the full rate would first undo what it has
# learned
GENTLE = 0.2


def tighten(
    run: Stored,
    out: str | Path | None = None,
    *,
    posterior: str | None = None,
    encoder: str | None = None,
    source: Source | None = None,
    test: Source | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> tuple[Stored, Dataset, State]:
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
            StickingTheLanding() by default, or ELBO() for a posterior whose density of a given z
            costs a pass for each dimension.

    Raises:
        UsageError: a posterior that cannot be reparameterized, or a setting is wrong.
    """
    nothing = "whose posterior is exact: every gap is zero, and there is nothing to tighten"
    theirs, data = ground(run, out, source, test, "tightened", nothing)
    old, gentle = run.config, GENTLE
    if encoder or "tightened" in run.info:  # whose rate is gentle already
        gentle = 1.0
    slow = is_slow(posterior or cast(str, old.model.posterior))
    defaults = {
        "objective": TIGHTENING_SLOW if slow else TIGHTENING,
        "learning_rate": old.training.peak * gentle,
        "simulated": 0.5 if len(data.train) < FEW else 0.0,
    }
    model = dataclasses.replace(
        unshared(old.model),
        posterior=posterior or old.model.posterior,
        encoder=encoder or old.model.encoder,
    )
    config = planned(run, data, defaults | settings, model)

    def take(model: VAE) -> None:
        model.prior.load_state_dict(theirs.prior.unshared())
        model.likelihood.load_state_dict(theirs.likelihood.state_dict())
        if encoder is None:
            _take_over(model.posterior, theirs.posterior)

    def place(name: str) -> Path:
        return make_folder(out, f"{name}-tight", overwrite)

    return train_on(run, data, config, "tightened", take, place)


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
