# `make` lists the targets. Nothing here needs root; .venv and .cache are the only places written to beside results.

BIN     := .venv/bin
# One more than CI has cores: tests also wait, for a server to start or a schedule to fire.
WORKERS ?= 3
FUZZ_SECONDS ?= 5
# Whole files to each worker, in the order of tests/conftest.py: a worker starts the servers that a file needs once.
# Compiled code is kept whatever the environment says: the tests start hundreds of Pythons.
PYTEST  := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

ORDINARY := not faults and not docs and not scale

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: venv
venv: .venv/.ready ## Build the environment (.venv) from the hash-pinned lock
	@:

.venv/.ready: requirements/lock.txt requirements/bootstrap.txt pyproject.toml tools/make-venv.sh
	@tools/make-venv.sh

.PHONY: demo
demo: venv ## Export a running VM from a simulated vCenter: snapshot, verify, incremental, cleanup
	@$(BIN)/python -m hyperexport.cli.demo

.PHONY: peers
peers: venv ## Build vcsim and govc for the conformance tests (needs Go), fetch a Linux kernel for drills
	@$(BIN)/python -m tests.peers
	@$(BIN)/python -m tests.guest_os

.PHONY: test
test: venv peers ## Run the tests, of large products a sample
	@$(PYTEST) -q -n $(WORKERS) --ignore=tests/docs --ignore=tests/scale -m "$(ORDINARY) and not matrix"

.PHONY: matrix
matrix: venv peers ## Run what make test leaves out of products (each store, each damage, each signal)
	@$(PYTEST) -q -n $(WORKERS) --ignore=tests/docs --ignore=tests/scale -m "$(ORDINARY) and matrix"

.PHONY: conformance
conformance: venv peers ## Run the tests against peers that we did not write (vcsim, govc, qemu-img)
	@$(PYTEST) -q -n $(WORKERS) -m conformance

.PHONY: faults
faults: venv peers ## Run the long fault matrix
	@$(PYTEST) --dist worksteal -q -n $(WORKERS) -m faults

.PHONY: fuzz
fuzz: venv ## Fuzz the parsers of foreign bytes by coverage, FUZZ_SECONDS each (5)
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

.PHONY: audit
audit: venv ## Ask a public advisory service about every package of the lock
	@tools/audit.sh

.PHONY: docs
docs: venv ## Build the documentation strictly (.cache/site), and run every command in it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs: .cache/site/index.html"
	@$(PYTEST) -q -n0 -m docs

.PHONY: scale
scale: venv ## Run a fleet over several workers on PostgreSQL and Redis, and kill one of them
	@$(PYTEST) -q -n0 -m scale

.PHONY: bench
bench: venv peers ## Measure against peers, in one run
	@$(BIN)/python -m benchmarks

.PHONY: check
check: lint types layers ## Lint, types and layers

.PHONY: lint
lint: venv ## Style and common mistakes (ruff)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --check . | head -n 20; exit 1; }
	@echo "lint: ok"

.PHONY: types
types: venv ## Types (pyright; strict, the tests less so)
	@mkdir -p .cache
	@$(BIN)/pyright --project pyproject.toml > .cache/pyright.log || { cat .cache/pyright.log; exit 1; }
	@$(BIN)/pyright --project tests/pyrightconfig.json > .cache/pyright-tests.log || { cat .cache/pyright-tests.log; exit 1; }
	@echo "types: ok"

.PHONY: layers
layers: venv ## Who may import whom (import-linter)
	@mkdir -p .cache
	@$(BIN)/lint-imports --no-cache > .cache/layers.log || { cat .cache/layers.log; exit 1; }
	@echo "layers: ok"

.PHONY: lock
lock: venv ## Resolve the dependencies anew into the lock
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--upgrade --group dev pyproject.toml -o requirements/lock.txt
	@echo uv | $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--upgrade - -o requirements/bootstrap.txt
	@echo setuptools | $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--constraint requirements/lock.txt --extra scale pyproject.toml - -o requirements/worker.txt
	@git --no-pager diff --stat -- requirements

.PHONY: schema
schema: venv ## Publish the manifest's JSON schema in docs/
	@$(BIN)/python -c 'from hyperexport.model.manifest import json_schema; print(json_schema(), end="")' > docs/export.schema.json

.PHONY: pictures
pictures: venv ## Take the documentation's pictures of the Prefect UI anew (needs Chromium)
	@UI_PICTURES=docs/images $(PYTEST) -q -n0 -m ui

.PHONY: prefect-files
prefect-files: venv ## Write the deployments' files for `prefect deploy`
	@$(BIN)/python -m hyperexport.deployments.prefect_file

.PHONY: clean
clean: ## Remove the environment, the built peers and all caches; exports stay
	@rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: ok"
