"""Writes orders of a shop that does not exist.

Orders.csv (3,000 rows), orders-new.csv, orders-bad.csv and orders.parquet.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

rng = np.random.default_rng(0)
COUNTRIES = np.array(["Austria", "France", "Italy", "Spain"])
SIZES = np.array(["small", "medium", "large"])


def orders(rows: int, first: int) -> pa.Table:
    kind = rng.choice(
        3, rows, p=[0.5, 0.3, 0.2]
    )  # what nobody sees: browsers, families, businesses
    country = rng.choice(4, rows, p=[0.2, 0.3, 0.4, 0.1])
    items = 1 + rng.poisson(np.array([0.5, 4.0, 12.0])[kind])
    size = np.minimum(2, (items + rng.integers(0, 3, rows)) // 5)
    price = items * np.exp(rng.normal(np.array([2.5, 2.0, 3.0])[kind], 0.4))
    member = rng.random(rows) < np.array([0.1, 0.5, 0.8])[kind]
    day = np.datetime64("2024-01-01") + rng.integers(0, 731, rows)
    stars = np.clip(np.round(rng.normal(3.2 + 0.6 * (country != 1), 1.0)), 1, 5)
    unknown, unrated = rng.random(rows) < 0.05, rng.random(rows) < 0.3
    return pa.table(
        {
            "order_id": np.arange(first, first + rows),
            "date": day,
            "country": np.where(unknown, "?", COUNTRIES[country]),
            "member": np.where(member, "yes", "no"),
            "items": items,
            "parcel": SIZES[size],
            "price": np.round(price, 2),
            "stars": pa.array(stars.astype(int), mask=unrated),
            "currency": np.full(rows, "EUR"),
        }
    )


plain = csv.WriteOptions(quoting_style="none")
csv.write_csv(orders(3000, 1000), "orders.csv", plain)
csv.write_csv(orders(200, 4000), "orders-new.csv", plain)
parquet.write_table(orders(30_000, 5000), "orders.parquet", row_group_size=10_000)
Path("orders-bad.csv").write_text("""\
date,country,member,items,parcel,price,stars
2026-01-02,Italy,yes,120,large,950.00,4
2026-01-03,Germany,no,2,small,-12.90,4.5
""")
