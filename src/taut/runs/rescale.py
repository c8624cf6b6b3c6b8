r"""``taut refit RUN --likelihood "Normal(scale='per_feature')"``: another scale for a run.

Encoder, prior and the mean of the decoder stay as they are, to the bit. Under them the scale that
maximises the bound is known in closed form,

$$ \sigma_i^2 = \mathbb{E}_{x, \, z \sim q(z \mid x)} \big[ (x_i - m_i(z))^2 \big], $$

over the training rows; a pass of training confirms it.

References: rybkin2021.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal as NormalDistribution

from taut.build.model import unshared
from taut.build.spec import parse
from taut.data import Dataset, Rows
from taut.evidence.ascent import base_of
from taut.likelihoods.reals import Normal
from taut.model import VAE
from taut.runs.fitted import Source
from taut.runs.folder import Stored
from taut.runs.onward import ground, planned, train_on
from taut.runs.place import make_folder
from taut.system.errors import UsageError
from taut.training.loop import State
from taut.use.blocks import Block, blocks_of

__all__ = ["rescale"]

ROWS = 512  # at a time
LEAST = 2.0  # times the floor of a scale: where the residuals are smaller
PARAMETERS = ("raw_scale", "data_scale")


def rescale(
    run: Stored,
    out: str | Path | None = None,
    *,
    likelihood: str = "Normal(scale='per_feature')",
    source: Source | None = None,
    test: Source | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> tuple[Stored, Dataset, State]:
    """Returns a new run whose likelihood has a scale for each feature, fitted under the same
    encoder, prior and mean, ready for ``train_run``.

    Args:
        run: The run, finished, its likelihood a Normal.
        out: The folder to make; by default the next free one below runs/.
        likelihood: The likelihood, a Normal with scale="per_feature".
        source: The data, where they were an array or have moved.
        test: The official test set, likewise.
        overwrite: Whether a run folder that exists is replaced.
        **settings: Any setting of ``taut.build.config.TrainingConfig``.

    Raises:
        UsageError: the likelihood before or after is another, or a setting is wrong.
    """
    nothing = "whose scales are exact: there is nothing to refit"
    theirs, data = ground(run, out, source, test, "rescaled", nothing)
    old, wanted = theirs.likelihood, parse(likelihood)
    if wanted.name != "Normal" or dict(wanted.arguments).get("scale") != "per_feature":
        raise UsageError(
            f"{likelihood}: what can be refitted is the scale of each feature: "
            "Normal(scale='per_feature')"
        )
    if not isinstance(old, Normal) or old.scale in ("per_datum", "per_entry"):
        raise UsageError(
            f"{run.config.model.likelihood} has no scale that could be another under the same "
            "decoder: train it again with `taut fit DATA --likelihood ...`"
        )
    learning: dict[str, Any] = {"objective": "ELBO()", "learning_rate": run.config.training.peak}
    model = dataclasses.replace(unshared(run.config.model), likelihood=likelihood)
    learning |= {"simulated": 0.0, "max_epochs": 1}
    config = planned(run, data, learning | settings, model)

    def take(model: VAE) -> None:
        new = model.likelihood
        assert isinstance(new, Normal)
        model.prior.load_state_dict(theirs.prior.unshared())
        model.posterior.load_state_dict(theirs.posterior.state_dict())
        mine, was = new.state_dict(), old.state_dict()
        keep = {k: v for k, v in was.items() if k not in PARAMETERS and k in mine}
        unit = was["data_scale"].expand_as(mine["data_scale"])
        new.load_state_dict(mine | keep | {"data_scale": unit})
        fitted = _spread(theirs, data.train, config.training.seed).to(unit) / unit
        new.start_scale(fitted.clamp(min=LEAST * new.min_scale))

    def place(name: str) -> Path:
        return make_folder(out, f"{name}-rescaled", overwrite)

    return train_on(run, data, config, "rescaled", take, place)


def _spread(model: VAE, x: Rows, seed: int) -> Tensor:
    r"""Returns the root mean square of the residuals of each feature, (\*event), float64."""

    def residual(block: Block) -> Tensor:
        values, context = model.split(block.x, block.context)
        q = model.encode(block.x, block.context)
        base = base_of(model.decode(q.sample(torch.Size((1,))), context))
        assert isinstance(base, NormalDistribution)
        square = (values - base.loc[0]).double().square().cpu()
        return torch.stack([square.nan_to_num(0.0).sum(0), (~square.isnan()).double().sum(0)])

    parts = list(blocks_of(model, x, ROWS, residual, seed=seed, name="rescale"))
    total, count = torch.stack(parts).sum(0)
    return (total / count.clamp(min=1)).sqrt()
