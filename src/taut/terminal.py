"""What a person sees on a terminal: messages, progress, the table of numbers. Results to stdout, all else to stderr."""

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

from taut.errors import shown

if TYPE_CHECKING:
    from taut.config import Config
    from taut.data import Dataset
    from taut.run import Run

__all__ = ["answer", "message", "progress", "show_data", "show_evaluation", "show_numbers"]

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
    _stdout().print(Text(text), soft_wrap=True)


def message(text: str) -> None:
    """Prints a message, without control characters, which could write anything on a terminal."""
    _stderr().print(Text(_clean(text)), soft_wrap=True)


def show_data(show: Callable[[str], None], dataset: Dataset, config: Config) -> None:
    from taut.build import complete

    model = complete(config.model, dataset.schema)
    parts = f"train {len(dataset.train)}, validation {len(dataset.validation)}, test {len(dataset.test)}"
    lines = [
        ("data", f"{shown(dataset.name)}: {dataset.schema.describe()}"),
        ("rows", parts),
        ("binarize", dataset.binarize if dataset.binarize != "none" else ""),
        (
            "likelihood",
            f"{model.likelihood}{'' if config.model.likelihood == model.likelihood else ', which follows from the data'}",
        ),
        ("prior", model.prior),
        ("posterior", f"{model.posterior}, {model.latent_dim} latent dimensions"),
        ("networks", f"{model.encoder}, {model.decoder}"),
        ("objective", config.training.objective),
        *(("note", note) for note in dataset.notes),
    ]
    for name, text in lines:
        if text:
            show(f"{name:<11}{_clean(text)}")


def show_evaluation(run: Run, as_json: bool) -> None:
    result = run.evaluation()
    if as_json:
        answer(json.dumps({"run": str(run.path), **result}, indent=2))
        return
    show_numbers(result)
    files = "samples.png and reconstructions.png are" if run.schema.is_image else "everything is"
    answer(f"\n{files} in {shown(run.path)}")


def show_numbers(result: Mapping[str, Any]) -> None:
    bits = result.get("bits_per_dimension", {})
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{result['num_data']} {result['data'] + ' ' if 'data' in result else ''}data")
    for title in ("nats per datum", "± Monte Carlo", "± test set", *(["bits per dim"] if bits else [])):
        table.add_column(title, justify="right")
    for name, title in NAMES.items():
        if result.get(name):
            row = [_number(result[name][k]) for k in ("value", "mc_error", "test_error")]
            table.add_row(title, *row, *([_bits(bits[name]) if name in bits else ""] if bits else []))
    console = _stdout()
    console.print(table)
    ess, reliable = result["ess"], result["khat"]["reliable_share"]
    console.print(
        Text(
            f"log p(x) by importance sampling, K = {result['num_samples']}: effective samples {ess['mean']:.1f} in the mean, "
            f"{ess['smallest']:.1f} at least"
            + ("" if reliable is None else f"; k-hat finds {reliable:.0%} of the data reliable")
            + "\n"
            f"active units: {result['active_units']} of {result['latent_dim']}"
        ),
        soft_wrap=True,
    )
    for line in result["warnings"]:
        console.print(Text(f"warning: {line}"), soft_wrap=True)


def _bits(estimate: Mapping[str, float | None]) -> str:
    error = estimate["test_error"]
    return _number(estimate["value"], 4) + ("" if error is None else f" ± {error:.4f}")


def _number(value: float | None, digits: int = 3) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}" if abs(value) < 1e7 else f"{value:.4g}"


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Gives a function that advances a bar on a terminal, and prints a line each tenth of the way elsewhere."""
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
            console.print(Text(f"{title} {100 * done // total} %{', ' + note if note else ''}"), soft_wrap=True)

    yield advance


class _Console(Console):
    """A console that falls silent when its reader goes away (``taut fit ... | head``), so that the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def _stdout() -> Console:
    return _Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def _stderr() -> Console:
    return _Console(stderr=True, highlight=False)


def _clean(text: str) -> str:
    """Returns a text without control characters, which could write anything on a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
