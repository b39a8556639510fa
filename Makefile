# make demo and make test do all their own set-up in .venv; nothing but Python 3.11+ and make is needed.
PYTHON ?= python3
# cpu or gpu: which FAISS package is installed (they provide the same module and must never stand together).
FAISS ?= cpu
ARGS ?=
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: demo test lint format check-docker clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable ".[$(FAISS),offline,export,tensorboard,pictures,ray,milvus,postgres,benchmarks,docker,test,lint]"
	touch $@

demo: $(VENV)/.installed ## the whole trip: draw creatures, train, index, serve (ARGS=--check ends by itself)
	$(VENV)/bin/lhier demo $(ARGS)

test: $(VENV)/.installed ## all tests
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.installed ## ruff, mypy --strict, import-linter
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

check-docker: $(VENV)/.installed ## the images without an engine: files, rules, and their steps in a clean root (as root)
	docker/check.sh $(ARGS)

format: $(VENV)/.installed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) demo build .mypy_cache .ruff_cache .pytest_cache .hypothesis
