# Each target sets up all that it needs in .venv. `make demo` and `make test` are the two to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-cuda lint docs wheel smoke bench studies clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-build-isolation --editable '.[test,lint,docs,release]'
	touch $@

demo: $(READY)  ## draw digits with a ladder of exact denoisers, against every rival
	$(BIN)/mlsde demo --json out/demo.json --picture out/demo.png

test: $(READY)  ## the fast tests; warnings are errors
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: $(READY)  ## the long studies
	$(BIN)/python -m pytest -q -m slow

test-cuda: $(READY)  ## the tests that need a CUDA device; `python examples/on_cuda.py` runs all that does
	$(BIN)/python -m pytest -q -m cuda

lint: $(READY)  ## style, types and sizes of files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	.ci/sizes

docs: $(READY)  ## the pages as a site under build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

wheel: $(READY)  ## a wheel and a source distribution in dist
	rm -rf dist && mkdir -p build
	$(BIN)/python -m build --no-isolation --outdir dist . > build/wheel.log 2>&1 || (cat build/wheel.log; false)
	ls dist

smoke: wheel  ## the wheel alone, without extras, in an environment of its own outside the clone's reach
	rm -rf build/smoke
	$(PYTHON) -m venv build/smoke
	build/smoke/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd build/smoke && bin/python -I -W error "$(CURDIR)/tests/smoke.py"

bench: $(READY)  ## the price of a step against a bare loop and torchsde
	$(BIN)/mlsde bench core --json out/bench-core.json

studies: $(READY)  ## every study of docs/rates.md, and its tables; goes on where it was killed
	$(BIN)/mlsde study all --jobs 2 --folder docs/results/study
	$(BIN)/mlsde study --page docs/rates.md --folder docs/results/study
	$(BIN)/mlsde study ode-3 ode-4 additive-3 multiplicative-3 --folder out/study-picture \
		--trials docs/results/study/trials --picture docs/images/rates.png

clean:
	rm -rf $(VENV) build dist out
