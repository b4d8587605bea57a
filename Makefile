# make demo: set up .venv and run the whole way     make test: set up .venv and pass the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test bench gpu lint clean

$(READY): setup.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev,mxnet,onnx]'
	@touch $@

demo: $(READY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash jobs/demo.sh demo

test: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

bench: $(READY)
	@for bench in $(filter-out tests/bench/presets.py,$(wildcard tests/bench/*.py)); do echo "== $$bench"; PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python $$bench || exit 1; done

# On a machine with CUDA: the head's exactness there, and its bench.
gpu: $(READY)
	@$(BIN)/python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "error: no CUDA device; make gpu needs one")'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest tests/facelt/head/test_cuda.py
	$(BIN)/python tests/bench/head.py --only products && $(BIN)/python tests/bench/head.py --only memory

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) demo build *.egg-info
