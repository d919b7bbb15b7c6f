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

.PHONY: demo test regression engines lint lock fresh smoke setup-run setup-test setup-lint clean

demo: setup-run
	$(BIN)/nmsat demo

ifeq ($(strip $(TEST)),)
test: setup-test
	$(BIN)/pytest -n auto -m "not long"
else
test: setup-test
	$(BIN)/pytest -v -m "" -k "$(TEST)"
endif

# Utilization, resources and verification of every compute engine, measured now.
engines: setup-run
	$(BIN)/nmsat engines

regression: setup-test
	$(BIN)/pytest -m "long"

lint: setup-lint
	$(BIN)/ruff check .
	$(BIN)/basedpyright

# The demo and some tests of each kind, to try another Python: make smoke PYTHON=python3.13
smoke: setup-test
	$(BIN)/nmsat demo
	$(BIN)/pytest -n auto -m "not long" -k "imports or extras or oracle or onnx or runner"

setup-run setup-test setup-lint: setup-%:
	@$(call INSTALL,$*)

# All three locks: versions and hashes, no address. Wants the oldest Python that nmsat runs on.
lock:
	$(PYTHON) .ci/lock.py

# Both commands of the README in a new Debian with what the README asks for. Needs root and debootstrap.
fresh:
	python3 .ci/fresh.py --suite $(SUITE) --steps "$(FRESH_STEPS)"

clean:
	rm -rf .venv build out .pytest_cache .ruff_cache
