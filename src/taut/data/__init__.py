r"""Data: read, understood, checked, split and ready in batches.

What one data point is decides what its log p(x) means: a probability of bits, levels and counts, a
density of real numbers, both in the user's own units. For an invertible change of units y = g(x)

$$ \log p_x(x) = \log p_y(g(x)) + \log \lvert g'(x) \rvert, $$

so nothing here rescales data for the model: standardizing happens inside the likelihoods,
Jacobian included. Everything wrong with a source is listed at once, and nothing is silently
repaired.

``readers`` turns a source into an array, a sparse matrix or a table (``sources`` has a class for
each kind of file); ``schema`` describes a data
point; ``problems`` lists what is wrong with the data; ``split`` divides the rows by their content;
``dataset`` puts these together, and is the file to read first. ``tables/`` does the same for tables
with named columns, and ``in_memory`` for data that a program holds.
"""

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
