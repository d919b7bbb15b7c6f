# Two commands matter to a newcomer: make demo, make test. Both set up .venv first (docs/install.md).
PYTHON ?= python3
BIN := .venv/bin
# Nothing is built from source at set-up. A Python named by the caller replaces that of an older .venv.
INSTALL = $(PYTHON) .ci/install.py $(1) $(if $(filter file,$(origin PYTHON)),,--chosen) --only-binary :all:

# One test by name, with waveforms: make test TEST=test_add WAVES=1
TEST ?=
WAVES ?= 0
export WAVES

# What make fresh runs, and on which Debian: make fresh FRESH_STEPS=demo SUITE=trixie
FRESH_STEPS ?= demo test
SUITE ?= bookworm

.PHONY: demo test regression mutate formal icarus coverage engines lint lock fresh smoke types setup-run setup-test setup-lint clean

demo: setup-run
	$(BIN)/nmsat demo

ifeq ($(strip $(TEST)),)
test: setup-test
	$(BIN)/pytest -n auto -m "not long" --record out/test.json
else
test: setup-test
	$(BIN)/pytest -v $(if $(filter-out 0,$(WAVES)),-s )-m "" --name "$(TEST)"
endif

# Utilization, resources and verification of every compute engine, measured now.
engines: setup-run
	$(BIN)/nmsat engines

regression: setup-test test-torch
	$(BIN)/pytest -m "long" --record out/regression.json

# Plant faults one at a time (.ci/mutants.toml); each must be seen by its test. Some of them: make mutate ONLY=circuit
ONLY ?=
mutate: setup-test
	$(BIN)/python .ci/mutate.py --only "$(ONLY)"

# Proofs of the circuit, with sby and z3. One of them: make formal PROOF=axi_read
PROOF ?=
formal: setup-test
	$(BIN)/python -m nmsat.tb.formal.tier $(PROOF) --json out/formal.json

# What random programs reach of the machine, and of the lines and branches of its Verilog; no declared bin may be empty.
SEED ?= 0
coverage: setup-test
	$(BIN)/python -m nmsat.tb.coverage --seed $(SEED) --json out/coverage.json

# Array and machine in Icarus Verilog (Debian: iverilog), without initial values. One case: make icarus CASE=array-1
CASE ?=
icarus: setup-test
	$(BIN)/python -m nmsat.tb.icarus $(CASE) --json out/icarus.json

lint: setup-lint types
	$(BIN)/ruff check .
	$(BIN)/basedpyright

# The type checker reads no __path__: links show it the folders as the package they are.
types:
	mkdir -p build/types/nmsat
	ln -sfn ../../../nmsat.py build/types/nmsat/__init__.py
	for folder in algorithms dataflow sim hw tb reports; do ln -sfn ../../../$$folder build/types/nmsat/$$folder; done

# The demo and some tests of each kind, to try another Python: make smoke PYTHON=python3.13
smoke: setup-test
	$(BIN)/nmsat demo
	$(BIN)/pytest -n auto -m "not long" -k "imports or extras or oracle or onnx or runner"

setup-run setup-test setup-lint: setup-%:
	@$(call INSTALL,$*)

# All three locks: versions and hashes, no address.
lock:
	$(PYTHON) .ci/lock.py

# Both commands of the README in a new Debian with what the README asks for. Needs root and debootstrap.
fresh:
	python3 .ci/fresh.py --suite $(SUITE) --steps "$(FRESH_STEPS)"

# The PyTorch tests, in an environment of their own, from wheels. Hashes cover all but PyTorch itself: one version of it
# is another file on another index (CPU or CUDA build). onnxscript: export by dynamo; transformers: Hugging Face's layers.
TORCH := .venv-torch

.PHONY: test-torch
test-torch: $(TORCH)/.installed
	$(TORCH)/bin/pytest -n auto -m "" tests/pytorch

$(TORCH)/.installed: requirements/test.lock pyproject.toml
	$(PYTHON) -m venv --clear $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet --only-binary :all: --require-hashes -r requirements/test.lock
	$(TORCH)/bin/python -m pip install --quiet --only-binary :all: \
		torch==2.13.0 onnxscript==0.7.2 transformers==5.24.0
	$(TORCH)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# The caches of the user are shared by all checkouts, so they stay.
clean:
	@echo "caches stay in $${NMSAT_BUILD_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/nmsat}; before this, $(BIN)/nmsat cache --clear empties them"
	rm -rf .venv .venv-torch build out .pytest_cache .ruff_cache
