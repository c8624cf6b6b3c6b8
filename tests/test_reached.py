"""What the generic mutants are tried by: the tests that reach the statement that was edited."""

from __future__ import annotations

from typing import Any

import reached

SOURCE = '''
"""A file."""

from __future__ import annotations

def sign(x: float) -> str:
    """Returns the sign."""
    if x < 0:
        return "-"
    elif x == 0:
        return "0"

    def plus() -> str:
        return "+"

    try:
        return plus()
    finally:
        done = True
'''


def test_every_statement_that_runs_is_noted_and_nothing_else_changes() -> None:
    now = set[tuple[str, int]]()
    text = reached.instrumented(SOURCE, "a.py")
    text = text.replace(f"from {reached.NOTE} import note as {reached.NOTE}", "")
    there: dict[str, Any] = {reached.NOTE: now.add}
    exec(compile(text, "a.py", "exec"), there)
    seen = {}
    for x in (-1, 0, 1):
        now.clear()
        found = there["sign"](x)
        seen[found] = {line for _, line in now}
    first = SOURCE[: SOURCE.index("    if x < 0")].count("\n") + 1
    assert seen == {
        "-": {first, first + 1},
        "0": {first, first + 2, first + 3},
        "+": {first + i for i in (0, 2, 5, 6, 8, 9, 11)},
    }
    assert there["sign"].__doc__ == "Returns the sign."
