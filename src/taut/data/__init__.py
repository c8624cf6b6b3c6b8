"""Data: read, understood, checked, split and ready in batches."""

from taut.data.bits import draw_bits
from taut.data.dataset import Dataset, batch, prepare
from taut.data.new import New, check_against
from taut.data.problems import problems
from taut.data.readers import Options, Source, read
from taut.data.rows import Rows, block_size, blocks
from taut.data.schema import Schema, infer
from taut.data.split import fingerprint, hashes_of, num_duplicates, split
from taut.data.tables.column import Column
from taut.data.tables.infer import decode, to_toml
from taut.data.tables.prepare import fill, to_table

__all__ = [
    "Column",
    "Dataset",
    "New",
    "Options",
    "Rows",
    "Schema",
    "Source",
    "batch",
    "block_size",
    "blocks",
    "check_against",
    "decode",
    "draw_bits",
    "fill",
    "fingerprint",
    "hashes_of",
    "infer",
    "num_duplicates",
    "prepare",
    "problems",
    "read",
    "split",
    "to_table",
    "to_toml",
]
