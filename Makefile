# Every target makes .venv and installs what it needs the first time; see tools/install.sh.
# PYTHON=…, TORCH=… and TORCHVISION=… choose what the environment is made with.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PYTEST_ARGS ?=
SOURCES := src tests tools benchmarks examples docs/conf.py
export PYTHON TORCH TORCHVISION
# One process a core does the work; threads inside each would only get in each other's way.
test: export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench docs clean

help: ## Show what each target does
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Compare a small model alone and with a teacher, on real texts
	@$(BIN)/aft demo

test: lint ## Lint, then run the tests
	@$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal $(PYTEST_ARGS)

lint: $(VENV)/.dev ## Check style, formatting and types
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy

format: $(VENV)/.dev ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

# The suite comes late: it takes longest, and goes on where it was stopped.
BENCHMARKS := speed scale checks faults fuzz many_classes text_students zero_labels export survey demo_result noise metric_choice suite resolution curves diagnose ablation harm neighbours trials advice complementarity label_errors
bench: $(VENV)/.bench ## Run the benchmarks; results go to benchmarks/results
	@set -e; for name in $(BENCHMARKS); do \
		echo "[bench] $$name"; $(BIN)/python benchmarks/$$name.py; done

docs: $(VENV)/.docs ## Build the documentation into docs/_build
	@$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"

clean: ## Remove the environment, caches and built files
	rm -rf $(VENV) build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests tools benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp of a group: installed once, and again after a change to what it depends on.
$(VENV)/.%: pyproject.toml tools/install.sh tools/torchvision_cpu.py
	@bash tools/install.sh $(VENV) $*
	@touch $@
