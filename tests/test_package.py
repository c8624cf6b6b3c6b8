"""What is installed: the wheel holds everything and runs on its own, and pyproject.toml tells the
truth about it.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "taut"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL", "umap-learn": "umap"}
# Frames that the user brings along are known by the modules that are loaded, and shapes are checked
# where jaxtyping happens to be installed: nobody needs these to use taut.
BROUGHT_ALONG = {"pandas", "polars", "jaxtyping", "pydantic", "starlette"}


def _names(requirements: list[str]) -> set[str]:
    names = {re.split(r"[<>=]", requirement)[0] for requirement in requirements}
    return {IMPORTED_AS.get(name, name) for name in names}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    imported = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    extras = [name for names in PROJECT["optional-dependencies"].values() for name in names]
    declared = _names(PROJECT["dependencies"]) | _names(extras)
    assert imported - sys.stdlib_module_names - {"taut"} - BROUGHT_ALONG == declared


def test_the_oldest_versions_are_those_that_are_allowed() -> None:
    pins = re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints-oldest.txt").read_text(), re.M)
    assert [f"{name}>={version}" for name, version in pins] == PROJECT["dependencies"]


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_the_wheel_holds_everything_and_runs_on_its_own(tmp_path: Path) -> None:
    """Built as `make wheel` does, installed into an environment that has what taut needs and no
    trace of this folder, and tried from another one.
    """
    built = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(tmp_path)]
    _run(built, ROOT)
    (wheel,) = tmp_path.glob("taut-*.whl")
    source = {path for path in SOURCE.rglob("*") if path.is_file()}
    wanted = {p.relative_to(ROOT / "src").as_posix() for p in source if p.suffix != ".pyc"}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("taut/")}
    assert held == wanted
    assert {"taut/py.typed", "taut/report/template.html.j2", "taut/report/style.css"} <= held

    python, taut = _environment(tmp_path / "environment", wheel)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert _run([taut, "--version"], elsewhere) == f"taut {PROJECT['version']}\n"
    np.save(elsewhere / "x.npy", np.random.default_rng(0).standard_normal((60, 3)))
    _run([taut, "fit", "x.npy", "--max-epochs", "1", "--num-samples", "10"], elsewhere)
    where = "import taut; print(taut.__file__, len(taut.load('runs/x-1').evaluation()) > 5)"
    assert _run([python, "-c", where], elsewhere).startswith(str(tmp_path / "environment"))


def _environment(folder: Path, wheel: Path) -> tuple[str, str]:
    """Returns the Python and the taut of a new environment with the wheel in it.

    Everything else is looked up where it is installed for these tests: nothing is downloaded.
    (A ``.pth`` file is not read in a folder that another one names, so a taut that is installed
    there from its source stays out of sight.)
    """
    venv.create(folder)
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", paths))
    scripts = Path(sysconfig.get_path("scripts", "venv", paths))
    python = str(scripts / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    _run([*install, "--no-deps", "--no-index", str(wheel)], folder)
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path}
    seen = [path for path in here if path.endswith("site-packages")]
    (packages / "packages_of_the_tests.pth").write_text("\n".join(seen) + "\n")
    return python, str(scripts / "taut")


def _run(command: list[str], folder: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
