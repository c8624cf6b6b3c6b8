"""Does the 95 % interval of log p(x) hold the truth, where k-hat says that it may be believed?

    python benchmarks/coverage.py [--problems 300]

Random linear-Gaussian problems, whose log p(x) is known, ten data each, with posteriors that are
moved and scaled. The naive error is the delta method's from the sample; taut's counts the tail that
was not drawn. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch.distributions import MultivariateNormal

import taut


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=300)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    print(
        "| K | reliable by k-hat | covered, naive error | covered, taut's error | covered where "
        "not reliable |"
    )
    print("|---|---|---|---|---|")
    for num_samples in (100, 500, 5000):
        torch.manual_seed(0)
        columns = [one(number, num_samples) for number in range(options.problems)]
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


def one(number: int, num_samples: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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


if __name__ == "__main__":
    main()
