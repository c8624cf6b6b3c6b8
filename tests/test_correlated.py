"""Gaussians whose noise float32 cannot solve for: what is said of their samples, by the noise."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from torch.nn import functional

import taut
from taut.distributions.correlated import CorrelatedNormal, told
from taut.evidence.cells import _mirrored, _Mixture, cell_scores, impute
from taut.evidence.importance import Defensive
from taut.evidence.own import own_evidence
from taut.evidence.rows import log_evidence
from taut.system.seeds import generator

D = 8


@pytest.fixture(autouse=True)
def _float32(_seeded: None) -> Iterator[None]:
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


def chained(dtype: torch.dtype, wide: float = 1.0, rows: int = 2) -> CorrelatedNormal:
    """Returns Gaussians each of whose dimensions multiplies the last one's."""
    lower = 0.1 * torch.eye(D, dtype=dtype) + 3.0 * torch.eye(D, dtype=dtype).roll(1, 0).tril(-1)
    lower[0, 0] = 3.0
    loc = torch.full((rows, D), 5.0, dtype=dtype)
    return CorrelatedNormal(loc, scale_tril=(wide * lower).expand(rows, D, D))


def exact(mixture: str, z: Tensor) -> Tensor:
    """Returns the log-density of the mixtures below at any z, in float64."""
    narrow, wide = (
        torch.distributions.MultivariateNormal(q.loc.double(), scale_tril=q.scale_tril.double())
        for q in (chained(torch.float32), chained(torch.float32, 3.0))
    )
    one, other = narrow.log_prob(z), wide.log_prob(z)
    if mixture == "mirrored":
        return one
    even = torch.logaddexp(one, other) - math.log(2)
    if mixture == "even":
        return even
    prior = Independent(Normal(torch.zeros(D).double(), torch.ones(D).double()), 1).log_prob(z)
    return torch.logaddexp(even + math.log(0.8), prior + math.log(0.2))


@pytest.mark.parametrize("mixture", ["mirrored", "even", "defensive"])
def test_the_density_of_a_mixtures_own_samples_is_right(mixture: str) -> None:
    """At a sample that is rounded to float32 it is off by millions of nats."""
    one, other = chained(torch.float32), chained(torch.float32, 3.0)
    made: Distribution = _mirrored(one) if mixture == "mirrored" else _Mixture([one, other])
    if mixture == "defensive":
        prior = Independent(Normal(torch.zeros(D), torch.ones(D)), 1)
        made = Defensive(made, prior, 0.2)
    z, log_p = told(made, 201)
    assert z.shape == (201, 2, D)
    off = log_p - exact(mixture, z.double())
    assert float(off.abs().max()) < 1e-3
    narrow = made.sample(torch.Size((50,)))
    assert narrow.dtype == torch.float32


class Wild(taut.FullCovarianceNormal):
    """The prior's mean and scales, and entries below the diagonal that are huge."""

    def __init__(self) -> None:
        super().__init__((D,), D, taut.Linear)
        lower = 100 * torch.randn(len(self.rows), generator=generator(0, "wild"))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            bias = torch.cat([torch.zeros(2 * D), lower])
            next(p for p in self.parameters() if p.dim() == 1).copy_(bias)


def with_gaps() -> tuple[taut.VAE, Tensor, Tensor]:
    """Returns a linear model with such a posterior, rows that lack all or most, and log p(x)."""
    problem = taut.LinearGaussian(dim_x=D, dim_z=D)
    x = problem.sample(4)
    for row, seen in enumerate((0, 1, 2, 4)):
        x[row, seen:] = torch.nan
    return problem.model(Wild()), x, problem.log_evidence(x).detach().double()


def test_a_posterior_that_multiplies_itself_tells_no_false_log_evidence() -> None:
    """Its share of a defensive mixture once looked like the prior's: 0.4 nats too much for a row
    that lacks everything, whose log p(x) is 0, called reliable. 5 errors: 6e-7 a row.
    """
    model, x, expected = with_gaps()
    found = log_evidence(model, x)
    off = (found.log_evidence - expected).abs() / found.log_evidence_error
    assert bool((off < 5)[found.reliable].all()), off
    assert bool(found.reliable[0])


def test_chains_start_where_their_density_is_known() -> None:
    """It was 1e7 nats, where what is said is a lower bound in expectation.

    By Markov's inequality w > e^14 p(x) has a probability below 1e-6.
    """
    model, x, expected = with_gaps()
    found = taut.annealing(model, x[:2], 4, max_temperatures=4)
    assert bool((found.log_evidence - expected[:2] < 14).all())


def test_gaps_are_filled_under_such_a_posterior() -> None:
    """5 errors of 8 numbers of 4 rows: 2e-5; the error is that of the effective samples."""
    model, x, _ = with_gaps()
    with torch.no_grad():
        decoded = model.decode(torch.cat([torch.zeros(1, D), torch.eye(D)])[None])
    b, w = decoded.mean[0, 0].double(), (decoded.mean[0, 1:] - decoded.mean[0, :1]).T.double()
    covariance = w @ w.T + decoded.variance[0, 0].double().diag()
    found = impute(model, x, 200)
    for row, filled, ess in zip(x, found.values.double(), found.ess, strict=True):
        there, mean = ~row.isnan(), b
        if bool(there.any()):
            gain = torch.linalg.solve(covariance[there][:, there], covariance[there]).T
            mean = b + gain @ (row.double() - b)[there]
        off = (filled - mean)[~there].abs() / covariance.diagonal()[~there].sqrt()
        assert float(off.max()) < 5 / float(ess) ** 0.5


@pytest.mark.parametrize("family", [taut.DiagonalNormal, taut.FullCovarianceNormal])
def test_own_evidence_of_a_row_depends_on_no_other(family: type[taut.Posterior]) -> None:
    problem = taut.LinearGaussian(dim_x=5, dim_z=2)
    model = problem.model(family((5,), 2, taut.Linear))
    x = problem.sample(5)
    whole = own_evidence(model, x, 60)[0]
    alone = torch.cat([own_evidence(model, row, 60)[0] for row in x.split(1)])
    assert torch.equal(whole, alone)


def test_log_p_without_an_entry_is_that_of_a_normalised_mixture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What later proposals are compared with: it was too small by log 2."""
    torch.set_default_dtype(torch.float64)
    problem = taut.LinearGaussian(dim_x=4, dim_z=2)
    model, x = problem.model(), problem.sample(10)
    module = importlib.import_module("taut.evidence.cells")
    ratio, told_of = module._ratio, list[Tensor]()

    def recorded(*given: Tensor) -> tuple[Tensor, ...]:
        found = ratio(*given)
        told_of.append(found[3])
        return found

    monkeypatch.setattr(module, "_ratio", recorded)
    cell_scores(model, x, 2000, improve=False)
    for i, found in enumerate(told_of):
        without = torch.where(functional.one_hot(torch.tensor(i), 4).bool(), torch.nan, x)
        off = found - problem.log_evidence(without).detach()
        assert float(off.abs().max()) < 0.3
