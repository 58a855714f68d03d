# Every target sets up what it needs first. `make help` lists them.
# The first interpreter that runs (one may be found and not run); where none does, uv brings its own.
PYTHON ?= $(shell for found in python3.11 python3.12 python3.13 python3; do \
	$$found -c 'import ssl, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$found && break; done)
UV_VERSION := 0.13.8
MUTMUT := mutmut==3.8.1
BIN := .venv/bin
READY := .venv/ready
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
TESTS := $(RUN) OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --durations 15  # two at once, a thread each

.PHONY: help setup repro test test-all show docs crash mutate audit bench lint lock params table series clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

setup: $(READY)  ## make the virtual environment with the locked packages and this project

$(READY): requirements.lock pyproject.toml
	@if [ -n "$(PYTHON)" ]; then $(PYTHON) -m venv --clear .venv; \
	elif command -v uv >/dev/null; then uv venv --quiet --clear --seed --python 3.12 .venv; \
	else echo "error: no Python 3.11, 3.12 or 3.13 runs here; install one, or uv, or say make PYTHON=..."; exit 1; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --editable .
	@touch $(READY)

repro: $(READY)  ## run the pipeline: whatever changed since the last run, and nothing else
	@$(RUN) medseg status --source || $(RUN) dvc repro --force --single-item download
	$(RUN) dvc repro
	@$(RUN) medseg status

test: $(READY)  ## run the tests that take minutes
	$(TESTS) -m "not slow"

test-all: $(READY)  ## run all tests: kills, queues, remotes, browsers, every experiment; the lines that none reaches
	COVERED=subprocess $(TESTS) --cov

show: $(READY)  ## show experiments: what differs between them, and their metrics
	$(RUN) dvc exp show --only-changed --drop '^(src|stages|conf|data|models|plots|metrics)($$|/)'

crash: $(READY)  ## kill the pipeline at 67 random moments, see it end right, and write docs/explanation/crash.md; an hour
	$(RUN) PYTHONPATH=src:tests python tests/crash.py

mutate: $(READY)  ## make a thousand small faults in metrics, patches, splits, statistics and tiling, and see which no test notices
	rm -rf mutants
	$(RUN) OMP_NUM_THREADS=1 PYTHONPATH="$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')" \
		uv tool run --python $(BIN)/python $(MUTMUT) run

docs: $(READY)  ## build the documentation into site/; site/index.html opens from disk
	$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict

bench: $(READY)  ## measure against baselines, a quarter of an hour
	$(RUN) PYTHONPATH=src python -m benchmarks.run_all

lint: $(READY)  ## check format, style and types
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

audit: $(READY)  ## look for known faults in the locked packages, where the advisories can be reached
	$(RUN) python .ci/audit.py requirements.lock

lock: $(READY)  ## pin all packages anew into requirements.lock, from pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --all-extras --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --output-file requirements.lock pyproject.toml

params: $(READY)  ## compose conf/ into params.yaml
	$(RUN) medseg params

table: $(READY)  ## write the table of recorded runs into docs/explanation/results.md
	$(RUN) medseg table

series: $(READY)  ## run a series of experiments, print its table: make series SERIES=busi_encoder_upsampled JOBS=2
	$(RUN) medseg series $(SERIES) --jobs $(or $(JOBS),1)

clean:  ## remove what the pipeline wrote and what tools cached; the DVC cache and .venv stay
	rm -rf data models reports logs lightning_logs .dvc/tmp/medseg .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
