# Two commands do it all: `make demo` and `make test`. Both create .venv and install what they need first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test fuzz docs notebooks lint format clean

demo: $(INSTALLED)
	$(BIN)/python -m scfm.demo

# One thread a process: two cores serve two test processes, and waiting threads would take their time.
test: lint
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile tests

# The fuzzers of `make test`, with SCFM_FUZZ examples each: hours for 100,000.
SCFM_FUZZ ?= 5000
fuzz: $(INSTALLED)
	SCFM_FUZZ=$(SCFM_FUZZ) OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -q --timeout=0 tests/fuzz

# The site, without network, into outputs/site; a warning is an error. The tests build it too, and follow its links.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# Runs the tutorials and keeps their outputs, which the site shows: ten minutes.
notebooks: $(INSTALLED)
	cd notebooks && for name in *.ipynb; do PATH="$(CURDIR)/$(BIN):$$PATH" jupyter execute --inplace "$$name" || exit 1; done

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
