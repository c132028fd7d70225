# `make book` and `make test` are all that a fresh machine needs: Python 3.11 or newer and make.
# Every target that needs the environment depends on STAMP, which creates it once and refreshes it
# when pyproject.toml or constraints.txt change.

BIN := .venv/bin
STAMP := .venv/.installed
WORKERS ?= 2
# The Python that is already active wins, then the newest; each is tried by running it.
PYTHONS := $(PYTHON) python3 python3.13 python3.12 python3.11

# Files are UTF-8 whatever the locale; not all that runs below says so when it opens them.
export PYTHONUTF8 = 1

.DEFAULT_GOAL := help
.PHONY: help setup book offline pdf test check notebooks lint format constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## create or refresh .venv (the targets below do it by themselves)

$(STAMP): pyproject.toml constraints.txt hashes.txt scripts/setup_venv.py
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    exec "$$python" scripts/setup_venv.py $(STAMP); \
	  fi; \
	done; \
	echo 'No Python 3.11 or newer was found: install one, or name it (make PYTHON=/path/to/python3).' >&2; \
	exit 1

# --all: with an incremental build, a page that warned and did not change would pass the next time.
book: $(STAMP) ## build the HTML; a warning is an error
	$(BIN)/jupyter-book build . --all -W --keep-going
	@printf '\nThe book is built. Open %s\n' "$(CURDIR)/_build/html/index.html"

offline: book ## pack the built book into dist/, one zip that opens on any machine
	$(BIN)/python scripts/release.py offline

pdf: book ## print the built book into dist/ as PDF (needs a Chromium, takes minutes)
	$(BIN)/python scripts/release.py pdf

# One thread per worker: two threads on two busy cores are many times slower than one.
test check: export OMP_NUM_THREADS = 1
test check: export MKL_NUM_THREADS = 1
test check: export OPENBLAS_NUM_THREADS = 1

test: $(STAMP) ## run the unit tests and every notebook (ARGS='-k schedules' for some)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --nbval $(ARGS)

# A quick test that has become a slow one is named at the end: mark it.
check: lint ## lint and the quick tests, below 3 minutes: no notebooks, no browser, none marked slow
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope -m 'not slow' \
	  --durations=10 --durations-min=2 $(ARGS)

# `make -j2 book test`: both build the HTML, so one after the other.
test: | $(filter book,$(MAKECMDGOALS))

notebooks: $(STAMP) ## run the chapters from notebooks/src and write notebooks/*.ipynb (CHAPTER=03_ddpm for one)
	$(BIN)/python scripts/notebooks.py $(CHAPTER)

lint: $(STAMP) ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff mend and format what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(STAMP) ## write constraints.txt and hashes.txt anew (delete the lines of packages that may move first)
	$(BIN)/python scripts/freeze.py
	@touch $(STAMP)

clean: ## remove the built book and the caches; .venv and runs/ stay
	rm -rf _build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .jupyter_cache
	find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
