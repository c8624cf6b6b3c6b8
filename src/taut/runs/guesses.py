"""Changes whose worth no audit tells: what ``taut improve`` tries once no finding is worth a trial.

An audit prices what it can measure under the model that is there. What another training would come
to it cannot: regularisation, a prior that is learned together with the networks, wider networks.
Each of these is trained anew and judged as every change is. They are in the order of what they
brought on digits (`benchmarks/README.md`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from inspect import signature
from typing import Any

from taut.build.config import Config
from taut.build.model import VAE_MODEL
from taut.build.spec import Spec, parse
from taut.evidence.remedies import USUAL, again, kind_of
from taut.networks import MLP, GatedMLP
from taut.runs.remedy import Remedy, read

__all__ = ["guesses"]

DROPOUT = 0.1
NETWORKS: dict[str, type] = {"MLP": MLP, "GatedMLP": GatedMLP}


def guesses(config: Config) -> Iterator[tuple[str, Remedy]]:
    """Yields the name of each change of a VAE, and what is to be done; none of another model.

    Args:
        config: The configuration of the last run whose parts were all trained.
    """
    model = config.model
    if model.model != VAE_MODEL:
        return
    parts = dataclasses.asdict(model) | {"objective": config.training.objective}
    changes = {}
    if parts["objective"] == "ELBO()":
        changes["objective"] = "ELBO(warmup=0.2)"
    decoder = parse(str(model.decoder))
    if decoder.name in NETWORKS and "dropout" not in dict(decoder.arguments):
        changes["decoder"] = _changed(decoder, dropout=DROPOUT)
    learned = {}
    if model.prior == USUAL and kind_of(parts) == "Gaussian":
        learned["prior"] = "Flow()"
    tries = {"regularisation": changes, "learned prior": learned}
    if changes and learned:  # first, since what each brings alone may be too little to be sure of
        tries = {"regularisation, learned prior": changes | learned} | tries
    wider = {}
    for name in ("encoder", "decoder"):
        network = parse(str(getattr(model, name)))
        if network.name not in NETWORKS:
            continue
        known = dict(network.arguments)
        usual = signature(NETWORKS[network.name]).parameters["hidden"].default
        more: dict[str, Any] = {}
        more["hidden"] = tuple(2 * width for width in known.get("hidden", usual))
        if name == "decoder":
            more["dropout"] = max(2 * DROPOUT, known.get("dropout", 0.0))
        wider[name] = _changed(network, **more)
    tries["wider networks"] = wider
    for name, change in tries.items():
        remedy = read(again(parts, **change))
        if change and remedy is not None:
            yield name, remedy


def _changed(network: Spec, **arguments: object) -> str:
    own = dict(network.arguments) | arguments
    return str(Spec(network.name, tuple(own.items()), network.module))
