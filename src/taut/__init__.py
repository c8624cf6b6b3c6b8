"""taut trains latent-variable models on a person's own data and measures how tight their bound is.

Examples:
    >>> import taut
    >>> problem = taut.LinearGaussian(dim_x=5, dim_z=2)
    >>> x = problem.sample(4)
    >>> evidence = taut.importance(problem.model(), x, num_samples=10)
    >>> evidence.ess  # the posterior is exact: every sample counts
    tensor([10.0000, 10.0000, 10.0000, 10.0000], dtype=torch.float64)
"""

from typing import TYPE_CHECKING, Any

from taut import likelihoods, networks, objectives, posteriors, priors, problems
from taut.build.config import Config
from taut.build.spec import parse, resolve, to_spec
from taut.evidence import Estimate, Evidence, importance
from taut.evidence.annealing import Annealed, annealing
from taut.evidence.audit import Effort, audit
from taut.evidence.cells import CellScores, Imputed, cell_scores, impute
from taut.evidence.gradients import gradients
from taut.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    Columns,
    ContinuousBernoulli,
    DiscretizedLogistic,
    LogNormal,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
)
from taut.model import VAE, Draw, Likelihood, Model, Posterior, Prior
from taut.networks import MLP, ConvDecoder, ConvEncoder, Linear, Network
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
from taut.runs.fit import fit
from taut.runs.folder import Run, load
from taut.system.errors import DataError, DivergedError, StorageError, TautError, UsageError

if TYPE_CHECKING:
    from taut.estimator import VAEstimator, embed_anndata

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
    "Config",
    "ContinuousBernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "DReG",
    "DataError",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DivergedError",
    "Draw",
    "Effort",
    "Estimate",
    "Evidence",
    "FullCovarianceNormal",
    "GaussianMixture",
    "Imputed",
    "Likelihood",
    "Linear",
    "LinearGaussian",
    "LinearHierarchy",
    "LogNormal",
    "Model",
    "NegativeBinomial",
    "Network",
    "Normal",
    "Objective",
    "Ordinal",
    "Poisson",
    "Posterior",
    "Prior",
    "Run",
    "ScoreFunction",
    "StandardNormal",
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
    "embed_anndata",
    "fit",
    "gradients",
    "importance",
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
    "resolve",
    "to_spec",
]


def __getattr__(name: str) -> Any:
    if name in ("VAEstimator", "embed_anndata"):  # scikit-learn is imported by those who ask for it
        from taut import estimator

        return getattr(estimator, name)
    if name == "IndependentBernoulli":
        raise AttributeError(
            "two parts are called IndependentBernoulli: taut.priors.IndependentBernoulli and "
            "taut.posteriors.IndependentBernoulli"
        )
    raise AttributeError(f"module 'taut' has no attribute {name!r}")
