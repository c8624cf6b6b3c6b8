r"""``taut refit``: another prior for a run, fitted to the codes of the training rows.

Encoder and decoder stay as they are, to the bit. Of the bound

$$ \mathbb{E}_q[\log p(x \mid z)] - \mathbb{E}_q[\log q(z \mid x)] + \mathbb{E}_q[\log p(z)] $$

the last term alone can rise then, the likelihood of a density that is fitted to $z \sim q(z \mid
x)$: training in two stages. The prior that was there is kept in the folder (``before/``), so that
the gain is measured on the same draws.

References: dai2019, tomczak2018.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from taut.build.model import unshared
from taut.build.start import start_prior
from taut.data import Dataset
from taut.model import VAE
from taut.runs.fit import begun
from taut.runs.fitted import Source
from taut.runs.folder import Stored
from taut.runs.gain import BEFORE_FOLDER
from taut.runs.onward import ground, planned, train_on
from taut.runs.place import make_folder
from taut.system.errors import UsageError
from taut.training import checkpoint
from taut.training.loop import State

__all__ = ["refit"]


def refit(
    run: Stored,
    out: str | Path | None = None,
    *,
    prior: str = "Flow()",
    source: Source | None = None,
    test: Source | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> tuple[Stored, Dataset, State]:
    """Returns a new run whose prior is to be fitted under the same encoder and decoder, ready for
    ``train_run``.

    Args:
        run: The run, finished.
        out: The folder to make; by default the next free one below runs/.
        prior: The prior that is fitted.
        source: The data, where they were an array or have moved.
        test: The official test set, likewise.
        overwrite: Whether a run folder that exists is replaced.
        **settings: Any setting of ``taut.build.config.TrainingConfig``; the objective is ELBO() by
            default, which fits the prior to draws of the posterior.

    Raises:
        UsageError: a prior that learns nothing or is over another space, or a setting is wrong.
    """
    nothing = "which has no prior that could be another: its evidence is exact"
    theirs, data = ground(run, out, source, test, "refitted", nothing)
    defaults = {
        "objective": "ELBO()",
        "learning_rate": run.config.training.peak,
        "simulated": 0.0,
        "gentle": (),
    }
    model = dataclasses.replace(run.config.model, prior=prior)
    config = planned(run, data, defaults | settings, model)
    if config.training.simulated:
        raise UsageError(
            "training.simulated is for `taut tighten`: a prior that learns from its own draws "
            "learns nothing"
        )

    def take(model: VAE) -> None:
        model.likelihood.load_state_dict(theirs.likelihood.state_dict())
        model.posterior.load_state_dict(theirs.posterior.state_dict())
        start_prior(model, data)
        if not any(p.requires_grad for p in model.prior.parameters()):
            raise UsageError(
                f"{config.model.prior} has nothing to fit: take a prior that learns, such as "
                "GaussianMixture() or Flow()"
            )

    def place(name: str) -> Path:
        path = make_folder(out, f"{name}-refit", overwrite)
        was = {f"prior.{key}": value for key, value in theirs.prior.unshared().items()}
        with begun(path):
            checkpoint.save(path / BEFORE_FOLDER, State(1, tensors=was))
        return path

    was = unshared(run.config.model).prior
    return train_on(run, data, config, "refitted", take, place, prior=was)
