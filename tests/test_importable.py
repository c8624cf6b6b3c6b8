"""The core needs torch and numpy alone, importing it changes nothing, and nothing below the command
line prints.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import taut

SOURCES = sorted((Path(__file__).parent.parent / "src" / "taut").rglob("*.py"))

LEVELS = [  # imports point upwards in this list, from later to earlier, never back
    {"types", "references", "system"},
    {"distributions"},
    {"networks", "features", "data"},
    {"model"},
    {"priors", "likelihoods", "posteriors", "objectives"},
    {"models", "contrast"},
    {"problems", "build"},
    {"use"},
    {"evidence", "training"},
    {"report"},
    {"runs"},
    {"estimator"},
    {"explorer"},
    {"cli"},
    {"__main__"},
]


def _module(path: Path) -> str:
    return path.relative_to(SOURCES[0].parent).parts[0].removesuffix(".py")


def test_importing_changes_nothing_and_needs_no_development_package() -> None:
    code = (
        "import sys\n"
        "for name in ('jaxtyping', 'beartype', 'typer', 'rich', 'sklearn', 'matplotlib'): "
        "sys.modules[name] = None\n"
        "import torch\n"
        "state, dtype, threads = torch.random.get_rng_state(), torch.get_default_dtype(), "
        "torch.get_num_threads()\n"
        "import taut\n"
        "assert torch.equal(state, torch.random.get_rng_state()) and dtype == "
        "torch.get_default_dtype()\n"
        "assert threads == torch.get_num_threads() and "
        "torch.distributions.Distribution._validate_args\n"
        "x = taut.LinearGaussian().sample(5)\n"
        "print(tuple(taut.importance(taut.LinearGaussian().model(), x, 3).ess.shape))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(5,)\n", "")


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.name != "__init__.py"], ids=lambda p: p.name
)
def test_imports_point_one_way(path: Path) -> None:
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    own = _module(path)
    runtime = re.sub(r"if TYPE_CHECKING:\n(    .*\n)+", "", path.read_text())
    imported = set(re.findall(r"^\s*from taut\.(\w+)", runtime, re.MULTILINE))
    for line in re.findall(r"^\s*from taut import (.+)$", runtime, re.MULTILINE):
        imported |= {name.split(" as ")[0].strip() for name in line.split(",")}
    for name in imported - {own}:
        assert level[name] < level[own] or own == "cli", (own, name)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_only_the_command_line_prints_and_nothing_is_pickled(path: Path) -> None:
    text = path.read_text()
    assert path.parent.name == "cli" or not re.search(r"^\s*print\(", text, re.MULTILINE)
    unsafe = (
        r"^\s*(import|from) "
        r"pickle|(?<!safetensors\.)torch\.(load|save)\(|allow_pickle=True|(?<!\.)\beval\("
    )
    assert not re.search(unsafe, text, re.MULTILINE)


def test_the_lazy_names_are_those_that_type_checkers_see() -> None:
    """The table of homes, `__all__` and the imports under TYPE_CHECKING name the same things."""
    text = (SOURCES[0].parent / "__init__.py").read_text()
    seen = re.search(r"if TYPE_CHECKING:\n((?:    .*\n)+)", text)
    assert seen is not None
    pairs = re.findall(r"from (\S+) import (\([^)]*\)|.+)", seen[1])
    homes = {n: home for home, names in pairs for n in re.findall(r"\w+", names)}
    modules = {name for name, home in homes.items() if home == "taut"}
    assert {n: h for n, h in homes.items() if h != "taut"} == taut._HOME
    assert sorted(homes) == sorted(taut.__all__)
    for name in taut.__all__:
        thing = getattr(taut, name)
        assert thing.__name__ == (f"taut.{name}" if name in modules else name)


def test_the_package_imports_nothing_until_it_is_asked() -> None:
    code = (
        "import sys, taut\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'pyarrow', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from taut.build.spec import resolve\n"
        "from taut.model import Likelihood\n"
        "print(type(resolve('Poisson()', Likelihood, {'event_shape': (3,), 'latent_dim': 2})))\n"
        "print(taut.priors.StandardNormal, set(dir(taut)) == set(taut.__all__))\n"
        "print(hasattr(taut, 'nothing'), hasattr(taut, '__nothing__'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "<class 'taut.likelihoods.counts.Poisson'>",
        "<class 'taut.priors.StandardNormal'> True",
        "False False",
    ]
