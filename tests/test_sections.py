"""The sections of an audit: each has a row here, with what must come out where all is known; one
more is its own file, and old files are read.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_hierarchical import linear_problem, solved
from test_stepwise import elbo, gaussian
from ztest import limit

import taut
from taut.evidence import section
from taut.evidence.audit import Effort, audit
from taut.evidence.columns import ColumnFacts
from taut.references import REFERENCES
from taut.report import render
from taut.system import records

HERE = Path(__file__).parent
OLD = HERE / "audit-0.1.json"  # of an audit before its sections were classes
SECTIONS = {s.name: s for s in section.sections()}


@cache
def exact() -> tuple[dict[str, Any], dict[str, float]]:
    """Returns the audit of a model whose posterior is the exact one, and the true means."""
    torch.manual_seed(0)
    problem = taut.LinearGaussian(6, 2, 0.5)
    x, train = problem.sample(60), problem.sample(300)
    known = problem.log_evidence(x).detach()
    marginal = torch.distributions.Normal(problem.likelihood.bias, 2.0)
    baseline = marginal.log_prob(x).sum(1).detach()
    effort = Effort(200, 8, 30, 50, simulated=20, naive=60, train=300, samples=60)
    columns = ColumnFacts([f"c{i}" for i in range(6)], marginal.log_prob(x).detach())
    parts = {"train": train, "baseline": baseline, "exact": ("Mixture()", baseline - 1)}
    labels = tuple((part[:, 0] > -1).numpy() for part in (train, x))
    before = {"value": float(known.mean()) + 1, "mc_error": 0.0, "test_error": 0.1}
    fitted = {"log_evidence": before, "num_data": 60, "num_samples": 50, "data": "test", "by": {}}
    given: dict[str, Any] = {"columns": columns, "labels": labels, "fitted": fitted}
    found = audit(problem.model(), x, **parts, **given, effort=effort)
    # of a Gaussian each entry given the others is one, by the precision
    precision = _slope(problem, torch.zeros(1, 6)) - _slope(problem, torch.eye(6))
    slope = _slope(problem, x)
    scale = precision.diagonal().rsqrt()
    given = torch.distributions.Normal(0.0, scale).log_prob(slope * scale.square())
    means = {
        "log p(x)": float(known.mean()),
        "train": float(problem.log_evidence(train[:60]).detach().mean()),
        "baseline": float(baseline.mean()),
        "label": float((labels[1] == (labels[0].mean() > 0.5)).mean()),
        **{f"c{i}": float(given[:, i].mean()) for i in range(6)},
    }
    return found, means


def _slope(problem: taut.LinearGaussian, x: torch.Tensor) -> torch.Tensor:
    """Returns the gradient of log p(x), (N, C), which is linear in x."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(problem.log_evidence(x).sum(), x)[0]


@cache
def images() -> dict[str, Any]:
    torch.manual_seed(0)
    net = partial(taut.MLP, hidden=(4,))
    model = taut.VAE(
        taut.StandardNormal(2),
        taut.Bernoulli((4, 4), 2, decoder=net),
        taut.DiagonalNormal((4, 4), 2, encoder=net),
    )
    x = (torch.rand(60, 4, 4) < 0.5).double()
    effort = Effort(20, 2, 3, 2, simulated=3, naive=3, samples=12)
    return audit(model, x[:20], train=x[20:], levels=(0.0, 1.0), effort=effort)


@cache
def few_states() -> tuple[dict[str, Any], float]:
    """Returns the audit of a model of three bits, and the true mean of log p(x)."""
    torch.manual_seed(0)
    problem = taut.BinaryLatents()
    x = problem.sample(12)
    effort = Effort(20, 2, 3, 2, simulated=3, naive=3, samples=12)
    found = audit(problem.model(), x, effort=effort)
    return found, float(problem.log_evidence(x).detach().mean())


@cache
def many_steps() -> dict[str, Any]:
    """Returns the audit of a diffusion of Gaussian data by the best denoiser."""
    torch.manual_seed(0)
    x = torch.tensor([[1.0], [-1.0]] * 50)
    return audit(gaussian(64, -6.0), x, effort=Effort(20, samples=12))


@cache
def hierarchy() -> tuple[dict[str, Any], list[float]]:
    """Returns the audit of a linear hierarchy with its exact posterior, and its rates."""
    torch.manual_seed(0)
    problem = linear_problem(2)
    x = problem.sample(200)
    effort = Effort(20, 2, 3, 2, simulated=3, naive=3, samples=12)
    found = audit(solved(problem, 2), x, effort=effort)
    return found, problem.rates(x).mean(0).tolist()


def values_of(name: str) -> dict[str, Any]:
    """Returns what was found in the model that a section is for."""
    others = {"blur": images, "enumeration": lambda: few_states()[0], "steps": many_steps}
    others["levels"] = lambda: hierarchy()[0]
    return others.get(name, lambda: exact()[0])()[name]


def _close(value: float, expected: float, error: float = 1e-10) -> None:
    assert value == pytest.approx(expected, abs=error)


def _surely(estimate: dict[str, float], expected: float) -> None:
    """A z-test with the false-alarm rate of ``ztest.limit``: 1e-6 for one number."""
    assert abs(estimate["value"] - expected) < limit(1) * estimate["test_error"]


def _columns(found: dict[str, Any], true: dict[str, float]) -> None:
    """A z-test of six means against the Gaussian, with the false-alarm rate of ``limit``."""
    assert {c["name"] for c in found["columns"]} == {f"c{i}" for i in range(6)}
    for column in found["columns"]:
        given, gain = column["given_others"], column["gain"]["value"]
        assert abs(given["value"] - true[column["name"]]) < limit(6) * given["mc_error"]
        _close(gain, given["value"] - column["alone"]["value"], 1e-12)


def _columns_of_samples(found: dict[str, Any]) -> None:
    """Samples of the true model: each distance is below five times what chance gives on average. A
    sum of ten shares that are off by normal errors exceeds that less than once in 1e6.
    """
    assert {c["name"] for c in found["columns"]} == {f"c{i}" for i in range(6)}
    for column in found["columns"]:
        for side in ("data", "samples"):
            _close(math.fsum(column[side]), 1.0, 1e-12)
        assert column["distance"] < 5 * column["by_chance"]


def _levels() -> None:
    """A z-test of two rates, whose error is that of the draws alone."""
    found, rates = hierarchy()
    for level, rate in zip(found["levels"]["levels"], rates, strict=True):
        assert abs(level["value"] - rate) < limit(2) * level["mc_error"] + 1e-10
    total = math.fsum(level["value"] for level in found["levels"]["levels"])
    _close(total, found["evidence"]["rate"]["value"], 0.2)


def _split(found: dict[str, Any]) -> None:
    parts = {name: estimate["value"] for name, estimate in found["split"].items()}
    _close(parts["loss"], parts["decoder"] + parts["posterior"], 1e-12)


# of each section what must come out for the exact posterior, where the truth is known
ROWS: dict[str, Callable[[dict[str, Any], dict[str, float]], None]] = {
    "evidence": lambda found, true: _close(found["log_evidence"]["value"], true["log p(x)"]),
    "baseline": lambda found, true: _close(found["value"], true["baseline"]),
    "gain_over_baseline": lambda found, true: _close(
        found["value"], true["log p(x)"] - true["baseline"]
    ),
    "exact_baseline": lambda found, true: _close(
        found["gain"]["value"], true["log p(x)"] - true["baseline"] + 1
    ),
    "overfitting": lambda found, true: _close(
        found["log_evidence"]["difference"]["value"], true["train"] - true["log p(x)"]
    ),
    "scale": lambda found, true: _surely(found["gain"], 0.0),
    "annealing": lambda found, true: _close(found["log_evidence"]["value"], true["log p(x)"]),
    "sandwich": lambda found, true: _close(found["width"]["value"], 0.0),
    "enumeration": lambda found, true: _close(
        values_of("enumeration")["log_evidence"]["value"], few_states()[1]
    ),
    "steps": lambda found, true: _close(
        values_of("steps")["bounds"][1]["value"], elbo(gaussian(64, -6.0)), 0.1
    ),
    "levels": lambda found, true: _levels(),
    "gaps": lambda found, true: _close(found["inference_gap"]["value"], 0.0),
    "log_evidence": lambda found, true: _close(found["value"], true["log p(x)"]),
    "after_training": lambda found, true: _close(found["difference"]["value"], -1.0),
    "naive": lambda found, true: _close(
        found["short_by"]["value"], true["log p(x)"] - found["log_evidence"]["value"]
    ),
    "latents": lambda found, true: _close(
        found["rate"]["value"],
        found["information"]["own"]["value"] + found["marginal_kl"]["own"]["value"],
    ),
    "columns": lambda found, true: _columns(found, true),
    "column_shapes": lambda found, true: _columns_of_samples(found),
    "task_odd": lambda found, true: _close(found["rate"], 1 / 60),
    "task_synthetic": lambda found, true: _surely(found["statistics"]["told_apart"]["model"], 0.5),
    "task_embedding": lambda found, true: _close(found["right"]["most"]["value"], true["label"]),
    "task_gaps": lambda found, true: _surely(found["coverage"], 0.9),
    "calibration": lambda found, true: _surely(found["coverage_90"], 0.9),
    "samples": lambda found, true: _surely(found["classifier"]["samples"], 0.5),
    "blur": lambda found, true: _split(images()["blur"]),
}


def test_every_section_has_a_row() -> None:
    assert ROWS.keys() == SECTIONS.keys()


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_finds_what_is_known(name: str) -> None:
    found, true = exact()
    ROWS[name](found[name], true)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_says_what_it_is(name: str) -> None:
    own = SECTIONS[name]
    assert own.__doc__
    assert own.chapter in section.CHAPTERS
    assert set(own.references) <= REFERENCES.keys()
    earlier = {n for n, s in SECTIONS.items() if s.order < own.order}
    assert set(own.needs) <= section.NEEDS.keys() | earlier
    assert sum(s.order == own.order for s in SECTIONS.values()) == 1
    values = values_of(name)
    found = own(values, "row")
    assert found.to_dict() == values
    records.checked(json.loads(json.dumps(values)), own.shape, Path("audit.json"))
    said = str(found)
    assert said.startswith(own.title or name.replace("_", " "))
    for row in found.rows():
        assert row.cells()[0] in said
    for line in [*found.text(), *found.small(), *found.warnings]:
        assert line in said


def test_the_time_of_all_sections_is_less_than_the_whole() -> None:
    assert 0.5 < math.fsum(s.share for s in SECTIONS.values()) <= 1.0


def test_an_audit_from_before_is_read_and_has_the_same_keys() -> None:
    """Of a file that an earlier version wrote, all is shown, and a new audit has its keys."""
    from taut.cli.terminal import show_audit

    old = json.loads(OLD.read_text())
    assert records.checked(old, section.shape(), OLD) is old
    show_audit(old)
    page = render(old)
    for name, own in SECTIONS.items():
        if old.get(name) is not None and own.title:
            assert f'id="section-{name}">{own.title}</h3>' in page

    def keys(value: Any, place: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        if not isinstance(value, dict):
            return {place}
        return {place}.union(*(keys(v, (*place, k)) for k, v in value.items()))

    # that depend on the model and on which methods gave a number
    may_lack = {"full_covariance_gain", "elbo_full", "by", "log_evidence_by"}
    may_lack |= {"averaged", "cause"}  # which the earlier version did not have
    # sections that the earlier version did not have
    later = {"after_training", "exact_baseline", "columns", "column_shapes", "enumeration"}
    later |= {"steps", "levels"}
    later |= {name for name in SECTIONS if name.startswith("task_")}
    for name in SECTIONS.keys() - {"scale", "baseline"} - later:
        new = values_of(name)
        one, two = (
            {place for place in keys(found) if not may_lack & set(place)}
            for found in (old[name], new)
        )
        assert one == two, name


ADDED = '''
"""The largest value of a row: a section that only this file knows."""

from taut.evidence.finding import Finding
from taut.evidence.results import Estimate
from taut.evidence.section import Row, Scene, Section
from taut.system.records import COUNT, ESTIMATE


class Largest(Section):
    """The largest value of a row."""

    name, title, chapter, order = "largest", "The largest value", "why", 85.5
    references = ("kitagawa1996",)
    shape = {"num_data": COUNT, "largest": ESTIMATE}

    @classmethod
    def run(cls, scene: Scene) -> Section:
        values = scene.x.flatten(1).amax(1).double()
        return cls({"num_data": len(values), "largest": Estimate.of(values).to_dict()})

    def rows(self):
        return [Row("largest value of a row", self["largest"], brief="largest value")]

    def text(self):
        return [f"Of {self['num_data']} {self.noun}s, each by itself."]

    def findings(self, others):
        yield Finding("large", 5.0, 0.1, "", "too large", "by far", "shrink it", "taut check DATA")
'''
LOOKED = """
import json, sys
from pathlib import Path
import torch
import taut
from taut.cli.terminal import show_audit
from taut.evidence import section
from taut.evidence.audit import Effort
from taut.report import render
from taut.system import records
from taut.system.errors import StorageError

assert Path(taut.__file__).is_relative_to(sys.argv[1])
problem = taut.LinearGaussian(4, 1, 0.5)
found = taut.audit(problem.model(), problem.sample(12), effort=Effort(10, 2, 2, 2, 2, 2, 2, 2))
assert found["largest"]["num_data"] == 12
assert found["findings"][0]["name"] == "large"
shape = section.shape()["largest?"]
records.checked(json.loads(json.dumps(found["largest"])), shape, Path("audit.json"))
try:
    records.checked({**found["largest"], "num_data": "a text"}, shape, Path("audit.json"))
except StorageError:
    print("refused")
show_audit(found)
page = render({**found, "data": None})
assert '<h3 id="section-largest">The largest value</h3>' in page
assert "Of 12 data points, each by itself." in page and "largest value of a row" in page
assert "Monte Carlo filter and smoother" in page
"""


def test_a_section_is_one_file(tmp_path: Path) -> None:
    """A file in ``taut/evidence`` is measured, kept, checked, shown, and may find something: no
    other file names it.
    """
    import shutil

    package = Path(taut.__file__).parent
    shutil.copytree(package, tmp_path / "taut", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "taut" / "evidence" / "largest.py").write_text(textwrap.dedent(ADDED))
    done = subprocess.run(
        [sys.executable, "-c", LOOKED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused\n")
    assert any(line.startswith("largest value ") for line in done.stdout.splitlines())
    assert "1. large: 5.00 ± 0.10 nats" in done.stdout
