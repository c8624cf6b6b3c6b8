r"""Tables of mixed types: what each column is, its cells as numbers, and back.

A row is a vector of numbers, NaN where missing, and each column has a kind that says what its
number means: a level, a count, a date. The kind follows from all values of the column, by rules
that can be read in ``guess``, and chooses the family in

$$ p(x \mid z) = \prod_{i \,\mathrm{observed}} p_{\mathrm{kind}(i)}(x_i \mid z). $$

Read ``column`` first, then ``kinds`` (all that is known of a kind) and ``guess``; ``infer`` makes
columns of a table, ``codes`` its cells to numbers and back, ``prepare`` all that a training needs;
``delimited`` and ``parquet`` read files.
"""
