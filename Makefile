# Needs python3 (3.11 or newer) with venv; everything else goes into .venv.

PYTHON ?= python3
BIN := .venv/bin
# -qq: errors only
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

# an advertisement
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test check bench docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile

setup: .venv/.dev  ## install cryolike, editable, with all development tools into .venv

demo: .venv/.runtime  ## simulate a small set, convert, verify and score it; results in demo/
	$(BIN)/cryolike demo --output demo --overwrite

test: .venv/.dev  ## run all tests
	$(BIN)/python -m pytest -n auto

check: .venv/.dev  ## lint, formatting, types, documentation
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict

bench: .venv/.dev  ## run the benchmarks
	$(BIN)/python benchmarks/run_all.py

docs: .venv/.dev  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean:  ## remove .venv, builds, caches and the demo's results
	rm -rf .venv build dist site demo .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A half-made .venv is removed, so that the next try starts afresh.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) is missing or older than 3.11: install Python 3.11 or newer, or name one:" \
	        "make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	    echo "$(PYTHON) -m venv failed. On Debian: apt-get install python3-venv" >&2; exit 1; }

.venv/.runtime: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP_INSTALL) -e .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP_INSTALL) -e '.[dev]'
	@touch .venv/.runtime $@
