# Two commands do it all: `make demo` and `make test`. Both create .venv and install what they need first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test fuzz lint format clean

demo: $(INSTALLED)
	$(BIN)/python -m scfm.demo

# One thread a process: two cores serve two test processes, and waiting threads would take their time.
test: lint
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile --nbmake tests notebooks

# The fuzzers of `make test`, with SCFM_FUZZ examples each: hours for 100,000.
SCFM_FUZZ ?= 5000
fuzz: $(INSTALLED)
	SCFM_FUZZ=$(SCFM_FUZZ) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --timeout=0 tests/fuzz

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv outputs dist build

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"scfm needs Python 3.11 or newer, this is {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
