# Every target does its own set-up: the first use of `make demo` or `make test` on a machine that
# has only Python and make creates .venv and installs the pinned packages into it.

PYTHON ?= python3
BAZEL ?= bazel

BIN := .venv/bin
INSTALLED := .venv/.installed
PEERS := .venv-peers/.installed
LEGACY := .venv-legacy/.installed

# TensorFlow's start-up messages would bury what the commands print.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test nightly nightly-tensorflow nightly-jax notebooks bench reproduce peers legacy-goldens lint lock bazel clean

help:  ## Say what each target does
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

demo: $(INSTALLED)  ## Train, fold, quantise and check a two-task network; report in runs/demo
	$(BIN)/kmtl demo --output=runs/demo

# Two processes, as each keeps about one core busy: one of them runs what starts many processes of
# its own, and then JAX. It is shown when it is complete, so that what is printed last is pytest's own
# summary.
BESIDE := tests/cli tests/demo tests/export tests/test_notebooks.py tests/training
# What is numbers runs on JAX with each change, and the core of training; whatever else trains does so
# on TensorFlow, and on JAX in the nightly run.
ON_JAX := $(addprefix tests/,export layers losses metrics ops regularizers weighting test_conformance.py \
	callbacks/test_backup_and_resume.py data/test_training.py models/test_multi_task_model.py \
	models/test_networks.py models/test_task_gradients.py)
test: $(INSTALLED)  ## Run the tests on TensorFlow, and on JAX those of numbers and of the core of training
	@beside=$$(mktemp); status=0; \
	{ \
		failed=0; \
		echo "== command, export and notebooks, on TensorFlow =="; \
		KERAS_BACKEND=tensorflow $(BIN)/python -m pytest $(BESIDE) -m "not nightly" || failed=$$?; \
		echo "== tests that run on both backends, on JAX =="; \
		KERAS_BACKEND=jax $(BIN)/python -m pytest $(ON_JAX) -m "both_backends and not nightly" \
			|| failed=$$?; \
		exit $$failed; \
	} > $$beside 2>&1 & pid=$$!; \
	trap 'kill $$pid 2> /dev/null; rm -f $$beside' EXIT; \
	echo "== all other tests, on TensorFlow =="; \
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest tests -m "not nightly" \
		$(BESIDE:%=--ignore=%) || status=$$?; \
	wait $$pid || status=$$?; \
	cat $$beside; \
	exit $$status

nightly: nightly-tensorflow nightly-jax  ## Run the proofs that take too long for every change (some: ONLY=pattern)

nightly-tensorflow: $(INSTALLED)
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest tests -m nightly $(if $(ONLY),-k "$(ONLY)")

nightly-jax: $(INSTALLED)
	KERAS_BACKEND=jax $(BIN)/python -m pytest tests -m both_backends $(if $(ONLY),-k "$(ONLY)")

notebooks: $(INSTALLED)  ## Run the notebooks of colab/
	$(BIN)/python -m pytest tests -k notebook

bench: $(INSTALLED)  ## Run the benchmarks; results in docs/results
	$(BIN)/python -m benchmarks --output=docs/results
	$(BIN)/python -m benchmarks.deployment --output=docs/results
	$(BIN)/python -m benchmarks.scaling_page

# Read from folders that each have the name of a data set. `make reproduce PAGES=survey` takes the
# methods of the survey alone.
DATA := ../shared/data
SURVEY := kendall_toy school domain_adaptation digits_and_clothes one_against_all tagging tables emotions branching
PAGES := training survey
reproduce: $(PAGES:%=reproduce-%)  ## Train on real data and write the tables and plots of docs/results (folder DATA=...)

reproduce-training: $(INSTALLED)
	$(BIN)/python -m benchmarks.weighting_accuracy --output=docs/results
	$(BIN)/python -m benchmarks.quantization_accuracy --output=docs/results
	$(BIN)/python -m benchmarks.tox21 --data=$(DATA)/tox21 --output=docs/results

reproduce-survey: $(SURVEY:%=reproduce-%)

$(SURVEY:%=reproduce-%): reproduce-%: $(INSTALLED)
	$(BIN)/python -m benchmarks.survey.$* --data=$(DATA) --output=docs/results/survey

# They have an environment of their own, so that .venv holds what kmtl needs and nothing else.
peers: $(PEERS)  ## Install the libraries that bench compares with; freeze TorchJD's values for test
	$(dir $(PEERS))bin/python -m benchmarks.peers.values tests/weighting/torchjd_values.json

legacy-goldens: $(LEGACY)  ## Freeze the CRF values of tensorflow-addons for test; Python 3.11 at most
	$(dir $(LEGACY))bin/python -m benchmarks.legacy.crf_goldens tests/ops/crf_goldens.json

lint: $(INSTALLED)  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bazel: $(INSTALLED)  ## Build the Bazel targets and run their tests (without long ones: FLAGS=--test_tag_filters=-slow)
	$(BAZEL) test $(FLAGS) //...

lock: $(BIN)/python  ## Resolve setup.py anew into requirements.lock
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile setup.py --extra test --universal --python-version 3.11 \
		--upgrade --quiet -o requirements.lock

clean:  ## Remove the environment and everything that was generated
	rm -rf .venv .venv-peers .venv-legacy build dist runs *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(PEERS): benchmarks/peers/requirements.txt | $(BIN)/python
	$(BIN)/python -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r benchmarks/peers/requirements.txt
	@touch $@

$(LEGACY): benchmarks/legacy/requirements.txt | $(BIN)/python
	$(BIN)/python -m venv .venv-legacy
	.venv-legacy/bin/python -m pip install --quiet -r benchmarks/legacy/requirements.txt
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || \
		{ echo "There is no $(PYTHON) here. Install Python 3.11, 3.12 or 3.13, or name yours: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "kmtl needs Python 3.11, 3.12 or 3.13. Received: $$($(PYTHON) --version). Name another: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo "$(PYTHON) cannot create environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
