# Every target makes the environment where it is missing, and installs nothing where it is there.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help install quickstart test test-slow test-gpu lint format clean

help:
	@echo "make quickstart   train a DCGAN on handwritten digits, scoring it, and say where the pictures are"
	@echo "make test         the default tests (under 10 minutes on two cores)"
	@echo "make test-slow    the tests marked slow, realdata and multinode"
	@echo "make test-gpu     the tests that want a GPU"
	@echo "make lint         ruff and mypy"

install: $(STAMP)

# PyTorch is large, and silent minutes look like a hang.
$(STAMP): pyproject.toml
	@echo "installing gantk and what it needs into $(VENV) (some 6 GB with PyTorch; a few minutes) ..."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip --quiet
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $(STAMP)

# --num_processes 1 and the rest are spelled out, or accelerate would take them from the user's own default config;
# --quiet keeps its own traceback away when the trainer stops with a sentence.
quickstart: $(STAMP)
	$(BIN)/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		gantk/train.py --config configs/quickstart.yaml

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m 'slow or realdata or multinode'

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .mypy_cache
