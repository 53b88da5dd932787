# Two commands on a fresh machine: `make tune` and `make test`. Both need python3 >= 3.10 and a package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST_TRITON := 3.6.0
CORES := 2
# Without a GPU a CPU build: the default build of PyTorch brings gigabytes of CUDA packages.
TORCH ?= $(shell nvidia-smi >/dev/null 2>&1 && echo torch || echo torch==2.13.0)

# Every process that tests start would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help tune test test-unit test-interpreted test-oldest-triton lint format clean

help:
	@echo "make tune    install, then tune the local GPU; with none, an A100 statically"
	@echo "make test    install, then run every test that this machine can run"
	@echo "make format  format the code"
	@echo "make clean   remove what was installed and built"

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/oldest-triton/installed: $(VENV)/installed
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(@D) triton==$(OLDEST_TRITON)
	touch $@

tune: $(VENV)/installed
	$(BIN)/latune tune --preset default

test: lint test-unit test-interpreted test-oldest-triton

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test-unit: $(VENV)/installed
	$(BIN)/python -m pytest -q -n $(CORES) --dist loadfile --ignore=tests/interpreted

# Triton decides on its import whether kernels are interpreted, so they have a process of their own.
test-interpreted: $(VENV)/installed
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n $(CORES) tests/interpreted

# What depends on Triton's version, beside the newest with the oldest that is supported.
test-oldest-triton: export PYTHONPATH := $(CURDIR)/$(VENV)/oldest-triton
test-oldest-triton: $(VENV)/oldest-triton/installed
	$(BIN)/python -c "import triton; assert triton.__version__ == '$(OLDEST_TRITON)', triton.__version__"
	$(BIN)/python -m pytest -q -n $(CORES) tests/codegen/test_build.py tests/ops/test_direct.py tests/ops/test_replay.py \
		tests/cli/benchmark/test_autotuning.py \
		tests/codegen/test_specialized.py::test_the_widest_state_does_not_spill

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
