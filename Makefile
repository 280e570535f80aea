# Everything here runs from a fresh clone: Python 3.11 or newer, git and make.

PYTHON ?= python3
# Read from the command line only: these names are common in environments.
WORKDIR := runs/digits
ARGS :=

# A process a core; files stay whole, since their tests share what they make.
PARALLEL := --numprocesses=auto --dist=loadfile

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow test-nightly test-huggingface test-demo lint format lock clean same-python

help:  ## List these targets.
	@echo "usage: make TARGET [ARGS=\"...\"]"
	@awk -F ':.*## ' '/^[a-z-]*:.*## / { printf "  %-18s%s\n", $$1, $$2 }' \
	  Makefile

setup: $(STAMP)  ## Install everything into .venv (PYTHON=python3.12 picks one).

train: setup  ## Train the digits model (WORKDIR=..., ARGS="--config.seed=1").
	$(BIN)/python -m experiments.train --config=configs/digits.py \
	  --workdir=$(WORKDIR) $(ARGS)

test: setup  ## Run the tests (ARGS="-k attention -x" goes to pytest).
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-slow: setup  ## Run only the tests marked slow (gets libtpu on Linux).
	$(BIN)/python -m pip install --quiet --editable '.[test-buckets]' \
	  || echo "without servers of buckets, their tests are skipped"
	if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
	  $(BIN)/python -m pip install --quiet --editable '.[compile-ahead]' \
	  || echo "without libtpu, its test is skipped"; fi
	$(BIN)/python -m pytest -m 'slow and not nightly' $(PARALLEL) $(ARGS)

test-nightly: setup  ## Run only the tests marked nightly.
	$(BIN)/python -m pip install --quiet --editable '.[test-buckets]' \
	  || echo "without servers of buckets, their tests are skipped"
	$(BIN)/python -m pytest -m nightly $(PARALLEL) $(ARGS)

test-huggingface: setup  ## Compare with Hugging Face's models (gets torch).
	$(BIN)/python -m pip install --quiet --editable '.[huggingface]'
	$(BIN)/python -m pytest -m slow tests/weights/huggingface/test_live.py $(ARGS)

test-demo: setup  ## Try the page in Chromium (gets Gradio and Playwright).
	$(BIN)/python -m pip install --quiet --editable '.[test-demo]'
	$(BIN)/python -m pytest -m slow tests/experiments/demo_pages $(ARGS)

lint: setup  ## Check style and format, changing nothing.
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: setup  ## Fix what can be fixed and format the code.
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

# One lock for Python 3.11 and one for newer ones, since jax 0.11 needs 3.12.
# Versions that still fit setup.py stay, unless ARGS=--upgrade.
lock: setup  ## Resolve the versions in requirements/ (ARGS=--upgrade: newer).
	$(BIN)/python -m pip install --quiet uv
	for version in 3.11 3.12; do \
	  $(BIN)/uv pip compile setup.py --extra test --universal --quiet \
	    --python-version $$version --no-annotate \
	    --custom-compile-command "make lock" \
	    --output-file requirements/py$$(echo $$version | tr -d .).txt $(ARGS) || exit 1; \
	done

clean:  ## Remove .venv and caches; runs/ stays.
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -not -path './runs/*' -prune \
	  -exec rm -rf {} +

# The stamp is written last, so an installation that failed is tried again.
$(STAMP): setup.py pyproject.toml $(wildcard requirements/*.txt) \
    requirements/install.sh
	@requirements/install.sh "$(PYTHON)" $(VENV)
	@touch $@

# An existing .venv keeps its Python; say so rather than ignore PYTHON=.
ifneq ($(origin PYTHON),file)
setup: same-python
same-python: $(STAMP)
	@version='import sys; print("%d.%d" % sys.version_info[:2])'; \
	want=$$("$(PYTHON)" -c "$$version") || exit 1; \
	have=$$($(BIN)/python -c "$$version") || exit 1; \
	[ "$$want" = "$$have" ] || { \
	  echo "error: .venv is Python $$have, PYTHON is $$want;" \
	    "run 'make clean' first to change it" >&2; exit 1; }
endif
