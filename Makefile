# `make` lists the targets. Whatever a target needs that is missing, it makes first.

VENV ?= .venv
PYTHON ?=
ARGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SCRIPTS := $(VENV)/lua-expanded

# Python 3.11 to 3.14 are what the embedded Postgres has wheels for.
SUITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))

# Who has run out of tests takes some of the other's: slow ones stand together in their modules, and once left one
# process alone for the last five minutes. Three processes on two cores, because they wait as often as they work.
IN_PARALLEL := -n 3 --dist worksteal

# Tests start Holdfast a hundred times over, and should not compile it as often, whatever the caller's environment says.
COMPILED := PYTHONDONTWRITEBYTECODE=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

.PHONY: help
help: ## list the targets
	@echo 'Usage: make TARGET [ARGS="…"] [PYTHON=/path/to/python]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: $(INSTALLED) ## make .venv with everything in requirements.lock

$(INSTALLED): pyproject.toml requirements.lock
	@set -e; \
	if ! $(BIN)/python -c 'import pip; $(SUITS)' >/dev/null 2>&1; then \
		found=; \
		for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
			if "$$candidate" -c '$(SUITS)' >/dev/null 2>&1; then found=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo 'No usable Python found: Holdfast needs 3.11 to 3.14 with the modules venv and ensurepip' >&2; \
			echo '(on Debian and Ubuntu: apt install python3-venv). Name one: make install PYTHON=/path/to/python' >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$found"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	@echo 'Installing requirements.lock into $(VENV); the first time this takes a minute or two'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: demo
demo: $(INSTALLED) ## sell a concert, a train and a festival to a crowd, on real servers, and audit it (ARGS="--buyers 500")
	@$(BIN)/holdfast demo $(ARGS)

.PHONY: test
test: $(INSTALLED) ## run all tests, on real servers (ARGS="-k hold" for some of them)
	@$(COMPILED) $(BIN)/python -m pytest $(IN_PARALLEL) $(ARGS)

.PHONY: test-slow
test-slow: $(INSTALLED) ## run the tests that take too long for each change: more of demo, benchmarks and load tools
	@$(COMPILED) $(BIN)/python -m pytest -m slow $(ARGS)
	@$(COMPILED) CONTRACT_BOUNDARIES=1 $(BIN)/python -m pytest tests/integration/test_api_contract.py

.PHONY: check
check: lint test ## the one gate: lint, then test

.PHONY: lint
lint: $(INSTALLED) ## formatting, lint, types, layers; Lua and compose file where their tools are present
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@if command -v luacheck >/dev/null; then $(MAKE) --no-print-directory lint-lua; \
	else echo 'luacheck is not installed: Lua not linted'; fi
	@if docker compose version >/dev/null 2>&1; then $(MAKE) --no-print-directory lint-compose; \
	else echo 'docker compose is not installed: docker-compose.yml not checked'; fi

# Scripts are linted as the server gets them, with their includes: else every shared function would look undefined.
.PHONY: lint-lua
lint-lua: $(INSTALLED)
	@rm -rf $(SCRIPTS) && mkdir -p $(SCRIPTS)
	@$(BIN)/python -c 'import lua, pathlib; \
		[pathlib.Path("$(SCRIPTS)", f"{name}.lua").write_bytes(lua.load(name).source) for name in lua.names()]'
	@luacheck --quiet --config .luacheckrc $(SCRIPTS) lua/inspect

.PHONY: lint-compose
lint-compose:
	@HOLDFAST_JWT_SECRET=check HOLDFAST_DATA_KEY=check POSTGRES_PASSWORD=check docker compose config --quiet

.PHONY: serve
serve: $(INSTALLED) ## run the API, with embedded servers unless REDIS_URL and DATABASE_URL say otherwise
	@$(BIN)/holdfast serve $(ARGS)

.PHONY: bench
bench: $(INSTALLED) ## measure the ratios that the README reports (ARGS="--only G1")
	@$(BIN)/python loadtests/run_goals.py $(ARGS)

.PHONY: bench-quick
bench-quick: $(INSTALLED) ## the same in less than four minutes, for a first look
	@$(BIN)/python loadtests/run_goals.py --quick $(ARGS)

.PHONY: overload
overload: $(INSTALLED) ## draw latency and goodput against the rate of arrival, past saturation (ARGS="--rounds 1")
	@$(BIN)/python loadtests/overload_curve.py $(ARGS)

.PHONY: surge
surge: $(INSTALLED) ## let a crowd loose on a sale, and check it (ARGS="--profile race --users 10000 --places 1000")
	@$(BIN)/python loadtests/surge.py $(ARGS)

.PHONY: faults
faults: $(INSTALLED) ## break every part in the middle of a sale, check, and rewrite the table in docs/faults.md
	@$(BIN)/python -m pytest tests/faults --faults=keep --verbose $(ARGS)

.PHONY: model
model: $(INSTALLED) ## explore the model of the protocol, and what goes wrong without each mechanism (needs spin)
	@$(BIN)/python tests/model/check_protocol.py $(ARGS)

.PHONY: lock
lock: ## resolve requirements.lock anew from pyproject.toml (needs uv)
	@command -v uv >/dev/null || { echo 'make lock needs uv on PATH' >&2; exit 1; }
	@uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev --no-header \
		pyproject.toml -o requirements.lock

.PHONY: clean
clean: ## remove .venv and every cache
	@rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
