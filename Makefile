# Two cores are enough; every process sets its own thread count, see observe_r1/cli.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs clean

demo: .venv/.ready
	$(BIN)/observe-r1 demo

test: .venv/.ready-to-test
	$(BIN)/python -m pytest

lint: .venv/.ready-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Exact versions come from constraints.txt: a looser request for torch would fetch the newest CUDA build.
.venv/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.ready-to-test: .venv/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

docs: .venv/.ready
	$(BIN)/python -m observe_r1.cli.flag_guide > docs/coming-from-openrlhf.md

clean:
	rm -rf .venv runs
