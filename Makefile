# Two commands matter: `make serve` and `make test`. Both install what they need into .venv first.

PYTHON ?= python3
ACCELERATOR ?= cpu
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(ACCELERATOR)
ORACLE := .venv-oracle
UV_VERSION := 0.9.30

# uv reads its own variables; what pip users have set is passed on.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_INDEX_URL ?= $(PIP_INDEX_URL)
export UV_EXTRA_INDEX_URL ?= $(PIP_EXTRA_INDEX_URL)
# The default index carries torch for CUDA only; a CPU build comes from PyTorch's own index, or from a given folder.
TORCH_BACKEND ?= $(if $(UV_FIND_LINKS),,$(if $(filter cpu,$(ACCELERATOR)),--torch-backend cpu))
ORACLE_BACKEND ?= $(if $(UV_FIND_LINKS),,--torch-backend cpu)
# transformer_lens and sae_lens take many seconds to import without bytecode.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install serve test oracle test-oracle lint format lock demo gpu-check bench-activations bench-steering \
  bench-graphs bench-autointerp clean

help: ## Show the commands
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

install: $(INSTALLED) ## Create .venv and install the locked requirements

$(INSTALLED): requirements/$(ACCELERATOR).txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Rayscope needs Python 3.11 or newer")'
	@echo "Installing the locked requirements into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip install --python $(BIN)/python --no-deps $(TORCH_BACKEND) -r requirements/$(ACCELERATOR).txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-* && touch $@

serve: install ## Serve the demo (or CONFIG=path) and say what to open
	@$(BIN)/rayscope serve --config $(or $(CONFIG),serve_config.yaml)

test: install lint ## Run every check and test
	@$(BIN)/python -m pytest $(TESTS)

oracle: $(ORACLE)/.installed ## Create .venv-oracle with circuit-tracer, which graphs are compared with

$(ORACLE)/.installed: requirements/circuit-tracer.txt | $(INSTALLED)
	@echo "Installing circuit-tracer's locked requirements into $(ORACLE) ..."
	@test -x $(ORACLE)/bin/python || $(PYTHON) -m venv $(ORACLE)
	@$(BIN)/uv pip install --python $(ORACLE)/bin/python --no-deps $(ORACLE_BACKEND) -r requirements/circuit-tracer.txt
	@touch $@

test-oracle: install oracle ## Compare graphs with circuit-tracer
	@RAYSCOPE_CIRCUIT_TRACER_PYTHON=$(CURDIR)/$(ORACLE)/bin/python $(BIN)/python -m pytest tests/oracle

lint: install ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright

format: install ## Format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock: install ## Compile requirements/*.in to exact pins
	@for kind in cpu cuda; do \
	  $(BIN)/uv pip compile -q --python-version 3.11 --custom-compile-command 'make lock' \
	    --override requirements/overrides-$$kind.txt requirements/$$kind.in -o requirements/$$kind.txt && \
	  sed -i -E 's/^(torch==[0-9.]+)\+cpu/\1/' requirements/$$kind.txt; \
	done
	@$(BIN)/uv pip compile -q --python-version 3.11 --custom-compile-command 'make lock' \
	  $(ORACLE_BACKEND) --upgrade-package torch requirements/circuit-tracer.in -o requirements/circuit-tracer.txt
	@sed -i -E 's/^(torch==[0-9.]+)\+cpu/\1/' requirements/circuit-tracer.txt

gpu-check: install ## Check on a GPU what a CPU can not show (10 minutes)
	@$(BIN)/python -m pytest tests/gpu

demo: install ## Rebuild the demo model, its SAEs and transcoders
	@$(BIN)/python -m core.demo.train

bench-activations: install ## Measure against peers and the machine's limit
	@$(BIN)/python -m benchmarks.activations

bench-steering: install ## Measure steering against vLLM alone and against generate with hooks
	@$(BIN)/python -m benchmarks.steering

bench-graphs: install oracle ## Measure attribution graphs against circuit-tracer
	@RAYSCOPE_CIRCUIT_TRACER_PYTHON=$(CURDIR)/$(ORACLE)/bin/python $(BIN)/python -m benchmarks.graphs

bench-autointerp: install ## Measure explaining, scoring and caching against delphi
	@$(BIN)/python -m benchmarks.autointerp

clean: ## Remove the virtual environment and caches
	@rm -rf $(VENV) $(ORACLE) .pytest_cache .ruff_cache .hypothesis build *.egg-info
