"""What an accelerator makes of taut, in ten minutes: training, log p(x), precisions, the largest
model, and static MNIST.

    python benchmarks/accelerator.py --out accelerator.json
    python benchmarks/accelerator.py --data STATIC.npz --out accelerator.json
    python benchmarks/accelerator.py --device cpu --seconds 0.2 --most-parameters 1e6   # a try

* *Training*: rows a second of the loop of ``taut fit`` (its warm-up and compilation come before the
  clock), of an MLP of 784-200-200-50 at several sizes of batch, of 50 samples of IWAE, of
  convolutions, a hierarchy of maps and a masked diffusion; in float32, in TF32 (products of float32
  numbers by fewer bits, where the device has them) and with the networks in bfloat16. Each training
  is of the same steps from the same seed: *nats* is the training bound over its last interval less
  that of float32.
* *log p(x)*: rows a second with K = 5000, and nats a row less those of float32 with the same noise.
* *The largest model*: layers of an MLP are doubled until memory ends or a step takes longer than
  the seconds of a measurement.
* With ``--data``, Larochelle's static MNIST (train_packed and test_packed): hierarchies of two and
  three levels of maps, ``--minutes`` each, the ELBO of all test images and log p(x) of every tenth,
  K = 1000.

Images are drawn from a seed otherwise: the speed does not depend on what they show. Rates are the
median of ``--repetitions``, with the least and the most. What a device cannot do is a row that says
why.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vamp import unpacked

import taut
from taut.build.config import Config
from taut.runs.fit import start
from taut.system.errors import TautError
from taut.training.loop import State, train

Job = dict[str, Any]
ROWS = 20_000  # images drawn
STEPS = 200  # of a training whose bound is compared
MLP = dict.fromkeys(("encoder", "decoder"), 'MLP(hidden=(200, 200), activation="tanh")')
CONVOLUTIONS = {"encoder": "ConvEncoder(channels=32)", "decoder": "ConvDecoder(channels=32)"}
WORKS: dict[str, tuple[Job, str | None, int]] = {  # model, objective, batch
    "MLP, batch 20": (MLP, None, 20),
    "MLP, batch 128": (MLP, None, 128),
    "MLP, batch 1024": (MLP, None, 1024),
    "MLP, batch 8192": (MLP, None, 8192),
    "MLP, IWAE of 50 samples, batch 128": (MLP, "IWAE(num_samples=50)", 128),
    "convolutions, batch 128": (CONVOLUTIONS, None, 128),
    "three levels of maps, batch 128": (
        {"model": "HierarchicalVAE(levels=3, channels=32)", "latent_dim": 8},
        None,
        128,
    ),
    "masked diffusion, batch 128": ({"model": "MaskedDiffusion()"}, None, 128),
}
PRECISIONS = ("float32", "TF32", "bfloat16")


@contextmanager
def precision(name: str) -> Iterator[str]:
    """Sets how products are computed for a block, and yields ``training.precision``."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "TF32" else "highest")
    try:
        yield "bfloat16" if name == "bfloat16" else "float32"
    finally:
        torch.set_float32_matmul_precision(before)


def settings(model: Job, objective: str | None, batch: int, device: str, networks: str) -> Config:
    own = {"objective": objective} if objective else {}
    return Config.from_dict(
        {
            "data": {"validation_fraction": 0.0, "test_fraction": 0.02},
            "model": {"latent_dim": 50} | model,
            "training": own
            | {
                "batch_size": batch,
                "max_epochs": 10**6,  # the number of steps is set below
                "device": device,
                "precision": networks,
                "seed": 0,
            },
        }
    )


def synchronized() -> float:
    """Returns the time once the accelerator has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def trained(images: Any, config: Config, seconds: float, repetitions: int) -> Job:
    """Returns rows a second over ``repetitions`` clocks, the bound after ``STEPS`` steps and the
    number of parameters.
    """
    with tempfile.TemporaryDirectory() as folder:
        run, data, _ = start(images, f"{folder}/run", config)
        state = State(total_steps=STEPS)
        records = train(run.model, run.objective, data, run.config.training, state)
        while not state.done:
            record = next(records)
        began, steps = synchronized(), state.step
        rates = list[float]()
        while len(rates) < repetitions:  # between two records the state is the caller's
            state.total_steps, state.done = state.total_steps + STEPS, False
            while not state.done:
                next(records)
            if (now := synchronized()) - began >= seconds:
                rates.append((state.step - steps) * config.training.batch_size / (now - began))
                began, steps = now, state.step
        count = sum(p.numel() for p in run.model.parameters())
    return {"rows_per_s": rates, "bound": record.bound, "parameters": count}


def measured(images: Any, device: str, networks: str, seconds: float, repetitions: int) -> Job:
    """Returns rows a second of log p(x) with K = 5000, and their mean log p(x)."""
    with tempfile.TemporaryDirectory() as folder:
        run, _, _ = start(images, f"{folder}/run", settings(MLP, None, 128, device, networks))
    run.model.to(device)
    x = torch.from_numpy(np.asarray(images[:512])).to(torch.get_default_dtype())
    rates, count = list[float](), 1
    taut.importance(run.model, x[:1], 5000)
    while len(rates) < repetitions:
        began = synchronized()
        found = taut.importance(run.model, x[:count], 5000)
        taken = synchronized() - began
        if taken < seconds / 2 and count < len(x):
            count = min(len(x), 2 * count)
            continue
        rates.append(count / taken)
    return {"rows_per_s": rates, "log_evidence": float(found.log_evidence[:1].mean())}


def largest(images: Any, device: str, networks: str, seconds: float, most: float) -> Job:
    """Returns the largest MLP of two hidden layers that could be trained, and what ended it."""
    width, found = 256, Job()
    while True:
        layers = dict.fromkeys(("encoder", "decoder"), f"MLP(hidden=({width}, {width}))")
        try:
            config = settings(layers, None, 128, device, networks)
            began = synchronized()
            now = trained(images, config, 0.0, 1)
        except (TautError, RuntimeError) as error:  # out of memory, as torch or taut says it
            return found | {"ended": str(error).splitlines()[0]}
        found = {"width": width, **now}
        if now["parameters"] > most:
            return found | {"ended": "the limit given"}
        if (synchronized() - began) / (2 * STEPS) > seconds:
            return found | {"ended": "time"}
        width *= 2


def mnist(source: Path, device: str, minutes: float, folder: Path) -> list[Job]:
    """Returns ELBO and log p(x) of static MNIST for hierarchies of two and three levels."""
    train, test = unpacked(source, folder)
    rows = list[Job]()
    for levels in (2, 3):
        run = taut.fit(
            str(train),
            folder / f"levels-{levels}",
            test=str(test),
            model=f"HierarchicalVAE(levels={levels}, channels=32, blocks=2)",
            latent_dim=8,
            objective="ELBO(warmup=0.2)",
            batch_size=250,
            minutes=minutes,
            device=device,
            num_samples=20,
        )
        x = torch.from_numpy(np.load(test)[::10]).to(torch.get_default_dtype())
        found = taut.importance(run.model.to(device), x, 1000).summary()
        evaluation = run.evaluation()
        rows.append(
            {
                "levels": levels,
                "elbo": evaluation["elbo"],
                "log_evidence": found["log_evidence"].to_dict(),
            }
        )
    return rows


def told(rates: list[float]) -> str:
    middle = f"{statistics.median(rates):,.0f}"
    return f"{middle} ({min(rates):,.0f}–{max(rates):,.0f})" if len(rates) > 1 else middle


def line(*cells: Any) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a measurement")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--most-parameters", type=float, default=1e9, help="of the largest model")
    parser.add_argument("--only", nargs="*", help="works whose names hold one of these")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0, help="of each hierarchy of --data")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device, seconds, repetitions = options.device, options.seconds, options.repetitions
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor()
    results: Job = {"device": name or device, "torch": torch.__version__, "rows": []}
    images = (np.random.default_rng(0).random((ROWS, 28, 28)) < 0.2).astype(np.uint8)

    def kept(row: Job) -> None:
        results["rows"].append(row)
        if options.out:  # what is measured stays, whatever becomes of the next
            options.out.write_text(json.dumps(results, indent=2) + "\n")

    print(f"{results['device']}, torch {results['torch']}\n")
    line("work", "products", "rows a second", "nats less those of float32")
    line(*["---"] * 4)
    works = {
        work: given
        for work, given in WORKS.items()
        if not options.only or any(part in work for part in options.only)
    }
    for work, given in works.items():
        exact = None
        for each in PRECISIONS:
            with precision(each) as networks:
                try:
                    row = trained(images, settings(*given, device, networks), seconds, repetitions)
                except (TautError, RuntimeError) as error:
                    row = {"error": str(error).splitlines()[0]}
            kept({"work": work, "products": each, **row})
            if "error" in row:
                line(work, each, "not measured", row["error"])
                continue
            exact = row["bound"] if exact is None else exact
            line(work, each, told(row["rows_per_s"]), f"{row['bound'] - exact:+.3f}")
    exact = None
    for each in PRECISIONS[:2]:
        with precision(each) as networks:
            row = measured(images, device, networks, seconds, repetitions)
        kept({"work": "log p(x), K = 5000", "products": each, **row})
        exact = row["log_evidence"] if exact is None else exact
        moved = row["log_evidence"] - exact
        line("log p(x), K = 5000", each, told(row["rows_per_s"]), f"{moved:+.1e}")
    row = largest(images, device, "float32", seconds, options.most_parameters)
    kept({"work": "largest", **row})
    print(f"\nlargest MLP: {row.get('parameters', 0):,} parameters; ended by: {row['ended']}")
    if options.data is None:
        print("static MNIST: not measured (give --data)")
        return
    with tempfile.TemporaryDirectory() as folder:
        for found in mnist(options.data, device, options.minutes, Path(folder)):
            kept({"work": "static MNIST", **found})
            elbo, nats = found["elbo"]["value"], found["log_evidence"]["value"]
            print(f"static MNIST, {found['levels']} levels: ELBO {elbo:.2f}, log p(x) {nats:.2f}")


if __name__ == "__main__":
    main()
