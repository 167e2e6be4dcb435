# The few commands people need. Each works alone, from a fresh clone; CI runs the same ones.
#   make demo   find the wrong labels in a real data set and train a better model for it
#   make test   run the tests
#   make quick  run those that take no more than about a second and start no process
#   make lint   formatting, lint, types and the plan of the imports
#   make sanitize  the native host code under the address, undefined-behavior and thread sanitizers
#   make bench  the tracker against what people use instead
#   make clean  remove the environment and what was built
# PYTHON chooses the interpreter (3.10 or newer), VENV the environment's folder, and TORCH the torch
# requirement: by default the release this tree is tested with. JOBS processes share the tests (2).
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
JOBS ?= 2

bin := $(VENV)/bin
sources := pyproject.toml CMakeLists.txt README.md $(shell find csrc mild_ext -type f -not -name '*.pyc')
pip_install := $(bin)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test quick lint sanitize bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(bin)/mild-ext train --data digits --noise symmetric:0.5 --seed 0 --out runs/digits --overwrite

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(bin)/pytest -n $(JOBS)

quick: $(VENV)/.test
	OMP_NUM_THREADS=1 $(bin)/pytest -n $(JOBS) -m "not slow"

lint: $(VENV)/.lint
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/clang-format --dry-run --Werror csrc/*
	$(bin)/mypy
	$(bin)/lint-imports

# The kernels' text runs on fibers, which the thread sanitizer cannot follow: it looks at the CPU's threads.
sanitizers := -std=c++17 -ffp-contract=off -O1 -g -fno-omit-frame-pointer -Wall -Wextra -Wno-unknown-pragmas -Icsrc -pthread
sanitized := python_tests/cpp/sanitize.cpp csrc/status_cpu.cpp csrc/visits_cpu.cpp csrc/dynamics_cpu.cpp
sanitize:
	@mkdir -p build/sanitize
	$(CXX) $(sanitizers) -fsanitize=address,undefined -fno-sanitize-recover=all -DMILD_SANITIZE_KERNELS \
	  $(sanitized) -o build/sanitize/address
	ASAN_OPTIONS=detect_stack_use_after_return=0 build/sanitize/address
	$(CXX) $(sanitizers) -fsanitize=thread $(sanitized) -o build/sanitize/thread
	build/sanitize/thread

bench: $(VENV)/.bench
	$(bin)/mild-ext bench --out runs/bench
	$(bin)/mild-ext bench overhead

clean:
	rm -rf $(VENV) build

# torch goes in first and by itself, so that the package's own range (torch>=2.4) finds it and fetches no other.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$(PYTHON) is older than Python 3.10; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making the environment $(VENV) and installing $(TORCH) (once; a few minutes where it must be downloaded)"
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(pip_install) --upgrade pip
	@$(pip_install) '$(TORCH)'
	@touch $@

$(VENV)/.demo $(VENV)/.test $(VENV)/.bench: $(VENV)/.%: $(VENV)/.torch $(sources)
	@echo "Building and installing mild_ext[$*]"
	@$(pip_install) '.[$*]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	@$(pip_install) '.[lint]'
	@touch $@
