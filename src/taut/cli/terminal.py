"""What the user sees on a terminal: messages and the table of numbers.

Results to stdout, all else to stderr.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from taut.system.errors import clause, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from taut.build.config import Config
    from taut.data import Dataset, Schema
    from taut.report.staircase import Lines
    from taut.runs.compare import Comparison
    from taut.runs.folder import Stored

__all__ = [
    "Units",
    "answer",
    "message",
    "name_rows",
    "reading",
    "show_audit",
    "show_comparison",
    "show_data",
    "show_evaluation",
    "show_gradients",
    "show_lines",
    "show_next",
    "show_numbers",
    "show_oddest",
    "show_refit",
    "show_tightening",
    "stderr",
    "units_of",
]

NAMES = {
    "elbo": "ELBO",
    "rate": "rate, KL(q, prior)",
    "distortion": "distortion, -E log p(x|z)",
    "log_evidence": "log p(x)",
    "inference_gap": "inference gap, log p(x) - ELBO",
    "baseline": "baseline, independent marginals",
    "exact_baseline": "baseline, {model}",
}

FEWEST = 10  # rows, over which it is told in how many dimensions the mean varies
OF_SAMPLES = {
    "classifier": "told from data, AUC (1/2: not)",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "nearer": "nearer to training rows (1/2)",
    "copies": "copies of training rows",
}

NAT = "(One nat is e = 2.7 times the probability.)"
DOUBTFUL = 0.05  # share of rows without a reliable log p(x) from which on it is said

METHODS = {
    "importance": "importance sampling",
    "defensive": "importance sampling with a share of the prior",
    "importance_from_optimum": "importance sampling from the best Gaussian",
    "annealing": "annealing",
    "enumeration": "the sum over all latent values",
    "exact": "its closed form",
    "none": "no method",
}


def answer(text: str) -> None:
    """Prints a line of result."""
    _print(_stdout(), text)


def message(text: str, *, whole: bool = False) -> None:
    """Prints a message.

    Args:
        text: The message.
        whole: Whether it is not wrapped, so that it can be pasted.
    """
    _print(stderr(), text, whole)


def _print(console: Console, text: str, whole: bool = False) -> None:
    """Prints a text: on a terminal wrapped between words, elsewhere as one line."""
    console.print(_text(text), soft_wrap=whole or not console.is_terminal)


def reading(source: object) -> None:
    """Says on a terminal that something is read, before anything slow is imported."""
    if stderr().is_terminal:
        message(f"reading {shown(source)} ...")


class Units(NamedTuple):
    """What a schema calls one data point, and what it is made of."""

    one: str
    part: str


def units_of(schema: Schema) -> Units:
    return Units("image", "pixel") if schema.is_image else Units("row", "column")


def typed(path: str | Path) -> str:
    """Returns a path as the user would type it here: one below this folder without what leads to
    it.
    """
    path, here = Path(path), Path.cwd()
    if path.is_absolute() and path.is_relative_to(here):
        path = path.relative_to(here)
    return str(path)


def show_data(show: Callable[[str], None], dataset: Dataset, config: Config) -> None:
    from taut.build.model import build_objective
    from taut.build.usual import (
        complete,
        exact_of,
        gan_of,
        hierarchy_of,
        numbers_of_levels,
        objective_of,
        of_few_images,
        stepwise_of,
    )
    from taut.runs.candidates import in_short, planned

    model = complete(config.model, dataset.schema, of_few_images(config.model, dataset))
    parts = (
        f"train {len(dataset.train)}, validation {len(dataset.validation)}, test "
        f"{len(dataset.test)}"
    )
    aim = objective_of(config, dataset)
    follows = ""
    if config.model.likelihood != model.likelihood:
        follows = ", which follows from the data"
    data = [
        ("data", f"{shown(typed(dataset.name))}: {dataset.schema.describe()}"),
        ("rows", parts),
        ("binarize", dataset.binarize if dataset.binarize != "none" else ""),
    ]
    own = [
        ("likelihood", f"{model.likelihood}{follows}"),
        ("given", _given(dataset.schema, model.likelihood)),
        ("prior", model.prior),
        ("posterior", f"{model.posterior}, {model.latent_dim} latent dimensions"),
        ("networks", f"{model.encoder}, {model.decoder}"),
        ("objective", f"{aim}{clause(', {}', build_objective(aim).caveat)}"),
    ]
    if planned(config, dataset).get("exact", {}).get("competes"):
        own.insert(
            0,
            (
                "model",
                f"{in_short(dataset, competes=True)} and a VAE, of which the best one is kept",
            ),
        )
    if stepwise_of(config.model) is not None:
        own = [("model", model.model), *own[:2], ("network", model.decoder), *own[5:]]
        own[-1] = ("objective", config.training.objective or "ELBO()")
    if gan_of(config.model) is not None:
        own = [
            ("model", f"{model.model}, {model.latent_dim} latent dimensions"),
            ("networks", f"critic {model.encoder}, generator {model.decoder}"),
            ("objective", "Adversarial(), a game, not a bound"),
        ]
    if hierarchy_of(config.model) is not None:
        levels = f"{model.model}, {model.latent_dim} {numbers_of_levels(model)} a level"
        networks = own[4:5] if model.encoder else []  # maps have their own
        own = [("model", levels), *own[:2], *networks, *own[5:]]
    if exact_of(config.model) is not None:
        own = [("model", f"{model.model}, by expectation maximisation")]
    for name, text in [*data, *own, *(("note", note) for note in dataset.notes)]:
        if text:
            show(f"{name:<11}{_clean(text)}")


def _given(schema: Schema, likelihood: str | None) -> str:
    """Says what the model is conditioned on, since log p(x) is another quantity then."""
    from taut.build.model import needs_total

    names = ", ".join(map(shown, schema.condition))
    if schema.kind == "table" and names:
        return f"{names}; log p(x) means log p(the other columns | what is given)"
    if likelihood and needs_total(likelihood):
        names = f"{names}{', ' if names else ''}the total of each row"
    means = names.replace("the total of each row", "total")
    return f"{names}; log p(x) means log p(x | {means})" if names else ""


def show_columns(schema: Schema) -> None:
    """Prints what each column of a table was understood to be."""
    if not schema.columns:
        return
    rows = [(shown(c.name), *c.describe()) for c in schema.columns]
    widths = [max(4, *(len(_clean(row[i])) for row in rows)) for i in range(3)]
    answer("")
    for name, kind, what, missing in rows:
        line = (
            f"{_clean(name)[:40]:<{min(widths[0], 40)}}  {kind:<{widths[1]}}  "
            f"{_clean(what):<{widths[2]}}  {missing}"
        )
        answer(line.rstrip())


def show_oddest(
    oddest: list[dict[str, Any]], columns: int = 3, first_line: int | None = None
) -> None:
    """Prints the least likely rows, and the entries that make them so, the most improbable first.

    Args:
        oddest: What ``taut.runs.reasons`` says of them.
        columns: Entries of each, at most.
        first_line: The line of the file that holds row 0, where it is known.
    """
    if not oddest:
        return
    answer("")
    answer(
        "the oddest rows, and their oddest entries: the probability of a value no more probable, "
        "given the others of the row (log p; median of the column)"
    )
    for found in oddest:
        why = ", ".join(
            f"{_clean(shown(each['column']))} {_rare(each['tail'])} ({each['log_p']:.1f}; "
            f"{each['median']:.1f})"
            for each in found["reasons"][:columns]
        )
        row, line = found["row"], ""
        if first_line:
            line = f" (line {row + first_line} of the file)"
        answer(f"  row {row}{line}: log p(x) {found['log_evidence']:.1f}: {why}")


def _rare(probability: float) -> str:
    """Returns a tail probability as far as its continuation can be believed."""
    return "<1e-10" if probability < 1e-10 else f"{probability:.1g}"


def name_rows(chosen: Any, first_line: int | None = None, most: int = 10) -> str:
    """Returns how many rows are chosen, (N,), and which, from 0: "2 of 30 rows (4, 7)".

    Nothing where none is.
    """
    rows = chosen.nonzero()[:, 0].tolist()
    if not rows:
        return ""
    more = ", ..." if len(rows) > most else ""
    listed = ", ".join(map(str, rows[:most])) + more
    if first_line:
        lines = ", ".join(str(row + first_line) for row in rows[:most])
        listed += f"; lines {lines}{more} of the file"
    return f"{len(rows)} of {len(chosen)} rows ({listed})"


def show_evaluation(run: Stored, as_json: bool, verbose: bool = False) -> None:
    """Shows the numbers of the final measurement, and says what they mean."""
    from taut.evidence.doctor import named
    from taut.evidence.exact_baseline import in_words

    result = run.evaluation()
    if candidates := run.info.get("candidates"):
        result["candidates"] = candidates
    if as_json:
        answer(json.dumps({"run": str(run.path), **result}, indent=2))
        return
    if run.model.no_density:
        _show_samples(run, result)
        return
    units, unfinished = units_of(run.schema), result.get("unfinished") or []
    lines = [named(line, str(run.path)) for line in unfinished]
    shown_result = {**result, "warnings": [*result["warnings"], *lines]}
    show_numbers(shown_result, units, str(run.path), verbose)
    if words := in_words(run.info.get("candidates"), units.one):
        answer("\n" + words.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-"))
    if words := verdict(result, units):
        answer(f"\n{words}")
    files = "everything is"
    if run.schema.is_image:
        names = [n for n in ("samples.png", "reconstructions.png") if (run.path / n).exists()]
        files = f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'}"
    answer(f"\n{files} in {shown(run.path)}")


def _show_samples(run: Stored, result: Mapping[str, Any]) -> None:
    """Shows what is known of a model that has no density: how its samples compare with data."""
    units = units_of(run.schema)
    many = f"{units.one}s"
    table = _table(f"{result['num_data']} {result['data']} {many}", "samples", f"training {many}")
    for name, title in OF_SAMPLES.items():
        if found := (result.get("samples") or {}).get(name):
            reference = found.get("reference") or found["held_out"]
            table.add_row(title, *(_with_error(e) for e in (found["samples"], reference)))
    if table.row_count:
        _stdout().print(table)
    for line in result["warnings"]:
        answer(f"warning: {line}")
    answer(f"log p(x): none: {run.model.no_density.replace('RUN', shown(run.path))}")
    answer(f"\neverything is in {shown(run.path)}")


def _with_error(estimate: Mapping[str, Any]) -> str:
    from taut.evidence.text import plus_minus

    return plus_minus(estimate).replace("\N{NO-BREAK SPACE}", " ")


def verdict(result: Mapping[str, Any], units: Units) -> str:
    """Returns what an evaluation comes to, in a sentence: how much better the model is than knowing
    each column alone, and whether its training came to its end.

    Nothing where no baseline is known.
    """
    from taut.evidence.verdict import verdict as of_gain

    words = of_gain(
        result.get("gain"),
        result.get("reliable_share"),
        bool(result.get("unfinished")),
        *units,
    )
    return clause("{} " + NAT, words)


def show_next(run: Stored, seconds: float, data: str = "") -> None:
    """Says how long it took and what to do next, in commands that can be pasted.

    Args:
        run: The run.
        seconds: How long it took.
        data: The data as typed; by default what the run remembers.
    """
    from taut.evidence.doctor import named

    minutes, rest = divmod(round(seconds), 60)
    message(f"done in {clause('{} min ', minutes)}{rest} s; next:")
    source = data or typed(str(run.info["source"]))
    commands = _next_commands(run, bool(source))
    if run.model.no_density:
        commands = [("taut sample RUN", "what it makes")]
        if "taut tighten RUN" in run.model.no_density:
            why = "give it a Gaussian observation, and so a density and codes"
            commands.append(("taut tighten RUN", why))
    lines = [(named(command, str(run.path), source), why) for command, why in commands]
    width = max(len(command) for command, _ in lines)
    for command, why in lines:
        message(f"  {command:<{width}}  # {why}", whole=True)


def _next_commands(run: Stored, known: bool) -> list[tuple[str, str]]:
    """Returns two or three commands that the model can obey and what each is for; DATA only where
    its name is known.
    """
    from taut.models.stepwise import StepwiseModel

    schema, steps = run.schema, isinstance(run.model, StepwiseModel)
    singly = not steps or run.model.conditionals
    data = " DATA" if known else ""
    table = schema.kind == "table"
    lines = [
        ("taut audit RUN", "how far these numbers can be trusted, and what would improve them")
    ]
    if table and schema.missing and singly:
        lines.append((f"taut impute RUN{data}", "fill the gaps"))
    if table and singly:
        lines.append((f"taut score RUN{data} --cells", "which rows are odd, and why"))
    elif table or (steps and not schema.is_image):
        lines.append((f"taut score RUN{data}", "which rows are odd"))
    elif schema.is_image:
        lines.append(("taut sample RUN --out new.png", "draw new images"))
    else:
        lines.append((f"taut encode RUN{data}", "an embedding of each row"))
    return lines


def show_numbers(
    result: Mapping[str, Any], units: Units, run: str = "", verbose: bool = False
) -> None:
    """Shows the numbers of an evaluation, with a warning where many rows are doubtful.

    Args:
        result: What ``RowEvidence.to_dict`` returns, and more.
        units: What a data point is called.
        run: The run, for the remedy.
        verbose: Whether to say how log p(x) was estimated.
    """
    bits = result.get("bits_per_dimension", {})
    titles = [f"nats per {units.one}", "± Monte Carlo", "± test set"]
    if bits:
        titles.append("bits per dim")
    part = clause("{} ", result.get("data"))
    table = _table(f"{result['num_data']} {part}{units.one}s", *titles)
    exact = "exact" in result["by"]
    for name, title in NAMES.items():
        if exact and name in ("elbo", "inference_gap"):
            continue
        if found := _shown_as(name, result.get(name)):
            row = [_number(found[k]) for k in ("value", "mc_error", "test_error")]
            if bits:
                row.append(_bits(bits.get(name)))
            table.add_row(title.format(**result[name]), *row)
        if name == "rate":
            for level in result.get("levels", []):
                row = [_number(level[k]) for k in ("value", "mc_error", "test_error")]
                table.add_row(f"  of {level['name']}", *row)
    _stdout().print(table)
    if exact:
        answer("log p(x) is exact: the model sums or integrates z out in closed form")
    else:
        if verbose:
            for line in _how(result):
                answer(line)
        if result["latent_dim"] and result["num_data"] >= FEWEST:
            answer(f"active units: {result['active_units']} of {result['latent_dim']}")
    for line in result["warnings"]:
        answer(f"warning: {line}")
    reliable = result.get("reliable_share")
    if run and reliable is not None and 1 - reliable >= DOUBTFUL:
        answer(f"`taut audit {shown(run)}` measures log p(x) properly")


def _shown_as(name: str, estimate: Any) -> Any:
    """Returns an estimate as it is shown: a divergence is never below zero."""
    from taut.evidence.section import at_least_zero

    return at_least_zero(estimate) if name in ("rate", "inference_gap") else estimate


def _how(result: Mapping[str, Any]) -> list[str]:
    """Returns how log p(x) was estimated, and how reliably."""
    ess, reliable = result["ess"], result["khat"]["reliable_share"]
    line = (
        f"log p(x) by importance sampling, K = {result['num_samples']}: effective sample size "
        f"{ess['mean']:.1f} on average, at least {ess['smallest']:.1f}"
    )
    if reliable is not None:
        line += f"; reliable by k-hat for {reliable:.0%} of the rows"
    lines = [line]
    if result.get("by", {}).keys() - {"importance"}:
        share = result["reliable_share"] or 0
        lines.append(f"log p(x) is by {_by(result['by'])}; reliable for {share:.0%} of the rows")
    return lines


def _by(counts: Mapping[str, int]) -> str:
    """Returns how many rows each method gave."""
    from taut.evidence.best import METHODS

    return ", ".join(f"{METHODS[name]} for {count}" for name, count in counts.items() if count)


def show_audit(result: Mapping[str, Any]) -> None:
    """Answers the four questions: how good, how loose, why, and what would buy the next nat."""
    from taut.evidence.section import chapters, found

    sections = found(result)
    noun = next((section.noun for section in sections.values()), "data point")
    first = f"{result['num_data']} {noun}s, nats per {noun}"
    table = _table(first, "", "± Monte Carlo", "± test set")
    for rows in chapters(sections).values():
        for row in rows:
            if row.brief and row.estimate:
                table.add_row(row.brief, *_cells(row.estimate))
    console = _stdout()
    console.print(table)
    lines = [line for section in sections.values() if (line := section.line())]
    notes = [*result["notes"], *(w for section in sections.values() for w in section.warnings)]
    lines += [f"note: {_clean(line)}" for line in notes]
    lines += [*_not_measured(result), "", *_findings(result)]
    for line in lines:
        line = line.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")
        console.print(_text(line), soft_wrap=True)


def _cells(estimate: Mapping[str, float | None]) -> list[str]:
    """Returns an estimate and its errors; what is not known of the errors stays empty."""
    errors = (estimate[k] for k in ("mc_error", "test_error"))
    if estimate["value"] is None:
        return ["not known", "", ""]
    return [_number(estimate["value"]), *("" if e is None else _number(e) for e in errors)]


def _findings(result: Mapping[str, Any]) -> list[str]:
    """Returns the findings of an audit, four lines each, or that there are none."""
    from taut.evidence.doctor import nothing_found
    from taut.evidence.finding import worth

    if not result["findings"]:
        line = nothing_found(result)
        return [f"{line[0].upper()}{line[1:]}."]
    lines = []
    for number, finding in enumerate(result["findings"], 1):
        lines += [
            f"{number}. {finding['name']}{clause(': {}', worth(finding))}",
            f"   {finding['what']}",
            f"   {finding['evidence']}",
            f"   {finding['action']}: {finding['command']}",
        ]
    return lines


def _not_measured(result: Mapping[str, Any]) -> list[str]:
    """Returns a line for each reason for which sections were not measured, and the stop of an audit
    that only shortened some.
    """
    reasons: dict[str, list[str]] = {}
    for name, why in result["missing"].items():
        reasons.setdefault(why, []).append(name.replace("_", " "))
    lines = [
        f"note: not measured: {', '.join(names)}: {_clean(why)}"
        for why, names in reasons.items()
        if why
    ]
    if result["stopped"] and not any("before it" in why for why in reasons):
        end = "the time was up" if result["stopped"] == "time" else "stopped early"
        lines.append(f"note: {end}; every section has results, some on fewer data points")
    return lines


def show_tightening(run: Stored) -> None:
    """Shows the bound before and after under the same ceiling."""
    _show_before_and_after("the same decoder", run.info["tightened"]["before"], run.evaluation())


def show_refit(run: Stored) -> None:
    """Shows what a prior gained over the one that was there, on the same rows."""
    after = run.evaluation()
    before, gain = run.info["refitted"]["before"], after["gain_of_prior"]
    _show_before_and_after("the same encoder and decoder", before, after)
    parts = (
        f"{NAMES[name]} {_known('{:+.3f}', gain[name]) or 'unknown'}"
        f"{_known(' ± {:.3f}', gain[name], 'test_error')}"
        for name in ("elbo", "log_evidence")
    )
    answer(f"gained by the prior, row by row: {', '.join(parts)} nats")


def show_comparison(found: Comparison) -> None:
    """Shows runs side by side, a column each."""
    table = _table(*found.header())
    for title, cells in found.rows():
        table.add_row(_text(title), *(_text(cell) for cell in cells))
    _stdout().print(table)
    for run in found.to_dict()["runs"]:
        if run["no_density"]:
            answer(f"{run['name']} has no density: {run['no_density']}")
    for line in found.warnings:
        answer(f"warning: {line}")


def _show_before_and_after(title: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    console = _stdout()
    console.print()
    table = _table(title, "before", "after")
    for name in ("elbo", "log_evidence", "inference_gap"):
        table.add_row(
            NAMES[name],
            *(
                f"{_number(e['value'])} ± {_number(e['mc_error'])}"
                for e in (_shown_as(name, each[name]) for each in (before, after))
            ),
        )
    console.print(table)


def show_gradients(result: Mapping[str, Any]) -> None:
    """Shows what each estimator costs and how noisy it is, for encoder and decoder."""
    parts = ("encoder", "decoder")
    titles = [f"{part} {what}" for part in parts for what in ("variance", "signal/noise", "bias z")]
    table = _table("estimator", "bound", "ms", *titles)
    for row in result["estimators"]:
        if "reason" in row:
            table.add_row(_text(row["name"]), _text(row["reason"]))
            continue
        cells: list[Text | str] = [
            _text(f"{row['name']} ({row['target']})"),
            _text(_number(row["bound"]["value"], 2)),
        ]
        cells.append("" if row["seconds"] is None else f"{1000 * row['seconds']['value']:.1f}")
        for part in parts:
            found = row[part]
            if found is None:
                cells += ["", "", ""]
                continue
            cells += [
                _known("{:.3g} x", found["relative_variance"]),
                _known("{:.3g}", found["signal_to_noise"]) or "below noise",
                _known("{:.1f}", found["bias"], "z"),
            ]
        table.add_row(*cells)
    _stdout().print(table)


def show_lines(lines: Lines) -> None:
    """Shows the table of an improvement or a study, and what was found."""
    first, *others = lines.header
    table = _table(first, *others)
    for row in lines.rows:
        table.add_row(*(_text(cell) for cell in row))
    if lines.rows:
        _stdout().print(table)
    for note in lines.notes:
        answer(note)


def _known(form: str, estimate: Mapping[str, float | None] | None, name: str = "value") -> str:
    """Returns a number of an estimate as a text; nothing where it is not known."""
    if estimate is None or estimate[name] is None:
        return ""
    return form.format(estimate[name])


def _bits(estimate: Mapping[str, float | None] | None) -> str:
    if estimate is None:
        return ""
    return _number(estimate["value"], 4) + _known(" ± {:.4f}", estimate, "test_error")


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "unknown"
    if abs(value) < 1e7:
        return f"{value:.{digits}f}"
    return f"{value:.4g}"


def _stdout() -> Console:
    return _consoles()(width=None if sys.stdout.isatty() else 200, highlight=False)


def stderr() -> Console:
    return _consoles()(stderr=True, highlight=False)


@functools.cache
def _consoles() -> type[Console]:
    """Returns a class of consoles that fall silent when their reader goes away (``taut fit ... |
    head``), so that the work goes on.
    """
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    return Quiet


def _table(first: str, *numbers: str) -> Table:
    """Returns an empty table with these titles: the first column is of names, the others of
    numbers.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(_text(first))
    for title in numbers:
        table.add_column(_text(title), justify="right")
    return table


def _text(text: object) -> Text:
    """Returns what may be printed.

    No control characters, which could write anything on a terminal, and no markup.
    """
    from rich.text import Text

    return Text(_clean(str(text)))


def _clean(text: str) -> str:
    """Returns a text without control characters; a space that must not break is a space."""
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
