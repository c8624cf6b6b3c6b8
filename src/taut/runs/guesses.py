"""Changes whose worth no audit tells: what ``taut improve`` tries once no finding is worth a trial.

An audit prices what it can measure under the model that is there. What another training would come
to it cannot: regularisation, a prior that is learned together with the networks, wider networks.
Each of these is trained anew and judged as every change is. They are in the order of what they
brought on digits (`benchmarks/README.md`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from taut.build.config import Config
from taut.build.spec import parse
from taut.build.usual import VAE_MODEL
from taut.evidence.remedies import USUAL, again, kind_of, widths, with_arguments
from taut.runs.remedy import Remedy, read

__all__ = ["guesses"]

DROPOUT = 0.1


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
    if widths(decoder) is not None and "dropout" not in dict(decoder.arguments):
        changes["decoder"] = with_arguments(decoder, dropout=DROPOUT)
    learned = {}
    if model.prior == USUAL and kind_of(parts) == "Gaussian":
        learned["prior"] = "Flow()"
    single = {"regularisation": changes, "learned prior": learned, "wider networks": _wider(parts)}
    single = {name: change for name, change in single.items() if change}
    tries = {}
    for count in range(len(single), 1, -1):  # first, since each alone may be too little to be sure
        names = list(single)[:count]
        tries[", ".join(names)] = {k: v for name in names for k, v in single[name].items()}
    for name, change in (tries | single).items():
        remedy = read(again(parts, **change))
        if remedy is not None:
            yield name, remedy


def _wider(parts: Mapping[str, Any]) -> dict[str, str]:
    """Returns networks of twice the width, the decoder with twice the dropout."""
    wider = {}
    for name in ("encoder", "decoder"):
        network = parse(str(parts[name]))
        hidden = widths(network)
        if hidden is None:
            continue
        more: dict[str, Any] = {"hidden": tuple(2 * width for width in hidden)}
        if name == "decoder":
            more["dropout"] = max(2 * DROPOUT, dict(network.arguments).get("dropout", 0.0))
        wider[name] = with_arguments(network, **more)
    return wider
