# make run, test, lint, bench: each sets up what it needs, once. PYTHON=... picks another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DELETE_ON_ERROR:
.PHONY: run test lint bench clean

run: $(READY)
	$(BIN)/edgesyncd

test: $(READY)
	$(BIN)/pytest --cov --cov-report=term $(ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@# The unit's command is looked for on this machine, so it gets the one from here.
	@if command -v systemd-analyze >/dev/null; then \
	    dir=$$(mktemp -d) && trap 'rm -r "$$dir"' EXIT && \
	    sed 's|/usr/bin/edgesyncd|$(CURDIR)/$(BIN)/edgesyncd|' systemd/edgesyncd.service \
	        > "$$dir/edgesyncd.service" && \
	    systemd-analyze verify "$$dir/edgesyncd.service" && echo "systemd units: ok"; \
	else echo "systemd units: not checked, systemd-analyze is missing"; fi

bench: $(READY)
	$(BIN)/python -m bench $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .hypothesis \
	    .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -r {} +

# netifaces comes as source: it needs a compiler and Python's headers.
define MISSING
import importlib.util, os, shutil, sys, sysconfig
if sys.version_info < (3, 11):
    sys.exit("edgesync needs Python 3.11 or newer, this is %s; name another one: make PYTHON=python3.12"
             % sys.version.split()[0])
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
has = {"python3-venv": importlib.util.find_spec("ensurepip"), "python3-dev": os.path.exists(header),
       "gcc": shutil.which("gcc") or shutil.which("cc")}
print(" ".join(package for package in has if not has[package]))
endef
export MISSING

$(READY): setup.cfg pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
	    { echo "edgesync needs Python 3.11 or newer; there is no $(PYTHON)" >&2; exit 1; }
	@missing=$$($(PYTHON) -c "$$MISSING") || exit 1; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "installing $$missing" && apt-get update -q && apt-get install -y -q $$missing; \
	    else \
	        echo "missing: $$missing" >&2; \
	        echo "on Debian: sudo apt-get install $$missing" >&2; exit 1; \
	    fi; \
	fi
	@echo "setting up $(VENV), once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@
