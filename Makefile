# Everything here works in a fresh clone with only make and Python 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
# More than cores: tests wait for servers as often as they compute. Each process takes files as they stand side by side
# (what a file sets up is set up once), and who has nothing left takes from who has most.
JOBS ?= 3
PYTEST_ARGS ?=

BIN := $(VENV)/bin
BASE := $(VENV)/.base
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo up check test pytest audit soak clean

help:
	@echo "make demo    run an example plan on a real stack (Temporal, PostgreSQL, worker, API), then stop it"
	@echo "make up      run the stack on this machine until Ctrl-C"
	@echo "make test    static checks and all tests ($(JOBS) at once; JOBS=n, PYTEST_ARGS=...)"
	@echo "make check   static checks alone"
	@echo "make audit   known weaknesses of the packages that are used (asks osv.dev), and secrets in files"
	@echo "make soak    long fault and load runs"
	@echo "make clean   remove what is generated; data in .dalang stays"

venv: $(STAMP)

# What the demo needs; the tools and the optional libraries of `venv` take four times as long.
# Build requirements come first and from the constraints too: pip's isolated builds would take the newest.
$(BASE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Dalang needs Python 3.11 or later, $(PYTHON) is older: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt hatchling editables
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e .
	@touch $(BASE)

$(STAMP): $(BASE)
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(BASE)
	$(BIN)/dalang demo

up: venv
	$(BIN)/dalang up

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The real OPA is said to be for Python 3.14 and works on older ones; where it cannot be had, its tests are skipped.
# The checks compute on one core for half a minute, the tests have the rest of the machine meanwhile.
test: venv
	-@$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python opa-golib-python-bindings==0.4.4 2>/dev/null
	@$(MAKE) --no-print-directory -j2 check pytest

# What fails beside others is run again by itself, where it has the machine: a defect fails there too, and ends it; what
# passes then waited for a machine that was too busy, is told as such above, and wants a better test.
pytest: venv
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not soak" $(PYTEST_ARGS); status=$$?; \
	if [ $$status -eq 1 ]; then \
		echo "once more, each by itself, what failed beside others:"; \
		$(BIN)/python -m pytest -m "not soak" --last-failed --last-failed-no-failures none --maxfail=1 $(PYTEST_ARGS); \
	else exit $$status; fi

# Beside the tests, which need no network: a weakness that became known today is no defect of today's change.
audit: venv
	$(BIN)/python -m pip check
	PYTHON=$(BIN)/python .ci/audit
	$(BIN)/python -m pytest -q tests/stack/test_no_secrets.py

soak: venv
	$(BIN)/python -m pytest -m soak -s $(PYTEST_ARGS)
	PYTEST_EFFORT=20 $(BIN)/python -m pytest -n $(JOBS) tests/core

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
