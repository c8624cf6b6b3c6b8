# make demo    train on scikit-learn's digits and say where the report is
# make test    lint, types, and the whole test suite
# make browser Chromium, in which the pages are tested, where this machine may install it
# make docs    the documentation site, built strictly into site/
# make wheel   the wheel, in dist/
# make oldest  the test suite with the oldest versions that pyproject.toml allows, in .venv-oldest
# make newest  the same with the newest ones that there are, whatever constraints.txt says
# make mutants plant bugs on purpose and see the tests catch them
# make mutants-generic  the same with small edits drawn at random, by Cosmic Ray: one or two hours
# make slow    what takes longer than a test may: signals that meet compiled steps, fuzzing of readers and run folders
# make bench   speed beside the peers, in short: about ten minutes, and as many more to install them on the first run
# Each sets up .venv first, where that is not done.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test browser docs wheel oldest newest mutants mutants-generic slow bench clean

demo: .venv/installed
	$(BIN)/taut fit digits

test: .venv/installed
	@[ -z "$$CI" ] || $(MAKE) --no-print-directory browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal --durations 20

browser:
	@command -v chromium > /dev/null || apt-get install --yes --quiet --no-install-recommends chromium > /dev/null 2>&1 \
	|| { apt-get update && apt-get install --yes --no-install-recommends chromium; } > /dev/null 2>&1 \
	|| echo "no Chromium here, and none could be installed: the tests of the pages are left out"

docs: .venv/installed
	$(BIN)/python -m mkdocs build

wheel: .venv/installed
	$(BIN)/python -m hatchling build --target wheel

oldest: CONSTRAINT := --constraint constraints-oldest.txt
oldest newest:
	$(PYTHON) -m venv .venv-$@
	.venv-$@/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-$@/bin/python -m pip install --quiet --upgrade $(CONSTRAINT) --editable . --group test
	.venv-$@/bin/pytest -W ignore::DeprecationWarning -W ignore::FutureWarning --ignore tests/test_site.py

mutants: .venv/installed
	$(BIN)/python tests/mutants.py

mutants-generic: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group mutation
	$(BIN)/python tests/mutants_generic.py

slow: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m slow --timeout 1800  # on a busy machine
	$(BIN)/python tests/fuzz.py

bench: .venv/installed
	$(BIN)/python benchmarks/speed.py train --short
	$(BIN)/python benchmarks/speed.py evaluate --short
	$(BIN)/python benchmarks/scaling.py

clean:
	rm -rf .venv .venv-oldest .venv-newest site dist

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "taut needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@
