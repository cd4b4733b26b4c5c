# `make demo` and `make test` need no GPU. PYTHON=python3.12 chooses the Python; scripts/install.sh says what is installed.
# The tests take vLLM's CPU build: where there is an NVIDIA GPU, they have an environment of their own.
TESTS := .venv$(shell nvidia-smi -L >/dev/null 2>&1 && echo -tests)
BIN := $(TESTS)/bin
# Two processes of one thread each, which take a file at a time: tests of a file share what it starts.
TWO := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check lint fast docs resolve constraints clean environment test-environment

demo: environment
	.venv/bin/observe-r1 demo

test: test-environment
	$(BIN)/python -m pytest $(TWO)

# What to run before each commit: the linters beside the tests that take no more than a moment.
check: test-environment
	$(MAKE) --no-print-directory --jobs 2 lint fast

lint: test-environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

fast: test-environment
	$(BIN)/python -m pytest $(TWO) -m 'not slow'

# The site, into site/; site/index.html can be read from the disk.
docs: test-environment
	$(BIN)/python -m observe_r1.cli.openrlhf.convert > docs/coming-from-openrlhf.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# Every documented way to install, on each Python; installs nothing.
resolve: test-environment
	$(BIN)/python scripts/resolve.py

# Keeps the versions that still fit; empty constraints.txt first to take the newest.
constraints:
	$(BIN)/python scripts/resolve.py --write

environment:
	scripts/install.sh .venv

test-environment:
	scripts/install.sh $(TESTS) test

clean:
	rm -rf .venv .venv-tests runs site
