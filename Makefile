# Two commands for a stranger: `make demo` and `make test`. Both set up what they need first.
VENV := .venv
BIN := $(VENV)/bin
IMAGE := src/jitsu/images/hello.elf
SEED ?= 1

.PHONY: demo test xen-test xen-shell xen-bench check fmt sim setup image hostile lock clean

demo: setup            ## the main job, for real: a DNS query boots a VM that answers the request
	$(BIN)/jitsu demo

test: setup            ## everything, real virtual machines included
	$(BIN)/pytest -q -ra

xen-test: setup        ## the Xen part: real Xen with a Linux dom0, in QEMU
	$(BIN)/pytest -q -ra tests/xen

xen-bench: setup       ## boots and stores on Xen, measured in one dom0
	$(BIN)/python -m xenlab run -- sh -c 'jitsu bench boot && jitsu bench xenstore --xen'

xen-shell: setup       ## a shell in that dom0
	@$(BIN)/python -m xenlab shell

check: $(VENV)/.stamp image    ## the fast loop: run it before each commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n $$(nproc) -m "not host and not qemu and not slow and not xen" --cov --cov-report=term:skip-covered

fmt: $(VENV)/.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

sim: $(VENV)/.stamp    ## replay one simulated world: make sim SEED=123
	$(BIN)/pytest -q tests/sim --seed $(SEED)

setup: packages $(VENV)/.stamp image hostile

packages:              ## Debian packages, where something of them is missing
	@./scripts/packages
.PHONY: packages

$(VENV)/.stamp: requirements.lock pyproject.toml scripts/venv
	@./scripts/venv $(VENV)
	@touch $@

image:                 ## what the wheel carries: the guest, the kernel's part of splicing, QEMU's loading, programs' launcher
	@$(MAKE) -s -C unikernel
	@$(MAKE) -s -C bpf
	@$(MAKE) -s -C forkserver
	@$(MAKE) -s -C launcher

hostile:               ## a guest that means harm, for tests
	@$(MAKE) -s -C unikernel hostile

lock:                  ## after a change of dependencies in pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --generate-hashes \
	  --no-emit-index-url --no-header -q -o requirements.lock

clean:
	rm -rf $(VENV) dist
	$(MAKE) -s -C unikernel clean
	$(MAKE) -s -C bpf clean
	$(MAKE) -s -C forkserver clean
	$(MAKE) -s -C launcher clean
