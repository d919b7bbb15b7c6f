# Two commands matter to a newcomer: make demo, make test. Both set up .venv from requirements.lock first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test regression engines lint types lock clean

demo: $(STAMP)
	$(BIN)/nmsat demo

test: $(STAMP)
	$(BIN)/pytest -n auto -m "not long"

# Utilization, resources and verification of every compute engine, measured now.
engines: $(STAMP)
	$(BIN)/nmsat engines

regression: $(STAMP)
	$(BIN)/pytest -m "long"

lint: $(STAMP) types
	$(BIN)/ruff check .
	$(BIN)/basedpyright

# The type checker reads no __path__: links show it the folders as the package they are.
types:
	mkdir -p build/types/nmsat
	ln -sfn ../../../nmsat.py build/types/nmsat/__init__.py
	for folder in algorithms dataflow sim hw tb reports; do ln -sfn ../../../$$folder build/types/nmsat/$$folder; done

# The editable install comes last and without build isolation: setuptools is pinned in the lock like everything else.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "nmsat needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# Writes versions and hashes only: no registry address, no path.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet pip-tools
	.venv-lock/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --no-header --no-annotate --extra test -o requirements.lock pyproject.toml
	rm -rf .venv-lock

# The PyTorch tests, in an environment of their own, from wheels. Hashes cover everything but PyTorch itself: one version
# of it is another file on another index (CPU or CUDA build), and on Linux it may bring CUDA packages along.
TORCH := .venv-torch

.PHONY: test-torch lock-torch
test-torch: $(TORCH)/.installed
	$(TORCH)/bin/pytest -n auto -m "" tests/test_algorithms_pytorch*.py

$(TORCH)/.installed: requirements-torch.lock requirements-torch.in pyproject.toml
	$(PYTHON) -m venv --clear $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet --only-binary :all: --require-hashes -r requirements-torch.lock
	$(TORCH)/bin/python -m pip install --quiet --only-binary :all: "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements-torch.in)"
	$(TORCH)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# pip-compile ends the file with a warning that torch is not in it.
lock-torch:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet pip-tools
	.venv-lock/bin/pip-compile --quiet --generate-hashes --unsafe-package torch --strip-extras --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --no-emit-options --no-header --no-annotate \
		--pip-args "--only-binary :all:" -o requirements-torch.lock requirements-torch.in
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-torch build out .pytest_cache .ruff_cache
