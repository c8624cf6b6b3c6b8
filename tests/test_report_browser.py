"""The report as a browser sees it: axe-core finds nothing, wide, narrow, dark and on paper.

What it takes is Chromium; where there is none the test says so.
"""

from __future__ import annotations

import base64
import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
from test_report import PNG, _audit, _gradients

from taut.evidence.column_shapes import compared
from taut.report import render

VIEWS = {"wide": 1280, "narrow": 390, "dark": 1280, "print": 794}  # CSS pixels
RUN = """
addEventListener("load", () => axe.run(document, {resultTypes: ["violations"]}).then(found =>
  parent.postMessage(JSON.stringify({
    view: NAME, width: innerWidth, ground: getComputedStyle(document.body).backgroundColor,
    aside: document.documentElement.scrollWidth, passes: found.passes.length,
    violations: found.violations.map(v => [v.id, v.impact, v.nodes.map(n => n.html).slice(0, 3)]),
  }), "*")));
"""
COLLECT = """
addEventListener("message", event => {
  const line = document.createElement("pre");
  line.textContent = btoa(unescape(encodeURIComponent(event.data)));
  document.body.append(line);
});
"""


def _page() -> str:
    """Returns a page with every kind of part."""
    ages = np.arange(40.0)
    age = {"name": "age", **compared(ages, ages + 3, nominal=False)}
    found: dict[str, Any] = {
        "num_data": 20, "num_made": 20, "num_columns": 1, "word": "column", "columns": [age],
    }  # fmt: skip
    return render({**_audit(), "column_shapes": found}, _gradients(), {"samples.png": PNG})


def _in_view(page: str, view: str, axe: str) -> str:
    """Returns a page as it is seen in a view, that examines itself."""
    media = {"dark": "@media(prefers-color-scheme:dark)", "print": "@media print"}.get(view)
    if media is not None:
        assert media in page
        page = page.replace(media, "@media all")
    page, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert removed == 1
    script = f"<script>{axe}</script><script>{RUN.replace('NAME', json.dumps(view))}</script>"
    return page.replace("</body>", f"{script}</body>")


@pytest.mark.timeout(600)
def test_axe_finds_nothing_in_any_view(tmp_path: Path) -> None:
    chromium, axe, page = browser.chromium(), browser.axe(), _page()
    frames = []
    for view, width in VIEWS.items():
        (tmp_path / f"{view}.html").write_text(_in_view(page, view, axe), "utf-8")
        size = f'width="{width}" height="900" style="border:0"'
        frames.append(f'<iframe title="{html.escape(view)}" src="{view}.html" {size}></iframe>')
    host = tmp_path / "host.html"
    host.write_text(f"<body><script>{COLLECT}</script>{''.join(frames)}", "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=120000"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [chromium, *flags, profile, "--window-size=1400,1000", "--dump-dom", host.as_uri()],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = re.findall(r"<pre>([^<]*)</pre>", done.stdout)
    results = [json.loads(base64.b64decode(line)) for line in lines]
    found = {result["view"]: result for result in results}
    assert found.keys() == VIEWS.keys()
    for view, result in found.items():
        assert result["violations"] == [], view
        assert result["passes"] > 20
        assert result["width"] == VIEWS[view]
        assert result["aside"] <= VIEWS[view], f"{view}: the page scrolls sideways"
    assert found["dark"]["ground"] == "rgb(21, 24, 28)"
