# Everything runs in an environment of its own, .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PEERS := .venv-peers
SERVICES := .venv-services
TORCH ?= torch==2.13.0
LLAMA ?= @node-llama-cpp/linux-x64@3.22.1
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

EDITORS_ROOT ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/codeclippy-editors
export EDITORS_ROOT

# Processes that run tests side by side; each needs up to 1 GB.
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
SIDE_BY_SIDE := -n $(WORKERS) --maxprocesses 4 --dist worksteal

.PHONY: demo test test-all quick test-quick editors test-editors test-services fix lint types bench bench-peers train-rehearsal clean

demo: $(VENV)/installed ## install and show the three jobs
	$(BIN)/codeclippy-ls demo

test: $(VENV)/installed-test ## install what the tests need and run all but the slow ones
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

quick: $(VENV)/installed-lint $(VENV)/installed-test ## lint, types and the tests that need no model, in seconds
	$(MAKE) --no-print-directory -j2 --output-sync lint types test-quick

test-quick: $(VENV)/installed-test
	$(BIN)/python -m pytest --quick $(SIDE_BY_SIDE)

test-all: $(VENV)/installed-test ## the slow tests too; as CI does
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not editors"

editors: $(BIN)/python ## install the real editors beside the system's, where they can be had (apt needs root)
	for editor in neovim helix emacs vscode; do \
		PYTHON=$(abspath $(BIN)/python) sh tests/editors/install/$$editor.sh "$(EDITORS_ROOT)" || exit 1; done

test-editors: editors $(VENV)/installed-test $(VENV)/installed-editors ## the clients in VS Code, Neovim and Emacs
	$(BIN)/python -m pytest tests/editors -m editors -rsR --reruns 2 -n $(WORKERS) --maxprocesses 2 --dist loadfile

test-services: $(SERVICES)/installed ## the remote engine against llama.cpp's server and transformers' serve
	$(SERVICES)/bin/python -m pytest tests/test_remote_services.py -rs

fix: $(VENV)/installed-lint ## apply ruff's autofixes and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/installed-lint ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-lint $(VENV)/installed-test
	$(BIN)/mypy

bench: $(VENV)/installed ## figures of this machine; BENCH_ARGS=--quick for about two minutes
	$(BIN)/python -m bench.latency $(BENCH_ARGS)
	$(BIN)/python -m bench.speed $(BENCH_ARGS)

bench-peers: $(VENV)/installed $(PEERS)/installed ## other engines, in an environment of their own; nothing is compiled
	$(BIN)/python -m bench.peers $(BENCH_ARGS)

train-rehearsal: $(VENV)/installed-train ## the whole training chain in minutes, on the CPU
	PYTHON=$(BIN)/python sh training/rehearsal.sh

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: a wider request would bring its newest build.
$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt "$(TORCH)"
	$(PIP) install -c constraints.txt -e .
	touch $@

# Prebuilt all of them. llama.cpp's server comes for CPUs with AVX2 only; npm has its library for each kind of CPU.
$(PEERS)/installed: constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt "$(TORCH)"
	$(PEERS)/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt \
		transformers gguf ctranslate2 openvino nncf xllamacpp
	mkdir -p $(PEERS)/llama.cpp
	-cd $(PEERS) && npm pack --silent $(LLAMA) && tar xzf node-llama-cpp-*.tgz -C llama.cpp --wildcards \
		--strip-components=3 'package/bins/*/*.so'
	touch $@

$(SERVICES)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(SERVICES)
	$(SERVICES)/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt "$(TORCH)"
	$(SERVICES)/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt \
		-e ".[test]" "transformers[serving]" gguf xllamacpp
	touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(PIP) install -c constraints.txt -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(SERVICES) build dist *.egg-info
