"""Entries, regret and imputations of odd rows against sums over a grid of z.

    python benchmarks/cells.py [--short]

Trained on 300 benign tumours (scikit-learn's breast cancer data), two latent dimensions so that the
truth can be summed; asked about malignant ones, and for imputations about rows that lack a quarter
of their entries. Every number is set against a grid of z in float64 that is refined until it
settles, the best mean-field Gaussian against Gauss-Hermite quadrature and Nelder-Mead. Prints
tables in Markdown.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import optimize, stats
from sklearn.datasets import load_breast_cancer
from torch import Tensor

import taut
from taut.evidence.gaps import optima_blocks

SPAN, STEP = 14.0, 0.1  # of the first grid
SETTLED, MOST = 1e-3, 300_000  # nats that a refinement may still move, points
SETTINGS = {"latent_dim": 2, "max_epochs": 250, "learning_rate": 0.005}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="few rows, one seed")
    options = parser.parse_args()
    rows, seeds = (6, 1) if options.short else (30, 3)
    values, benign = load_breast_cancer(return_X_y=True)
    normal, odd = values[benign == 1], torch.tensor(values[benign == 0][:rows]).float()
    usual = torch.tensor(normal[300 : 300 + rows]).float()
    holes = values.copy()
    holes[np.random.default_rng(0).random(holes.shape) < 0.25] = np.nan
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            out = Path(folder) / str(seed)
            model = taut.fit(normal[:300], seed=seed, out=out / "whole", **SETTINGS).model
            gappy = taut.fit(
                holes[benign == 1][:300], seed=seed, out=out / "gaps", **SETTINGS
            ).model
            for name, x in (("odd", odd), ("usual", usual)):
                entries(f"seed {seed}, {name}", model, x)
            regrets(f"seed {seed}", model, odd[: rows // 2])
            for name, kind in (("odd", 0), ("usual", 1)):
                x = torch.tensor(
                    holes[benign == kind][-60:] if kind else holes[benign == kind][:60]
                ).float()
                imputations(f"seed {seed}, {name}", gappy, x, rows)


def entries(name: str, model: taut.VAE, x: Tensor) -> None:
    exact = torch.stack([_entries_by_grid(model, row) for row in x])
    began = time.process_time()
    found = taut.cell_scores(model, x)
    spent = time.process_time() - began
    off, ok = (found.value - exact).abs(), found.reliable
    covered = (off < 1.96 * found.error)[ok].double().mean()
    quantiles = ", ".join(f"{float(off.quantile(q)):.3f}" for q in (0.5, 0.9, 0.99, 1.0))
    print(
        f"entries, {name}: |error| 50, 90, 99, 100 %: {quantiles} nats; reliable "
        f"{float(ok.double().mean()):.1%}, of these "
        f"covered by 95 % intervals {float(covered):.1%}; {off.numel()} entries, {spent:.1f} CPU s",
        flush=True,
    )


def regrets(name: str, model: taut.VAE, x: Tensor) -> None:
    elbo = taut.importance(model, x, 2000).elbo
    exact = torch.tensor([_best_mean_field(model, row) for row in x]) - elbo
    optima = list(optima_blocks(model, x))
    found = torch.cat([o.own.elbo for o in optima]) - elbo
    arrived = torch.cat([o.arrived[:, 0] for o in optima])
    off = (found - exact).abs()
    good = (off < 0.1) | (off < 0.01 * exact)
    print(
        f"regret, {name}: exact {float(exact.min()):.1f} to {float(exact.max()):.1f} nats; within "
        f"0.1 nat or 1 %: "
        f"{int(good.sum())} of {len(x)}; largest error {float(off.max()):.3f}; arrived "
        f"{int(arrived.sum())}",
        flush=True,
    )


def imputations(name: str, model: taut.VAE, x: Tensor, rows: int) -> None:
    """Of the rows of the fewest effective samples under the encoder's posterior."""
    worst = taut.importance(model, x, 1000).ess.argsort()[:rows]
    x = x[worst]
    found = taut.impute(model, x, num_imputations=20)
    repeats, levels, means = 0, [], []
    for i, row in enumerate(x):
        z, share = _posterior_by_grid(model, row)
        with torch.no_grad():
            base = copy.deepcopy(model).double().decode(z[:, None]).base_dist
        loc, scale, df = (p[:, 0].expand(len(z), len(row)) for p in (base.loc, base.scale, base.df))
        for j in row.isnan().nonzero()[:, 0].tolist():
            draws = found.draws[:, i, j].double()
            repeats += 20 - len(draws.unique())
            cdf = stats.t.cdf(draws[:, None].numpy(), df[:, j], loc[:, j], scale[:, j])
            levels.append((torch.tensor(cdf) * share).sum(1))
            mean = (share * loc[:, j]).sum()
            spread = (share * ((loc[:, j] - mean).square() + scale[:, j].square())).sum().sqrt()
            means.append((found.values[i, j].double() - mean) / spread)
    u, off = torch.stack(levels), torch.stack(means).abs()
    spread = float((u - 0.5).square().mean().sqrt()) * math.sqrt(12)  # 1 of uniform levels
    print(
        f"imputations, {name}: {len(x)} rows, {len(u)} gaps: {repeats} repeats in 20; spread of "
        f"the exact levels "
        f"{spread:.3f}; mean off by {float(off.median()):.3f} (median), {float(off.max()):.3f} "
        f"(largest) spreads; "
        f"reliable {int(found.reliable.sum())}, ESS {float(found.ess.min()):.0f} at least",
        flush=True,
    )


def _refined(model: taut.VAE, x: Tensor, entries: bool) -> tuple[Tensor, Tensor]:
    """Returns points z (G, 2) and log p(x, z) dz, and without each entry, (G, 1 + C)."""
    model, x = copy.deepcopy(model).double(), x.double()[None]

    @torch.no_grad()
    def of(points: Tensor) -> Tensor:
        parts = []
        for z in points.split(20_000):
            each = model.decode(z[:, None]).terms(x)[:, 0]
            whole = (each.sum(-1) + model.prior().log_prob(z))[:, None]
            parts.append(torch.cat([whole, whole - each], 1) if entries else whole)
        return torch.cat(parts)

    step, slack, before = STEP, 60.0, torch.tensor(math.inf)
    axis = torch.arange(-SPAN, SPAN, step, dtype=torch.float64) + step / 2
    z = torch.cartesian_prod(axis, axis)
    while True:
        values = of(z) + 2 * math.log(step)
        total = values.logsumexp(0)
        if float((total - before).abs().max()) < SETTLED or len(z) > MOST:
            return z, values
        near = (values > values.max(0).values - slack).any(1)
        thirds = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) * step / 3
        z, step = (z[near][:, None] + torch.cartesian_prod(thirds, thirds)).reshape(-1, 2), step / 3
        before, slack = total, max(20.0, slack / 2)


def _entries_by_grid(model: taut.VAE, x: Tensor) -> Tensor:
    total = _refined(model, x, True)[1].logsumexp(0)
    return total[0] - total[1:]


def _posterior_by_grid(model: taut.VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    z, values = _refined(model, x, False)
    keep = values[:, 0] > values.max() - 15
    return z[keep], values[keep, 0].softmax(0)


def _best_mean_field(model: taut.VAE, x: Tensor) -> float:
    model, x = copy.deepcopy(model).double(), x.double()[None]
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    noise = torch.cartesian_prod(torch.tensor(nodes), torch.tensor(nodes))
    weight = torch.tensor(np.outer(weights, weights).ravel() / (2 * math.pi))

    @torch.no_grad()
    def loss(values: np.ndarray) -> float:
        p = torch.tensor(values)
        z = p[:2] + noise * p[2:].exp()
        joint = model.decode(z[:, None]).log_prob(x)[:, 0] + model.prior().log_prob(z)
        bound = float((weight * joint).sum() + p[2:].sum()) + 1 + math.log(2 * math.pi)
        return -bound if math.isfinite(bound) else 1e30

    with torch.no_grad():
        q = model.encode(x)
        z, values = _refined(model, x[0], False)
    top = z[values[:, 0].argmax()].numpy()
    best = math.inf
    for start in ([*q.mean[0].tolist(), *q.stddev[0].log().tolist()], [*top, -3.0, -3.0]):
        for _ in range(3):  # a simplex that has shrunk is spread out again
            options = {"maxfev": 500, "xatol": 1e-4, "fatol": 1e-4}
            found = optimize.minimize(loss, np.array(start), method="Nelder-Mead", options=options)
            start = found.x
        best = min(best, found.fun)
    return -best


if __name__ == "__main__":
    main()
