"""Codes: discrete latent variables, whose sums over all values are known by hand."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from instances import RELAXED
from torch import Tensor
from torch.distributions import kl_divergence
from ztest import assert_mean

import taut
from taut import posteriors, priors
from taut.build.config import Config
from taut.distributions.codes import Codes, OneHots
from taut.evidence import enumeration as sums
from taut.evidence.audit import Effort, audit
from taut.evidence.enumeration import enumeration, states_of, too_many
from taut.evidence.own import _Noise, _told, own_evidence
from taut.evidence.rows import log_evidence
from taut.features import Split, Standardize
from taut.objectives import StraightThrough
from taut.runs.fit import resume, start, train_run
from taut.system.errors import UsageError

SMALL = partial(taut.MLP, hidden=(7,))
CODES, LEVELS = 2, 3
PRIORS = [priors.IndependentCategorical, partial(priors.AutoregressiveCategorical, hidden=(6, 5))]


def model_of(make=priors.IndependentCategorical, condition=None, codes: int = CODES) -> taut.VAE:
    """Returns a model of four bits with any weights."""
    width, context_dim = 4, 0
    if condition is not None:
        width, context_dim = 3, condition.context_dim
    dim = codes * LEVELS
    posterior = posteriors.Categorical(
        (width,), dim, SMALL, context_dim, codes=codes, levels=LEVELS,
        features=Standardize((width,), 0.5, 0.5, missing=True),
    )  # fmt: skip
    likelihood = taut.Bernoulli((width,), dim, SMALL, context_dim=context_dim)
    model = taut.VAE(make(codes, LEVELS), likelihood, posterior, condition)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def rows(n: int, gaps: bool = False) -> Tensor:
    x = (torch.rand(n, 4) < 0.5).to(torch.get_default_dtype())
    if gaps:
        x[torch.rand(n, 4) < 0.3] = torch.nan
    return x


def values() -> Tensor:
    """Returns all values of z in the order of an odometer, (9, 1, 6)."""
    levels = itertools.product(range(LEVELS), repeat=CODES)
    each = [[float(k == level) for level in code for k in range(LEVELS)] for code in levels]
    return torch.tensor(each, dtype=torch.get_default_dtype())[:, None]


def tables(model: taut.VAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns log p(x, z), log p(z) and log q(z|x) of each value of z, (9, B) each."""
    draw = model.draw(x, given=values().expand(-1, len(x), -1), reparameterize=False)
    return draw.log_joint, draw.log_prior, draw.log_posterior


# --- Distributions --------------------------------------------------------------------------------


def test_the_values_of_z_are_listed_once_each_and_are_all_there_is() -> None:
    support = OneHots(CODES, LEVELS)
    assert support.num_states == 9
    found = support.states(torch.arange(9)).to(torch.get_default_dtype())
    assert torch.equal(found, values()[:, 0])
    assert bool(support.check(found).all())
    wrong = torch.zeros(3, 6)
    wrong[0, :2], wrong[1, 0] = 1.0, 1.0
    wrong[2, [0, 3]] = 0.5
    assert not bool(support.check(wrong).any())
    assert not bool(support.check(torch.ones(2, 5)).any())


@pytest.mark.parametrize("make", PRIORS)
def test_a_prior_sums_to_one_and_draws_what_it_says(make) -> None:
    """z-test of the means of 20,000 draws, alpha 1e-6."""
    p = model_of(make).prior()
    with torch.no_grad():
        mass = p.log_prob(values()[:, 0]).exp()
        assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
        z = p.sample((20_000,))
        assert bool(p.support.check(z).all())
        pairs = torch.einsum("ni,nj->nij", z[:, :LEVELS], z[:, LEVELS:])
        assert_mean(pairs, mass.view(LEVELS, LEVELS))
        assert p.expand((5,)).sample((2,)).shape == (2, 5, 6)


def test_a_code_depends_on_those_before_it_alone() -> None:
    network = model_of(PRIORS[1]).prior.network
    z = torch.randn(6, requires_grad=True)
    for code, level in itertools.product(range(CODES), range(LEVELS)):
        (gradient,) = torch.autograd.grad(network(z)[code, level], z)
        seen = gradient.view(CODES, LEVELS).abs().sum(1) > 0
        assert seen.tolist() == [other < code for other in range(CODES)]


def test_moments_entropy_and_divergence_are_sums_over_the_levels() -> None:
    p, q = Codes(torch.randn(5, CODES, LEVELS)), Codes(torch.randn(CODES, LEVELS))
    z = values()
    mass = p.log_prob(z).exp()
    torch.testing.assert_close(p.mean, (mass[..., None] * z).sum(0), rtol=0, atol=1e-10)
    variance = (mass[..., None] * z.square()).sum(0) - p.mean.square()
    torch.testing.assert_close(p.variance, variance, rtol=0, atol=1e-10)
    entropy = -(mass * p.log_prob(z)).sum(0)
    torch.testing.assert_close(p.entropy(), entropy, rtol=0, atol=1e-10)
    expected = (mass * (p.log_prob(z) - q.log_prob(z))).sum(0)
    torch.testing.assert_close(kl_divergence(p, q), expected, rtol=0, atol=1e-10)


def test_draws_from_the_noise_of_each_row_follow_the_posterior() -> None:
    """z-test of the means of 20,000 draws, alpha 1e-6."""
    q = Codes(torch.randn(3, CODES, LEVELS))
    z, _ = _told(q, _Noise(np.arange(3).astype(np.uint64)), 20_000)
    assert bool(q.support.check(z).all())
    assert_mean(z, q.mean)


def test_a_row_has_the_same_number_in_any_company() -> None:
    """The same draws: a product of more rows may round otherwise (it does on some processors)."""
    model, x = model_of(), rows(6)
    some = own_evidence(model, x[2:4], 20)[0]
    torch.testing.assert_close(some, own_evidence(model, x, 20)[0][2:4], rtol=0, atol=1e-12)


# --- Enumeration ----------------------------------------------------------------------------------


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("make", PRIORS)
def test_sums_are_those_by_hand(make, gaps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "AT_ONCE", 4 * 4 * sums.ROWS)  # nine values in three chunks
    model, x = model_of(make), rows(40, gaps)  # in two blocks
    found = enumeration(model, x)
    log_joint, log_prior, log_q = tables(model, x)
    evidence, q = log_joint.logsumexp(0), log_q.exp()
    posterior = (log_joint - evidence).exp()
    expected = {
        "log_evidence": evidence,
        "elbo": (q * (log_joint - log_q)).sum(0),
        "rate": (q * (log_q - log_prior)).sum(0),
        "distortion": -(q * (log_joint - log_prior)).sum(0),
        "gap": (q * (log_q - log_joint + evidence)).sum(0),
        "posterior_mean": (posterior[..., None] * values()).sum(0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name), value.detach(), rtol=0, atol=1e-10)
    assert bool((found.gap > 0).all())


def test_of_a_conditioned_model_each_row_is_given_its_own() -> None:
    model = model_of(condition=Split([1], 4, Standardize((1,), 0.5, 0.5)))
    x = rows(6)
    expected = tables(model, x)[0].logsumexp(0).detach()
    torch.testing.assert_close(enumeration(model, x).log_evidence, expected, rtol=0, atol=1e-10)
    flipped = x.clone()
    flipped[:, 1] = 1 - x[:, 1]
    assert not torch.allclose(enumeration(model, flipped).log_evidence, expected)


def test_the_rate_of_independent_codes_is_the_closed_form() -> None:
    model, x = model_of(), rows(5)
    draw = model.draw(x, reparameterize=False)
    found = enumeration(model, x).rate
    torch.testing.assert_close(draw.groups[0].rate.detach(), found, rtol=0, atol=1e-10)


def test_bits_are_enumerated_too() -> None:
    problem = taut.BinaryLatents()
    x = problem.sample(7)
    model = problem.model(posteriors.IndependentBernoulli((6,), 3, taut.Linear))
    found = enumeration(model, x)
    expected = problem.log_evidence(x).detach()
    torch.testing.assert_close(found.log_evidence, expected, rtol=0, atol=1e-10)
    mean = problem.posterior(x).mean.detach()
    torch.testing.assert_close(found.posterior_mean, mean, rtol=0, atol=1e-10)
    assert states_of(taut.StandardNormal(2)()) is None


def test_importance_sampling_agrees_with_the_sums() -> None:
    """z-test of the mean weight of 20 rows, alpha 1e-6."""
    model, x = model_of(PRIORS[1]), rows(20)
    exact = enumeration(model, x)
    with torch.no_grad():
        draw = model.draw(x, 5000, reparameterize=False)
    assert_mean((draw.log_weight - exact.log_evidence).exp(), 1.0)
    assert_mean(draw.elbo, exact.elbo)


def test_every_row_and_the_audit_are_exact_by_enumeration() -> None:
    model, x = model_of(), rows(30)
    exact = enumeration(model, x)
    found = log_evidence(model, x, 20)
    assert set(found.methods) == {"enumeration"}
    torch.testing.assert_close(found.log_evidence, exact.log_evidence, rtol=0, atol=1e-10)
    effort = Effort(20, 2, 3, 2, simulated=3, naive=3, samples=12, task_seconds=0.1)
    audited = audit(model, x, effort=effort)
    assert audited["log_evidence"]["by"]["enumeration"] == 30
    for name, values in {
        "log_evidence": exact.log_evidence,
        "elbo": exact.elbo,
        "rate": exact.rate,
        "inference_gap": exact.gap,
    }.items():
        found_mean = audited["enumeration"][name]
        assert found_mean["value"] == pytest.approx(float(values.mean()), abs=1e-10)
        assert found_mean["mc_error"] < 1e-10
    assert not any("enumeration" in note for note in audited["notes"])


def test_gaps_are_filled_where_the_posterior_is_far_too_sure() -> None:
    """Rows whose weights are uneven are filled from q and the prior. Their probabilities are off by
    0.02, and those within 0.15 of a half are not asked for: seven errors.
    """
    model, x = model_of(), rows(20, gaps=True)
    with torch.no_grad():
        for parameter in model.posterior.encoder.layers[-1].parameters():
            parameter.mul_(30)
    found = taut.impute(model, x, 300, seed=1)
    posterior = (tables(model, x)[0] - enumeration(model, x).log_evidence).exp()
    with torch.no_grad():
        mean = (posterior[..., None] * model.decode(values()).mean).sum(0)
    asked = x.isnan() & ((mean - 0.5).abs() > 0.15)
    assert bool(asked.any())
    assert bool((found.ess > 1).all())
    assert torch.equal(found.values[asked], (mean[asked] > 0.5).double())


def test_what_is_too_much_to_enumerate_is_said_in_a_line() -> None:
    model = model_of(codes=13)  # 3^13 values
    with pytest.raises(ValueError, match=r"z has 1,594,323 values, and at most 1,000,000 are sum"):
        enumeration(model, rows(2))
    effort = Effort(20, 2, 3, 2, simulated=3, naive=3, samples=12, task_seconds=0.1)
    audited = audit(model, rows(12), effort=effort)
    assert audited["enumeration"] is None
    assert any(n.startswith("no enumeration: z has 1,594,323") for n in audited["notes"])
    normal = taut.LinearGaussian()
    with pytest.raises(ValueError, match="not discrete: their values cannot be enumerated"):
        enumeration(normal.model(), normal.sample(2))
    many = states_of(priors.IndependentCategorical(500, 10)())
    assert "about 10^500 values" in too_many(many, 1, 1)
    six = states_of(priors.IndependentCategorical(6, 10)())
    assert "give at most 12 rows" in too_many(six, 100, 784)
    assert too_many(six, 12, 784) == ""
    few = states_of(priors.IndependentCategorical(12, 2)())  # 4,096
    assert too_many(few, 10**9, 784) == ""


# --- Gradients ------------------------------------------------------------------------------------


def gradients(objective: taut.Objective, model: taut.VAE, x: Tensor) -> Tensor:
    """Returns independent estimates of the gradient with respect to all parameters, (100, P)."""
    parameters, found = list(model.parameters()), []
    for _ in range(100):
        surrogate = objective(model, x.expand(300, -1)).surrogate.mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, parameters)]))
    return torch.stack(found)


def exact_gradient(objective: taut.Objective, model: taut.VAE, x: Tensor) -> Tensor:
    """Returns the gradient of the bound in expectation: a sum over all draws of K values of z."""
    log_joint, _, log_q = (table[:, 0] for table in tables(model, x))
    draws, mean = torch.arange(9)[:, None], (log_joint - log_q)[:, None].mean(1)
    if isinstance(objective, taut.VIMCO):
        draws = torch.cartesian_prod(torch.arange(9), torch.arange(9))
        mean = (log_joint - log_q)[draws].logsumexp(1) - math.log(2)
    bound = (log_q[draws].sum(1).exp() * mean).sum()
    found = torch.autograd.grad(bound, list(model.parameters()))
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("make", PRIORS)
@pytest.mark.parametrize(
    "objective", [taut.ScoreFunction(num_samples=2), taut.VIMCO(num_samples=2)], ids=repr
)
def test_the_gradient_is_that_of_the_enumerated_bound(make, objective) -> None:
    """z-test of all parameters together, alpha 1e-6."""
    model, x = model_of(make), rows(1)
    assert_mean(gradients(objective, model, x), exact_gradient(objective, model, x))


@pytest.mark.parametrize("objective", [row[0] for row in RELAXED], ids=repr)
def test_a_relaxed_gradient_fails_the_same_test_and_says_so(objective) -> None:
    model, x = model_of(), rows(1)
    with pytest.raises(AssertionError):
        assert_mean(gradients(objective, model, x), exact_gradient(objective, model, x))
    assert "biased" in objective.caveat
    assert not taut.VIMCO().caveat


def test_the_decoder_of_a_straight_through_gradient_sees_draws_of_q_alone() -> None:
    """Its own gradient, and that of the prior, pass the test; alpha 1e-6."""
    model, x = model_of(), rows(1)
    objective = StraightThrough(num_samples=2)
    sizes = [p.numel() for name, p in model.named_parameters() if "posterior" not in name]
    own = slice(0, sum(sizes))  # prior and likelihood come first
    exact = exact_gradient(objective, model, x)[own]
    assert_mean(gradients(objective, model, x)[:, own], exact)


@pytest.mark.parametrize("objective", [row[0] for row in RELAXED], ids=repr)
@pytest.mark.parametrize("make", PRIORS)
def test_the_value_of_a_relaxation_is_the_bound_of_draws_of_q(make, objective) -> None:
    """z-test, alpha 1e-6."""
    model, x = model_of(make), rows(1)
    with torch.no_grad():
        value = objective(model, x.expand(20_000, -1)).value
    assert_mean(value, enumeration(model, x).elbo)


def test_the_colder_the_point_the_nearer_it_is_to_the_draw() -> None:
    z, cold = Codes(torch.randn(5, CODES, LEVELS)).relaxed((100,), 1e-4)
    assert float((z - cold).abs().mean()) < 1e-3
    _, hot = Codes(torch.randn(5, CODES, LEVELS)).relaxed((100,), 1e4)
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / LEVELS), rtol=0, atol=0.01)


def test_the_table_of_gradients_has_the_relaxation() -> None:
    found = taut.gradients(model_of(), rows(5), num_samples=2, repeats=2)
    row = {row["name"]: row for row in found["estimators"]}["straight-through (biased)"]
    assert row["reference"] == "score function, leave-one-out"
    assert row["encoder"]["bias"] is not None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StraightThrough(temperature=0.0), "temperature must be a positive number"),
        (
            lambda: StraightThrough()(taut.LinearGaussian().model(), torch.zeros(2, 5)),
            "needs a posterior with a relaxation",
        ),
    ],
)
def test_what_cannot_be_relaxed_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# --- Runs -----------------------------------------------------------------------------------------

NET = "MLP(hidden=(8,))"
TINY = {"encoder": NET, "decoder": NET, "max_epochs": 2, "batch_size": 16, "num_samples": 10}
DISCRETE = {"posterior": "Categorical(codes=2, levels=3)", "objective": "VIMCO(num_samples=4)"}


def bits(n: int = 60) -> np.ndarray:
    return (np.random.default_rng(0).random((n, 4)) < 0.5).astype(np.uint8)


@pytest.fixture
def _single_precision() -> None:
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_single_precision")
@pytest.mark.parametrize("prior", [None, "AutoregressiveCategorical(hidden=(5,))"])
def test_a_run_is_saved_and_loaded(tmp_path, prior: str | None) -> None:
    settings = TINY | DISCRETE | ({"prior": prior} if prior else {})
    run = taut.fit(bits(), tmp_path / "run", **settings)
    model = run.config.model
    assert model.latent_dim == 6
    assert model.prior == (prior or "IndependentCategorical()")
    x = torch.from_numpy(bits(9)).float()
    again = taut.load(tmp_path / "run")
    old = enumeration(run.model, x).log_evidence
    assert torch.equal(enumeration(again.model, x).log_evidence, old)
    assert run.evaluation()["by"] == {"enumeration": run.evaluation()["num_data"]}
    codes = again.encode(bits(9))
    np.testing.assert_allclose(np.asarray(codes).reshape(9, 2, 3).sum(-1), 1, atol=1e-6)


def check_resumed(x: np.ndarray, config: Config, folder: Path) -> None:
    """Checks that a training that is stopped after its first record ends in the same bits."""
    ends = []
    for stop in (None, 1):
        run, data, state = start(x, folder / str(stop), config)
        for _ in itertools.islice(train_run(run, data, state), stop):
            pass
        if stop:
            run, data, state = resume(folder / str(stop), source=x)
            assert 0 < state.step < state.total_steps
            for _ in train_run(run, data, state):
                pass
        ends.append(run.model.state_dict())
    whole, resumed = ends
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.usefixtures("_single_precision")
def test_a_resumed_run_ends_in_the_same_bits(tmp_path) -> None:
    model = {"encoder": NET, "decoder": NET, "prior": "AutoregressiveCategorical(hidden=(5,))"}
    training = {"max_epochs": 10, "batch_size": 4, "checkpoint_seconds": 0}
    training |= {"objective": DISCRETE["objective"], "patience": 5}
    model |= {"posterior": DISCRETE["posterior"]}
    config = Config.from_dict({"model": model, "training": training})
    check_resumed(bits(), config, tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"latent_dim": 5}, r"has 6 latent dimensions, and latent_dim is 5: omit"),
        ({"prior": "StandardNormal()"}, "over different spaces"),
        ({"prior": "IndependentBernoulli()"}, "over different spaces"),
        ({"prior": "IndependentCategorical(codes=3)"}, "the same codes and levels"),
        (
            {"posterior": None, "prior": "IndependentCategorical()"},
            r"IndependentCategorical and the posterior DiagonalNormal\(\) are over different",
        ),
        (
            {"posterior": None, "prior": "AutoregressiveCategorical(codes=2, levels=2)"},
            "over different spaces",
        ),
        ({"posterior": "Categorical(codes=0)"}, "codes must be a whole number of at least 1"),
        ({"posterior": "Categorical(levels=1)"}, "levels must be a whole number of at least 2"),
        ({"prior": "AutoregressiveCategorical(hidden=(0,))"}, "hidden must list the widths"),
        ({"objective": "ELBO()"}, "Categorical cannot be reparameterized: train it with"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(tmp_path, settings, words: str) -> None:
    given = {k: v for k, v in (TINY | DISCRETE | settings).items() if v is not None}
    with pytest.raises(UsageError, match=words) as refused:
        taut.fit(bits(), tmp_path / "run", **given)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_latent_dimensions_of_the_posterior_alone_are_checked() -> None:
    assert posteriors.Categorical((4,), codes=2, levels=3)(rows(2)).event_shape == (6,)
    with pytest.raises(ValueError, match="2 codes of levels 3 have 6 latent dimensions, not 5"):
        posteriors.Categorical((4,), 5, codes=2, levels=3)
    assert math.isclose(float(Codes(torch.zeros(1, 4)).entropy()), math.log(4))
