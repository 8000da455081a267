# Everything runs from a fresh checkout: Python 3.11 or newer, a Rust toolchain, and the package registries.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
VENV ?= .venv
CARGO ?= cargo
# Test processes: much of the suite waits, for deadlines and for servers.
JOBS ?= 6

# Tests start hundreds of processes: each would compile every module that it imports.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
PY := $(BIN)/python
UV := .tools/uv/bin/uv
INSTALL = $(UV) pip install --quiet --python
RUST_SOURCES := Cargo.toml $(wildcard Cargo.lock) $(shell find src -name '*.rs')

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

.PHONY: venv
venv: $(VENV)/.ready ## make .venv with the development tools

# It resolves and unpacks in seconds what pip needs minutes for.
$(UV):
	$(PYTHON) -m venv .tools/uv
	.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'

$(VENV)/.ready: pyproject.toml | $(UV)
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) $(PY) --group dev
	touch $@

.PHONY: build
build: $(VENV)/.built ## build the extension (release) into .venv

$(VENV)/.built: $(VENV)/.ready $(RUST_SOURCES)
	PATH=$(abspath $(dir $(UV))):$$PATH VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --uv --release --quiet
	touch $@

.PHONY: demo
demo: build ## decode every recorded response, then a 64k-token one on each wire
	$(PY) -m benches.demo

# Two at a time: much of the Python tests waits, so does what is installed, and what compiles does not. Each output comes
# in one piece.
TOGETHER = --no-print-directory --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: test
test: ## everything that must pass
	$(MAKE) $(TOGETHER) test-python test-rust lint-rust lint-python

.PHONY: lint
lint: lint-rust lint-python ## formatters, linters and types of both languages; warnings are errors

# Clippy links nothing, so the fuzz targets' libFuzzer need not be built for it.
.PHONY: lint-rust
lint-rust: $(VENV)/.ready ## rustfmt, clippy, rustdoc
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	PYO3_PYTHON=$(abspath $(PY)) $(CARGO) clippy --locked --quiet --lib -- -D warnings
	$(CARGO) clippy --locked --quiet --workspace --all-targets --no-default-features -- -D warnings
	CUSTOM_LIBFUZZER_PATH=fuzz/libfuzzer.a $(CARGO) clippy --locked --quiet --all-targets --manifest-path fuzz/Cargo.toml \
		--target-dir $(or $(CARGO_TARGET_DIR),target) -- -D warnings
	PYO3_PYTHON=$(abspath $(PY)) RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --quiet --no-deps --workspace

.PHONY: lint-python
lint-python: build ## ruff, mypy, pyright, stubtest, imports, workflows, versions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(PY)
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/stubtest dynamo_tito._core --allowlist tests/surface/stubtest.txt --ignore-unused-allowlist
	$(BIN)/actionlint
	$(BIN)/zizmor --offline --quiet .github
	$(PY) tools/release/version.py

# Cargo cannot reach the job server of a make that runs two checks at a time, and would warn of it.
.PHONY: test-rust
test-rust: ## cargo tests of the core and the oracle; the binding is tested by pytest
	env -u MAKEFLAGS -u MFLAGS $(CARGO) test --locked --quiet --workspace --no-default-features

.PHONY: test-python
test-python: build ## pytest
	$(BIN)/pytest -q -n $(JOBS) --dist worksteal

FLOORS := .venv-floors

$(FLOORS)/.ready: pyproject.toml $(VENV)/.ready
	$(UV) venv --quiet --clear --python $(PY) $(FLOORS)
	$(INSTALL) $(FLOORS)/bin/python --resolution lowest-direct \
		--requirement pyproject.toml --extra aiohttp --extra cli --extra httpx --extra safetensors
	$(INSTALL) $(FLOORS)/bin/python --group test
	touch $@

.PHONY: test-floors
test-floors: build $(FLOORS)/.ready ## the clients' tests with the lowest versions that the metadata allows
	$(UV) pip list --quiet --python $(FLOORS)/bin/python | grep -E '^(aiohttp|h11|httpx|numpy|rich|tenacity|typer|yarl) '
	PYTHONPATH=$(abspath python) $(FLOORS)/bin/python -m pytest -q -n $(JOBS) --dist worksteal tests/transports tests/faults

THREADS := .venv-threads
# A free-threaded CPython: the one that PYTHON names, else one that is compiled here, once.
FREE = $(if $(filter file,$(origin PYTHON)),.python3.14t/bin/python3.14t,$(PYTHON))
# Its extension is another one: the stable ABI does not exist there.
FREE_MATURIN = CARGO_TARGET_DIR=$(abspath target/threads) $(THREADS)/bin/maturin

$(THREADS)/.ready: pyproject.toml
	$(if $(filter file,$(origin PYTHON)),tools/threads/install.sh .python3.14t)
	$(FREE) -m venv --clear $(THREADS)
	$(THREADS)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(THREADS)/bin/python -m pip install --quiet --only-binary :all: --group suite
	touch $@

$(THREADS)/.built: $(THREADS)/.ready $(RUST_SOURCES)
	VIRTUAL_ENV=$(abspath $(THREADS)) $(FREE_MATURIN) develop --release --quiet --group suite
	touch $@

# What a package of the tests brings must not turn the GIL on; the library itself is tested without the variable.
.PHONY: test-threads
test-threads: $(THREADS)/.built ## pytest without the GIL, on PYTHON=python3.14t or one built from Debian's sources
	PYTHON_GIL=0 $(THREADS)/bin/python -m pytest -q -n $(JOBS) --dist worksteal

.PHONY: wheel-threads
wheel-threads: $(THREADS)/.ready ## the wheel of that interpreter in dist/, proven in a clean environment
	rm -rf dist
	$(FREE_MATURIN) build --release --quiet --out dist --interpreter $(THREADS)/bin/python
	$(THREADS)/bin/python -m benches.check_wheel dist

# What `.ci/run` installs beside `make test`: these need no environment of ours.
DYNAMO_VERSIONS ?= 1.6.1 1.7.0.dev20261026
ENGINES = PYTHON=$(PYTHON) UV=$(abspath $(UV)) tools

.PHONY: install-dynamo
install-dynamo: $(UV) ## each of DYNAMO_VERSIONS into .dynamo/VERSION, once: 700 MB each
	@for version in $(DYNAMO_VERSIONS); do $(ENGINES)/dynamo/install.sh .dynamo/$$version $$version || exit; done

.PHONY: install-vllm
install-vllm: $(UV) ## a real vLLM for the CPU and its tiny models into .vllm, once: 6 GB
	@$(ENGINES)/vllm/install.sh .vllm

.PHONY: install-peers
install-peers: $(UV) ## renderers and verifiers, two versions of each, into .peers, once: 700 MB
	@$(ENGINES)/peers/install.sh .peers

.PHONY: test-dynamo
test-dynamo: build install-dynamo ## the real Dynamo frontend, each of DYNAMO_VERSIONS, with a stand-in engine
	$(MAKE) $(TOGETHER) $(addprefix test-dynamo-,$(DYNAMO_VERSIONS))

# Side by side: each mostly waits, for deadlines and for workers that end.
test-dynamo-%:
	DYNAMO_DIR=.dynamo/$* $(BIN)/pytest -q tests/integration/dynamo

.PHONY: test-vllm
test-vllm: build install-vllm ## real vLLM servers, each value against a forward pass (3 GB of memory a server)
	VLLM_DIR=.vllm $(BIN)/pytest -q tests/integration/vllm

$(VENV)/.view: pyproject.toml $(VENV)/.ready
	$(INSTALL) $(PY) --group view
	touch $@

.chromium/.ready: tools/chromium/install.sh
	tools/chromium/install.sh .chromium

VIEWER := python/dynamo_tito/viewer/assets

.PHONY: test-view
test-view: build $(VENV)/.view .chromium/.ready ## the viewer's pages in a real Chromium, and their scripts linted
	$(BIN)/oxfmt --check $(VIEWER)/*.js
	$(BIN)/oxlint --config .oxlintrc.json --deny-warnings $(VIEWER)
	$(BIN)/pytest -q tests/viewer

.PHONY: pictures
pictures: build $(VENV)/.view .chromium/.ready ## the pictures of docs/view.md, taken anew
	PICTURES=docs/view $(BIN)/pytest -q tests/viewer/test_pictures.py

.PHONY: test-peers
test-peers: build install-peers ## suites of renderers and verifiers over this library; real servers where installed
	$(if $(wildcard .vllm/models),VLLM_DIR=.vllm) $(if $(wildcard .dynamo/$(firstword $(DYNAMO_VERSIONS))),\
		DYNAMO_DIR=.dynamo/$(firstword $(DYNAMO_VERSIONS))) $(PY) tools/peers/run.py .peers

.PHONY: install-trainers
install-trainers: install-vllm ## verl, SkyRL, TRL, tinker, AReaL and Ray beside it into .peers/trainers, once: 630 MB
	@$(ENGINES)/peers/trainers.sh .peers/trainers .vllm/venv

# SLIME_DIR, MILES_DIR and NEMO_RL_DIR name checkouts of those that have no package.
.PHONY: test-trainers
test-trainers: build install-trainers ## the trainers' own code on what the adapters give it, and a local Ray cluster
	PEERS=trainers PYTHONPATH=$(abspath python):$(abspath .peers/trainers) .vllm/venv/bin/python -m pytest -q -p no:cacheprovider \
		tests/peers/trainers tests/peers/ray tests/integrations tests/rollout/test_batch.py \
		tests/surface/test_integrations_page.py tests/examples/test_examples.py::test_it_runs_on_ray

SECONDS ?= 60

.PHONY: fuzz
fuzz: ## fuzz each target for its share of SECONDS=60, or for RUNS=n (TARGETS="decode kernels", SANITIZE=1)
	CARGO=$(CARGO) $(PYTHON) fuzz/run.py $(if $(RUNS),--runs $(RUNS),--seconds $(SECONDS)) $(if $(SANITIZE),--sanitize) $(TARGETS)

.PHONY: sanitize
sanitize: build ## the core's tests, and pytest's of decoding, under AddressSanitizer
	CARGO=$(CARGO) tools/sanitize.sh $(abspath $(PY))

.PHONY: sanitize-threads
sanitize-threads: ## the core's tests with threads under ThreadSanitizer, and a standard library built for it
	CARGO=$(CARGO) tools/threads/races.sh .tools/rust-src memory:: http::

.PHONY: test-arm
test-arm: $(VENV)/.ready ## the core's tests, and pytest's of decoding, for aarch64 under an emulator (Debian, root; 2 GB)
	tools/arm/install.sh .arm
	CARGO=$(CARGO) UV=$(abspath $(UV)) tools/arm/test.sh .arm

.tools/bin/cargo-deny:
	$(CARGO) install --locked --quiet --root .tools cargo-deny@0.20.2

# Licences that fewer crates need than are allowed are no concern.
DENY = .tools/bin/cargo-deny --locked --log-level error
AUDIT = check --allow license-not-encountered --allow license-exception-not-encountered licenses bans sources

.PHONY: audit
audit: .tools/bin/cargo-deny ## licences, sources, duplicates and known vulnerabilities of the dependencies
	$(DENY) $(AUDIT)
	$(DENY) --manifest-path fuzz/Cargo.toml $(AUDIT)
	@if .tools/bin/cargo-deny --log-level off fetch db; then \
		set -ex; $(DENY) check advisories; $(DENY) --manifest-path fuzz/Cargo.toml check advisories; \
	else \
		echo 'NOT CHECKED: known vulnerabilities. The advisory database (github.com/RustSec/advisory-db) cannot be reached.'; \
	fi

# What packs a release, apart from the development tools: zig alone is 450 MB.
PACKING := .venv-packing

$(PACKING)/.ready: pyproject.toml
	$(PYTHON) -m venv --clear $(PACKING)
	$(PACKING)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(PACKING)/bin/python -m pip install --quiet --group packing
	touch $@

# Zig links against the symbols of an old glibc, on a Linux of any age. Where there is no glibc there is no such policy.
POLICY := $(if $(filter Linux,$(shell uname -s)),--zig --compatibility manylinux_2_17)

.PHONY: wheel
wheel: $(PACKING)/.ready ## a wheel for PYTHON (abi3 where it has that) in dist/, proven in a clean environment
	rm -rf dist
	CARGO=$(CARGO) $(PACKING)/bin/python tools/release/licences.py
	PATH=$(abspath $(PACKING))/bin:$$PATH $(PACKING)/bin/maturin build --locked --release --quiet --out dist \
		--interpreter $(PACKING)/bin/python $(POLICY)
	$(PACKING)/bin/python -m benches.check_wheel dist

.PHONY: sdist
sdist: $(PACKING)/.ready ## a source distribution in dist/, proven: it compiles and decodes in a clean environment
	rm -rf dist
	CARGO=$(CARGO) $(PACKING)/bin/python tools/release/licences.py
	$(PACKING)/bin/maturin sdist --out dist
	$(PACKING)/bin/python -m benches.check_wheel dist

# The interpreters, each a command.
PYTHONS ?= $(PYTHON)
EXTRAS ?= cli,renderers,safetensors

.PHONY: test-wheel
test-wheel: ## the wheel in dist/ as users have it, with each of PYTHONS: README, every example, doctor (after `make wheel`)
	EXTRAS=$(EXTRAS) tools/release/try_wheel.sh $(PYTHONS)

.PHONY: claims
claims: build ## the figures of the README: memory, latency, speed, wheel size, import time
	$(PY) -m benches.claims

$(VENV)/.rivals: $(VENV)/.ready
	$(INSTALL) $(PY) --group bench
	touch $@

.PHONY: bench
bench: claims $(VENV)/.rivals ## every measurement, beside pinned rivals; writes docs/benchmarks.md
	$(CARGO) bench --locked --quiet --no-default-features --bench kernels --bench decode
	$(PY) -m benches.artifact
	$(PY) -m benches.peers report

$(VENV)/.docs: $(VENV)/.ready
	$(INSTALL) $(PY) --group docs
	touch $@

.PHONY: docs
docs: build $(VENV)/.docs ## the pages into site/; a warning and a dead link are errors
	$(PY) tools/pages.py build/pages
	set -o pipefail; PYTHONWARNINGS=error $(BIN)/zensical build --clean --strict 2>&1 | tee build/pages.log
	@! grep -E '^griffe|^mkdocs' build/pages.log
	$(BIN)/linkchecker --no-status --no-warnings site/index.html

PACKED := .venv-packed

$(PACKED)/.ready: pyproject.toml $(VENV)/.ready
	$(UV) venv --quiet --clear --python $(PY) $(PACKED)
	$(INSTALL) $(PACKED)/bin/python --group packed
	touch $@

.PHONY: bench-packed
bench-packed: build $(PACKED)/.ready ## packed answers, beside the version of renderers that reads them
	PYTHONPATH=$(abspath python):$(abspath .):$(abspath tests) $(PACKED)/bin/python -m benches.packed

.PHONY: fmt
fmt: $(VENV)/.ready ## format Rust, Python and, where oxfmt is installed, JavaScript
	$(CARGO) fmt --all
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format --quiet
	if [ -x $(BIN)/oxfmt ]; then $(BIN)/oxfmt $(VIEWER)/*.js; fi

.PHONY: clean
clean: ## remove what these targets made
	$(CARGO) clean --quiet
	rm -rf $(VENV) $(FLOORS) $(PACKED) $(PACKING) $(THREADS) LICENSE-crates.txt dist build site .arm .bench .cache .chromium .peers
	rm -rf .python3.14t .tools
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts
	find python tests benches examples -name __pycache__ -type d -prune -exec rm -rf {} +
	find python -name '*.so' -delete
