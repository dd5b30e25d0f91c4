# Every target does its own set-up: a virtual environment in .venv with the pinned versions.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
BASE := $(VENV)/.base
READY := $(VENV)/.ready
TYPED := build/typed

.PHONY: demo test check bench docs clean

demo: $(BASE)
	$(BIN)/evidentia run diabetes

test: $(READY)
	$(BIN)/pytest -n 2

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(TYPED) && $(PIP) --no-deps --no-build-isolation --target $(TYPED) .
	MYPYPATH=$(TYPED) $(BIN)/mypy -p evidentia

bench: $(READY)
	$(BIN)/python -m benchmarks

docs: $(READY)
	$(BIN)/python -m sphinx -W -b html docs docs/_build/html

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

# What a user installs; the demonstration needs no more.
$(BASE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

# Everything the tests, the checks, the benchmarks and the documentation use: every extra.
$(READY): $(BASE)
	$(PIP) --editable '.[dev,docs,scale,search,tb,mlflow,parquet,zarr,graphviz]'
	touch $@
