# Each target is one step of .ci/run or of a person's day; `make` lists them.

CARGO ?= cargo
SETUP := integration-tests/setup/install

# Built in one cargo run, so that features unify the same way every time and wasmtime is built once.
# The compiler is built on its own: unified with the shim, Cranelift would be linked into the shim.
SHIM := -p containerd-shim-wasi -p wasi-runtime -p wasi-settings -p wasi-bundles
COMPILER := -p wasi-compiler
PREFIX ?= /usr/local

.DEFAULT_GOAL := help
.PHONY: help setup build guests demo test lint unit fuzz process daemons floods javascript docker v2 test-v2 soak bench bench-engine bench-memory bench-http install uninstall clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing: packages, wasm targets, tools, three containerds, two Dockers, guests
	$(SETUP)

build: ## Build the shim and its compiler (target/release)
	$(CARGO) build --release --locked $(SHIM)
	$(CARGO) build --release --locked $(COMPILER)

guests: ## Build the wasm programs that the tests run (target/guests)
	$(SETUP) tools guests

demo: setup build ## Run wasm images under a private containerd, narrated (root)
	$(CARGO) run --release --locked -p integration-tests --example demo

test: setup build lint unit fuzz process daemons docker v2 ## Everything that .ci/run checks (root)

lint: ## Formatting, clippy, documentation, dependency policy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps --quiet
	target/tools/bin/cargo-deny --log-level error check bans licenses sources

unit: ## Tests of the crates, by themselves (root, for the ones that mount)
	$(CARGO) test --release --locked $(SHIM)
	$(CARGO) test --release --locked $(COMPILER)

fuzz: ## Fuzz each target of fuzz/ for FUZZ_SECONDS (20), after `make build`
	CARGO=$(CARGO) fuzz/run

process: ## Tests of the built shim against a fake containerd (root)
	$(CARGO) test --release --locked -p integration-tests --lib --bins --test architecture --test fake --test process --test endings --test requests --test node --test deploy --test exec --test execs --test stdio --test terminals --test exec_terminals --test hooks --test hook_failures --test cgroups --test limits --test idle --test specs --test recovery --test sandbox --test soak

daemons: ## Tests of the built shim under containerd 1.6, 1.7 and 2.1 (root)
	$(CARGO) test --release --locked -p integration-tests --test containerd

floods: setup build ## 1 GiB through each kind of stream (root)
	SHIM_TEST_FLOOD=1073741824 $(CARGO) test --release --locked -p integration-tests --test stdio -- flood

javascript: setup build ## JavaScript of docs/quickstart.md, which takes npm and 400 MB of its packages (root)
	SHIM_TEST_NPM=1 $(CARGO) test --release --locked -p integration-tests --test containerd -- javascript_of_the_quickstart

docker: ## Tests of the built shim under Docker 26.1 and 28.5 (root)
	$(CARGO) test --release --locked -p integration-tests --test docker

test-v2: setup build v2 ## Tests of cgroup version 2 alone (root, 3 minutes)

v2: ## Tests of cgroup version 2, in a kernel of their own, after `make build` (root)
	integration-tests/setup/uml
	$(CARGO) test --release --locked -p integration-tests --test cgroups --test containerd --no-run
	integration-tests/v2/run

soak: build ## Kill a thousand times at random moments, and look for what is left (root; SOAK=n, SOAK_SEED=n)
	SOAK=$${SOAK:-1000} $(CARGO) test --release --locked -p integration-tests --test soak -- --nocapture

bench-engine: setup build ## The runtime's steps, and its guests' speed beside the wasmtime command (docs/performance.md)
	$(CARGO) bench --locked $(SHIM) -p wasi-benchmarks --bench speed
	$(CARGO) bench --locked $(SHIM) -p wasi-benchmarks --bench steps

bench-memory: setup build ## What sleeping containers cost in memory (docs/memory.md, root)
	$(CARGO) run --release --locked -p integration-tests --example memory

bench-http: setup build ## HTTP services beside `wasmtime serve`, in turns (docs/http.md, root)
	$(CARGO) run --release --locked -p integration-tests --example http

bench: setup build ## Compare with runc and with a shim that does nothing, interleaved (root)
	$(CARGO) build --release --locked -p integration-tests --bins
	$(CARGO) run --release --locked -p integration-tests --example bench
	$(CARGO) run --release --locked -p integration-tests --example stops

install: ## Copy the built binaries to $(PREFIX)/bin
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin target/release/containerd-shim-wasi-v1 target/release/containerd-shim-wasi-compile

uninstall: ## Remove what `install` copied
	rm -f $(DESTDIR)$(PREFIX)/bin/containerd-shim-wasi-v1 $(DESTDIR)$(PREFIX)/bin/containerd-shim-wasi-compile

clean: ## Remove target/
	$(CARGO) clean
