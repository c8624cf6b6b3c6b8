"""Writes scikit-learn's diabetes table.

Patients-complete.csv, and patients.csv, where a quarter of the entries is a "?".
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes

found = load_diabetes(scaled=False)
names = [
    "age",
    "sex",
    "bmi",
    "pressure",
    "cholesterol",
    "ldl",
    "hdl",
    "ratio",
    "log_triglycerides",
    "glucose",
    "progression",
]
complete = np.column_stack([found.data, found.target]).astype(str)
complete[:, 1] = np.where(complete[:, 1] == "1.0", "female", "male")
lost = np.random.default_rng(0).random(complete.shape) < 0.25
for file, rows in (
    ("patients-complete.csv", complete),
    ("patients.csv", np.where(lost, "?", complete)),
):
    Path(file).write_text(
        "\n".join(",".join(row).replace(".0,", ",").removesuffix(".0") for row in [names, *rows])
        + "\n"
    )
