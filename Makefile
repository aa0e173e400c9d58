# make demo: trains, evaluates and samples on photographs. make test: the tests. make soak: runs that are killed many
# times. make lint: the linter. All install what they need into .venv first; with GPU=1, as in `make GPU=1 demo`, also
# CUDA's libraries for NVIDIA GPUs.

PYTHON ?= python3
BIN := .venv/bin
CUDA := $(if $(filter-out 0,$(GPU)),.venv/installed-gpu)

# Of the networks tried, the one that learns most in the few minutes that two cores have here.
DEMO := data/save/demo
DEMO_NETWORK := --model=h6_noup_1mix_halfattn --nr_resnet=1 --nr_filters=32 --nr_logistic_mix=5
DEMO_TRAINING := --batch_size=2 --init_batch_size=100 --dropout_p=0 --polyak_decay=0.99 \
	--learning_rate=3e-3 --lr_decay=0.9994 --max_minutes=5.25 --sample_interval=0

.PHONY: demo test soak lint

demo: .venv/installed $(CUDA)
	$(BIN)/python train.py --data_set=photos --save_dir=$(DEMO) $(DEMO_NETWORK) $(DEMO_TRAINING)
	$(BIN)/python eval.py --load_params=$(DEMO) --json=$(DEMO)/result.json --nr_samples=16 --save_dir=$(DEMO)
	@echo "learning curve: $$(ls -td $(DEMO)/pixelsnail_photos_*/ | head -1)learning_curve.png"

test: .venv/installed-dev $(CUDA)
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8

soak: .venv/installed-dev $(CUDA)
	$(BIN)/python -m pytest -m soak

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "installing the packages of requirements.txt into .venv: about a minute"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

.venv/installed-gpu: requirements-gpu.txt .venv/installed
	@echo "installing CUDA's libraries into .venv: 4 GB of disk"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-gpu.txt
	@touch $@
