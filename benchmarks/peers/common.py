"""What all workers share: the job, the data, the clock. It needs numpy alone, so that it runs in
every environment.

A worker is a process that gets a job as JSON and prints its result as one line of JSON, the last
one of its output.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LATENT, HIDDEN, SIDE = 50, 200, 28
Job = dict[str, Any]


def job_given() -> Job:
    job: Job = json.loads(sys.argv[1])
    return job


def answer(**result: Any) -> None:
    print("\n" + json.dumps(result, allow_nan=False), flush=True)


def grey(job: Job) -> NDArray[np.uint8]:
    """Returns the images, (N, 28, 28)."""
    images: NDArray[np.uint8] = np.load(job["data"])
    return images


def order(job: Job, steps: int) -> NDArray[np.int64]:
    """Returns the rows of each of so many batches, (steps, batch), drawn without replacement as
    long as there are any.
    """
    random, images = np.random.default_rng(job["seed"]), len(grey(job))
    passes = -(-steps * job["batch"] // images)
    rows = np.concatenate([random.permutation(images) for _ in range(passes)])
    return rows[: steps * job["batch"]].reshape(steps, job["batch"])


def bits(job: Job, rows: int) -> NDArray[np.float32]:
    """Returns so many images binarised once, (rows, 784).

    For peers that take their data as they are.
    """
    p = np.resize(grey(job), (rows, SIDE * SIDE)) / np.float32(255)
    drawn: NDArray[np.float32] = (
        np.random.default_rng(job["seed"]).random(p.shape, np.float32) < p
    ).astype(np.float32)
    return drawn


def factors() -> tuple[
    NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]
]:
    """Returns rows to train on and rows to test on of a factor analysis model, its loadings (d, D)
    and noise variances (d,).
    """
    random = np.random.default_rng(0)
    loadings, noise = random.normal(size=(50, 8)), random.uniform(0.2, 2.0, 50)
    x = random.normal(size=(5000, 8)) @ loadings.T + random.normal(size=(5000, 50)) * np.sqrt(noise)
    return x[:4000], x[4000:], loadings, noise


def log_normal(
    x: NDArray[Any], mean: NDArray[Any], loadings: NDArray[Any], noise: NDArray[Any]
) -> float:
    """Returns the mean over the rows of log N(x; mean, W W' + diag(noise)), exactly."""
    covariance = loadings @ loadings.T + np.diag(noise)
    centred = x - mean
    squared = np.einsum("nd,nd->n", centred, np.linalg.solve(covariance, centred.T).T)
    return float(-0.5 * (squared.mean() + np.linalg.slogdet(2 * np.pi * covariance)[1]))


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def machine_seconds() -> float | None:
    """Returns the CPU seconds that all processes of the machine have used.

    None where the system does not say.
    """
    try:
        user, nice, system, _, _, irq, softirq, *_ = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        )
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Creates a stopwatch that runs from the last step of the warm-up to the last step of all.

    Args:
        job: Says how many steps there are of each.
    """

    def __init__(self, job: Job) -> None:
        self.batch, self.warmup, self.steps = job["batch"], job["warmup"], job["steps"]
        self.done, self.result = 0, dict[str, Any]()

    def tick(self, steps: int = 1) -> None:
        """Notes that so many steps are over."""
        self.done += steps
        if self.done == self.warmup:
            self.start()
        elif self.done == self.warmup + self.steps:
            self.stop()

    def start(self) -> None:
        self.before = time.perf_counter(), cpu_seconds(), machine_seconds()

    def stop(self) -> None:
        wall, cpu = time.perf_counter() - self.before[0], cpu_seconds() - self.before[1]
        everything, earlier = machine_seconds(), self.before[2]
        others = (
            None
            if everything is None or earlier is None
            else max(0.0, (everything - earlier - cpu) / wall)
        )
        samples = self.steps * self.batch
        self.result = {
            "samples": samples,
            "samples_per_s": samples / wall,
            "wall_s": wall,
            "cpu_s": cpu,
            "other_cores": others,
        }


class Memory:
    """Creates a meter of the growth of the peak memory since now, in MiB."""

    def __init__(self) -> None:
        # glibc: what is free goes back, or it would be used again unseen
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        self.resettable = True
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is used now
        except OSError:
            self.resettable = False
        self.base = self._peak()

    def grown(self) -> float:
        return max(0.0, self._peak() - self.base)  # the system counts in steps of some pages

    def _peak(self) -> float:
        if self.resettable:
            line = next(
                s
                for s in Path("/proc/self/status").read_text().splitlines()
                if s.startswith("VmHWM")
            )
            return int(line.split()[1]) / 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 2**10
        )
