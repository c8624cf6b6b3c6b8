"""``VampPrior``: the mean posterior of pseudo-inputs."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_codes import check_resumed
from torch import Tensor
from ztest import assert_mean

import taut
from taut import posteriors, priors
from taut.build.config import Config
from taut.build.start import start_prior
from taut.evidence.latents import latents
from taut.features import Split, Standardize
from taut.runs.assemble import assemble, merge
from taut.system.errors import UsageError

SMALL = partial(taut.MLP, hidden=(7,))
FAMILIES = [
    taut.DiagonalNormal,
    taut.FullCovarianceNormal,
    partial(posteriors.CouplingFlow, layers=2, hidden=(5,)),
    partial(posteriors.InverseAutoregressive, layers=2, hidden=(5,)),
    posteriors.IndependentBernoulli,
    posteriors.PowerSpherical,
]


def model_of(family, components: int = 6, gaps: bool = False, condition=None) -> taut.VAE:
    """Returns a model of three numbers with a VampPrior, with any weights."""
    width = 3 if condition is None else 2
    context_dim = 0 if condition is None else condition.context_dim
    features = Standardize((width,), 1.0, 2.0, missing=gaps)
    posterior = family((width,), 2, SMALL, context_dim, features=features)
    likelihood = taut.Normal((width,), 2, decoder=SMALL, context_dim=context_dim)
    model = taut.VAE(priors.VampPrior(components), likelihood, posterior, condition)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def rows(n: int, gaps: bool = False) -> Tensor:
    x = 1 + 2 * torch.randn(n, 3)
    if gaps:
        x[torch.rand(n, 3) < 0.3] = torch.nan
    return x


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_rows_as_pseudo_inputs_make_the_aggregate_posterior(family, gaps: bool) -> None:
    x = rows(6, gaps)
    model = model_of(family, 6, gaps)
    model.prior.start(model.posterior.features(x))
    q = model.encode(x)
    z = q.sample((5,))
    each = q.log_prob(z[:, :, None])  # of every z under every q, (5, 6, 6)
    expected = each.logsumexp(-1) - math.log(6)
    torch.testing.assert_close(model.latent_prior().log_prob(z), expected, rtol=0, atol=1e-10)


def test_the_mean_divergence_to_the_aggregate_posterior_is_zero() -> None:
    r"""With all rows as pseudo-inputs, $E_x KL(q(z|x) || p) = I(x; z)$, to rounding on any draws:
    nothing is left for a better prior.
    """
    x = rows(40)
    model = model_of(taut.DiagonalNormal, 40)
    model.prior.start(model.posterior.features(x))
    found = latents(model, x)
    assert found["marginal_kl"]["own"]["value"] == pytest.approx(0, abs=1e-10)
    assert found["information"]["own"]["value"] == pytest.approx(found["rate"]["value"], abs=1e-10)
    assert found["rate"]["value"] > 0.1


def test_of_a_conditioned_model_it_is_given_what_the_rows_are_given() -> None:
    condition = Split([1], 3, Standardize((1,), 1.0, 2.0))
    model = model_of(taut.DiagonalNormal, 5, condition=condition)
    _, context = model.split(rows(4))
    p, pseudo = model.latent_prior(context), model.prior.pseudo_inputs
    assert p.batch_shape == (4,)
    z = torch.randn(7, 4, 2)
    for row in range(4):
        given = context[row].expand(5, -1)
        q = model.posterior.distribution(model.posterior.parameters_seen(pseudo, given))
        expected = q.log_prob(z[:, row, None]).logsumexp(-1) - math.log(5)
        torch.testing.assert_close(p.log_prob(z)[:, row], expected, rtol=0, atol=1e-10)
    assert model.draw(rows(4), 3).log_weight.shape == (3, 4)
    assert model.sample(2, context=context).shape == (2, 4, 2)


def test_samples_come_from_all_pseudo_inputs() -> None:
    """z-tests of two moments, alpha 1e-6 each: a sampler that took the first ones would fail."""
    model = model_of(taut.DiagonalNormal, 4)
    q = model.posterior.distribution(model.posterior.parameters_seen(model.prior.pseudo_inputs))
    with torch.no_grad():
        p = model.latent_prior()
        z = p.sample((20_000,))
        assert_mean(z, q.mean.mean(0))
        assert_mean(z.square(), (q.mean.square() + q.variance).mean(0))


def test_the_bound_moves_pseudo_inputs_and_encoder_through_the_prior() -> None:
    model = model_of(taut.DiagonalNormal)
    z = torch.randn(9, 2)
    wanted = [model.prior.pseudo_inputs, *model.posterior.parameters()]
    for gradient in torch.autograd.grad(model.latent_prior().log_prob(z).sum(), wanted):
        assert float(gradient.abs().max()) > 0
    assert {name.partition(".")[0] for name in model.state_dict()} == {
        *("prior", "likelihood", "posterior")
    }
    assert [n for n in model.state_dict() if n.startswith("prior")] == ["prior.pseudo_inputs"]


def test_a_copy_of_a_model_shares_with_its_own_encoder() -> None:
    model = model_of(taut.DiagonalNormal)
    twin, z = copy.deepcopy(model), torch.randn(9, 2)
    before = model.latent_prior().log_prob(z)
    with torch.no_grad():
        for parameter in twin.posterior.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(model.latent_prior().log_prob(z), before, rtol=0, atol=0)
    assert float((twin.latent_prior().log_prob(z) - before).detach().abs().min()) > 1e-3


def test_it_starts_at_rows_of_the_training() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    settings = {"prior": "VampPrior(components=7)", "posterior": "DiagonalNormal()"}
    _, data, model, _ = assemble(x, merge(taut.Config(), settings))
    seen = model.posterior.features(data.train.to(torch.get_default_dtype()))
    same = (model.prior.pseudo_inputs[:, None] == seen).all(-1)
    assert same.sum(1).tolist() == [1] * 7
    assert int(same.any(0).sum()) == 7  # seven different rows
    with torch.no_grad():
        model.prior.pseudo_inputs.add_(1.0)
    kept = model.prior.pseudo_inputs.clone()
    start_prior(model, data)  # what was started stays where it is
    torch.testing.assert_close(model.prior.pseudo_inputs, kept, rtol=0, atol=0)


def test_with_dropout_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    """The units that are dropped, of rows and of pseudo-inputs, are those of the step."""
    network = "GatedMLP(hidden=(5,), dropout=0.3)"
    model = {"prior": "VampPrior(components=6)", "encoder": network, "decoder": network}
    training = {"max_epochs": 40, "batch_size": 4, "checkpoint_seconds": 0, "patience": 5}
    config = Config.from_dict({"model": model | {"latent_dim": 2}, "training": training})
    x = (np.random.default_rng(0).random((40, 3)) < 0.5).astype(np.uint8)
    check_resumed(x, config, tmp_path)


class Known(taut.Posterior):
    def forward(self, x: Tensor, context: Tensor | None = None) -> torch.distributions.Distribution:
        return taut.StandardNormal(2)().expand((len(x),))


def test_what_it_cannot_be_is_said() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    with pytest.raises(UsageError, match=r"100 pseudo-inputs.* there are 48: .*components=48\)"):
        assemble(x, merge(taut.Config(), {"prior": "VampPrior(components=100)"}))
    with pytest.raises(ValueError, match="components must be a whole number of at least 1"):
        priors.VampPrior(0)
    with pytest.raises(ValueError, match="made of the posterior of its model: make a VAE"):
        priors.VampPrior(3)()
    with pytest.raises(ValueError, match=r"Known has no parameters_seen"):
        taut.VAE(priors.VampPrior(3), taut.Normal((3,), 2), Known())
