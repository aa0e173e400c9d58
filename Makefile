# make demo: trains, evaluates and samples on photographs. make quick: the tests to run after every change. make test:
# all tests. make soak: runs that are killed many times. make lint: the linter. All install what they need into .venv
# first; with GPU=1, as in `make GPU=1 demo`, also CUDA's libraries for NVIDIA GPUs.

PYTHON ?= python3
BIN := .venv/bin
CUDA := $(if $(filter-out 0,$(GPU)),.venv/installed-gpu)

# Of the networks tried, PixelCNN++ learns most in the few minutes that two cores have here.
DEMO := data/save/demo
DEMO_NETWORK := --model=pxpp --nr_resnet=1 --nr_filters=32 --nr_logistic_mix=5
DEMO_TRAINING := --batch_size=2 --init_batch_size=100 --dropout_p=0 --polyak_decay=0.99 \
	--learning_rate=2e-3 --lr_to_zero --max_minutes=5.25 --sample_interval=0
DEMO_RESULTS := --json=$(DEMO)/result.json --compress=$(DEMO)/photos.snail --nr_samples=16 --save_dir=$(DEMO)

define DEMO_END

The demo is done. What it made is in $(DEMO):
  photos_samples.png   16 images drawn from the network
  photos_bits.png      test images, and where in them the bits go
  photos.snail         all test images, compressed with the network and read back
  result.json          all figures
  pixelsnail_photos_*  the run: its checkpoint, learning_curve.png and print.log

What the figures mean:
  bits/dim   the bits that each 8-bit value of a test image takes under the network: lower is better, 8 is uncompressed
  +-         the standard error of the mean over the test images
  R, G, B    the same for the values of one channel, each predicted from the channels before it
  on disk    the bits of the file photos.snail, everything included, for each value of the images in it
  PNG, WebP  the same images as files, losslessly compressed, each image in a file of its own

Three commands to try next. The first completes the lower half of the samples; the second trains on your own pictures
for an hour (replace A_FOLDER_OF_PICTURES); the third shows the learning curve in a browser:
  $(BIN)/python eval.py --load_params=$(DEMO) --skip_test --complete=$(DEMO)/photos_samples.png --save_dir=$(DEMO)
  $(BIN)/python train.py --data_set=folder --data_dir=A_FOLDER_OF_PICTURES --downsample --nr_filters=64 --max_minutes=60 --lr_to_zero
  $(BIN)/tensorboard --logdir=$(DEMO)
endef
export DEMO_END

.PHONY: demo quick test soak lint

demo: .venv/installed $(CUDA)
	$(BIN)/python train.py --data_set=photos --save_dir=$(DEMO) $(DEMO_NETWORK) $(DEMO_TRAINING)
	$(BIN)/python eval.py --load_params=$(DEMO) $(DEMO_RESULTS)
	@echo "$$DEMO_END"

# With worksteal, a worker runs the tests of a file one after another, and what they share is made once.
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

quick: .venv/installed-dev $(CUDA)
	$(PYTEST) @tests/quick.txt

test: .venv/installed-dev $(CUDA)
	$(PYTEST)

soak: .venv/installed-dev $(CUDA)
	$(BIN)/python -m pytest -m soak

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or newer is needed: repeat the command with PYTHON=python3.11 at its end")'
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
