# What one does with Legation. It needs Rust, Python 3 and a C compiler; the rest is set up below target/.

CARGO ?= cargo
target := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help demo test check line bench fmt setup build

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

line: setup build ## only the tests with stock Envoy
	$(CARGO) test -p integration --test line

bench: ## how long the pure part takes
	$(CARGO) bench -p legation --bench translate

fmt: ## format everything
	$(CARGO) fmt --all

setup: ## get Envoy and the Python packages into target/
	@integration/setup.sh

build: ## the programs that the demo and the tests start
	$(CARGO) build --workspace --bins
