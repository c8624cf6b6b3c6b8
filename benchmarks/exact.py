"""Models that are exact on the adult table: can their rows be told from real ones, and what is
their log p(x)?

    python benchmarks/exact.py HIVAE.npz --json exact.json
    python benchmarks/exact.py HIVAE.npz --only forest --seeds 3 --draws 1

The rows, the measures and their errors are those of benchmarks/synthetic.py. Each generator is
trained on a tenth less than the half, which is its validation rows; none is held out besides.

* forest: ``HiddenForest(slack=0.1)``, up to four hidden trees, which ``taut fit`` trains beside a
  VAE by default.
* hidden tree: ``HiddenTree(num_states=64)``, a latent category for each column; and with
  ``slack=0.2``: later passes, at a cost in log p(x).
* mixture: ``Mixture(num_states=128)``.
* taut's VAE: the parts that ``taut fit`` takes by default, with --vae.
* independent columns, and the training rows themselves: what a perfect generator would come to.

log p(x) is the mean over the real, held-out half (of the VAE over its first 2,000 rows), in nats a
row, and of one measure for all: a column of numbers with a spike has log P at the spike and log
density elsewhere.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from synthetic import MEASURES, independent, measure
from tables import Array, Job, Table, from_arrow, load, schema_file, show, to_arrow

import taut
from taut.build.config import ModelConfig
from taut.build.model import build
from taut.build.statistics import summarize
from taut.build.usual import complete
from taut.data import Dataset, check_against, prepare, to_table
from taut.models import ExactModel
from taut.runs.making import sample_rows
from taut.use import tasks

MODELS = {
    "forest": "HiddenForest(slack=0.1)",
    "hidden tree": "HiddenTree(num_states=64)",
    "hidden tree, slack": "HiddenTree(num_states=64, slack=0.2)",
    "mixture": "Mixture(num_states=128)",
}
FEW = 2000  # held-out rows by which the VAE's log p(x) is estimated, with 500 samples each
Draw = Callable[[int, int], Array]


def prepared(table: Table, train: Array, real: Array) -> tuple[Dataset, torch.Tensor]:
    """Returns the training half, a tenth of it for validation, and the other half, in codes."""
    with tempfile.TemporaryDirectory() as folder:
        schema = str(schema_file(table, Path(folder) / "schema.toml"))
        data = prepare(to_arrow(table, train), schema=schema, seed=0, test_fraction=0.0)
    codes = check_against(to_arrow(table, real), data.schema).rows
    return data, torch.as_tensor(codes[:])


def exact_rows(
    table: Table, data: Dataset, held: torch.Tensor, spec: str, seed: int
) -> tuple[Draw, Job]:
    """Returns a generator of rows by a model that is exact, and what is known of it."""
    began = time.process_time()
    config = complete(ModelConfig(model=spec), data.schema)
    model = build(config, data.schema, summarize(data))
    assert isinstance(model, ExactModel)
    train, validation = (torch.as_tensor(part[:]) for part in (data.train, data.validation))
    passes = list(model.maximize(train, validation, max_passes=200, seed=seed))
    best = max(passes, key=lambda one: one.validation)
    told: Job = {"fit_cpu_s": time.process_time() - began, "passes": len(passes)}
    told |= {"best_pass": best.number, "validation": best.validation}
    with torch.no_grad():
        log_p = model.log_prob(held).double()
    told |= {"log_p": float(log_p.mean()), "log_p_se": float(log_p.std()) / len(log_p) ** 0.5}

    def draw(count: int, seed: int) -> Array:
        codes = tasks.sample(model, count, seed=seed)
        return from_arrow(table, to_table(codes, data.schema.modelled))

    return draw, told


def vae_rows(table: Table, train: Array, held: torch.Tensor, settings: Job) -> tuple[Draw, Job]:
    """Returns a generator of rows by the VAE that taut takes by default."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        schema = str(schema_file(table, Path(folder) / "schema.toml"))
        run = taut.fit(
            to_arrow(table, train),
            f"{folder}/run",
            schema=schema,
            model="VAE",
            test_fraction=0.0,
            **settings,
        )
    told: Job = {"fit_cpu_s": time.process_time() - began}
    log_p = taut.importance(run.model, held[:FEW], num_samples=500).log_evidence
    told |= {"log_p": float(log_p.mean()), "log_p_se": float(log_p.std()) / len(log_p) ** 0.5}

    def draw(count: int, seed: int) -> Array:
        return from_arrow(
            table,
            to_table(sample_rows(run, count, seed=seed), run.schema.modelled),
        )

    return draw, told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each exact model")
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--max-rows", type=int, help="of each half, for a quick look")
    parser.add_argument("--vae", action="store_true", help="train taut's VAE, too (2 CPU minutes)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = load(options.data, "adult")
    whole = table.values[~np.isnan(table.values).any(1)]
    order = np.random.default_rng(0).permutation(len(whole))
    half = min(len(whole) // 2, options.max_rows or len(whole))
    train, real = whole[order[:half]], whole[order[-half:]]
    data, held = prepared(table, train, real)
    results, lines = {}, []

    def report(name: str, draw: Draw, told: Job, draws: int) -> None:
        results[name] = told | measure(table, draw, real, draws)
        log_p = "{log_p:.3f} ± {log_p_se:.3f}".format(**told) if told else ""
        seconds = f"{told['fit_cpu_s']:.0f}" if told else ""
        each = ["{value:.3f} ± {se:.3f}".format(**results[name][m]) for m in MEASURES]
        lines.append([name, log_p, *each, seconds])
        print(*lines[-1], sep="  ", flush=True)

    report("real", lambda count, seed: train, {}, 1)
    for name in options.only:
        spec = MODELS[name]
        for seed in range(options.seeds):
            title = f"{name}, seed {seed}" if options.seeds > 1 else name
            report(title, *exact_rows(table, data, held, spec, seed), options.draws)
    report("independent columns", independent(train), {}, options.draws)
    if options.vae:
        report("VAE", *vae_rows(table, train, held, {"threads": 1}), options.draws)
    print(f"\n{len(train)} real rows to train on, {len(real)} held out\n")
    show(["rows", "log p(x)", *MEASURES, "fit, CPU s"], lines)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
