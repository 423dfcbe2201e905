# make demo: install, run the bundled example, show the results.
# make test: minutes, any machine.   .ci/run: also tests marked `ci` (make test TIER=ci).   make soak: hours.
# Three tests at a time keep two cores busy, since many wait for a process of their own.
# Settings for pip pass through, from the environment or as PIP_ARGS="--extra-index-url ...".
PYTHON ?= python3
VENV ?= .venv
CORES ?= 2
TIER ?= test
BIN := $(VENV)/bin

.PHONY: install demo test soak lint docs clean
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt $(PIP_ARGS) --editable '.[test,lint,docs]'
	touch $@

demo: install
	$(BIN)/snakemake --cores $(CORES)
	@echo; echo "Results are in results/example/:"; ls results/example
	@for table in contigs chunks predictions; do echo; echo "$$table.tsv"; head -n 6 results/example/$$table.tsv; done

test: install
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 12 --tier $(TIER) tests

soak: install
	$(BIN)/python -m pytest --tier soak -m soak tests

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint

docs: install
	$(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

clean:
	rm -rf $(VENV) results .snakemake site
