# Each target works by itself on a machine that has Python >= 3.11 and pip: it makes .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?=
PARALLEL := -n auto --dist worksteal
FAST := $(PARALLEL) -m "not slow and not long and not gpu"

.PHONY: demo certify-demo test test-all test-long test-oldest lint docs clean

demo: $(VENV)/.demo
	$(BIN)/python -m examples.demo

certify-demo: $(VENV)/.demo
	$(BIN)/python -m examples.certify_demo

test: $(VENV)/.test
	$(BIN)/pytest $(FAST)

test-all: $(VENV)/.dev
	$(BIN)/pytest $(FAST)
	$(BIN)/pytest $(PARALLEL) -m "slow and not gpu"

# Ten thousand random networks against their certificates' limits: hours.
test-long: $(VENV)/.dev
	$(BIN)/pytest $(PARALLEL) -m long

# The fast lane with the oldest versions that pyproject.toml allows, in an environment of its own.
# The deprecations of that time are of those packages among each other.
test-oldest:
	PYTEST_ADDOPTS="-W default::DeprecationWarning" $(MAKE) test VENV=.venv-oldest CONSTRAINTS=.ci/oldest.txt

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# One stamp per extra, remade when pyproject.toml changes; the package itself is linked, not copied.
$(VENV)/.%: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rankjax needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist site .pytest_cache .ruff_cache
