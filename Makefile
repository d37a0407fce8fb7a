# Each target works by itself on a machine that has Python >= 3.11 and pip: it makes .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs clean

demo: .venv/.demo
	$(BIN)/rankjax demo

test: .venv/.test
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not gpu"

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: .venv/.docs
	$(BIN)/mkdocs build --strict

# One stamp an extra, remade when pyproject.toml changes; the package itself is linked, not copied.
.venv/.%: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rankjax needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv build dist site .pytest_cache .ruff_cache
