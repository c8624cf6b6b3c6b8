"""A small table for notebooks, everything in it escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["table"]


def table(
    caption: str,
    header: Sequence[object],
    rows: Iterable[Sequence[object]],
    notes: Iterable[str] = (),
) -> str:
    r"""Returns an HTML table, its first column being what each row is called.

    Args:
        caption: A line above it.
        header: Of the columns; nothing for none.
        rows: The cells, texts of any origin.
        notes: Lines below it.

    Examples:
        >>> print(table("a < b", (), [("x", 1)]).replace("<t", "\n<t"))
        <BLANKLINE>
        <table><caption>a &lt; b</caption>
        <tbody>
        <tr>
        <th scope="row">x</th>
        <td>1</td></tr></tbody></table>
    """
    head = "".join(f'<th scope="col">{escape(str(each))}</th>' for each in header)
    body = "".join(_row(row) for row in rows)
    lines = "".join(f"<p>{escape(note)}</p>" for note in notes)
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f"<table><caption>{escape(caption)}</caption>{top}<tbody>{body}</tbody></table>{lines}"


def _row(row: Sequence[object]) -> str:
    first, *rest = (escape(str(cell)) for cell in row)
    cells = "".join(f"<td>{cell}</td>" for cell in rest)
    return f'<tr><th scope="row">{first}</th>{cells}</tr>'
