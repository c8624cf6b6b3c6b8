"""What log p(x) comes to, in a sentence: the same at the end of a training and in its report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["verdict"]

DOUBTFUL = 0.05  # share of rows without a reliable log p(x) from which on it is said
WEAK, SURE = 0.1, 3.0  # nats, and standard errors: what is not above both is no gain
LITTLE = 1.0  # nats: where the gain may be more than this, it is not called weak but unclear


def verdict(
    gain: Mapping[str, Any] | None,
    reliable_share: float | None,
    unfinished: bool,
    one: str = "row",
    part: str = "column",
) -> str:
    """Returns how much better a model is than knowing each column alone, in plain words; nothing
    where that is not known.

    Args:
        gain: log p(x) above that of independent marginals, in nats, as plain values.
        reliable_share: The share of rows whose log p(x) is reliable.
        unfinished: Whether the training was cut.
        one: What a data point is called.
        part: What it is made of.
    """
    value = (gain or {}).get("value")
    if gain is None or value is None:
        return ""
    error = math.inf  # of one row nobody knows what another one would give
    if gain["test_error"] is not None:
        error = max(gain["test_error"], gain["mc_error"] or 0.0)
    known = (reliable_share or 0.0) > 1 - DOUBTFUL
    off = f"± {error:.2f}" if math.isfinite(error) else "± unknown"
    how = f"{'' if known else 'at least '}{value:.2f} {off} nats per {one}"
    alone = f"knowing each {part} alone"
    unsure = value > WEAK or math.isinf(error)
    if unsure and value <= SURE * error and value + SURE * error > LITTLE:
        return f"Unclear: nothing tells if the model is better than {alone} ({how})."
    if value + SURE * error < -WEAK:
        if known:
            return f"Weak: the model is worse than {alone} ({how})."
        return f"Weak: nothing shows that the model is better than {alone} ({how})."
    if value <= max(WEAK, SURE * error):
        return f"Weak: the model is hardly better than {alone} ({how})."
    head = "Not trained to the end, but" if unfinished else "Good:"
    return (
        f"{head} {how} better than {alone}: it gives an unseen {one} {_times(value)} times "
        f"the probability, in the geometric mean."
    )


def _times(nats: float) -> str:
    """Returns how many times as probable so many nats are."""
    if nats < 9:
        return f"{float(f'{math.exp(nats):.2g}'):,g}"
    return f"10^{nats / math.log(10):.0f}"
