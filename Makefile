# Two commands do everything on a fresh Debian 12 with python3, make and apt (as root or through sudo):
#   make demo    set up, then show how a sandbox returns memory to the host
#   make test    set up, then run lint, type checks and the tests, including virtual machines
# After setup:
#   make check   run lint, type checks and the quick tests (a minute)
#   make unit    run all tests that need no virtual machine (minutes)
#   make extended    run the tests of what stands around sandboxes: server, MCP, page, code sessions, rules of networks,
#                package managers, chaos
#   make machines    run tests on other hosts (KVM, cgroup v2, …), which run as guests, and with another QEMU;
#                see tests/machines/README.md
#   make cluster run the tests with three hosts in network namespaces, each with Ray (as root; ten minutes; not in make test)
#   make tested  write what 'make machines' ran into docs/tested.md
#   make docs    build the documentation site in build/site (make docs-serve: on http://127.0.0.1:8000)
#   make bench   run the benchmarks (minutes); see bench/README.md
#   make chaos   create, use, kill and damage sandboxes at random for ten minutes (SEED=n replays)
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PYTHON := $(VENV)/bin/python
SOURCES := src tests bench examples fuzz scripts build_tools hatch_build.py
# What is not in the repository: the guest's programs, the modules that build_tools/ writes from others, and the
# libraries of the page.
GUEST_SOURCES := $(wildcard src/ballonet/guest/agent/*.[ch] src/ballonet/guest/agent/tsc/*.c)
GENERATED := src/ballonet/sdk/sync.py src/ballonet/control/sync_client.py
PAGE_FILES := src/ballonet/serve/page/vendor
GENERATED_SOURCES := $(filter-out $(GENERATED), $(wildcard build_tools/*.py src/ballonet/sdk/*.py \
	src/ballonet/guest/files.py src/ballonet/control/*.py))
PYTEST := $(PYTHON) -m pytest
NO_VM := not vm and not registry and not machines

.PHONY: help setup packages browser demo test check lint types quick unit registry vm extended cluster machines tested docs docs-serve bench chaos clean

help:
	@sed -n 's/^#   //p' Makefile

packages:
	@scripts/install-debian-packages

$(VENV)/bin/pip: | packages
	python3 -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | packages $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.built: hatch_build.py $(GUEST_SOURCES) $(GENERATED_SOURCES) $(VENV)/.installed
	$(PYTHON) hatch_build.py
	@touch $@

setup: packages $(VENV)/.built

demo: setup
	$(VENV)/bin/ballonet demo

# For the tests of the page; without it they are skipped.
browser:
	@scripts/install-debian-packages chromium

# Three slow tests run in parallel: most of the time they wait for virtual machines.
VM_TESTS := $(PYTEST) -q -n 3 --dist loadfile --no-loadscope-reorder --durations=15

test: lint types unit
	$(VM_TESTS) -m '(vm or registry) and not extended and not cluster'

extended: setup browser
	$(VM_TESTS) -m extended

check: lint types quick

lint: setup
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m ruff format --check $(SOURCES)
	$(VENV)/bin/lint-imports --no-cache

types: setup
	$(PYTHON) -m mypy

quick: setup
	$(PYTEST) -q -n auto -m '$(NO_VM) and not long'

unit: setup
	$(PYTEST) -q -n auto -m '$(NO_VM)'

registry: setup
	$(PYTEST) -q -n 2 --dist loadfile -m registry

vm: setup browser
	$(PYTEST) -q -n 2 --dist loadfile -m 'vm and not cluster' --durations=10

# Hosts in network namespaces: as root.
cluster: setup
	$(PYTEST) -v -m cluster --durations=0

# Two machines at a time: each has one processor.
machines: setup
	$(PYTEST) -v -m machines -n 2 --dist loadgroup --durations=0

tested: setup
	$(PYTHON) -m tests.machines.results

docs: setup
	$(PYTHON) -m scripts.build_docs

docs-serve: setup
	$(PYTHON) -m scripts.build_docs --serve

chaos: setup
	$(PYTHON) -m tests.chaos --seconds 600 $(if $(SEED),--seed $(SEED))

bench: setup
	$(PYTHON) -m bench.boot
	$(PYTHON) -m bench.start
	$(PYTHON) -m bench.resize
	$(PYTHON) -m bench.control
	$(PYTHON) -m bench.relief
	$(PYTHON) -m bench.weight
	$(PYTHON) -m bench.exec
	$(PYTHON) -m bench.boots
	$(PYTHON) -m bench.churn
	$(PYTHON) -m bench.simulate
	$(PYTHON) -m bench.pilot
	$(PYTHON) -m bench.burst
	$(PYTHON) -m bench.image
	$(PYTHON) -m bench.metrics
	$(PYTHON) -m bench.net
	$(PYTHON) -m bench.cluster

clean:
	rm -rf $(VENV) build dist src/ballonet/guest/agent/bin $(GENERATED) $(PAGE_FILES)
