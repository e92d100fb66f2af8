# make run, test, lint, bench, fuzz, soak, package, test-package: each sets up what it needs, once.
# PYTHON=... picks another interpreter, ARCH=arm64 the processor to try the package for.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
ARCH ?= $(shell dpkg --print-architecture)
DEBIAN_ROOT := build/debian-$(ARCH)
IMAGE_TOOLS := qemu-user-static systemd squashfs-tools genimage mtools dosfstools fdisk zstd openssl rauc
COMMITTED = $(shell git log -1 --format=%ct)

.DELETE_ON_ERROR:
.PHONY: run test lint bench fuzz soak audit package test-package image hw-test clean

run: $(READY)
	$(BIN)/edgesyncd

test: $(READY)
	$(BIN)/pytest --cov --cov-report=term $(ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if command -v systemd-analyze >/dev/null; then systemd/check.sh "$(CURDIR)/$(BIN)/edgesyncd"; \
	else echo "systemd units: not checked, systemd-analyze is missing"; fi

bench: $(READY)
	$(BIN)/python -m bench $(ARGS)

# Minutes instead of the seconds that `make test` gives to these: ARGS="--inputs 5000000 --seed x",
# or the names of some targets.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz $(ARGS)
	EDGESYNC_MUTATIONS=100000 EDGESYNC_CONVERGENCE_EXAMPLES=500 $(BIN)/pytest --timeout 1800 \
	    tests/replication/test_mutations.py tests/replication/test_convergence.py

# Are advisories known for what is installed? Asks PyPI; what it cannot ask for is a failure.
audit: $(READY)
	test -x build/audit/bin/pip-audit || \
	    { $(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit; }
	$(BIN)/pip freeze --exclude-editable >build/audit/installed.txt
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement build/audit/installed.txt

# Hundreds of clients for minutes: ARGS="--minutes 60 --clients 400 --pause 8".
soak: $(READY)
	$(BIN)/python -m tests.soak $(ARGS)

package:
	@$(call need,dpkg-dev debhelper dh-python pybuild-plugin-pyproject python3-all python3-setuptools \
	    python3-wheel)
	image-build/package.sh

# On Debian 13 in namespaces of its own, with its systemd where the processor is this machine's.
test-package: package $(READY) $(DEBIAN_ROOT)
	EDGESYNC_PACKAGE=$$(ls dist/*.deb) EDGESYNC_DEBIAN_ROOT=$(DEBIAN_ROOT) \
	    $(BIN)/pytest tests/packaging $(ARGS)

$(DEBIAN_ROOT): image-build/debian-root.sh image-build/debian/control
	@$(call need,mmdebstrap $(if $(filter-out $(shell dpkg --print-architecture),$(ARCH)),qemu-user-static))
	image-build/debian-root.sh $(ARCH) $@

# The SD image, the update for boxes that have one, and what starts them in QEMU.
image: package $(READY) build/image/base.tar
	@$(call need,$(IMAGE_TOOLS))
	SOURCE_DATE_EPOCH=$(COMMITTED) image-build/image.sh build/image/base.tar dist/edgesync_*_all.deb
	$(BIN)/pytest -q -p no:randomly tests/image_build/test_image.py $(ARGS)

# All of Debian's, so it is made again only when that changes.
build/image/base.tar: image-build/base-root.sh image-build/packages.txt image-build/debian/control \
    $(shell find image-build/initramfs -type f)
	@$(call need,mmdebstrap qemu-user-static zstd)
	SOURCE_DATE_EPOCH=$(COMMITTED) image-build/base-root.sh $@

# The package and the image on machines of their own, in QEMU; an hour.
# EDGESYNC_POWER_CUTS=3 for fewer than 20, ARGS=hw-tests/vm for one tier.
hw-test: package $(READY) build/image/base.tar
	@$(call need,qemu-system-arm qemu-utils qemu-user-static e2fsprogs openssh-client iproute2 mtools fdisk)
	hw-tests/vm/make-disk.sh build/image/base.tar dist/edgesync_*_all.deb build/vm
	$(MAKE) image ARGS=
	EDGESYNC_VM=build/vm EDGESYNC_IMAGE=$$(ls dist/edgesync-*-arm64.img) \
	    EDGESYNC_BUNDLE=$$(ls dist/edgesync-*-arm64.raucb) \
	    $(BIN)/pytest -c hw-tests/pytest.ini $(or $(ARGS),hw-tests)

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .hypothesis \
	    .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -r {} +

# Install Debian packages that are missing, or say which.
need = missing=""; for each in $(1); do \
	    dpkg-query -Wf '$${Status}' $$each 2>/dev/null | grep -q "ok installed" || \
	        missing="$$missing $$each"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ]; then \
	    echo "installing$$missing" && apt-get update -q && apt-get install -y -q $$missing; \
	else echo "missing:$$missing" >&2; exit 1; fi

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[test,lint]'
	@touch $@
