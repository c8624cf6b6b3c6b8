"""Methods that make little effort, for tests of what is written, shown and kept instead of numbers.

After two epochs the encoder measures few rows well, so that each climbs the whole ladder of
methods: most of the time of such a test.
"""

from __future__ import annotations

from typing import Any

import pytest
from torch.distributions import Distribution

from taut.evidence import ascent
from taut.runs.candidates import FACTORS, FOREST

STEPS, DRAWS = 5, 2  # of a block of an ascent, and samples of each step

LITTLE = {
    "build.start": {"MAX_PASSES": 5},
    "cli.score": {"CLIMBING": 5},
    "distributions.warps": {"MIDPOINTS": 8},
    "evidence.annealing": {"LEAPFROG": 2, "PILOT_TRANSITIONS": 2, "PILOT_LIMIT": 5},
    "evidence.ascent": {"FRESH": 16, "MORE": 16, "BLOCKS": 2, "CLIMBS": 10},
    "evidence.cells": {"SAMPLES": 50},
    "evidence.columns": {"SAMPLES": 50},
    "evidence.disentanglement": {"REPEATS": 2, "SHUFFLES": 1, "TREES": 2, "VOTES": 40},
    "evidence.marginals": {"STEPS": 5, "COMPONENTS": (1, 2)},
    "evidence.own": {"CLIMBING": 2},
    "evidence.rows": {"SAMPLES": 50, "PILOT": 50, "ROUNDS": 2, "STEPS": 10, "CHECK": 8}
    | {"CHAINS": 4, "TEMPERATURES": 10},
    "evidence.samples": {"TREES": 10},
    "evidence.tails": {"SAMPLES": 50},
    "evidence.steps_section": {"PLACES": 2},
    "evidence.trial": {"STEPS": 3},
    "models.trees": {"STEPS": 5, "FEWEST_PASSES": 5, "MOST": 8},
    "runs.curve": {"POINTS": 3},
    "runs.candidates": {"CLIMBING": 5, "PASSES": dict.fromkeys((FOREST, FACTORS), 5)},
    "runs.measure": {"CLIMBING": 5},
}


def hurry(monkeypatch: pytest.MonkeyPatch, *only: str) -> None:
    """Has all methods make little effort, or those of some modules."""
    for module, constants in LITTLE.items():
        if only and module.rpartition(".")[2] not in only:
            continue
        for name, value in constants.items():
            monkeypatch.setattr(f"taut.{module}.{name}", value)
    if not only or "ascent" in only:
        block = ascent._block

        def brief(*given: Any) -> Distribution:
            *what, steps, num_samples = given
            return block(*what, min(steps, STEPS), min(num_samples, DRAWS))

        monkeypatch.setattr("taut.evidence.ascent._block", brief)
