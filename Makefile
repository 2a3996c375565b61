# Every target does its own set-up: a virtual environment in .venv/ with exactly the versions of requirements-dev.lock.

PYTHON ?= python3
UI ?= 1
USERS ?= 60
ITEMS ?= 2500
BIN := .venv/bin
READY := .venv/.ready
RUN := $(BIN)/python
# Two for each of two cores: with one each, the cores are idle for two fifths of the time, while tests wait for Dagster's
# daemon (it looks every 10 seconds) and for the PDS (a sign-in takes 350 ms, whatever the password).
WORKERS ?= 4
# Where it is set, each of the hundred processes that a test run starts compiles the whole project anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-faults test-browser lint format bench bench-backfill bench-connections bench-growth bench-heavy bench-hosts bench-links bench-latency bench-statements dev reference lock clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(READY) ## Make the environment in .venv/

# ensurepip is missing where Debian's python3-venv is not installed; root can install it, others are told to.
$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "Python 3.11, 3.12 or 3.13 is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; } \
	  || { echo "Python cannot make virtual environments: run 'apt-get install python3-venv' as root"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## Local services, demo data, the full backfill, a summary; UI=0 ends after it
	$(RUN) -m ac_pipeline.cli local demo --users $(USERS) --items $(ITEMS) $(if $(filter 0,$(UI)),--no-ui,--ui)

test: $(READY) lint ## Lint, types, import contracts and all tests on real services
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile --durations 15

# These wait for nobody, and to collect them takes each worker 8 seconds: one for each core.
test-fast: $(READY) ## The unit tests that start no process and no server: the loop while writing code
	$(RUN) -m pytest -q -m "not slow" -n auto --dist loadfile ac_pipeline_tests/unit

test-faults: $(READY) ## Every call against every kind of fault, and a long state machine; samples are in `make test`
	$(RUN) -m pytest -m faults -n $(WORKERS) --dist load --durations 5

test-browser: $(READY) ## The UI in a headless Chromium; SCREENSHOTS=folder keeps pictures
	@for name in $${AC_CHROMIUM:-chromium} chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	  [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null && exit 0; \
	  echo "A Chromium is needed: run 'apt-get install chromium' as root, or set AC_CHROMIUM=/path/to/chromium"; exit 1
	$(RUN) -m pytest -m browser --durations 5

lint: $(READY) ## Format, lint, types, import contracts
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Format the code
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --quiet .

bench-backfill: $(READY) ## Backfill of 500 users by a real Dagster, with failures, repair and a second one: BACKFILL_USERS
	$(RUN) -m ac_pipeline_tests.benchmarks.backfill --users $(or $(BACKFILL_USERS),500)

bench-connections: $(READY) ## Connections of PostgreSQL under 100 runs at once, and with too few of them: RUNS
	$(RUN) -m ac_pipeline_tests.benchmarks.connections --runs $(or $(RUNS),100)

bench-growth: $(READY) ## Cost of a user and of an item as they become more, and memory; GROWTH="--users 4202 --items 100000"
	$(RUN) -m ac_pipeline_tests.benchmarks.growth $(GROWTH)

bench-heavy: $(READY) ## The heaviest user there and back: sync, verify, wipe, restore from snapshot and Mongo
	$(RUN) -m ac_pipeline_tests.benchmarks.heavy_user

bench-hosts: $(READY) ## The same backfill on one host and on two, of which one dies in the middle, side by side: USERS
	$(RUN) -m ac_pipeline_tests.benchmarks.hosts --users $(USERS)

bench-latency: $(READY) ## From a change in MongoDB to the PDS by the sensors: p50, p95, max of 100 inserts and 100 nukes
	$(RUN) -m ac_pipeline_tests.benchmarks.latency

bench-statements: $(READY) ## Every MongoDB statement and PDS request of a sync with nothing to do, and which grow
	$(RUN) -m ac_pipeline_tests.benchmarks.statements

bench: $(READY) ## One table: the pipeline beside the bare PDS, the encoders and the original, in turn in one run
	$(RUN) -m ac_pipeline_tests.benchmarks.throughput --json bench.json

bench-links: $(READY) ## Every link state and every older record form: the link doctor before and after healing
	$(RUN) -m pytest -q -s ac_pipeline_tests/integration/test_link_states.py -k every_state

dev: $(READY) ## Dagster UI and daemon against .env and .env.local
	$(RUN) -m ac_pipeline.defs.home

reference: $(READY) ## Write docs/reference.md and .env.example anew from the code
	$(RUN) -m ac_pipeline_tests.reference

lock: ## Pin all dependencies anew, with hashes (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-strip-extras \
	  --all-extras pyproject.toml --output-file requirements-dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-strip-extras \
	  --constraints requirements-dev.lock $(foreach extra,s3 docker kubernetes celery build,--extra $(extra)) pyproject.toml --output-file requirements.lock

clean: ## Stop the local services and remove what the targets made
	-[ -x $(BIN)/python ] && $(RUN) -m ac_pipeline.cli local down
	rm -rf .venv .local .dagster .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
