r"""Evidence: what is known about log p(x), with its error.

$$ \log p(x) = \underbrace{\mathbb{E}_q[\log w]}_{\mathrm{ELBO}}
   + \underbrace{\mathrm{KL}(q(z \mid x) \,\|\, p(z \mid x))}_{\text{inference gap}},
   \qquad w = \frac{p(x, z)}{q(z \mid x)}, \quad \mathbb{E}_q[w] = p(x). $$

One file answers one question: how large log p(x) is (``importance``, ``rows``, ``annealing``),
why the bound is loose (``gaps``), what the latent space holds (``latents``), how good samples are
(``samples``), what the gradient costs (``gradients``). Every number comes with its error and a
word on whether to believe it. What an audit says of a method stands beside it, such as
``gaps_section``: the method knows nothing of the audit.

Read ``importance`` first, then ``results``; ``audit`` asks all of them.
"""

from taut.evidence.importance import importance, importance_blocks
from taut.evidence.results import Estimate, Evidence
from taut.evidence.rows import RowEvidence, log_evidence, settle

__all__ = [
    "Estimate",
    "Evidence",
    "RowEvidence",
    "importance",
    "importance_blocks",
    "log_evidence",
    "settle",
]
