"""Draws docs/emblem.svg, the picture of the README, from an audit of the digits.

python benchmarks/emblem.py takes about three minutes on a core that is free; with the folder of a
run that has been audited it draws that one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import taut
from taut.report import figures

TARGET = Path(__file__).parent.parent / "docs" / "emblem.svg"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "digits"
        if sys.argv[1:]:
            run = Path(sys.argv[1])
        else:
            taut.fit("digits", out=run).audit()
        audit = json.loads((run / "audit.json").read_text("utf-8"))
    TARGET.write_text(figures.emblem(audit), "utf-8")


if __name__ == "__main__":
    main()
