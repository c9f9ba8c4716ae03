# Two commands for a fresh machine with Python >= 3.11 and a package index: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: quickstart test check lint types clean env

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"raydet needs Python >= 3.11, $(PYTHON) is {v[0]}.{v[1]}; run make PYTHON=python3.11 ...")'
	@echo "making the environment in $(VENV) (a few minutes, mostly PyTorch) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

quickstart: env
	$(BIN)/python jobs/quickstart.py

check: lint types

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/mypy

test: env check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
