"""The literature that docstrings name by key, under ``References:``."""

from __future__ import annotations

__all__ = ["REFERENCES", "cite"]

REFERENCES = {
    "burda2016": "Burda, Grosse, Salakhutdinov. Importance weighted autoencoders. ICLR 2016.",
    "higgins2017": "Higgins et al. beta-VAE: learning basic visual concepts with a constrained variational framework. ICLR 2017.",
    "kingma2014": "Kingma, Welling. Auto-encoding variational Bayes. ICLR 2014.",
    "kingma2016": "Kingma et al. Improved variational inference with inverse autoregressive flow. NeurIPS 2016.",
    "loaiza2019": "Loaiza-Ganem, Cunningham. The continuous Bernoulli: fixing a pervasive error in VAEs. NeurIPS 2019.",
    "lucas2019": "Lucas et al. Don't blame the ELBO! A linear VAE perspective on posterior collapse. NeurIPS 2019.",
    "mnih2016": "Mnih, Rezende. Variational inference for Monte Carlo objectives. ICML 2016.",
    "rainforth2018": "Rainforth et al. Tighter variational bounds are not necessarily better. ICML 2018.",
    "rezende2014": "Rezende, Mohamed, Wierstra. Stochastic backpropagation and approximate inference. ICML 2014.",
    "roeder2017": "Roeder, Wu, Duvenaud. Sticking the landing: lower-variance gradient estimators for VI. NeurIPS 2017.",
    "rybkin2021": "Rybkin, Daniilidis, Levine. Simple and effective VAE training with calibrated decoders. ICML 2021.",
    "salimans2017": "Salimans et al. PixelCNN++: improving the PixelCNN with discretized logistic mixtures. ICLR 2017.",
    "tipping1999": "Tipping, Bishop. Probabilistic principal component analysis. JRSS B 61, 1999.",
    "tucker2019": "Tucker et al. Doubly reparameterized gradient estimators for Monte Carlo objectives. ICLR 2019.",
    "vehtari2024": "Vehtari et al. Pareto smoothed importance sampling. JMLR 25, 2024.",
    "williams1992": "Williams. Simple statistical gradient-following algorithms. Machine Learning 8, 1992.",
    "wu2017": "Wu et al. On the quantitative analysis of decoder-based generative models. ICLR 2017.",
    "zhang2009": "Zhang, Stephens. A new and efficient estimation method for the generalized Pareto. Technometrics 51, 2009.",
}


def cite(key: str) -> str:
    """Returns the reference of a key.

    Examples:
        >>> cite("kingma2014")
        'Kingma, Welling. Auto-encoding variational Bayes. ICLR 2014.'
    """
    return REFERENCES[key]
