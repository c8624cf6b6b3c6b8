"""``taut tighten``: the posterior alone is trained.

Decoder and prior, and with them log p(x), stay as they are to the bit.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_audit_cli import HELPER
from torch import Tensor
from typer.testing import CliRunner, Result
from ztest import limit

import taut
from taut.cli.app import app
from taut.evidence.trial import trial
from taut.runs.fit import evaluate, resume, train_run
from taut.runs.folder import Stored, data_of, new_data
from taut.runs.tighten import richer, tighten
from taut.system import storage
from taut.system.errors import StorageError, UsageError
from taut.training import checkpoint

RNG = np.random.default_rng(0)
FACTORS = RNG.normal(size=(120, 2))
CHANCES = 1 / (1 + np.exp(-FACTORS @ (2 * RNG.normal(size=(2, 16)))))
BITS = (RNG.random((120, 16)) < CHANCES).astype(np.uint8).reshape(120, 4, 4)
GREY = (255 * CHANCES).astype(np.uint8).reshape(120, 4, 4)
REAL = FACTORS @ RNG.normal(size=(2, 3)) + 0.3 * RNG.normal(size=(120, 3))
# 96 training rows make 12 steps an epoch: 25 epochs are 300 steps, three intervals of 100.
SMALL: dict[str, Any] = {
    "latent_dim": 2,
    "encoder": "MLP(hidden=(8,))",
    "decoder": "MLP(hidden=(8,), dropout=0.2)",
    "max_epochs": 25,
    "batch_size": 8,
    "num_samples": 20,
    "checkpoint_seconds": 0,
    "patience": 5,
    "threads": 1,
}
KINDS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "bits": (BITS, {}),
    "mixture": (BITS, {"prior": "GaussianMixture(components=3)", "averaging": 0}),
    "vamp": (BITS, {"prior": "VampPrior(components=5)"}),
    "real": (REAL, {}),  # its likelihood has a scale of its own, and buffers
    "discrete": (
        BITS,
        {
            "prior": "IndependentBernoulli()",
            "posterior": "IndependentBernoulli()",
            "objective": "VIMCO(num_samples=4)",
        },
    ),
    "grey": (GREY, {"binarize": "dynamic", "max_epochs": 2}),
}


@pytest.fixture(autouse=True)
def _alone(_seeded: None) -> Iterator[None]:
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each kind, finished.

    The encoders were spoiled before they were measured.
    """
    folder = tmp_path_factory.mktemp("made")
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    for kind, (array, settings) in KINDS.items():
        np.save(folder / f"{kind}.npy", array)
        run = taut.fit(folder / f"{kind}.npy", folder / kind, **SMALL | settings)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            for parameter in run.model.posterior.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        storage.write_tensors(run.path / "model.safetensors", run.model.state_dict())
        for _ in evaluate(run, data_of(run)):
            pass
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own that holds copies of the runs; their data are where they were."""
    for kind in KINDS:
        shutil.copytree(made / kind, tmp_path / kind)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def tightened(kind: str, **settings: Any) -> Stored:
    """Returns the run that tightening makes of one, trained and measured."""
    run, data, state = tighten(taut.load(kind), f"{kind}-tight", **{"max_epochs": 10} | settings)
    for _ in train_run(run, data, state):
        pass
    for _ in evaluate(run, data):
        pass
    return run


def tensors(path: str | Path, part: str) -> dict[str, bytes]:
    """Returns the bytes of parameters and buffers of a part of the model in a run folder."""
    found = storage.read_tensors(Path(path, "model.safetensors"))
    return {k: v.numpy().tobytes() for k, v in found.items() if k.startswith(f"{part}.")}


def assert_frozen(old: str | Path, new: str | Path) -> None:
    """Asserts that decoder and prior are the old ones to the bit, in weights and checkpoints, and
    the posterior is not.
    """
    expected = tensors(old, "likelihood") | tensors(old, "prior")
    assert expected
    assert tensors(new, "likelihood") | tensors(new, "prior") == expected
    assert tensors(new, "posterior") != tensors(old, "posterior")
    for step in Path(new, "checkpoints").glob("step-*"):
        state = checkpoint.load(step)
        for copy in ("model.", "average.", "best."):
            found = {
                k.removeprefix(copy): v.numpy().tobytes()
                for k, v in state.tensors.items()
                if k.startswith(copy)
            }
            assert {k: v for k, v in found.items() if k in expected} == expected


# ----------------------------------------------------------------------------------- what it is for


@pytest.mark.parametrize("kind", ["bits", "mixture", "real"])
def test_the_bound_rises_under_the_same_ceiling(here: Path, kind: str):
    """False alarm at most 1e-6 for each comparison."""
    old, new = taut.load(kind), tightened(kind, max_epochs=50)
    assert_frozen(kind, new.path)
    x = torch.cat([data_of(old).train, data_of(old).validation, data_of(old).test])
    before, after = (
        taut.importance(run.model, x, num_samples=2000, seed=n) for n, run in enumerate((old, new))
    )
    rise, errors = after.elbo - before.elbo, torch.hypot(before.elbo_error, after.elbo_error)
    assert float(rise.sum() / errors.square().sum().sqrt()) > limit(1)
    assert float(rise.mean()) > 0.05  # nats: worth the name
    change = after.log_evidence - before.log_evidence
    error = torch.hypot(before.log_evidence_error, after.log_evidence_error).square().sum().sqrt()
    assert abs(float(change.sum() / error)) < limit(1)
    assert float(error) / len(x) < 0.05  # nats: a change would be seen


@pytest.mark.parametrize(
    "flags", [{}, {"posterior": "FullCovarianceNormal()", "encoder": "MLP(hidden=(5, 5))"}]
)
def test_a_prior_that_shares_the_encoder_stays_where_it_was(here: Path, flags: dict[str, str]):
    """Its own copy of the encoder does not move: log p(x) is the same function, to the bit."""
    old, new = taut.load("vamp"), tightened("vamp", **flags)
    own = "VampPrior(components=5, posterior=DiagonalNormal(encoder=MLP(hidden=(8,))))"
    assert new.config.model.prior == own
    assert_same_prior(old, new)
    again, _, _ = tighten(taut.load(new.path), "again", max_epochs=1)
    assert again.config.model.prior == own
    assert_same_prior(old, again)


def assert_same_prior(old: Stored, new: Stored, context: Tensor | None = None) -> None:
    """Asserts that a prior is the old one, whatever becomes of the posterior of its run."""
    z = torch.randn(8, 5, 2)
    with torch.no_grad():
        for parameter in new.model.posterior.parameters():
            parameter.add_(1.0)
    was, now = (run.model.eval().latent_prior(context).log_prob(z) for run in (old, new))
    torch.testing.assert_close(now, was, rtol=0, atol=0)
    assert not any(p.requires_grad for p in new.model.prior.parameters())


def test_what_cannot_be_reparameterized_is_tightened_by_an_objective_that_can(here: Path):
    with pytest.raises(
        UsageError, match=r"ScoreFunction\(num_samples=8\) or VIMCO\(num_samples=8\)"
    ):
        tighten(taut.load("discrete"), "no")
    assert not Path("no").exists()
    for objective in ("ScoreFunction(num_samples=4)", "VIMCO(num_samples=4)"):
        new = tightened("discrete", objective=objective)
        assert_frozen("discrete", new.path)
        shutil.rmtree(new.path)


class Looking(taut.Objective):
    """An ELBO that notes in which mode posterior and likelihood are."""

    num_samples = 1

    def __init__(self) -> None:
        self.seen: set[tuple[bool, bool]] = set()

    def __call__(
        self, model: taut.Model, x: Any, context: Any = None, progress: float = 1.0
    ) -> taut.Bound:
        self.seen.add((model.posterior.training, model.likelihood.training))
        return taut.ELBO()(model, x, context, progress)


def test_the_decoder_is_trained_against_without_its_dropout(here: Path):
    run, data, state = tighten(taut.load("bits"), "new", max_epochs=1)
    run.objective = Looking()
    for _ in train_run(run, data, state):
        pass
    assert run.objective.seen == {(True, False), (False, False)}  # training, validating


@pytest.mark.parametrize("library", [False, True])
def test_what_the_model_draws_is_under_the_conditions_of_the_rows(library: bool):
    """What is given stays as it is, and so do gaps.

    The rest has the means that the model gives for it, row by row.
    """
    from taut.features import Split, Standardize, Totals

    class Shifted(taut.Likelihood):
        def forward(self, z: Tensor, context: Any = None) -> torch.distributions.Distribution:
            place = 100 * context.expand(*z.shape[:-1], -1) + 0 * z[..., :1]
            return torch.distributions.Independent(
                torch.distributions.Normal(place.expand(*place.shape[:-1], 2), 1.0), 1
            )

    condition = Totals(1.0) if library else Split([1], 3, Standardize((1,)))
    posterior = taut.DiagonalNormal((2,), 1, taut.Linear)
    model = taut.VAE(taut.StandardNormal(1), Shifted(), posterior, condition)
    x = 3.0 * torch.arange(1, 501)[:, None] + torch.zeros(1, 2 if library else 3)
    x[::5, 0] = torch.nan
    drawn, rest = model.redraw(x), [0, 1] if library else [0, 2]
    assert torch.equal(drawn.isnan(), x.isnan())
    if not library:
        assert torch.equal(drawn[:, 1], x[:, 1])
    context = condition(x)[1]
    error = (drawn[:, rest] - 100 * context).double()
    error = error[~error.isnan()]
    assert abs(float(error.mean() * len(error) ** 0.5)) < limit(1)
    assert float(error.std()) == pytest.approx(1.0, abs=0.15)  # six errors of a standard deviation


def test_a_conditioned_run_is_tightened_and_nothing_half_made_stays(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = [f"{'ab'[i % 2]},{a},{b}" for i, (a, b, _) in enumerate(REAL.tolist())]
    Path("g.csv").write_text("\n".join(["g,x,y", *lines]))
    taut.fit("g.csv", "given", **SMALL | {"max_epochs": 1, "condition": ("g",)})
    result = call("tighten", "given", "--out", "given-tight", "--max-epochs", 2)
    assert result.exit_code == 0, result.stderr
    assert_frozen("given", "given-tight")
    flow = {"posterior": "CouplingFlow(layers=2, hidden=(5,))", "prior": "VampPrior(components=5)"}
    old = taut.fit("g.csv", "shared", **SMALL | flow | {"max_epochs": 1, "condition": ("g",)})
    new, data, _ = tighten(taut.load("shared"), "shared-tight", max_epochs=1)
    assert_same_prior(old, new, new.model.split(data.train[:5].float())[1])

    def broken(self: taut.VAE, x: Tensor) -> Tensor:
        raise ValueError("cannot be drawn")

    monkeypatch.setattr(taut.VAE, "redraw", broken)
    result = call("tighten", "given", "--out", "no")
    assert result.exit_code == 2
    assert "cannot be drawn" in result.stderr
    assert not Path("no").exists()


# ---------------------------------------------------------------------------------- where it starts


def log_q(run: Stored, x: Tensor, z: Tensor) -> Tensor:
    with torch.no_grad():
        return run.model.eval().encode(x).log_prob(z)


@pytest.mark.parametrize(
    "posterior",
    [
        *(None, "DiagonalNormal()", "FullCovarianceNormal()", "CouplingFlow()"),
        "InverseAutoregressive()",
    ],
)
def test_it_starts_as_the_posterior_it_came_from(here: Path, posterior: str | None):
    torch.set_default_dtype(torch.float64)
    old = taut.load("real")
    new, data, _ = tighten(old, "new", posterior=posterior)
    x, z = data.train.to(torch.float64), torch.randn(7, len(data.train), 2)
    assert type(new.model.posterior).__name__ == (posterior or "DiagonalNormal()").removesuffix(
        "()"
    )
    torch.testing.assert_close(log_q(new, x, z), log_q(old, x, z), rtol=0, atol=1e-10)
    # an objective that asks for log q of a given z would cost a pass for each dimension
    slow = type(new.model.posterior).slow_density
    expected = "ELBO(num_samples=4)" if slow else "StickingTheLanding(num_samples=4)"
    assert new.config.training.objective == expected


def test_what_is_taken_over_learns_slowly_and_what_is_new_at_the_full_rate(here: Path):
    """Layers of a flow start as the identity and have everything to learn."""
    old = taut.load("bits")
    new, *_ = tighten(old, "new", posterior="CouplingFlow()")
    parts = {name.split(".")[1] for name, _ in new.model.named_parameters() if "posterior" in name}
    assert new.config.training.gentle == ("posterior.encoder",)
    assert parts == {"encoder", "couplings"}
    assert new.config.training.learning_rate == old.config.training.peak
    given, *_ = tighten(old, "given", learning_rate=1e-3)
    assert (given.config.training.learning_rate, given.config.training.gentle) == (1e-3, ())
    other, *_ = tighten(old, "other", encoder="MLP(hidden=(9, 5))")
    assert other.config.training.gentle == ()


@pytest.mark.parametrize(
    ("own", "name", "new"),
    [
        ("DiagonalNormal()", "FullCovarianceNormal()", 0),
        ("FullCovarianceNormal()", "CouplingFlow()", 10),
    ],
)
def test_the_next_richer_family_starts_where_the_model_is(
    here: Path, own: str, name: str, new: int
):
    """A trial of no steps gains nothing (two comparisons at ALPHA 1e-6: where one family has a
    closed form of the rate and the other has not, draws differ); one step of Adam moves a weight by
    its rate: what is taken over by 4e-4, what is new by 2e-3.
    """
    run = taut.load("bits")
    if own != "DiagonalNormal()":
        run = tightened("bits", posterior=own)
    data = run.data()
    x, made = data.train.float(), richer(run, data)
    assert list(made) == [name]
    value, error = trial(run.model, x, x[:20], to=made[name](), steps=0)
    of_mean = float(error.square().sum().sqrt() / len(error))
    assert abs(float(value.mean())) <= limit(2) * of_mean + 1e-5
    assert of_mean < 0.02
    model = made[name]()
    before = {n: p.detach().clone() for n, p in model.posterior.named_parameters()}
    trial(run.model, x, x[:20], to=model, steps=1)
    moved = {
        n: float((p.detach() - before[n]).abs().max())
        for n, p in model.posterior.named_parameters()
    }
    fresh = {n: m for n, m in moved.items() if not n.startswith("encoder.")}
    assert len(fresh) >= new
    for n, m in moved.items():
        assert m == pytest.approx(2e-3 if n in fresh else 4e-4, rel=1e-2) or m == 0.0, n
    assert sum(m > 0 for m in moved.values()) > len(moved) / 3


def test_where_there_is_no_richer_family_none_is_tried(here: Path):
    run = tightened("bits", posterior="CouplingFlow()")
    assert richer(run, run.data()) == {}


def test_gentle_names_a_part_that_there_is(here: Path):
    for name in ("posterior.decoder", "likelihood"):  # the second is frozen
        with pytest.raises(UsageError, match=f"training.gentle: the model has no part '{name}' "):
            tighten(taut.load("bits"), "new", gentle=name)
    assert not Path("new").exists()


def test_a_full_covariance_is_trained_and_loaded(here: Path):
    new = tightened("bits", posterior="FullCovarianceNormal()")
    assert_frozen("bits", new.path)
    loaded = taut.load("bits-tight")
    assert loaded.config.model.posterior == "FullCovarianceNormal()"
    with torch.no_grad():
        tril = loaded.model.encode(data_of(loaded).test.float()).scale_tril
    assert float(tril[:, 1, 0].abs().max()) > 1e-3  # it has left the diagonal
    with pytest.raises(UsageError, match="does not fit the old one's weights: give --encoder"):
        tighten(loaded, "back", posterior="DiagonalNormal()")
    assert not Path("back").exists()


def test_another_encoder_starts_anew(here: Path):
    new = tightened("bits", encoder="MLP(hidden=(9, 5))")
    assert_frozen("bits", new.path)
    weights = storage.read_tensors(new.path / "model.safetensors")
    shapes = {
        tuple(v.shape)
        for k, v in weights.items()
        if k.startswith("posterior.encoder") and v.dim() == 2
    }
    assert shapes == {(9, 16), (5, 9), (4, 5)}
    x, z = data_of(new).test.float(), torch.randn(3, 12, 2)
    old = taut.load("bits")
    # the new one standardizes with the same training data
    for (
        name,
        buffer,
    ) in old.model.posterior.named_buffers():
        torch.testing.assert_close(
            dict(new.model.posterior.named_buffers())[name], buffer, rtol=0, atol=0
        )
    assert float((log_q(new, x, z) - log_q(old, x, z)).abs().mean()) > 0.05


# ---------------------------------------------------------------------------------- what is written


def test_the_run_says_what_it_came_from_and_the_terminal_what_it_gained(here: Path):
    old = taut.load("bits").evaluation()
    result = call("tighten", "bits", "--out", "new", "--max-epochs", 2)
    assert result.exit_code == 0, result.stderr
    info = storage.read_json(Path("new/run.json"))
    names = ("elbo", "log_evidence", "inference_gap", "num_samples")
    assert info["tightened"] == {"from": "bits", "before": {k: old[k] for k in names}}
    assert info["config"]["model"] == taut.load("bits").info["config"]["model"]
    assert info["config"]["training"]["objective"].startswith("StickingTheLanding(")
    assert info["config"]["training"]["max_epochs"] == 2
    assert info["fingerprint"] == taut.load("bits").info["fingerprint"]
    new = taut.load("new").evaluation()
    assert new["num_data"] == old["num_data"]
    table = result.stdout[result.stdout.index("the same decoder") :].splitlines()
    assert table[0].split()[-2:] == ["before", "after"]
    for line, name in zip(table[1:], names, strict=False):
        expected = [f"{e[name][k]:.3f}" for e in (old, new) for k in ("value", "mc_error")]
        assert line.replace("±", "").split()[-4:] == expected
    again = call("tighten", "new", "--max-epochs", 1, "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["run"] == "runs/new-tight-1"
    chained = storage.read_json(Path("runs/new-tight-1/run.json"))["tightened"]
    assert chained == {"from": "new", "before": {k: new[k] for k in names}}
    assert_frozen("bits", "runs/new-tight-1")


def test_a_tightened_run_is_audited(here: Path):
    tightened("bits", max_epochs=1)
    small = [
        "--num-data",
        10,
        "--num-samples",
        100,
        "--num-chains",
        4,
        "--max-temperatures",
        5,
        "--threads",
        1,
    ]
    result = call("audit", "bits-tight", *small)
    assert result.exit_code == 0, result.stderr
    audit = storage.read_checked_json(Path("bits-tight/audit.json"))
    new = taut.load("bits-tight")
    known = new.info["tightened"]
    assert audit["tightened"] == {
        **known,
        "after": {name: new.evaluation()[name] for name in known["before"]},
    }
    assert audit["gaps"]["inference_gap"]["value"] is not None
    page = Path("bits-tight/report.html").read_text()
    assert "The bound under log p(x)" in page  # the emblem
    few = ["--repeats", 2, "--batch-size", 5, "--num-samples", 2]
    assert call("gradients", "bits-tight", *few).exit_code == 0  # of the encoder alone
    rows = storage.read_checked_json(Path("bits-tight/gradients.json"))["estimators"]
    assert all(row["encoder"] is not None and row["decoder"] is None for row in rows)


def test_another_seed_keeps_the_bits_of_the_data(here: Path):
    old = taut.load("grey")
    new = tightened("grey", seed=7, max_epochs=1)
    again = tighten(taut.load("grey-tight"), "again", seed=8, max_epochs=1)[0]
    assert new.config.training.seed == 7
    for run in (taut.load("grey-tight"), again):
        for part in ("train", "validation", "test"):
            assert torch.equal(getattr(data_of(run), part), getattr(data_of(old), part))
        assert torch.equal(new_data(run, GREY).rows, new_data(old, GREY).rows)
    assert new.evaluation()["baseline"] == old.evaluation()["baseline"]


def test_a_damaged_evaluation_is_found_before_a_folder_is_made(here: Path):
    Path("bits/evaluation.json").write_text("{}")
    with pytest.raises(StorageError, match=r"evaluation\.json is damaged"):
        tighten(taut.load("bits"), "new")
    assert not Path("new").exists()


# ------------------------------------------------------------------------------------------ stopped

STEP = "taut.training.loop.batch"  # one call a step
KILL, TERM = int(signal.SIGKILL), int(signal.SIGTERM)
STOPS = [(155, [KILL]), (299, [KILL]), (77, [TERM]), (210, [TERM])]


@pytest.fixture(scope="module")
def stopped(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A tightening that nothing stopped, the last, and others that a signal did; with
    exit codes.
    """
    folder = tmp_path_factory.mktemp("stopped")
    flags = ["--posterior", "FullCovarianceNormal()", "--max-epochs", "25"]
    jobs = [
        {
            "at": STEP,
            "n": n,
            "signals": signals,
            "out": str(folder / f"out-{number}"),
            "args": [
                "tighten",
                str(made / "mixture"),
                "--out",
                str(folder / f"run-{number}"),
                *flags,
            ],
        }
        for number, (n, signals) in enumerate([*STOPS, (10**9, [])])
    ]
    result = subprocess.run(
        [sys.executable, "-c", HELPER],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
    )
    codes = json.loads(result.stdout)
    assert codes[-1] == 0, (folder / f"out-{len(STOPS)}.stderr").read_text()
    return folder, codes


@pytest.mark.parametrize("number", range(len(STOPS)))
def test_stopped_and_resumed_it_ends_in_the_same_bits(
    made: Path, stopped: tuple[Path, list[int]], number: int
):
    folder, codes = stopped
    path, unbroken = folder / f"run-{number}", folder / f"run-{len(STOPS)}"
    killed = STOPS[number][1] == [KILL]
    errors = (folder / f"out-{number}.stderr").read_text().splitlines()
    assert codes[number] == (-KILL if killed else 143), errors
    assert (
        killed
        or errors[-1] == f"taut: stopped, the state is saved: go on with `taut resume {path}`"
    )
    assert not (path / "manifest.json").exists()
    run, _, state = resume(path)
    assert state.step == STOPS[number][0] // 100 * 100
    assert not any(
        p.requires_grad
        for part in (run.model.prior, run.model.likelihood)
        for p in part.parameters()
    )
    result = call("resume", path)
    assert result.exit_code == 0, result.stderr
    found, expected = (
        {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
        for folder in (path, unbroken)
    )
    assert found == expected
    assert [line["step"] for line in taut.load(path).history()] == [100, 200, 300]
    assert_frozen(made / "mixture", path)
