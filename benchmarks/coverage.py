"""Do the 95 % intervals of one row hold the truth, where its estimate says it may be believed?

    python benchmarks/coverage.py [--problems 300]

First log p(x) by importance sampling: random linear-Gaussian problems, whose log p(x) is known, ten
rows each, with posteriors that are moved and scaled. The naive error is the delta method's from the
sample; taut's counts the tail that was not drawn. Then the gap (1,000 samples) and annealing (16
chains) on decoders with random weights, two latent dimensions, whose log p(x) and ELBO are summed
over a grid of z. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import taut

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import quadrature

LIKELIHOODS = {
    "Bernoulli": (taut.Bernoulli, {}),
    "Normal": (taut.Normal, {"scale": "per_feature"}),
    "Student-t": (taut.StudentT, {"scale": "per_feature"}),
    "Poisson": (taut.Poisson, {}),
    "negative binomial": (taut.NegativeBinomial, {}),
}
ROWS, STEPS = 20, 400


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=300)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    of_importance(options.problems)
    print()
    of_gap_and_annealing(max(1, options.problems // 30))


def of_importance(problems: int) -> None:
    print(
        "| K | reliable by k-hat | covered, naive error | covered, taut's error | covered where "
        "not reliable |"
    )
    print("|---|---|---|---|---|")
    for num_samples in (100, 500, 5000):
        torch.manual_seed(0)
        columns = [one(number, num_samples) for number in range(problems)]
        reliable, naive, ours = (torch.cat(c) for c in zip(*columns, strict=True))
        cells = [
            reliable.double().mean(),
            *(c[reliable].double().mean() for c in (naive, ours)),
            ours[~reliable].double().mean(),
        ]
        error = math.sqrt(0.05 * 0.95 / int(reliable.sum()))
        print(
            f"| {num_samples} | {cells[0]:.1%} | {cells[1]:.1%} | {cells[2]:.1%} ± {error:.1%} | "
            f"{cells[3]:.1%} |"
        )


def one(number: int, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    dim_x, dim_z = int(torch.randint(2, 10, ())), int(torch.randint(1, 5, ()))
    problem = taut.LinearGaussian(dim_x, dim_z, float(torch.rand(()) * 1.5 + 0.3))
    shift, width = torch.randn(dim_z) * float(torch.rand(())), math.exp(float(torch.randn(())) / 2)

    class Wrong(taut.Posterior):
        def forward(self, x, context=None):
            exact = problem.posterior(x)
            return MultivariateNormal(
                exact.mean + shift * exact.stddev, width**2 * exact.covariance_matrix
            )

    x = problem.sample(10)
    found = taut.importance(problem.model(Wrong()), x, num_samples, seed=number)
    off = (found.log_evidence - problem.log_evidence(x).detach()).abs()
    naive = ((num_samples / found.ess - 1) / (num_samples - 1)).sqrt()
    return found.reliable, off < 1.96 * naive, off < 1.96 * found.log_evidence_error


def of_gap_and_annealing(models: int) -> None:
    quadrature.TOLERANCE = 1e-6
    print("| likelihood | gap: reliable | covered | annealing: reliable | covered | rows |")
    print("|---|---|---|---|---|---|")
    for name, (likelihood, settings) in LIKELIHOODS.items():
        columns = [curved(likelihood, settings, number) for number in range(models)]
        gap, held, annealed, annealed_held = (torch.cat(c) for c in zip(*columns, strict=True))
        print(
            f"| {name} | {gap.double().mean():.1%} | {share(held[gap])} | "
            f"{annealed.double().mean():.1%} | {share(annealed_held[annealed])} | {len(gap)} |"
        )


def share(holds: Tensor) -> str:
    value = float(holds.double().mean())
    return f"{value:.1%} ± {math.sqrt(value * (1 - value) / len(holds)):.1%}"


def curved(likelihood, settings, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns of rows of one model whether the gap is reliable, whether its interval holds the one
    that is summed, and the same of annealing's log p(x).

    The decoder has random weights; the encoder is trained on what it draws.
    """
    torch.manual_seed(number)
    network = partial(taut.MLP, hidden=(16,), activation="tanh")
    decoder = likelihood((6,), 2, decoder=network, **settings)
    family = taut.FullCovarianceNormal if number % 2 else taut.DiagonalNormal
    model = taut.VAE(taut.StandardNormal(2), decoder, family((6,), 2, network))
    with torch.no_grad():
        for parameter in decoder.decoder.parameters():
            parameter.mul_(2.0)
    optimizer = torch.optim.Adam(model.posterior.parameters(), 0.01)
    for _ in range(STEPS):
        with torch.no_grad():
            x = model.sample(100)
        optimizer.zero_grad()
        (-taut.ELBO()(model, x).surrogate.mean()).backward()
        optimizer.step()
    model.eval()
    referee = quadrature.Oracle(model)
    with torch.no_grad():
        x = model.sample(ROWS)
        log_p = torch.tensor([referee.log_evidence(row) for row in x])
        elbo = torch.tensor([referee.elbo(row, *referee.moments_of(row)) for row in x])
    found = taut.importance(model, x, 1000, seed=number)
    annealed = taut.annealing(model, x, 16, seed=number)
    return (
        found.reliable,
        (found.gap - (log_p - elbo)).abs() < 1.96 * found.gap_error,
        annealed.reliable,
        (annealed.log_evidence - log_p).abs() < 1.96 * annealed.log_evidence_error,
    )


if __name__ == "__main__":
    main()
