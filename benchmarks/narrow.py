"""Proposals that are too narrow or lie aside: which are called reliable, and are wrong?

    python benchmarks/narrow.py [--rows 1000]

p(z|x) is the standard normal distribution of 1 to 32 dimensions, and log p(x) is known: x does not
depend on z. Samples are of Gaussians of 0.3 to 1 times its scale, in one direction up to 1.4 aside,
K = 500. Told is for some limits of ``taut.evidence.importance.NARROW`` (nats a dimension by which
samples that carry the weight may be more surprising than others) which share of the rows is called
reliable, which share is so and farther off than 4 errors and 0.02 nats, with the standard error of
a share, and the largest distance. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import math

import torch
from torch.distributions import Distribution, Independent, Normal

import taut

LIMITS = (math.inf, 0.6, 0.4)
DIMS, SCALES, ASIDE = (1, 2, 4, 8, 32), (0.3, 0.5, 0.7, 0.8, 0.9, 1.0), (0.0, 0.7, 1.4)
SAMPLES, ERRORS, LEAST = 500, 4.0, 0.02


def measured(dim: int, scale: float, aside: float, rows: int) -> taut.Evidence:
    """Returns what 500 samples say of rows of zeros, whose log p(x) is log N(0; 0, 1)."""
    likelihood = taut.Normal((1,), dim, scale=1.0, decoder=taut.networks.Linear)
    model = taut.VAE(taut.StandardNormal(dim), likelihood, taut.DiagonalNormal((1,), dim))
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.zero_()

    def proposal(block: slice, x: torch.Tensor, context: torch.Tensor | None) -> Distribution:
        loc = torch.zeros(len(x), dim)
        loc[:, 0] = aside
        return Independent(Normal(loc, scale), 1)

    return taut.importance(model, torch.zeros(rows, 1), SAMPLES, proposal=proposal, seed=dim)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1000, help="of each proposal")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    importance = importlib.import_module("taut.evidence.importance")
    truth = -0.5 * math.log(2 * math.pi)
    print("| limit | called reliable | so, and farther off than 4 errors | largest, nats |")
    print("|---|---|---|---|")
    for limit in LIMITS:
        vars(importance)["NARROW"] = limit
        reliable, off, error = [], [], []
        for dim in DIMS:
            for scale in SCALES:
                for aside in ASIDE:
                    found = measured(dim, scale, aside, options.rows)
                    reliable.append(found.reliable)
                    off.append((found.log_evidence - truth).abs())
                    error.append(found.log_evidence_error)
        sure, far = torch.cat(reliable), torch.cat(off)
        wrong = sure & (far > ERRORS * torch.cat(error)) & (far > LEAST)
        share = float(wrong.double().mean())
        spread = (share * (1 - share) / len(wrong)) ** 0.5
        print(
            f"| {limit:g} | {float(sure.double().mean()):.1%} | {share:.2%} ± {spread:.2%} | "
            f"{float(far[sure].max()):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
