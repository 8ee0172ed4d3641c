# Two commands are enough: `make quickstart` and `make test`, each from a bare clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STOCK  := .venv-stock
TOOLS  := .venv-tools

.PHONY: quickstart test test-slow test-gpu faults lint bench lock audit clean
.DEFAULT_GOAL := quickstart

# `make test LOCKED=1` installs by hash what requirements/*.txt pin, as CI does; without it, pyproject.toml's ranges.
LOCKED :=
READY  := $(VENV)/.$(if $(LOCKED),locked,installed)
FROM_LOCK = $(BIN)/python -m pip install --quiet --require-hashes --requirement

# The stamps make a second run start at once; a changed pyproject.toml or lock installs again.
$(READY): pyproject.toml $(if $(LOCKED),requirements/ci.txt)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing etfhead into $(VENV) (torch and its CUDA libraries are about 6 GB, once) ..."
ifdef LOCKED
	@$(FROM_LOCK) requirements/ci.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	@$(BIN)/python -m pip install --quiet --editable .
endif
	@touch $@

$(READY)-dev: $(READY)
ifndef LOCKED
	@echo "Installing the development tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
endif
	@touch $@

# --resume: a finished comparison prints its table again, an interrupted one goes on.
quickstart: $(READY)
	@$(BIN)/etfhead run quickstart --resume

lint: $(READY)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes with a thread each: the tests are many and small.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# With every optional library. TIMM_TRAIN_PY=path/of/timm's/train.py runs that example too.
$(READY)-slow: $(READY)-dev $(if $(LOCKED),requirements/slow.txt)
ifdef LOCKED
	@$(FROM_LOCK) requirements/slow.txt
else
	@$(BIN)/python -m pip install --quiet --editable '.[dev,onnx,lightning]'
endif
	@touch $@

# Where exports are read again: a stock timm and onnxruntime, and no etfhead.
$(STOCK)/.installed:
	@test -x $(STOCK)/bin/python || $(PYTHON) -m venv $(STOCK)
	@echo "Installing stock timm and onnxruntime into $(STOCK) (about 6 GB, once) ..."
	@$(STOCK)/bin/python -m pip install --quiet timm onnxruntime
	@$(STOCK)/bin/python -m pip install --quiet --no-deps --target $(STOCK)/timm-1.0.15 timm==1.0.15
	@touch $@

test-slow: $(READY)-slow $(STOCK)/.installed
	OMP_NUM_THREADS=1 ETFHEAD_STOCK_PYTHON=$(abspath $(STOCK)/bin/python) \
	  ETFHEAD_STOCK_OLD_TIMM=$(abspath $(STOCK)/timm-1.0.15) \
	  $(BIN)/python -m pytest -m slow -n 2 --dist worksteal

test-gpu: $(READY)-dev
	$(BIN)/python -m pytest -m gpu

# Kills, damaged files, full disks and planted code: one table, a few minutes on two cores.
faults: $(READY)-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults

# make bench DEVICE=cuda on a machine with a GPU. On two CPU cores: about half an hour and 12 GB.
DEVICE ?= cpu
bench: $(READY)
	$(BIN)/python -m benchmarks.train_step --device $(DEVICE)
	$(BIN)/python -m benchmarks.frame_logits --device $(DEVICE)
	$(BIN)/python -m benchmarks.head_step --device $(DEVICE)
	$(BIN)/python -m benchmarks.head_plots --device $(DEVICE)
	$(BIN)/python -m benchmarks.frame_loss_blocks --device $(DEVICE)
	$(BIN)/python -m benchmarks.collapse --device $(DEVICE)
	$(BIN)/python -m benchmarks.multilabel_step --device $(DEVICE)
	$(BIN)/python -m benchmarks.label_decoding
	$(BIN)/python -m benchmarks.noise_losses --device $(DEVICE)
	$(BIN)/python -m benchmarks.ddp_buffers
	$(BIN)/python -m benchmarks.checkpoint_overhead --device $(DEVICE) download=true

# uv and pip-audit, in an environment of their own.
$(TOOLS)/.installed: requirements/tools.txt
	@test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --require-hashes --requirement requirements/tools.txt
	@touch $@

# The newest versions that pyproject.toml and pip's own constraints file, if it has one, allow. ci.txt is a part of
# slow.txt, so both test the same versions.
CAPS = cat $$($(PYTHON) -m pip config get global.constraint 2>/dev/null || echo /dev/null)
COMPILE = $(TOOLS)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --custom-compile-command 'make lock' --constraint -
lock: $(TOOLS)/.installed
	$(CAPS) | $(COMPILE) --extra dev --extra onnx --extra lightning pyproject.toml requirements/build.in \
	  --output-file requirements/slow.txt >/dev/null
	$(CAPS) | $(COMPILE) --extra dev --constraint requirements/slow.txt pyproject.toml requirements/build.in \
	  --output-file requirements/ci.txt >/dev/null
	$(CAPS) | $(COMPILE) requirements/tools.in --output-file requirements/tools.txt >/dev/null

# Known vulnerabilities of every pinned version. Needs the network: pypi.org, or AUDIT='--vulnerability-service osv'.
audit: $(TOOLS)/.installed
	$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes $(AUDIT) \
	  --requirement requirements/slow.txt --requirement requirements/tools.txt

clean:
	rm -rf $(VENV) $(STOCK) $(TOOLS) build dist .mypy_cache .ruff_cache .pytest_cache
