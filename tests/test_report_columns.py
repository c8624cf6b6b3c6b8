"""Columns of samples beside columns of data: shares, distances, and the picture of them."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from taut.evidence.column_shapes import BINS, LEVELS, ColumnShapes, compared
from taut.report import figures


def test_levels_have_the_shares_that_they_have() -> None:
    real = np.repeat([0.0, 1.0, 2.0], [5, 3, 2])
    made = np.repeat([0.0, 1.0, 7.0], [8, 1, 1])
    found = compared(real, made, True, lambda values: [f"level {v:g}" for v in values])
    assert found["bins"] == ["level 0", "level 1", "level 2", "others"]
    assert found["data"] == pytest.approx([0.5, 0.3, 0.2, 0.0], abs=1e-12)
    assert found["samples"] == pytest.approx([0.8, 0.1, 0.0, 0.1], abs=1e-12)
    assert found["distance"] == pytest.approx(0.4, abs=1e-12)
    both = (0.65, 0.2, 0.1, 0.05)
    chance = sum(math.sqrt(p * (1 - p) * 0.2 / (2 * math.pi)) for p in both)
    assert found["by_chance"] == pytest.approx(chance, abs=1e-12)


def test_of_many_levels_the_commonest_are_named() -> None:
    real = np.repeat(np.arange(20.0), np.arange(20, 0, -1))
    found = compared(real, real, True)
    assert found["bins"] == [*map(str, range(LEVELS)), "others"]
    assert found["data"][-1] == pytest.approx(sum(range(1, 9)) / 210, abs=1e-12)
    assert found["distance"] == 0.0


def test_numbers_lie_in_ranges_whose_ends_are_open() -> None:
    real = np.arange(1001.0)
    found = compared(real, np.array([-1e9, 1e9]), False)
    assert len(found["bins"]) == BINS
    assert found["bins"][0] == "below 108"  # from 10 to 990, a tenth of it
    assert found["bins"][1] == "108 to 206"
    assert found["bins"][-1] == "from 892"
    assert found["samples"] == [0.5, *[0.0] * (BINS - 2), 0.5]
    assert found["data"][0] == pytest.approx(108 / 1001, abs=1e-12)
    # nearly all of one value: that value, and the others
    spike = compared(np.repeat([0.0, 5.0], [999, 1]), np.zeros(10), False)
    assert spike["bins"] == ["0", "5"]


def test_the_distance_by_chance_is_that_of_two_draws_of_one_distribution() -> None:
    """A z-test over 2,000 pairs of draws: false alarms of 1e-6, beside 1 % for the normal
    approximation of shares.
    """
    rng = np.random.default_rng(0)
    pairs = rng.choice(4, size=(2000, 150), p=[0.4, 0.3, 0.2, 0.1]).astype(float)
    found = [compared(row[:100], row[100:], True) for row in pairs]
    apart = np.array([one["distance"] - one["by_chance"] for one in found])
    scale = np.mean([one["by_chance"] for one in found])
    assert abs(apart.mean()) < 4.9 * apart.std() / math.sqrt(len(apart)) + 0.01 * scale


def _found() -> dict[str, Any]:
    columns = [
        {
            "name": name,
            **{"distance": 0.3, "by_chance": 0.1, "bins": ["a", "b", "c"]},
            **{"data": [0.5, 0.3, 0.2], "samples": [0.2, 0.4, 0.4]},
        }
        for name in ("age", "a name that is far too long for its place", "<b>")
    ]
    counts = {"num_data": 20, "num_made": 50, "num_columns": 9, "word": "column"}
    return {**counts, "columns": columns}


def test_the_table_names_the_value_that_differs_most() -> None:
    section = ColumnShapes(_found(), "row")
    (table,) = section.tables()
    title, _, cells = table.lines[0]
    assert (title, *cells[:3]) == ("age", "0.300", "0.100", "a")
    assert [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in cells[3:]] == ["50 %", "20 %"]
    assert "The 3 of 9 columns that differ most" in section.text()[0]


def test_bars_and_diamonds_stand_where_the_shares_say() -> None:
    svg = figures.columns(_found())
    root = ElementTree.fromstring(svg)
    assert "<b>" not in svg
    marks = [
        (float(str(u.get("x"))), float(str(u.get("y"))))
        for group in root.iter()
        if group.get("id") == "columns-samples-0"
        for u in group.iter()
        if u.tag.endswith("use")
    ]
    bars = [
        [tuple(map(float, xy)) for xy in re.findall(r"[ML] (\S+) (\S+)", str(path.get("d")))]
        for group in root.iter()
        if str(group.get("id")).startswith("columns-data-0-")
        for path in group.iter()
        if path.tag.endswith("path")
    ]
    assert len(marks) == len(bars) == 3
    floor = max(y for _, y in bars[0])
    tops = [min(y for _, y in bar) for bar in bars]
    unit = (floor - tops[0]) / 0.5
    assert [floor - y for y in tops] == pytest.approx(
        [0.5 * unit, 0.3 * unit, 0.2 * unit], abs=1e-4
    )
    heights = [floor - y for _, y in marks]
    assert heights == pytest.approx([0.2 * unit, 0.4 * unit, 0.4 * unit], abs=1e-4)
    middles = [(min(x for x, _ in bar) + max(x for x, _ in bar)) / 2 for bar in bars]
    assert [x for x, _ in marks] == pytest.approx(middles, abs=1e-4)
    *_, width, height = map(float, str(root.get("viewBox")).split())
    assert all(0 <= x <= width and 0 <= y <= height for bar in bars for x, y in bar)
    assert figures.columns({**_found(), "columns": []}) == ""
