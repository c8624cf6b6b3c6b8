"""What a person sees on a terminal: messages, progress, the table of numbers.

Results to stdout, all else to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from taut.evidence.doctor import named
from taut.system.errors import shown

if TYPE_CHECKING:
    from taut.build.config import Config
    from taut.data import Dataset, Schema
    from taut.runs.folder import Run

__all__ = [
    "answer",
    "message",
    "name_rows",
    "progress",
    "show_audit",
    "show_data",
    "show_evaluation",
    "show_gradients",
    "show_numbers",
    "show_tightening",
    "stages",
]

NAMES = {
    "elbo": "ELBO",
    "rate": "rate, KL(q, prior)",
    "distortion": "distortion, -E log p(x|z)",
    "log_evidence": "log p(x)",
    "inference_gap": "inference gap, log p(x) - ELBO",
    "baseline": "baseline, independent marginals",
}


def answer(text: str) -> None:
    """Prints a line of result."""
    _stdout().print(_text(text), soft_wrap=True)


def message(text: str) -> None:
    """Prints a message."""
    _stderr().print(_text(text), soft_wrap=True)


def show_data(show: Callable[[str], None], dataset: Dataset, config: Config) -> None:
    from taut.build.model import complete, usual_objective

    model = complete(config.model, dataset.schema)
    parts = (
        f"train {len(dataset.train)}, validation {len(dataset.validation)}, test "
        f"{len(dataset.test)}"
    )
    follows = "" if config.model.likelihood == model.likelihood else ", which follows from the data"
    lines = [
        ("data", f"{shown(dataset.name)}: {dataset.schema.describe()}"),
        ("rows", parts),
        ("binarize", dataset.binarize if dataset.binarize != "none" else ""),
        ("likelihood", f"{model.likelihood}{follows}"),
        ("given", _given(dataset.schema.condition, str(model.likelihood))),
        ("prior", model.prior),
        ("posterior", f"{model.posterior}, {model.latent_dim} latent dimensions"),
        ("networks", f"{model.encoder}, {model.decoder}"),
        ("objective", config.training.objective or usual_objective(dataset.schema)),
        *(("note", note) for note in dataset.notes),
    ]
    for name, text in lines:
        if text:
            show(f"{name:<11}{_clean(text)}")


def _given(condition: tuple[str, ...], likelihood: str) -> str:
    """Says what the model is conditioned on, since log p(x) is another quantity then."""
    if condition:
        return (
            f"{', '.join(map(shown, condition))}; log p(x) means log p(the other columns | what is "
            f"given)"
        )
    return (
        "the total of each row; log p(x) means log p(x | total)"
        if "library=True" in likelihood
        else ""
    )


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


def show_oddest(log_evidence: Any, cells: dict[str, Any], rows: int = 5, columns: int = 3) -> None:
    """Prints the least likely rows, and the entries that make them so: those furthest below the
    median of their column.

    Densities of columns in different units cannot be compared, differences to the median of the
    same column can.
    """
    usual = {name: float(values.nanmedian()) for name, values in cells.items()}
    answer("")
    answer(
        "the oddest rows (from 0), and their oddest entries: log p given the others of the row "
        "(median of the column)"
    )
    for row in log_evidence.argsort()[:rows].tolist():
        each = sorted(
            (float(v[row]) - usual[name], float(v[row]), name)
            for name, v in cells.items()
            if not v[row].isnan()
        )
        why = ", ".join(
            f"{_clean(shown(name))} {value:.1f} ({usual[name]:.1f})"
            for _, value, name in each[:columns]
        )
        answer(f"{row:>8}  log p(x) {float(log_evidence[row]):.1f}: {why}")


def name_rows(chosen: Any, most: int = 10) -> str:
    """Returns how many rows are chosen, (N,), and which, from 0: "2 of 30 rows (4, 7)".

    Nothing where none is.
    """
    rows = chosen.nonzero()[:, 0].tolist()
    more = ", ..." if len(rows) > most else ""
    return (
        f"{len(rows)} of {len(chosen)} rows ({', '.join(map(str, rows[:most]))}{more})"
        if rows
        else ""
    )


def show_evaluation(run: Run, as_json: bool) -> None:
    result = run.evaluation()
    if as_json:
        answer(json.dumps({"run": str(run.path), **result}, indent=2))
        return
    unfinished = [named(line, str(run.path)) for line in result.get("unfinished") or []]
    show_numbers({**result, "warnings": [*result["warnings"], *unfinished]})
    files = "samples.png and reconstructions.png are" if run.schema.is_image else "everything is"
    answer(f"\n{files} in {shown(run.path)}")


def show_next(run: Run, seconds: float) -> None:
    """Says how long it took and what one does next, in commands that can be pasted."""
    gaps = ", `taut impute RUN`" if run.schema.missing and run.schema.kind == "table" else ""
    message(f"done in {seconds:.0f} s; next: {named(f'`taut audit RUN`{gaps}', str(run.path))}")


def show_numbers(result: Mapping[str, Any]) -> None:
    bits = result.get("bits_per_dimension", {})
    table = Table(box=None, pad_edge=False)
    table.add_column(
        _text(f"{result['num_data']} {result['data'] + ' ' if 'data' in result else ''}data")
    )
    for title in (
        "nats per datum",
        "± Monte Carlo",
        "± test set",
        *(["bits per dim"] if bits else []),
    ):
        table.add_column(title, justify="right")
    for name, title in NAMES.items():
        if result.get(name):
            row = [_number(result[name][k]) for k in ("value", "mc_error", "test_error")]
            table.add_row(
                title, *row, *([_bits(bits[name]) if name in bits else ""] if bits else [])
            )
    console = _stdout()
    console.print(table)
    ess, reliable = result["ess"], result["khat"]["reliable_share"]
    by = _by(result["by"]) if result.get("by", {}).keys() - {"importance"} else ""
    console.print(
        _text(
            f"log p(x) by importance sampling, K = {result['num_samples']}: effective samples "
            f"{ess['mean']:.1f} in the mean, "
            f"{ess['smallest']:.1f} at least"
            + ("" if reliable is None else f"; k-hat finds {reliable:.0%} of the data reliable")
            + "\n"
            + (
                f"log p(x) is by {by}; reliable for {result['reliable_share'] or 0:.0%} of the "
                f"rows\n"
                if by
                else ""
            )
            + f"active units: {result['active_units']} of {result['latent_dim']}"
        ),
        soft_wrap=True,
    )
    for line in result["warnings"]:
        console.print(_text(f"warning: {line}"), soft_wrap=True)


def _by(counts: Mapping[str, int]) -> str:
    """Returns how many rows each method gave."""
    from taut.evidence.best import METHODS

    return ", ".join(f"{METHODS[name]} for {count}" for name, count in counts.items() if count)


def show_audit(result: Mapping[str, Any]) -> None:
    """Answers the four questions: how good, how loose, why, and what would buy the next nat."""
    from taut.evidence.section import chapters, found

    sections = found(result)
    noun = next((section.noun for section in sections.values()), "data point")
    table = Table(box=None, pad_edge=False)
    table.add_column(_text(f"{result['num_data']} {noun}s, nats per {noun}"))
    for title in ("", "± Monte Carlo", "± test set"):
        table.add_column(title, justify="right")
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
        console.print(_text(line.replace("\N{NO-BREAK SPACE}", " ")), soft_wrap=True)


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
        nats = worth(finding)
        lines += [
            f"{number}. {finding['name']}{': ' if nats else ''}{nats}",
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


def show_tightening(run: Run) -> None:
    """Shows the bound before and after under the same ceiling."""
    before, after = run.info["tightened"]["before"], run.evaluation()
    console = _stdout()
    console.print()
    table = Table(box=None, pad_edge=False)
    for title in ("the same decoder", "before", "after"):
        table.add_column(title, justify="left" if title.startswith("the") else "right")
    for name in ("elbo", "log_evidence", "inference_gap"):
        table.add_row(
            NAMES[name],
            *(
                f"{_number(e[name]['value'])} ± {_number(e[name]['mc_error'])}"
                for e in (before, after)
            ),
        )
    console.print(table)


def show_gradients(result: Mapping[str, Any]) -> None:
    """Shows what each estimator costs and how noisy it is, for encoder and decoder."""
    table = Table(box=None, pad_edge=False)
    titles = (
        "estimator",
        "bound",
        "ms",
        *(
            f"{part} {what}"
            for part in ("encoder", "decoder")
            for what in ("variance", "signal/noise", "bias z")
        ),
    )
    for title in titles:
        table.add_column(title, justify="left" if title == "estimator" else "right")
    for row in result["estimators"]:
        if "reason" in row:
            table.add_row(_text(row["name"]), _text(row["reason"]))
            continue
        cells: list[Text | str] = [
            _text(f"{row['name']} ({row['target']})"),
            _text(_number(row["bound"]["value"], 2)),
        ]
        cells.append("" if row["seconds"] is None else f"{1000 * row['seconds']['value']:.1f}")
        for part in ("encoder", "decoder"):
            found = row[part]
            if found is None:
                cells += ["", "", ""]
                continue
            variance, signal, bias = (
                found["relative_variance"],
                found["signal_to_noise"],
                found["bias"],
            )
            cells.append("" if variance is None else f"{variance['value']:.3g} x")
            cells.append(
                "below noise"
                if signal is None or signal["value"] is None
                else f"{signal['value']:.3g}"
            )
            cells.append("" if bias is None else f"{bias['z']:.1f}")
        table.add_row(*cells)
    _stdout().print(table)


def _bits(estimate: Mapping[str, float | None]) -> str:
    error = estimate["test_error"]
    return _number(estimate["value"], 4) + ("" if error is None else f" ± {error:.4f}")


def _number(value: float | None, digits: int = 3) -> str:
    return (
        "unknown"
        if value is None
        else f"{value:.{digits}f}"
        if abs(value) < 1e7
        else f"{value:.4g}"
    )


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Gives a function that advances a bar on a terminal, and prints a line each tenth of the way
    elsewhere.
    """
    console = _stderr()
    if console.is_terminal:
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda amount, note: bar.update(task, advance=amount, note=note)
        return
    done, shown = 0, 0

    def advance(amount: int, note: str) -> None:
        nonlocal done, shown
        done += amount
        if done * 10 // total > shown:
            shown = done * 10 // total
            console.print(
                _text(f"{title} {100 * done // total} %{', ' + note if note else ''}"),
                soft_wrap=True,
            )

    yield advance


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """Gives a function that is told the stage of a long computation and how much of it is done.

    A bar for each on a terminal.
    """
    console, current = _stderr(), ""
    if not console.is_terminal:

        def say(title: str, share: float) -> None:
            nonlocal current
            if title != current:
                console.print(_text(title), soft_wrap=True)
            current = title

        yield say
        return
    with Progress(
        TextColumn("{task.description:<34}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=1.0)

        def show(title: str, share: float) -> None:
            nonlocal current
            if title != current:
                bar.reset(task, description=title)
            current = title
            bar.update(task, completed=share)

        yield show


class _Console(Console):
    """A console that falls silent when its reader goes away (``taut fit ...

    | head``), so that the work goes on.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def _stdout() -> Console:
    return _Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def _stderr() -> Console:
    return _Console(stderr=True, highlight=False)


def _text(text: object) -> Text:
    """Returns what may be printed.

    No control characters, which could write anything on a terminal, and no markup.
    """
    return Text(_clean(str(text)))


def _clean(text: str) -> str:
    """Returns a text without control characters."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
