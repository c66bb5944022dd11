# Everything is done by `cargo xtask`; these are its short names, and what it needs to start.

PREFIX ?= /usr/local
OUT := $(if $(COFFERDAM_OUT),$(COFFERDAM_OUT),target/cofferdam)
TO = $(DESTDIR)$(PREFIX)
XTASK := cargo xtask
export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := build
.PHONY: build setup demo demo-stack test bench lab install clean

# What compiling xtask itself takes, then what everything else takes.
setup:
	@sh .ci/bootstrap
	@$(XTASK) setup

build: setup
	@$(XTASK) build

demo: setup
	@$(XTASK) demo

# PostgreSQL, redis, a web application and nginx in microVMs, under load and restarts.
demo-stack: setup
	@$(XTASK) e2e --mode microvm --watch microvm_stack

test: setup
	@$(XTASK) test

bench: setup
	@$(XTASK) bench start

# The tree that `make build` left: installing compiles nothing and needs no toolchain.
install:
	@test -e $(OUT)/guest/manifest.json || { echo "There is nothing to install: run make build first" >&2; exit 1; }
	install -d $(TO)/bin $(TO)/lib/cofferdam/guest
	install -m 0755 $(OUT)/bin/cofferdam $(OUT)/bin/cofferdam-vmm $(OUT)/bin/containerd-shim-cofferdam-v2 $(TO)/bin/
	install -m 0644 $(OUT)/guest/vmlinux $(OUT)/guest/initramfs.cpio $(OUT)/guest/manifest.json $(TO)/lib/cofferdam/guest/
	install -d $(TO)/share/bash-completion/completions $(TO)/share/zsh/site-functions $(TO)/share/fish/vendor_completions.d
	$(OUT)/bin/cofferdam completion bash > $(TO)/share/bash-completion/completions/cofferdam
	$(OUT)/bin/cofferdam completion zsh > $(TO)/share/zsh/site-functions/_cofferdam
	$(OUT)/bin/cofferdam completion fish > $(TO)/share/fish/vendor_completions.d/cofferdam.fish
	$(OUT)/bin/cofferdam man $(TO)/share/man/man1

# Leaves the cache (/var/cache/cofferdam): kernels and root file systems are made once.
clean:
	cargo clean
	rm -rf $(OUT)
