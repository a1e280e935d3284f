PYTHON ?= python3
BIN := .venv/bin

.PHONY: drive test lowest soak format

drive: .venv/installed
	$(BIN)/python -m benchmarks.drive

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2

lowest: .venv-lowest/installed
	.venv-lowest/bin/pytest -n 2

soak: .venv/installed
	$(BIN)/python -m benchmarks.soak

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable ".[all]"
	touch $@

# torch first, so that pip chooses its build
.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install uv torch==2.13.0
	.venv-lowest/bin/uv pip install --python .venv-lowest --resolution lowest-direct --editable ".[all]"
	touch $@
