# Every target does its own set-up, in a virtual environment in $(VENV), with what pyproject.toml asks for.
# A finished installation leaves a stamp there, so that the next call starts at once.
#
#   make test PYTHON=python3.12     the interpreter that the environment is made from (default: the first that serves)
#   make test VENV=/tmp/venv        another place for the environment
#   make test PYTEST_ARGS='-k ami'  further arguments for pytest

VENV ?= .venv
PYTHON ?=
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test smoke lint format benchmark results clean distclean interpreters check-python

BIN := $(VENV)/bin
CORE := $(VENV)/.installed-core
TEST := $(VENV)/.installed-test
DEV := $(VENV)/.installed-dev

help: ## this list
	@echo 'Targets (each sets up $(VENV) by itself the first time):'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 18

demo: $(CORE) ## train on fresh shapes and see them pulled apart: a few minutes on two cores
	@"$(BIN)/python" -m experiments.static_shapes.demo

test: $(TEST) ## the whole test suite, without the benchmarks
	"$(BIN)/python" -m pytest $(PYTEST_ARGS)

smoke: $(TEST) ## the few quick tests that show that an interpreter and its libraries serve
	"$(BIN)/python" -m pytest -m smoke $(PYTEST_ARGS)

lint: $(DEV) ## ruff, flake8 and mypy, each of them to its end
	@failed=; for tool in 'ruff check' 'ruff format --check' flake8 mypy; do \
	  echo "$$tool"; "$(BIN)/python" -m $$tool || failed=yes; \
	done; [ -z "$$failed" ]

format: $(DEV) ## sort imports and format, in place
	"$(BIN)/python" -m ruff check --select I --fix
	"$(BIN)/python" -m ruff format

benchmark: $(TEST) ## timings against other programs; they want a quiet machine
	"$(BIN)/python" -m pytest -m benchmark -n 0 -s $(PYTEST_ARGS) tests/benchmarks/bench_*.py

results: $(CORE) ## write the table of experiments/README.md again, from the result files
	"$(BIN)/python" -m experiments.table

clean: ## remove caches and build outputs; runs and the environment stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find nem_jax experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove the environment too
	@if [ ! -e "$(VENV)" ] || [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; \
	else echo '$(VENV) is no virtual environment: left alone.' >&2; exit 1; fi


# --- set-up ---------------------------------------------------------------------------------------------------------

# Prints "3.11 /its/path" where an interpreter serves. A name on PATH says little: it may be another tool's empty shim.
PROBE := import sys, venv, ensurepip; v = sys.version_info; v < (3, 11) and sys.exit(1); \
	print("%d.%d %s" % (v[0], v[1], sys._base_executable))
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3 python \
	"$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin/python)

# All interpreters that serve, one a line; .ci/run reads it.
interpreters:
	@for python in $(CANDIDATES); do "$$python" -c '$(PROBE)' 2>/dev/null || true; done

define ensure_venv
	@if "$(BIN)/python" -c '$(NEW_ENOUGH)' 2>/dev/null && "$(BIN)/python" -m pip --version >/dev/null 2>&1; then exit 0; fi; \
	if [ -e "$(VENV)" ] && [ ! -f "$(VENV)/pyvenv.cfg" ]; then \
	  echo '$(VENV) exists and is no virtual environment: move it away, or choose another place with VENV=...' >&2; exit 1; \
	elif [ -e "$(VENV)" ] && [ ! -e "$(VENV)/.made-by-make" ]; then \
	  echo '$(VENV) has no pip, or a Python before 3.11, and make did not make it: make distclean removes it, or choose another place with VENV=...' >&2; exit 1; \
	fi; \
	for python in $(CANDIDATES); do \
	  found=$$("$$python" -c '$(PROBE)' 2>/dev/null) && break; found=; \
	  "$$python" -c '$(NEW_ENOUGH)' 2>/dev/null && bare=$$python; \
	done; \
	if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	  echo "$$bare cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)." >&2; exit 1; \
	elif [ -z "$$found" ]; then \
	  echo 'nem_jax needs Python 3.11 or later and $(if $(PYTHON),$(PYTHON) is none,found none): install one, or name it with make PYTHON=/path/to/python.' >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with Python $$found"; \
	"$${found#* }" -m venv --clear --without-pip "$(VENV)" && touch "$(VENV)/.made-by-make" && \
	"$(BIN)/python" -m ensurepip --upgrade >/dev/null
endef

# $(call install,extras,stamps): the stamps are left only when pip has succeeded.
define install
	$(ensure_venv)
	@echo "Installing nem_jax$(1) into $(VENV): a minute or two the first time"
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --editable '.$(1)'
	@touch $(2)
endef

# Stamps say nothing of an environment whose interpreter is gone, as after an upgrade.
ifneq ($(shell [ -x "$(BIN)/python" ] && echo there),there)
.PHONY: $(CORE) $(TEST) $(DEV)
endif

$(CORE): pyproject.toml | check-python
	$(call install,,$(CORE))

$(TEST): pyproject.toml | check-python
	$(call install,[test],$(CORE) $(TEST))

$(DEV): pyproject.toml | check-python
	$(call install,[dev],$(CORE) $(TEST) $(DEV))

# An environment keeps its interpreter: a PYTHON=... that asks for another one is not passed over in silence.
check-python:
ifneq ($(PYTHON),)
	@asked=$$("$(PYTHON)" -c '$(PROBE)' 2>/dev/null); has=$$("$(BIN)/python" -c '$(PROBE)' 2>/dev/null); \
	if [ -n "$$asked" ] && [ -n "$$has" ] && [ "$${asked%% *}" != "$${has%% *}" ]; then \
	  echo "$(VENV) holds Python $${has%% *} and PYTHON=$(PYTHON) is $${asked%% *}: choose another VENV=..., or make distclean first." >&2; exit 1; \
	fi
else
	@:
endif
