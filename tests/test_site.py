"""The documentation site: built strictly, whole, and without anything from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from taut.references import REFERENCES

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "taut").rglob("*.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_each_module_has_a_page_and_each_reference_an_entry(site: Path) -> None:
    for path in SOURCES:
        name = path.relative_to(ROOT / "src" / "taut").with_suffix("")
        page = name.with_name("index") if name.name == "__init__" else name
        if not name.name.startswith("_") or name.name == "__init__":
            assert (site / "api" / page).with_suffix(".html").exists(), name
    literature = (site / "references.html").read_text("utf-8")
    assert not [key for key in REFERENCES if f'id="{key}"' not in literature]


def test_latex_is_drawn_without_a_script(site: Path) -> None:
    objectives = (site / "api" / "objectives.html").read_text("utf-8")
    assert objectives.count("<math") >= 20
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert 'class="arithmatex"' not in text, page
        assert not re.search(r"<merror|\\(?:log|sum|mathcal)\b", _without_code(text)), page


def _without_code(text: str) -> str:
    return re.sub(r"<(code|pre)\b.*?</\1>", "", text, flags=re.DOTALL)


def test_docstrings_have_sections_and_cite(site: Path) -> None:
    text = (site / "api" / "objectives.html").read_text("utf-8")
    assert "Raises:" in text
    assert "Fails:" not in text
    assert re.search(r'href="\.\./references\.html#burda2016">Burda', text)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No script, style, font or picture comes from another address."""
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text("utf-8")):
            assert not re.search(r'(?:src|href)="?(?:https?:)?//', tag), (page, tag)


def test_search_finds_a_function_and_a_word_of_a_guide(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    found = {entry["location"]: entry["text"] for entry in index["docs"]}
    assert any(place.endswith("#taut.evidence.importance.importance") for place in found)
    assert any(place.startswith("gaps.html") and "at random" in found[place] for place in found)


def test_notebooks_come_as_notebooks(site: Path) -> None:
    for page in sorted((ROOT / "docs" / "notebooks").glob("*.md")):
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.M)
        notebook = json.loads((site / "notebooks" / f"{page.stem}.ipynb").read_text("utf-8"))
        cells = {"code": [], "markdown": []}
        for cell in notebook["cells"]:
            cells[cell["cell_type"]].append(cell["source"])
        assert cells["code"] == [block.strip() for block in blocks]
        assert cells["markdown"][0].startswith("# ")
