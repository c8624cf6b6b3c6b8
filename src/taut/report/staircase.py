"""The page of an improvement or of a study: a table, its picture and links to the runs.

The table is the one that the command prints. As on the page of an audit, nothing is loaded from
elsewhere and every text is escaped where it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from taut.evidence.text import error_of, number, plain
from taut.report import figures

__all__ = ["Lines", "improvement", "page", "render_lines", "study", "study_page"]

BOUNDS = {"elbo": "ELBO", "log_evidence": "log p(x)"}
ENDS = {
    "nothing": "nothing was found that is worth more than {gain:g} nats",
    "time": "the time was up",
    "short": "too little time to look for all that may be worth more than {gain:g} nats",
    "trials": "{trials} changes were tried",
}
YES = {True: "yes", False: "no", None: ""}


class Lines(NamedTuple):
    """A table as texts.

    Args:
        header: Titles of the columns.
        rows: The cells of each row, the first being what it is called.
        links: The run folder of each row, below that of the page; nothing for none.
        notes: What was found, a sentence each.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    links: Sequence[str]
    notes: Sequence[str]


def improvement(info: Mapping[str, Any]) -> Lines:
    """Returns the table of an improvement: what was tried, what was predicted and what came true,
    in nats per data point.

    Args:
        info: ``improve.json``.
    """
    header = ("change", "kind", "predicted", "came true", "covered", "kept", "minutes")
    rows = []
    for step in info["steps"]:
        came = step["refused"] or f"{_brief(step['came_true'])} {BOUNDS[step['bound']]}"
        predicted = "" if step["predicted"] is None else _brief(step["predicted"])
        kind = "decoder stays" if step["decoder_stays"] else "trained anew"
        ends = YES[step["covered"]], YES[step["kept"]], f"{step['minutes']:.2f}"
        rows.append((step["remedy"], kind, predicted, came, *ends))
    return Lines(header, rows, [step["run"] for step in info["steps"]], _found(info))


def _found(info: Mapping[str, Any]) -> list[str]:
    """Returns how an improvement ended, and what the test rows say of it."""
    if info["ended"] is None:
        return ["not finished: `taut improve` with this folder goes on with it"]
    notes = [f"ended: {ENDS[info['ended']].format(**info)}; the model is {info['current']}"]
    test = info["test"] or {}
    for bound, name in BOUNDS.items():
        if bound in test:
            first, last, apart = (_known(test[bound][k]) for k in ("first", "last", "difference"))
            notes.append(
                f"{name} of {test['num_data']} test rows, read once: {first} before, {last} after, "
                f"paired difference {apart} nats"
            )
    if not test and info["test"] is not None:
        notes.append("no test rows were held out: what was kept was chosen on the same rows")
    return notes


def _known(estimate: Mapping[str, float | None]) -> str:
    return _brief({"value": estimate["value"], "error": error_of(estimate)})


def _brief(estimate: Mapping[str, float | None]) -> str:
    value, error = estimate["value"], estimate["error"]
    if value is None or error is None:
        return number(value)
    brief = f"{number(value, error)} ± {number(error, error)}"
    most = estimate.get("most")
    if most is None:
        return brief
    return f"{brief} to {_brief({'value': most, 'error': estimate.get('most_error', error)})}"


def page(info: Mapping[str, Any], folder: Path) -> str:
    """Returns the page of an improvement, which lies in its folder."""
    name = f"taut improve {info['source']}"
    return render_lines(name, improvement(info), figures.staircase(info["steps"]), folder)


def study(answer: Mapping[str, Any]) -> Lines:
    """Returns the table of a study: the candidates by their size, and how far each lies below the
    best, in nats per data point.

    Args:
        answer: ``answer.json``.
    """
    header = ("candidate", "numbers", "log p(x)", "difference to the best", "")
    ordered = sorted(answer["rows"], key=lambda row: row["parameters"])
    rows = [
        (
            row["candidate"],
            number(row["parameters"]),
            _brief(row["log_evidence"]),
            "the best" if row["difference"]["value"] == 0 else _brief(row["difference"]),
            _ending(row),
        )
        for row in ordered
    ]
    chosen = next(row for row in ordered if row["chosen"])
    seeds = f", {answer['seeds']} trainings each" if answer["seeds"] > 1 else ""
    notes = [
        f"log p(x) of {answer['num_data']} validation rows{seeds}, nats; chosen: "
        f"{chosen['candidate']} ({chosen['run']}), the smallest within one standard error of the "
        "best"
    ]
    if answer["test"]:
        known = _known(answer["test"]["log_evidence"])
        notes.append(
            f"log p(x) of {answer['test']['num_data']} test rows, read once, for it: {known} nats"
        )
    if answer["failed"]:
        notes.append(f"could not be trained: {'; '.join(answer['failed'])}")
    return Lines(header, rows, [row["run"] for row in ordered], notes)


def _ending(row: Mapping[str, Any]) -> str:
    if "stopped" in row:
        return f"stopped after {number(row['stopped'])} passes"
    return "chosen" if row["chosen"] else ""


def study_page(answer: Mapping[str, Any], folder: Path) -> str:
    """Returns the page of a study, which lies in its folder."""
    name = f"taut choose {answer['source']}"
    return render_lines(name, study(answer), figures.study(answer["rows"]), folder)


def render_lines(title: str, lines: Lines, figure: str, folder: Path) -> str:
    """Returns a page that shows a table, its picture and its notes.

    Args:
        title: Its heading.
        lines: The table.
        figure: An SVG file; an empty text for none.
        folder: The folder of the page: a run is linked by its report, where it has one.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    source = resources.files("taut.report").joinpath("lines.html.j2").read_text("utf-8")
    known = {name: plain(value) for name, value in lines._asdict().items()}
    return environment.from_string(source).render(
        title=plain(title),
        figure=figures.inline(figure),
        reports=[(folder / each / "report.html").exists() for each in lines.links],
        **known,
    )
