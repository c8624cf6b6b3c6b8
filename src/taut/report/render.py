"""From an audit to its page.

The page holds all that it shows: no script, no file beside it, nothing from elsewhere, and its head
forbids the browser to load anything. Every number in it is one of the audit's, through
``text.number``; every text is escaped where it stands.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from taut.evidence import text
from taut.evidence.doctor import nothing_found
from taut.references import cite
from taut.report import figures

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["render"]

LARGE = 1_000_000  # bytes of a picture; a larger one stays beside the page
SECTIONS = (
    "annealing",
    "baseline",
    "bits_per_dimension",
    "blur",
    "calibration",
    "data",
    "effort",
    "evidence",
    "findings",
    "gain_over_baseline",
    "gaps",
    "latents",
    "log_evidence",
    "model",
    "naive",
    "notes",
    "num_data",
    "overfitting",
    "run",
    "samples",
    "sandwich",
    "scale",
    "seed",
    "stopped",
    "taut",
    "tightened",
    "missing",
)
LITERATURE = {  # what a section rests on
    "evidence": ("burda2016", "vehtari2024"),
    "annealing": ("neal2001", "wu2017"),
    "sandwich": ("grosse2015",),
    "naive": ("chatterjee2018",),
    "gaps": ("cremer2018",),
    "latents": ("hoffman2016", "tomczak2018", "chen2018"),
    "calibration": ("talts2018",),
    "scale": ("rybkin2021",),
    "samples": ("lopezpaz2017", "delong1988", "kynkaanniemi2019", "naeem2020", "meehan2020"),
    "gradients": ("rainforth2018", "roeder2017", "tucker2019", "mnih2016"),
}
WARNING = ("evidence", "annealing", "gaps", "latents", "samples", "blur")  # the sections that warn
NEED_TRAINING_DATA = ("baseline", "overfitting", "samples", "blur")
# what is measured with another section, or not at all
WITH = {
    "sandwich": "annealing",
    "calibration": "latents",
}
STOPPED = {"time": "the time was up before it", "stopped": "the audit was stopped before it"}
OTHERWISE = {
    "scale": "it is for a Normal likelihood",
    "blur": "it is for images",
    "gradients": "taut gradients RUN measures them",
}


def render(
    audit: Mapping[str, Any],
    gradients: Mapping[str, Any] | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> str:
    """Returns the report of an audit as one HTML page.

    Args:
        audit: What ``taut.runs.audit.audit_run`` returns, or ``audit.json``; a section may be None
            or missing.
        gradients: What ``taut.evidence.gradients.gradients`` returns, or ``gradients.json``.
        pictures: PNG files by their name: ``samples.png`` and ``reconstructions.png``.
    """
    audit, gradients, pictures = text.plain(audit), text.plain(gradients), pictures or {}
    found = dict.fromkeys(SECTIONS) | dict(audit)
    return _template().render(
        **{name: value for name, value in found.items() if name != "missing"},
        nothing=nothing_found(audit),
        gradients=gradients,
        figures={name: figures.inline(svg) for name, svg in _figures(audit, gradients).items()},
        pictures={
            name: base64.b64encode(png).decode()
            for name, png in pictures.items()
            if len(png) <= LARGE
        },
        large=sorted(name for name, png in pictures.items() if len(png) > LARGE),
        missing=lambda name: f"{text.ABSENT}{_reason(found, name)}",
        references=_references({**found, "gradients": gradients}),
        warnings=[line for name in WARNING for line in (found[name] or {}).get("warnings") or []],
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        name: getattr(text, name) for name in ("number", "plus_minus", "share", "error_of")
    }
    return environment.from_string(
        resources.files("taut.report").joinpath("template.html.j2").read_text("utf-8")
    )


def _figures(audit: Mapping[str, Any], gradients: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns the figures that there are numbers for, by name."""
    sections = (
        ("gaps", figures.gaps, audit.get("gaps")),
        ("dimensions", figures.dimensions, audit.get("latents")),
        ("calibration", figures.calibration, audit.get("calibration")),
        ("variance", figures.variance, gradients),
    )
    parts = {name: draw(found) for name, draw, found in sections if found}
    return {
        name: svg
        for name, svg in {
            "emblem": figures.emblem(audit),
            "bounds": figures.bounds(audit),
            **parts,
        }.items()
        if svg
    }


def _reason(found: Mapping[str, Any], name: str) -> str:
    """Returns why a section was not measured, where the audit says so."""
    if why := (found["missing"] or {}).get(name):
        return f": {why}"
    name = WITH.get(name, name)
    for note in found["notes"] or []:
        at_hand = name in NEED_TRAINING_DATA and note.startswith(
            "the training data are not at hand"
        )
        if at_hand or note.startswith(f"no {name}: "):
            return f": {note}"
    reason = OTHERWISE.get(name) or STOPPED.get(found["stopped"] or "")
    return f": {reason}" if reason else ""


def _references(found: Mapping[str, Any]) -> list[str]:
    return [
        cite(key)
        for key in sorted(
            {key for name, keys in LITERATURE.items() if found.get(name) for key in keys}
        )
    ]
