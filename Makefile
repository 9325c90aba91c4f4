# Two commands on a fresh Debian (with git, make and python3-venv):
#   make demo   sets everything up and opens the Ask page
#   make test   sets everything up and runs every check
# and `make docs`, which builds the documentation into build/docs.
#
# Variables:
#   PYTHON       the Python (3.11 or newer) that .venv is made with
#   TORCH_INDEX  where the CPU build of torch comes from when pip is not already set up with one. The default build of
#                torch brings gigabytes of CUDA libraries: say `make setup TORCH_INDEX=` when you want exactly that.
#   HOST, PORT   where `make demo` listens; this machine only, unless you say otherwise
#   WORKERS      processes of `make results` and `make audit`, each on one thread
#   FIRST_SEED, SCENES   the fresh scenes of `make audit`

PYTHON ?= python3
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0
TORCHVISION := torchvision==0.28.0
HOST ?= 127.0.0.1
PORT ?= 8501
WORKERS ?= 2
FIRST_SEED ?= 600000
SCENES ?= 100

BIN := .venv/bin
READY := .venv/.ready
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: setup demo test lint typed docs chromium examples train results audit clean

setup: $(READY)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is `$(PYTHON) --version`. Say 'make setup PYTHON=python3.12'."; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "No virtual environment could be made: sudo apt-get install python3-venv"; exit 1; }

# torch first: a CPU wheel that pip is already pointed to, otherwise the one on TORCH_INDEX, with torchvision to match.
$(READY): requirements.txt pyproject.toml | $(BIN)/python
	@$(BIN)/python -c 'import torch' 2>/dev/null || \
	  $(BIN)/pip install -q --no-index --no-deps $(TORCH) 2>/dev/null || \
	  $(BIN)/pip install -q $(TORCH) $(TORCHVISION) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	@$(BIN)/pip install -q -r requirements.txt
	@$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@$(BIN)/python -m flowcut.media.torchvision_ops
	@touch $@

demo: setup
	@echo "FlowCut Lens: http://$(HOST):$(PORT)  (Ctrl-C stops it)"
	@$(BIN)/flowcut app --host $(HOST) --port $(PORT)

# mypy knows packages by their folders: links give our folders the names that they have once installed.
TYPED := build/typing/flowcut_lens

typed: setup
	@mkdir -p $(TYPED)
	@for folder in analysis app cli scenes; do ln -sfn ../../../$$folder $(TYPED)/$$folder; done
	$(BIN)/mypy

lint: typed
	$(BIN)/ruff check .
	PYTHONPATH=.:build/typing $(BIN)/lint-imports --no-cache --no-logo

# Offline, into build/docs; a name or a link that leads nowhere is an error. NO_MKDOCS_2_WARNING: without the theme's notice of a future version of mkdocs.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

chromium:
	@command -v chromium >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium; }

# One process a core (four at most), one thread each; a file's tests stay together: two browsers at once would wait for
# each other.
test: lint docs chromium
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# The stored runs of the first screen, made again from the embedded model.
examples: setup
	$(BIN)/python -m flowcut_lens.app.scripts.examples

# The embedded model from nothing: scenes, tower, language model, both together. Every stage goes on from its last
# checkpoint in training/runs, and on CUDA if there is one; the minutes are those of two CPU cores.
train: setup
	$(BIN)/python -m training.cache --shards 14
	$(BIN)/python -m training.cache --mix crowded --first 100 --shards 6
	$(BIN)/python -m training.tower --minutes 200
	$(BIN)/python -m training.language --minutes 90
	$(BIN)/python -m training.joint --minutes 120 --rate 1.1e-3 --batch 8 --questions 14 --threads 2
	$(BIN)/python -m training.heldout --part validation --out training/runs/validation.jsonl
	$(BIN)/python -m training.evaluate --model training/runs/embedded --questions training/runs/validation.jsonl \
	  --out training/runs/validation.jsonl.gz
	@echo "The model is in training/runs/embedded. If it is better: copy it over assets/embedded, training/runs/readouts"
	@echo ".safetensors over training/, then make examples results."

# The held-out questions asked anew, and every number about the model in RESULTS.md and README made from the answers.
# The causal check is `python -m benchmarks.causal`, before the last line: it takes hours.
results: setup
	$(BIN)/python -m training.evaluate --workers $(WORKERS)
	$(BIN)/python -m benchmarks.recompute --write

# Do the numbers hold on scenes that nobody has seen? Fresh ones are drawn, asked, and set against what is claimed.
audit: setup
	$(BIN)/python -m benchmarks.audit --first-seed $(FIRST_SEED) --scenes $(SCENES) --workers $(WORKERS)

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
