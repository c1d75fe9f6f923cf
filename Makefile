# People and CI run the same targets. `make` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup system demo check format test test-slow bench bench-heads bench-loader bench-index bench-service bench-restart bench-embed bench-scale clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv with every extra (torch and torchvision together, from the package index)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,serve,postgres,milvus,parquet,dev]'
	@touch $@

system:  ## Debian's packages that the tests of the console and of the proxy run (needs root)
	apt-get update --quiet
	DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends chromium haproxy

demo: setup  ## train, evaluate, export, serve, enrol, verify and search on a synthetic face set
	$(BIN)/facemargin demo $(ARGS)

check: setup  ## lint, format and strict types over the three packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## let ruff format and fix the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup  ## the test suite (under 10 minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile -m "not slow" $(ARGS)

test-slow: setup  ## the longer checks
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 -m slow --override-ini faulthandler_timeout=3600 $(ARGS)

bench: bench-heads bench-loader bench-index bench-service bench-restart bench-embed bench-scale  ## every benchmark; needs an idle machine

bench-heads: setup  ## time head × partition × classes beside pytorch-metric-learning; writes docs/benchmarks
	$(BIN)/python -m training.bench.streaming --json docs/benchmarks/streaming.json
	$(BIN)/python -m training.bench.sampled --json docs/benchmarks/sampled.json
	$(BIN)/python -m training.bench.heads --output docs/benchmarks $(ARGS)

bench-loader: setup  ## time the loader, the training step and both together (ARGS="--data DIR"); writes docs/benchmarks
	$(BIN)/python -m training.bench.loader --json docs/benchmarks/loader.json $(ARGS)

bench-index: setup  ## time searches of 100k and 1M vectors beside FAISS alone (ARGS="--images DIR --bundle DIR"); writes docs/benchmarks
	$(BIN)/python -m facemargin.bench.index --json docs/benchmarks/index.json $(ARGS)

bench-service: setup  ## the service under load beside ONNX Runtime alone (under 10 minutes); writes docs/benchmarks
	$(BIN)/python -m service.bench.load $(ARGS)

bench-restart: setup  ## time a start after SIGKILL with 100,000 faces (ARGS="--bundle DIR")
	$(BIN)/python -m service.bench.restart $(ARGS)

bench-embed: setup  ## bulk embedding beside the network alone (ARGS="--bundle DIR --images DIR"); writes docs/benchmarks
	$(BIN)/python -m training.bench.embed --json docs/benchmarks/embed.json $(ARGS)

bench-scale: setup  ## how cost grows with faces and with classes (hours; goes on where it was cut off); writes docs/scale.md
	$(BIN)/python -m training.bench.scale --page docs/scale.md
	$(BIN)/python -m facemargin.bench.scale --page docs/scale.md $(ARGS)
	$(BIN)/python -m facemargin.bench.reckon --page docs/scale.md

clean:  ## remove what the targets made, except .venv
	rm -rf build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
