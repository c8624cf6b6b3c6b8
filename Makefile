# make demo    train on scikit-learn's digits and say where the report is
# make test    lint, types, and the whole test suite
# make mutants plant bugs on purpose and see the tests catch them
# make mutants-generic  the same with small edits drawn at random, by Cosmic Ray: about an hour
# make slow    what takes longer than a test may: signals that meet compiled steps, fuzzing of readers and run folders
# make bench   speed beside the peers, in short: about ten minutes, and as many more to install them on the first run
# Each sets up .venv first, where that is not done.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test mutants mutants-generic slow bench clean

demo: .venv/installed
	$(BIN)/taut fit digits

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

mutants: .venv/installed
	$(BIN)/python tests/mutants.py

mutants-generic: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group mutation
	$(BIN)/python tests/mutants_generic.py

slow: .venv/installed
	$(BIN)/pytest -m slow
	$(BIN)/python tests/fuzz.py

bench: .venv/installed
	$(BIN)/python benchmarks/speed.py train --short
	$(BIN)/python benchmarks/speed.py evaluate --short
	$(BIN)/python benchmarks/scaling.py

clean:
	rm -rf .venv

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "taut needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@
