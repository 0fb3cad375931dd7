# make demo   environment, then train, measure and draw on made images
# make test   environment, then format, lint, types, tests, doctests, README code
# make bench  speed and memory; beside torchvision where PEER names a Python that has it

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test format bench clean

demo: $(READY)
	$(BIN)/maskrcnn demo -o demo

test: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" sh scripts/test

format: $(READY)
	$(BIN)/ruff format src tests benchmarks examples docs
	$(BIN)/ruff check --fix src tests benchmarks examples docs

bench: $(READY)
	$(BIN)/python benchmarks/run.py $(if $(PEER),--peer $(PEER))

# torch first and by itself: with it in place nothing pulls in another build of it.
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("maskrcnn needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
