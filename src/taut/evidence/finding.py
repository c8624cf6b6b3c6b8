"""A finding: something worth changing, with the nats that it is worth, its evidence and a command.

A finding of nats needs a number above ``WORTH`` and three standard errors above zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from taut.system.errors import clause

__all__ = ["RELIABLE", "WORTH", "Finding", "counts", "show", "worth"]

WORTH = 0.1  # nats
SURE = 3.0  # standard errors
RELIABLE = 0.9  # share of the rows whose log p(x) must be reliable


class Finding(NamedTuple):
    """Something worth changing.

    Args:
        name: One word for it.
        nats: What it is worth, per data point; None where no number can be said.
        error: Standard error of that.
        raises: "ELBO", "log p(x)", "density" (of the data, through its scale alone), "held-out
            bound" (that of the training) or "" (the cost of computing alone).
        what: What is wrong.
        evidence: The numbers behind it.
        action: What to do.
        command: The command that does it.
        most: What it can be worth at most, where ``nats`` is what a short trial or a part of the
            remedy reached.
        most_error: Standard error of that.
    """

    name: str
    nats: float | None
    error: float | None
    raises: str
    what: str
    evidence: str
    action: str
    command: str
    most: float | None = None
    most_error: float | None = None


def counts(estimate: Mapping[str, float | None]) -> bool:
    """Returns whether a number is worth mentioning and surely above zero."""
    value, error = estimate["value"], estimate["test_error"]
    if value is None or error is None:
        return False
    return value > max(WORTH, SURE * max(error, estimate["mc_error"] or 0.0))


def show(estimate: Mapping[str, float | None]) -> str:
    """Returns an estimate as a finding says it: "1.50 ± 0.12 nats"."""
    value, error = estimate["value"], estimate["test_error"]
    if value is None:
        return "an unknown number of nats"
    return f"{value:.2f}" + ("" if error is None else f" ± {error:.2f}") + " nats"


def worth(finding: Mapping[str, Any]) -> str:
    """Returns what a finding, as plain values, is worth, with errors: "1.50 ± 0.12 nats of ELBO, at
    most 2.50 ± 0.20", or an empty text.
    """
    nats, most, raises = (finding.get(key) for key in ("nats", "most", "raises"))
    if nats is None:
        return ""
    if not nats and not raises:
        return "harmless"
    least = show({"value": nats, "test_error": finding.get("error")}) + clause(" of {}", raises)
    if most is None or most <= nats:
        return least
    above = show({"value": most, "test_error": finding.get("most_error")})
    return f"{least}, at most {above.removesuffix(' nats')}"
