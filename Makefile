# make demo: install, run the bundled example, show the results.   make tools: all that tests, linters and docs need.
# make package: wheel and source distribution, in dist/.   make image: an image, with ENGINE, for DEVICE (cpu, gpu).
# make test: minutes, any machine.   .ci/run: also tests marked `ci` (make test TIER=ci).   make soak: hours.
# Three tests at a time keep two cores busy, since many wait for a process of their own.
# Settings for pip pass through, from the environment or as PIP_ARGS="--extra-index-url ...".
PYTHON ?= python3
VENV ?= .venv
CORES ?= 2
TIER ?= test
ENGINE ?= docker
DEVICE ?= cpu
BIN := $(VENV)/bin

PIP = $(BIN)/pip install --quiet --constraint constraints.txt $(PIP_ARGS)

.PHONY: install tools demo test soak lint docs package image clean
install: $(VENV)/.installed
tools: $(VENV)/.tools

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV)/, which takes minutes and is silent; PyTorch is the large part."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.tools: $(VENV)/.installed
	$(PIP) --editable '.[test,lint,docs]'
	touch $@

# Of 11,000 modules the example needs 500, and Python compiles those itself when they are first used: half of the time.
demo: PIP += --no-compile
demo: install
	$(BIN)/snakemake --cores $(CORES) --logger virnucpro
	@echo; echo "Open results/example/report.html in a browser. Next, with a file of yours:"
	@echo "  source $(BIN)/activate"; echo "  virnucpro doctor YOUR.fa"

test: tools
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 12 --tier $(TIER) tests

soak: tools
	$(BIN)/python -m pytest --tier soak -m soak tests

lint: tools
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint

docs: tools
	$(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

package: tools
	$(BIN)/python -m build --outdir dist

image:
	$(ENGINE) build --file containers/Dockerfile --build-arg DEVICE=$(DEVICE) --tag virnucpro:$(DEVICE) .

clean:
	rm -rf $(VENV) results .snakemake site dist
