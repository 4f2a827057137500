# ThunderDB. `make help` lists the targets. Everything lives in .venv; nothing outside this folder is touched, except by
# `make install` (your home) and, where APT=1 or CI=true says so and we are root, by Debian's package manager.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PG_PORT ?= 5432
HTTP_PORT ?= 8088
PREFIX ?= $(HOME)/.local
CONFIG_DIR ?= $(HOME)/.config/thunderdb
STATE_DIR ?= $(HOME)/.local/share/thunderdb
JOBS ?= 2

.PHONY: help report venv packages demo test test-long check lint types coverage docs walk run install bench wheel clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ThunderDB needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "This Python has no venv module. On Debian: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	@touch $@

venv: $(STAMP) ## Create .venv and install ThunderDB with its tools into it (once)

packages: ## Debian packages (psql, curl, rsync, …): installed as root with APT=1 or CI=true, else only looked for
	@tools/debian_packages.sh

demo: $(STAMP) packages ## Load a daemon, kill it with -9, prove that nothing is lost; hot backup, an accident, back to just before it
	$(BIN)/python -m tools.demo
	@echo "Every scenario once, in simulated time:"
	$(BIN)/thunderdb-sim report --seeds 0..1 --no-long --out report

test: $(STAMP) packages ## All tests that fit into 15 minutes on two cores; prints what was skipped and why
	@echo "NOT RUN here, for they take many minutes each: the tests marked long (make test-long)"
	$(BIN)/python -m pytest -m 'not long' -n $(JOBS) --dist=worksteal

test-long: $(STAMP) packages ## The long tests too (sweeps, planted bugs, kill rounds)
	$(BIN)/python -m pytest -n $(JOBS) --dist=worksteal

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

check: lint types ## Lint with the banned-API list, types, layers, format tables, documents, planted bugs that still apply
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_format_tables.py tests/test_docs.py $(wildcard tests/mutants/test_*.py)

coverage: $(STAMP) ## Branch coverage of wal, storage, access, recovery and txn (at least 95 % of each)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -m 'not long' -n $(JOBS) --dist=worksteal tests/unit tests/property tests/conformance
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=95
	@for part in wal storage access recovery txn; do \
	  total=$$($(BIN)/coverage report --format=total --include="thunderdb/$$part/*" --fail-under=95) || failed=1; \
	  echo "$$part: $$total %"; \
	done; [ -z "$$failed" ] || { echo "FAILED: a part is below 95 %"; exit 1; }

docs: $(STAMP) ## Write the generated documents: configuration, metrics, deploy/thunderdb.toml
	$(BIN)/python -m tools.generate_docs

walk: $(STAMP) packages ## Walk the manual's chapter on backup on real processes; writes docs/backup-and-recovery.md
	$(BIN)/python -m tools.spec_walk

run: $(STAMP) ## Start a daemon on ./var, loopback, no configuration needed (PG_PORT=… HTTP_PORT=…)
	@mkdir -p var && chmod 0700 var
	@echo "Connect with:  psql -h 127.0.0.1 -p $(PG_PORT) thunderdb        (stop with Ctrl-C)"
	@THUNDERDB_DATA_DIR=var/data THUNDERDB_WAL_DIR=var/wal THUNDERDB_PG_PORT=$(PG_PORT) THUNDERDB_HTTP_PORT=$(HTTP_PORT) \
	  THUNDERDB_CONFIG= exec $(BIN)/thunderdb

install: ## Install for this user: PREFIX (~/.local), folders 0700, a sample thunderdb.toml that is never overwritten
	@tools/install.sh "$(PYTHON)" "$(PREFIX)" "$(CONFIG_DIR)" "$(STATE_DIR)"

report: $(STAMP) ## What was promised and what was measured: report/index.html (SEEDS=0..20)
	$(BIN)/thunderdb-sim report --seeds $(or $(SEEDS),0..20) --out report

bench: $(STAMP) packages ## Side by side with PostgreSQL 15 (BENCH="--quick" for a short run)
	$(BIN)/python -m tools.bench $(BENCH)

wheel: $(STAMP) ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## Remove what can be made again (keeps ./var)
	rm -rf $(VENV) build dist .coverage* .hypothesis .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
