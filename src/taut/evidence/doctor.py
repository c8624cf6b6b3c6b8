"""The doctor: from an audit to findings, in the order of the nats they are worth, each with its
evidence and a command.

A finding of nats needs a number above ``WORTH`` and three standard errors above zero. Without one,
nothing is worth changing, if all was measured and training had come to its end. Rule 0 is that it
had not: what was cut off is judged last, so this stands first. What raises the ELBO may close a gap
below the same log p(x); what raises log p(x) makes a better model.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from taut.evidence.progress import as_long_again

if TYPE_CHECKING:
    from taut.build.config import TrainingConfig

__all__ = ["Finding", "diagnose", "named", "nothing_found", "unfinished", "with_names"]

WORTH = 0.1  # nats
SURE = 3.0  # standard errors
RELIABLE = 0.9  # share of the data whose log p(x) must be reliable
RISING = 2.0  # standard errors: to train on in vain costs time, to stop too early costs the model
ENDED = {"time": "the time was up", "epochs": "the planned passes over the data were done"}


class Finding(NamedTuple):
    """Something worth changing.

    Args:
        name: One word for it.
        nats: What it is worth, per datum; None where no number can be said.
        error: Standard error of that.
        raises: "ELBO", "log p(x)", "density" (of the data, through its scale alone), "held-out
            bound" (that of the training) or "" (the cost of computing alone).
        what: What is wrong.
        evidence: The numbers behind it.
        action: What to do.
        command: The command that does it.
    """

    name: str
    nats: float | None
    error: float | None
    raises: str
    what: str
    evidence: str
    action: str
    command: str


def diagnose(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the findings of an audit as plain values, the most valuable one first.

    Args:
        audit: What ``audit.audit`` returns; sections that are missing or None are passed over.
    """
    rules = (
        _cut,
        _unknown,
        _collapse,
        _baseline,
        _scale,
        _overfitting,
        _amortization,
        _approximation,
        _prior,
        _noisy,
        _samples,
        _dead,
    )
    findings = [finding for rule in rules for finding in rule(audit)]
    # Without a number of its own: everything follows from a collapse; a model no better than the
    # baseline follows from the others.
    order = ["training was cut", "rows without a number", "collapse"]
    unnumbered = {"baseline": math.inf}
    findings.sort(key=lambda f: unnumbered.get(f.name, 0.0) if f.nats is None else -f.nats)
    findings.sort(key=lambda f: order.index(f.name) if f.name in order else len(order))
    if any(f.name == "collapse" for f in findings):
        findings = [f for f in findings if f.name != "dead dimensions"]
    return [f._asdict() for f in findings]


def with_names(findings: Sequence[Mapping[str, Any]], run: str, data: str) -> list[dict[str, Any]]:
    """Returns findings whose commands name the run and its data, so that they can be pasted."""
    return [{**finding, "command": named(finding["command"], run, data)} for finding in findings]


def named(command: str, run: str, data: str = "") -> str:
    """Returns a command, or a text with one in it, with the names of a run and its data.

    One that cannot be typed stays out.
    """
    for word, name in (("RUN", run), ("DATA", data)):
        if name.isprintable() and name:
            command = re.sub(rf"\b{word}\b", shlex.quote(name).replace("\\", r"\\"), command)
    return command


def unfinished(
    history: Sequence[Mapping[str, Any]], ended: str | None, training: TrainingConfig
) -> list[str]:
    """Returns the warning that a training was cut, if it was; RUN stands in it for the run."""
    known = {"ended": ended, "minutes": training.minutes}
    return [
        f"{f.name}: {f.what}; {f.evidence}; train on with `{f.command}`"
        for f in _cut({"history": history, "training": known})
    ]


def nothing_found(audit: Mapping[str, Any]) -> str:
    """Returns what an audit without findings says: that all is well, or how much of
    that is known.
    """
    missing = [name.replace("_", " ") for name, why in (audit.get("missing") or {}).items() if why]
    end, sure = _end(audit)
    if not missing and not audit.get("stopped") and sure:
        return f"nothing worth changing: no gap above {WORTH:g} nat in the bound{end}"
    lacking = f"; not measured: {', '.join(missing)}" if missing else ""
    return f"nothing found in what was measured{lacking}{end}"


def _end(audit: Mapping[str, Any]) -> tuple[str, bool]:
    """Returns what is known of the end of the training, and whether it speaks for leaving all as it
    is.
    """
    if audit.get("history") is None:  # a model that is no run
        return "", True
    ended = (audit.get("training") or {}).get("ended")
    more = as_long_again(audit["history"])
    if ended == "patience":
        return "; training had come to its end, the held-out bound no longer grew", True
    if more is None:
        return (
            "; whether training had come to its end is not known, since nothing was held out to "
            "tell",
            False,
        )
    if more["value"] is None or more["error"] is None:
        return (
            "; whether training had come to its end is not known, its history is too short",
            False,
        )
    if max(more["value"], RISING * more["error"]) > WORTH:
        return (
            f"; a training as long again may add {more['value']:.2f} ± {more['error']:.2f} nats to "
            f"the held-out bound",
            False,
        )
    return (
        "; training had come to its end, as long again would add less than that to the held-out "
        "bound",
        True,
    )


def _cut(audit: Mapping[str, Any]) -> Iterator[Finding]:
    known = audit.get("training") or {}
    history, ended, minutes = (
        audit.get("history") or [],
        known.get("ended") or "",
        known.get("minutes"),
    )
    more = as_long_again(history) if ended in ENDED else None
    if more is None:
        return
    value, error, last = more["value"], more["error"], more["last"]
    if value is None or error is None:
        if last is not None and last <= 0:
            return
        rise = (
            "it was measured only once"
            if last is None
            else f"it rose by {last:.2f} nats over the last quarter of the steps"
        )
        course = f"{rise}, and the history is too short to say what more would buy"
    elif value > max(WORTH, RISING * error):
        rise = (
            ""
            if last is None
            else f"it rose by {last:.2f} nats over the last quarter of the steps, and "
        )
        course = (
            f"{rise}on the course that it took a training as long again adds {value:.2f} ± "
            f"{error:.2f} nats, if the course "
            "goes on: overfitting would bend it"
        )
    else:
        return
    passes = math.ceil(2 * history[-1]["epoch"])
    how = f"--minutes {minutes:g}" if ended == "time" and minutes else f"--max-epochs {passes}"
    yield Finding(
        "training was cut",
        value,
        error,
        "held-out bound",
        f"{ENDED[ended]} while the held-out bound still rose",
        course,
        "train on, for as long again",
        f"taut resume RUN {how}",
    )


def _unknown(audit: Mapping[str, Any]) -> Iterator[Finding]:
    found = audit.get("log_evidence") or {}
    count = found.get("num_unknown")
    if not count:
        return
    yield Finding(
        "rows without a number",
        None,
        None,
        "",
        "log p(x) of some rows is not a finite number",
        f"{count} of {found['num_data']} rows: the model gives them no probability, or its numbers "
        f"overflow for them",
        "look at these rows: their columns log_evidence and elbo in scores.csv",
        "taut score RUN",
    )


def _collapse(audit: Mapping[str, Any]) -> Iterator[Finding]:
    found = audit.get("latents")
    if not found or len(found["dead"]) < found["latent_dim"]:
        return
    gain = audit.get("gain_over_baseline")
    beyond = f", and log p(x) is {_show(gain)} above independent marginals" if gain else ""
    yield Finding(
        "collapse",
        None,
        None,
        "log p(x)",
        "the posterior has collapsed onto the prior: z says nothing about x",
        f"none of {found['latent_dim']} latent dimensions carries anything; the rate is "
        f"{_show(found['rate'])}{beyond}",
        "let the rate grow before it is charged for: a warm-up, free bits, beta of at most 1, or a "
        "weaker decoder",
        'taut fit DATA --objective "ELBO(warmup=0.2, free_bits=0.1)"',
    )


def _baseline(audit: Mapping[str, Any]) -> Iterator[Finding]:
    gain = audit.get("gain_over_baseline")
    if not gain or gain["value"] is None or gain["test_error"] is None or _counts(gain):
        return
    yield Finding(
        "baseline",
        None,
        None,
        "log p(x)",
        "the model hardly beats independent marginals: it has found no dependence between the "
        "elements",
        f"log p(x) exceeds that of independent marginals by {_show(gain)}",
        "check that rows and columns are what you think, give the latent space more dimensions, "
        "train longer",
        "taut check DATA",
    )


def _scale(audit: Mapping[str, Any]) -> Iterator[Finding]:
    found = audit.get("scale")
    if not found or found["gain"]["value"] is None:
        return
    floor = found["at_floor"] or 0.0
    worth = _counts(found["gain"])
    if not worth and floor == 0:
        return
    factor = found["factor"]
    numbers = (
        f"held-out residuals are {factor['median']:.3g} scales wide in the median "
        f"({factor['smallest']:.3g} to "
        f"{factor['largest']:.3g}); refitting the scale alone gives "
        f"{_show(found['gain'])}{_under(audit)}"
    )
    if floor > 0:
        yield Finding(
            "scale at its floor",
            max(found["gain"]["value"], 0.0),
            found["gain"]["test_error"],
            "density",
            "the scale of the Normal likelihood stands at its floor: the floor decides how good "
            "the density looks, not the data",
            f"{floor:.0%} of the scales are within twice the floor; {numbers}",
            "look for constant or rounded columns (levels have no density), or choose the floor on "
            "purpose",
            "taut fit DATA --likelihood \"Normal(scale='per_feature', min_scale=0.0001)\"",
        )
        return
    yield Finding(
        "scale",
        found["gain"]["value"],
        found["gain"]["test_error"],
        "density",
        "the scale of the Normal likelihood does not fit the residuals",
        numbers,
        "let the scale be learned, for each feature",
        "taut fit DATA --likelihood \"Normal(scale='per_feature')\"",
    )


def _overfitting(audit: Mapping[str, Any]) -> Iterator[Finding]:
    found = audit.get("overfitting")
    if not found or not _counts(found["log_evidence"]["difference"]):
        return
    gap = found["log_evidence"]["difference"]
    yield Finding(
        "overfitting",
        gap["value"],
        gap["test_error"],
        "log p(x)",
        "the training data are better off than held-out ones",
        f"log p(x) differs by {_show(gap)}, the ELBO by {_show(found['elbo']['difference'])} "
        f"(K = {found['num_samples']} on both sides)",
        "more data, smaller or regularised networks, a shorter training; dynamic binarization "
        "where the data are grey levels",
        'taut fit DATA --decoder "MLP(hidden=(200,), dropout=0.1)" --set '
        "training.weight_decay=0.01",
    )


def _amortization(audit: Mapping[str, Any]) -> Iterator[Finding]:
    found = audit.get("gaps")
    if not found or not _counts(found["amortization_gap"]):
        return
    gap = found["amortization_gap"]
    yield Finding(
        "amortization gap",
        gap["value"],
        gap["test_error"],
        "ELBO",
        "the encoder does not find the best posterior of its own family",
        f"fitted to each datum on its own, the same family reaches a bound higher by {_show(gap)} "
        f"(inference gap {_show(found['inference_gap'])})",
        "train the posterior on with the decoder frozen, or give it a larger encoder",
        "taut tighten RUN",
    )


def _approximation(audit: Mapping[str, Any]) -> Iterator[Finding]:
    found = audit.get("gaps")
    if not found or not _counts(found["approximation_gap"]):
        return
    gap, full = found["approximation_gap"], found.get("full_covariance_gain")
    full = full if full and _counts(full) else None
    rich = f"; a full covariance closes {_show(full)} of it" if full else ""
    yield Finding(
        "approximation gap",
        gap["value"],
        gap["test_error"],
        "ELBO",
        "the best member of the posterior's family is far from the true posterior",
        f"even fitted to each datum on its own, its bound lies {_show(gap)} below log p(x){rich}",
        "a richer family of posteriors"
        if full
        else "a family beyond the Gaussian, or an objective with more samples",
        'taut tighten RUN --posterior "FullCovarianceNormal()"'
        if full
        else 'taut fit DATA --objective "DReG(num_samples=8)"',
    )


def _prior(audit: Mapping[str, Any]) -> Iterator[Finding]:
    gain = (audit.get("latents") or {}).get("prior_gain")
    if not gain or not _counts(gain):
        return
    yield Finding(
        "prior",
        gain["value"],
        gain["test_error"],
        "ELBO",
        "the prior is not where the posteriors are: samples of it fall into holes",
        f"a Gaussian mixture in the place of the prior raises the held-out ELBO by "
        f"{_show(gain)}{_under(audit)}",
        "a prior that is learned",
        'taut fit DATA --prior "GaussianMixture(components=20)"',
    )


def _noisy(audit: Mapping[str, Any]) -> Iterator[Finding]:
    found = audit.get("latents")
    if (
        not found
        or not found["noisy"]
        or not found["noisy_rate"]
        or not _counts(found["noisy_rate"])
    ):
        return
    rate = found["noisy_rate"]
    yield Finding(
        "noisy dimensions",
        rate["value"],
        rate["test_error"],
        "ELBO",
        "some latent dimensions pay rate and carry no information",
        f"the posterior of {len(found['noisy'])} dimensions differs from the prior and is the same "
        f"for all data: {_show(rate)}",
        "train longer, or leave them out",
        "taut tighten RUN",
    )


def _samples(audit: Mapping[str, Any]) -> Iterator[Finding]:
    found, curve = audit.get("log_evidence"), (audit.get("evidence") or {}).get("curve")
    if not found or found["reliable_share"] >= RELIABLE:
        return
    values = [c["value"] for c in curve or [] if c["value"] is not None]
    rise = values[-1] - values[-2] if len(values) > 1 else 0.0
    yield Finding(
        "too few samples",
        max(rise, 0.0),
        None,
        "",
        "log p(x) itself is not known well: what is reported is a lower bound",
        f"the estimate is reliable for {found['reliable_share']:.0%} of the data; the bound still "
        f"rose by {rise:.2f} nats with "
        "the last samples",
        "more samples and temperatures",
        "taut audit RUN --num-samples 50000 --max-temperatures 4000",
    )


def _dead(audit: Mapping[str, Any]) -> Iterator[Finding]:
    found = audit.get("latents")
    if not found or not found["dead"] or len(found["dead"]) <= found["latent_dim"] / 2:
        return
    yield Finding(
        "dead dimensions",
        0.0,
        None,
        "",
        "most latent dimensions are not used; they cost no nats",
        f"{len(found['dead'])} of {found['latent_dim']} have a rate below 0.01 nat",
        "nothing, or fewer dimensions for the same numbers",
        f"taut fit DATA --latent-dim {max(2, found['active_units'] + 2)}",
    )


def _under(audit: Mapping[str, Any]) -> str:
    """Returns what must be said of a number that is measured at z ~ q where q is far from the best
    posterior.
    """
    gap = (audit.get("gaps") or {}).get("amortization_gap")
    return (
        ", under the encoder's posterior, which is off itself: tighten first"
        if gap and _counts(gap)
        else ""
    )


def _counts(estimate: Mapping[str, float | None]) -> bool:
    """Returns whether a number is worth mentioning and surely above zero."""
    value, error = estimate["value"], estimate["test_error"]
    if value is None or error is None:
        return False
    return value > max(WORTH, SURE * max(error, estimate["mc_error"] or 0.0))


def _show(estimate: Mapping[str, float | None]) -> str:
    value, error = estimate["value"], estimate["test_error"]
    if value is None:
        return "an unknown number of nats"
    return f"{value:.2f}" + ("" if error is None else f" ± {error:.2f}") + " nats"
