"""How organised latents are, and what that costs: dSprites drawn anew, several weights and seeds.

    python benchmarks/dsprites.py RENDERER.py PARAMETERS.npz --out dsprites.json
    python benchmarks/dsprites.py RENDERER.py PARAMETERS.npz --out dsprites.json --picture it.png

RENDERER.py has ``render(classes, heart_r)``, which draws 64x64 bits of five factors (shape, scale,
orientation, x and y: 3, 6, 40, 32 and 32 levels), and PARAMETERS.npz its ``heart_r``. A random part
of the grid of all factors is drawn, and each block of ``--side`` becomes the bit that most of its
pixels have. The three objectives are those of the papers: the ELBO, beta of 4, and a total
correlation of 6 (Higgins et al. 2017, Chen et al. 2018), 10 latent dimensions each.

Told are, on held-out rows: MIG by both definitions, DCI, the FactorVAE score, rate, distortion,
ELBO at beta 1 and log p(x), the high-frequency energy of the means of reconstructions and samples
relative to that of the data, and UDR, the agreement of a run with those of the same objective and
other seeds, which needs no factors; at the end means over the seeds with their standard errors, and
Spearman's correlation of UDR and MIG over all runs. Runs that ``--out`` holds already are kept.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import taut
from taut.evidence.disentanglement import udr
from taut.evidence.samples import blur

OBJECTIVES = ("ELBO()", "ELBO(beta=4)", "TotalCorrelation(beta=6)")
FACTORS = ("shape", "scale", "orientation", "x", "y")
LATENT_DIM, HELD_OUT = 10, 2000
SCORES = ("mig", "mig_density", "dci_disentanglement", "factor_vae")
HEADS = ("MIG, 20 bins", "MIG, densities", "DCI", "FactorVAE", "UDR", "rate", "distortion")
HEADS += ("ELBO at 1", "log p(x)", "sharpness, reconstr.", "samples", "CPU s")


def draw(renderer: Path, parameters: Path, rows: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns bits (N, side, side) and the levels of their factors (N, 5)."""
    found = importlib.util.spec_from_file_location("renderer", renderer)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    sizes = module.SIZES
    places = np.random.default_rng(0).permutation(int(np.prod(sizes)))[:rows]
    classes = np.stack(np.unravel_index(places, sizes), 1)
    images = module.render(classes, np.load(parameters)["heart_r"])
    blocks = images.reshape(rows, side, 64 // side, side, 64 // side).mean((2, 4))
    return (blocks >= 0.5).astype(np.uint8), classes[:, 1:]


def measured(
    images: np.ndarray, factors: np.ndarray, objective: str, seed: int, options: Any
) -> dict[str, Any]:
    """Returns what is told of a run, and the codes of the held-out rows."""
    train, test = images[:-HELD_OUT], images[-HELD_OUT:]
    network = f"MLP(hidden=({options.width}, {options.width}))"
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = taut.fit(
            train,
            Path(folder) / "run",
            test=test,
            latent_dim=LATENT_DIM,
            encoder=network,
            decoder=network,
            objective=objective,
            max_epochs=options.epochs,
            batch_size=options.batch_size,
            num_samples=100,
            seed=seed,
            threads=1,
            verbose=False,
        )
        seconds = time.process_time() - began
        known = {name: factors[-HELD_OUT:, i] for i, name in enumerate(FACTORS)}
        found = run.disentangle(test, known, num_data=HELD_OUT)
        evaluation = run.evaluation()
    x = torch.from_numpy(test).to(torch.get_default_dtype())
    with torch.no_grad():
        posterior = run.model.posterior(x)
        codes, prior = posterior.mean, run.model.prior()
        rates = torch.distributions.kl_divergence(posterior.base_dist, prior.base_dist).mean(0)
    energy = blur(run.model, x[:500], low=0.0, high=1.0, steps=4)["high_frequency_energy"]
    whole = energy["data"]["value"]
    return {
        **{s.name: s.value for s in found.scores if s.name in SCORES},
        **{n: evaluation[n]["value"] for n in ("rate", "distortion", "elbo", "log_evidence")},
        "reconstructions": energy["mean"]["value"] / whole,
        "samples": energy["mean_from_prior"]["value"] / whole,
        "seconds": seconds,
        "codes": codes.tolist(),
        "rates": rates.tolist(),
    }


def ranked(results: dict[str, list[dict[str, Any]]]) -> None:
    """Gives each run its UDR among those of the same objective."""
    for runs in results.values():
        if len(runs) > 1:
            codes = [np.array(run["codes"]) for run in runs]
            found = udr(codes, [np.array(run["rates"]) for run in runs])
            for run, value in zip(runs, found, strict=True):
                run["udr"] = float(value)


def told(results: dict[str, list[dict[str, Any]]]) -> None:
    names = (*SCORES, "udr", "rate", "distortion", "elbo", "log_evidence")
    names += ("reconstructions", "samples", "seconds")
    print("| objective | " + " | ".join(HEADS) + " |")
    print("|---" * (1 + len(HEADS)) + "|")
    for objective, runs in results.items():
        cells = []
        for name in names:
            values = np.array([run.get(name, np.nan) for run in runs])
            error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
            cells.append(f"{values.mean():.3g} ± {error:.1g}")
        print(f"| `{objective}` | " + " | ".join(cells) + " |")
    every = [run for runs in results.values() for run in runs if "udr" in run]
    for name in SCORES[:2]:
        value, p = spearmanr([run["udr"] for run in every], [run[name] for run in every])
        print(f"Spearman of UDR and {name}: {value:.2f}, {len(every)} runs (p {p:.3g})")


def picture(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draws MIG over the sharpness of reconstructions, a point a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for objective, runs in results.items():
        across = [run["reconstructions"] for run in runs]
        axes.plot(across, [run["mig_density"] for run in runs], "o", label=objective)
    axes.set_xlabel("sharpness of reconstructions (data: 1)")
    axes.set_ylabel("MIG, by densities")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("renderer", type=Path)
    parser.add_argument("parameters", type=Path)
    parser.add_argument("--side", type=int, default=16, choices=(8, 16, 32, 64))
    parser.add_argument("--rows", type=int, default=42_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, Any]]] = {}
    if options.out and options.out.exists():
        results = json.loads(options.out.read_text())
    images, factors = draw(options.renderer, options.parameters, options.rows, options.side)
    for seed in range(options.seeds):
        for objective in options.objectives:
            runs = results.setdefault(objective, [])
            if len(runs) > seed:
                continue
            runs.append(measured(images, factors, objective, seed, options))
            shown = {k: v for k, v in runs[-1].items() if k not in ("codes", "rates")}
            print(objective, seed, {k: round(v, 3) for k, v in shown.items()}, flush=True)
            if options.out:
                options.out.write_text(json.dumps(results))
    ranked(results)
    told(results)
    if options.picture:
        picture(results, options.picture)


if __name__ == "__main__":
    main()
