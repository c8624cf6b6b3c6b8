"""From an audit to its page.

The page holds all that it shows: no script, no file next to it, nothing from elsewhere, and its
head forbids the browser to load anything. Every number in it is one of the audit's, through
``evidence.text``; every text is escaped where it stands. What stands in it is what the sections of
the audit say of themselves: the page goes over them, chapter by chapter.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from taut.evidence import text
from taut.evidence.doctor import nothing_found
from taut.evidence.exact_baseline import in_words
from taut.evidence.finding import worth
from taut.evidence.section import (
    CHAPTERS,
    Row,
    Section,
    Table,
    at_least_zero,
    chapters,
    found,
    nats,
    shown,
)
from taut.evidence.verdict import verdict
from taut.references import LINKS, cite
from taut.report import figures

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["absent", "contents", "render", "render_comparison"]

VAE = "VAE()"
PARTS = {"image": "pixel", "cell": "gene"}  # what a data point is made of
LARGE = 1_000_000  # bytes of a picture; a larger one stays next to the page
GRADIENTS = ("rainforth2018", "roeder2017", "tucker2019", "mnih2016")
STOPPED = {"time": "the time was up before it", "stopped": "the audit was stopped before it"}
EFFORTS = {  # what the numbers of an effort are
    "num_samples": "samples K of importance sampling",
    "num_chains": "chains of annealing",
    "max_temperatures": "temperatures, at most",
    "optimum_steps": "steps to the best posterior",
    "simulated": "simulated {noun}s",
    "naive": "{noun}s for naive Monte Carlo",
    "train": "{noun}s of training, at most",
    "samples": "samples compared, at most",
    "task_seconds": "CPU seconds for the tasks, about",
    "minutes": "minutes",
}
FRAME = (  # what an audit holds next to its sections
    "bits_per_dimension", "data", "effort", "findings", "measured", "model", "notes", "num_data",
    "run", "seed", "stopped", "taut", "tightened",
)  # fmt: skip


class Chapter(NamedTuple):
    """A question that the page answers.

    Args:
        name: Its name in links.
        title: The question.
        table: The quantities that answer it in short; None where there are none.
        sections: The sections that answer it, each with a block of its own.
    """

    name: str
    title: str
    table: Table | None
    sections: list[Section]


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
        pictures: PNG files by their name: those of a run folder, such as
            ``samples.png``.
    """
    audit, gradients, pictures = text.plain(audit), text.plain(gradients), pictures or {}
    sections = found(audit)
    small = {name: png for name, png in pictures.items() if len(png) <= LARGE}
    noun = next((section.noun for section in sections.values()), "data point")
    log_evidence: Any = sections.get("log_evidence")
    return _template("template").render(
        **{name: audit.get(name) for name in FRAME},
        noun=noun,
        sections=sections,
        chapters=contents(audit, sections, noun),
        first=_first(audit, sections, noun),
        believed=None if log_evidence is None else log_evidence.believed(sections),
        nothing=nothing_found(audit),
        gradients=gradients,
        figures={name: figures.inline(svg) for name, svg in _figures(audit, gradients).items()},
        pictures={name: base64.b64encode(png).decode() for name, png in small.items()},
        large=sorted(pictures.keys() - small.keys()),
        absent=absent(audit, gradients),
        references=_references(sections, gradients),
        efforts={name: title.format(noun=noun) for name, title in EFFORTS.items()},
    )


def _first(audit: Mapping[str, Any], sections: Mapping[str, Section], noun: str) -> str:
    """Returns what stands before all else: how good the model is, in a sentence, after another if
    an exact model is better than a VAE.
    """
    candidates = audit.get("candidates") or {}
    baseline: Any = sections.get("exact_baseline")
    lines = ["" if baseline is None else baseline.first()]
    if candidates and candidates["kept"] != VAE:
        lines = [in_words(candidates, noun)]
    cut = any(finding["name"] == "training was cut" for finding in audit.get("findings") or [])
    known = (audit.get("log_evidence") or {}).get("reliable_share")
    gain = audit.get("gain_over_baseline")
    words = verdict(gain, known, cut, noun, PARTS.get(noun, "column"))
    lines.append(re.sub(r"-(?=\d)", "\N{MINUS SIGN}", words))
    return " ".join(line for line in lines if line)


def render_comparison(
    values: Mapping[str, Any],
    header: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
    warnings: Sequence[str],
    sheet: bytes | None = None,
) -> str:
    """Returns a comparison of runs as one HTML page.

    Args:
        values: What ``taut.runs.compare.Comparison`` holds.
        header: Titles of the columns of its table: what is compared, and each run.
        rows: Its lines.
        warnings: What keeps the numbers from being believed, a line each.
        sheet: A PNG of samples side by side.
    """
    return _template("comparison").render(
        **text.plain(values),
        header=header,
        lines=rows,
        notes=warnings,
        sheet=None if sheet is None else base64.b64encode(sheet).decode(),
    )


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    of_numbers = (text.number, text.plus_minus, text.share, text.error_of, at_least_zero)
    filters: list[Any] = [*of_numbers, _worth, _file_name]
    environment.filters |= {each.__name__.strip("_"): each for each in filters}
    files = resources.files("taut.report")
    environment.globals["style"] = files.joinpath("style.css").read_text("utf-8")
    return environment.from_string(files.joinpath(f"{name}.html.j2").read_text("utf-8"))


def _figures(audit: Mapping[str, Any], gradients: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns the figures that there are numbers for, by the name of the section."""
    pictures = {"emblem": figures.emblem(audit), **figures.drawn(audit)}
    if gradients:
        pictures["gradients"] = figures.variance(gradients)
    return {name: svg for name, svg in pictures.items() if svg}


def contents(audit: Mapping[str, Any], sections: Mapping[str, Section], noun: str) -> list[Chapter]:
    """Returns the chapters with their tables and sections."""
    made = []
    for name, rows in chapters(sections).items():
        short = [row for row in rows if row.chapter == name]
        if name == "good" and (bits := audit.get("bits_per_dimension")):
            short.append(Row("bits per dimension, by log p(x)", bits.get("log_evidence")))
            short.append(Row("bits per dimension, by the ELBO", bits.get("elbo")))
        blocks = [s for s in sections.values() if s.chapter == name and s.title]
        title = CHAPTERS[name]
        table = nats(f"{title.rstrip('?')}, in numbers", short, noun) if short else None
        made.append(Chapter(name, title, table, blocks))
    return made


def absent(audit: Mapping[str, Any], gradients: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Returns what was not measured, by the reason."""
    reasons: dict[str, list[str]] = {}
    for section in shown():
        if section.told and audit.get(section.name) is None:
            title = section.title or section.name.replace("_", " ")
            reasons.setdefault(_reason(audit, section), []).append(title)
    if not gradients:
        reasons["taut gradients RUN measures them"] = ["Gradient estimators"]
    return reasons


def _reason(audit: Mapping[str, Any], section: type[Section]) -> str:
    """Returns why a section was not measured, where the audit says so."""
    if why := (audit.get("missing") or {}).get(section.name):
        return str(why)
    names = (section.name, *section.needs)
    for note in audit.get("notes") or []:  # of an audit that did not give its reasons yet
        gone = note.startswith("the training data are not at hand")
        if gone and {"train", "samples"} & set(names):
            return str(note)
        if any(note.startswith(f"no {name}: ") for name in names):
            return str(note)
    return section.absent or STOPPED.get(audit.get("stopped") or "", "")


def _references(
    sections: Mapping[str, Section], gradients: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    """Returns what was used of the literature, and where it is found."""
    keys = {key for section in sections.values() for key in section.references}
    if gradients:
        keys |= set(GRADIENTS)
    return [(cite(key), LINKS.get(key, "")) for key in sorted(keys)]


def _worth(finding: Mapping[str, Any]) -> str:
    """Returns what a finding is worth, as the page shows it."""
    if finding.get("nats") is not None:
        return worth(finding)
    return "not known" if finding["name"] == "training was cut" else "everything rests on it"


def _file_name(name: str) -> str:
    """Returns a name without the folders that lead to it: a page is passed on."""
    return PurePath(name).name or name
