# bootroom: the two commands a newcomer needs are `make demo` and `make test`.

CARGO ?= cargo
PREFIX ?= /usr/local
BOOTROOM := target/release/bootroom
DEB := target/deb/bootroom-client.deb
SCENARIOS := $(sort $(notdir $(basename $(patsubst %/main.rs,%,$(wildcard tests/tests/*.rs tests/tests/*/main.rs)))))
# As some of the workspace's tests and not as those of a package: else what they use is built again, with fewer features.
E2E := BOOTROOM_BIN=$(CURDIR)/$(BOOTROOM) $(CARGO) test --workspace --locked --no-fail-fast \
	$(addprefix --test ,$(SCENARIOS)) -- --test-threads=1
SHELL_SCRIPTS := $(sort $(shell git ls-files "*.sh"; git grep -lE "^\#!/bin/(ba)?sh"))

.PHONY: help demo test test-full bench crash fuzz sim build install deb fmt lint unit e2e packages clean

help:
	@echo 'make demo       two diskless machines boot from this computer (QEMU)'
	@echo 'make test       everything that must hold; what CI runs'
	@echo 'make test-full  the same with the long scenarios'
	@echo 'make bench      bootroom beside its peers, as ratios'
	@echo 'make crash      the overlay store through 100,000 crashes and 200 kills'
	@echo 'make fuzz       every decoder, ten million inputs each (RUNS=… for fewer; nightly Rust)'
	@echo 'make sim        the pair of servers through 1,000,000 seeds of failures'
	@echo 'make build      target/release/bootroom and the client package'
	@echo 'make install    these and systemd services (DESTDIR and PREFIX are heeded)'
	@echo 'make fmt lint   format; clippy, shellcheck'

build:
	$(CARGO) build --release --locked -p bootroom
	$(MAKE) --no-print-directory deb

install: build
	install -D -m 755 $(BOOTROOM) $(DESTDIR)$(PREFIX)/bin/bootroom
	install -D -m 644 $(DEB) $(DESTDIR)/usr/share/bootroom/bootroom-client.deb
	install -d $(DESTDIR)/etc/systemd/system
	for unit in bootroom bootroom-witness; do \
		sed 's|/usr/local/bin|$(PREFIX)/bin|' server/packaging/$$unit.service > $(DESTDIR)/etc/systemd/system/$$unit.service || exit 1; \
	done

deb:
	initramfs-hook/packaging/build-deb.sh

demo: build
	$(BOOTROOM) demo $(DEMO_ARGS)

packages:
	tests/install-packages.sh

fmt:
	$(CARGO) fmt --all

lint:
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	shellcheck $(SHELL_SCRIPTS)

unit:
	$(CARGO) test --workspace --exclude bootroom-tests --locked

e2e: build
	$(E2E)

test: packages lint unit e2e

test-full: lint unit build
	tests/install-packages.sh full
	$(E2E) --include-ignored

# With a loopback of its own that paces nothing: where a host has BBR, fast servers wait for a timer with most packets.
UNPACED := unshare --net sh -c 'ip link set lo up && \
	echo reno >/proc/sys/net/ipv4/tcp_congestion_control && exec "$$0"'

bench: build
	tests/install-packages.sh bench
	$(CARGO) run --release --locked -p overlay --example bench
	$(CARGO) build --release --locked -p bootroom-tests --bins
	BOOTROOM_BIN=$(CURDIR)/$(BOOTROOM) $(UNPACED) target/release/bench_nbd
	BOOTROOM_BIN=$(CURDIR)/$(BOOTROOM) target/release/bench_pair
	BOOTROOM_BIN=$(CURDIR)/$(BOOTROOM) target/release/bench_pxe

crash:
	BOOTROOM_CRASH_STATES=100000 BOOTROOM_KILL_ROUNDS=200 \
		$(CARGO) test --release --locked -p overlay --test crash --test kill -- --nocapture

fuzz:
	tests/fuzz.sh

sim:
	BOOTROOM_SIM_SEEDS=1000000 $(CARGO) test --release --locked -p mirror --test simulation -- --nocapture

clean:
	$(CARGO) clean
