"""Which tests reach which statements of ``src/taut``, and the CPU seconds of each test.

Every statement of every function of a copy of the source notes that it runs: one addition to a set.
A tracer (coverage before Python 3.12) makes such tests four times as slow: 240 CPU seconds for the
57 of ``tests/test_audit_cli.py``, which takes 48 with these notes.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mutants
import pytest

NOTE = "_taut_reached"
SHARED = "shared"  # what a fixture of more than one test reaches


def instrumented(text: str, file: str) -> str:
    """Returns the source of a file whose functions note each statement that runs."""
    tree = ast.parse(text)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, functions)
        for node in ast.walk(function)
    }
    for node in inside:
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and not isinstance(node, ast.ClassDef):
                setattr(node, name, list(_noted(block, file)))
    if not inside:
        return text
    first = next(i for i, node in enumerate(tree.body) if not _stays_first(node))
    tree.body.insert(first, ast.parse(f"from {NOTE} import note as {NOTE}").body[0])
    return ast.unparse(ast.fix_missing_locations(tree))


def _noted(block: list[ast.stmt], file: str) -> Iterator[ast.stmt]:
    for number, node in enumerate(block):
        if number or not _stays_first(node):
            yield ast.parse(f"{NOTE}(({file!r}, {node.lineno}))").body[0]
        yield node


def _stays_first(node: ast.stmt) -> bool:
    """Returns whether a statement is a docstring or one of those about the future."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


class Reach:
    """A plugin of pytest that takes down what each test reaches, and its CPU seconds with those of
    the processes that it started.

    Args:
        now: What was reached since it was last emptied.
    """

    def __init__(self, now: set[tuple[str, int]]) -> None:
        self.now, self.seconds = now, dict[str, float]()
        self.masks: dict[tuple[str, int], int] = {}  # bit i: the i-th test; the first is SHARED
        self.names = [SHARED]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        start = sum(os.times()[:4])
        self.now.clear()
        self.names.append(item.nodeid)
        found = yield
        self._take(len(self.names) - 1)
        self.seconds[item.nodeid] = sum(os.times()[:4]) - start
        return found

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        self._take(len(self.names) - 1)
        found = yield
        self._take(0)
        return found

    def _take(self, number: int) -> None:
        for place in self.now:
            self.masks[place] = self.masks.get(place, 0) | 1 << number
        self.now.clear()

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values: the tests, the seconds of each, and the mask of each place."""
        places = {f"{file}:{line}": hex(mask) for (file, line), mask in self.masks.items()}
        return {"names": self.names, "seconds": self.seconds, "places": places}


def trace(source: Path, folder: Path) -> Path:
    """Copies what the tests need, with a source that notes what runs."""
    mutants.copy(source, folder)
    for path in (folder / "src" / "taut").rglob("*.py"):
        file = str(path.relative_to(folder / "src" / "taut"))
        path.write_text(instrumented(path.read_text(), file))
    (folder / "src" / f"{NOTE}.py").write_text("now = set()\nnote = now.add\n")
    return folder


def reach(folder: Path, own: Path, tests: str) -> None:
    """Does what ``mutants.run_tests`` does in a copy by ``trace``, and writes what was reached to
    a file beside it.
    """
    sys.path.insert(0, str(folder / "src"))
    plugin = Reach(__import__(NOTE).now)
    try:
        mutants.run_tests(folder, own, tests, plugins=[plugin])
    finally:
        Path(folder / f"{Path(tests).stem}.json").write_text(json.dumps(plugin.to_dict()))
