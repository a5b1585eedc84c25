# Every target makes what it needs; all are safe to run again. `make help` lists them.
PROFILE ?= cpu
MODEL   ?= champion
ENGINE  ?= ort
PORT    ?= 8000
PYTHON  ?= python3.11
GIVEN    = $(if $(filter file,$(origin MODEL)),,--model $(MODEL)) $(if $(filter file,$(origin ENGINE)),,--engine $(ENGINE))
SHELL   := /bin/bash
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
CLUSTER := $(VENV)/.cluster
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help repro data test test-all serve cluster edge litert llama tpu cuda load bench known-study study notebooks mlflow lab lint clean lock

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found: install Python 3.11 or pass PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing requirements.lock into $(VENV) (about 3 minutes, 2.3 GB)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 2 --timeout 15 --require-hashes -r requirements.lock 2>$(VENV)/install.log \
		|| { if grep -q 'connection broken by' $(VENV)/install.log && grep -qE '^ERROR: (No matching|Could not install)' $(VENV)/install.log; \
			then echo "error: cannot reach the package index (see $(VENV)/install.log)" >&2; \
			else grep -m1 '^ERROR' $(VENV)/install.log >&2; echo "error: cannot install requirements.lock (see $(VENV)/install.log)" >&2; fi; exit 2; }
	@echo "$(CURDIR)/src" > $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tradewind.pth
	@touch $@

$(CLUSTER): requirements-cluster.lock $(STAMP)
	@echo "installing requirements-cluster.lock into $(VENV) (Ray Serve: 300 MB)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 2 --timeout 15 --require-hashes -r requirements-cluster.lock 2>$(VENV)/install.log \
		|| { grep -m1 '^ERROR' $(VENV)/install.log >&2; echo "error: cannot install requirements-cluster.lock (see $(VENV)/install.log)" >&2; exit 2; }
	@touch $@

# Runtimes to compare with, each in an environment of its own.
.venv-%/.installed: requirements-%.lock $(STAMP)
	@echo "installing $< into .venv-$*"
	@$(PYTHON) -m venv --clear .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --retries 2 --timeout 15 --require-hashes -r $< 2>.venv-$*/install.log \
		|| { grep -m1 '^ERROR' .venv-$*/install.log >&2; echo "error: cannot install $< (see .venv-$*/install.log)" >&2; exit 2; }
	@touch $@

litert: .venv-litert/.installed  ## make .venv-litert (470 MB), in which `python -m tradewind.compression litert` makes and runs .tflite files

llama: .venv-llama/.installed  ## make .venv-llama (130 MB), in which `python -m tradewind.compression compare` runs llama.cpp

tpu: .venv-tpu/.installed  ## make .venv-tpu (1.3 GB), in which `python -m tradewind.hardware compile` compiles for TPUs that are not here

cuda: .venv-cuda/.installed  ## make .venv-cuda (1.5 GB), in which it compiles for NVIDIA's GPUs

data: $(STAMP)  ## fetch or verify data/ (ACCEPT=1 locks what is there now)
	@python pipelines/acquire.py $(if $(ACCEPT),--accept)

repro: $(STAMP)  ## run the main job (PROFILE=nano|cpu|gpu|tpu, SET='key=value ...')
	@python -m tradewind.repro $(PROFILE) $(SET)

test: lint $(CLUSTER)  ## lint, types, tests (20 minutes on two cores)
	@python -m pytest tests -m "not slow" --durations 60

test-all: lint $(CLUSTER)  ## what `test` leaves out for its length
	@python -m pytest tests -m slow

lint: $(STAMP)  ## ruff and mypy
	@ruff check . && ruff format --check . && mypy

serve: $(STAMP)  ## serve MODEL=champion|VARIANT with ENGINE=ort|jax|mock on PORT=8000 (CACHE=none|memory|redis|redis://..., or PLAN=FILE)
	@python -m tradewind.serving $(if $(PLAN),--plan $(PLAN) $(GIVEN),--model $(MODEL) --engine $(ENGINE)) --port $(PORT) --profile $(PROFILE) $(if $(CACHE),--cache $(CACHE))

cluster: $(CLUSTER)  ## serve MODEL by REPLICAS=2 on Ray Serve, as serve.yaml says, on PORT=8000 (or PLAN=FILE)
	@python -m tradewind.cluster up $(if $(PLAN),--plan $(PLAN)) $(if $(REPLICAS),--replicas $(REPLICAS)) $(GIVEN) $(if $(filter file,$(origin PORT)),,--port $(PORT)) --profile $(PROFILE)

edge: $(STAMP)  ## serve the page that runs MODEL=student-int4-qat of VARIANTS=artifacts/variants in the browser, on PORT=8088 (needs npm once)
	@python -m tradewind.edge serve $(if $(filter file,$(origin MODEL)),,--variant $(MODEL)) $(if $(VARIANTS),--variants $(VARIANTS)) $(if $(filter file,$(origin PORT)),,--port $(PORT))

load: $(STAMP)  ## run load test SCENARIO=NAME against URL=..., or against a server of its own
	@python -m tradewind.load $(SCENARIO) $(if $(URL),--url $(URL)) --model $(MODEL) --engine $(ENGINE) --profile $(PROFILE)

bench: $(STAMP)  ## measure all variants on this host's devices, by the engines jax and ort, into reports/hardware/
	@python -m tradewind.hardware bench

known-study:
	@test -f studies/$(NAME)/dvc.yaml || { echo "error: no study '$(NAME)' (choices: $$(ls -d studies/*/ 2>/dev/null | sed 's:studies/::;s:/$$::' | paste -sd, | sed 's/,/, /g;s/^$$/none yet/'))" >&2; exit 2; }

study: known-study $(STAMP) $(if $(filter compression,$(NAME)),litert llama) $(if $(filter hardware,$(NAME)),tpu cuda)  ## run the sweep of a question: NAME=slug
	@test -f .tradewind/packages.json || { echo "error: a study builds on the main job: run 'make repro' first" >&2; exit 2; }
	@cd studies/$(NAME) && dvc repro

notebooks: $(STAMP)  ## execute the notebooks in place on the results of PROFILE; of cpu, put them into the README too
	@python -m tradewind.notebooks --profile $(PROFILE)
	@$(if $(filter cpu,$(PROFILE)),python -m tradewind.report readme --write)

mlflow: $(STAMP)  ## import the committed runs and open the MLflow page on PORT=5000
	@python -m tradewind.tracking --port $(if $(filter file,$(origin PORT)),5000,$(PORT))

lab: $(STAMP)  ## open JupyterLab on the notebooks
	@jupyter lab --ip 127.0.0.1 --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None notebooks

lock: COMPILE = --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11
lock:  ## resolve the locks anew (needs uv)
	@uv pip compile pyproject.toml $(addprefix --extra ,pipeline serve load notebooks documented dev) $(COMPILE) -o requirements.lock
	@uv pip compile pyproject.toml --extra serve --extra cluster --constraint requirements.lock $(COMPILE) -o requirements-cluster.lock
	@printf '%s\n' litert-converter==0.5.0 ai-edge-litert==2.3.0 flatbuffers numpy 'backports-strenum<1.3' | uv pip compile - $(COMPILE) -o requirements-litert.lock
	@printf '%s\n' 'jax[tpu]' flax optax numpy safetensors orbax-checkpoint tqdm tokenizers transformers | uv pip compile - --constraint requirements.lock $(COMPILE) -o requirements-tpu.lock
	@printf '%s\n' jax jax-cuda13-plugin jax-cuda13-pjrt nvidia-cuda-nvcc flax optax numpy safetensors orbax-checkpoint tqdm tokenizers transformers | uv pip compile - --constraint requirements.lock $(COMPILE) -o requirements-cuda.lock
	@echo xllamacpp==2026.10.11549 | uv pip compile - $(COMPILE) -o requirements-llama.lock

clean:  ## remove what runs made (not the environment, not data/)
	@rm -rf artifacts .tradewind .dvc/cache .dvc/tmp .pytest_cache .ruff_cache .mypy_cache
