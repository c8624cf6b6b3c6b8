"""Shapes are checked at every call in the tests (jaxtyping, beartype).

Each test starts from one seed, in float64.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from jaxtyping import install_import_hook

install_import_hook("taut", "typecheck.check")

import pytest  # noqa: E402
import torch  # noqa: E402

os.environ.setdefault("NO_COLOR", "1")
# A suite that is started in the background ignores Ctrl-C, and so would all the processes that the
# tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(before)
