r"""A run: the folder that holds a training, and what is done to it.

Training maximises a bound $\mathcal{L}(\theta, \phi)$ over decoder and encoder; tightening goes
on with the encoder alone, under the same log p(x):

$$ \max_\phi \mathcal{L}(\theta, \phi) \le \log p_\theta(x); $$

refitting fits another prior under the same encoder and decoder.

A folder may come from anyone: nothing in it is pickled, and its files are checked against their
hashes. It is whole after a kill at any moment.

Read ``folder`` first, then ``fit``; ``tighten``, ``refit``, ``audit`` and ``measure`` act on a
finished run.
"""
