"""The report.

Every number in it is one of the audit's, every text is escaped, and its figures stand where the
numbers say.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from html.parser import HTMLParser
from importlib import resources
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import taut
from taut.evidence import section, text
from taut.evidence.audit import Effort, audit
from taut.evidence.gradients import gradients
from taut.evidence.verdict import verdict
from taut.references import LINKS, REFERENCES
from taut.report import figures, render
from taut.system import records
from taut.system.errors import StorageError

NAMES = ("emblem", "bounds", "gaps", "dimensions", "calibration", "variance")
SHARES = ("reliable_share", "acceptance", "at_floor", "p_value")
# they are seen in figures alone, so no number of the text may be theirs
UNSEEN = (
    "history",
    "curve",
    "dimensions",
    "histogram",
)
PROSE = (
    *("central 90 %", "1 if calibrated", "K = 1 is", "about 10^", ", 10^", "1.44 bits"),
    *("intervals of 90 %", "90 % interval holds", "0.9 is right", "10 neighbours"),
)
ERRORS = ("value", "mc_error", "test_error")
VOID = {"meta", "img", "br"}
PNG = b"\x89PNG\r\n"
HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)></svg></style>&amp;]]>{{ 7*7 }}{% "
    "raw %}$\\frac{$ "
    "\x00\x1b[31m\r\n\u202e\u200f\u2028\ud800"
)


class Page(HTMLParser):
    """The tags of a page with their attributes, the rows of its tables, its texts, and those of
    figures without their axes.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append("axis" if "matplotlib.axis" in (dict(attrs).get("id") or "") else tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() in (tag, "axis"), tag

    def handle_data(self, data: str) -> None:
        if not {"style", "axis"} & set(self.open):
            self.texts.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, *titles: str) -> list[str]:
        """Returns the cells of the only row with this title."""
        (found,) = ([c.strip() for c in row[1:]] for row in self.rows if row[0].strip() in titles)
        return found


@cache
def _audit() -> dict[str, Any]:
    """Returns what ``audit_run`` would for an untrained model of tiny images.

    With the scale of another one, to have it all.
    """
    torch.manual_seed(0)
    net = partial(taut.MLP, hidden=(4,))
    model = taut.VAE(
        taut.StandardNormal(3),
        taut.Bernoulli((4, 4), 3, decoder=net),
        taut.DiagonalNormal((4, 4), 3, encoder=net),
    )
    x = (torch.rand(80, 4, 4) < 0.5).double()
    effort = Effort(
        num_samples=30,
        num_chains=4,
        max_temperatures=8,
        optimum_steps=4,
        simulated=5,
        naive=5,
        samples=12,
    )
    found = audit(
        model, x[:20], train=x[20:40], baseline=torch.randn(20), levels=(0.0, 1.0), effort=effort
    )
    estimate = {name: found["log_evidence"][name] for name in ERRORS}
    finding = {
        "name": "prior",
        "nats": 1.5,
        "error": 0.2,
        "raises": "log p(x)",
        "what": "holes",
        "evidence": "1.5 nats",
    }
    found |= {
        "taut": "0.1.0",
        "run": "run-1",
        "data": {"name": "bits.npy", "part": "test", "rows": 12, "fingerprint": "2cf9e5"},
        "model": {
            "latent_dim": 3,
            "prior": "StandardNormal()",
            "encoder": "MLP(hidden=(4,))",
            "parameters": 4321,
        },
        "seed": 0,
        "effort": vars(effort),
        "tightened": None,
        "history": [
            {
                "epoch": e + 1.0,
                "step": 9 * e + 9,
                "bound": -90.0,
                "validation": -40.0 / (e + 1) - 12,
                "learning_rate": 2e-3,
            }
            for e in range(6)
        ],
        "training": {"ended": "epochs", "minutes": None},
        "bits_per_dimension": {
            "elbo": dict(found["evidence"]["elbo"]),
            "log_evidence": dict(estimate),
        },
        "scale": {
            "gain": estimate,
            "at_floor": 0.5,
            "factor": {"median": 1.1, "smallest": 0.9, "largest": 1.2},
        },
        "notes": ["a note"],
        "findings": [{**finding, "action": "learn it", "command": "taut fit --prior 'A(b=20)'"}],
    }
    found["latents"] |= {"noisy": [2], "prior_gain": dict(estimate)}
    return found


@cache
def _gradients() -> dict[str, Any]:
    problem = taut.LinearGaussian(dim_x=5, dim_z=2)
    model = taut.VAE(
        taut.StandardNormal(2),
        problem.model().likelihood,
        taut.DiagonalNormal((5,), 2, encoder=taut.Linear),
    )
    found = gradients(model, problem.sample(4), num_samples=2, repeats=4)
    return {"taut": "0.1.0", "run": "run-1", "seed": 0, **found}


def _scrambled(value: Any, numbers: Iterator[int], key: str = "") -> Any:
    """Returns the same with each fraction replaced by one of its own."""
    if isinstance(value, dict):
        return {k: _scrambled(v, numbers, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_scrambled(v, numbers, key) for v in value]
    if not isinstance(value, float):
        return value
    n = next(numbers)
    if key in SHARES:
        return 0.1 + math.sqrt(n) / 100
    return (
        0.002 + n * 1e-6 if key.endswith("error") else math.copysign(3 + 1.7 * math.sqrt(n), value)
    )


def _scrambled_both() -> tuple[dict[str, Any], dict[str, Any]]:
    numbers = count()
    return _scrambled(_audit(), numbers), _scrambled(_gradients(), numbers)


def _leaves(value: Any, skip: tuple[str, ...] = ()) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (
            leaf for k, v in value.items() if k not in skip for leaf in (k, *_leaves(v, skip))
        )
    elif isinstance(value, list):
        yield from (leaf for v in value for leaf in _leaves(v, skip))
    else:
        yield value


# --- Numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (-86.4446, 1.2535, "−86.4"),
        (2.6194, 0.1376, "2.62"),
        (1.827, 0.0996, "1.83"),  # the error is 0.10: its rounding carries
        (0.15907, 0.0023, "0.1591"),
        (6931.4, 508.9, "6,931"),
        (-0.04, 1.2, "0.0"),
        (0.0, 0.0, "0"),
        (118.7282, None, "119"),
        (0.0293568, None, "0.0294"),
        (124.0, None, "124"),
        (425284, None, "425,284"),
        (-7, None, "−7"),
        (3.4117e-62, None, "3.41e−62"),
        (5.703743, 0.0000276, "5.703743"),
        (5.71e-6, 5.71e-6, "5.7e−6"),
        (0.1590729, 5.71e-9, "0.159073"),  # six decimals at most
        (-1.78e-16, 3.4e-16, "−1.78e−16"),
        (0.00003, 0.0001, "0.00003"),
        (2.5e12, None, "2.50e12"),
        (None, None, "not measured"),
    ],
)
def test_a_number_has_the_decimals_of_its_error(
    value: float | None, error: float | None, shown: str
) -> None:
    assert text.number(value, error) == shown


def test_an_estimate_never_comes_without_its_error() -> None:
    both = {"value": 25.10478, "mc_error": 0.0024, "test_error": 0.2601}
    assert text.plus_minus(both) == "25.10\xa0±\xa00.26"
    assert text.plus_minus({**both, "test_error": None}) == "25.1048\xa0±\xa00.0024"
    assert text.plus_minus({**both, "test_error": 0.0}) == "25.1\xa0±\xa00"
    assert text.plus_minus({**both, "test_error": None, "mc_error": None}) == "25.1"
    assert text.plus_minus({**both, "value": None}) == "not known"
    assert text.plus_minus(None) == "not measured"
    assert [text.share(s) for s in (0.07333, 0.99666, 1.0, 0.0, None)] == [
        "7.33\xa0%",
        "99.7\xa0%",
        "100\xa0%",
        "0\xa0%",
        "not measured",
    ]


def test_every_number_is_the_rounding_of_one_of_the_audit() -> None:
    found, slopes = _scrambled_both()
    page = Page(render(found, slopes, {"samples.png": PNG}))
    numbers = [n for n in _leaves([found, slopes], UNSEEN) if isinstance(n, int | float)]
    strings = {s for s in _leaves([found, slopes]) if isinstance(s, str)} | {
        *REFERENCES.values(),
        *PROSE,
    }
    strings = sorted((s for s in strings if re.search(r"\d", s)), key=len, reverse=True)
    shown = 0
    for words in page.texts:
        for known in strings:
            words = words.replace(known, " ")
        for sign, digits, exponent, percent in re.findall(
            r"(−?)(\d[\d,]*(?:\.\d+)?)(?:e(−?\d+))?(\xa0%)?", words
        ):
            unit = (0.01 if percent else 1.0) * 10.0 ** int((exponent or "0").replace("−", "-"))
            value = float(digits.replace(",", "")) * unit * (-1 if sign else 1)
            half = 0.5 * unit * 10.0 ** -len(digits.partition(".")[2])
            assert any(abs(value - n) <= half * (1 + 1e-9) for n in numbers), words
            shown += 1
    assert shown > 150


def test_a_row_has_the_numbers_of_its_title() -> None:
    found, slopes = _scrambled_both()
    found["tightened"] = {"from": "run-0", "before": {**found["evidence"], "num_samples": 500}}
    page = Page(render(found, slopes))
    evidence, gaps, latents, sandwich = (
        found[name] for name in ("evidence", "gaps", "latents", "sandwich")
    )
    for title, estimate in {
        "distortion, -E log p(x|z)": evidence["distortion"],
        "rate, KL(q, prior)": evidence["rate"],
        "baseline, independent marginals": found["baseline"],
        "log p(x) above the baseline": found["gain_over_baseline"],
        "bits per dimension, by the ELBO": found["bits_per_dimension"]["elbo"],
        "bits per dimension, by log p(x)": found["bits_per_dimension"]["log_evidence"],
        "log p(x), importance sampling": evidence["log_evidence"],
        "log p(x), annealing": found["annealing"]["log_evidence"],
        "upper bound, annealing in reverse": sandwich["upper"],
        "lower bound, annealing": sandwich["lower"],
        "width": _floored(sandwich["width"]),
        "short of the upper bound by": sandwich["importance_short_by"],
        "ELBO of the best posterior of each data point": gaps["elbo_best"],
        "ELBO of the encoder": gaps["elbo"],
        "inference gap, log p(x) - ELBO": _floored(gaps["inference_gap"]),
        "amortization gap: the encoder": gaps["amortization_gap"],
        "approximation gap: the family": _floored(gaps["approximation_gap"]),
        "of it, a full covariance closes": gaps["full_covariance_gain"],
        "a better prior would buy": latents["prior_gain"],
        "information of z about the data point, from": _floored(latents["information"]["own"]),
        "marginal KL, aggregate posterior to prior, from": _floored(
            latents["marginal_kl"]["left_out"]
        ),
        "total correlation, with each data point's own part": _floored(
            latents["total_correlation"]["own"]
        ),
        "without it": _floored(latents["total_correlation"]["left_out"]),
        "log p(x), a lower bound in expectation": evidence["log_evidence"],
    }.items():
        if estimate is None:
            assert page.row(title) == ["not measured"]
            continue
        value, mc, test = (estimate[name] for name in ERRORS)
        if value is None:
            assert page.row(title) == ["not known"]
            continue
        errors = ["–" if e is None else text.number(e, e) for e in (mc, test)]
        assert page.row(title) == [text.number(value, mc if test is None else test), *errors], title
    whole = re.sub("[ \n]+", " ", "".join(page.texts))
    assert f"log p(x) is {text.plus_minus(found['log_evidence'])} nats per data point." in whole
    gain, known = found["gain_over_baseline"], found["log_evidence"]["reliable_share"]
    assert verdict(gain, known, False, "data point").replace("-", "\N{MINUS SIGN}") in whole
    for title, name in (("precision: samples among the data", "precision"), ("density", "density")):
        assert page.row(title) == [
            text.plus_minus(found["samples"][name][side]) for side in ("samples", "reference")
        ]
    for title, name in (
        ("held-out data", "data"),
        ("draws at z from q", "draw"),
        ("mean at the best z of each image", "mean_at_optimum"),
    ):
        assert page.row(title) == [
            text.plus_minus(found["blur"][s][name])
            for s in ("high_frequency_energy", "laplacian_variance")
        ]
    sticking = next(e for e in slopes["estimators"] if e["name"] == "sticking the landing")
    part = sticking["encoder"]
    cells = page.row("sticking the landing (ELBO)")
    assert cells[:2] == ["encoder", text.plus_minus(part["relative_variance"])]
    assert cells[3:5] == [text.plus_minus(part["work"]), text.number(part["bias"]["z"])]
    assert cells[-1] == text.plus_minus(sticking["seconds"])


def _floored(estimate: dict[str, Any]) -> dict[str, Any]:
    """Returns what a page says of something that is never negative."""
    below = estimate["value"] < -max(2 * estimate["test_error"], 1e-6)
    return {**estimate, "value": None if below else max(estimate["value"], 0.0)}


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:1])
        if isinstance(value, list)
        else ()
    )
    for key, inner in pairs:
        yield (*place, key)
        yield from _places(inner, (*place, key))


def test_a_wrong_type_anywhere_is_refused_or_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value of an audit in turn is a text, a list or null.

    The table of its types says so, or the page is made.
    """
    monkeypatch.setattr(sys.modules["taut.report.render"], "_figures", lambda audit, gradients: {})
    whole, refused = _audit(), 0
    records.checked(whole, section.shape(), Path("audit.json"))
    for place in _places(whole):
        for wrong in ("text", [], None):
            found = copy.deepcopy(whole)
            inner = found
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = wrong
            try:
                records.checked(found, section.shape(), Path("audit.json"))
            except StorageError:
                refused += 1
            else:
                render(found)
    assert refused > 500


# --- Text -----------------------------------------------------------------------------------------


def _with_strings(value: Any, string: str) -> Any:
    """Returns the same with each text that a person or a file could have brought in replaced.

    What decides a branch stays.
    """
    if isinstance(value, dict):
        return {
            k: v if k in ("stopped", "part") else _with_strings(v, string) for k, v in value.items()
        }
    if isinstance(value, list):
        return [_with_strings(v, string) for v in value]
    return string if isinstance(value, str) else value


def test_hostile_texts_are_shown_and_do_nothing() -> None:
    found, slopes = copy.deepcopy(_audit()), copy.deepcopy(_gradients())
    found["log_evidence"]["by"] = {HOSTILE: 3}
    found["gaps"]["warnings"] = found["data"]["more"] = ["a warning"]
    found["model"][HOSTILE], found["effort"][HOSTILE], found[HOSTILE.strip()] = "A()", 2, "B()"
    found["tightened"] = {"from": "run-0", "before": {**found["evidence"], "num_samples": 500}}
    slopes["estimators"][0] = {"name": "a", "target": "b", "objective": None, "reason": "c"}
    pages = [
        render(_with_strings(found, string), _with_strings(slopes, string))
        for string in ("harmless", HOSTILE)
    ]
    harmless, hostile = map(Page, pages)
    assert [(tag, list(attrs)) for tag, attrs in harmless.tags] == [
        (tag, list(attrs)) for tag, attrs in hostile.tags
    ]
    safe = text.plain(HOSTILE)
    assert pages[1].count("alert(1)</script>") == 0
    assert sum(safe in words for words in hostile.texts) > 20
    assert safe == HOSTILE[: HOSTILE.index("\x00")] + r"\x00\x1b[31m\r\n\u202e\u200f\u2028\ud800"
    assert all(c.isprintable() or c in "\n\xa0" for c in pages[1])
    pages[1].encode()


def test_the_page_brings_everything_and_loads_nothing() -> None:
    page = render(_audit(), _gradients(), {"samples.png": PNG, "reconstructions.png": PNG})
    links = set(re.findall(r'<a href="(https://doi.org/[^"]+)">', page))
    assert links <= set(LINKS.values())
    assert len(links) > 10
    for link in links:  # followed by the reader, loaded by nobody
        page = page.replace(f'<a href="{link}">', '<a href="#">')
    for forbidden in (
        "http://",
        "https://",
        "<script",
        "@import",
        "<link",
        "<iframe",
        "javascript:",
    ):
        assert forbidden not in page.lower()
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    tags = Page(page).tags
    assert [a["src"] for _, a in tags if "src" in a] == ["data:image/png;base64,iVBORw0K"] * 2
    assert all(str(a["href"]).startswith("#") for _, a in tags if "href" in a)
    policy = next(
        str(a["content"]) for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "script" not in policy
    assert len(page.encode()) < 400_000


def test_a_large_picture_stays_beside_the_page() -> None:
    page = render({}, None, {"samples.png": PNG + bytes(2_000_000), "reconstructions.png": PNG})
    assert len(page.encode()) < 50_000
    assert "samples.png is too large to be in this page" in page
    assert page.count("<img") == 1


def test_the_same_input_gives_the_same_bytes_and_importing_needs_no_plotting(
    tmp_path: Path,
) -> None:
    import matplotlib

    (tmp_path / "in.json").write_text(json.dumps([_audit(), _gradients()], allow_nan=False))
    code = (
        "import sys, json; sys.modules['matplotlib'] = sys.modules['jinja2'] = None\n"
        "from taut.report import render\n"
        "del sys.modules['matplotlib'], sys.modules['jinja2']\n"
        "import pathlib; here = pathlib.Path(sys.argv[1])\n"
        "found, slopes = json.loads((here / 'in.json').read_text())\n"
        "(here / 'out.html').write_bytes(render(found, slopes).encode())\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    with matplotlib.rc_context(
        {"font.size": 30, "svg.fonttype": "path", "svg.hashsalt": None, "axes.grid": True}
    ):
        page = render(_audit(), _gradients())
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "out.html").read_bytes() == page.encode()


# --- What is missing ------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["None", "absent", "each"])
def test_a_section_that_is_missing_is_said_to_be(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _audit()
    if missing == "each":  # the figures of the others are drawn elsewhere
        monkeypatch.setattr(
            sys.modules["taut.report.render"], "_figures", lambda audit, gradients: {}
        )
        pages = [render({**found, name: None}, _gradients()) for name in found]
    else:
        pages = [render(dict.fromkeys(found) if missing == "None" else {})]
    for page in pages:
        words = " ".join(Page(page).texts)
        assert not re.search(r"\b(None|nan|inf|Undefined)\b", words)
    for name in (
        "annealing",
        "gaps",
        "latents",
        "calibration",
        "overfitting",
        "samples",
        "blur",
        "naive",
        "sandwich",
    ):
        page = pages[list(found).index(name)] if missing == "each" else pages[0]
        title = next(s.title for s in section.sections() if s.name == name)
        assert re.search(f"Not measured: [^.]*{title}", " ".join(Page(page).texts)), name
    if missing != "each":
        assert all(f"{name}-title" not in pages[0] for name in NAMES)


def test_the_reason_is_given_where_there_is_one() -> None:
    """What was not measured is one line a reason, and so in an audit that did not give its reasons
    yet.
    """
    notes = [
        "no gaps: a Flow posterior cannot be read off",
        "the training data are not at hand, so overfitting is not measured: gone",
    ]
    empty = dict.fromkeys(_audit())

    def absent(**sections: Any) -> list[str]:
        return re.findall(r'class="absent">(.*?)</p>', render({**empty, **sections}))

    told = absent(notes=notes)
    assert f"Not measured: Where the nats are lost: {notes[0]}." in told
    (gone,) = (line for line in told if notes[1] in line)
    titles = ("Overfitting", "Samples against held-out data", "Where the sharpness goes")
    assert gone == f"Not measured: {', '.join(titles)}: {notes[1]}."
    assert "Not measured: The scale of the likelihood: it is for a Normal likelihood." in told
    assert "Not measured: Gradient estimators: taut gradients RUN measures them." in told
    (late,) = (line for line in absent(stopped="time") if "the time was up before it" in line)
    assert {"Annealing", "Overfitting"} <= set(re.split(": |, ", late))
    (late,) = (line for line in absent(stopped="stopped") if "Annealing" in line)
    assert late.endswith(": the audit was stopped before it.")
    (line,) = (line for line in absent(notes=["no annealing: discrete"]) if "discrete" in line)
    assert line == "Not measured: Annealing, Sandwich on simulated data: no annealing: discrete."
    why = {"naive": "a reason", "gaps": "a reason", "scale": ""}
    told = absent(missing=why)
    assert sum("a reason" in line for line in told) == 1


def test_nothing_worth_changing_is_said() -> None:
    assert "No gap above 0.1 nat in the bound." in render(
        {**dict.fromkeys(_audit()), "findings": []}
    )


def test_the_first_sentence_says_whether_it_can_be_believed() -> None:
    def first(share: float | None, **more: Any) -> str:
        best = {**found["log_evidence"], "reliable_share": share, **more}
        page = render({**found, "log_evidence": best})
        return re.findall(r"Can it be believed\?</strong> (.*?)</p>", page)[0]

    found = _audit()
    by = {"importance": 3, "annealing": 17}
    above = {"value": 0.01, "mc_error": None, "test_error": 0.02}
    yes = "Yes: log p(x) of 100\xa0% of the data points is reliable, "
    agrees = "it agrees with importance sampling"
    assert first(1.0, by=by, above_importance=above).startswith(yes + agrees)
    far = {**above, "value": 0.9}
    assert "it lies above importance sampling alone" in first(1.0, by=by, above_importance=far)
    far = {**above, "value": -0.9}
    assert "it lies below importance sampling alone" in first(1.0, by=by, above_importance=far)
    assert "importance sampling" not in first(1.0, by={"importance": 20}, above_importance=above)
    assert first(0.6).startswith("In part: log p(x) of 60\xa0% of the data points is reliable.")
    assert first(0.1).startswith("No: log p(x) of 10\xa0% of the data points is reliable.")
    assert first(None).startswith("Not known")
    assert "believed" not in render({**found, "log_evidence": None})


def test_the_page_begins_with_how_good_the_model_is() -> None:
    gain = {"value": math.log(12), "mc_error": 0.01, "test_error": 0.1}
    found = copy.deepcopy(_audit())
    found |= {"gain_over_baseline": gain, "findings": []}
    found["data"]["each"] = "image"
    found["log_evidence"]["reliable_share"] = 1.0
    good = (
        "Good: 2.48 ± 0.10 nats per image better than knowing each pixel alone: it gives an unseen "
        "image 12 times the probability, in the geometric mean."
    )
    page = render(found)
    assert f'<main>\n<p class="verdict">{good}</p><p class="verdict"><strong>Can it be' in page
    cut: dict[str, Any] = {
        "name": "training was cut",
        **dict.fromkeys(("what", "evidence", "action"), "a"),
    }
    cut |= {"nats": None, "error": None, "raises": None, "command": "taut resume RUN"}
    assert "Not trained to the end, but 2.48" in render({**found, "findings": [cut]})
    assert "Good" not in render({**found, "gain_over_baseline": None})


def test_the_contents_name_what_is_there_and_no_path_of_the_user_is_shown() -> None:
    measured = {
        "date": "2026-01-02 03:04 UTC",
        "seconds": 61.5,
        "command": "taut audit run-1 --num-data 12",
        "torch": "2.11.0",
        "machine": "Linux",
    }
    found = {**_audit(), "measured": measured}
    found["data"] = {**found["data"], "name": "/home/someone/bits.npy", "each": "image"}
    page = Page(render(found, _gradients()))
    words = " ".join(page.texts)
    targets = [
        str(a["href"])[1:] for tag, a in page.tags if tag == "a" and str(a["href"])[0] == "#"
    ]
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {"good", "loose", "why", "change", "samples", "gradients", "how"} <= set(targets) <= ids
    assert "/home/someone" not in words
    assert "bits.npy" in words
    for known in measured.values():
        assert (known if isinstance(known, str) else text.number(known)) in words
    assert "nats per image" in words
    assert "data point" not in words
    assert all(c.strip() for row in page.rows for c in row[:1])  # no header is empty
    titles = re.findall(r"<h2 id=[^>]*>(.*?)</h2>", render(found, _gradients()))
    labels = [*titles, *(a["aria-label"] for _, a in page.tags if "aria-label" in a)]
    assert len(labels) == len(set(labels)) > 15  # a landmark has a name of its own
    css = resources.files("taut.report").joinpath("style.css").read_text()
    assert re.search(r"@page\{margin:\d+mm", css)


def test_what_is_never_negative_is_zero_within_its_error_and_else_not_known() -> None:
    from taut.evidence.section import at_least_zero

    def shown(value: float, error: float | None = 0.01) -> float | None:
        found = at_least_zero({"value": value, "mc_error": None, "test_error": error})
        return None if found is None else found["value"]

    assert shown(0.3) == 0.3
    assert shown(-0.009) == 0.0
    assert shown(-24.9) is None
    assert shown(-1e-9, None) == 0.0
    assert shown(-0.1, None) is None
    assert at_least_zero(None) is None
    worse = copy.deepcopy(_audit())
    worse["latents"]["marginal_kl"]["left_out"]["value"] = -24.9
    worse["sandwich"]["width"] = {"value": -0.009, "mc_error": None, "test_error": 0.01}
    page = Page(render(worse))
    assert page.row("marginal KL, aggregate posterior to prior, from") == ["not known"]
    assert page.row("width") == ["0.000", "–", "0.010"]


# --- Figures --------------------------------------------------------------------------------------


def _points(svg: str, name: str) -> list[tuple[float, float]]:
    """Returns the corners of the path of a part of a figure."""
    (group,) = (g for g in ElementTree.fromstring(svg).iter() if g.get("id") == name)
    (path,) = (p for p in group.iter() if p.tag.endswith("path"))
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", str(path.get("d")))]


def _marks(svg: str, name: str) -> list[tuple[float, float]]:
    (group,) = (g for g in ElementTree.fromstring(svg).iter() if g.get("id") == name)
    return [
        (float(str(u.get("x"))), float(str(u.get("y"))))
        for u in group.iter()
        if u.tag.endswith("use")
    ]


def _estimate(value: float, error: float = 0.1) -> dict[str, float]:
    return {"value": value, "mc_error": error / 10, "test_error": error}


def _example() -> dict[str, Any]:
    names = (
        "elbo",
        "elbo_best",
        "log_evidence",
        "elbo_full",
        "amortization_gap",
        "approximation_gap",
        "inference_gap",
    )
    values = (-92.0, -90.5, -88.0, -89.0, 1.5, 2.5, 4.0)
    gaps = {n: _estimate(v) for n, v in zip(names, values, strict=True)} | {
        "full_covariance_gain": _estimate(1.5)
    }
    history = [(1.0, -180.0), (2.0, -97.0), (3.0, None), (4.0, -95.0), (5.0, -94.0)]
    return {
        "log_evidence": _estimate(-88.0, 0.75),
        "gaps": gaps,
        "history": [{"epoch": e, "step": 1, "bound": -100.0, "validation": v} for e, v in history],
        "evidence": {
            "elbo": _estimate(-92.0),
            "log_evidence": _estimate(-88.5),
            "inference_gap": _estimate(3.5),
        },
    }


def test_the_emblem_stands_where_the_numbers_say() -> None:
    svg = figures.emblem(_example())
    (_, ceiling), _ = _points(svg, "emblem-ceiling")
    amortization, approximation = (
        _points(svg, f"emblem-{name}_gap") for name in ("amortization", "approximation")
    )
    bottom, top = max(y for _, y in amortization), min(y for _, y in approximation)
    assert bottom > top  # y runs down
    assert ceiling == pytest.approx(top, abs=1e-5)
    assert min(y for _, y in amortization) == pytest.approx(
        max(y for _, y in approximation), abs=1e-5
    )
    nat = (bottom - top) / 4.0
    for points, height in (
        (amortization, 1.5),
        (approximation, 2.5),
        (_points(svg, "emblem-band"), 2 * 0.075),
    ):
        ys = [y for _, y in points]
        assert max(ys) - min(ys) == pytest.approx(height * nat, abs=1e-4)
    history = _points(svg, "emblem-history")
    # The last step was kept: it stands at the ELBO, as the curve does with it.
    assert [y for _, y in history[-2:]] == pytest.approx(
        [ceiling + 5.0 * nat, ceiling + 4.0 * nat], abs=1e-4
    )
    assert _marks(svg, "emblem-kept") == [pytest.approx(history[-1], abs=1e-4)]
    (start, _), (end, _) = _points(svg, "emblem-ceiling")
    # the axis begins at epoch zero
    assert history[-1][0] - history[-2][0] == pytest.approx((end - start) / 5, abs=0.1)
    bottom_of_view = ceiling + 180.0 * nat
    assert bottom_of_view > 330
    assert nat * 4.0 > 330 / 5
    words = " ".join(Page(figures.inline(svg)).texts)
    for shown in (
        "−88.00\xa0±\xa00.75",
        "2.50\xa0±\xa00.10\xa0nats",
        "1.50\xa0±\xa00.10",
        "−92.00\xa0±\xa00.10",
    ):
        assert shown.replace("\xa0nats", " nats") in words


def test_the_emblem_says_less_where_less_is_known() -> None:
    example = _example()

    def parts(**sections: Any) -> set[str]:
        svg = figures.emblem({**example, **sections})
        return (
            set(re.findall(r'id="emblem-(history|ceiling|band|before|\w+_gap)"', svg))
            if svg
            else set()
        )

    whole = {"history", "ceiling", "band", "amortization_gap", "approximation_gap"}
    assert parts() == whole
    assert parts(gaps=None) == {"history", "ceiling", "band", "inference_gap"}
    assert parts(history=None) == parts(history=[]) == {"amortization_gap", "approximation_gap"}
    assert parts(log_evidence=None, gaps=None) == {"history"}
    assert parts(log_evidence=None, gaps=None, evidence=None, history=None) == set()
    assert parts(tightened={"from": "a", "before": {"elbo": _estimate(-93.0)}}) == whole | {
        "before"
    }
    # Without the gaps their sum is known only if log p(x) is the estimate that it was computed
    # with.
    assert "3.50\xa0±\xa00.10 nats" not in figures.emblem({**example, "gaps": None})
    assert "3.50\xa0±\xa00.10 nats" in figures.emblem(
        {**example, "gaps": None, "log_evidence": _estimate(-88.5)}
    )


def test_the_curve_of_the_emblem_is_moved_to_the_data_of_the_audit() -> None:
    """It keeps its shape.

    The kept step stands at the bound that was trained, and what was before at what was gained.
    """
    example = _example()
    kept = [{**line, "best": line["epoch"] == 4.0} for line in example["history"]]
    svg = figures.emblem({**example, "history": kept})
    (elbo, ceiling), points = (
        (max(y for _, y in _points(svg, "emblem-amortization_gap")), 0.0),
        _points(svg, "emblem-history"),
    )
    (_, ceiling), _ = _points(svg, "emblem-ceiling")
    nat = (elbo - ceiling) / 4
    assert _marks(svg, "emblem-kept") == [pytest.approx((points[-2][0], elbo), abs=1e-4)]
    # it rose by another nat, on data that did not choose it
    assert points[-1][1] == pytest.approx(elbo - nat, abs=1e-4)
    curve = [
        {"num_samples": k, **_estimate(v)}
        for k, v in ((1, -92.0), (5, -90.0), (10, -89.0), (20, -88.5))
    ]
    several = {
        "model": {"objective": "DReG(num_samples=8)"},
        "evidence": {**example["evidence"], "curve": curve},
    }
    svg = figures.emblem({**example, **several})
    assert _marks(svg, "emblem-kept")[0][1] == pytest.approx(ceiling + 2 * nat, abs=1e-4)
    # of other data than the audit's
    sides = {
        "before": {"elbo": _estimate(-93.0)},
        "after": {"elbo": _estimate(-91.5)},
    }
    svg = figures.emblem({**example, "tightened": {"from": "a", **sides}})
    (_, ceiling), _ = _points(svg, "emblem-ceiling")
    (_, before), _ = _points(svg, "emblem-before")
    elbo = max(y for _, y in _points(svg, "emblem-amortization_gap"))
    assert before == pytest.approx(elbo + 1.5 * (elbo - ceiling) / 4, abs=1e-4)


@pytest.mark.parametrize("far", [0.0, -4000.0, -1.2e6])
def test_words_beside_an_axis_are_in_the_figure(far: float) -> None:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    example = _example()
    for name in ("elbo", "elbo_best", "log_evidence"):
        example["gaps"][name] = _estimate(example["gaps"][name]["value"] + far)
    example["history"] = [
        {**h, "validation": h["validation"] and h["validation"] + far} for h in example["history"]
    ]
    curve = [
        {"num_samples": k, **_estimate(v + far)}
        for k, v in ((1, -92.0), (5, -90.0), (10, -89.0), (20, -88.5))
    ]
    best = _estimate(-88.0 + far)
    for svg in (
        figures.emblem({**example, "log_evidence": best}),
        figures.bounds({"evidence": {"curve": curve}, "log_evidence": best}),
    ):
        for label in (t for t in ElementTree.fromstring(svg).iter() if t.tag.endswith("text")):
            words, style = "".join(label.itertext()), str(label.get("style"))
            size = float(re.findall(r"([\d.]+)px", style)[0])
            turned = str(label.get("transform"))
            x = float(label.get("x") or re.findall(r"translate\(([-\d.]+)", turned)[0])
            if "rotate(-90" in turned:
                assert x > size
            elif "anchor: end" in style:
                width = (
                    TextPath((0, 0), words, size=size, prop=FontProperties()).get_extents().width
                )
                assert x - width > 0, words


def _frame(svg: str) -> tuple[float, float]:
    """Returns the top and the bottom of the axes of the emblem: its spine on the left."""
    ceiling = _points(svg, "emblem-ceiling")[0][0]
    spines = [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", str(path.get("d")))]
        for group in ElementTree.fromstring(svg).iter()
        if re.match(r"emblem-patch_\d+", group.get("id") or "")
        for path in group.iter()
        if path.tag.endswith("path")
    ]
    (left,) = (s for s in spines if len(s) == 2 and [x for x, _ in s] == [ceiling, ceiling])
    top, bottom = sorted(y for _, y in left)
    return top, bottom


@pytest.mark.parametrize(("fall", "seen"), [(6.0, True), (11.0, True), (60.0, False)])
def test_the_curve_after_the_kept_step_stays_in_the_frame(fall: float, seen: bool) -> None:
    """It falls below the ELBO, which lies 4 nats below log p(x); followed for three times that."""
    example = _example()
    history = [(1.0, -97.0, False), (2.0, -94.0, True), (3.0, -94.0 - fall, False)]
    example["history"] = [
        {"epoch": e, "step": 1, "bound": -100.0, "validation": v, "best": b} for e, v, b in history
    ]
    svg = figures.emblem(example)
    top, bottom = _frame(svg)
    *_, kept, last = _points(svg, "emblem-history")
    assert _marks(svg, "emblem-kept") == [pytest.approx(kept, abs=1e-4)]
    assert top < kept[1] < bottom
    assert (last[1] < bottom) == seen


@pytest.mark.parametrize("size", [2.5, 2.512345, 123456.789])
def test_words_beside_the_stack_are_in_the_figure(size: float) -> None:
    """Their width is measured in the letters of the figure."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    example = _example()
    example["gaps"]["approximation_gap"] = {"value": size, "mc_error": None, "test_error": 1.2e-5}
    svg = figures.emblem(example)
    stack = max(x for x, _ in _points(svg, "emblem-approximation_gap"))
    root = ElementTree.fromstring(svg)
    places = []
    for label in (t for t in root.iter() if t.tag.endswith("text")):
        moved = re.findall(r"translate\(([-\d.]+)", str(label.get("transform")))
        x = float(label.get("x") or moved[0])
        if x > stack:
            words = "".join(label.itertext())
            extent = TextPath((0, 0), words, size=13, prop=FontProperties()).get_extents()
            places.append(x + extent.width)
    assert len(places) == 8
    assert max(places) < 480


def test_two_levels_of_one_value_are_one_line() -> None:
    curve = [{"num_samples": k, **_estimate(v)} for k, v in ((1, -92.0), (10, -89.0))]
    audit = {
        "evidence": {"curve": curve},
        "log_evidence": _estimate(-88.0),
        "annealing": {"log_evidence": _estimate(-88.0)},
    }
    assert 'id="bounds-best"' in figures.bounds(audit)
    assert 'id="bounds-annealed"' not in figures.bounds(audit)
    assert 'id="bounds-annealed"' in figures.bounds(
        {**audit, "annealing": {"log_evidence": _estimate(-88.1)}}
    )


def test_labels_of_the_emblem_do_not_touch() -> None:
    for best, top in ((-91.9, -91.8), (-92.0, -92.0), (-89.0, -88.9), (-92.5, -91.0)):
        example = _example()
        for name, value in (("elbo_best", best), ("log_evidence", top)):
            example["gaps"][name] = _estimate(value)
        svg = figures.emblem({**example, "log_evidence": _estimate(top)})
        root = ElementTree.fromstring(svg)
        places = [
            re.findall(r"-?[\d.]+", t.get("transform") or "")
            for t in root.iter()
            if t.tag.endswith("text")
        ]
        ys = sorted(float(y) for x, y, *_ in places if float(x) > 300)
        assert len(ys) == 8
        assert min(b - a for a, b in pairwise(ys)) > 14
        assert 0 < ys[0] < ys[-1] < 330


def test_the_other_figures_stand_where_the_numbers_say() -> None:
    svg = figures.gaps(_example()["gaps"])
    spans = {}
    for name in ("inference_gap", "amortization_gap", "approximation_gap", "full_covariance_gain"):
        xs = [x for x, _ in _points(svg, f"gaps-{name}")]
        spans[name] = (min(xs), max(xs))
    (start, end), nat = (
        spans["inference_gap"],
        (spans["inference_gap"][1] - spans["inference_gap"][0]) / 4,
    )
    expected = [
        start,
        start + 1.5 * nat,
        start + 1.5 * nat,
        end,
        start + 1.5 * nat,
        start + 3 * nat,
    ]
    drawn = [
        *spans["amortization_gap"],
        *spans["approximation_gap"],
        *spans["full_covariance_gain"],
    ]
    assert drawn == pytest.approx(expected, abs=1e-4)

    latents = {
        "dimensions": {"rate": [0.001, 2.0, 0.3, 1.0, 0.0], "mean_variance": [0.0] * 5},
        "dead": [0, 4],
        "noisy": [2],
    }
    svg = figures.dimensions(latents)
    dead, noisy = _marks(svg, "dimensions-dead"), _marks(svg, "dimensions-noisy")
    assert len(dead) == 2
    assert len(noisy) == 1
    assert noisy[0][0] < dead[0][0] < dead[1][0]
    assert "variance of the posterior mean" in figures.dimensions(
        {**latents, "dimensions": {**latents["dimensions"], "rate": None}}
    )

    slopes = _gradients()
    svg = figures.variance(slopes)
    xs = [x for x, _ in _marks(svg, "variance-encoder")]
    logs = [
        math.log(r["encoder"]["relative_variance"]["value"])
        for r in slopes["estimators"]
        if "reason" not in r
    ]
    assert len(xs) == len(logs) > 5
    scale = (max(xs) - min(xs)) / (max(logs) - min(logs))
    assert [x - xs[0] for x in xs] == pytest.approx([scale * (v - logs[0]) for v in logs], abs=1e-4)

    curve = [
        {"num_samples": k, "value": -90.0 + math.log(k), "mc_error": 0.1, "test_error": 1.0}
        for k in (1, 10, 100, 1000)
    ]
    marks = _marks(figures.bounds({"evidence": {"curve": curve}}), "bounds-curve")
    assert len(marks) == 4
    assert (
        max(
            abs(2 * b[0] - a[0] - c[0])
            for a, b, c in zip(marks, marks[1:], marks[2:], strict=False)
        )
        < 1e-4
    )
    assert (
        figures.bounds({"evidence": None})
        == figures.gaps({})
        == figures.variance({"estimators": []})
        == ""
    )


def test_every_figure_lies_in_its_frame() -> None:
    curve = [{"num_samples": k, **_estimate(v)} for k, v in ((1, -92.0), (10, -89.0))]
    latents = {
        "dimensions": {"rate": [0.001, 2.0, 0.3], "mean_variance": [0.0] * 3},
        "dead": [0],
        "noisy": [2],
    }
    for name, svg in (
        ("bounds", figures.bounds({"evidence": {"curve": curve}})),
        ("gaps", figures.gaps(_example()["gaps"])),
        ("dimensions", figures.dimensions(latents)),
        ("calibration", figures.calibration({"histogram": [3, 1, 2], "verdict": "calibrated"})),
        ("variance", figures.variance(_gradients())),
    ):
        *_, width, height = map(float, str(ElementTree.fromstring(svg).get("viewBox")).split())
        box = _points(svg, f"{name}-patch_2")  # the first patch is the whole figure
        assert all(0 <= x <= width and 0 <= y <= height for x, y in box), name
        assert max(x for x, _ in box) - min(x for x, _ in box) > width / 3


def test_the_lowest_and_the_highest_rank_are_the_first_and_the_last_bar() -> None:
    svg = figures.calibration({"histogram": [3, 1, 4, 2], "verdict": "calibrated"})
    bars = [sum(x for x, _ in _points(svg, f"calibration-patch_{i}")) / 4 for i in range(3, 3 + 4)]
    words = {t.text: float(t.get("x") or 0) for t in ElementTree.fromstring(svg).iter()}
    assert [words["lowest"], words["highest"]] == pytest.approx([bars[0], bars[-1]], abs=1e-4)


def test_figures_say_what_they_are_and_take_the_colour_of_the_page() -> None:
    page = render(_audit(), _gradients(), {"samples.png": PNG})
    parsed = Page(page)
    tags = parsed.tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(f"{name}-title" in ids for name in NAMES)
    drawings = [a for tag, a in tags if tag == "svg"]
    assert len(drawings) == len(NAMES)
    assert all(a["role"] == "img" and str(a["viewbox"]).startswith("0 0 480 ") for a in drawings)
    assert all(
        name in ids for _, a in tags for name in str(a.get("aria-labelledby") or ids[0]).split()
    )
    assert all(
        f"#{name}" not in page or name in ids
        for name in re.findall(r'(?:url\(|href=")#([^")]+)', page)
    )
    assert all(
        len(found.strip()) > 5 for found in re.findall(r"<(?:title|desc)[^>]*>(.*?)</", page)
    )
    assert all(a.get("alt") for tag, a in tags if tag == "img")
    assert all(a.get("scope") in ("col", "row", "rowgroup") for tag, a in tags if tag == "th")
    assert ("html", {"lang": "en"}) in tags
    assert "#000000" not in page
    assert "currentColor" in page
    assert "DejaVu" not in page
    alone = figures.emblem(_audit())
    assert ElementTree.fromstring(alone).tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme" in alone


def test_colours_can_be_told_from_the_page() -> None:
    css = resources.files("taut.report").joinpath("style.css").read_text()

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    assert contrast("#000", "#fff") == pytest.approx(21)
    schemes = [
        dict(re.findall(r"--(\w+):(#\w+)", block)) for block in re.findall(r":root\{([^}]*)\}", css)
    ]
    assert len(schemes) == 3  # light, dark, print
    for scheme in schemes:
        for words in ("ink", "soft"):
            assert (
                min(contrast(scheme[words], scheme[ground]) for ground in ("page", "field")) > 4.5
            )
        assert (
            min(contrast(colour, scheme["page"]) for colour in (figures.BLUE, figures.ORANGE)) > 3
        )
