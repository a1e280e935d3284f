PYTHON ?= python3
BIN := .venv/bin

.PHONY: drive test soak format

drive: .venv/installed
	$(BIN)/python -m benchmarks.drive

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadgroup

soak: .venv/installed
	$(BIN)/python -m benchmarks.soak

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable ".[all]"
	touch $@
