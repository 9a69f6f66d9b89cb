# One entry for people and for CI. `make` alone lists the targets.

CARGO ?= cargo
# More for the command behind a target: make run ARGS="--workers 4", make loadtest ARGS="--rounds 3"
ARGS ?=

# Servers stand in sbin, which is not in everybody's PATH.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

# $(call need,command=package[+package] ...): installs with apt what is not there, and nothing else.
define need
	@set -eu; missing=''; \
	for pair in $(1); do \
		command -v "$${pair%%=*}" >/dev/null 2>&1 || missing="$$missing $$(echo "$${pair#*=}" | tr + ' ')"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	if ! command -v apt-get >/dev/null 2>&1; then echo "please install:$$missing" >&2; exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then root=env; \
	elif command -v sudo >/dev/null 2>&1; then root='sudo -n env'; \
	else echo "please install, as root: apt-get install$$missing" >&2; exit 1; fi; \
	echo "installing:$$missing"; \
	$$root DEBIAN_FRONTEND=noninteractive apt-get update -qq; \
	$$root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing
endef

.DEFAULT_GOAL := help
.PHONY: help run test lint fmt clippy doc deny bench loadtest soak toolchain

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: toolchain ## Run the proxy with demo upstreams; Ctrl-C ends it
	$(CARGO) run --release --locked -- serve --demo $(ARGS)

test: toolchain ## Run all tests, doc tests included
	$(call need,systemd-socket-activate=systemd unshare=util-linux chromium=chromium prometheus=prometheus promtool=prometheus)
	$(CARGO) test --workspace --locked $(ARGS)

lint: fmt clippy doc deny ## Check format, lints, documentation and dependencies

fmt:
	$(CARGO) fmt --all --check

clippy: toolchain
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc: toolchain
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked

# What it checks is in deny.toml. It fetches the list of known vulnerabilities from the network.
deny:
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		echo '$(CARGO) deny check'; $(CARGO) deny --locked check; \
	else \
		echo 'deny: SKIPPED, cargo-deny is not installed (cargo install --locked cargo-deny)'; \
	fi

bench: toolchain ## Run the micro-benchmarks
	$(CARGO) bench --locked $(ARGS)

loadtest: toolchain ## Compare with nginx and HAProxy: CPU time per request; installs them if missing
	$(call need,wrk=wrk nginx=nginx-light haproxy=haproxy taskset=util-linux)
	$(CARGO) build --release --locked
	$(CARGO) run --release --locked -p loadtest -- peers $(ARGS)

# A run can be repeated with its seed: make soak SEED=7
SEED ?=

soak: toolchain ## Run the drills at length (1,000 kills, 200 upgrades …); the ledgers go to loadtest/runs
	$(CARGO) build --release --locked
	loadtest/soak.sh target/release/pointsman $(SEED)

# All that building and testing needs besides cargo: a linker.
toolchain:
	@command -v $(CARGO) >/dev/null 2>&1 || { echo 'cargo is missing: install Rust 1.88 or later' >&2; exit 1; }
	$(call need,cc=gcc+libc6-dev)
