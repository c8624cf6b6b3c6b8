"""The browser that the tests of pages use, and axe-core, which examines what a page says to those
who do not see it.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    """Returns the path of Chromium; where there is none the test says so."""
    for name in CHROMIUM:
        if path := shutil.which(name):
            return path
    pytest.skip("left out: there is no Chromium here (Debian: apt-get install chromium)")


def axe() -> str:
    """Returns the script of axe-core, from the package that brings it."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("left out: there is no axe-core here (pip install axe-playwright-python)")
    return (Path(found.origin).parent / "axe.min.js").read_text("utf-8")
