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

clean:
	rm -rf .venv build out .pytest_cache .ruff_cache
