r"""Training: one loop, its randomness, its pace and its checkpoints.

A step follows the gradient of a surrogate whose mean is that of the bound,

$$ \theta \leftarrow \theta + \eta \, \widehat{\nabla} \, \mathcal{L}(\theta; x_B),
   \qquad \mathbb{E}\bigl[\widehat{\nabla} \mathcal{L}\bigr] = \nabla \mathcal{L}, $$

by Adam, with the weights averaged and those kept that are best on held-out rows. It can be
stopped at any moment and goes on with the same bits.

Read ``loop`` first; ``step`` and ``graph`` are one step, eager and compiled, and ``pace`` chooses
between them.
"""
