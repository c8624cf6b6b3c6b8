"""Small edits drawn at random (``make mutants-generic``) that no test had noticed.

A test for the kind of each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_tasks import facts
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform

import taut
from taut import likelihoods
from taut.build.config import Config, DataConfig, ModelConfig, TrainingConfig
from taut.cli.audit import gradients
from taut.data.tables.dialect import repeats_a_row
from taut.data.tables.entries import _level_bounds
from taut.distributions import CategoricalLevels
from taut.evidence import cells, scale
from taut.evidence.annealing import simulate
from taut.evidence.best_section import LogEvidence
from taut.evidence.clock import Report
from taut.evidence.columns import EachColumn
from taut.evidence.doctor import diagnose
from taut.evidence.finding import RELIABLE
from taut.evidence.gradients import KINDS
from taut.evidence.latents import CATEGORIES, latents
from taut.evidence.latents_section import LatentSpace
from taut.evidence.results import in_parts
from taut.evidence.samples import _seen
from taut.evidence.section import Scene
from taut.features import ColumnFeatures, Standardize
from taut.likelihoods.common import full
from taut.models import FactorAnalysis, Mixture, MixtureOfFactorAnalysers
from taut.report.render import _worth
from taut.runs.assemble import assemble
from taut.training.step import Learner


class Unit(taut.Posterior):
    """q(z|x) = N(0, 1) whatever x is; as a transformed distribution, its marginals are
    not known.
    """

    def __init__(self, hidden: bool = False) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, x, context=None):
        q = Independent(Normal(torch.zeros(len(x), 2), 1.0), 1)
        return (
            TransformedDistribution(q, [AffineTransform(0.0, 1.0, event_dim=1)])
            if self.hidden
            else q
        )


class Around(taut.Likelihood):
    """p(x|z, context) = N(context, 1); it notes the mode it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: set[bool] = set()

    def forward(self, z, context=None):
        self.modes.add(self.training)
        place = z if context is None else context.expand(*z.shape[:-1], -1)
        return Independent(Normal(place, 1.0), 1)


def test_what_is_filled_in_has_the_default_dtype() -> None:
    """A float64 statistic in a float32 model would make float64 parameters."""
    torch.set_default_dtype(torch.float32)
    for value in (torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.int64), 1, 0.5):
        assert full(value, (3,)).dtype == torch.float32
    wide = torch.full((3,), 2.0, dtype=torch.float64)
    part = taut.Normal((3,), 2, decoder=taut.Linear, data_loc=wide, data_scale=wide)
    assert {t.dtype for t in (*part.parameters(), *part.buffers()) if t.is_floating_point()} == {
        torch.float32
    }


def test_only_a_name_that_is_a_value_of_its_column_looks_like_a_row() -> None:
    assert repeats_a_row(["a", "", "1"], [["2", "3"], [""], ["1", "2"]]) == [2]


def test_a_zero_among_positive_numbers_is_seen_as_missing() -> None:
    """Its logarithm would be the farthest of all that the encoder sees."""
    part = ColumnFeatures([0, 0], ["log", "log1p"], torch.tensor([1.0, 1.0]), torch.ones(2))
    assert part(torch.zeros(1, 2)).tolist() == [[0.0, -1.0]]


def test_the_encoder_sees_no_value_farther_than_twenty_deviations() -> None:
    seen = Standardize((3,), 1.0, 2.0)(torch.tensor([[1e30, -1e30, 5.0]]))
    assert seen.tolist() == [[20.0, -20.0, 2.0]]


def test_the_highest_level_is_the_last_that_has_a_logit() -> None:
    levels = CategoricalLevels(torch.zeros(4), 2)
    assert levels.support.check(torch.tensor([1.0, 2.0, 5.0, 6.0])).tolist() == [
        False,
        True,
        True,
        False,
    ]
    part = likelihoods.Ordinal((3,), 2, low=2, high=5, decoder=taut.Linear)
    assert not bool(part(torch.zeros(1, 1, 2)).support.check(torch.full((1, 1, 3), 6.0)).any())


def test_each_block_of_the_scale_check_has_its_own_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Residuals of exactly two scales, in three blocks.

    With the context of other rows they would be larger.
    """
    monkeypatch.setattr(scale, "ROWS", 8)
    model = taut.VAE(taut.StandardNormal(2), Around(), Unit())
    context = 100 * torch.randn(20, 2)
    x = context + 2 * torch.randint(0, 2, (20, 2)) * 2 - 2
    found = scale.scale_check(model, x, context=context)
    assert found is not None
    assert found["factor"] == pytest.approx(
        {"median": 2.0, "smallest": 2.0, "largest": 2.0}, rel=1e-12
    )


def test_data_are_simulated_in_evaluation_mode() -> None:
    """With dropout they would not be draws of the model that is audited."""
    model = taut.VAE(taut.StandardNormal(2), Around(), Unit())
    model.train()
    simulate(model, 10)
    assert model.likelihood.modes == {False}
    assert model.training


def test_distances_are_between_what_the_encoder_sees_only_where_that_is_needed() -> None:
    x, gaps = torch.randn(5, 3), torch.tensor([[1.0, torch.nan, 3.0]])
    part = taut.Normal((3,), 2, decoder=taut.Linear)
    plain = taut.DiagonalNormal(
        (3,), 2, taut.Linear, data_loc=torch.zeros(3), data_scale=torch.ones(3)
    )
    plain.features = Standardize((3,), 5.0, 2.0, missing=True)
    model = taut.VAE(taut.StandardNormal(2), part, plain)
    assert torch.equal(_seen(model, x), x)
    assert _seen(model, gaps).tolist() == [[-2.0, 0.0, -1.0, 0.0, 1.0, 0.0]]
    plain.features = ColumnFeatures([3, 0, 0], ["none"] * 3, torch.zeros(3), torch.ones(3))
    assert _seen(model, torch.tensor([[2.0, 7.0, 8.0]])).tolist() == [[7.0, 8.0, 0.0, 0.0, 1.0]]


def test_without_marginals_of_q_there_is_no_total_correlation() -> None:
    x = torch.randn(300, 2)
    known, unknown = (
        latents(taut.VAE(taut.StandardNormal(2), Around(), Unit(hidden)), x)
        for hidden in (False, True)
    )
    assert known["total_correlation"]["own"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert unknown["total_correlation"] is None
    assert unknown["information"] == known["information"]  # the joint density is known in both


def test_what_is_measured_under_a_wrong_encoder_says_so() -> None:
    sure, none = (
        {"value": 1.0, "mc_error": 0.0, "test_error": 0.01},
        {"value": 0.0, "mc_error": 0.0, "test_error": 0.01},
    )
    factor = {"median": 1.0, "smallest": 1.0, "largest": 1.0}
    for gap, words in (
        (sure, " (measured under an inaccurate encoder: run `taut tighten` first)"),
        (none, ""),
    ):
        gaps = {"amortization_gap": gap, "approximation_gap": none, "inference_gap": sure}
        space = {"dead": [], "latent_dim": 2, "noisy": [], "prior_gain": sure}
        found = diagnose(
            {
                "gaps": gaps,
                "latents": space,
                "scale": {"gain": sure, "factor": factor, "at_floor": None},
            }
        )
        said = {f["name"]: f["evidence"] for f in found}
        for name in ("prior", "scale"):
            assert said[name].endswith("1.00 ± 0.01 nats" + words)


def test_a_compiled_step_is_given_what_is_frozen_and_what_is_fixed() -> None:
    """What is not among its inputs would stay in the graph with the value that it had when it was
    compiled.
    """
    part = taut.Normal(
        (3,), 2, decoder=taut.Linear, data_loc=torch.ones(3), data_scale=torch.ones(3)
    )
    model = taut.VAE(
        taut.GaussianMixture(2, components=2), part, taut.DiagonalNormal((3,), 2, taut.Linear)
    )
    model.prior.requires_grad_(False)
    learner = Learner(model, taut.ELBO(), TrainingConfig())
    places = {t.data_ptr() for t in learner.tensors()}
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert len(frozen) == len(list(model.prior.parameters()))
    fixed: list[Tensor | nn.Parameter] = [*frozen, *(b for b in model.buffers())]
    assert all(t.data_ptr() in places for t in fixed)


@pytest.mark.parametrize(
    ("known", "answer"),
    [(0.0, "No"), (RELIABLE / 2 - 0.01, "No"), (RELIABLE / 2, "In part"), (RELIABLE, "Yes")],
)
def test_which_share_of_reliable_rows_is_believed(known: float, answer: str) -> None:
    found = LogEvidence({"reliable_share": known, "by": {"importance": 3}}, "row")
    assert found.believed({}).startswith(f"{answer}: ")


@pytest.mark.parametrize(("high", "many"), [(65_535, False), (65_536, True)])
def test_the_largest_number_of_levels_that_can_be_stated(high: int, many: bool) -> None:
    assert bool(_level_bounds([0, high], 1.0)) == many


def test_the_first_step_of_gradients_is_one_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The share that is done counts from nothing, and the time left follows from it."""
    told, now = list[tuple[float, float]](), [100.0]

    @contextlib.contextmanager
    def stages() -> Iterator[Report]:
        yield lambda _title, share, whole: told.append((share, whole.left))

    def measured(_run: object, *, stop: Callable[[], bool], **_: object) -> dict[str, object]:
        for _step in range(2):
            now[0] += 3
            stop()
        return {}

    monkeypatch.setattr("taut.cli.audit.bars.stages", stages)
    monkeypatch.setattr("taut.cli.audit.load_run", lambda *_: None)
    monkeypatch.setattr("taut.cli.audit.time.monotonic", lambda: now[0])
    monkeypatch.setattr("taut.runs.audit.gradients_run", measured)
    gradients(tmp_path, repeats=2, as_json=True)
    steps = 2 * len(KINDS)
    expected = [(n / steps, 3 * n * (steps - n) / n) for n in (1, 2)]
    assert told == [pytest.approx(pair) for pair in expected]


def test_latents_are_looked_at_where_they_are_numbers() -> None:
    """Factors of an exact model are; its categories have no variance to share."""
    x = torch.randn(20, 3)
    factors, states = FactorAnalysis((3,), 1), Mixture((3,), "real", 2)
    assert LatentSpace.lacks(Scene(factors, x)) is None
    assert LatentSpace.lacks(Scene(states, x)) == CATEGORIES
    assert LatentSpace.lacks(Scene(factors, x[:1])) == "a single data point is too few"


@pytest.mark.parametrize(
    ("finding", "shown"),
    [
        ({"name": "training was cut", "nats": None}, "not known"),
        ({"name": "log p(x) is not reliable", "nats": None}, "everything rests on it"),
        ({"name": "noise", "nats": 0.0}, "harmless"),
        ({"name": "prior", "nats": 0.41, "error": 0.08, "raises": "log p(x)"}, "of log p(x)"),
        ({"name": "prior", "nats": 0.41, "error": 0.08}, "nats"),
    ],
)
def test_what_a_finding_is_worth_on_the_page(finding: dict[str, object], shown: str) -> None:
    assert _worth(finding).endswith(shown)


@pytest.mark.parametrize(
    "make",
    [lambda: FactorAnalysis((3,), 2), lambda: MixtureOfFactorAnalysers((3,), 4, 2)],
)
def test_latent_variables_of_linear_models_know_how_many_rows_they_are_of(
    make: Callable[[], taut.ExactModel],
) -> None:
    model = make()
    prior, q = model.latent_prior(), model.encode(torch.zeros(5, 3))
    assert (tuple(prior.batch_shape), tuple(q.batch_shape)) == ((), (5,))
    assert tuple(q.expand(torch.Size((7, 5))).sample().shape) == (7, 5, *q.event_shape)
    assert tuple(prior.sample(torch.Size((7,))).shape) == (7, *prior.event_shape)


def test_entries_measured_again_come_in_parts_that_fit_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many samples of as many columns as ``MAX_ELEMENTS`` holds, in either loop."""
    sizes = []

    def parts(rows: Tensor, size: int) -> Sequence[Tensor]:
        sizes.append(size)
        return in_parts(rows, size)

    problem = taut.LinearGaussian(4, 2)
    x = problem.sample(3)
    x[:, 1] *= 100
    model = problem.model(taut.DiagonalNormal((4,), 2, taut.Linear))
    monkeypatch.setattr(cells, "in_parts", parts)
    cells.cell_scores(model, x, 50)
    assert len(sizes) >= 2
    assert set(sizes) == {cells.MAX_ELEMENTS // (cells.SAMPLES * 4)}


def test_the_work_of_columns_grows_with_them() -> None:
    """It says what share of an audit's time is theirs."""
    works = []
    for columns in (3, 6):
        scene = Scene(taut.LinearGaussian(columns, 1).model(), torch.zeros(5, columns))
        scene.columns = facts(scene.x)
        works.append(EachColumn.work(scene))
    assert works[1] == 2 * works[0]


def test_without_validation_rows_the_factors_are_chosen_on_rows_that_they_did_not_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def maximize(self: FactorAnalysis, x: Tensor, validation: Tensor, **more: Any) -> Any:
        seen.append((x, validation))
        return original(self, x, validation, **more)

    original = FactorAnalysis.maximize
    monkeypatch.setattr(FactorAnalysis, "maximize", maximize)
    parts = {"encoder": "Residual()", "decoder": "Residual()"}
    config = Config(
        model=ModelConfig(posterior="FullCovarianceNormal()", **parts),
        data=DataConfig(test_fraction=0.0, validation_fraction=0.0),
    )
    _, data, _, _ = assemble(np.random.default_rng(0).standard_normal((300, 5)), config)
    ((fitted, chosen_on),) = seen
    assert len(fitted) + len(chosen_on) == len(data.train)
    assert not (fitted[:, None] == chosen_on).all(-1).any()
