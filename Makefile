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

.PHONY: setup demo test regression mutate netlist formal icarus coverage placed engines lint lock fresh smoke types setup-run setup-test setup-lint setup-torch setup-dask setup-place setup-docs clean

# What the commands need, without running one; make test and make lint bring the rest.
setup: setup-run

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
# What is known from a run before, out/mutants.json, is not run again, but with AGAIN=1.
ONLY ?=
AGAIN ?=
mutate: setup-test
	$(BIN)/python .ci/mutate.py --only "$(ONLY)" --json out/mutants.json $(if $(AGAIN),--again)

# Faults that Yosys draws in the netlists of parts of engines; each must be seen by the bench. A unit: make netlist ONLY=sore
netlist: setup-test
	$(BIN)/python .ci/netlist.py --only "$(ONLY)" --json out/netlist.json

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

# Units placed on an ECP5 by nextpnr, relative to an element; fails if one has lost. In an environment of its own.
# One unit: make placed UNIT=sat_sequencer
UNIT ?=
placed: setup-place
	.venv-place/bin/python -m nmsat.tb.placed $(UNIT) --json out/placed.json

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

# Compiling all of PyTorch's modules takes twice as long as all the rest; those that are imported are compiled then.
setup-run setup-test setup-lint setup-torch setup-dask setup-place setup-docs: setup-%:
	@$(call INSTALL,$*) $(if $(filter torch,$*),--no-compile --no-deps)

# All locks: versions and hashes, no address.
lock:
	$(PYTHON) .ci/lock.py

# Both commands of the README in a new Debian with what the README asks for. Needs root and debootstrap.
fresh:
	python3 .ci/fresh.py --suite $(SUITE) --steps "$(FRESH_STEPS)"

# The PyTorch tests, in an environment of their own, from the wheels of requirements/torch.lock: the CPU build of PyTorch.
# A test that is skipped there has failed. Without the long ones: make test-torch MARKS="not long"
MARKS ?=

.PHONY: test-torch
test-torch: setup-torch
	.venv-torch/bin/pytest -n auto -m "$(MARKS)" --no-skip tests/pytorch

# Sweeps on a Dask cluster of several processes on this machine, in an environment of their own. A skipped test has failed.
.PHONY: test-dask
test-dask: setup-dask
	.venv-dask/bin/pytest -m "" --no-skip tests/cli/test_sweep_cluster.py

# The documentation site, into out/site; a warning ends it. It needs no server, search included.
.PHONY: docs
docs: setup-docs setup-run types
	rm -rf build/reference
	$(BIN)/python .ci/reference.py build/reference
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=.ci .venv-docs/bin/mkdocs build --quiet --strict
	.venv-docs/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/ci.yml
	.venv-docs/bin/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml
	.venv-docs/bin/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	@echo "out/site/index.html"

# Wheel and sdist, into out/dist: made, checked, and the wheel used in an empty environment. And the notes of a release.
.PHONY: dist notes
dist: setup-docs
	.venv-docs/bin/python .ci/dist.py

notes:
	@$(PYTHON) .ci/notes.py $(VERSION)

# The badges of the README, into docs/badges.
.PHONY: badges
badges:
	$(PYTHON) .ci/badges.py

# The diagrams of README and docs, into docs/figures: rooms, numbers, masks and cycles from the code and the README.
.PHONY: figures
figures: setup-run
	$(BIN)/python .ci/figures.py

# The examples as notebooks, into out/notebooks.
.PHONY: notebooks
notebooks: setup-run
	$(BIN)/python .ci/notebook.py out/notebooks

# SCALE-Sim and ZigZag beside nmsat, in the environment that the command makes in the caches. A skipped test has failed.
.PHONY: test-peers
test-peers: setup-test
	$(BIN)/nmsat compare --setup
	$(BIN)/pytest -m "" --no-skip tests/cli/test_compare_peers.py

# The caches of the user are shared by all checkouts, so they stay.
clean:
	@echo "caches stay in $${NMSAT_BUILD_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/nmsat}; before this, $(BIN)/nmsat cache --clear empties them"
	rm -rf .venv .venv-torch .venv-dask .venv-place .venv-docs build out .pytest_cache .ruff_cache
