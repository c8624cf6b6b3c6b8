"""The multinomial: counts given their total."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from typer.testing import CliRunner

import taut
from taut import distributions
from taut.cli import terminal
from taut.cli.app import app
from taut.data.dataset import prepare
from taut.evidence.baseline import independent_marginals


def test_the_multinomial_sums_to_one_over_all_counts_of_a_total() -> None:
    """All 126 ways to have five counts in five classes, and what scipy says of each."""
    logits = torch.tensor([[0.3, -1.0, 0.0, 2.0, -4.0]])
    made = distributions.Multinomial(logits, torch.tensor([5.0]), 1)
    every = [x for x in itertools.product(range(6), repeat=5) if sum(x) == 5]
    x = torch.tensor(every).double()[:, None]
    log_p = made.log_prob(x)[:, 0]
    assert len(every) == 126
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)
    truth = scipy.stats.multinomial(5, logits[0].softmax(-1).numpy()).logpmf(np.array(every))
    np.testing.assert_allclose(log_p.numpy(), truth, rtol=0, atol=1e-10)
    mean = (log_p.exp()[:, None, None] * x).sum(0)
    torch.testing.assert_close(made.mean, mean, rtol=0, atol=1e-10)
    variance = (log_p.exp()[:, None, None] * (x - mean).square()).sum(0)
    torch.testing.assert_close(made.variance, variance, rtol=0, atol=1e-10)
    # counts that are missing are summed out, given the total of the row
    gone = x.clone()
    gone[..., [1, 3]] = torch.nan
    marginal = {}
    for row, value in zip(every, log_p.exp().tolist(), strict=True):
        seen = (row[0], row[2], row[4])
        marginal[seen] = marginal.get(seen, 0.0) + value
    wanted = torch.tensor([marginal[row[0], row[2], row[4]] for row in every]).log()
    torch.testing.assert_close(made.log_prob(gone)[:, 0], wanted, rtol=0, atol=1e-10)
    for bad in (-1.0, 0.5):
        assert made.log_prob(torch.tensor([[bad, 5 - bad, 0.0, 0.0, 0.0]])).item() == -math.inf


def test_independent_poisson_counts_are_multinomial_given_their_total() -> None:
    """In float32 too, where the terms are of millions: 20,000 genes, 2 million counts."""
    torch.manual_seed(3)
    rate = torch.rand(2, 20_000) * 200
    x = torch.poisson(rate)
    total = x.sum(-1)
    joint = torch.distributions.Poisson(rate).log_prob(x).sum(-1)
    truth = joint - torch.distributions.Poisson(rate.sum(-1)).log_prob(total)
    made = distributions.Multinomial(rate.log(), total, 1)
    torch.testing.assert_close(made.log_prob(x), truth, rtol=1e-9, atol=0)
    single = distributions.Multinomial(rate.log().float(), total.float(), 1)
    torch.testing.assert_close(single.log_prob(x.float()).double(), truth, rtol=1e-5, atol=0)


def test_draws_of_the_multinomial_have_its_frequencies() -> None:
    """Chi squared of 15 cells of 4,000 draws of three counts in three classes of a row of seven;
    alpha 1e-6.
    """
    torch.manual_seed(0)
    logits = torch.tensor([[[0.0, -1.0, 0.5]]]).expand(2, 3, 3)
    made = distributions.Multinomial(logits, torch.tensor([4.0, 0.0, 1000.0]), 1)
    drawn = made.sample((4000,))
    assert drawn.shape == (4000, 2, 3, 3)
    assert bool((drawn.sum(-1) == made.total).all())
    assert bool(made.support.check(drawn).all())
    cells = [x for x in itertools.product(range(5), repeat=3) if sum(x) == 4]
    found = [int((drawn[:, 0, 0] == torch.tensor(x)).all(-1).sum()) for x in cells]
    wanted = made.log_prob(torch.tensor(cells).double()[:, None, None])[:, 0, 0].exp() * 4000
    squared = ((torch.tensor(found) - wanted).square() / wanted).sum()
    assert squared < scipy.stats.chi2(len(cells) - 1).isf(1e-6)
    torch.testing.assert_close(drawn[:, 1, 2].mean(0), made.mean[1, 2], rtol=0, atol=2.0)


def test_a_run_of_counts_given_their_totals(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Words of texts of two topics: the model finds them, and says that the total is given."""
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(12, 0.3), 2)
    words = np.stack([rng.multinomial(rng.integers(20, 61), topics[i % 2]) for i in range(300)])
    settings = {"kind": "count", "likelihood": "Multinomial()", "latent_dim": 1}
    run = taut.fit(words, tmp_path / "run", **settings, max_epochs=30)
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["log_evidence"]["value"] > found["baseline"]["value"]
    new = np.asarray(run.sample(5))
    assert len({*new.sum(-1)}) == 1  # the mean total
    assert 35 < new[0].sum() < 45
    np.save(tmp_path / "words.npy", words)
    asked = ["score", str(run.path), str(tmp_path / "words.npy"), "--cells"]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2
    assert "no --cells: a Multinomial does not say how much each element" in refused.stderr
    terminal.show_data(terminal.message, prepare(words, kind="count"), run.config)
    assert "log p(x) means log p(x | total)" in capsys.readouterr().err


@pytest.mark.parametrize("bursts", [False, True])
def test_the_baseline_of_a_model_given_the_total_knows_it_too(bursts: bool) -> None:
    """Columns that share nothing but the total: shares alone explain them, or negative binomials
    with means in proportion to it where counts come in bursts.
    """
    rng = np.random.default_rng(0)
    rate = rng.uniform(5, 50, 2000)[:, None] * rng.dirichlet(np.full(6, 2.0))
    made = rng.poisson(rate * rng.gamma(0.5, 2.0, rate.shape) if bursts else rate)
    data = prepare(made, kind="count")
    x, train = data.test.double(), data.train.double()
    found = independent_marginals(data, data.test, given_total=True)
    mean = train.mean(0)
    if not bursts:
        alone = distributions.Multinomial(mean.log().expand(len(x), 6), x.sum(1), 1).log_prob(x)
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=0)
        return
    at = mean * train.sum(1, keepdim=True).clamp(min=0.5) / mean.sum()
    r = at.square().sum(0) / ((train - at).square() - at).sum(0)
    at = mean * x.sum(1, keepdim=True).clamp(min=0.5) / mean.sum()
    alone = scipy.stats.nbinom(r.numpy(), (r / (r + at)).numpy()).logpmf(x.numpy()).sum(1)
    np.testing.assert_allclose(found.numpy(), alone, rtol=1e-4)
