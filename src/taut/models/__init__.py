r"""Latent-variable models that are not a VAE. Start with ``exact``, then ``trees``.

An *exact* model has a latent variable that can be summed or integrated out in closed form,

$$ \log p(x) = \log \sum_z p(x, z), $$

so that its posterior is known, its bound has no gap and its evidence no error. A *hierarchical* one
is a VAE with levels of latent variables. A *stepwise* model makes a data point in many small steps,
and its latent variable is a path: read ``stepwise``, then ``masked_diffusion``.
"""

from taut.models.diffusion import Diffusion
from taut.models.exact import ExactModel
from taut.models.factor_analysis import FactorAnalysis, MixtureOfFactorAnalysers
from taut.models.forest import HiddenForest
from taut.models.hierarchical import HierarchicalVAE
from taut.models.masked_diffusion import MaskedDiffusion
from taut.models.stepwise import StepwiseModel
from taut.models.trees import HiddenTree, Mixture

__all__ = [
    "Diffusion",
    "ExactModel",
    "FactorAnalysis",
    "HiddenForest",
    "HiddenTree",
    "HierarchicalVAE",
    "MaskedDiffusion",
    "Mixture",
    "MixtureOfFactorAnalysers",
    "StepwiseModel",
]
