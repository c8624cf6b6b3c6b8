r"""Data: read, understood, checked, split and ready in batches.

What one datum is decides what its log p(x) means: a probability of bits, levels and counts, a
density of real numbers, both in the user's own units. For an invertible change of units y = g(x)

$$ \log p_x(x) = \log p_y(g(x)) + \log \lvert g'(x) \rvert, $$

so nothing here rescales data for the model: standardizing happens inside the likelihoods,
Jacobian included. Everything wrong with a source is listed at once, and nothing is silently
repaired.

Read ``readers`` first (a file, frame or array becomes one plain thing), then ``schema`` (what it
is), ``dataset`` (ready to train on) and ``split`` (held out by content). Tables have a room of
their own, ``tables``.
"""

from taut.data.dataset import Dataset, New, batch, check_against, draw_bits, prepare
from taut.data.readers import Options, Source, read
from taut.data.rows import Rows, block_size, blocks
from taut.data.schema import Schema, infer, problems
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
