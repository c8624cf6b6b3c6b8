"""The model card of a run: what stands in the README.md of a run that is handed on.

Every number in it is one of the last audit, or of the measurement after the training where there
was none, with its errors; what was not measured is said. Texts of the data (names of columns, of
files) are escaped for Markdown, and no line names a folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from taut.evidence import text
from taut.evidence.finding import worth
from taut.evidence.section import Row, Table, at_least_zero, found, nats
from taut.report.render import absent, contents
from taut.runs import looks
from taut.runs.audit import audit_of
from taut.runs.folder import Stored, version
from taut.system.errors import shown

__all__ = ["file_name", "write_card"]

TAGS = {"table": "tabular", "count": "counts"}
MEASURED = (  # after a training: what it is, and its key
    ("log p(x)", "log_evidence", 0),
    ("ELBO", "elbo", 0),
    ("rate, KL(q, prior)", "rate", 1),
    ("distortion, -E log p(x|z)", "distortion", 1),
    ("inference gap, log p(x) - ELBO", "inference_gap", 0),
    ("baseline, independent marginals", "baseline", 0),
    ("log p(x) above the baseline", "gain", 0),
)
CHAPTERS = ("good", "tasks", "samples")  # of the audit, in full; of the others the findings
NEVER = (  # said in every card
    "other data than those: what comes from elsewhere may be scored wrongly",
    "fairness between groups of rows",
    "privacy: nothing here shows that weights and samples give no row of the training away",
)
# what Markdown or HTML would read as more than text
SPECIAL = re.compile(r"([\\`*_\[\]|~$])")


def write_card(
    run: Stored,
    *,
    name: str,
    source: str,
    files: Mapping[str, str],
    license: str = "",  # noqa: A002 (the word of the front matter)
    gradients: Mapping[str, Any] | None = None,
) -> str:
    """Returns the card: YAML front matter, then Markdown.

    Args:
        run: A finished run.
        name: What the model is called.
        source: What ``taut pull`` takes.
        files: What is in the folder beside the card, by name: what each holds.
        license: Of the weights, as the Hugging Face hub spells it; none is claimed if it is empty.
        gradients: What ``taut gradients`` found, if it was run.
    """
    audit, name = text.plain(audit_of(run)), shown(name)
    lines = [*_front_matter(run, name, license, audit), "", f"# {_plain(name)}", ""]
    lines += [*_what_it_is(run), "", "## How good is it?", ""]
    if audit is None:
        lines += [*_measured(run), "", "## What was not measured", ""]
        missing = [
            "the run was not audited: `taut audit RUN` measures how loose the bound is, the tasks, "
            "and samples against data"
        ]
    else:
        lines += [*_audited(audit), "", "## What was not measured", ""]
        missing = [_reason(*each) for each in absent(audit, gradients).items()]
    lines += [f"* {line}." for line in (*missing, *NEVER)]
    lines += ["", "## How to load it", "", *_how_to_load(run, source)]
    lines += ["", "## What is in this folder", ""]
    lines += [f"* `{file}`: {what}" for file, what in files.items()]
    return "\n".join(lines) + "\n"


def file_name(source: str) -> str:
    """Returns the name of a source of data without the folders that lead to it.

    Examples:
        >>> file_name("/home/ann/study/table.csv"), file_name("a/b.npz:x"), file_name("openml:wine")
        ('table.csv', 'b.npz:x', 'openml:wine')
    """
    return shown(PurePath(source.replace("\\", "/")).name)


def _front_matter(
    run: Stored, name: str, licensed: str, audit: Mapping[str, Any] | None
) -> Iterator[str]:
    """Yields YAML whose texts are JSON, which YAML reads as the same text."""
    kind = "images" if run.schema.is_image else TAGS.get(run.schema.kind, "vectors")
    yield from ("---", "library_name: taut")
    if licensed:
        yield f"license: {_quoted(licensed)}"
    if run.schema.is_image and run.model.condition is None:
        yield "pipeline_tag: unconditional-image-generation"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("taut", "density-estimation", kind))
    metrics = list(_metrics(run, audit))
    if metrics:
        data = _quoted(file_name(run.info["source"]) or "an array in memory")
        yield from ("model-index:", f"- name: {_quoted(name)}", "  results:")
        yield from ("  - task:", "      type: density-estimation", "    dataset:")
        yield from (f"      name: {data}", f"      type: {kind}", "    metrics:")
        for title, estimate in metrics:
            yield from (f"    - name: {_quoted(title)}", f"      type: {_quoted(title)}")
            yield f"      value: {_quoted(estimate['value'])}"
            known = {k: v for k, v in estimate.items() if k != "value" and v is not None}
            if known:
                yield "      args:"
                yield from (f"        {k}: {_quoted(v)}" for k, v in known.items())
    yield "---"


def _metrics(
    run: Stored, audit: Mapping[str, Any] | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the numbers of the front matter: log p(x) and the ELBO, with what they are in."""
    if audit is not None and not run.model.no_density:
        both = audit.get("log_evidence"), (audit.get("evidence") or {}).get("elbo")
    elif run.model.no_density:
        return
    else:
        found = run.evaluation()
        both = found["log_evidence"], found["elbo"]
    for title, estimate in zip(("log p(x), nats", "ELBO, nats"), both, strict=True):
        if estimate and estimate.get("value") is not None:
            own = ("value", "mc_error", "test_error")
            yield title, {key: estimate[key] for key in own}


def _what_it_is(run: Stored) -> list[str]:
    rows, facts = run.info["rows"], looks.facts(run)
    data = _plain(file_name(run.info["source"])) or "an array in memory"
    parts = f"{rows['train']:,} + {rows['validation']:,} + {rows['test']:,} rows"
    lines = [
        "A latent-variable model of taut: it says how probable a data point is, draws new ones, "
        "fills gaps and gives codes.",
        "",
        f"* **Data**: {data}, {_plain(run.schema.describe())}; {parts} to train, validate and test",
        f"* **Model**: {_plain(facts['model'])}; "
        f"{sum(p.numel() for p in run.model.parameters()):,} parameters",
        f"* **Training**: {_plain(facts['training'])}",
        f"* **Made by**: taut {version()}",
    ]
    if run.schema.is_image and run.model.condition is None:
        lines += ["", "![Draws from the model](samples.png)"]
    return lines


def _measured(run: Stored) -> Iterator[str]:
    """Yields what the measurement after the training found."""
    numbers = run.evaluation()
    if run.model.no_density:
        yield f"The model has no density. {_plain(looks.facts(run)['measured'])}."
    else:
        rows = f"{numbers['num_data']:,} {numbers['data']} rows"
        of_k = f"K = {numbers['num_samples']:,} samples"
        yield f"Measured after the training, on {rows}, with {of_k}. ± is one standard error."
        yield ""
        lines = []
        for title, key, depth in MEASURED:
            estimate: Any = numbers.get(key)
            if estimate and key == "inference_gap":
                estimate = at_least_zero(estimate)
            if estimate:
                lines.append(Row(title, estimate, depth))
        if exact := numbers.get("exact_baseline"):
            lines.append(Row(f"baseline, {exact['model']}", exact))
            lines.append(Row("log p(x) above it", numbers.get("gain_over_exact")))
        yield from _table(nats("", lines, "row"))
    warnings = [*numbers["warnings"], *(numbers.get("unfinished") or [])]
    yield from _notes("Warning", warnings)


def _audited(audit: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the last audit found."""
    sections, data = found(audit), audit["data"]
    noun = str(data.get("each") or "row")
    rows = f"{audit['num_data']:,} of {data['rows']:,} {_plain(data['part'])} {noun}s"
    yield f"Measured by `taut audit` on {rows}. ± is one standard error."
    for chapter in contents(audit, sections, noun):
        if chapter.name not in CHAPTERS:
            continue
        if chapter.name != "good" and (chapter.table or chapter.sections):
            yield from ("", f"### {chapter.title}")
        if chapter.table is not None:
            yield from ("", *_table(chapter.table))
        for section in chapter.sections:
            tables = section.tables()
            if chapter.name == "good":  # whose numbers stand in the table above
                tables = []
            for table in tables:
                yield from ("", *_table(table))
            yield from _notes("Warning", section.warnings)
    worst = [
        f"**{_plain(each['name'])}** ({_plain(_worth(each))}): {_plain(each['what'])}"
        for each in audit.get("findings") or []
    ]
    if worst:
        yield from ("", "### What would make it better", "")
        yield from (f"* {line}." for line in worst)


def _worth(finding: Mapping[str, Any]) -> str:
    if finding.get("nats") is None:
        return "not in nats"
    return worth(finding)


def _reason(why: str, names: Sequence[str]) -> str:
    said = _plain(", ".join(names))
    if why.startswith("the training data are not at hand"):  # what follows names their place
        why = "the training data were not at hand"
    if not why:
        return said
    return f"{said}: {_plain(why)}"


def _how_to_load(run: Stored, source: str) -> list[str]:
    where = shown(source)
    return [
        "```",
        f"taut pull {where} pulled",
        "taut score pulled DATA      # log p(x) of each row, with its error",
        "taut sample pulled          # new rows",
        "taut encode pulled DATA     # codes",
        "taut audit pulled DATA      # all numbers again, on your data",
        "```",
        "",
        "```python",
        "import taut",
        "",
        f"run = taut.pull({where!r}, 'pulled')",
        f"rows = run.sample({_given(run)})",
        "```",
        "",
        "Loading runs no code of this folder: weights are safetensors, all else is JSON, and each "
        "file is checked against `manifest.json`.",
    ]


def _given(run: Stored) -> str:
    if not run.schema.condition:
        return "10"
    return f"10, given={dict.fromkeys(run.schema.condition, '...')!r}"


def _table(table: Table) -> Iterator[str]:
    if table.label:
        yield from (f"**{_plain(table.label)}**", "")
    yield f"| {' | '.join(map(_plain, table.columns))} |"
    yield f"|{'---|' * len(table.columns)}"
    for title, depth, cells in table.lines:
        padded = [*cells, *[""] * (len(table.columns) - 1 - len(cells))]
        indent = "&nbsp;&nbsp;" * depth
        yield f"| {indent}{_plain(title)} | {' | '.join(map(_plain, padded))} |"


def _notes(word: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield from ("", f"{word}: {_plain(line)}.")


def _plain(words: str) -> str:
    """Returns a text that Markdown shows as it is, in one line."""
    text_ = shown(words.replace(text.SPACE, " "))
    escaped = text_.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\1", escaped)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
