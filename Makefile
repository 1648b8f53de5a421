# Every target does its own set-up: a virtual environment in .venv with exact pins. Needs python3.11 or newer and make.
#   JOBS=n     run n training jobs at once
#   THREADS=n  torch threads per job (default: cores / JOBS)
#   ARGS=...   further Hydra overrides for the training commands, such as ARGS="device=cpu tracker=wandb"

PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
JOBS ?= 1
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
THREADS ?= $(shell n=$$(( $(CORES) / $(JOBS) )); echo $$(( n > 0 ? n : 1 )))
BIN := .venv/bin
INSTALLED := .venv/installed
LAUNCHER := $(if $(filter-out 1,$(JOBS)),hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS),)
TRAIN := $(BIN)/python -m multimodal_loss.train -m threads=$(THREADS) $(LAUNCHER)
REPORT := $(BIN)/python -m multimodal_loss.report

.DEFAULT_GOAL := help
.PHONY: help install test lint quick reproduce-table-1 reproduce-appendix-b extra-data-seeds extra-readings report save-results \
	benchmark clean

help: ## List every target
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; give another: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[experiments,dev]'
	@touch $@

install: $(INSTALLED) ## Make the virtual environment (every other target does it too)

test: $(INSTALLED) lint ## Run the linters and all tests (no GPU needed)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(CORES)

lint: $(INSTALLED) ## Run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: $(INSTALLED) ## The whole chain on small data in minutes, labelled as such: all fusions, 2 seeds
	$(TRAIN) experiment=quick $(ARGS)
	$(TRAIN) experiment=quick_unimodal $(ARGS)
	$(REPORT) --tables quick --runs outputs/quick/runs --output outputs/quick/report

reproduce-table-1: $(INSTALLED) ## Table 1: 27 cells of 5 seeds, then the report; does only what is missing
	$(TRAIN) experiment=table_1_unimodal $(ARGS)
	$(TRAIN) experiment=table_1 $(ARGS)
	$(REPORT)

reproduce-appendix-b: $(INSTALLED) ## Appendix B: the learning-rate grid on one noisy modality, then the report
	$(TRAIN) experiment=appendix_b_unimodal $(ARGS)
	$(TRAIN) experiment=appendix_b $(ARGS)
	$(REPORT)

extra-data-seeds: $(INSTALLED) ## Beyond the paper: Table 1's SUM, NN and MultiModal on data seeds 100, 101, 102
	$(TRAIN) experiment=table_1_data_seeds $(ARGS)
	$(REPORT)

extra-readings: $(INSTALLED) ## Beyond the paper: Table 1 under other readings of what it leaves open
	$(TRAIN) experiment=table_1_readings $(ARGS)
	$(TRAIN) experiment=table_1_readings_unimodal $(ARGS)
	$(REPORT)

report: $(INSTALLED) ## Rebuild tables, figures and page from the stored runs
	$(REPORT)

save-results: $(INSTALLED) ## Write outputs/results/ from the stored runs, and the README's tables from that
	$(REPORT) --save-results outputs/results
	$(BIN)/python scripts/update_readme.py

benchmark: $(INSTALLED) ## Measure the speed of the losses and of training on this machine
	$(BIN)/python scripts/benchmark_losses.py
	$(BIN)/python scripts/benchmark_training.py

clean: ## Remove the virtual environment and caches; data and runs stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
