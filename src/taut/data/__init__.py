"""Data: read, understood, checked, split and ready in batches."""

from taut.data.dataset import Dataset, batch, check_against, draw_bits, prepare
from taut.data.readers import Source, read
from taut.data.schema import Schema, infer, problems
from taut.data.split import fingerprint, num_duplicates, split

__all__ = [
    "Dataset",
    "Schema",
    "Source",
    "batch",
    "check_against",
    "draw_bits",
    "fingerprint",
    "infer",
    "num_duplicates",
    "prepare",
    "problems",
    "read",
    "split",
]
