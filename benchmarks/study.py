"""Which settings of the training buy nats: one setting is changed at a time, for the same number of
passes over the data.

    python benchmarks/study.py MNIST.npz:train_images OMNIGLOT.npz:images UCI.npz:wine_white --jobs
    2 --json study.json

Bytes are images, binarised anew in each pass, under the network 784-200-200-50 with tanh; a table
has taut's own network. A fifth of the rows, at most 2,000, are held out by one draw for all
trainings, and log p(x) of each is estimated with K = 200. A cell of the table is the mean over the
seeds of log p(x) less that of the defaults, from the same seed, in nats, with its standard error
from the held-out rows (another seed's training is not in it) and in brackets the least and the most
of the seeds. The last column is the CPU time of the training, relative to the defaults. What taut
does by default and has no option for (a cosine, an output that starts at the marginal of the data,
batches of one size) is changed inside of it, in the process of that training (``peers/study.py``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from speed import Result, Side, last_line, measured


class Variant(NamedTuple):
    """One row of the table.

    Args:
        training: Settings of the training that are not the defaults.
        patch: What is changed in taut itself; for images only, where it says so.
    """

    training: dict[str, Any]
    patch: str = ""
    images: bool = False


DEFAULTS = "defaults"
VARIANTS = {
    DEFAULTS: Variant({}),
    "rate 5e-4": Variant({"learning_rate": 5e-4}),
    "rate 1e-3": Variant({"learning_rate": 1e-3}),
    "rate 4e-3": Variant({"learning_rate": 4e-3}),
    "rate 8e-3": Variant({"learning_rate": 8e-3}),
    "constant rate": Variant({}, "constant"),
    "batches of 64": Variant({"batch_size": 64}),
    "batches of 256": Variant({"batch_size": 256}),
    "batches of 64, then 192": Variant({"batch_size": 192}, "growing"),
    "no average of the weights": Variant({"averaging": 0.0}),
    "average over 100 steps": Variant({"averaging": 0.99}),
    "weight decay 0.01": Variant({"weight_decay": 0.01}),
    "no clipping": Variant({"clip_norm": 1e9}),
    "output starts at zero": Variant({}, "no offset", images=True),
    "ELBO, warm-up": Variant({"objective": "ELBO(warmup=0.2)"}),
    "IWAE, K = 5": Variant({"objective": "IWAE(num_samples=5)"}),
    "DReG, K = 5": Variant({"objective": "DReG(num_samples=5)"}),
}


def difference(results: list[Result], base: list[Result]) -> str:
    """Returns the mean over the seeds of what a variant gains, and its range.

    The message where one failed.
    """
    for result in results + base:
        if "error" in result:
            return str(result["error"]).replace("|", "/")
    each = [
        np.subtract(a["log_evidence"], b["log_evidence"])
        for a, b in zip(results, base, strict=True)
    ]
    gains = [float(gain.mean()) for gain in each]
    middle = f"{statistics.mean(gains):+.2f} ± {error_of(np.mean(each, 0)):.2f}"
    return f"{middle} ({min(gains):+.2f} to {max(gains):+.2f})" if len(gains) > 1 else middle


def error_of(values: Any) -> float:
    """Returns the standard error of the mean of independent numbers."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5)


def cost(results: list[list[Result]], base: list[list[Result]]) -> str:
    pairs = [
        (r, b) for rs, bs in zip(results, base, strict=True) for r, b in zip(rs, bs, strict=True)
    ]
    ratios = [r["cpu_s"] / b["cpu_s"] for r, b in pairs if "error" not in r and "error" not in b]
    return f"{statistics.median(ratios):.1f}" if ratios else ""


def table(results: dict[tuple[str, str], list[Result]], sources: list[str]) -> str:
    names = [source.rpartition(":")[2] for source in sources]
    lines = ["| changed | " + " | ".join(names) + " | CPU |", "|---" * (len(names) + 2) + "|"]
    for name in VARIANTS:
        rows = [results.get((source, name), []) for source in sources]
        base = [
            results[source, DEFAULTS] if row else []
            for source, row in zip(sources, rows, strict=True)
        ]
        if name == DEFAULTS:
            cells = []
            for row in rows:
                known = [r["log_evidence"] for r in row if "error" not in r]
                value = (
                    f"log p(x) {np.mean(known):.2f} ± {error_of(np.mean(known, 0)):.2f}"
                    if known
                    else row[0]["error"]
                )
                cells.append(value)
        else:
            cells = [difference(row, b) if row else "" for row, b in zip(rows, base, strict=True)]
        if any(rows):
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {cost(rows, base)} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", nargs="+", help="FILE.npz:KEY, rows of bytes (grey images) or of numbers"
    )
    parser.add_argument(
        "--steps", type=int, default=8000, help="of 128 rows; in whole passes over the data"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="and the defaults"
    )
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--num-samples", type=int, default=200, help="K")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    wanted = {name: v for name, v in VARIANTS.items() if name == DEFAULTS or name in options.only}
    jobs = []
    for source in options.data:
        file, _, key = source.rpartition(":")
        try:
            with np.load(file) as arrays:
                images = arrays[key].dtype == np.uint8
        except (OSError, KeyError, ValueError) as error:
            sys.exit(f"{source}: {error}; give FILE.npz:KEY")
        job = {"file": str(Path(file).resolve()), "key": key, "threads": 1, "steps": options.steps}
        job |= {"test_rows": options.test_rows, "num_samples": options.num_samples}
        for seed in range(options.seeds):
            jobs += [
                (source, name, job | {"seed": seed, "training": v.training, "patch": v.patch})
                for name, v in wanted.items()
                if images or not v.images
            ]

    def trained(job: tuple[str, str, Result]) -> tuple[str, str, Result]:
        source, name, what = job
        result = measured(Side(name, "study"), what, Path(sys.executable), 3600)
        said = (
            result.get("error")
            or f"{np.mean(result['log_evidence']):.3f} nats, {result['cpu_s']:.0f} CPU s"
        )
        print(
            f"{source.rpartition(':')[2]}, {name}, seed {what['seed']}: {said}",
            file=sys.stderr,
            flush=True,
        )
        return source, name, result

    results: dict[tuple[str, str], list[Result]] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for source, name, result in pool.map(trained, jobs):
            results.setdefault((source, name), []).append(result)
    print(table(results, options.data))
    if options.json:
        rows = [
            {"data": source, "changed": name, "runs": runs}
            for (source, name), runs in results.items()
        ]
        options.json.write_text(
            json.dumps({"steps": options.steps, "rows": rows}, allow_nan=False) + "\n"
        )
    failed = [r["error"] for runs in results.values() for r in runs if "error" in r]
    if failed:
        sys.exit(last_line(failed[0]))


if __name__ == "__main__":
    main()
