# One command converts, one tests; both set up .venv by themselves when it is missing or out of date.

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
# The two packages of ONNX Runtime exclude each other: the GPU one where an NVIDIA driver answers.
RUNTIME := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
READY   := $(VENV)/.ready-$(RUNTIME)

MODEL   ?=
CUT     ?=
KEEP    ?= trunk
HEAD    ?=
WEIGHTS ?= auto
DEVICE  ?= auto
TARGETS ?= onnx
PRECISION ?=
MEMORY  ?=
TIMEOUT ?=
OUT     ?=
DRIFT   ?=

KEEPS_trunk := --to
KEEPS_head  := --from
KEEPS_both  := --split
KEEPS       := $(KEEPS_$(KEEP))

.DEFAULT_GOAL := help
.PHONY: help setup convert test lint bench zoo fuzz reliability gpu-check clean

help:
	@echo 'make convert MODEL=vgg16 CUT=block5_pool   cut, prove, write (see below)'
	@echo 'make test                                  run the tests'
	@echo 'make lint                                  format, lint, types, import contract'
	@echo 'make zoo                                   sweep the zoos of the frameworks'
	@echo 'make bench                                 measure against the peers'
	@echo 'make reliability                           measure what it survives into docs/reliability.md'
	@echo 'make fuzz                                  feed the reader of ONNX files with broken ones'
	@echo 'make gpu-check                             every check that needs a GPU (GPU_PYTHON=… without setup)'
	@echo 'make setup | clean                         make or remove .venv and build/'
	@echo
	@echo 'convert takes:'
	@echo '  MODEL=    keras:NAME, torchvision:NAME, timm:NAME, transformers:FOLDER, NAME, FILE.onnx, FILE.keras …'
	@echo '  CUT=      layer names or globs, by spaces; none converts the whole model'
	@echo '  KEEP=     trunk (default), head, or both'
	@echo '  HEAD=     new layers on CUT: gap,dense(5,softmax) (converter convert --help has the words)'
	@echo '  WEIGHTS=  auto (default), pretrained, random, or a weights file'
	@echo '  DEVICE=   auto (default), cpu or cuda: where to validate'
	@echo '  TARGETS=  onnx (default), torch, keras, tflite, openvino … by commas (docs/handoff.md has them all)'
	@echo '  PRECISION= fp16, bf16, int8, int8-dynamic or int4-weights (docs/edge.md): what ONNX artifacts compute in'
	@echo '  DRIFT=1   compare every layer of the model besides; report.html draws the errors'
	@echo '  MEMORY=   8GB, 800MB …: end the run when it takes more; TIMEOUT= 90, 10m, 2h: when it takes longer'
	@echo '  OUT=      folder to write to; build/MODEL-CUT by default'
	@echo '`$(BIN)/converter --help` tells the rest: new heads, fit, plan, rank.'

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11 …'; rm -rf $(VENV); exit 1; }
	@rm -f $(VENV)/.ready-*
	@$(BIN)/pip uninstall --quiet --yes $(if $(filter gpu,$(RUNTIME)),onnxruntime,onnxruntime-gpu) 2>/dev/null || true
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(RUNTIME),keras,torch,timm,transformers,dev,bench]'
	@touch $@

convert:
ifeq ($(strip $(MODEL)),)
	@$(MAKE) --no-print-directory help
	@exit 2
else ifeq ($(KEEPS),)
	@echo 'KEEP=$(KEEP): expected trunk, head or both'; exit 2
else
	@$(MAKE) --no-print-directory setup
	@$(BIN)/converter convert '$(MODEL)' $(foreach layer,$(CUT),$(KEEPS) '$(layer)') $(if $(HEAD),--head '$(HEAD)') \
	  --weights '$(WEIGHTS)' --device '$(DEVICE)' --targets '$(TARGETS)' \
	  $(if $(PRECISION),--precision '$(PRECISION)') $(if $(filter-out 0,$(DRIFT)),--drift) \
	  $(if $(MEMORY),--memory-limit '$(MEMORY)') $(if $(TIMEOUT),--timeout '$(TIMEOUT)') $(if $(OUT),--output '$(OUT)')
endif

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(READY)
	FUZZ_EXAMPLES=20000 $(BIN)/pytest tests/onnxfile --timeout 7200

zoo: $(READY)
	$(BIN)/python benchmarks/zoo.py

reliability: $(READY)
	$(BIN)/python benchmarks/reliability.py

# GPU_PYTHON=python3 takes an environment that is there, which needs neither Keras nor this .venv.
GPU_PYTHON ?= $(BIN)/python
gpu-check: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(READY))
	$(GPU_PYTHON) benchmarks/gpu_check.py

bench: $(READY)
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
