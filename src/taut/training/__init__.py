r"""Training: gradient ascent on a bound, by AdamW, with a running average of the weights.

A step follows the gradient of a surrogate whose mean is that of the bound,

$$ \theta \leftarrow \theta + \eta \, \widehat{\nabla} \, \mathcal{L}(\theta; x_B),
   \qquad \mathbb{E}\bigl[\widehat{\nabla} \mathcal{L}\bigr] = \nabla \mathcal{L}. $$

Read ``loop`` first: it is one page. ``step`` is one step, ``graph`` its compiled form, ``pace``
chooses between them and the number of threads, ``checkpoint`` keeps the state on the disk.
"""
