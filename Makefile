# Two commands do all the set-up on a machine with Python 3.11 or later: `make demo` and `make test`.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p) 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help venv demo test test-all test-unit test-iceberg lint format up down constraints clean
help:
	@echo "make demo    run the clickstream pipeline on this machine (LOGS=path[,path...] for your own access logs)"
	@echo "make up      local AWS and Airflow in the browser; make down stops both"
	@echo "make test    the tests          make test-all  with the long ones"
	@echo "make lint    ruff and mypy      make bench-local, bench-demo, bench-etl, bench-waiting  the measurements"

# uv installs from the same index and files as pip in a tenth of the time; where it cannot, pip does it.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3.11 or later on the PATH. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11. Name a newer one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/pip || "$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment with pip. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) from constraints.txt ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]' \
	  || $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

venv: $(STAMP)

demo: $(STAMP)
	@$(BIN)/emr-etl demo $(if $(LOGS),--logs "$(LOGS)") $(DEMO_FLAGS)

up: $(STAMP)
	@$(BIN)/emr-etl up

down: $(STAMP)
	@$(BIN)/emr-etl down

test: $(STAMP)
	$(BIN)/pytest -m "not slow" $(PYTEST_FLAGS)

test-all: $(STAMP)
	$(BIN)/pytest $(PYTEST_FLAGS)

test-unit: $(STAMP)
	$(BIN)/pytest tests/unit tests/contract $(PYTEST_FLAGS)

# Iceberg for Spark 3.5: a Python of its own, since its jar does not run on the Spark of the tests.
.venv-iceberg/.installed:
	@"$(PYTHON)" -m venv --clear .venv-iceberg
	@.venv-iceberg/bin/pip install --quiet --disable-pip-version-check pyspark==3.5.9 snowpark-connect-deps-iceberg==1.0.3
	@touch $@

test-iceberg: $(STAMP) .venv-iceberg/.installed
	$(BIN)/pytest tests/integration/spark/test_iceberg.py $(PYTEST_FLAGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-%: $(STAMP)
	$(BIN)/python -m benchmarks.$(subst -,_,$*)

constraints: $(STAMP)
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links setup.cfg --extra dev -o constraints.txt
	@$(BIN)/uv --version | awk '{print "uv=="$$2}' >> constraints.txt && LC_ALL=C sort -o constraints.txt constraints.txt

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
