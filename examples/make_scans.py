"""Writes scikit-learn's breast cancer table.

Benign.csv (300 benign tumours), scans.csv (57 benign ones, then 60 malignant).
"""

import numpy as np
import pyarrow as pa
from pyarrow import csv
from sklearn.datasets import load_breast_cancer

found = load_breast_cancer()
names = [name.replace(" ", "_") for name in found.feature_names]
benign, malignant = found.data[found.target == 1], found.data[found.target == 0]
scans = np.concatenate([benign[300:], malignant[:60]])
scans[3, names.index("mean_smoothness")] *= (
    10  # a slip: somebody put the decimal point in the wrong place
)
for file, rows in (("benign.csv", benign[:300]), ("scans.csv", scans)):
    csv.write_csv(pa.table(dict(zip(names, rows.T, strict=True))), file)
