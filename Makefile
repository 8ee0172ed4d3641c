# Two commands are enough: `make quickstart` and `make test`, each from a bare clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: quickstart test test-slow test-gpu faults lint bench clean
.DEFAULT_GOAL := quickstart

# The stamps make a second run start at once; a changed pyproject.toml installs again.
$(VENV)/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing etfhead into $(VENV) (torch and its CUDA libraries are about 6 GB, once) ..."
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the development tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# --resume: a finished comparison prints its table again, an interrupted one goes on.
quickstart: $(VENV)/.installed
	@$(BIN)/etfhead run quickstart --resume

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes with a thread each: the tests are many and small.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/.installed-dev
	@$(BIN)/python -m pip install --quiet 'lightning>=2.4'
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu

# Kills, damaged files, full disks and planted code: one table, a few minutes on two cores.
faults: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults

# make bench DEVICE=cuda on a machine with a GPU. On two CPU cores: about a quarter of an hour and 12 GB.
DEVICE ?= cpu
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.train_step --device $(DEVICE)
	$(BIN)/python -m benchmarks.frame_logits --device $(DEVICE)
	$(BIN)/python -m benchmarks.head_step --device $(DEVICE)
	$(BIN)/python -m benchmarks.head_plots --device $(DEVICE)
	$(BIN)/python -m benchmarks.collapse --device $(DEVICE)
	$(BIN)/python -m benchmarks.multilabel_step --device $(DEVICE)
	$(BIN)/python -m benchmarks.label_decoding

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
