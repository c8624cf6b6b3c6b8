r"""What refuses the likelihood: a generator that is trained by a critic, to be put beside models
that have a density.

A generative adversarial network draws $z \sim p(z)$ and shows $G(z)$. Nothing in its training asks
how probable a data point is, only whether a critic can tell $G(z)$ from data; so it need not pay
for what it leaves out, and need not average over what it cannot tell apart. Its samples lie on a
surface of the dimension of z and have no density. With a Gaussian observation of width $\sigma$
they have one,

$$ p(x) = \int \mathcal{N}(x; G(z), \sigma^2) \, p(z) \, dz, $$

which is that of the pair $(G, \sigma)$, and which ``taut tighten`` makes a model of: a posterior
and the width are fitted to the frozen generator. Windows around samples (Parzen) are no estimate of
it: in more than a few dimensions they rank models by their width.

``gan`` has the model, ``adversarial`` its objective, and one that sets a critic on the pictures of
a VAE, which keeps its likelihood. Read ``gan`` first.

References: goodfellow2014, wu2017, theis2016.
"""

from taut.contrast.adversarial import Adversarial, Critic
from taut.contrast.gan import GAN, ImplicitModel

__all__ = ["GAN", "Adversarial", "Critic", "ImplicitModel"]
