# `make serve` and `make test` need nothing but Python 3.11 or newer, and make.

PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
PORT   ?= 8080
HOST   ?= 127.0.0.1
export DB_PATH          ?= ./data/store.db
export CONSUMER_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help serve demo test test-slow test-all faults lint format type docs lock bench bench-scale bench-smoke clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# One stamp a set of packages: made again when the list it was made from has changed.
$(VENV)/.venv:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.serve: requirements.txt $(VENV)/.venv
	$(BIN)/python -m pip install -q -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements.lock pyproject.toml $(VENV)/.venv
	$(BIN)/python -m pip install -q --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

serve: $(VENV)/.serve ## serve on PORT (8080) of HOST (127.0.0.1), store in ./data
	$(BIN)/python -m uvicorn src.main:app --host $(HOST) --port $(PORT)

test: $(VENV)/.serve ## the tests, without the slow ones
	$(BIN)/python -m pytest -q

test-slow: $(VENV)/.dev ## the slow tests only
	$(BIN)/python -m pytest -q -m slow

test-all: test test-slow ## every test

faults: $(VENV)/.dev ## all attacks, long (an hour), and the table of what they showed in docs/guarantees.md
	SEKALI_TEST_KILLED_STORES=30 SEKALI_EVIDENCE=.evidence.json $(BIN)/python -m pytest -q -m "slow or not slow" tests/faults
	$(BIN)/python -m tests.faults.evidence .evidence.json

demo: $(VENV)/.dev ## kill -9 in the middle of a publish: nothing is lost, nothing doubled
	$(BIN)/sekali demo

lint: $(VENV)/.dev ## ruff and the import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev ## let ruff put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy

docs: $(VENV)/.dev ## write anew the tables in docs/ that are made from the code
	$(BIN)/python -m tests.docs.tables

bench: $(VENV)/.dev ## throughput beside PostgreSQL, Redis and JetStream; stores of 100k and 5M events (half an hour)
	$(BIN)/python -m bench

bench-scale: $(VENV)/.dev ## stores of 1M and 30M events, and PostgreSQL as its table grows (an hour, 10 GB of disk)
	$(BIN)/python -m bench --scale

bench-smoke: $(VENV)/.dev ## both, tiny: does all of it work (a minute)
	$(BIN)/python -m bench --smoke

# One version of each package on all Pythons (--fork-strategy): what is tested on one is what runs on another.
LOCK := uv pip compile -q --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock"

lock: $(VENV)/.dev ## resolve both lock files anew, for every platform
	$(BIN)/$(LOCK) --upgrade --extra dev -o requirements.lock pyproject.toml
	$(BIN)/$(LOCK) --upgrade -c requirements.lock -o requirements-serve.lock pyproject.toml

clean: ## remove what was built; the store in ./data stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
