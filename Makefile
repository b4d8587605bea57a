# Every target sets up .venv first, once; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ON_PATH := PATH="$(CURDIR)/$(BIN):$$PATH"

.DEFAULT_GOAL := help
.PHONY: help demo test faults bench gpu lint docs clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): setup.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev,docs,mxnet,onnx,wandb]'
	@touch $@

demo: $(READY) ## the whole way on a laptop: data, training, features, tables (folder demo/)
	@$(ON_PATH) bash jobs/demo.sh demo

test: $(READY) ## all tests
	$(ON_PATH) $(BIN)/python -m pytest

faults: $(READY) ## every fault of the injector: killed at each seam of a save, at 1, 2 and 3 ranks (an hour or more)
	$(ON_PATH) FACELT_FAULTS=whole $(BIN)/python -m pytest --timeout=0 tests/faults

bench: $(READY) ## what is measured, as ratios to a reference in the same run (not the presets: half an hour)
	@for bench in $(filter-out tests/bench/presets.py tests/bench/rehearsal.py,$(wildcard tests/bench/*.py)); do echo "== $$bench"; $(ON_PATH) $(BIN)/python $$bench || exit 1; done

gpu: $(READY) ## on a machine with CUDA: exactness of head and batch normalisation there, and the head's bench
	@$(BIN)/python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "error: no CUDA device; make gpu needs one")'
	$(ON_PATH) $(BIN)/python -m pytest tests/facelt/head/test_cuda.py tests/facelt/head/kernels tests/facelt/network/test_cuda.py
	for kernels in torch triton; do $(BIN)/python tests/bench/head.py --only products --kernels $$kernels || exit 1; done
	$(BIN)/python tests/bench/head.py --only memory

lint: $(READY) ## ruff, and the types by pyright
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(READY) ## the knobs' tables anew, and the pages as a site in build/site
	$(BIN)/python docs/knobs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean: ## remove .venv, demo/ and build/
	rm -rf $(VENV) demo build *.egg-info
