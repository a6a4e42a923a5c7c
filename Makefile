# One word per job. The environment lives in .venv inside the clone; nothing is installed anywhere else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What a build depends on: when one of these is newer than the installed package, it is built again.
SOURCES := setup.py pyproject.toml $(wildcard rnncore/kernels/*.pyx rnncore/kernels/*.pxd rnncore/kernels/*.h rnncore/kernels/*/*.h rnncore/kernels/*/*.c)

.PHONY: demo test test-all mutations batch-kills batch-changes batch-memory batch-ray batch-spark batch-dask batch-beam bench bench-quick lint format asan tsan nogil neon clean

demo: $(VENV)/.installed-cli  ## run the embedded model on the held-out years
	$(BIN)/rnncore demo

test: $(VENV)/.installed-test  ## run the tests
	$(BIN)/python -m pytest -q

test-all: $(VENV)/.installed-test  ## the tests with many more random cases
	RNNCORE_TEST_SCALE=20 $(BIN)/python -m pytest -q --timeout=7200

mutations: $(VENV)/.installed-test  ## break cells and kernels on purpose: the tests must notice
	$(BIN)/python tests/mutations.py

bench: $(VENV)/.installed-bench  ## race against the other engines; writes bench/results/
	$(BIN)/python bench/run.py

bench-quick: $(VENV)/.installed-bench  ## a small race, nothing written
	$(BIN)/python bench/run.py --quick

batch-kills: $(VENV)/.installed-test  ## kill -9 batch runs at random moments, resume them, compare every byte
	$(BIN)/python tests/batch_kills.py --count 200

batch-changes: $(VENV)/.installed-test  ## change the input of batch runs at random moments: no row is lost, none is wrong
	$(BIN)/python tests/batch_changes.py --count 200

batch-memory: $(VENV)/.installed-test  ## a run over 2 GB of ragged rows in less than 1 GiB
	$(BIN)/python tests/batch_memory.py --mb 2000

batch-ray batch-spark batch-dask batch-beam: batch-%:  ## an example on a local cluster, in an environment of its own
	$(MAKE) VENV=.venv-$* .venv-$*/.installed-$* && .venv-$*/bin/python examples/batch_$*.py

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint rnncore

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# Other builds of the compiled files have a copy of the tree each, build/NAME, with an environment of its own: in this one
# the ordinary ones stay. A copy keeps the times of its files, so it is built again only where these are newer.
COPY_TREE = mkdir -p build/$(1) && rm -rf build/$(1)/tests && tar -cf - --exclude='./.venv*' --exclude=./.git --exclude=./build \
  --exclude='*.so' --exclude='*.egg-info' --exclude=__pycache__ --exclude='./rnncore/kernels/_*.c' . | tar -xf - -C build/$(1)

asan:  ## the tests under the address and undefined-behaviour sanitizers, in an environment of its own
	$(call COPY_TREE,asan)
	$(MAKE) -C build/asan .venv/.installed-test RNNCORE_BUILD=asan
	cd build/asan && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so) $$(gcc -print-file-name=libstdc++.so)" \
	PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 .venv/bin/python -m pytest -q tests/test_engine.py

tsan:  ## calls that share work, or a model, among threads, under the thread sanitizer, in an environment of its own
	$(call COPY_TREE,tsan)
	$(MAKE) -C build/tsan .venv/.installed-test RNNCORE_BUILD=tsan
	cd build/tsan && LD_PRELOAD="$$(gcc -print-file-name=libtsan.so) $$(gcc -print-file-name=libstdc++.so)" \
	TSAN_OPTIONS="exitcode=66 suppressions=tests/tsan.txt" .venv/bin/python -m pytest -q tests/test_exactness.py \
	  tests/test_threads.py tests/test_model.py tests/test_shared.py \
	  -k "(threads or side_by_side or test_shared) and not interrupts" --timeout=3600 --capture=sys

# gRPC has no wheels for interpreters without a GIL, and fast-ctc-decode's cannot be imported; those of safetensors begin
# with a version that pip calls a preview.
nogil:  ## the tests on an interpreter without a GIL, in an environment of its own: make nogil PYTHON=python3.14t
	$(PYTHON) -c 'import sys, sysconfig; sysconfig.get_config_var("Py_GIL_DISABLED") or sys.exit("expected PYTHON=an interpreter without a GIL")'
	$(call COPY_TREE,nogil)
	PIP_ONLY_BINARY=safetensors $(MAKE) -C build/nogil .venv/.installed-nogil
	cd build/nogil && PYTHON_GIL=0 .venv/bin/python -m pytest -q \
	  $(foreach name,decode_ctc serve_drain serve_grpc serve_process serve_triton,--ignore=tests/test_$(name).py) \
	  --deselect=tests/test_serve_http.py::test_a_port_that_is_taken_is_an_error_of_one_line \
	  --deselect=tests/test_serve_docs.py::test_tritonclient_and_sequences

neon:  ## the kernels for 64-bit ARM under emulation (Debian: gcc-aarch64-linux-gnu, qemu-user)
	mkdir -p build
	aarch64-linux-gnu-gcc -static -std=gnu11 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wall \
	  -Wno-unused-function -Irnncore/kernels/native rnncore/kernels/native/neon.c rnncore/kernels/native/baseline.c \
	  rnncore/kernels/native/dispatch.c tests/native/driver.c -o build/driver-neon -lm
	qemu-aarch64 build/driver-neon

clean:
	rm -rf .venv .venv-* build *.egg-info rnncore/kernels/*.so rnncore/kernels/_*.c

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

$(VENV)/.installed-%: $(BIN)/python $(SOURCES)
	$(if $(RNNCORE_BUILD),RNNCORE_BUILD=$(RNNCORE_BUILD)) $(BIN)/python -m pip install -q -e ".[$*]"
	touch $@
