"""Cost and noise of gradient estimators, against closed forms, by hand and by repetition."""

from __future__ import annotations

import importlib
import json
import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from ztest import ALPHA, assert_mean, limit

import taut
from taut import posteriors
from taut.distributions.correlated import CorrelatedNormal
from taut.evidence.gradients import _bias, _Moments, gradients
from taut.networks import inverse_softplus
from taut.system.seeds import generator, stream

ELBO_FAMILY = [
    "reparameterization",
    "reparameterization, analytic KL",
    "sticking the landing",
    "score function, leave-one-out",
    "score function, no baseline",
]
L_K_FAMILY = ["IWAE", "DReG", "VIMCO"]
GROUPS = ("encoder", "decoder")
NO_KL = "the KL of these distributions has no closed form"


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    json.dumps(found, allow_nan=False)
    by_name = {row["name"]: row for row in found["estimators"]}
    assert list(by_name) == ELBO_FAMILY + L_K_FAMILY
    return by_name


def measured(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: row for name, row in rows(found).items() if "reason" not in row}


def p_values(found: dict[str, Any]) -> dict[tuple[str, str], float]:
    table = measured(found)
    return {
        (n, g): row[g]["bias"]["p_value"]
        for n, row in table.items()
        for g in GROUPS
        if row[g] and row[g]["bias"]
    }


def wrong(problem: taut.LinearGaussian, dim_x: int = 5) -> taut.VAE:
    return problem.model(taut.DiagonalNormal((dim_x,), problem.prior.bias.numel(), taut.Linear))


# --- Closed forms ---------------------------------------------------------------------------------

MU = 2.0


class Blind(Normal):
    """A density whose gradient is not looked at."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value).detach()


class SquarePosterior(taut.Posterior):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.full((n, 1), MU))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        return Independent(Normal(self.mu, 1.0), 1)


class SquarePrior(taut.Prior):
    def forward(self, context: Tensor | None = None) -> Distribution:
        return Independent(Blind(torch.full((1,), MU), 1.0), 1)


class SquareLikelihood(taut.Likelihood):
    def forward(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        class Squared(Distribution):
            arg_constraints = {}  # noqa: RUF012

            def log_prob(self, value: Tensor) -> Tensor:
                return z.square().squeeze(-1)

        return Squared(z.shape[:-1], torch.Size((1,)), validate_args=False)


@pytest.mark.parametrize("k", [1, 2])
def test_variance_signal_and_bound_of_a_square(k: int) -> None:
    """log w = z^2 with z ~ N(mu, 1), one mu for each of n data: d/dmu E[z^2] = 2 mu, with known
    variances.

    One sample has variance 4 by reparameterization, and 9 with the path of log q, mu^4 + 14 mu^2 +
    15 = 87 by the score function, and of two samples that are each other's baseline 8 mu^2 + 6.
    Each error has 149 degrees of freedom, so that the false-alarm rate is five times that of the
    normal limit.
    """
    n, repeats = 400, 150
    model = taut.VAE(SquarePrior(), SquareLikelihood(), SquarePosterior(n))
    found = gradients(model, torch.zeros(n, 1), num_samples=k, repeats=repeats)
    assert found["parameters"] == {"encoder": n, "decoder": 0}
    table = rows(found)
    variances = dict(
        zip(ELBO_FAMILY, (4.0 / k, 4.0 / k, 9.0 / k, 8 * MU**2 + 6, 87.0 / k), strict=True)
    )
    if k == 1:
        variances |= {"IWAE": 4.0, "DReG": 9.0}
        assert table["score function, leave-one-out"]["reason"] == "needs num_samples of at least 2"
        assert table["VIMCO"]["reason"] == "needs num_samples of at least 2"
        del variances["score function, leave-one-out"]
    for name, variance in variances.items():
        assert table[name]["decoder"] is None
        row = table[name]["encoder"]
        for key, expected in (
            ("variance", variance / n),
            ("relative_variance", variance * k / 4),
            ("signal_to_noise", 2 * MU / math.sqrt(variance)),
        ):
            value, error = row[key]["value"], row[key]["mc_error"]
            assert error < 0.1 * expected
            assert abs(value - expected) <= limit(40) * error, (name, key, value, expected, error)
        bound = table[name]["bound"]
        scatter = math.sqrt((4 * MU**2 + 2) / (k * repeats * n))
        assert abs(bound["value"] - (MU**2 + 1)) < limit(40) * scatter
        assert bound["mc_error"] == pytest.approx(scatter, rel=0.1)
    assert table["reparameterization"]["encoder"]["relative_variance"] == {
        "value": 1.0,
        "mc_error": 0.0,
        "test_error": None,
    }


def exact_model() -> tuple[taut.LinearGaussian, taut.VAE]:
    """A posterior network with full covariance, set to the closed form."""
    problem = taut.LinearGaussian()
    q = taut.FullCovarianceNormal((5,), 2, taut.Linear, min_scale=1e-30)  # no floor
    w, sigma = problem.likelihood.weight, problem.likelihood.scale
    with torch.no_grad():
        covariance = torch.linalg.inv(torch.eye(2) + w.T @ w / sigma**2)
        tril = torch.linalg.cholesky(covariance)
        map_ = covariance @ w.T / sigma**2
        q.encoder.map.weight.zero_()
        q.encoder.map.weight[:2] = map_
        q.encoder.map.bias[:2] = -map_ @ problem.likelihood.bias
        for i in range(2):
            q.encoder.map.bias[2 + i] = inverse_softplus(tril[i, i].item()) - inverse_softplus(1.0)
        q.encoder.map.bias[4] = tril[1, 0]
    return problem, problem.model(q)


def test_sticking_the_landing_and_dreg_have_no_encoder_noise_at_the_exact_posterior(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # a factor that is bounded is off by a share of 1e-9
    monkeypatch.setattr(posteriors.gaussian, "STEEP", 1e150)
    problem, model = exact_model()
    x = problem.sample(6)
    table = rows(gradients(model, x, num_samples=4, repeats=20))
    evidence = problem.log_evidence(x).mean().item()
    assert table.pop("reparameterization, analytic KL")["reason"] == NO_KL
    for row in table.values():
        assert row["bound"]["value"] == pytest.approx(evidence, abs=1e-10)
        assert row["bound"]["mc_error"] < 1e-12
    for name, reference in (("sticking the landing", "reparameterization"), ("DReG", "IWAE")):
        assert table[name]["reference"] == reference
        assert table[name]["encoder"]["variance"]["value"] < 1e-24
        assert table[name]["encoder"]["relative_variance"]["value"] < 1e-22
        assert table[name]["encoder"]["work"]["value"] < 1e-20
        assert table[reference]["encoder"]["variance"]["value"] > 1e-3
        assert table[name]["decoder"]["variance"]["value"] > 1e-3
    # The encoder is at its optimum: there is no signal, and none is claimed.
    assert table["reparameterization"]["encoder"]["signal_to_noise"]["value"] is None
    assert 0 < table["reparameterization"]["encoder"]["signal_to_noise"]["mc_error"] < 1


def test_bound_is_that_of_the_context() -> None:
    problem = taut.LinearGaussian(context_dim=3)
    context = torch.randn(4, 3)
    x = problem.sample(4, context)
    table = measured(gradients(problem.model(), x, num_samples=2, repeats=2, context=context))
    assert len(table) == 7
    for row in table.values():
        assert row["encoder"] is None  # the exact posterior has no parameters of its own
        assert row["bound"]["value"] == pytest.approx(
            problem.log_evidence(x, context).mean().item(), abs=1e-10
        )


# --- By hand --------------------------------------------------------------------------------------


def test_every_number_by_hand_from_the_same_draws() -> None:
    """The running sums equal the plain formulas on the matrix of all gradients.

    Repeat 0 of each stream is thrown away.
    """
    problem = taut.LinearGaussian()
    model, x, r = wrong(problem), problem.sample(4) + 3, 12
    table = rows(gradients(model, x, num_samples=3, repeats=r, seed=7))
    parts = {
        "encoder": list(model.posterior.parameters()),
        "decoder": [model.likelihood.weight, model.likelihood.bias],
    }
    parts["decoder"] += list(model.prior.parameters())

    def by_hand(name: str, objective: taut.Objective) -> tuple[dict[str, Tensor], Tensor]:
        found: dict[str, list[Tensor]] = {g: [] for g in GROUPS}
        values = []
        for number in range(1, r + 1):
            with stream(7, f"gradients, {name}", number):
                bound = objective(model, x)
            values.append(bound.value)
            for g in GROUPS:
                g_ = torch.autograd.grad(bound.surrogate.mean(), parts[g], retain_graph=True)
                found[g].append(torch.cat([t.flatten() for t in g_]))
        return {g: torch.stack(f) for g, f in found.items()}, torch.stack(values)

    matrices = {}
    for name, objective in (
        ("reparameterization", taut.ELBO(num_samples=3, analytic_kl=False)),
        ("score function, leave-one-out", taut.ScoreFunction(num_samples=3)),
    ):
        matrices[name], values = by_hand(name, objective)
        assert table[name]["objective"] == repr(objective)
        bound = table[name]["bound"]
        assert bound["value"] == pytest.approx(values.mean().item(), rel=1e-10)
        assert bound["mc_error"] == pytest.approx(
            math.sqrt(values.var(0).sum().item() / r) / 4, rel=1e-10
        )
        assert bound["test_error"] == pytest.approx(values.mean(0).std().item() / 2, rel=1e-10)
        for g in GROUPS:
            m, row = matrices[name][g], table[name][g]
            steps = torch.stack([m[i] - m[:i].mean(0) for i in range(1, r)])
            share = torch.arange(1, r) / torch.arange(2.0, r + 1)
            t = share * steps.square().sum(1)
            variance, variance_error = m.var(0).sum().item(), (t.std() / math.sqrt(r - 1)).item()
            assert row["variance"]["value"] == pytest.approx(variance, rel=1e-10)
            assert row["variance"]["mc_error"] == pytest.approx(variance_error, rel=1e-10)
            gram = m @ m.T
            signal = ((gram.sum() - gram.trace()) / (r * (r - 1))).item()
            slopes = torch.stack(
                [share[i - 1] * (steps[i - 1] @ m[: i + 1].mean(0)) ** 2 for i in range(1, r)]
            )
            error = math.sqrt(
                4 / r * (slopes * torch.arange(2, r + 1)).sum().item() / sum(range(2, r + 1))
            )
            found = row["signal_to_noise"]
            if signal < 2 * error:
                assert found["value"] is None
                assert found["mc_error"] == pytest.approx(math.sqrt(error / variance), rel=1e-10)
            else:
                ratio = math.sqrt(signal / variance)
                assert found["value"] == pytest.approx(ratio, rel=1e-10)
                relative = math.hypot(error / signal, variance_error / variance) / 2
                assert found["mc_error"] == pytest.approx(ratio * relative, rel=1e-8)
    for g in GROUPS:
        a, b = matrices["score function, leave-one-out"][g], matrices["reparameterization"][g]
        signs = (
            2 * torch.randint(2, (a.shape[1],), generator=generator(7, f"gradients, {g}")).double()
            - 1
        )
        # 16 runs of the parameters, the first ones longer by one where they cannot be equal
        runs = torch.arange(a.shape[1]).tensor_split(16)
        a, b = (torch.stack([(signs * m)[:, run].sum(1) for run in runs], 1) for m in (a, b))
        t = (a.mean(0) - b.mean(0)) / (a.var(0) / r + b.var(0) / r).sqrt()
        t = t[t.abs().argmax()].item()
        z = math.copysign((8 * 11 + 1) / (8 * 11 + 3) * math.sqrt(11 * math.log1p(t**2 / 11)), t)
        bias = table["score function, leave-one-out"][g]["bias"]
        assert bias["comparisons"] == 16
        assert bias["z"] == pytest.approx(z, rel=1e-6)
        assert bias["p_value"] == pytest.approx(
            min(1.0, 16 * math.erfc(abs(z) / math.sqrt(2))), rel=1e-5
        )
        assert table["reparameterization"][g]["bias"] is None
        reference, row = (
            table["reparameterization"][g]["variance"],
            table["score function, leave-one-out"][g],
        )
        ratio = row["variance"]["value"] / reference["value"]
        relative = math.hypot(
            row["variance"]["mc_error"] / row["variance"]["value"],
            reference["mc_error"] / reference["value"],
        )
        assert row["relative_variance"]["value"] == pytest.approx(ratio, rel=1e-10)
        assert row["relative_variance"]["mc_error"] == pytest.approx(ratio * relative, rel=1e-10)


def test_p_value_is_that_of_students_t() -> None:
    """Wallace's approximation against scipy: to 2 per cent in the tail, for 40 and 20 repeats."""
    from scipy import stats

    a, b = _Moments(torch.ones(1)), _Moments(torch.ones(1))
    for moments, shift, n in ((a, 0.6, 40), (b, 0.0, 20)):
        for value in torch.linspace(-1, 1, n):
            moments.add(value[None] + shift)
    x, y = torch.linspace(-1, 1, 40), torch.linspace(-1, 1, 20)
    t = 0.6 / math.sqrt(x.var() / 40 + y.var() / 20)
    found = _bias(a, b, 0.0)
    assert found["comparisons"] == 1
    assert found["z"] > 0
    assert found["p_value"] == pytest.approx(2 * stats.t.sf(t, 19), rel=0.02)


# --- Errors, by repetition ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Gaussian", "skewed", "no signal"])
def test_errors_are_those_of_repetition(kind: str) -> None:
    """Over 400 runs.

    V and U are unbiased, and their squared errors are in the mean what they are said to be.
    """
    runs, r, p = 400, 60, 3
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [0.0, 1.0, 0.5]])
    mu = torch.tensor([1.0, -2.0, 3.0]) if kind != "no signal" else torch.zeros(p)
    noise = (
        torch.empty(runs, r, p).exponential_() - 1 if kind == "skewed" else torch.randn(runs, r, p)
    )
    samples = mu + noise @ mix.T
    moments = [_Moments(torch.ones(p)) for _ in range(runs)]
    for run, gradients_ in zip(moments, samples, strict=True):
        for gradient in gradients_:
            run.add(gradient)
    v, v_error = torch.tensor([m.variance for m in moments]).unbind(1)
    u, u_error = torch.tensor([m.signal for m in moments]).unbind(1)
    sigma = mix @ mix.T
    total, slope, square = sigma.trace(), mu @ sigma @ mu, (sigma @ sigma).trace()
    # the fourth, of an exponential
    cumulant = 6 * (mix.T @ mix).diagonal().square().sum() if kind == "skewed" else 0
    assert_mean(v, total)
    assert_mean(u, mu @ mu)
    assert_mean((v - total).square(), cumulant / r + 2 * square / (r - 1))
    assert_mean((u - mu @ mu).square(), 4 * slope / r + 2 * square / (r * (r - 1)))
    # a share of order log R / R, here 0.07, is owned to, and twice that is allowed
    if kind == "skewed":
        expected, squared = cumulant / r + 2 * square / (r - 1), v_error.square()
        scatter = squared.std() / math.sqrt(runs)
        assert abs(squared.mean() - expected) < limit(1) * scatter + 2 * math.log(r) / r * expected
    else:
        assert_mean(v_error.square(), 2 * square / (r - 1))
        assert_mean(u_error.square(), 4 * slope / r + 8 * square / (r * (r + 2)))


# --- Bias -----------------------------------------------------------------------------------------


def test_unbiased_estimators_agree() -> None:
    """All with wrong posteriors, one run with more noise than another.

    False-alarm rate ALPHA over both problems.
    """
    problem = taut.LinearGaussian()
    found = p_values(gradients(wrong(problem), problem.sample(10), num_samples=4, repeats=100))
    assert len(found) == 12
    bits = taut.BinaryLatents()
    model = bits.model(posteriors.IndependentBernoulli((6,), 3, taut.Linear))
    discrete = p_values(gradients(model, bits.sample(10), num_samples=4, repeats=100))
    assert len(discrete) == 2
    assert min([*found.values(), *discrete.values()]) > ALPHA / 14


@pytest.mark.parametrize("planted", ["scaled", "one parameter", "sticking the landing in L_K"])
def test_a_planted_bias_is_found_where_it_is(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At false-alarm rate ALPHA.

    A tenth too much, a unit of one parameter, and that of dropping the score in L_K.
    """
    problem = taut.LinearGaussian(scale=1.5)
    model, x = wrong(problem), problem.sample(400) + 2
    plain = taut.DReG.__call__

    def biased(self: taut.DReG, model: taut.VAE, x: Tensor, *rest: Any) -> taut.Bound:
        if planted == "sticking the landing in L_K":
            bound = (
                model.draw(x, self.num_samples, stop_posterior=True).log_weight.logsumexp(0)
            ) - math.log(self.num_samples)
            return taut.Bound(bound.detach(), bound)
        value, surrogate, _ = plain(self, model, x, *rest)
        if planted == "scaled":
            return taut.Bound(value, 1.1 * surrogate)
        return taut.Bound(value, surrogate + model.likelihood.bias[0])

    monkeypatch.setattr(taut.DReG, "__call__", biased)
    found = p_values(gradients(model, x, num_samples=4, repeats=100))
    wrong_ones = {key for key, p in found.items() if p < ALPHA / 12}
    where = {
        "scaled": GROUPS,
        "one parameter": ("decoder",),
        "sticking the landing in L_K": ("encoder",),
    }[planted]
    assert wrong_ones == {("DReG", g) for g in where}


def test_rounding_is_no_bias() -> None:
    """A decoder that does not look at z.

    Its gradient is the same in every repeat, and of every estimator to rounding.
    """

    class Constant(taut.Likelihood):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.randn(5))

        def forward(self, z: Tensor, context: Tensor | None = None) -> Distribution:
            return Independent(Normal(self.loc.expand(*z.shape[:-1], 5), 0.3), 1)

    model = taut.VAE(taut.StandardNormal(2), Constant(), taut.DiagonalNormal((5,), 2, taut.Linear))
    table = rows(gradients(model, torch.randn(7, 5), num_samples=8, repeats=10))
    for name, row in table.items():
        assert row["decoder"]["variance"]["value"] < 1e-24
        if row["reference"] != name:
            assert abs(row["decoder"]["bias"]["z"]) < 1


# --- What is measured, and what is refused --------------------------------------------------------


def test_discrete_latents_have_the_score_function_and_vimco_alone() -> None:
    problem = taut.BinaryLatents()
    model = problem.model(posteriors.IndependentBernoulli((6,), 3, taut.Linear))
    found = gradients(model, problem.sample(5), num_samples=3, repeats=4)
    assert (found["num_samples"], found["repeats"], found["num_data"]) == (3, 4, 5)
    assert found["parameters"] == {"encoder": 21, "decoder": 6 * 3 + 6 + 3}
    table = rows(found)
    references = {name: row["reference"] for name, row in table.items() if "reason" not in row}
    assert references == {
        "score function, leave-one-out": "score function, leave-one-out",
        "score function, no baseline": "score function, leave-one-out",
        "VIMCO": "VIMCO",
    }
    for name, row in table.items():
        if name not in references:
            assert row["reason"] == "needs a posterior that can be reparameterized"


def test_a_kl_without_a_closed_form_is_not_measured_as_if_it_had_one() -> None:
    class Shifted(taut.Posterior):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
            base = Normal(x[:, :2] + self.shift, 0.5)
            moved = torch.distributions.AffineTransform(1.0, 2.0)
            return Independent(torch.distributions.TransformedDistribution(base, [moved]), 1)

    problem = taut.LinearGaussian()
    table = rows(gradients(problem.model(Shifted()), problem.sample(3), num_samples=2, repeats=2))
    assert {n: r["reason"] for n, r in table.items() if "reason" in r} == {
        "reparameterization, analytic KL": NO_KL
    }


def test_frozen_parameters_are_left_out() -> None:
    problem = taut.LinearGaussian()
    model, x = wrong(problem), problem.sample(3)
    everything = rows(gradients(model, x, num_samples=2, repeats=3))
    model.likelihood.requires_grad_(False)
    found = gradients(model, x, num_samples=2, repeats=3)
    assert found["parameters"] == {"encoder": 24, "decoder": 2}
    for name, row in rows(found).items():
        assert row["encoder"]["variance"] == everything[name]["encoder"]["variance"]
        assert (
            row["decoder"]["variance"]["value"] < everything[name]["decoder"]["variance"]["value"]
        )
    model.prior.requires_grad_(False)
    assert all(
        row["decoder"] is None
        for row in rows(gradients(model, x, num_samples=2, repeats=2)).values()
    )
    with pytest.raises(ValueError, match="no parameter"):
        gradients(model.requires_grad_(False), x)


def test_a_gradient_that_is_not_finite_is_said_and_not_averaged() -> None:
    problem = taut.LinearGaussian()
    model = taut.VAE(
        taut.StandardNormal(2), taut.Normal((5,), 2), taut.DiagonalNormal((5,), 2, taut.Linear)
    )
    with torch.no_grad():
        model.posterior.encoder.map.bias[-1] = torch.nan
    table = rows(gradients(model, problem.sample(3), num_samples=2, repeats=2))
    assert {row["reason"] for row in table.values()} == {"a gradient was not finite"}


def test_refuses() -> None:
    problem = taut.LinearGaussian()
    x = problem.sample(3)
    for settings, n, words in (
        ({"repeats": 1}, 3, "8, 1 and 3"),
        ({}, 0, "8, 200 and 0"),
        ({"num_samples": 0}, 3, "0, 200 and 3"),
    ):
        with pytest.raises(ValueError, match=f"not {words}"):
            gradients(wrong(problem), x[:n], **settings)


@pytest.mark.parametrize(
    ("asked", "done"), [(0, {}), (8 * 3 + 2, dict.fromkeys(ELBO_FAMILY[:2], 3)), (8 * 3, {})]
)
def test_stopping_keeps_what_is_done(asked: int, done: dict[str, int]) -> None:
    """Eight estimators take turns, the first turn is not counted, and all but those in ``done``
    have had two others.
    """
    problem = taut.LinearGaussian()
    calls = iter(range(asked))
    table = rows(
        gradients(
            wrong(problem),
            problem.sample(3),
            num_samples=2,
            repeats=9,
            stop=lambda: next(calls, None) is None,
        )
    )
    for name, row in table.items():
        if asked:
            assert row["repeats"] == done.get(name, 2)
        else:
            assert row["reason"] == "stopped"


def test_cost_is_the_time_of_one_gradient_and_work_its_product_with_the_variance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a clock that only the encoder moves, by one second: STL and DReG evaluate it twice.

    Their first time is not counted.
    """
    now = [0.0]
    slow: set[int] = set()

    class Slow(taut.DiagonalNormal):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
            # ten evaluations of the first turn, and one to see what it is
            now[0] += 1.0 if len(slow) > 10 else 1000.0
            slow.add(len(slow))
            return super().forward(x, context)

    monkeypatch.setattr(time, "process_time", lambda: now[0])
    problem = taut.LinearGaussian()
    table = rows(
        gradients(
            problem.model(Slow((5,), 2, taut.Linear)), problem.sample(3), num_samples=2, repeats=5
        )
    )
    for name, row in table.items():
        cost = 2.0 if name in ("sticking the landing", "DReG") else 1.0
        assert row["seconds"] == {"value": cost, "mc_error": 0.0, "test_error": None}
        for g in GROUPS:
            noise, work = row[g]["relative_variance"], row[g]["work"]
            assert work["value"] == pytest.approx(cost * noise["value"], rel=1e-12)
            assert work["mc_error"] == pytest.approx(cost * noise["mc_error"], rel=1e-12)


def test_evaluation_mode_gradients_and_randomness_are_given_back() -> None:
    """Dropout in training mode would change every number.

    The model's own gradients and the caller's stream stay as they are.
    """
    problem = taut.LinearGaussian()
    dropping = taut.DiagonalNormal(
        (5,), 2, lambda *shapes: taut.MLP(*shapes, hidden=(4,), dropout=0.9)
    )
    plain = taut.DiagonalNormal((5,), 2, lambda *shapes: taut.MLP(*shapes, hidden=(4,)))
    model, x = problem.model(dropping), problem.sample(3)
    names = ["layers.0", "layers.3"], ["layers.0", "layers.2"]
    for a, b in zip(*names, strict=True):
        plain.encoder.get_submodule(b).load_state_dict(
            dropping.encoder.get_submodule(a).state_dict()
        )
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    model.train()
    with torch.no_grad():
        a = rows(gradients(model, x, num_samples=2, repeats=3))
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for seed, same in ((0, True), (1, False)):
        b = rows(gradients(problem.model(plain), x, num_samples=2, repeats=3, seed=seed))
        for name in a:
            for g in GROUPS:
                keys = ("variance", "relative_variance", "signal_to_noise", "bias")
                if name not in ("reparameterization", "IWAE") or same:
                    assert ([a[name][g][k] for k in keys] == [b[name][g][k] for k in keys]) == same


# --- The density of own samples -------------------------------------------------------------------


def _correlated(dtype: torch.dtype) -> CorrelatedNormal:
    """Returns a Gaussian whose noise a sample does not tell: each row multiplies the last one's."""
    lower = 1e-3 * torch.eye(8, dtype=dtype) + 3.0 * torch.eye(8, dtype=dtype).roll(1, 0).tril(-1)
    lower[0, 0] = 3.0
    return CorrelatedNormal(torch.full((8,), 5.0, dtype=dtype), scale_tril=lower)


def test_the_density_of_own_samples_is_that_of_their_noise() -> None:
    torch.set_default_dtype(torch.float64)
    noise = generator(0, "lower")
    lower = torch.randn(3, 4, 4, generator=noise).tril()
    lower.diagonal(dim1=-2, dim2=-1).abs_().add_(0.3)
    lower.requires_grad_()
    loc = torch.randn(3, 4, generator=noise, requires_grad=True)
    q = CorrelatedNormal(loc, scale_tril=lower, validate_args=False)
    z, value = q.rsample_and_log_prob(torch.Size((5,)))
    assert torch.allclose(value, q.log_prob(z), rtol=0, atol=1e-10)
    of_noise, of_solve = (
        torch.autograd.grad(found.sum(), [lower], retain_graph=True)[0].tril()
        for found in (value, q.log_prob(z))
    )
    assert torch.allclose(of_noise, of_solve, rtol=0, atol=1e-10)
    fixed = CorrelatedNormal(loc.detach(), scale_tril=lower.detach(), validate_args=False)
    at = z.detach().requires_grad_()
    known = fixed.log_prob_at(at, q.noise.detach())
    assert torch.allclose(known, fixed.log_prob(at), rtol=0, atol=1e-10)
    ours, plain = (torch.autograd.grad(f.sum(), at)[0] for f in (known, fixed.log_prob(at)))
    assert torch.allclose(ours, plain, rtol=0, atol=1e-10)


def test_rounding_of_own_samples_does_not_make_their_density() -> None:
    """In float32 solving for the noise again gave a bound of 1e11 nats on real data."""
    q = _correlated(torch.float32)
    z, value = q.rsample_and_log_prob(torch.Size((100,)))
    exact = _correlated(torch.float64)._log_prob_of(q.noise.double())
    assert float((value - exact).abs().max()) < 1e-4
    assert float(q.log_prob(z).min()) < -1e6  # what is wrong is the solution


@pytest.mark.parametrize("objective", [taut.ELBO(), taut.DReG(num_samples=3)])
def test_an_objective_takes_the_density_of_own_samples_by_their_noise(objective: Any) -> None:
    model = wrong(taut.LinearGaussian())
    model.posterior = posteriors.FullCovarianceNormal((5,), 2, taut.Linear)
    q = model.posterior(torch.zeros(1, 5))
    assert isinstance(q, CorrelatedNormal)
    calls = []

    def recorded(self: CorrelatedNormal, z: Tensor) -> Tensor:
        calls.append(z)
        return MultivariateNormal.log_prob(self, z)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CorrelatedNormal, "log_prob", recorded)
        objective(model, torch.zeros(4, 5))
    assert calls == []


def test_evidence_takes_the_density_of_own_samples_and_says_where_others_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Solved for, it is wrong by 1e6 nats here, and so would the evidence be."""

    class Fixed(posteriors.FullCovarianceNormal):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
            q = _correlated(torch.float32)
            return CorrelatedNormal(q.loc.expand(len(x), -1), scale_tril=q.scale_tril)

    torch.set_default_dtype(torch.float32)
    model = wrong(taut.LinearGaussian(dim_x=5, dim_z=8))
    model.posterior = Fixed((5,), 8, taut.Linear)
    module = importlib.import_module("taut.evidence.importance")
    sound, told = module._sound, list[Tensor]()

    def recorded(*given: Any) -> Tensor:
        told.append(sound(*given))
        return told[-1]

    monkeypatch.setattr(module, "_sound", recorded)
    found = taut.importance(model, torch.zeros(2, 5), 50)
    assert float(found.elbo.max()) < 0
    assert not torch.cat(told).any()
    assert not found.reliable.any()


FAMILIES = [
    posteriors.DiagonalNormal,
    posteriors.FullCovarianceNormal,
    posteriors.CouplingFlow,
    posteriors.InverseAutoregressive,
]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_function_of_a_sample_is_that_of_z_held_fixed(family: Any) -> None:
    """That of a flow was followed along the path of the sample: ScoreFunction() and VIMCO() of one
    had another gradient than their bound.
    """
    torch.set_default_dtype(torch.float64)
    model = wrong(taut.LinearGaussian(dim_x=5, dim_z=3))
    with stream(0, "family"):
        model.posterior = family((5,), 3, taut.Linear)
        for parameter in model.posterior.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        x, weight = torch.randn(4, 5), torch.randn(6, 4)
    draw = model.draw(x, 6, reparameterize=False)
    again = model.posterior(x).log_prob(draw.z)
    assert torch.allclose(draw.log_posterior, again, rtol=0, atol=1e-10)
    learned = list(model.posterior.parameters())
    ours, plain = (
        torch.autograd.grad((weight * found).sum(), learned, materialize_grads=True)
        for found in (draw.log_posterior, again)
    )
    for one, other in zip(ours, plain, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)
