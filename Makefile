# Spillway's front door. The build itself is CMake's (CMakeLists.txt, CMakePresets.json).
#   make               build build/spillway
#   make cuda [ARCHS="80 90a"] [PRODUCTS=ON]  the same and build/libspillway_cuda.so, for GPUs (docs/kernels.md)
#   make run           build, then serve the built-in demo model (ARGS="--listen 127.0.0.1:9000" to add options)
#   make test [T=x]    all tests, or those whose name contains x
#   make fault-long [T=x]  the fault rows of tests/fault, tests/accounts and of the unit tests at their stated sizes (an hour), or those whose name contains x
#   make asan|ubsan|tsan   unit and parity tests under a sanitizer
#   make sim [SEED=1] [N=100000]    the scheduler's simulation on N seeds from SEED on
#   make sim-long [N=200] [T=x]     the CUDA kernels on the CPU under N schedules each instead of 6
#   make fuzz [P=name] [N=1000000]   N executions of one fuzz target, or of each in turn (installs clang: tools/setup --fuzz)
#   make golden SEED=n     reference outputs of another seed into build/golden-n (needs PyTorch: tools/setup --parity)
#   make parity SEED=n     the parity tests on that seed
#   make bench         speed and memory; see docs/performance.md
#   make bench-cpu     the serving engine's table, beside llama.cpp if its programs are named (ARGS="--only streams --llama-server ...")
#   make bench-faults  figures of the fault rows: key check, requests/s beside nginx, slowloris, idle streams (ARGS="--save NAME")
#   make bench-proxy   the gateway beside nginx, and with ARGS=--litellm LiteLLM, in front of a provider that answers at once
#   make reference     docs/configuration.md anew, after a change of options or limits
#   make format        clang-format over our C files
JOBS ?= $(shell nproc)
SEED ?= 1
CTEST = ctest --output-on-failure --no-tests=error
SOURCES = $(shell git ls-files '*.c' '*.h' '*.cpp' '*.cu' '*.cuh')

.PHONY: all build setup cuda run demo-overflow test fault-long asan ubsan tsan sim sim-long fuzz golden parity bench bench-cpu bench-faults bench-proxy format reference
all: build

setup:
	@tools/setup

build: setup
	@cmake --preset release --log-level=WARNING >/dev/null
	@cmake --build --preset release -j $(JOBS) -- --no-print-directory

# In the same folder, so that the library lies beside the program; later builds there keep it up to date.
space := $() $()
cuda:
	@tools/setup --cuda $(if $(filter ON,$(PRODUCTS)),--cuda-products)
	@cmake --preset cuda $(if $(ARCHS),"-DSPILLWAY_CUDA_ARCHS=$(subst $(space),;,$(strip $(ARCHS)))") \
	    $(if $(PRODUCTS),-DSPILLWAY_CUDA_PRODUCTS=$(PRODUCTS)) --log-level=WARNING >/dev/null
	@cmake --build --preset cuda -j $(JOBS) -- --no-print-directory

run: setup
	@cmake --preset release --log-level=WARNING >/dev/null
	@cmake --build --preset release -j $(JOBS) --target spillway -- --no-print-directory
	@build/spillway serve demo $(ARGS)

# Overflow shown whole: a gateway, a second one as its provider, and more load than the first can take.
demo-overflow: setup
	@cmake --preset release --log-level=WARNING >/dev/null
	@cmake --build --preset release -j $(JOBS) --target spillway -- --no-print-directory
	@tools/demo_overflow $(ARGS)

test: build
	@tools/setup --tests
ifdef T
	cd build && $(CTEST) -R '$(T)'
else
	cd build && $(CTEST) -j 2
endif

fault-long: build
	@tools/setup --tests
	cd build && ctest -R golden_files >/dev/null
	cd build && SPILLWAY_FAULT=long ctest --output-on-failure -V -L long $(if $(T),-R '$(T)')
	@for folder in fault accounts; do SPILLWAY_FAULT=long SPILLWAY_BIN=build/spillway \
	    build/venv/bin/python -m pytest -v -p no:cacheprovider tests/$$folder $(if $(T),-k '$(T)'); \
	    case $$? in 0|5) ;; *) exit 1;; esac; done # 5: T is in the other folder

asan ubsan tsan: setup
	@tools/setup --tests
	@cmake --preset $@ --log-level=WARNING >/dev/null
	@cmake --build --preset $@ -j $(JOBS) -- --no-print-directory
	cd build/$@ && $(CTEST) -L 'unit|parity'

sim: build
	build/tests/sim/scheduler/sim_scheduler $(SEED) $(if $(N),$(N),100000)

sim-long: build
	cd build && SIM_SEEDS=$(if $(N),$(N),200) $(CTEST) -L sim -j $(JOBS) --timeout 7200 $(if $(T),-R '$(T)')

fuzz:
	@tools/setup --fuzz
	@cmake --preset fuzz --log-level=WARNING >/dev/null
	@cmake --build --preset fuzz -j $(JOBS) --target $(if $(P),fuzz_$(P),fuzz_all) -- --no-print-directory
	@tools/fuzz $(if $(P),$(P),all) $(if $(N),$(N),1000000)

golden:
	@tools/setup --parity
	build/venv-parity/bin/python -B tests/parity/make_golden.py --seed $(SEED) --out build/golden-$(SEED)

# One build folder for all seeds: changing the goldens compiles only the tests again.
parity: setup
	@tools/setup --tests
	@test -f build/golden-$(SEED)/manifest.json || $(MAKE) --no-print-directory golden SEED=$(SEED)
	@cmake --preset release -B build/parity -DSPILLWAY_GOLDEN_DIR=$(CURDIR)/build/golden-$(SEED) --log-level=WARNING >/dev/null
	@cmake --build build/parity -j $(JOBS) -- --no-print-directory
	cd build/parity && $(CTEST) -L parity

bench: build
	@tools/setup --tests
	build/venv/bin/python -B bench/run.py

bench-cpu: build
	@tools/setup --tests
	build/venv/bin/python -B bench/cpu.py $(ARGS)

# Figures of fault rows that are measured, not tested; each program says whether its bounds hold.
bench-faults: build
	@tools/setup --tests
	build/venv/bin/python bench/faults.py $(ARGS)

bench-proxy: build
	@tools/setup --tests
	build/venv/bin/python -B bench/proxy.py $(ARGS)

reference: build
	build/spillway --reference > docs/configuration.md

format:
	clang-format -i $(SOURCES)
