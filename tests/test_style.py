"""The style of the source, counted: ``python tests/test_style.py [FOLDER]`` prints the numbers."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "taut"
ROOT, WIDTH, CONDITIONALS = 16, 100, 25


def counted(folder: Path) -> dict[str, float]:
    """Returns the numbers that design and issues speak of, of a folder of source."""
    lines, statements, conditionals, nested = 0, 0, 0, 0
    wide = 0
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text()
        lines += len(text.splitlines())
        wide += sum(len(line) > WIDTH for line in text.splitlines())
        for node in ast.walk(ast.parse(text)):
            statements += isinstance(node, ast.stmt)
            if isinstance(node, ast.IfExp):
                conditionals += 1
                parts = [node.test, node.body, node.orelse]
                nested += any(isinstance(n, ast.IfExp) for p in parts for n in ast.walk(p))
    return {
        "files in the root": len(list(folder.glob("*.py"))),
        "lines": lines,
        "per cent of lines over 100": round(100 * wide / lines, 2),
        "conditional expressions per 1,000 statements": round(1000 * conditionals / statements, 1),
        "nested ones": nested,
    }


def test_the_source_keeps_its_style() -> None:
    """Complexity and width of each line are ruff's to watch; these two nobody else counts."""
    numbers = counted(SOURCE)
    assert numbers["files in the root"] <= ROOT
    assert numbers["nested ones"] == 0
    assert numbers["conditional expressions per 1,000 statements"] <= CONDITIONALS


def test_the_count_sees_what_it_counts(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1 if a else 2\ny = 1 if a else (2 if b else 3)\n")
    found = counted(tmp_path)
    assert found["nested ones"] == 1
    assert found["conditional expressions per 1,000 statements"] == 1500


if __name__ == "__main__":
    for name, value in counted(Path(sys.argv[1]) if sys.argv[1:] else SOURCE).items():
        print(f"{value:>10}  {name}")
