"""The literature, cited by key in docstrings, under ``References:``."""

from __future__ import annotations

__all__ = ["LINKS", "REFERENCES", "cite"]

REFERENCES = {
    "akiba2019": "Akiba et al. Optuna: a next-generation hyperparameter optimization framework. "
    "KDD 2019.",
    "alemi2018": "Alemi et al. Fixing a broken ELBO. ICML 2018.",
    "austin2021": "Austin et al. Structured denoising diffusion models in discrete state-spaces. "
    "NeurIPS 2021.",
    "bates2023": "Bates et al. Testing for outliers with conformal p-values. Annals of Statistics "
    "51, 2023.",
    "benjamini1995": "Benjamini, Hochberg. Controlling the false discovery rate. JRSS B 57, 1995.",
    "burda2016": "Burda, Grosse, Salakhutdinov. Importance weighted autoencoders. ICLR 2016.",
    "burgess2018": "Burgess et al. Understanding disentangling in beta-VAE. arXiv:1804.03599.",
    "cappe2009": "Cappé, Moulines. On-line expectation-maximization algorithm for latent data "
    "models. JRSS B 71, 2009.",
    "chatterjee2018": "Chatterjee, Diaconis. The sample size required in importance sampling. Ann. "
    "Appl. Prob. 28, 2018.",
    "chen2018": "Chen et al. Isolating sources of disentanglement in variational autoencoders. "
    "NeurIPS 2018.",
    "chow1968": "Chow, Liu. Approximating discrete probability distributions with dependence "
    "trees. IEEE Trans. Information Theory 14, 1968.",
    "cover1967": "Cover, Hart. Nearest neighbor pattern classification. IEEE Trans. Information "
    "Theory 13, 1967.",
    "cremer2018": "Cremer, Li, Duvenaud. Inference suboptimality in variational autoencoders. ICML "
    "2018.",
    "dai2019": "Dai, Wipf. Diagnosing and enhancing VAE models. ICLR 2019.",
    "dauphin2017": "Dauphin et al. Language modeling with gated convolutional networks. ICML 2017.",
    "davidson2018": "Davidson et al. Hyperspherical variational auto-encoders. UAI 2018.",
    "decao2020": "De Cao, Aziz. The power spherical distribution. ICML workshop on invertible "
    "neural networks, normalizing flows and explicit likelihood models, 2020.",
    "delong1988": "DeLong, DeLong, Clarke-Pearson. Comparing the areas under correlated ROC "
    "curves. Biometrics 44, 1988.",
    "dempster1977": "Dempster, Laird, Rubin. Maximum likelihood from incomplete data via the EM "
    "algorithm. JRSS B 39, 1977.",
    "dinh2017": "Dinh, Sohl-Dickstein, Bengio. Density estimation using Real NVP. ICLR 2017.",
    "duan2020": "Duan et al. Unsupervised model selection for variational disentangled "
    "representation learning. ICLR 2020.",
    "durkan2019": "Durkan et al. Neural spline flows. NeurIPS 2019.",
    "eastwood2018": "Eastwood, Williams. A framework for the quantitative evaluation of "
    "disentangled representations. ICLR 2018.",
    "efron1979": "Efron. Bootstrap methods: another look at the jackknife. Annals of Statistics 7, "
    "1979.",
    "efron1981": "Efron, Stein. The jackknife estimate of variance. Annals of Statistics 9, 1981.",
    "gelman1998": "Gelman, Meng. Simulating normalizing constants. Statistical Science 13, 1998.",
    "germain2015": "Germain, Gregor, Murray, Larochelle. MADE: masked autoencoder for distribution "
    "estimation. ICML 2015.",
    "ghahramani1996": "Ghahramani, Hinton. The EM algorithm for mixtures of factor analyzers. "
    "Technical report CRG-TR-96-1, University of Toronto, 1996.",
    "goodfellow2014": "Goodfellow et al. Generative adversarial nets. NeurIPS 2014.",
    "grosse2015": "Grosse, Ghahramani, Adams. Sandwiching the marginal likelihood using BDMC. "
    "arXiv:1511.02543.",
    "gulrajani2017": "Gulrajani et al. Improved training of Wasserstein GANs. NeurIPS 2017.",
    "he2016": "He, Zhang, Ren, Sun. Identity mappings in deep residual networks. ECCV 2016.",
    "higgins2017": "Higgins et al. beta-VAE: learning basic visual concepts with a constrained "
    "variational framework. ICLR 2017.",
    "ho2020": "Ho, Jain, Abbeel. Denoising diffusion probabilistic models. NeurIPS 2020.",
    "hoffman2016": "Hoffman, Johnson. ELBO surgery. NeurIPS workshop on advances in approximate "
    "Bayesian inference, 2016.",
    "huang2020": "Huang, Makhzani, Cao, Grosse. Evaluating lossy compression rates of deep "
    "generative models. ICML 2020.",
    "jang2017": "Jang, Gu, Poole. Categorical reparameterization with Gumbel-softmax. ICLR 2017.",
    "kim2018": "Kim, Mnih. Disentangling by factorising. ICML 2018.",
    "kingma2014": "Kingma, Welling. Auto-encoding variational Bayes. ICLR 2014.",
    "kingma2016": "Kingma et al. Improved variational inference with inverse autoregressive flow. "
    "NeurIPS 2016.",
    "kingma2021": "Kingma, Salimans, Poole, Ho. Variational diffusion models. NeurIPS 2021.",
    "kitagawa1996": "Kitagawa. Monte Carlo filter and smoother for non-Gaussian nonlinear state "
    "space models. JCGS 5, 1996.",
    "kumar2018": "Kumar, Sattigeri, Balakrishnan. Variational inference of disentangled latent "
    "concepts from unlabeled observations. ICLR 2018.",
    "kynkaanniemi2019": "Kynkäänniemi et al. Improved precision and recall metric for assessing "
    "generative models. NeurIPS 2019.",
    "larsen2016": "Larsen et al. Autoencoding beyond pixels using a learned similarity metric. "
    "ICML 2016.",
    "liu1989": "Liu, Nocedal. On the limited memory BFGS method for large scale optimization. "
    "Mathematical Programming 45, 1989.",
    "liu2008": "Liu, Ting, Zhou. Isolation forest. ICDM 2008.",
    "liu2021": "Liu, Van den Broeck. Tractable regularization of probabilistic circuits. NeurIPS "
    "2021.",
    "loaiza2019": "Loaiza-Ganem, Cunningham. The continuous Bernoulli: fixing a pervasive error in "
    "VAEs. NeurIPS 2019.",
    "locatello2019": "Locatello et al. Challenging common assumptions in the unsupervised learning "
    "of disentangled representations. ICML 2019.",
    "lopezpaz2017": "Lopez-Paz, Oquab. Revisiting classifier two-sample tests. ICLR 2017.",
    "lucas2019": "Lucas et al. Don't blame the ELBO! A linear VAE perspective on posterior "
    "collapse. NeurIPS 2019.",
    "maddison2017": "Maddison, Mnih, Teh. The concrete distribution: a continuous relaxation of "
    "discrete random variables. ICLR 2017.",
    "mattei2019": "Mattei, Frellsen. MIWAE: deep generative modelling and imputation of incomplete "
    "data sets. ICML 2019.",
    "mccullagh1980": "McCullagh. Regression models for ordinal data. JRSS B 42, 1980.",
    "mcinnes2018": "McInnes, Healy, Melville. UMAP: uniform manifold approximation and projection "
    "for dimension reduction. arXiv:1802.03426.",
    "meehan2020": "Meehan, Chaudhuri, Dasgupta. A non-parametric test to detect data-copying in "
    "generative models. AISTATS 2020.",
    "meila2000": "Meila, Jordan. Learning with mixtures of trees. JMLR 1, 2000.",
    "mescheder2018": "Mescheder, Geiger, Nowozin. Which training methods for GANs do actually "
    "converge? ICML 2018.",
    "mnih2016": "Mnih, Rezende. Variational inference for Monte Carlo objectives. ICML 2016.",
    "naeem2020": "Naeem et al. Reliable fidelity and diversity metrics for generative models. ICML "
    "2020.",
    "nalisnick2019": "Nalisnick et al. Do deep generative models know what they don't know? ICLR "
    "2019.",
    "nazabal2020": "Nazabal, Olmos, Ghahramani, Valera. Incomplete heterogeneous data with VAEs. "
    "Pattern Recognition 107, 2020.",
    "neal2001": "Neal. Annealed importance sampling. Statistics and Computing 11, 2001.",
    "owen2000": "Owen, Zhou. Safe and effective importance sampling. JASA 95, 2000.",
    "paninski2003": "Paninski. Estimation of entropy and mutual information. Neural Computation "
    "15, 2003.",
    "papamakarios2017": "Papamakarios, Pavlakou, Murray. Masked autoregressive flow for density "
    "estimation. NeurIPS 2017.",
    "pearl1988": "Pearl. Probabilistic reasoning in intelligent systems. Morgan Kaufmann, 1988.",
    "poole2019": "Poole et al. On variational bounds of mutual information. ICML 2019.",
    "rainforth2018": "Rainforth et al. Tighter variational bounds are not necessarily better. ICML "
    "2018.",
    "rezende2014": "Rezende, Mohamed, Wierstra. Stochastic backpropagation and approximate "
    "inference. ICML 2014.",
    "rezende2015": "Rezende, Mohamed. Variational inference with normalizing flows. ICML 2015.",
    "ridgeway2018": "Ridgeway, Mozer. Learning deep disentangled embeddings with the F-statistic "
    "loss. NeurIPS 2018.",
    "roeder2017": "Roeder, Wu, Duvenaud. Sticking the landing: lower-variance gradient estimators "
    "for VI. NeurIPS 2017.",
    "ronneberger2015": "Ronneberger, Fischer, Brox. U-Net: convolutional networks for biomedical "
    "image segmentation. MICCAI 2015.",
    "rubin1982": "Rubin, Thayer. EM algorithms for ML factor analysis. Psychometrika 47, 1982.",
    "rybkin2021": "Rybkin, Daniilidis, Levine. Simple and effective VAE training with calibrated "
    "decoders. ICML 2021.",
    "salimans2017": "Salimans et al. PixelCNN++: improving the PixelCNN with discretized logistic "
    "mixtures. ICLR 2017.",
    "salimans2022": "Salimans, Ho. Progressive distillation for fast sampling of diffusion models. "
    "ICLR 2022.",
    "shao1989": "Shao, Wu. A general theory for jackknife variance estimation. Annals of "
    "Statistics 17, 1989.",
    "shi2024": "Shi et al. Simplified and generalized masked diffusion for discrete data. NeurIPS "
    "2024.",
    "shokri2017": "Shokri, Stronati, Song, Shmatikov. Membership inference attacks against machine "
    "learning models. IEEE Symposium on Security and Privacy, 2017.",
    "sohldickstein2015": "Sohl-Dickstein et al. Deep unsupervised learning using nonequilibrium "
    "thermodynamics. ICML 2015.",
    "sonderby2016": "Sønderby, Raiko, Maaløe, Sønderby, Winther. Ladder variational autoencoders. "
    "NeurIPS 2016.",
    "stekhoven2012": "Stekhoven, Bühlmann. MissForest: non-parametric missing value imputation for "
    "mixed-type data. Bioinformatics 28, 2012.",
    "stephens2017": "Stephens. False discovery rates: a new deal. Biostatistics 18, 2017.",
    "suter2019": "Suter et al. Robustly disentangled causal mechanisms: validating deep "
    "representations for interventional robustness. ICML 2019.",
    "takida2022": "Takida et al. SQ-VAE: variational Bayes on discrete representation with "
    "self-annealed stochastic quantization. ICML 2022.",
    "talts2018": "Talts et al. Validating Bayesian inference algorithms with simulation-based "
    "calibration. arXiv:1804.06788.",
    "theis2016": "Theis, van den Oord, Bethge. A note on the evaluation of generative models. "
    "ICLR 2016.",
    "tipping1999": "Tipping, Bishop. Probabilistic principal component analysis. JRSS B 61, 1999.",
    "tomczak2018": "Tomczak, Welling. VAE with a VampPrior. AISTATS 2018.",
    "troyanskaya2001": "Troyanskaya et al. Missing value estimation methods for DNA microarrays. "
    "Bioinformatics 17, 2001.",
    "tucker2019": "Tucker et al. Doubly reparameterized gradient estimators for Monte Carlo "
    "objectives. ICLR 2019.",
    "uria2014": "Uria, Murray, Larochelle. A deep and tractable density estimator. ICML 2014.",
    "vahdat2020": "Vahdat, Kautz. NVAE: a deep hierarchical variational autoencoder. NeurIPS 2020.",
    "vandenoord2017": "van den Oord, Vinyals, Kavukcuoglu. Neural discrete representation "
    "learning. NeurIPS 2017.",
    "vaswani2017": "Vaswani et al. Attention is all you need. NeurIPS 2017.",
    "vehtari2024": "Vehtari et al. Pareto smoothed importance sampling. JMLR 25, 2024.",
    "vovk2005": "Vovk, Gammerman, Shafer. Algorithmic learning in a random world. Springer, 2005.",
    "wallace1959": "Wallace. Bounds on normal approximations to Student's and the chi-square "
    "distributions. AMS 30, 1959.",
    "williams1992": "Williams. Simple statistical gradient-following algorithms. Machine Learning "
    "8, 1992.",
    "wu2017": "Wu et al. On the quantitative analysis of decoder-based generative models. ICLR "
    "2017.",
    "zhang2009": "Zhang, Stephens. A new and efficient estimation method for the generalized "
    "Pareto. Technometrics 51, 2009.",
}


DOIS = {  # of those that have one
    "akiba2019": "10.48550/arXiv.1907.10902",
    "austin2021": "10.48550/arXiv.2107.03006",
    "bates2023": "10.48550/arXiv.2104.08279",
    "benjamini1995": "10.1111/j.2517-6161.1995.tb02031.x",
    "burda2016": "10.48550/arXiv.1509.00519",
    "cappe2009": "10.1111/j.1467-9868.2009.00698.x",
    "chatterjee2018": "10.48550/arXiv.1511.01437",
    "chen2018": "10.48550/arXiv.1802.04942",
    "chow1968": "10.1109/TIT.1968.1054142",
    "cover1967": "10.1109/TIT.1967.1053964",
    "cremer2018": "10.48550/arXiv.1801.03558",
    "dai2019": "10.48550/arXiv.1903.05789",
    "dauphin2017": "10.48550/arXiv.1612.08083",
    "davidson2018": "10.48550/arXiv.1804.00891",
    "decao2020": "10.48550/arXiv.2006.04437",
    "delong1988": "10.2307/2531595",
    "dempster1977": "10.1111/j.2517-6161.1977.tb01600.x",
    "dinh2017": "10.48550/arXiv.1605.08803",
    "durkan2019": "10.48550/arXiv.1906.04032",
    "efron1979": "10.1214/aos/1176344552",
    "efron1981": "10.1214/aos/1176345462",
    "gelman1998": "10.1214/ss/1028905934",
    "germain2015": "10.48550/arXiv.1502.03509",
    "goodfellow2014": "10.48550/arXiv.1406.2661",
    "grosse2015": "10.48550/arXiv.1511.02543",
    "gulrajani2017": "10.48550/arXiv.1704.00028",
    "he2016": "10.48550/arXiv.1603.05027",
    "ho2020": "10.48550/arXiv.2006.11239",
    "jang2017": "10.48550/arXiv.1611.01144",
    "kingma2014": "10.48550/arXiv.1312.6114",
    "kingma2016": "10.48550/arXiv.1606.04934",
    "kingma2021": "10.48550/arXiv.2107.00630",
    "kitagawa1996": "10.1080/10618600.1996.10474692",
    "kynkaanniemi2019": "10.48550/arXiv.1904.06991",
    "larsen2016": "10.48550/arXiv.1512.09300",
    "liu1989": "10.1007/BF01589116",
    "liu2008": "10.1109/ICDM.2008.17",
    "liu2021": "10.48550/arXiv.2106.02264",
    "loaiza2019": "10.48550/arXiv.1907.06845",
    "lopezpaz2017": "10.48550/arXiv.1610.06545",
    "lucas2019": "10.48550/arXiv.1911.02469",
    "maddison2017": "10.48550/arXiv.1611.00712",
    "mattei2019": "10.48550/arXiv.1812.02633",
    "mccullagh1980": "10.1111/j.2517-6161.1980.tb01109.x",
    "mcinnes2018": "10.48550/arXiv.1802.03426",
    "meehan2020": "10.48550/arXiv.2004.05675",
    "meila2000": "10.1162/153244301753344605",
    "mescheder2018": "10.48550/arXiv.1801.04406",
    "mnih2016": "10.48550/arXiv.1602.06725",
    "naeem2020": "10.48550/arXiv.2002.09797",
    "nalisnick2019": "10.48550/arXiv.1810.09136",
    "nazabal2020": "10.1016/j.patcog.2020.107501",
    "neal2001": "10.1023/A:1008923215028",
    "owen2000": "10.1080/01621459.2000.10473909",
    "paninski2003": "10.1162/089976603321780272",
    "papamakarios2017": "10.48550/arXiv.1705.07057",
    "poole2019": "10.48550/arXiv.1905.06922",
    "rainforth2018": "10.48550/arXiv.1802.04537",
    "rezende2014": "10.48550/arXiv.1401.4082",
    "rezende2015": "10.48550/arXiv.1505.05770",
    "roeder2017": "10.48550/arXiv.1703.09194",
    "ronneberger2015": "10.48550/arXiv.1505.04597",
    "rubin1982": "10.1007/BF02293851",
    "rybkin2021": "10.48550/arXiv.2006.13202",
    "salimans2017": "10.48550/arXiv.1701.05517",
    "salimans2022": "10.48550/arXiv.2202.00512",
    "shi2024": "10.48550/arXiv.2406.04329",
    "shokri2017": "10.1109/SP.2017.41",
    "sohldickstein2015": "10.48550/arXiv.1503.03585",
    "stekhoven2012": "10.1093/bioinformatics/btr597",
    "stephens2017": "10.1093/biostatistics/kxw041",
    "takida2022": "10.48550/arXiv.2205.07547",
    "talts2018": "10.48550/arXiv.1804.06788",
    "theis2016": "10.48550/arXiv.1511.01844",
    "tipping1999": "10.1111/1467-9868.00196",
    "tomczak2018": "10.48550/arXiv.1705.07120",
    "troyanskaya2001": "10.1093/bioinformatics/17.6.520",
    "tucker2019": "10.48550/arXiv.1810.04152",
    "uria2014": "10.48550/arXiv.1310.1757",
    "vahdat2020": "10.48550/arXiv.2007.03898",
    "vandenoord2017": "10.48550/arXiv.1711.00937",
    "vaswani2017": "10.48550/arXiv.1706.03762",
    "vehtari2024": "10.48550/arXiv.1507.02646",
    "vovk2005": "10.1007/b106715",
    "williams1992": "10.1007/BF00992696",
    "wu2017": "10.48550/arXiv.1611.04273",
    "zhang2009": "10.1198/tech.2009.08017",
}
LINKS = {key: f"https://doi.org/{doi}" for key, doi in DOIS.items()}


def cite(key: str) -> str:
    """Returns the reference of a key.

    Examples:
        >>> cite("kingma2014")
        'Kingma, Welling. Auto-encoding variational Bayes. ICLR 2014.'
    """
    return REFERENCES[key]
