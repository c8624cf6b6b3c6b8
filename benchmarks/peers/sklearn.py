"""scikit-learn's FactorAnalysis, the linear case.

Its time to fit and the log-likelihood of rows that it has not seen.
"""

from __future__ import annotations

import time

import sklearn
from peers.common import answer, cpu_seconds, factors, job_given
from sklearn.decomposition import FactorAnalysis

if __name__ == "__main__":
    job = job_given()
    x, test, _, _ = factors()
    wall, cpu = time.perf_counter(), cpu_seconds()
    model = FactorAnalysis(n_components=8, svd_method=job["variant"], random_state=job["seed"]).fit(
        x
    )
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    answer(
        wall_s=wall, cpu_s=cpu, log_evidence=float(model.score(test)), version=sklearn.__version__
    )
