"""What one model gains over another on the same rows, row by row."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from taut.build.model import build_vae
from taut.data import Rows
from taut.evidence import Estimate
from taut.evidence.rows import RowEvidence
from taut.model import VAE, Model
from taut.runs.folder import Stored
from taut.system.seeds import untouched
from taut.training import checkpoint
from taut.use.blocks import Block, blocks_of, device_of

__all__ = ["BEFORE_FOLDER", "before_of", "bound_of", "gain_of", "gain_of_prior", "paired_gain"]

BEFORE_FOLDER = "before"  # of a run folder: the prior that a refitted one stands in for
DRAWS, ROWS = 64, 32  # of the posterior of a row, and rows at a time


def paired_gain(
    values: Tensor, errors: Tensor, others: Tensor, other_errors: Tensor, groups: Tensor | None
) -> Estimate:
    """Returns how much larger one model's numbers are than another's on the same rows.

    The difference is taken row by row, so what makes a row likely or not for both cancels. Its
    Monte Carlo error is that of independent estimates, which it is not above where they share
    their noise; a row that one of the two gives no finite number is not in the mean, and counted.

    Args:
        values: Of the one, (N,), nats.
        errors: Their Monte Carlo standard errors, (N,).
        others: Of the other, (N,), nats.
        other_errors: Their Monte Carlo standard errors, (N,).
        groups: The group of each row, see ``Estimate.of``.
    """
    return Estimate.of(values - others, torch.hypot(errors, other_errors), groups)


def bound_of(rows: RowEvidence, bound: str) -> tuple[Tensor, Tensor]:
    """Returns a bound of each row, (N,), "elbo" or "log_evidence", and its Monte Carlo error."""
    if bound == "elbo":
        return rows.first.elbo, rows.first.elbo_error
    return rows.log_evidence, rows.log_evidence_error


def gain_of(rows: RowEvidence, others: RowEvidence, bound: str, groups: Tensor | None) -> Estimate:
    """Returns how much larger a bound of rows is, "elbo" or "log_evidence", than that of the same
    rows under another model: see ``paired_gain``.
    """
    return paired_gain(*bound_of(rows, bound), *bound_of(others, bound), groups)


def before_of(run: Stored) -> VAE | None:
    """Returns the model that a run was refitted from, the same but for its prior; None for a run
    that was not refitted.
    """
    known = run.info.get("refitted")
    if known is None:
        return None
    _, state = checkpoint.load_last(run.path / BEFORE_FOLDER)
    with untouched():  # the first weights are drawn, to be replaced
        config = dataclasses.replace(run.config.model, prior=known["prior"])
        model = build_vae(config, run.schema).to(device_of(run.model))
    same = {k: v for k, v in run.model.state_dict().items() if not k.startswith("prior.")}
    model.load_state_dict(same | state.tensors)
    return model.eval()


def gain_of_prior(
    model: Model,
    before: Model,
    x: Rows,
    evidence: tuple[RowEvidence, RowEvidence],
    groups: Tensor | None,
    seed: int,
) -> dict[str, Any]:
    """Returns what a prior adds to ELBO and log p(x), as plain values.

    The posterior is the same, so the ELBO gains the mean of log p(z) - log p_before(z) over its
    draws: with the same draws for both its error is small. The Monte Carlo error of log p(x) is
    that of two independent estimates, which it is not above.

    Args:
        model: The model.
        before: The same one with the prior that was there.
        x: Data, (N, *event).
        evidence: What is known of log p(x) of each row, of the model and of the one before.
        groups: The group of each row, see ``Estimate.of``.
        seed: The same seed gives the same numbers.
    """

    def rise(block: Block) -> Tensor:
        _, context = model.split(block.x, block.context)
        z = model.encode(block.x, block.context).sample(torch.Size((DRAWS,)))
        after, was = (m.latent_prior(context).log_prob(z).double() for m in (model, before))
        return torch.stack([(after - was).mean(0), (after - was).std(0) / math.sqrt(DRAWS)])

    parts = blocks_of(model, x, ROWS, rise, seed=seed, name="gain")
    elbo, error = torch.cat([part.cpu() for part in parts], 1)
    gain = gain_of(*evidence, "log_evidence", groups)
    return {"elbo": Estimate.of(elbo, error, groups).to_dict(), "log_evidence": gain.to_dict()}
