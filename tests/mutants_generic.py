"""Small edits anywhere in the source, which a test must notice: ``python tests/mutants_generic.py
[NUMBER]``.

Cosmic Ray lists what can be edited (an operator, a comparison, a number, a keyword), a seed draws a
sample of it, and the tests that know the file run on a copy: the same runner as ``mutants.py``,
which plants the bugs that people would make. Edits that change nothing that runs, such as those of
an annotation, are not counted. ``EQUIVALENT`` names the rest that no test could see, with the
reason. The last line is ``killed N of N``; below ``SHARE`` it exits with 1.
"""

from __future__ import annotations

import ast
import difflib
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import NamedTuple

import mutants

SEED = 1
NUMBER = 150
SHARE = 0.95
SLOW = ("tests/test_docs.py", "tests/test_bad_input_matrix.py")  # whole commands on whole pages
EVERYWHERE = "tests/test_cli.py"  # where no planted bug and no name says which tests know a file

# (file, the line as it would be): why no test can see it.
EQUIVALENT: dict[tuple[str, str], str] = {}


class Edit(NamedTuple):
    """One place that an operator of Cosmic Ray can edit."""

    file: str
    operator: str
    occurrence: int


def edits(source: Path) -> Iterator[Edit]:
    """Yields everything that can be edited."""
    import cosmic_ray.plugins  # which `make mutants-generic` installs
    from cosmic_ray.ast import ast_nodes, get_ast

    names = [n for n in cosmic_ray.plugins.operator_names() if not n.endswith("NoOp")]
    operators = [(n, cosmic_ray.plugins.get_operator(n)) for n in sorted(names)]
    usable = [(n, kind()) for n, kind in operators if not kind.arguments()]
    for path in sorted(source.rglob("*.py")):
        tree = list(ast_nodes(get_ast(path.read_text())))
        for name, operator in usable:
            count = sum(1 for node in tree for _ in operator.mutation_positions(node))
            for i in range(count):
                yield Edit(str(path.relative_to(source)), name, i)


def running(text: str) -> str:
    """Returns what of a source runs: without annotations and docstrings."""
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


def tests_of(file: str) -> list[str]:
    """Returns the test files that know a source file: by its planted bugs, and by its name."""
    known = {m.tests.partition("::")[0] for m in mutants.MUTANTS if m.file == file}
    own = f"tests/test_{Path(file).stem}.py"
    known |= {own} if (mutants.ROOT / own).exists() else set()
    return sorted(known - set(SLOW)) or [EVERYWHERE]


def try_out(clean: Path, edit: Edit, text: str) -> bool:
    """Tells whether a test catches the edit, and prints which."""
    before = (clean / "src" / "taut" / edit.file).read_text()
    number, line = changed(before, text)
    if (reason := EQUIVALENT.get((edit.file, line))) is not None:
        print(f"equivalent  {edit.file}:{number}  {line}  [{reason}]", flush=True)
        return True
    with tempfile.TemporaryDirectory(prefix="taut-mutant-") as name:
        folder = mutants.copy(clean, Path(name).resolve())
        (folder / "src" / "taut" / edit.file).write_text(text)
        for tests in tests_of(edit.file):
            test, problem = mutants.failing(folder, tests)
            # one that cannot be imported or hangs is noticed by whoever runs it
            if test or problem:
                print(
                    f"killed      {edit.file}:{number}  {line}  [{test or problem[:60]}]",
                    flush=True,
                )
                return True
    diff = list(difflib.unified_diff(before.splitlines(), text.splitlines(), n=0))[3:]
    print(f"SURVIVED    {edit.file}:{number}", *diff, sep="\n    ", flush=True)
    return False


def main() -> None:
    number = int(sys.argv[1]) if sys.argv[1:] else NUMBER
    os.environ["OMP_NUM_THREADS"] = "1"
    mutants.SECONDS = 600  # here whole test files run, and not one test
    preload = ["torch._dynamo", "pytest", "beartype", "sklearn.datasets", "safetensors.torch"]
    set_forkserver_preload(preload)
    source = mutants.ROOT / "src" / "taut"
    places: dict[tuple[str, str, int], list[Edit]] = {}
    # a plus can become ten other operators: it is one place all the same
    for edit in edits(source):
        kind = "_".join(edit.operator.split("_")[:2])
        places.setdefault((edit.file, kind, edit.occurrence), []).append(edit)
    rng, everything = random.Random(SEED), list(places.values())
    rng.shuffle(everything)
    sample: list[tuple[Edit, str]] = []
    for alternatives in everything:
        edit = rng.choice(alternatives)
        if (text := edited(source, edit)) is not None:
            sample.append((edit, text))
        if len(sample) == number:
            break
    print(f"{len(sample)} of {len(everything)} places", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="taut-clean-") as name,
        ThreadPoolExecutor(mutants.WORKERS) as pool,
    ):
        clean = mutants.copy(mutants.ROOT, Path(name).resolve())
        known = sorted({t for edit, _ in sample for t in tests_of(edit.file)})
        for tests, (test, problem) in zip(
            known, pool.map(lambda tests: mutants.failing(clean, tests), known), strict=True
        ):
            if test or problem:
                raise SystemExit(f"not green without an edit: {tests}: {test or problem}")
        killed = sum(pool.map(lambda row: try_out(clean, *row), sample))
    print(f"killed {killed} of {len(sample)}")
    sys.exit(killed < SHARE * len(sample))


if __name__ == "__main__":
    main()
