# Everything runs in .venv, which `make setup` makes; PYTHON=... chooses the interpreter it is made with.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow test-all coverage lint format types docs sweep lock clean

help:                      ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

setup: .venv/.installed    ## make .venv and install segpipe with what it needs (about 2 minutes)

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar on --editable '.[dev]'
	@touch $@

train: setup               ## train the default network on drawn scenes; ARGS="decoder=unpool" for another
	$(BIN)/python -m segpipe.train $(ARGS)

sweep: setup               ## train with three upsampling operators, one after another
	$(BIN)/python -m segpipe.train -m decoder=nearest,deconv,unpool $(ARGS)

test: setup                ## run the tests: one case of each kind, about 9 minutes on two cores
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: setup           ## run the others: whole grids, real faults, launchers, benchmarks
	$(BIN)/python -m pytest -m slow $(ARGS)

test-all: test test-slow   ## run all tests, about an hour on two cores

coverage: setup            ## run all tests and count the lines of segpipe/ that run; under 90 % is an error
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: setup                ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup              ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup               ## check types
	$(BIN)/mypy

docs: setup                ## build the documentation site into docs/_build/html; warnings are errors
	@$(BIN)/python -c "import furo, myst_parser, sphinx" 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --progress-bar on --editable '.[docs]'
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "The site: docs/_build/html/index.html"

lock: setup docs           ## write requirements.lock: the versions that are installed in .venv, with hashes
	@$(BIN)/python -c "import piptools" 2>/dev/null || $(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/python -m pip freeze --exclude-editable > .venv/installed.txt
	@sed -n '/^#/p;/^#/!q' requirements.lock > .venv/requirements.lock
	$(BIN)/python -m piptools compile --quiet --allow-unsafe --generate-hashes --no-annotate --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --strip-extras --no-header --extra dev --extra docs \
		--constraint .venv/installed.txt --output-file - pyproject.toml >> .venv/requirements.lock
	mv .venv/requirements.lock requirements.lock

clean:                     ## remove .venv and caches; outputs/ stays
	rm -rf .venv build dist docs/_build docs/api/*.rst .pytest_cache .mypy_cache .ruff_cache .coverage* *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
