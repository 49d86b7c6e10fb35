# `make testnet` is the main job, `make test` checks everything; both do the set-up themselves.
NODES ?= 4
ARGS ?=
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 60
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup testnet test test-unit lint types imports contracts test-contracts model bench fuzz twins clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## virtual environment and npm tools by their lock files (nothing to do: instant)
	@deploy/setup.sh

testnet: setup ## a local cluster with a live table until Ctrl-C (NODES=4, ARGS="--weights 3,2,2,2")
	@$(BIN)/dstack-cluster testnet up --nodes $(NODES) $(ARGS)

test: setup ## all tests: unit, and integration with real processes and a real chain
	$(BIN)/pytest $(PYTEST_ARGS)

test-unit: setup ## the tests that start no process
	$(BIN)/pytest tests/unit $(PYTEST_ARGS)

lint: setup ## ruff
	$(BIN)/ruff check .

types: setup ## mypy, strict
	$(BIN)/mypy -p consensus -p attest -p chain -p node -p deploy.operator -m dstack_cluster

imports: setup ## the arrows between the rooms
	$(BIN)/lint-imports

contracts: setup ## the committed artifacts are what the sources give, the contracts' own tests, gas
	$(BIN)/python -m contracts.evm.build --check
	$(BIN)/python -m contracts.evm.gas

test-contracts: contracts ## the same, planted flaws that these tests must find, slither, halmos
	$(BIN)/python -m contracts.evm.slither
	$(BIN)/python -m contracts.evm.halmos
	$(BIN)/python -m contracts.evm.flaws

model: setup model/node_modules/.package-lock.json ## the formal model: stories, searches, replay against the core, proof (SAMPLES=5000 searches longer)
	@model/check.sh
	@$(BIN)/pytest tests/model $(PYTEST_ARGS)
	@uv=.tools/bin/uv; [ -x $$uv ] || uv=uv; $$uv sync -q --frozen --group model
	@$(BIN)/python model/proof.py

model/node_modules/.package-lock.json: model/package-lock.json
	@cd model && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@

bench: setup ## figures beside etcd, on this machine
	$(BIN)/python -m bench $(ARGS)

fuzz: setup ## coverage-guided fuzzing of every decoder (FUZZ_SECONDS=60 for each, ARGS=names)
	@uv=.tools/bin/uv; [ -x $$uv ] || uv=uv; $$uv sync -q --frozen --group fuzz
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

twins: setup ## millions of Twins scenarios, engine compiled (ARGS="--seeds 1..2000000 --results FILE"; resumes)
	@uv=.tools/bin/uv; [ -x $$uv ] || uv=uv; $$uv sync -q --frozen --group compiled
	@$(BIN)/python -m tests.simulation.compiled
	cd .compiled && ../$(BIN)/python -m tests.simulation --twins --jobs 2 --calm-every 10 $(ARGS)

clean: ## stops the testnet and removes what was generated (.venv, .tools, caches)
	@if [ -f .testnet/testnet.json ]; then $(BIN)/dstack-cluster testnet down; fi
	rm -rf .venv .tools .testnet .fuzz .compiled dist .mypy_cache .pytest_cache .ruff_cache .hypothesis \
		.import_linter_cache contracts/evm/node_modules contracts/evm/out contracts/evm/cache model/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
