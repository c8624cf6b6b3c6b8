"""Bits from grey images: x ~ Bernoulli(p) with p = grey / 255, drawn exactly and fast.

Grey data are levels 0..255, which are kept as bytes, or real values p in [0, 1].
"""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
import torch

from taut.data.notes import is_divided_by_255
from taut.data.problems import found, problems
from taut.data.schema import Kind, Schema, chunks, integers_only
from taut.data.tables.words import float_storage
from taut.system.errors import UsageError

__all__ = [
    "BINARIZE",
    "draw_bits",
    "fixed_bits",
    "grey_problems",
    "grey_schema",
    "in_floats",
    "stored_grey",
]

BINARIZE = ("none", "dynamic", "threshold")


def draw_bits(x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Returns bits, each 1 with its own probability p, in torch's default dtype.

    A byte x means p = x / 255, a float p itself.
    """
    if x.dtype == torch.uint8 and x.device.type == "cpu":
        # Torch widens bytes faster than booleans.
        bits = torch.from_numpy(_bits_of_bytes(x, generator).view(np.uint8))
    else:
        p = x / 255 if x.dtype == torch.uint8 else x
        bits = torch.rand(p.shape, dtype=p.dtype, device=p.device, generator=generator) < p
    return bits.to(torch.get_default_dtype())


def _bits_of_bytes(x: torch.Tensor, generator: torch.Generator | None) -> np.ndarray:
    """Returns bits of probability x / 255, from one random byte each.

    In base 256, x / 255 is 0.xxx...: a uniform number is below it if its first digit is below x,
    and where that digit is x the next ones decide. Those come from one more number for each row, by
    the generator of Steele, Lea and Flood (2014).
    """
    grey = x.reshape(len(x), math.prod(x.shape[1:])).numpy()
    words = math.ceil(grey.shape[1] / 8)
    words_of_rows = torch.empty(len(x), words + 1, dtype=torch.int64)
    noise = words_of_rows.random_(-(2**63), None, generator=generator).numpy()
    digits = noise.view(np.uint8)[:, : grey.shape[1]]
    bits = digits < grey
    tie = np.flatnonzero(digits == grey)
    if len(tie):
        row, column = np.divmod(tie, grey.shape[1])
        golden = np.uint64(0x9E3779B97F4A7C15)
        state = noise[row, words].view(np.uint64) + (column + 1).astype(np.uint64) * golden
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
        bits[row, column] = (state >> np.uint64(11)) * 2.0**-53 < grey[row, column] / 255
    return bits.reshape(x.shape)


def fixed_bits(grey: torch.Tensor, seed: int, part: str) -> torch.Tensor:
    """Returns bits drawn once, as bytes, from a stream of their own for each part.

    Other users of ``seed`` must not repeat them.
    """
    digest = blake2b(f"taut.data {part} {seed}".encode(), digest_size=7).digest()
    own = int.from_bytes(digest, "little")
    return draw_bits(grey, torch.Generator().manual_seed(own)).to(torch.uint8)


def grey_schema(array: np.ndarray, kind: Kind | None, levels: tuple[int, int] | None) -> Schema:
    """Returns the schema of grey data: levels 0..255, or real values p in [0, 1].

    Raises:
        UsageError: the given kind or levels contradict ``--binarize``.
    """
    if kind not in (None, "binary"):
        raise UsageError(f"--binarize makes binary data; omit --kind {kind}")
    if levels not in (None, (0, 255)):
        low, high = levels
        rescaled = f"(x - {low}) / {high - low}" if low else f"x / {high}"
        raise UsageError(
            f"--binarize reads levels 0..255, not {low}..{high}; omit it, or save {rescaled} and "
            f"give that"
        )
    if integers_only(array) and (array.dtype.kind != "f" or array.max() > 1):
        return Schema("levels", array.shape[1:], 0.0, 255.0)
    return Schema("real", array.shape[1:], 0.0, 1.0)


def grey_problems(
    array: np.ndarray, schema: Schema, name: str, min_rows: int, *, training: bool
) -> list[str]:
    """Returns everything that keeps an array from being grey data of a shape, a line each.

    Args:
        array: The data, N first.
        schema: Only its event shape matters.
        name: The name of the data in the lines.
        min_rows: Fewest rows allowed.
        training: Also refuse data that are bits already.
    """
    grey = grey_schema(array, None, None)
    grey = Schema(grey.kind, schema.event_shape, grey.low, grey.high)
    # A pixel that is always black is fine as a bit.
    lines = problems(array, grey, name, min_rows, training=False)
    if grey.kind == "real":
        remedy = "--binarize needs levels 0..255 or values in [0, 1]"
        lines += found(name, array, _outside_unit, "outside [0, 1]", remedy)
    if training and _is_bits(array):
        lines.append(f"{name}: is binary already; omit --binarize")
    return lines


def _outside_unit(x: np.ndarray) -> np.ndarray:
    return np.isfinite(x) & ((x < 0) | (x > 1))


def _is_bits(array: np.ndarray) -> bool:
    return all(bool(np.all((x == 0) | (x == 1))) for x in chunks(array))


def stored_grey(array: np.ndarray, binarize: str) -> np.ndarray:
    """Returns grey data as they are stored: bits, bytes 0..255, or probabilities as floats."""
    if _is_bits(array):
        sure = 255 if binarize == "dynamic" else 1  # grey 255 is always 1
        return array.astype(np.uint8) * np.uint8(sure)
    in_bytes = integers_only(array)
    if is_divided_by_255(array):
        array, in_bytes = np.rint(255.0 * array).astype(np.uint8), True
    if binarize == "threshold":
        half = 128 if in_bytes else 0.5
        return (array >= half).astype(np.uint8)
    if in_bytes:
        return array.astype(np.uint8)
    return in_floats(array)


def in_floats(array: np.ndarray) -> np.ndarray:
    """Returns an array in float32, or in float64 if it needs that and torch computes in it."""
    exact = np.result_type(array.dtype, np.float32)
    return array.astype(np.float32 if exact == np.float32 else float_storage())
