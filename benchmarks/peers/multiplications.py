"""The matrix products and convolutions of a step alone, forward and backward, without autograd:
what the rest is measured by.

Matrix products are torch.mm, whose library is MKL on x86, or (``oneDNN``) those that torch's
convolutions are made of. Which is faster depends on the processor: MKL uses AVX-512 on Intel's
alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from peers.common import HIDDEN, LATENT, SIDE, Memory, Watch, answer, job_given
from torch import Tensor

onednn = torch.ops.mkldnn._linear_pointwise  # x W'
CHUNK = {"mlp": 1000, "conv": 500}  # rows decoded at a time in evaluation: they stay in the cache

job = job_given()


def linear(rows: int, inputs: int, outputs: int, first: bool, backward: bool) -> Callable[[], None]:
    x, w, y = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
    dx, dw, dy = torch.empty_like(x), torch.empty_like(w), torch.randn_like(y)

    def run_onednn() -> None:
        onednn(x, w, None, "none", [], "")
        if backward:
            onednn(dy.T, x.T, None, "none", [], "")
            if not first:
                onednn(dy, w.T, None, "none", [], "")

    def run() -> None:
        torch.mm(x, w.T, out=y)
        if backward:
            torch.mm(dy.T, x, out=dw)
            if not first:
                torch.mm(dy, w, out=dx)

    return run_onednn if job["variant"] == "oneDNN" else run


def convolution(
    rows: int,
    shape: tuple[int, int, int],
    channels: int,
    transposed: bool,
    extra: int,
    first: bool,
    backward: bool,
) -> Callable[[], None]:
    def image(*size: int) -> Tensor:
        return torch.randn(*size).contiguous(memory_format=torch.channels_last)

    x = image(rows, *shape)
    w = image(shape[0], channels, 3, 3) if transposed else image(channels, shape[0], 3, 3)
    how = [2, 2], [1, 1], [1, 1], transposed, [extra, extra], 1
    dy = torch.randn_like(torch.ops.aten.convolution(x, w, None, *how))

    def run() -> None:
        torch.ops.aten.convolution(x, w, None, *how)
        if backward:
            torch.ops.aten.convolution_backward(dy, x, w, None, *how, [not first, True, False])

    return run


def encoder(model: str, rows: int) -> list[Callable[[], None]]:
    if model == "mlp":
        widths = [(SIDE * SIDE, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 2 * LATENT)]
        return [linear(rows, a, b, number == 0, True) for number, (a, b) in enumerate(widths)]
    return [
        convolution(rows, (1, 28, 28), 32, False, 0, True, True),
        convolution(rows, (32, 14, 14), 64, False, 0, False, True),
        convolution(rows, (64, 7, 7), 128, False, 0, False, True),
        linear(rows, 128 * 16, 2 * LATENT, False, True),
    ]


def decoder(model: str, rows: int, backward: bool) -> list[Callable[[], None]]:
    if model == "mlp":
        return [
            linear(rows, a, b, False, backward)
            for a, b in ((LATENT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, SIDE * SIDE))
        ]
    return [
        linear(rows, LATENT, 128 * 16, False, backward),
        convolution(rows, (128, 4, 4), 64, True, 0, False, backward),
        convolution(rows, (64, 7, 7), 32, True, 1, False, backward),
        convolution(rows, (32, 14, 14), 1, True, 1, False, backward),
    ]


def train() -> None:
    samples = 50 if job["objective"] == "iwae50" else 1
    parts = encoder(job["model"], job["batch"]) + decoder(
        job["model"], job["batch"] * samples, True
    )
    watch = Watch(job)
    for _ in range(job["warmup"] + job["steps"]):
        for part in parts:
            part()
        watch.tick()
    answer(**watch.result, version=torch.__version__)


def evaluate() -> None:
    chunk = min(CHUNK[job["model"]], job["num_samples"])
    parts = decoder(job["model"], chunk, False)
    watch, memory = Watch(job), Memory()
    for _ in range(job["warmup"] + job["steps"]):  # a step is one datum
        for _ in range(job["num_samples"] // chunk):
            for part in parts:
                part()
        watch.tick()
    answer(**watch.result, peak_mib=memory.grown(), version=torch.__version__)


if __name__ == "__main__":
    torch.set_num_threads(job["threads"])
    with torch.no_grad():
        {"train": train, "evaluate": evaluate}[job["do"]]()
