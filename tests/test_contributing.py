"""The extension guide is true: each of its blocks is added to a copy of the tree, two files a part,
and the part passes the tests of its family and works from the command line.

A block in ``py`` names in its first line where it stands: a source file, at whose end it is written
(its imports at the top, the names that it defines in ``__all__``), or a list of
``tests/instances.py``. A block in ``console`` is run after them.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
GUIDE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PARTS = ("likelihood", "prior", "posterior", "objective", "network", "column")

# What a part must pass in the copy, where its row is the last of its list.
INSTANCES = "tests/test_instances.py::"
TESTS = {
    "make_likelihoods": (
        INSTANCES + "test_a_likelihood_is_normalised[{}]",
        INSTANCES + "test_likelihood_shapes_samples_and_gradients[{}]",
        INSTANCES + "test_one_datum_does_not_see_another[{}]",
        "tests/test_spec.py::test_likelihoods_there_and_back[{}]",
        "tests/test_missing.py::test_every_likelihood_has_gaps_without_a_nan_in_its_gradient[{}]",
        "tests/test_samples.py::test_every_likelihood_has_means_draws_and_an_optimum[{}]",
    ),
    "make_priors": (INSTANCES + "test_prior_shapes_and_total_probability[{}]",),
    "make_posteriors": (INSTANCES + "test_posterior_shapes_and_units[{}]",),
    "NETWORKS": (
        INSTANCES + "test_network_shapes_and_context[0-factory{0}-in_shape{0}-out_shape{0}]",
        INSTANCES + "test_network_shapes_and_context[3-factory{0}-in_shape{0}-out_shape{0}]",
    ),
    "COLUMN_KINDS": (
        INSTANCES + "test_every_kind_of_column_has_a_row",
        INSTANCES + "test_a_likelihood_is_normalised[0]",
        "tests/test_missing.py::test_every_likelihood_has_gaps_without_a_nan_in_its_gradient[0]",
    ),
    "OBJECTIVES": (
        "tests/test_objectives.py::test_value_is_the_evidence_under_the_exact_posterior"
        "[Renyi(num_samples=5, alpha=0.5)]",
        "tests/test_objectives.py::test_value_is_the_bound_it_is_named_after"
        "[0.1-Renyi(num_samples=5, alpha=0.5)]",
    ),
}


def blocks() -> list[tuple[str, str, str]]:
    """Returns (part, language, text) of each block of the guide."""
    found = []
    for match in BLOCK.finditer(GUIDE):
        heading = re.findall(r"^###? (.*)$", GUIDE[: match.start()], re.MULTILINE)[-1]
        part = next(part for part in PARTS if part in heading)
        found.append((part, match[2], match[3]))
    return found


def test_every_block_of_the_guide_is_of_a_kind_that_is_run() -> None:
    assert len(blocks()) == GUIDE.count("```") / 2
    for _, language, text in blocks():
        if language == "py":
            assert re.match(r"# (src/taut/[\w/]+\.py|tests/instances\.py: \w+)\n", text), text
        else:
            assert language == "console"
            assert all(line.startswith("$ taut ") for line in text.splitlines())


def write(tree: Path, block: str) -> str:
    """Writes a block where its first line says; returns the file."""
    first, body = block.split("\n", 1)
    file, _, rows = first.removeprefix("# ").partition(": ")
    path = tree / file
    text = path.read_text("utf-8")
    path.write_text(_with_row(text, rows, body) if rows else _with_class(text, body), "utf-8")
    return file


def _list(text: str, rows: str) -> ast.List:
    """Returns the list of rows of a name, or that its function returns."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == rows:
            found = node.body[-1].value
        elif isinstance(node, ast.Assign | ast.AnnAssign) and rows in ast.unparse(node)[:40]:
            found = node.value
        else:
            continue
        assert isinstance(found, ast.List)
        return found
    raise AssertionError(f"no list {rows}")


def _with_row(text: str, rows: str, row: str) -> str:
    last, lines = _list(text, rows).elts[-1], text.splitlines(keepends=True)
    place = sum(map(len, lines[: last.end_lineno - 1])) + last.end_col_offset
    return f"{text[:place]}, {row.strip()}{text[place:]}"


def _with_class(text: str, body: str) -> str:
    tree = ast.parse(body)
    imports = [ast.unparse(n) for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    named = [n.name for n in tree.body if isinstance(n, ast.ClassDef)]
    future = "from __future__ import annotations\n"
    text = text.replace(future, "\n".join([future, *imports, ""]), 1)
    text = re.sub(r"^__all__ = \[", "".join(["__all__ = [", *(f'"{n}", ' for n in named)]), text,
                  count=1, flags=re.MULTILINE)  # fmt: skip
    rest = body if not imports else body[body.index("\nclass ") :]
    return f"{text}\n\n{rest}"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree to which every block was added."""
    tree = tmp_path_factory.mktemp("copy")
    for name in ("src", "tests"):
        # with the bytecode, since most files stay as they are, but not what is being written of it
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    for part in PARTS:
        files = {write(tree, text) for h, kind, text in blocks() if h == part and kind == "py"}
        assert len(files) == 2, part
        assert "tests/instances.py" in files
    return tree


def test_a_part_is_added_by_the_text_of_the_guide(copy: Path) -> None:
    commands = [
        shlex.split(line.removeprefix("$ taut "))
        for _, kind, text in blocks()
        if kind == "console"
        for line in text.splitlines()
    ]
    rows = (copy / "tests/instances.py").read_text("utf-8")
    tests = [INSTANCES + "test_every_part_that_can_be_named_has_a_row"]
    for name, ids in TESTS.items():
        tests += [test.format(len(_list(rows, name).elts) - 1) for test in ids]
    script = f"""
import numpy, pytest
code = pytest.main(["-p", "no:cacheprovider", *{tests!r}])
from typer.testing import CliRunner
from taut.cli.app import app
rng = numpy.random.default_rng(0)
numpy.save("numbers.npy", rng.laplace(10, 3, (60, 2)))
with open("shares.csv", "w") as file:
    file.write("a,b\\n" + "".join(f"{{x:.3f}},{{y:.3f}}\\n" for x, y in rng.random((60, 2))))
with open("shares.toml", "w") as file:
    file.write('[columns.a]\\nkind = "share"\\n')
for command in {commands!r}:
    command += ["--set", "training.max_epochs=2", "--set", "evaluation.num_samples=10"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, (command, result.output, result.exception)
raise SystemExit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
