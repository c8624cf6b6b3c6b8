"""The doctor: from an audit to findings, in the order of the nats they are worth, each with its
evidence and a command.

Each section of an audit finds what is worth changing by its own numbers. Without a finding nothing
is worth changing, if all was measured and training had come to its end. Rule 0 is that it had not:
what was cut off is judged last, so this stands first. What raises the ELBO may close a gap below
the same log p(x); what raises log p(x) makes a better model.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taut.evidence import section
from taut.evidence.finding import WORTH, Finding
from taut.evidence.latents import CATEGORIES
from taut.evidence.progress import as_long_again
from taut.system.errors import clause

if TYPE_CHECKING:
    from taut.build.config import TrainingConfig

__all__ = [
    "Finding",
    "diagnose",
    "how_trained",
    "named",
    "nothing_found",
    "unfinished",
    "with_names",
]

RISING = 2.0  # standard errors: to train on in vain costs time, to stop too early costs the model
ENDED = {"time": "the time was up", "epochs": "the planned passes over the data were done"}
# Sections that a model needs for nothing: not measuring them leaves nothing open.
NO_LACK = (section.NEEDS["approximation"], CATEGORIES)
# Without a number of their own: everything follows from the first ones, the last from the others.
FIRST, LAST = ("training was cut", "rows without a number", "collapse"), ("baseline",)


def diagnose(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the findings of an audit as plain values, the most valuable one first.

    Args:
        audit: What ``audit.audit`` returns; sections that are missing or None are passed over.
    """
    known = section.found(audit)
    findings = [*_cut(audit), *(f for each in known.values() for f in each.findings(known))]
    return [f._asdict() for f in sorted(findings, key=_rank)]


def _rank(finding: Finding) -> tuple[int, float]:
    """Returns where a finding stands: by its nats, the largest first."""
    if finding.name in FIRST:
        return FIRST.index(finding.name), 0.0
    if finding.name in LAST and finding.nats is None:
        return len(FIRST) + 1, 0.0
    return len(FIRST), -(finding.nats or 0.0)


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
    history: Sequence[Mapping[str, Any]],
    ended: str | None,
    training: TrainingConfig,
    model: str | None = None,
) -> list[str]:
    """Returns the warning that a training was cut, if it was; RUN stands in it for the run.

    Args:
        history: The lines of ``history.jsonl``.
        ended: What ended the training.
        training: How it was trained.
        model: The specification of the model.
    """
    known = how_trained(ended, training)
    return [
        f"{f.name}: {f.what}; {f.evidence}; train on with `{f.command}`"
        for f in _cut({"history": history, "training": known, "model": {"model": model}})
    ]


def how_trained(ended: str | None, training: TrainingConfig) -> dict[str, Any]:
    """Returns what ended a training, and its limits."""
    return {"ended": ended, "minutes": training.minutes, "max_epochs": training.max_epochs}


def nothing_found(audit: Mapping[str, Any]) -> str:
    """Returns what an audit without findings says: that all is well, or how much of
    that is known.
    """
    reasons = (audit.get("missing") or {}).items()
    missing = [name.replace("_", " ") for name, why in reasons if why and why not in NO_LACK]
    end, sure = _end(audit)
    if not missing and not audit.get("stopped") and sure:
        return f"no gap above {WORTH:g} nat in the bound{end}"
    lacking = clause("; not measured: {}", ", ".join(missing))
    return f"nothing found in what was measured{lacking}{end}"


def _end(audit: Mapping[str, Any]) -> tuple[str, bool]:
    """Returns what is known of the end of the training, and whether it speaks for leaving all as it
    is.
    """
    if audit.get("history") is None:  # a model that is not a run
        return "", True
    ended = (audit.get("training") or {}).get("ended")
    if ended == "patience":
        return "; training had come to its end, the held-out bound no longer grew", True
    if ended == "plan":
        return "; training had come to its end, the model had made all passes that it needs", True
    unknown = "; whether training had come to its end is not known"
    more = as_long_again(audit["history"])
    if more is None:
        return f"{unknown}, since nothing was held out to tell", False
    value, error = more["value"], more["error"]
    if value is None or error is None:
        return f"{unknown}, its history is too short", False
    if max(value, RISING * error) > WORTH:
        more_nats = f"{value:.2f} ± {error:.2f} nats"
        return f"; a training as long again may add {more_nats} to the held-out bound", False
    why = "as long again would add less than that to the held-out bound"
    return f"; training had come to its end, {why}", True


def _cut(audit: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields the finding that the training was cut."""
    known, history = audit.get("training") or {}, audit.get("history") or []
    ended, minutes = known.get("ended") or "", known.get("minutes")
    if ended not in ENDED:
        return
    more = as_long_again(history)
    if more is None or not (course := _course(more)):
        return
    epochs = math.ceil(2 * history[-1]["epoch"])
    again = "taut resume RUN"
    if all(line.get("learning_rate") == 0 for line in history):  # expectation maximisation
        # the limit is of each number of states
        epochs = 2 * (known.get("max_epochs") or epochs)
        again = f"taut fit DATA --model {shlex.quote(str(audit['model']['model']))}"
    how = f" --max-epochs {epochs}"
    if ended == "time" and minutes:
        how = f" --minutes {minutes:g}"
    elif ended == "time":  # of the work that a model next to a VAE may take
        how = ""
    yield Finding(
        "training was cut",
        more["value"],
        more["error"],
        "held-out bound",
        f"{ENDED[ended]} while the held-out bound still rose",
        course,
        "train on, for as long again",
        f"{again}{how}",
    )


def _course(more: Mapping[str, float | None]) -> str:
    """Returns how the held-out bound went on at the end; nothing where it did not."""
    value, error, last = more["value"], more["error"], more["last"]
    rose = clause("it rose by {:.2f} nats over the last quarter of the steps, and ", last)
    if value is None or error is None:
        if last is not None and last <= 0:
            return ""
        rose = rose or "it was measured only once, and "
        return f"{rose}the history is too short to say what more would buy"
    if value > max(WORTH, RISING * error):
        return (
            f"{rose}on the course that it took a training as long again adds {value:.2f} ± "
            f"{error:.2f} nats, if the course goes on: overfitting would bend it"
        )
    return ""
