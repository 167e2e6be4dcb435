# The few commands people need. Each works alone, from a fresh clone; CI runs the same ones.
#   make demo   find the wrong labels in a real data set and train a better model for it
#   make test   run the tests
#   make quick  run those that take no more than about a second and start no process
#   make lint   formatting, lint, types and the plan of the imports
#   make sanitize  the native host code under the address, undefined-behavior and thread sanitizers
#   make bench  the tracker against what people use instead
#   make package  the source distribution and its metadata, checked as a package index would
#   make wheel  a wheel for this Python, to be installed where there is no compiler: dist/
#   make cross  the native host code on ARM (emulated), as Windows' headers and other compilers see it
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

.PHONY: demo test quick lint sanitize bench package wheel cross clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(bin)/mild-ext train --data digits --noise symmetric:0.5 --seed 0 --out runs/digits --overwrite

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(bin)/pytest -n $(JOBS) --dist worksteal

quick: $(VENV)/.test
	OMP_NUM_THREADS=1 $(bin)/pytest -n $(JOBS) --dist worksteal -m "not slow"

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

# The isolated build environment is left out: what builds is in this one already.
package: $(VENV)/.release
	rm -rf build/sdist
	$(bin)/python -m build --no-isolation --sdist --outdir build/sdist
	$(bin)/twine check --strict build/sdist/*
	$(bin)/check-manifest --no-build-isolation
	$(bin)/validate-pyproject pyproject.toml

# From the source distribution, which so is seen to be whole. On Linux auditwheel sees to it that the wheel needs nothing
# of this machine, and names the oldest system it runs on.
wheel: package
	rm -rf build/wheel dist
	mkdir -p build/wheel dist
	$(bin)/python -m pip wheel --quiet --no-deps --no-build-isolation -w build/wheel build/sdist/*.tar.gz
ifeq ($(shell uname -s),Linux)
	PATH="$(abspath $(bin)):$$PATH" $(bin)/auditwheel repair -w dist build/wheel/*.whl
	$(bin)/auditwheel show dist/*.whl
else
	cp build/wheel/*.whl dist
endif
	cp build/sdist/*.tar.gz dist
	$(bin)/twine check --strict dist/*
	@ls -l dist

# With what is installed of: g++-aarch64-linux-gnu and qemu-user; g++-mingw-w64-x86-64; any C++ compiler, for which the
# words of GNU's are hidden. Every one runs, or parses, the same text; nothing here needs Python.
hosted := csrc/status_cpu.cpp csrc/visits_cpu.cpp csrc/dynamics_cpu.cpp
strict := -std=c++17 -ffp-contract=off -fno-math-errno -Wall -Wextra -Wshadow -Wno-unknown-pragmas -Werror
cross:
	@mkdir -p build/cross
	rm -rf build/cross/csrc && cp -r csrc build/cross/csrc
	sed -i.gnu 's/__GNUC__/MILD_NO_GNU/g' build/cross/csrc/*
	$(CXX) $(strict) -O2 -pthread -Ibuild/cross/csrc python_tests/cpp/sanitize.cpp $(hosted:%=build/cross/%) -o build/cross/plain
	build/cross/plain
	@if command -v x86_64-w64-mingw32-g++-posix; then set -x; \
	  for source in $(hosted); do x86_64-w64-mingw32-g++-posix $(strict) -Wconversion -O1 -Icsrc -fsyntax-only $$source || exit 1; done; \
	else echo "skipped: Windows (apt install g++-mingw-w64-x86-64)"; fi
	@if command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64; then set -x; \
	  aarch64-linux-gnu-g++ $(strict) -O3 -static -pthread -Icsrc python_tests/cpp/sanitize.cpp $(hosted) -o build/cross/aarch64 \
	  && qemu-aarch64 build/cross/aarch64; \
	else echo "skipped: aarch64 (apt install g++-aarch64-linux-gnu qemu-user)"; fi

clean:
	rm -rf $(VENV) build dist

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

$(VENV)/.release: $(VENV)/.torch pyproject.toml
	@$(pip_install) --group release
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	@$(pip_install) '.[lint]'
	@touch $@
