# Everything is done by `cargo xtask`; these are its short names, and what it needs to start.

PREFIX ?= /usr/local
OUT := $(if $(COFFERDAM_OUT),$(COFFERDAM_OUT),target/cofferdam)
XTASK := cargo xtask
export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := build
.PHONY: build setup demo test bench lab install clean

# What compiling xtask itself takes, then what everything else takes.
setup:
	@sh .ci/bootstrap
	@$(XTASK) setup

build: setup
	@$(XTASK) build

demo: setup
	@$(XTASK) demo

test: setup
	@$(XTASK) test

bench: setup
	@$(XTASK) bench start

# The tree that `make build` left: installing compiles nothing and needs no toolchain.
install:
	@test -e $(OUT)/guest/manifest.json || { echo "There is nothing to install: run make build first" >&2; exit 1; }
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/cofferdam/guest
	install -m 0755 $(OUT)/bin/cofferdam $(OUT)/bin/cofferdam-vmm $(DESTDIR)$(PREFIX)/bin/
	install -m 0644 $(OUT)/guest/vmlinux $(OUT)/guest/initramfs.cpio $(OUT)/guest/manifest.json $(DESTDIR)$(PREFIX)/lib/cofferdam/guest/

# Leaves the cache (/var/cache/cofferdam): kernels and root file systems are made once.
clean:
	cargo clean
	rm -rf $(OUT)
