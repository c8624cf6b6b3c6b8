"""Mixtures of Gaussians as products of matrices, against torch's sum of differences."""

import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from taut.distributions import mixtures
from taut.distributions.mixtures import CorrelatedMixture, DiagonalMixture, mixture


def members(batch: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Independent:
    loc = torch.randn(*batch, 9, 5, dtype=dtype).requires_grad_()
    scale = (0.3 + torch.rand(*batch, 9, 5, dtype=dtype)).requires_grad_()
    return Independent(Normal(loc, scale), 1)


@pytest.mark.parametrize(
    ("batch", "shape"),
    [((), (7, 4)), ((4,), (7, 4)), ((4,), (1, 4)), ((2, 4), (3, 2, 4)), ((4,), (4,))],
)
def test_values_and_gradients_are_those_of_the_differences(batch, shape):
    torch.manual_seed(0)
    parts, logits = members(batch), torch.randn(*batch, 9, dtype=torch.float64)
    z = (2 * torch.randn(*shape, 5, dtype=torch.float64)).requires_grad_()
    found, plain = mixture(logits, parts), MixtureSameFamily(Categorical(logits=logits), parts)
    assert type(found) is DiagonalMixture
    values = [each.log_prob(z) for each in (found, plain)]
    assert values[0].shape == shape
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-10)
    leaves = (z, parts.base_dist.loc, parts.base_dist.scale)
    gradients = [torch.autograd.grad(value.sum(), leaves) for value in values]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("most", [2**24, 200])
@pytest.mark.parametrize(
    ("batch", "shape"),
    [((), (7, 4)), ((), ()), ((4,), (7, 4)), ((4,), (1, 4)), ((2, 4), (3, 2, 4)), ((4,), (4,))],
)
def test_correlated_ones_have_the_values_and_gradients_of_a_solution_each(
    batch, shape, most, monkeypatch
):
    monkeypatch.setattr(mixtures, "MOST", most)
    wide = {"dtype": torch.float64}
    loc = torch.randn(*batch, 9, 5, **wide).requires_grad_()
    lower = torch.randn(*batch, 9, 5, 5, **wide).tril(-1) + torch.diag(torch.rand(5, **wide) + 0.3)
    lower.requires_grad_()
    parts, logits = MultivariateNormal(loc, scale_tril=lower), torch.randn(*batch, 9, **wide)
    z = (2 * torch.randn(*shape, 5, **wide)).requires_grad_()
    found, plain = mixture(logits, parts), MixtureSameFamily(Categorical(logits=logits), parts)
    assert type(found) is CorrelatedMixture
    values = [each.log_prob(z) for each in (found, plain)]
    assert values[0].shape == shape
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(value.sum(), (z, loc, lower)) for value in values]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def test_narrow_components_far_away_keep_the_digits_of_float32():
    """The sums that cancel are some 4e8 where the density is of the order of 1: float32 would be
    wrong by tens of nats.
    """
    torch.manual_seed(0)
    single = {"dtype": torch.float32}
    loc, scale = 10 * torch.randn(6, 40, **single), torch.full((6, 40), 3e-3, **single)
    z = loc[2] + 3e-3 * torch.randn(8, 40, **single)
    found = mixture(torch.zeros(6, **single), Independent(Normal(loc, scale), 1)).log_prob(z)
    wide = Normal(loc[2].double(), scale[2].double()).log_prob(z.double()).sum(-1) - math.log(6)
    torch.testing.assert_close(found.double(), wide, rtol=1e-6, atol=0)


def test_members_that_are_not_diagonal_gaussians_are_summed_as_before():
    parts = Independent(torch.distributions.StudentT(torch.full((9, 5), 4.0)), 1)
    assert type(mixture(torch.zeros(9), parts)) is MixtureSameFamily
