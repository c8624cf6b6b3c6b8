"""The docs are tests: references exist, links lead somewhere, and every command and Python block of
every page runs.

A page runs from top to bottom in a folder of its own, in the page's own spelling (the blocks of a
notebook share their names, those of any other page do not); only its trainings end after two epochs
and are measured by 20 samples, rows are scored by 50, audits look at 50 rows with little effort and
draw no figures, and a diffusion samples in 10 steps (``_hurried``). A command that ends in
"# refused" must be; every other one must end well. What a page does not make itself, such as
``RUN`` or ``new.npy``, is in ``GIVEN``.

``python tests/test_docs.py docs/tables.md FOLDER`` runs a page unhurried, in a new folder, and
prints what the commands print.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import io
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mutants
import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from hurried import hurry
from typer.testing import CliRunner

import taut
from taut.build.config import Config
from taut.cli import terminal
from taut.cli.app import app
from taut.evidence import Evidence, importance_blocks
from taut.evidence.audit import Effort
from taut.models.diffusion import Diffusion
from taut.references import REFERENCES, cite
from taut.runs.folder import read_data

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "taut").rglob("*.py"))
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
]
COMMANDS = r"^(?:taut |python |make demo).*"
FILE = r"`([\w/-]+\.(?:csv|png|npy|toml|parquet|h5ad|json|jsonl|html|py|safetensors))`"


def _text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def test_every_reference_is_known_and_used() -> None:
    named = set()
    for path in SOURCES:
        for line in re.findall(r"^\s*References: (.+?)\.$", path.read_text(), re.MULTILINE):
            named |= set(re.split(r",\s*", line))
    assert named == set(REFERENCES)
    assert all(cite(key).endswith(".") for key in named)


def test_public_parts_say_what_they_are() -> None:
    for name in taut.__all__:
        thing = getattr(taut, name)
        if callable(thing):
            assert thing.__doc__, name


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = _text(page)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or ((ROOT / page).parent / target).exists(), target


def test_files_named_in_the_design_exist() -> None:
    tree = re.search(r"```\n(src/taut/.*?)```", (ROOT / "docs/design.md").read_text(), re.DOTALL)
    assert tree is not None
    for name in re.findall(r"\b([a-z_]+\.py|[a-z]+/)(?=\s)", tree[1].split("\n", 1)[1]):
        assert any((ROOT / "src/taut").rglob(name.removesuffix("/"))), name


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if re.search(f"{COMMANDS}|^```python", _text(page), re.MULTILINE)],
)
def test_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    _hurried(monkeypatch)
    GIVEN.get(page, lambda: None)()
    _run(page)
    there = {
        path.name
        for path in (
            *tmp_path.rglob("*"),
            *ROOT.rglob("src/taut/**/*.py"),
            *(ROOT / "tests").iterdir(),
        )
    }
    missing = [name for name in re.findall(FILE, _text(page)) if Path(name).name not in there]
    assert not [name for name in missing if not (ROOT / name).exists()]


def test_no_page_holds_what_could_not_be_printed() -> None:
    assert not [page for page in PAGES if "\N{REPLACEMENT CHARACTER}" in _text(page)]


def test_the_number_of_planted_bugs_is_that_of_the_readme() -> None:
    assert f"plants {len(mutants.MUTANTS)} bugs" in _text("README.md")


def test_planted_bugs_name_lines_that_are_there_and_tests_that_are() -> None:
    """A bug whose test is not found counts as one that nothing catches, after an hour."""
    for mutant in mutants.MUTANTS:
        mutants.plant(ROOT, mutant)
        assert (ROOT / mutant.tests.partition("::")[0]).exists(), mutant.name


def test_options_named_in_the_pages_exist() -> None:
    """Every option in running text is one of some command."""
    commands = [
        c.name or c.callback.__name__ for c in app.registered_commands if c.callback is not None
    ]
    known = set(
        re.findall(
            r"--[a-z-]+",
            "".join(CliRunner().invoke(app, [name, "--help"]).output for name in commands),
        )
    )
    for page in PAGES:
        for span in re.findall(r"`(?:taut[^`\n]*)?(--[a-z-]+)[^`\n]*`", _text(page)):
            assert span in known, (page, span)


@pytest.mark.parametrize(
    ("source", "settings", "given"),
    [
        (
            pa.table({"size": ["a", "b"] * 20, "price": [float(i) for i in range(40)]}),
            {"data": {"condition": ["size"]}},
            "given      size; log p(x) means log p(the other columns | what is given)",
        ),
        (
            scipy.sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (40, 3))),
            {"model": {"likelihood": "NegativeBinomial(library=True)"}},
            "given      the total of each row; log p(x) means log p(x | total)",
        ),
    ],
)
def test_what_is_given_is_said(source: Any, settings: dict[str, Any], given: str) -> None:
    config, lines = Config.from_dict(settings), []
    terminal.show_data(lines.append, read_data(source, config), config)
    assert given in lines


def _run(page: str, say: Callable[[str], Any] = lambda text: None) -> None:
    """Runs the blocks of a page in their order; ``say`` is told each command and what
    it printed.
    """
    shared: dict[str, Any] | None = {} if "notebooks" in page else None
    for language, block in re.findall(
        r"^```(\w*)\n(.*?)^```", _text(page), re.DOTALL | re.MULTILINE
    ):
        if language == "toml":  # its first line names the file
            Path(block.split("\n")[0].removeprefix("# ")).write_text(block)
        elif language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), warnings.catch_warnings():
                # two epochs are no training, and say so
                warnings.filterwarnings("ignore", ".* is not reliable")
                if shared is not None:  # a notebook shows what taut warns of, and says why
                    warnings.simplefilter("ignore", UserWarning)
                exec(compile(block, page, "exec"), {} if shared is None else shared)
            say(f">>> {block}{printed.getvalue()}")
        else:
            for line in re.findall(COMMANDS, block, re.MULTILINE):
                say(f"$ {line}\n{_command(line)}")


def _command(line: str) -> str:
    program, *arguments = shlex.split(
        "taut fit digits" if line.startswith("make demo") else line, comments=True
    )
    if program == "python":
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
        return ""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == (3 if "# refused" in line else 0), (
        f"{line}\n{result.output}{result.exception!r}"
    )
    return result.output


def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    from taut.evidence.rate_distortion import rate_distortion
    from taut.runs.audit import gradients_run
    from taut.training.pace import plan_steps

    def short(model: Any, objective: Any, data: Any, config: Any) -> int:
        few = dataclasses.replace(config, max_epochs=2, minutes=None)
        return min(plan_steps(model, objective, data, few), 40)  # orders.parquet has 30,000 rows

    def capped(name: str, **most: int) -> None:
        path, _, function = name.rpartition(".")
        module = importlib.import_module(path)
        own = getattr(module, function)

        @functools.wraps(own)
        def capping(*given: Any, **named: Any) -> Any:
            arguments = inspect.signature(own).bind(*given, **named)
            arguments.apply_defaults()
            for argument, number in most.items():
                arguments.arguments[argument] = min(arguments.arguments[argument], number)
            return own(*arguments.args, **arguments.kwargs)

        monkeypatch.setattr(module, function, capping)

    capped("taut.evidence.cells.cell_scores", num_samples=50)
    capped("taut.evidence.gaps.optima_blocks", evaluation_samples=50)
    capped("taut.runs.audit.audit_run", num_data=50)
    capped("taut.runs.improve.audit_run", num_data=50)
    capped("taut.runs.improve.improve", num_data=50, trials=2)
    capped("taut.runs.reasons.entry_tails", num_samples=20)

    def walked(model: Diffusion, num_samples: int, **given: Any) -> torch.Tensor:
        return sample(model.of_steps(10), num_samples, **given)

    sample = Diffusion.sample
    monkeypatch.setattr(Diffusion, "sample", walked)
    # drawn in other tests
    monkeypatch.setattr(sys.modules["taut.report.render"], "_figures", lambda *_: {})
    monkeypatch.setattr("taut.explorer.server.serve", lambda shelf, opened: None)
    little = Effort(
        num_samples=100,
        num_chains=4,
        max_temperatures=5,
        optimum_steps=5,
        simulated=5,
        samples=20,
        task_seconds=0.5,
    )

    def few(model: Any, x: Any, num_samples: int, **given: Any) -> Iterator[Evidence]:
        return importance_blocks(model, x, min(num_samples, 50), **given)

    monkeypatch.setattr("taut.runs.fit.plan_steps", short)
    monkeypatch.setattr("taut.evidence.importance_blocks", few)
    monkeypatch.setattr("taut.estimator.plan_steps", short)
    monkeypatch.setattr("taut.evidence.audit.Effort", lambda **_: little)
    monkeypatch.setattr(
        "taut.runs.audit.gradients_run",
        lambda run, **given: gradients_run(run, **given | {"repeats": 2}),
    )
    monkeypatch.setattr(
        "taut.runs.curve.rate_distortion",
        lambda model, x, betas, **given: rate_distortion(
            model, x[:4], betas, 4, max_temperatures=3
        ),
    )
    monkeypatch.setattr("taut.runs.improve.LITTLE", dataclasses.replace(little, task_seconds=0.0))
    monkeypatch.setenv("TAUT_NUM_SAMPLES", "20")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("TAUT_COMPILE", "off")
    monkeypatch.setenv("TAUT_THREADS", "1")  # else each training times some steps first
    hurry(monkeypatch)


def _given_run() -> None:
    """A finished run of small images, and files like those it was trained on."""
    images = np.random.default_rng(0).integers(0, 17, (40, 8, 8)).astype(np.uint8)
    np.save("images.npy", images)
    np.save("new.npy", images[:5])
    np.save("z.npy", np.zeros((3, 2)))
    _command("taut fit images.npy --latent-dim 2 --out RUN")


def _given_readme() -> None:
    _given_run()
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 256, (40, 28, 28)).astype(np.uint8)
    np.savez("mnist.npz", train_images=digits, test_images=digits[:10, ::-1])
    np.save("table.npy", rng.standard_normal((200, 11)))
    for name in ("images", "orders", "cells"):
        _command(f"python examples/make_{name}.py")


GIVEN: dict[str, Callable[[], None]] = {"README.md": _given_readme, "docs/evidence.md": _given_run}


if __name__ == "__main__":
    import os

    page, folder = sys.argv[1:]
    Path(folder).mkdir()
    os.chdir(folder)
    GIVEN.get(page, lambda: None)()
    _run(page, lambda text: print(text, flush=True))
