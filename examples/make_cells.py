"""Writes counts of 300 genes in 2,000 cells of four kinds that do not exist.

Cells.h5ad (needs anndata) and cells.npy.
"""

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

rng = np.random.default_rng(0)
kind = rng.choice(4, 2000, p=[0.4, 0.3, 0.2, 0.1])
level = rng.normal(-1.5, 1.0, 300)  # log of the mean count of each gene
shift = np.where(
    rng.random((4, 300)) < 0.15, rng.normal(0, 1.5, (4, 300)), 0
)  # some genes differ from kind to kind
depth = rng.lognormal(0, 0.4, 2000)  # how much of each cell was caught
mean = np.exp(level + shift[kind]) * depth[:, None]
counts = rng.poisson(
    mean * rng.gamma(2.0, 0.5, mean.shape)
)  # genes come in bursts: the variance exceeds the mean

obs = pd.DataFrame({"kind": kind.astype(str)}, index=[f"cell{i}" for i in range(2000)])
var = pd.DataFrame(index=[f"gene{i}" for i in range(300)])
anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var).write_h5ad(
    "cells.h5ad"
)
np.save("cells.npy", counts)
