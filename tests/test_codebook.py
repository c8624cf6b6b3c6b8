"""Vectors of a codebook: a choice of the nearest one is a bound, whose slack is known by hand."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from ztest import assert_mean

import taut
from taut import posteriors, priors
from taut.build.config import Config
from taut.build.start import start_prior
from taut.distributions.codebook import Quantized
from taut.evidence.enumeration import enumeration
from taut.features import Split, Standardize
from taut.objectives import StraightThrough
from taut.runs.assemble import assemble, merge
from taut.runs.tighten import tighten
from taut.system.errors import UsageError

SMALL = partial(taut.MLP, hidden=(7,))
CODES, LEVELS, WIDTH = 2, 3, 4
SIZES = {"codes": CODES, "levels": LEVELS, "width": WIDTH}


def model_of(scale: float | None = None, commitment: float = 1.0, condition=None) -> taut.VAE:
    """Returns a model of four bits with any weights."""
    width, context_dim = 4, 0
    if condition is not None:
        width, context_dim = 3, condition.context_dim
    posterior = posteriors.VectorQuantized(
        (width,), CODES * WIDTH, SMALL, context_dim, **SIZES, scale=scale, commitment=commitment,
        features=Standardize((width,), 0.5, 0.5, missing=True),
    )  # fmt: skip
    likelihood = taut.Bernoulli((width,), CODES * WIDTH, SMALL, context_dim=context_dim)
    model = taut.VAE(priors.Codebook(**SIZES), likelihood, posterior, condition)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def rows(n: int, gaps: bool = False) -> Tensor:
    x = (torch.rand(n, 4) < 0.5).to(torch.get_default_dtype())
    if gaps:
        x[torch.rand(n, 4) < 0.3] = torch.nan
    return x


def by_hand(model: taut.VAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns log p(x, k), log p(k) and the squared distance of h(x) to the vectors of k, for each
    pair of levels, (9, B) each.
    """
    vectors, logits = model.prior.vectors, model.prior.logits.log_softmax(-1)
    seen, context = model.split(x)
    h = model.posterior.parameters_at(seen, context)["point"]
    tables = []
    for a in range(LEVELS):
        for b in range(LEVELS):
            z = torch.cat([vectors[a], vectors[b]]).expand(1, len(x), -1)
            log_prior = (logits[0, a] + logits[1, b]).expand(len(x))
            log_joint = model.decode(z, context).log_prob(seen)[0] + log_prior
            square = (h[:, 0] - vectors[a]).square().sum(-1)
            square = square + (h[:, 1] - vectors[b]).square().sum(-1)
            tables.append((log_joint, log_prior, square))
    joint, prior, squares = (torch.stack(column) for column in zip(*tables, strict=True))
    return joint, prior, squares


@pytest.mark.parametrize("gaps", [False, True])
def test_the_choice_is_a_bound_whose_slack_is_the_surprise_of_it(gaps: bool) -> None:
    model, x = model_of(), rows(40, gaps)
    log_joint, log_prior, square = by_hand(model, x)
    chosen = square.argmin(0)[None]
    assert len(chosen.unique()) > 1
    bound = log_joint.gather(0, chosen)[0].detach()
    evidence = log_joint.logsumexp(0).detach()
    found = enumeration(model, x)
    torch.testing.assert_close(found.log_evidence, evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.elbo, bound, rtol=0, atol=1e-10)
    surprise = -log_joint.log_softmax(0).gather(0, chosen)[0].detach()
    torch.testing.assert_close(found.gap, surprise, rtol=0, atol=1e-10)
    rate = -log_prior.gather(0, chosen)[0].detach()
    torch.testing.assert_close(found.rate, rate, rtol=0, atol=1e-10)
    value = StraightThrough()(model, x).value
    torch.testing.assert_close(value, bound, rtol=0, atol=1e-10)


def test_with_a_scale_it_is_a_distribution_and_a_choice_in_the_limit() -> None:
    model, x = model_of(0.7), rows(20)
    log_joint, log_prior, square = by_hand(model, x)
    log_q = (-square / (2 * 0.7**2)).log_softmax(0)
    elbo = (log_q.exp() * (log_joint - log_q)).sum(0).detach()
    rate = (log_q.exp() * (log_q - log_prior)).sum(0).detach()
    found = enumeration(model, x)
    torch.testing.assert_close(found.elbo, elbo, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.rate, rate, rtol=0, atol=1e-10)
    draw = model.draw(x, reparameterize=False)
    torch.testing.assert_close(draw.groups[0].rate.detach(), rate, rtol=0, atol=1e-10)
    model.posterior.scale = 1e-3
    narrow = enumeration(model, x).elbo
    model.posterior.scale = None
    torch.testing.assert_close(narrow, enumeration(model, x).elbo, rtol=0, atol=1e-10)


def test_of_a_conditioned_model_each_row_is_given_its_own() -> None:
    model = model_of(condition=Split([1], 4, Standardize((1,), 0.5, 0.5)))
    x = rows(6)
    expected = by_hand(model, x)[0].logsumexp(0).detach()
    torch.testing.assert_close(enumeration(model, x).log_evidence, expected, rtol=0, atol=1e-10)


def test_the_prior_draws_vectors_as_often_as_it_says() -> None:
    """z-test of the means of 20,000 draws, alpha 1e-6."""
    p = model_of().prior()
    with torch.no_grad():
        z = p.sample((20_000,))
        assert bool(p.support.check(z).all())
        assert not bool(p.support.check(z[:5] + 0.01).any())
        assert not bool(p.support.check(z[:5, 1:]).any())
        assert_mean(z, p.mean)
        assert_mean((z - p.mean).square(), p.variance)
        assert_mean(-p.log_prob(z), p.entropy())


def test_the_divergence_of_a_choice_is_a_number() -> None:
    vectors = torch.randn(LEVELS, WIDTH)
    one = torch.where(torch.eye(LEVELS)[:CODES] == 1, 0.0, -torch.inf)
    other = torch.randn(CODES, LEVELS).log_softmax(-1).requires_grad_()
    found = kl_divergence(Quantized(one, vectors), Quantized(other, vectors))
    torch.testing.assert_close(found, -other[0, 0] - other[1, 1], rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(found, other)
    assert bool(gradient.isfinite().all())


# --- Gradients ------------------------------------------------------------------------------------


def test_the_gradient_of_the_vector_stands_for_that_of_the_point() -> None:
    """And the vector has its own, and the penalty draws both together."""
    model, x = model_of(commitment=0.3), rows(5)
    parameters = list(model.parameters())
    surrogate = StraightThrough()(model, x).surrogate.sum()
    found = torch.autograd.grad(surrogate, parameters, materialize_grads=True)
    h, vectors = model.posterior.parameters_at(x)["point"], model.prior.vectors
    level = (h[:, :, None] - vectors).square().sum(-1).argmin(-1)  # (5, 2)
    chosen = vectors[level]
    z = chosen.flatten(1).detach().requires_grad_()
    log_likelihood = model.decode(z[None]).log_prob(x).sum()
    (slope,) = torch.autograd.grad(log_likelihood, z, retain_graph=True)
    passed = (slope * h.flatten(1)).sum() + (slope * chosen.flatten(1)).sum()
    log_prior = model.prior.logits.log_softmax(-1)[torch.arange(CODES), level].sum()
    penalty = 0.3 * (h - chosen).square().sum()
    whole = log_likelihood + passed + log_prior - penalty
    expected = torch.autograd.grad(whole, parameters, materialize_grads=True)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [None, 0.7])
def test_the_penalty_is_differentiated_and_never_reported(scale: float | None) -> None:
    x, bounds = rows(5), []
    for commitment in (0.0, 2.0):
        torch.manual_seed(3)
        bounds.append(StraightThrough(num_samples=3)(model_of(scale, commitment), x))
    without, paid = bounds
    assert torch.equal(without.value, paid.value)
    assert paid.target is None
    torch.manual_seed(3)
    model = model_of(scale, 2.0)
    _, _, square = by_hand(model, x)
    q = model.encode(x).log_probs.exp()
    weight = (q[:, 0, :, None] * q[:, 1, None, :]).flatten(1).T
    expected = 2.0 * (weight * square).sum(0)
    torch.testing.assert_close(without.surrogate - paid.surrogate, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("objective", "biased"),
    [(taut.ScoreFunction(num_samples=2), False), (StraightThrough(num_samples=2), True)],
    ids=repr,
)
def test_the_score_function_is_unbiased_and_the_straight_through_gradient_is_not(
    objective: taut.Objective, biased: bool
) -> None:
    """z-test of all parameters against the enumerated gradient, alpha 1e-6."""
    model, x = model_of(0.7, 0.0), rows(1)
    parameters, found = list(model.parameters()), []
    for _ in range(100):
        surrogate = objective(model, x.expand(300, -1)).surrogate.mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, parameters)]))
    log_joint, _, square = by_hand(model, x)
    log_q = (-square / (2 * 0.7**2)).log_softmax(0)
    exact = torch.autograd.grad((log_q.exp() * (log_joint - log_q)).sum(), parameters)
    expected = torch.cat([g.flatten() for g in exact])
    if not biased:
        assert_mean(torch.stack(found), expected)
        return
    with pytest.raises(AssertionError):
        assert_mean(torch.stack(found), expected)


# --- Runs -----------------------------------------------------------------------------------------

NET = "MLP(hidden=(8,))"
TINY = {"encoder": NET, "decoder": NET, "max_epochs": 2, "batch_size": 16, "num_samples": 10}
QUANTIZED = {
    "posterior": "VectorQuantized(codes=2, levels=3, width=2)",
    "objective": "StraightThrough()",
}


def bits(n: int = 60) -> np.ndarray:
    return (np.random.default_rng(0).random((n, 4)) < 0.5).astype(np.uint8)


def test_the_vectors_start_at_points_of_the_training_rows() -> None:
    config, data, model, _ = assemble(bits(), merge(Config(), TINY | QUANTIZED))
    assert config.model.prior == "Codebook()"
    torch.manual_seed(0)
    start_prior(model, data)
    with torch.no_grad():
        points = model.posterior.parameters_at(torch.from_numpy(bits()).double())["point"]
    off = torch.cdist(model.prior.vectors.detach(), points.flatten(0, 1)).amin(1)
    assert float(off.max()) < 0.1 * float(points.std())
    assert len(model.prior.vectors.unique(dim=0)) == 3


def test_a_run_is_loaded_and_tightened_under_the_same_codebook(tmp_path) -> None:
    torch.set_default_dtype(torch.float32)
    run = taut.fit(bits(), tmp_path / "run", **TINY, **QUANTIZED)
    x = torch.from_numpy(bits(9)).float()
    again = taut.load(tmp_path / "run")
    old = enumeration(run.model, x)
    assert torch.equal(enumeration(again.model, x).elbo, old.elbo)
    new, _, _ = tighten(
        again, tmp_path / "new", source=bits(), max_epochs=1, objective="StraightThrough()"
    )
    assert torch.equal(enumeration(new.model, x).log_evidence, old.log_evidence)
    assert run.evaluation()["by"] == {"enumeration": run.evaluation()["num_data"]}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prior": "StandardNormal()"}, "over different spaces"),
        ({"prior": "IndependentCategorical()"}, r"Codebook\(\) with VectorQuantized"),
        ({"posterior": "Categorical()", "prior": "Codebook()"}, "over different spaces"),
        ({"posterior": "DiagonalNormal()", "prior": "Codebook()"}, "over different spaces"),
        ({"prior": "Codebook(levels=4)"}, "has 4 vectors of width 2, and the posterior is over 3"),
        ({"prior": "Codebook(codes=3)"}, "over different spaces.* the same codes and levels"),
        ({"latent_dim": 3}, "has 4 latent dimensions, and latent_dim is 3"),
        ({"posterior": "VectorQuantized(width=0)"}, "width must be a whole number of at least 1"),
        ({"posterior": "VectorQuantized(scale=0.0)"}, "scale must be positive"),
        ({"posterior": "VectorQuantized(commitment=-1.0)"}, "commitment must be at least 0"),
        ({"objective": "ELBO()"}, r"StraightThrough\(\), which is biased"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(tmp_path, settings, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        taut.fit(bits(), tmp_path / "run", **(TINY | QUANTIZED | settings))
    assert "\n" not in str(refused.value)


def test_without_a_codebook_there_is_nothing_to_choose_from() -> None:
    q = posteriors.VectorQuantized((4,), **SIZES)
    with pytest.raises(ValueError, match="take Codebook"):
        q(rows(2))
    with pytest.raises(ValueError, match="near to nothing"):
        priors.Codebook(**SIZES)().relaxed((2,), 1.0)
    even = priors.Codebook(**SIZES)().entropy().item()
    assert even == pytest.approx(CODES * math.log(LEVELS))
