# Every target does its own set-up: a virtual environment in .venv with exact pins. Needs python3.11 or newer and make.
#   JOBS=n     run n training jobs at once
#   THREADS=n  torch threads per job (default: cores / JOBS)
#   DATASET=D  what Tables 5 and 6 and Figure 5 are computed on: tcga (the paper's, tens of GB to get first), or real data from a
#              small download, by make data-tcga-subtypes: tcga_subtypes, tcga_brca, tcga_kipan
#   RATES=...  the learning rates of Appendix B and of the fair comparison: RATES="5e-3 5e-4 5e-5" leaves the slowest out
#   RAVDESS_CLASSES=C, PRETRAINED=F  for Table 2: merge (7 classes) or eight; EfficientFace's weights, under their published name
#   TORCH=cpu  when .venv is made: torch without CUDA, 2 GB instead of 6.6, from PyTorch's own index (Linux; elsewhere it is so anyway)
#   ARGS=...   further Hydra overrides for the training commands, such as ARGS="device=cpu tracker=wandb"

PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
JOBS ?= 1
DATASET ?= tcga
TUNE_FOLDS ?= $(if $(filter tcga,$(DATASET)),0 1 2 3 4,0)
# What the committed conf/tuned/ was chosen from; TUNE_MODULES="32 64" gives every dataset the whole grid.
TUNE_MODULES ?= $(if $(filter tcga_brca tcga_kipan,$(DATASET)),32,32 64)
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
THREADS ?= $(shell n=$$(( $(CORES) / $(JOBS) )); echo $$(( n > 0 ? n : 1 )))
BIN := .venv/bin
INSTALLED := .venv/installed
LAUNCHER := $(if $(filter-out 1,$(JOBS)),hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS),)
TRAIN := $(BIN)/python -m multimodal_loss.train -m threads=$(THREADS) $(LAUNCHER)
REPORT := $(BIN)/python -m multimodal_loss.report
# Two threads that share a busy core wait for each other: small networks are quickest on one.
SMALL_TRAIN := $(BIN)/python -m multimodal_loss.train -m threads=1
RAVDESS_CLASSES ?= merge
RAVDESS := dataset.classes=$(RAVDESS_CLASSES) $(ARGS)
TCGA := dataset=$(DATASET) $(ARGS)

EMPTY :=
SPACE := $(EMPTY) $(EMPTY)
COMMA := ,
TUNE_GRID = 'folds=$(subst $(SPACE),$(COMMA),$(foreach f,$(TUNE_FOLDS),[$(f)]))' \
	backbone.modules=$(subst $(SPACE),$(COMMA),$(TUNE_MODULES))

RATE_GRID = $(if $(RATES),optimizer.lr=$(subst $(SPACE),$(COMMA),$(strip $(RATES))))

.DEFAULT_GOAL := help
.PHONY: help install lock test lint quick reproduce-table-1 reproduce-table-1-fair reproduce-appendix-b extra-data-seeds extra-readings \
	report page check-page save-results \
	data-tcga-subtypes data-benchmark data-tcga data-opportunity data-epic data-ravdess \
	data-ravdess-audio require-dataset tune-table-5 reproduce-table-5 reproduce-table-6 \
	reproduce-figure-5 reproduce-appendix-c reproduce-table-7 reproduce-table-7-corrupted reproduce-table-7-multimodal quick-table-7 quick-table-3 \
	reproduce-table-3 quick-table-4 reproduce-table-4 reproduce-table-4-frozen quick-table-2 reproduce-table-2 \
	reproduce-table-2-audio benchmark clean

help: ## List every target
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED := $(PIP) --no-deps --require-hashes --requirement
PYTORCH_INDEX := https://download.pytorch.org/whl/cpu
EXTRAS := experiments viz media dev
# What CUDA's torch brings; each entry of the lock file begins in the first column.
CUDA := ^(torch|torchvision|torchaudio|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; give another: make PYTHON=/path/to/python3.11" >&2; exit 2; }
ifeq ($(TORCH),cpu)
	@echo "installing into .venv, without CUDA: 2 GB on disk, a minute or two and the download"
	$(PYTHON) -m venv .venv
	$(PIP) --no-deps --index-url $(PYTORCH_INDEX) $$(grep -oE '^torch(vision|audio)?==[0-9.]+' requirements.lock)
	awk '/^[^ ]/ {keep = !/$(CUDA)/} keep' requirements.lock > .venv/requirements.lock
	$(LOCKED) .venv/requirements.lock
else
	@echo "installing into .venv: 6.6 GB on disk, most of it CUDA (make TORCH=cpu: 2 GB), a minute or two and the download"
	$(PYTHON) -m venv .venv
	$(LOCKED) requirements.lock
endif
	$(PIP) --no-deps --editable .
	@touch $@

lock: $(INSTALLED) ## Write requirements.lock anew: the pins of pyproject.toml, what they bring, and hashes, for Python 3.11 to 3.13
	$(PIP) uv==0.13.9
	$(BIN)/uv pip compile pyproject.toml $(EXTRAS:%=--extra %) --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --quiet --output-file requirements.lock

install: $(INSTALLED) ## Make the virtual environment (every other target does it too)

test: $(INSTALLED) lint ## Run the linters and all tests (no GPU needed)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(CORES)

lint: $(INSTALLED) ## Run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: $(INSTALLED) ## The whole chain on small data in minutes, labelled as such: all methods of Table 1, 2 seeds
	$(TRAIN) experiment=quick $(ARGS)
	$(REPORT) --tables quick --runs outputs/quick/runs --output outputs/quick/report

reproduce-table-1: $(INSTALLED) ## Table 1: 27 cells of 5 seeds, then the report; does only what is missing
	$(TRAIN) experiment=table_1 $(ARGS)
	$(REPORT)

reproduce-table-1-fair: $(INSTALLED) ## Beyond the paper: fresh draws, both inputs of SUM, Mulmix and MultiModal, rates chosen on validation
	$(SMALL_TRAIN) $(LAUNCHER) experiment=table_1_fair $(RATE_GRID) $(ARGS)
	$(REPORT)

reproduce-appendix-b: $(INSTALLED) ## Appendix B: the learning-rate grid on one noisy modality, then the report
	$(TRAIN) experiment=appendix_b $(RATE_GRID) $(ARGS)
	$(REPORT)

extra-data-seeds: $(INSTALLED) ## Beyond the paper: Table 1's SUM, NN and MultiModal on data seeds 100, 101, 102
	$(TRAIN) experiment=table_1_data_seeds $(ARGS)
	$(REPORT)

extra-readings: $(INSTALLED) ## Beyond the paper: Table 1 under other readings of what it leaves open
	$(TRAIN) experiment=table_1_readings $(ARGS)
	$(REPORT)

quick-table-2: $(INSTALLED) ## The chain of Table 2 on GENERATED clips (not RAVDESS) in minutes, labelled as such
	$(BIN)/python scripts/make_ravdess_like.py --clips 12 --size 64 --folder outputs/quick_table_2/data/ravdess-like
	$(SMALL_TRAIN) experiment=quick_table_2 $(ARGS)
	$(REPORT) --tables quick_table_2 --runs outputs/quick_table_2/runs --output outputs/quick_table_2/report

reproduce-table-2: $(INSTALLED) ## Table 2: RAVDESS, six fusions and each modality alone, 5 folds (make data-ravdess first)
	@$(BIN)/python scripts/require_dataset.py dataset=ravdess $(RAVDESS)
	$(TRAIN) experiment=table_2 method=unimodal_1 $(RAVDESS)
	$(TRAIN) experiment=table_2 $(if $(PRETRAINED),'backbone.pretrained="$(PRETRAINED)"') $(RAVDESS)
	$(REPORT)

reproduce-table-2-audio: $(INSTALLED) ## Beyond the paper: RAVDESS, the audio branch of Table 2's network alone
	@$(BIN)/python scripts/require_dataset.py dataset=ravdess dataset.modalities=[audio] $(ARGS)
	$(SMALL_TRAIN) $(LAUNCHER) experiment=table_2_audio $(ARGS)
	$(REPORT)

quick-table-3: $(INSTALLED) ## The chain of Table 3 on GENERATED data (not OPPORTUNITY) in minutes, labelled as such
	$(BIN)/python scripts/make_opportunity_like.py --size 0.02 --folder outputs/quick_table_3/data/opportunity-like
	$(SMALL_TRAIN) experiment=quick_table_3 $(ARGS)
	$(REPORT) --tables quick_table_3 --runs outputs/quick_table_3/runs --output outputs/quick_table_3/report

reproduce-table-3: $(INSTALLED) ## Table 3: OPPORTUNITY, both tasks, 8 methods, 5 seeds (make data-opportunity first)
	@$(BIN)/python scripts/require_dataset.py dataset=opportunity $(ARGS)
	$(TRAIN) experiment=table_3 $(ARGS)
	$(REPORT)

quick-table-4: $(INSTALLED) ## The chain of Table 4 on GENERATED clips (not EPIC-KITCHENS) in minutes, labelled as such
	$(BIN)/python scripts/make_epic_like.py --folder outputs/quick_table_4/data/epic-like
	$(BIN)/python scripts/get_epic.py --folder outputs/quick_table_4/data/epic-like --flow-index both
	$(SMALL_TRAIN) hydra/launcher=joblib hydra.launcher.n_jobs=$(CORES) experiment=quick_table_4 $(ARGS)
	$(REPORT) --tables quick_table_4 --runs outputs/quick_table_4/runs --output outputs/quick_table_4/report

reproduce-table-4: $(INSTALLED) ## Table 4: EPIC-KITCHENS-100, X-Norm, 9 methods, 5 seeds; wants a GPU (make data-epic first)
	@$(BIN)/python scripts/require_dataset.py dataset=epic $(ARGS)
	$(TRAIN) experiment=table_4 $(ARGS)
	$(REPORT)

reproduce-table-4-frozen: $(INSTALLED) ## Beyond the paper: its fusions on features of frozen I3D, which are pooled once; NOT Table 4
	$(BIN)/python scripts/extract_i3d.py $(ARGS)
	$(SMALL_TRAIN) experiment=table_4_frozen $(ARGS)
	$(REPORT)

data-tcga-subtypes: $(INSTALLED) ## Get real TCGA data (82 MB): tcga_subtypes, tcga_brca, tcga_kipan
	$(BIN)/python scripts/get_tcga_subtypes.py

data-benchmark: $(INSTALLED) data-tcga-subtypes ## Get the six real datasets of Table 7 (96 MB)
	$(BIN)/python scripts/get_benchmark.py

data-tcga: $(INSTALLED) ## Get the paper's TCGA data (tens of GB) and build its tables
	$(BIN)/python scripts/prepare_tcga.py $(ARGS)

data-ravdess: $(INSTALLED) ## Get RAVDESS from Zenodo (13.6 GB), or take what is in data/ravdess; prepare sounds and faces
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps facenet-pytorch==2.6.0
	$(BIN)/python scripts/get_ravdess.py $(ARGS)

data-ravdess-audio: $(INSTALLED) ## Get the sounds of RAVDESS alone (208 MB)
	$(BIN)/python scripts/get_ravdess.py --sound-only $(ARGS)

data-opportunity: $(INSTALLED) ## Get OPPORTUNITY from UCI (307 MB), check it and prepare it
	$(BIN)/python scripts/get_opportunity.py $(ARGS)

data-epic: $(INSTALLED) ## Check EPIC-KITCHENS-100 and store the frames of Table 4 (ARGS=--download gets all 105 GB)
	$(BIN)/python scripts/get_epic.py $(ARGS)

require-dataset: $(INSTALLED)
	@$(BIN)/python scripts/require_dataset.py dataset=$(DATASET) $(ARGS)

tune-table-5: require-dataset ## Tune learning rate and modules for every method on DATASET; writes conf/tuned/
	$(TRAIN) experiment=tune_table_5 $(TCGA) $(TUNE_GRID)
	$(BIN)/python scripts/choose_tuned.py --dataset $(DATASET) --folds $(TUNE_FOLDS) --modules $(TUNE_MODULES)

reproduce-table-5: require-dataset ## Table 5 on DATASET: MOMA with 7 losses, each modality alone, logistic regression
	$(TRAIN) experiment=table_5 $(TCGA)
	$(REPORT)

reproduce-table-6: require-dataset ## Table 6 on DATASET: the MultiModal loss without its parts
	$(TRAIN) experiment=table_6 $(TCGA)
	$(REPORT)

reproduce-figure-5: require-dataset ## Figure 5 on DATASET: accuracy and time against proxies per class
	$(TRAIN) experiment=figure_5 $(TCGA)
	$(REPORT)

reproduce-appendix-c: reproduce-table-6 ## Appendix C on DATASET: outputs, proxies and subgroups of the MultiModal loss and its ablations

reproduce-table-7: $(INSTALLED) ## Table 7: the losses, rivals and plain baselines on six real datasets (make data-benchmark first)
	$(SMALL_TRAIN) $(LAUNCHER) experiment=table_7_plain $(ARGS)
	$(SMALL_TRAIN) $(LAUNCHER) experiment=table_7 $(ARGS)
	$(REPORT)

reproduce-table-7-corrupted: $(INSTALLED) ## Table 7 with noisy and with conflicting modalities
	$(SMALL_TRAIN) $(LAUNCHER) experiment=table_7_corrupted $(ARGS)
	$(REPORT)

reproduce-table-7-multimodal: $(INSTALLED) ## Table 7's MultiModal by proxies per class and variant, and what becomes of the proxies
	$(SMALL_TRAIN) $(LAUNCHER) experiment=table_7_multimodal $(ARGS)
	$(REPORT)

quick-table-7: $(INSTALLED) ## The chain of Table 7 on one of its datasets, labelled as such: two splits, two trials each
	@$(BIN)/python scripts/require_dataset.py dataset=htad $(ARGS)
	$(SMALL_TRAIN) experiment=quick_table_7 $(ARGS)
	$(SMALL_TRAIN) experiment=quick_table_7_plain $(ARGS)
	$(REPORT) --tables quick_table_7 --runs outputs/quick_table_7/runs --output outputs/quick_table_7/report

report: $(INSTALLED) ## Rebuild tables, figures and page from the stored runs
	$(REPORT)

page: $(INSTALLED) ## The page of the committed results, outputs/page/index.html: no run is needed
	$(REPORT) --from-results outputs/results

check-page: page ## Check that page with axe-core in Chromium, narrow and wide, light and dark (needs node, npm and chromium)
	@for tool in node npm chromium; do command -v $$tool >/dev/null || \
		{ echo "error: check-page needs $$tool (on Debian: apt-get install nodejs npm chromium)" >&2; exit 2; }; done
	npm install --silent --no-save --prefix .venv/check-page axe-core@4.14.1 playwright-core@1.65.1
	node scripts/check_page.mjs outputs/page/index.html .venv/check-page

save-results: $(INSTALLED) ## Write outputs/results/ and its pages from the stored runs, and the README's list of results
	$(REPORT) --save-results outputs/results --readme README.md

benchmark: $(INSTALLED) ## Measure the speed of the losses and of training on this machine
	$(BIN)/python scripts/benchmark_losses.py
	$(BIN)/python scripts/benchmark_training.py
	$(BIN)/python scripts/benchmark_moma.py
	$(BIN)/python scripts/benchmark_deep_conv_lstm.py
	$(BIN)/python scripts/benchmark_opportunity.py
	$(BIN)/python scripts/benchmark_epic.py
	$(BIN)/python scripts/benchmark_intermediate_attention.py
	$(BIN)/python scripts/benchmark_x_norm.py
	$(BIN)/python scripts/benchmark_prepare_tcga.py

clean: ## Remove the virtual environment and caches; data and runs stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
