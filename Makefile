# make demo: trains, evaluates and samples on photographs. make test: the tests. Both make .venv first.

PYTHON ?= python3
BIN := .venv/bin

# The best of the networks tried that two cores can train in the time.
NETWORK := --data_set=photos --model=h12_pool2_smallkey --nr_resnet=1 --nr_filters=32
DEMO := data/save/demo

.PHONY: demo test lint

demo: .venv/installed
	$(BIN)/python train.py $(NETWORK) --batch_size=8 --learning_rate=2e-3 --dropout_p=0 --polyak_decay=0.99 \
		--max_minutes=5 --sample_interval=0 --save_dir=$(DEMO)
	$(BIN)/python eval.py $(NETWORK) --load_params=$(DEMO) --json=$(DEMO)/result.json \
		--nr_samples=9 --save_dir=$(DEMO)
	@echo "pictures: $(DEMO)/photos_samples.png, $$(ls -t $(DEMO)/*/learning_curve.png | head -1)"

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --requirement requirements.txt
	@touch $@
