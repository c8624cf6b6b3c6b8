"""The docs are tests: references exist, options in the README exist, every Python block of the README runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import taut
from taut.references import REFERENCES, cite

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "taut").rglob("*.py"))


def test_every_reference_is_known_and_used() -> None:
    named = set()
    for path in SOURCES:
        for line in re.findall(r"^\s*References: (.+?)\.$", path.read_text(), re.MULTILINE):
            named |= set(re.split(r",\s*", line))
    assert named == set(REFERENCES)
    assert all(cite(key).endswith(".") for key in named)


def test_public_parts_say_what_they_are() -> None:
    for name in taut.__all__:
        thing = getattr(taut, name)
        if callable(thing):
            assert thing.__doc__, name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/design.md", "docs/evidence.md", "docs/notation.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or ((ROOT / page).parent / target).exists(), target


def test_files_named_in_the_design_exist() -> None:
    tree = re.search(r"```\n(src/taut/.*?)```", (ROOT / "docs/design.md").read_text(), re.DOTALL)
    assert tree is not None
    for name in re.findall(r"\b([a-z]+\.py|[a-z]+/)(?=\s)", tree[1].split("\n", 1)[1]):
        assert (ROOT / "src/taut" / name).exists(), name


@pytest.mark.parametrize("page", ["README.md", "docs/evidence.md"])
def test_python_of_a_page_runs(page: str, tmp_path, monkeypatch) -> None:
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})


def test_options_of_the_readme_exist() -> None:
    """Every `taut COMMAND ... --option` that the pages show is one that the command has."""
    from typer.testing import CliRunner

    from taut.cli import app

    helps: dict[str, str] = {}
    for page in ("README.md", "CONTRIBUTING.md", "docs/evidence.md"):
        for command, rest in re.findall(
            r"taut (fit|check|resume|sample|reconstruct|encode|decode|score|audit|tighten|gradients|report)\b([^`\n]*)",
            (ROOT / page).read_text(),
        ):
            if command not in helps:
                helps[command] = CliRunner().invoke(app, [command, "--help"]).output
            for option in re.findall(r"--[a-z-]+", rest):
                assert option in helps[command], (command, option)
