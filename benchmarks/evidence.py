"""What log p(x) by importance sampling costs: ``taut.importance`` against ``VAE.get_nll`` of pythae
0.1.2.

    python benchmarks/evidence.py RUN MNIST.npz --rows 20 --num-samples 5000

RUN is a run of ``benchmarks/mnist.py``, or another with a standard normal prior,
``DiagonalNormal``, ``Bernoulli`` and tanh networks; MNIST.npz holds test_images, uint8. pythae gets
the same weights and rows, in an environment that is made on first use.

Every measurement is a process of its own with one thread, the sides in turn. CPU seconds are those
of the call alone, after a warm-up call on one row. Memory is the growth of the peak over the call,
in a process that has only made a call with K = 2. That both sides compute the same is checked
twice: log w at the posterior's mean must agree to rounding, the estimates within six standard
errors (three repetitions of normal estimates would exceed them by chance in 0.2 % of the cases).
The error is that of the spread between repetitions, pooled over the sides: the one that the weights
tell is too small where few of them carry the sum. The matrix products of taut's call are recorded,
and timed alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

# torch is imported by the workers alone: a process starts with the peak memory of the one that made
# it.
PYTHAE = "0.1.2"
TAUT, PRODUCTS, BATCHES = "taut.importance", "taut's matrix products alone", (100, 1000)
# 0: not pythae; its default is 100
SIDES = {
    TAUT: 0,
    PRODUCTS: 0,
    **{f"pythae, batch_size={batch}": batch for batch in BATCHES},
}
MEMORY = [(1, 50), (1, 5000), (1, 50000), (20, 500), (200, 500), (1000, 500)]  # N, K
Job = dict[str, Any]


def measured(call: Callable[[], Any], warm_up: Callable[[], Any]) -> tuple[Any, Job]:
    """Returns the value of a call, its CPU seconds and the MiB by which it raised the peak memory
    of the process.
    """
    warm_up()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    value = call()
    seconds, after = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value, {
        "cpu_s": seconds,
        "mib": (after - before) / (2**20 if sys.platform == "darwin" else 2**10),
    }


def measure_taut(job: Job) -> Job:
    import torch

    import taut

    model, x = taut.load(job["run"]).model, torch.from_numpy(np.load(job["images"])[: job["rows"]])
    if job["at_mean"]:
        with torch.no_grad():
            q = model.encode(x)
            z = q.mean[None]
            log_w = model.decode(z).log_prob(x) + model.prior().log_prob(z) - q.log_prob(z)
        return {"at_mean": float(log_w.mean())}
    k, call = job["num_samples"], functools.partial(taut.importance, model, seed=job["seed"])
    if job["side"] == PRODUCTS:
        products = matrix_products(lambda: call(x[:1], k))

        def multiply(times: int) -> None:
            for function, arguments in products * times:
                function(*arguments)

        with torch.no_grad():
            result = measured(lambda: multiply(len(x)), lambda: multiply(1))[1]
        return {
            "cpu_s": result["cpu_s"],
            "gflop": sum(2e-9 * a.numel() * b.shape[-1] for _, (*_, a, b) in products) * len(x),
        }
    evidence, result = measured(lambda: call(x, k), lambda: call(x[:1], job["warm_up"]))
    return result | evidence.summary()["log_evidence"].to_dict()


def matrix_products(call: Callable[[], Any]) -> list[tuple[Any, Any]]:
    """Returns the matrix products that a call makes.

    Functions and their tensors, shared where shape and layout are the same.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    tensors: dict[Any, Any] = {}
    products = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm"):
                key = (func, *((a.shape, a.stride()) for a in args))
                products.append((func, tensors.setdefault(key, args)))
            return func(*args, **(kwargs or {}))

    with Record():
        call()
    return products


def measure_pythae(job: Job) -> Job:
    import torch
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from safetensors.torch import load_file
    from torch.nn.functional import linear, softplus

    w = load_file(f"{job['run']}/model.safetensors")
    x = torch.from_numpy(np.load(job["images"])[: job["rows"]]).flatten(1)
    names = ("posterior.standardize.loc", "posterior.standardize.scale", "likelihood.offset")
    loc, scale, offset = (w[name].flatten() for name in names)

    def tanh_network(part: str, h: Any) -> Any:
        for number in (0, 2, 4):
            h = linear(
                h.tanh() if number else h,
                w[f"{part}.layers.{number}.weight"],
                w[f"{part}.layers.{number}.bias"],
            )
        return h

    class Encoder(BaseEncoder):
        def forward(self, x: Any) -> Any:
            mean, raw = tanh_network("posterior.encoder", (x - loc) / scale).chunk(2, -1)
            return ModelOutput(
                embedding=mean, log_covariance=2 * softplus(raw + math.log(math.e - 1)).log()
            )

    class Decoder(BaseDecoder):
        def forward(self, z: Any) -> Any:
            return ModelOutput(
                reconstruction=(tanh_network("likelihood.decoder", z) + offset).sigmoid()
            )

    config = VAEConfig(
        input_dim=tuple(x.shape[1:]), latent_dim=len(w["prior.loc"]), reconstruction_loss="bce"
    )
    model = VAE(config, encoder=Encoder(), decoder=Decoder()).eval()
    with torch.no_grad():  # get_nll returns log p(x), its name notwithstanding
        if job["at_mean"]:
            model._sample_gauss = lambda mean, scale: (mean, 0 * mean)
            return {"at_mean": float(model.get_nll(x, 1, 1))}
        # with one seed both batch sizes would draw the same
        torch.manual_seed(job["seed"] + job["batch"])
        k, batch, warm_up = job["num_samples"], job["batch"], job["warm_up"]
        value, result = measured(
            lambda: model.get_nll(x, k, batch),
            lambda: model.get_nll(x[:1], warm_up, min(batch, warm_up)),
        )
    return result | {"value": float(value)}


def pythae_python(folder: Path) -> Path:
    """Returns the interpreter of pythae's environment, with the torch that runs here.

    Installs it where it is missing.
    """
    torch = version("torch").split("+")[0]
    env = folder / f"pythae-{PYTHAE}-torch-{torch}"
    python = env / "bin" / "python"
    if not (env / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", env], check=True)
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "-qq",
                f"pythae=={PYTHAE}",
                f"torch=={torch}",
                "safetensors",
            ],
            check=True,
        )
        (env / "installed").touch()
    return python


def shown(values: list[float], digits: int) -> str:
    return (
        f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to "
        f"{max(values):.{digits}f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--num-samples", type=int, default=5000, help="K, a multiple of 1000")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--envs", type=Path, default=Path("~/.cache/taut-benchmarks"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    n, k = options.rows, options.num_samples
    # get_nll would leave out the remainder; one value has no spread
    if k % max(BATCHES) or options.repetitions < 2:
        parser.error("--num-samples must be a multiple of 1000, --repetitions at least 2")
    theirs = pythae_python(options.envs.expanduser())
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    runs: dict[str, list[Job]] = {side: [] for side in SIDES}
    peaks: dict[tuple[int, int], list[float]] = {size: [] for size in MEMORY}

    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(0)
        with np.load(options.data) as arrays:
            intensity = (
                random.permutation(arrays["test_images"])[: max(n, *(rows for rows, _ in MEMORY))]
                / 255
            )
        np.save(
            f"{folder}/images.npy", (random.random(intensity.shape) < intensity).astype(np.float32)
        )

        def result(
            side: str, rows: int, num_samples: int, seed: int, warm_up: int, at_mean: bool = False
        ) -> Job:
            job = {
                "side": side,
                "rows": rows,
                "num_samples": num_samples,
                "seed": seed,
                "warm_up": warm_up,
                "at_mean": at_mean,
            }
            job |= {"run": options.run, "images": f"{folder}/images.npy", "batch": SIDES[side]}
            command = [
                theirs if SIDES[side] else sys.executable,
                __file__,
                "--work",
                json.dumps(job),
            ]
            return json.loads(
                subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
            )

        at_mean = {
            side: result(side, n, k, 0, 2, at_mean=True)["at_mean"]
            for side in SIDES
            if side != PRODUCTS
        }
        if max(at_mean.values()) - min(at_mean.values()) > 1e-4:
            sys.exit(f"not the same model: log w at the posterior's mean is {at_mean}")
        for seed in range(options.repetitions):
            for side, results in runs.items():
                results.append(result(side, n, k, seed, warm_up=k))
                if side != PRODUCTS:
                    results[-1]["mib"] = result(side, n, k, seed, warm_up=2)["mib"]
            for (rows, samples), mib in peaks.items():
                mib.append(result(TAUT, rows, samples, seed, warm_up=2)["mib"])

    mine, values = (
        runs[TAUT],
        {side: [r["value"] for r in results] for side, results in runs.items() if side != PRODUCTS},
    )
    spread = math.sqrt(statistics.mean(statistics.variance(v) for v in values.values()))
    error = spread / math.sqrt(options.repetitions)
    print(
        f"N = {n}, K = {k}, one thread, torch {version('torch')}; median (least to most) of "
        f"{options.repetitions} runs\n"
    )
    print(
        "| what | CPU s | relative to taut | peak memory, MiB | log p(x), nats per datum | ± MC "
        "|\n|---|---|---|---|---|---|"
    )
    for side, results in runs.items():
        ratio = statistics.median(
            r["cpu_s"] / m["cpu_s"] for r, m in zip(results, mine, strict=True)
        )
        cells = [side, shown([r["cpu_s"] for r in results], 2), f"{ratio:.2f}"]
        if side == PRODUCTS:
            cells += ["", "", ""]
        else:
            cells += [
                shown([r["mib"] for r in results], 1),
                f"{statistics.mean(values[side]):.3f}",
                f"{error:.3f}",
            ]
        print("| " + " | ".join(cells) + " |")
    print("\n| taut: N | K | peak memory, MiB |\n|---|---|---|")
    for (rows, samples), mib in peaks.items():
        print(f"| {rows} | {samples} | {shown(mib, 1)} |")
    differences = {
        side: statistics.mean(v) - statistics.mean(values[TAUT])
        for side, v in values.items()
        if side != TAUT
    }
    distance = {
        side: difference / (math.sqrt(2) * error) for side, difference in differences.items()
    }
    print(f"\nmatrix products: {runs[PRODUCTS][0]['gflop']:.1f} GFLOP")
    told = statistics.median(r["mc_error"] for r in mine)
    print(
        f"standard deviation of one estimate: {spread:.3f} between runs, {told:.3f} by the weights"
    )
    print(
        "log w at the posterior's mean: "
        + ", ".join(f"{side} {v:.5f}" for side, v in at_mean.items())
    )
    print(
        "estimates, distance from taut's in standard errors: "
        + ", ".join(f"{side} {z:+.2f}" for side, z in distance.items())
    )
    if options.json:
        memory = [
            {"rows": rows, "num_samples": samples, "mib": mib}
            for (rows, samples), mib in peaks.items()
        ]
        report: Job = {
            "rows": n,
            "num_samples": k,
            "torch": version("torch"),
            "pythae": PYTHAE,
            "runs": runs,
            "memory": memory,
        }
        report |= {"at_mean": at_mean, "distance": distance}
        options.json.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    sys.exit(any(abs(z) > 6 for z in distance.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        job = json.loads(sys.argv[2])
        print(json.dumps((measure_pythae if job["batch"] else measure_taut)(job), allow_nan=False))
    else:
        main()
