# On a fresh machine `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest

.PHONY: azurite demo test test-all test-model test-lowest lint bench reference clean

demo: $(VENV)/demo
	$(BIN)/camrobust demo

# One process takes the tests that start Ray, one after the other, the second takes the rest and then helps out.
test: $(VENV)/dev
	$(BIN)/pytest --numprocesses 2 --dist worksteal

# Everything in full size: every spoiled folder, every peer, every severity, every order of steps.
test-all: export CAMROBUST_ALL := 1
test-all: test test-model

# Every order of the steps of three drivers in one run folder, with up to two pauses or crashes; some minutes.
test-model: $(VENV)/dev
	CAMROBUST_MODEL_DEPTH=2 $(BIN)/pytest tests/protocol --timeout 3600

# With the oldest version of everything that pyproject.toml names; what starts a cluster is left out. Several GB.
test-lowest: $(LOWEST)/dev
	$(LOWEST)/bin/pytest -m "not cluster" --numprocesses 2 --dist worksteal

# Azure Blob Storage on loopback, for the tests that read from it.
azurite:
	npm install --prefix $(VENV)/azurite --no-audit --no-fund --ignore-scripts --silent azurite@3.37.0

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The API reference from the docstrings; a warning is an error.
reference: $(VENV)/dev
	$(BIN)/python docs/reference.py $(VENV)/reference

bench: $(VENV)/dev
	$(BIN)/camrobust bench peers

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "camrobust needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

# They ask for opencv-python, which needs libGL and overwrites the headless one that grad-cam brings.
ORACLES := quantus==0.6.0 imagecorruptions-imaug==1.1.5 torchattacks==3.5.1

$(VENV)/dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(ORACLES)
	touch $@ $(VENV)/demo

$(LOWEST)/dev: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps $(ORACLES)
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) demo-run
