"""Small edits anywhere in the source, which a test must notice: ``python tests/mutants_generic.py
[NUMBER]``.

Cosmic Ray lists what can be edited (an operator, a comparison, a number, a keyword). Of the places
a hash draws a sample: an edit stays in it for as long as its line stands. The whole suite runs once
and notes which tests reach which lines; then each edit is made in a copy and tried by the tests
that reach its line, the fastest first: the same runner as ``mutants.py``, which plants the bugs
that people would make. Edits that change nothing that runs, such as those of an annotation, are not
counted. ``EQUIVALENT`` names those of the others that no test could see, with the reason. The last
line is ``killed N of N, and N are equivalent``; below ``SHARE`` it exits with 1.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import blake2b
from itertools import accumulate
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any, NamedTuple

import mutants
from reached import SHARED, reach, trace

SEED = 1
NUMBER = 150
SHARE = 0.95
BUDGET = 60.0  # CPU seconds of tests for one edit, without the edit
SLOW = ("tests/test_docs.py", "tests/test_bad_input_matrix.py")  # whole commands on whole pages

# (file, the line as it would be): why no test can see it.
EQUIVALENT = {
    ("data/split.py", "elif parts and by is None and len(distinct) is not len(parts):"): (
        "fewer distinct rows than parts are refused either way"
    ),
    ("data/sparse.py", "values = self._values.index_select( -1, where).to(self.dtype)"): (
        "the values have one axis: the first is the last"
    ),
    ("features.py", "values = values.index_copy(+1, self.warped_numbers, warped)"): (
        "the values have two axes: the second is the last"
    ),
    ("data/tables/seen.py", "self.infinite, self.first_infinite = 0, ( -1, 0.0)"): (
        "read only where there is an infinite value, and set there"
    ),
    ("data/tables/cells.py", "kept = [t for t, g in zip(texts, gone, strict=False) if not g]"): (
        "one is made of the other, so both are as long"
    ),
    ("evidence/gradients.py", "run.add(model, x, context, keep=number != 0)"): (
        "a count from 0 is never below it"
    ),
    ("training/pace.py", "learner.step(x, 0.0, 0.0, 1.0)"): (
        "a step whose time alone is kept: how far the training is changes no time"
    ),
    (
        "runs/audit.py",
        'x = batch(dataset.train, index, dataset.binarize == "dynamic", '
        'generator(seed, "gradients", 0))',
    ): "the rows and their bits come from one stream, which no number shows",
    (
        "runs/audit.py",
        'x = batch(dataset.train, index, dataset.binarize == "dynamic", '
        'generator(seed, "gradients", 2))',
    ): "the rows and their bits come from one stream, which no number shows",
    (
        "data/tables/prepare.py",
        "if not isinstance(asked.schema, Schema | Path) and not isinstance(sources[ -1], "
        "Streamed):",
    ): "both sources are streamed or neither is",
    (
        "evidence/columns.py",
        "MANY, DRAWS = 50, 17  # columns from which on the posterior of the row serves, and draws "
        "of it",
    ): "a draw more is a matter of taste",
    (
        "likelihoods/common.py",
        "raw = decoded[1].mean(event, keepdim=True) if self.raw is None else self.raw",
    ): "there are two maps then: the second is the last",
    (
        "evidence/section.py",
        'near = -estimate["value"] <= max(2 * (error_of(estimate) or -1.0), rounding)',
    ): "less than the rounding is the rounding",
    ("models/emissions.py", "return (self.offset[:, -1] + sizes - 2)[self.numbers]"): (
        "there is one column: the first is the last"
    ),
    ("evidence/gradients.py", "name: 3"): (
        "a bias is looked for along fixed random directions, and along others as well"
    ),
    ("data/schema.py", "return 0.0, -1.0"): (
        "without a finite value there is none that could lie outside"
    ),
    ("data/schema.py", "return 0.0, 1.0"): (
        "without a finite value there is none that could lie outside"
    ),
    ("report/figures.py", "figure = _figure( 301)"): "a point more of height is a matter of taste",
    ("report/figures.py", "figure = _figure( 299)"): "a point less of height is a matter of taste",
    ("report/figures.py", "height = 79 + 26 * len(rows)"): (
        "a point less of height is a matter of taste"
    ),
    (
        "report/figures.py",
        'x, y, errors, color=BLUE, marker="o", markersize= 4, linewidth=1.5, label=label',
    ): "a point less of a mark is a matter of taste",
    (
        "report/figures.py",
        'x, y, errors, color=BLUE, marker="o", markersize= 6, linewidth=1.5, label=label',
    ): "a point more of a mark is a matter of taste",
}


class Edit(NamedTuple):
    """One edit of Cosmic Ray.

    Args:
        file: Where, below ``src/taut``.
        operator: Which kind of edit.
        occurrence: At which of the places of the file that it can edit.
        line: The number of the line, from 1.
    """

    file: str
    operator: str
    occurrence: int
    line: int


def places(source: Path) -> dict[str, list[Edit]]:
    """Returns everything that can be edited: under a name of each place, the edits it allows.

    A plus can become ten other operators: it is one place all the same. The name holds the text of
    the line instead of its number, which changes with every line above it.
    """
    import cosmic_ray.plugins  # which `make mutants-generic` installs
    from cosmic_ray.ast import ast_nodes, get_ast

    names = [n for n in cosmic_ray.plugins.operator_names() if not n.endswith("NoOp")]
    operators = [(n, cosmic_ray.plugins.get_operator(n)) for n in sorted(names)]
    usable = [(n, kind()) for n, kind in operators if not kind.arguments()]
    found: dict[str, list[Edit]] = {}
    for path in sorted(source.rglob("*.py")):
        file, text = str(path.relative_to(source)), path.read_text()
        tree, lines = list(ast_nodes(get_ast(text))), text.splitlines()
        here: dict[tuple[str, tuple[int, int]], list[Edit]] = defaultdict(list)
        for name, operator in usable:
            starts = [start for node in tree for start, _ in operator.mutation_positions(node)]
            kind = "_".join(name.split("_")[:2])
            for i, start in enumerate(starts):
                here[kind, start].append(Edit(file, name, i, start[0]))
        alike: Counter[str] = Counter()
        for (kind, (line, _)), edits in sorted(here.items()):
            name = f"{file} {kind} {lines[line - 1].strip()}"
            found[f"{name} {alike[name]}"] = edits
            alike[name] += 1
    return found


def drawn(source: Path, number: int) -> Iterator[tuple[Edit, str]]:
    """Yields edits of a sample of the places, and the text of the file after each."""

    def order(text: str) -> bytes:
        return blake2b(f"{SEED} {text}".encode()).digest()

    everything = places(source)
    for name in sorted(everything, key=order):
        edit = min(everything[name], key=lambda e: order(f"{name} {e.operator} {e.occurrence}"))
        if number and (text := edited(source, edit)) is not None:
            yield edit, text
            number -= 1


def running(text: str) -> str:
    """Returns what of a source runs: without annotations, their imports, and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.test = ast.Constant(None)
    return ast.dump(tree)


def edited(source: Path, edit: Edit) -> str | None:
    """Returns the text of the file after an edit, or None where nothing that runs has changed."""
    import cosmic_ray.plugins
    from cosmic_ray.mutating import mutate_code

    before = (source / edit.file).read_text()
    operator = cosmic_ray.plugins.get_operator(edit.operator)()
    try:
        after = mutate_code(before, operator, edit.occurrence)
        unchanged = after is None or running(after) == running(before)
    except (
        AttributeError,
        SyntaxError,
    ):  # Cosmic Ray's own: `except a.b`, or the stars of f(**x) as an operator
        return None
    return None if unchanged else after


def changed(before: str, after: str) -> tuple[int, str]:
    """Returns the number and the text of the first line that differs."""
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    return next((i, b.strip()) for i, (a, b) in enumerate(pairs, 1) if a != b)


def running_with(text: str, line: int) -> range | None:
    """Returns lines that run where an edit of this line does; None if that is at the import."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found: ast.stmt | None = None
    inside = [
        node
        for function in ast.walk(ast.parse(text))
        if isinstance(function, functions)
        for node in ast.walk(function)
    ]
    for node in inside:
        if isinstance(node, ast.stmt) and _first(node) <= line <= (node.end_lineno or 0):
            found = node if found is None or _first(node) >= _first(found) else found
    if found is None or isinstance(found, ast.ClassDef):
        return None
    first, end = _first(found), (found.end_lineno or 0) + 1
    if isinstance(found, functions):
        return range(found.body[0].lineno, end)
    inner = getattr(found, "body", None)  # of an if, say: its first line is the condition
    return range(first, max(first + 1, inner[0].lineno)) if inner else range(first, end)


def _first(node: ast.stmt) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


@cache
def noted(traced: Path) -> list[dict[str, Any]]:
    """Returns what the tests of each file reached."""
    return [json.loads(file.read_text()) for file in sorted(traced.glob("test_*.json"))]


def tests_of(traced: Path, clean: Path, edit: Edit) -> list[str]:
    """Returns the tests that reach an edit, the fastest first, as many as there is time for.

    Where none does, as in another process, the tests of the planted bugs of the file.
    """
    lines = running_with((clean / "src" / "taut" / edit.file).read_text(), edit.line)
    times: list[tuple[float, str]] = []
    for found in noted(traced):
        mask = 0
        for place, here in found["places"].items():
            file, _, line = place.rpartition(":")
            if file == edit.file and (not lines or int(line) in lines):
                mask |= int(here, 16)
        chosen = [name for i, name in enumerate(found["names"]) if mask >> i & 1]
        if SHARED in chosen:
            chosen = list(found["seconds"])
        times += [(found["seconds"][name], name) for name in chosen]
    times.sort()
    total = accumulate(seconds for seconds, _ in times)
    found = [name for (_, name), until in zip(times, total, strict=True) if until < BUDGET]
    return found or sorted({m.tests for m in mutants.MUTANTS if m.file == edit.file})


def try_out(traced: Path, clean: Path, edit: Edit, text: str) -> bool | None:
    """Tells whether a test catches the edit, and prints which; None if none can."""
    before = (clean / "src" / "taut" / edit.file).read_text()
    number, line = changed(before, text)
    if (reason := EQUIVALENT.get((edit.file, line))) is not None:
        print(f"equivalent  {edit.file}:{number}  {line}  [{reason}]", flush=True)
        return None
    tests = tests_of(traced, clean, edit)
    with tempfile.TemporaryDirectory(prefix="taut-mutant-") as name:
        folder = mutants.copy(clean, Path(name).resolve())
        (folder / "src" / "taut" / edit.file).write_text(text)
        test, problem = mutants.failing(folder, *tests) if tests else (None, "")
    # one that cannot be imported or hangs is noticed by whoever runs it
    if test or problem:
        print(f"killed      {edit.file}:{number}  {line}  [{test or problem[:60]}]", flush=True)
        return True
    diff = list(difflib.unified_diff(before.splitlines(), text.splitlines(), n=0))[3:]
    told = f"SURVIVED    {edit.file}:{number}  {len(tests)} tests"
    print(told, *diff, sep="\n    ", flush=True)
    return False


def main() -> None:
    number = int(sys.argv[1]) if sys.argv[1:] else NUMBER
    os.environ["OMP_NUM_THREADS"] = "1"
    mutants.SECONDS = 1200  # here whole test files run, and not one test
    preload = ["torch._dynamo", "pytest", "beartype", "sklearn.datasets", "safetensors.torch"]
    set_forkserver_preload(preload)
    sample = list(drawn(mutants.ROOT / "src" / "taut", number))
    with (
        tempfile.TemporaryDirectory(prefix="taut-clean-") as name,
        tempfile.TemporaryDirectory(prefix="taut-traced-") as other,
        ThreadPoolExecutor(mutants.WORKERS) as pool,
    ):
        clean = mutants.copy(mutants.ROOT, Path(name).resolve())
        traced = trace(mutants.ROOT, Path(other).resolve())
        files = sorted(f"tests/{path.name}" for path in clean.glob("tests/test_*.py"))
        suite = [file for file in files if file not in SLOW]
        first = list(pool.map(lambda tests: mutants.failing(traced, tests, target=reach), suite))
        for tests, (test, problem) in zip(suite, first, strict=True):
            if test or problem:  # as those of the README, which is not copied
                print(f"not used    {tests}  [{test or problem.splitlines()[0]}]", flush=True)
                (traced / f"{Path(tests).stem}.json").unlink(missing_ok=True)
        tried = list(pool.map(lambda row: try_out(traced, clean, *row), sample))
    seen = [killed for killed in tried if killed is not None]
    print(f"killed {sum(seen)} of {len(seen)}, and {len(tried) - len(seen)} are equivalent")
    sys.exit(sum(seen) < SHARE * len(seen))


if __name__ == "__main__":
    main()
