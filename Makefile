# Every target makes the virtual environment itself. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench serve lint clean

demo: .venv/clara ## Real agent conversations through the proxy, and a question to clara-nano
	$(BIN)/clara-proxy demo

serve: .venv/core ## Run the proxy on 127.0.0.1:8765
	$(BIN)/clara-proxy serve

test: .venv/dev ## All tests, a file a worker
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: lint test ## What CI runs

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: .venv/dev ## The benchmarks that need nothing but this machine
	$(BIN)/python -m clara_proxy.benchmarks.retention
	$(BIN)/python -m clara_proxy.benchmarks.overhead --quick

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

# torch first: the pinned build is the one for the processor, where there is one; anything looser brings CUDA along.
.venv/clara: .venv/core
	$(PIP) torch==2.13.0
	$(PIP) -e '.[clara]'
	@touch $@

.venv/dev: .venv/clara
	$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
