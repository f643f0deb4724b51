# Every target sets up the virtual environment. PYTHON selects the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench serve lint executable clean

demo: .venv/clara ## Replay agent conversations through the proxy, and ask clara-nano a question
	$(BIN)/clara-proxy demo

serve: .venv/core ## Run the proxy on 127.0.0.1:8765
	$(BIN)/clara-proxy serve

test: .venv/dev ## Run all tests, one worker per core
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: lint test ## Run what CI runs

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: .venv/dev ## Run the benchmarks that need no other software
	$(BIN)/python -m clara_proxy.benchmarks.retention
	$(BIN)/python -m clara_proxy.benchmarks.overhead --quick

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

# torch first: the pinned version has a CPU-only build; a looser requirement would install CUDA.
.venv/clara: .venv/core
	$(PIP) torch==2.13.0
	$(PIP) -e '.[clara]'
	@touch $@

.venv/dev: .venv/clara
	$(PIP) -e '.[dev]'
	@touch $@

executable: .venv/core ## Build dist/clara-proxy: one file for every machine with Python 3.11 or newer and this platform
	$(PIP) shiv
	$(BIN)/shiv --compressed --reproducible --console-script clara-proxy --output-file dist/clara-proxy \
		--python '/usr/bin/env python3' --constraint constraints.txt .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
