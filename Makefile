# On a fresh machine `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
IMAGE := .venv-image
EMPTY := .venv-empty

.PHONY: azurite demo test test-all test-model test-lowest lint bench reference tour dist dist-check lock image image-check \
  clean

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

# The source distribution, and the wheel that is built from it and not from the checkout.
dist: $(BIN)/python
	rm -rf dist
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build --outdir dist

# The wheel with its dependencies in an empty environment, far from the checkout, up to the demo's report. Several GB.
dist-check: dist
	$(PYTHON) -m venv --clear $(EMPTY)
	$(EMPTY)/bin/python -m pip install --quiet "$$(echo dist/*.whl)[demo]"
	cd $(EMPTY) && bin/python -P -m camrobust demo --output demo-run && bin/camrobust verify demo-run

# Runs the notebook as it stands, and keeps in it what its cells show.
tour: $(VENV)/dev
	$(BIN)/python docs/tour.py

bench: $(VENV)/dev
	$(BIN)/camrobust bench peers

# What the image installs: the versions that the tests ran with here, for its Python and processor, with their hashes.
lock: $(VENV)/dev
	$(PYTHON) -m venv --clear $(IMAGE)
	$(IMAGE)/bin/python -m pip install --quiet $(shell grep -o 'uv==[0-9.]*' jobs/install.sh)
	$(BIN)/python -m pip freeze --exclude-editable | sed -n 's/+[a-z0-9.]*$$//;/==/p' >$(IMAGE)/tested.txt
	$(IMAGE)/bin/uv pip compile --system-certs pyproject.toml --extra azure --extra gcs --extra timm --constraints $(IMAGE)/tested.txt --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate --quiet --upgrade \
	  --custom-compile-command 'make lock' --output-file requirements.lock

# Then push it to your registry under the name that cluster.yaml and jobs/rayjob.yaml have.
image:
	docker build --tag $(shell sed -n 's/^  image: \([^ ]*\).*/\1/p' cluster.yaml) .

# The image's install steps in a fresh environment of its Python, without a container: all of it as a dry run, then for
# real, where WITHOUT= installs torch and CUDA, too (6 GB).
WITHOUT := ^(torch|torchvision|triton|timm|cuda|nvidia)\b
image-check: $(BIN)/python
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "the image has Python 3.11: make PYTHON=python3.11")'
	$(BIN)/python -m venv --clear $(IMAGE)
	$(IMAGE)/bin/python -m pip wheel --quiet --no-deps --wheel-dir $(IMAGE)/wheel .
	jobs/install.sh $(IMAGE)/bin/python $(IMAGE)/wheel/*.whl --dry-run
	grep -oE '$(if $(WITHOUT),$(WITHOUT)[a-z0-9-]*,^$$)' requirements.lock >$(IMAGE)/without || true
	jobs/install.sh $(IMAGE)/bin/python $(IMAGE)/wheel/*.whl --excludes $(IMAGE)/without
	$(if $(WITHOUT),,$(IMAGE)/bin/python -m uv pip check --python $(IMAGE)/bin/python)
	cd $(IMAGE) && bin/camrobust --help >/dev/null

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
	rm -rf $(VENV) $(LOWEST) $(IMAGE) $(EMPTY) dist demo-run
