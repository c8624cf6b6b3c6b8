r"""Latent-variable models that are not a VAE. Start with ``exact``, then ``trees``.

An *exact* model has a latent variable that can be summed or integrated out in closed form,

$$ \log p(x) = \log \sum_z p(x, z), $$

so that its posterior is known, its bound has no gap and its evidence no error. A *hierarchical* one
is a VAE with levels of latent variables.
"""

from taut.models.exact import ExactModel
from taut.models.factor_analysis import FactorAnalysis, MixtureOfFactorAnalysers
from taut.models.forest import HiddenForest
from taut.models.hierarchical import HierarchicalVAE
from taut.models.trees import HiddenTree, Mixture

__all__ = [
    "ExactModel",
    "FactorAnalysis",
    "HiddenForest",
    "HiddenTree",
    "HierarchicalVAE",
    "Mixture",
    "MixtureOfFactorAnalysers",
]
