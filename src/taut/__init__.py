"""taut trains latent-variable models on your own data and measures how tight their bound is.

Examples:
    >>> import taut
    >>> problem = taut.LinearGaussian(dim_x=5, dim_z=2)
    >>> x = problem.sample(4)
    >>> evidence = taut.importance(problem.model(), x, num_samples=10)
    >>> evidence.ess  # the posterior is exact: every sample counts
    tensor([10.0000, 10.0000, 10.0000, 10.0000], dtype=torch.float64)
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taut import likelihoods, networks, objectives, posteriors, priors, problems
    from taut.build.config import Config
    from taut.build.spec import parse, resolve, to_spec
    from taut.estimator import VAEstimator, embed_anndata
    from taut.evidence import Estimate, Evidence
    from taut.evidence.annealing import Annealed, annealing
    from taut.evidence.audit import Effort, audit
    from taut.evidence.cells import CellScores, Imputed, cell_scores, impute
    from taut.evidence.gradients import gradients
    from taut.evidence.importance import importance
    from taut.likelihoods import (
        Bernoulli,
        Binomial,
        Categorical,
        Columns,
        ContinuousBernoulli,
        DiscretizedLogistic,
        LogNormal,
        Multinomial,
        NegativeBinomial,
        Normal,
        Ordinal,
        Poisson,
        StudentT,
        ZeroInflatedNegativeBinomial,
    )
    from taut.model import VAE, Draw, Likelihood, Model, Posterior, Prior
    from taut.models import (
        Diffusion,
        ExactModel,
        FactorAnalysis,
        HiddenForest,
        HiddenTree,
        HierarchicalVAE,
        MaskedDiffusion,
        Mixture,
        MixtureOfFactorAnalysers,
        StepwiseModel,
    )
    from taut.networks import MLP, ConvDecoder, ConvEncoder, Linear, Network, Residual
    from taut.objectives import (
        ELBO,
        IWAE,
        VIMCO,
        Bound,
        DReG,
        Objective,
        ScoreFunction,
        StickingTheLanding,
    )
    from taut.posteriors import DiagonalNormal, FullCovarianceNormal
    from taut.priors import GaussianMixture, StandardNormal
    from taut.problems import (
        PPCA,
        BinaryLatents,
        LinearGaussian,
        LinearHierarchy,
        probabilistic_pca,
    )
    from taut.runs.audit import audit_run
    from taut.runs.choose import choose
    from taut.runs.compare import Comparison, compare
    from taut.runs.hub import pull, push
    from taut.runs.improve import improve
    from taut.runs.keywords import fit
    from taut.runs.run import Run, load
    from taut.system.errors import DataError, DivergedError, StorageError, TautError, UsageError

__all__ = [
    "ELBO",
    "IWAE",
    "MLP",
    "PPCA",
    "VAE",
    "VIMCO",
    "Annealed",
    "Bernoulli",
    "BinaryLatents",
    "Binomial",
    "Bound",
    "Categorical",
    "CellScores",
    "Columns",
    "Comparison",
    "Config",
    "ContinuousBernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "DReG",
    "DataError",
    "DiagonalNormal",
    "Diffusion",
    "DiscretizedLogistic",
    "DivergedError",
    "Draw",
    "Effort",
    "Estimate",
    "Evidence",
    "ExactModel",
    "FactorAnalysis",
    "FullCovarianceNormal",
    "GaussianMixture",
    "HiddenForest",
    "HiddenTree",
    "HierarchicalVAE",
    "Imputed",
    "Likelihood",
    "Linear",
    "LinearGaussian",
    "LinearHierarchy",
    "LogNormal",
    "MaskedDiffusion",
    "Mixture",
    "MixtureOfFactorAnalysers",
    "Model",
    "Multinomial",
    "NegativeBinomial",
    "Network",
    "Normal",
    "Objective",
    "Ordinal",
    "Poisson",
    "Posterior",
    "Prior",
    "Residual",
    "Run",
    "ScoreFunction",
    "StandardNormal",
    "StepwiseModel",
    "StickingTheLanding",
    "StorageError",
    "StudentT",
    "TautError",
    "UsageError",
    "VAEstimator",
    "ZeroInflatedNegativeBinomial",
    "annealing",
    "audit",
    "audit_run",
    "cell_scores",
    "choose",
    "compare",
    "embed_anndata",
    "fit",
    "gradients",
    "importance",
    "improve",
    "impute",
    "likelihoods",
    "load",
    "networks",
    "objectives",
    "parse",
    "posteriors",
    "priors",
    "probabilistic_pca",
    "problems",
    "pull",
    "push",
    "resolve",
    "to_spec",
]

# Where each name is at home: imported by its first use, so that `taut --help` need not wait
# for torch.
_HOMES = {
    "taut.build.config": "Config",
    "taut.build.spec": "parse resolve to_spec",
    "taut.estimator": "VAEstimator embed_anndata",
    "taut.evidence": "Estimate Evidence",
    "taut.evidence.importance": "importance",
    "taut.evidence.annealing": "Annealed annealing",
    "taut.evidence.audit": "Effort audit",
    "taut.evidence.cells": "CellScores Imputed cell_scores impute",
    "taut.evidence.gradients": "gradients",
    "taut.likelihoods": (
        "Bernoulli Binomial Categorical Columns ContinuousBernoulli DiscretizedLogistic "
        "LogNormal Multinomial NegativeBinomial Normal Ordinal Poisson StudentT "
        "ZeroInflatedNegativeBinomial"
    ),
    "taut.model": "VAE Draw Likelihood Model Posterior Prior",
    "taut.models": (
        "Diffusion ExactModel FactorAnalysis HiddenForest HiddenTree HierarchicalVAE "
        "MaskedDiffusion Mixture MixtureOfFactorAnalysers StepwiseModel"
    ),
    "taut.networks": "MLP ConvDecoder ConvEncoder Linear Network Residual",
    "taut.objectives": "ELBO IWAE VIMCO Bound DReG Objective ScoreFunction StickingTheLanding",
    "taut.posteriors": "DiagonalNormal FullCovarianceNormal",
    "taut.priors": "GaussianMixture StandardNormal",
    "taut.problems": "PPCA BinaryLatents LinearGaussian LinearHierarchy probabilistic_pca",
    "taut.runs.audit": "audit_run",
    "taut.runs.choose": "choose",
    "taut.runs.compare": "Comparison compare",
    "taut.runs.hub": "pull push",
    "taut.runs.improve": "improve",
    "taut.runs.run": "Run load",
    "taut.runs.keywords": "fit",
    "taut.system.errors": "DataError DivergedError StorageError TautError UsageError",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("taut")
    if name == "IndependentBernoulli":
        raise AttributeError(
            "two parts are called IndependentBernoulli: taut.priors.IndependentBernoulli and "
            "taut.posteriors.IndependentBernoulli"
        )
    if not name.startswith("_") and importlib.util.find_spec(f"taut.{name}") is not None:
        return importlib.import_module(f"taut.{name}")
    raise AttributeError(f"module 'taut' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
