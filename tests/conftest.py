"""Shapes are checked at every call in the tests (jaxtyping, beartype), but for those of whole
commands (``WHOLE``): the tests of the parts have checked the same calls, and the checks are a
third of such a test's time.

Each test starts from one seed, in float64.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator

import jaxtyping
import typecheck
from jaxtyping import config, install_import_hook

# Half of the time of an import and a tenth of that of a test was Python's search for garbage among
# the million objects of all tests and packages, none of which is: they are set aside, and the rest
# is searched less often.
gc.disable()
gc.set_threshold(10_000, 20, 20)

jaxtyping.jaxtyped = typecheck.late
install_import_hook("taut", "typecheck.check")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

WHOLE = {
    f"test_{name}"
    for name in (
        "audit",
        "audit_cli",
        "bad_input_matrix",
        "choose",
        "cli",
        "compare",
        "contrast_runs",
        "contributing",
        "docs",
        "exact_runs",
        "explorer",
        "explorer_browser",
        "folders",
        "help",
        "hierarchical_runs",
        "improve",
        "no_float64",
        "product",
        "refit",
        "report",
        "run",
        "signals",
        "stepwise_runs",
        "terminal",
        "tighten",
    )
}

os.environ.setdefault("NO_COLOR", "1")
# Where Python is told to write no bytecode, each process of a test would compile all of taut again,
# and each worker all of the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A suite that is started in the background ignores Ctrl-C, and so would all the processes that the
# tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    config.update("jaxtyping_disable", item.path.stem in WHOLE)


@pytest.fixture(autouse=True)
def _few_passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is fitted beside the one of a test makes few passes and has few states, but
    where the test is about it.
    """
    from taut.runs import candidates

    stem = request.path.stem
    if stem != "test_exact_runs":
        few = dict.fromkeys(candidates.PASSES, 5)
        monkeypatch.setattr("taut.runs.candidates.PASSES", few)
    if stem not in ("test_exact_models", "test_forest"):
        monkeypatch.setattr("taut.models.trees.MOST", 16)


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test's numbers do not depend on which tests ran before it in its process."""
    if hasattr(request.module, "RNG"):
        request.module.RNG = np.random.default_rng(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(before)
