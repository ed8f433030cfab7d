# `make site` and `make test` work as the first command in a fresh clone (Python >= 3.11, pip, make).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

N ?= 20
SEED ?= 0
JOBS ?= 2

.PHONY: help setup site bundle serve test mutants check browser format types wheel bench zensical clean
.DEFAULT_GOAL := help

help: ## what one can make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "eelit needs Python 3.11 or newer; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[run,site,cluster,mcp,onnx]' --group dev
	@touch $@

setup: $(STAMP) ## make .venv and install (nothing to do when up to date)

types: $(STAMP)
	@mkdir -p build/types/eelit
	@for room in bib catalog methods site cli; do ln -sfn ../../../$$room build/types/eelit/$$room; done

site: $(STAMP) ## build the catalogue, smoke-test every method on real data, build the site
	$(BIN)/eelit check
	$(BIN)/eelit build
	$(BIN)/eelit smoke; passed=$$?; $(BIN)/eelit site build && exit $$passed

bundle: site ## the site as one zip in dist/, to be read from disk
	$(BIN)/eelit site bundle

serve: $(STAMP) ## build the site and look at it on http://127.0.0.1:8000
	$(BIN)/eelit site serve

test: types browser ## format, lint, types and tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile

mutants: $(STAMP) ## KEY=…: which mistakes in a method its tests miss; N=20 of them, SEED=0, JOBS=2 at once, OUT=….json
	$(BIN)/python tests/mutants.py "$(KEY)" $(FILES) --n $(N) --seed $(SEED) --jobs $(JOBS) $(if $(OUT),--out $(OUT)) $(if $(ANYWAY),--anyway)

browser: ## find or install the chromium that looks at the site in tests
	@tests/install_chromium.sh

check: test site ## all that CI checks

format: $(STAMP) ## format and mend what ruff can mend
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

wheel: $(STAMP) ## sdist and wheel in dist/
	rm -rf build/lib
	$(BIN)/python -m build

bench: types browser ## start-up of the command line, time saved beside computation saved, in batches and in streams, logits to curves, speed of the site, large bibliographies and graphs, cost of a CI run, `eelit sync` killed a hundred times
	$(BIN)/python tests/bench_startup.py
	$(BIN)/python tests/bench_speed.py
	$(BIN)/python tests/bench_stream.py
	$(BIN)/python tests/bench_logits.py
	$(BIN)/python tests/bench_site.py
	$(BIN)/python tests/bench_bib.py
	$(BIN)/python tests/bench_ci.py
	$(BIN)/python tests/bench_sync.py

clean: ## remove what was built (never the sources in site/)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache

zensical: $(STAMP) ## see whether Material's successor builds the same tree, into build/zensical; it may fail
	$(BIN)/eelit site build
	test -x build/zensical-env/bin/zensical || $(PYTHON) -m venv build/zensical-env
	build/zensical-env/bin/python -m pip install --quiet 'zensical<0.2'
	sed -e 's#^docs_dir: .*#docs_dir: docs#; s#^site_dir: .*#site_dir: zensical#; s#custom_dir: site/theme#custom_dir: ../site/theme#' mkdocs.yml > build/zensical.yml
	build/zensical-env/bin/zensical build --config-file build/zensical.yml
