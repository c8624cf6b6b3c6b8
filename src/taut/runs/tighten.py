"""Training the posterior of a run on, under the same decoder and prior."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from taut.build.config import ModelConfig
from taut.build.model import build_vae, is_slow, unshared
from taut.build.spec import parse
from taut.build.statistics import summarize
from taut.build.usual import complete
from taut.contrast import GAN
from taut.data import Dataset
from taut.evidence.trial import FEW
from taut.model import VAE
from taut.runs.assemble import going_together
from taut.runs.fitted import Source
from taut.runs.folder import Stored, data_of
from taut.runs.onward import check_other, ground, planned, train_on
from taut.runs.place import make_folder
from taut.system.errors import UsageError
from taut.system.seeds import stream
from taut.training.loop import State
from taut.use.blocks import device_of

__all__ = ["richer", "tighten"]

TIGHTENING = "StickingTheLanding(num_samples=4)"  # its noise vanishes as q approaches the posterior
# where the density of a given z, which that asks for, costs a pass for each dimension
TIGHTENING_SLOW = "ELBO(num_samples=4)"
# the next richer family, which the audit tries where one is the limit; a step of a flow costs five
# times that of a full covariance
RICHER = {
    "DiagonalNormal": ("FullCovarianceNormal()",),
    "FullCovarianceNormal": ("CouplingFlow()",),
}


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

    A generator without a density is given one: a Gaussian observation, whose width is fitted, and a
    new posterior.

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
    if isinstance(run.model, GAN):
        return _observe(run, run.model, out, posterior, encoder, source, test, overwrite, settings)
    nothing = "whose posterior is exact: every gap is zero, and there is nothing to tighten"
    theirs, data = ground(run, out, source, test, "tightened", nothing)
    old = run.config
    taken: tuple[str, ...] = ()
    if encoder is None and settings.get("learning_rate") is None:  # a rate that is given is for all
        parts = {name.partition(".")[0] for name, _ in theirs.posterior.named_parameters()}
        taken = tuple(f"posterior.{name}" for name in sorted(parts))
    slow = is_slow(posterior or cast(str, old.model.posterior))
    defaults = {
        "objective": TIGHTENING_SLOW if slow else TIGHTENING,
        "learning_rate": old.training.peak,
        "gentle": taken,
        "simulated": 0.5 if len(data.train) < FEW else 0.0,
    }
    model = _with(old.model, posterior, encoder)
    config = planned(run, data, defaults | settings, model)

    def take(model: VAE) -> None:
        _start(model, theirs, encoder is None)

    def place(name: str) -> Path:
        return make_folder(out, f"{name}-tight", overwrite)

    return train_on(run, data, config, "tightened", take, place)


def _observe(
    run: Stored,
    theirs: GAN,
    out: str | Path | None,
    posterior: str | None,
    encoder: str | None,
    source: Source | None,
    test: Source | None,
    overwrite: bool,
    settings: dict[str, Any],
) -> tuple[Stored, Dataset, State]:
    """Returns a run of a VAE whose decoder is a generator that stays as it is: the posterior is
    new, and the width of the Gaussian observation is fitted with it.

    Where ELBO and log p(x) are known the width is that of the pair (G, sigma), and they are of the
    pair.
    """
    check_other(run, out, "observed")
    data = run.data() if source is None and test is None else data_of(run, source, test)
    old = run.config
    model = dataclasses.replace(
        old.model,
        model=None,
        posterior=posterior or "DiagonalNormal()",
        encoder=encoder or old.model.encoder,
    )
    defaults = {"objective": "ELBO()", "learning_rate": old.training.peak, "simulated": 0.0}
    config = planned(run, data, defaults | settings, model)
    if config.training.simulated:
        raise UsageError(
            "simulated rows say nothing of how far data lie from a generator, which is what is "
            "fitted: omit --simulated"
        )

    def take(model: VAE) -> None:
        model.likelihood.load_state_dict(theirs.likelihood.state_dict())

    def place(name: str) -> Path:
        return make_folder(out, f"{name}-observed", overwrite)

    return train_on(run, data, config, "observed", take, place)


def richer(run: Stored, data: Dataset) -> dict[str, Callable[[], VAE]]:
    """Returns what makes the model of a run with a richer posterior that starts at its own, by the
    specification of the posterior; nothing where there is none.
    """
    theirs, own = run.model, str(run.config.model.posterior)
    if not isinstance(theirs, VAE) or parse(own).name not in RICHER:
        return {}

    def made(posterior: str) -> VAE:
        config = complete(_with(run.config.model, posterior), data.schema)
        with stream(run.config.training.seed, "init"), going_together():
            model = build_vae(config, data.schema, summarize(data))
        _start(model, theirs)
        return model.to(device_of(theirs))

    flat = run.config.model.latent_dim == 1  # a flow has nothing to bend by
    names = [n for n in RICHER[parse(own).name] if not (flat and n == "CouplingFlow()")]
    return {name: partial(made, name) for name in names}


def _with(model: ModelConfig, posterior: str | None, encoder: str | None = None) -> ModelConfig:
    """Returns the parts of a model with another posterior, or another encoder, of its own."""
    return dataclasses.replace(
        unshared(model),
        posterior=posterior or model.posterior,
        encoder=encoder or model.encoder,
    )


def _start(model: VAE, theirs: VAE, posterior: bool = True) -> None:
    """Gives a model the decoder and the prior of another one, and what fits of its posterior."""
    model.prior.load_state_dict(theirs.prior.unshared())
    model.likelihood.load_state_dict(theirs.likelihood.state_dict())
    if posterior:
        _take_over(model.posterior, theirs.posterior)


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
