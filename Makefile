# Every target makes what it needs: `make demo` and `make test` work on a fresh clone with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files with a mark.
MARKED = $$(grep -rlE --include='test_*.py' 'mark\.($1)\b' tests | sort)
# What is imported is compiled once, not by each of many processes.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-numeric test-statistics check docs bench bench-statistics bench-detection bench-generators bench-attacks bench-volumes bench-paper bench-peers bench-memorization clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: $(VENV)/demo.stamp  ## watch a generator memorize, in about three minutes; pictures and logs in outputs/demo
	$(BIN)/python examples/demo/main.py

# Tests run in as many processes as there are cores; a thread that waits leaves its core to the others.
test test-statistics: export OMP_NUM_THREADS := 1
test test-numeric test-statistics: export OMP_WAIT_POLICY := passive

test: $(VENV)/dev.stamp  ## run the tests (MI_CALLBACK_DATA=folder adds those on real slices)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not statistics and not volumes"

test-numeric: $(VENV)/dev.stamp  ## repeat the numeric tests for other instruction sets, with one thread and with two
	@set -e; for how in default:1 default:2 avx2:2 native:2; do \
	  capability=$${how%:*}; threads=$${how#*:}; \
	  echo "numeric tests: instruction set $$capability, threads $$threads"; \
	  if [ $$capability = native ]; then unset ATEN_CPU_CAPABILITY; else export ATEN_CPU_CAPABILITY=$$capability; fi; \
	  MI_CALLBACK_THREADS=$$threads OMP_NUM_THREADS=$$threads $(BIN)/python -m pytest -n auto --dist worksteal \
	    -m "numeric and not statistics and not volumes" $(call MARKED,numeric); \
	done  # native with one thread is make test

test-statistics: $(VENV)/dev.stamp  ## run the tests that measure at length: levels, error rates, coverage, copies of real slices; whole volumes
	$(BIN)/python -m pytest -n auto --dist worksteal -m "statistics or volumes" $(call MARKED,statistics|volumes)

check: $(VENV)/dev.stamp  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mi_callback
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/dev.stamp  ## build the documentation into outputs/docs; warnings are errors
	rm -rf docs/api
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs outputs/docs

bench: $(VENV)/dev.stamp  ## measure what looking costs, write examples/benchmark/RESULTS.md (ten minutes)
	$(BIN)/python examples/benchmark/run.py

bench-statistics: $(VENV)/dev.stamp  ## measure false-flag rates on real slices, write examples/statistics/RESULTS.md (hours)
	$(BIN)/python examples/statistics/run.py

bench-detection: $(VENV)/dev.stamp  ## measure detection on real slices, write examples/detection/RESULTS.md (long)
	$(BIN)/python examples/detection/run.py

bench-generators: $(VENV)/dev.stamp  ## measure whether generators that copied nobody are cleared, write examples/generators/RESULTS.md (an hour)
	$(BIN)/python examples/generators/run.py

bench-attacks: $(VENV)/dev.stamp  ## measure what evades the detector, write examples/attacks/RESULTS.md (a quarter of an hour)
	$(BIN)/python examples/attacks/run.py

bench-volumes: $(VENV)/dev.stamp  ## measure detection on real volumes, write examples/volumes/RESULTS.md (half an hour)
	$(BIN)/python examples/volumes/run.py

bench-paper: $(VENV)/dev.stamp  ## the tables of the memorization-index paper again, write examples/paper/RESULTS.md (half an hour)
	$(BIN)/python examples/paper/run.py

bench-peers: $(VENV)/dev.stamp  ## what other measures say of the same slices, write examples/peers/RESULTS.md (half an hour)
	$(BIN)/python examples/peers/run.py

bench-memorization: $(VENV)/dev.stamp  ## train generators that memorize, watched, write examples/memorization/RESULTS.md (an hour and a half)
	$(BIN)/python examples/memorization/run.py

clean:  ## remove the environment and everything that was written by it
	rm -rf $(VENV) outputs build dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "needed Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`. Use: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/%.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV), one to three minutes ..."
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[$*,wandb]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores, pip takes one; some files are of no Python
	@touch $@
