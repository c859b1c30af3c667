# A thin front: the build is Meson's, the machine is set up by tools/setup.
#
#   make run ARGS="..."       arguments for the tool behind run, check, crash, bench, fuzz, stress
#   make install PREFIX=/usr DESTDIR=/tmp/package
#   make build MESON_ARGS="-Dwerror=false"

# Debian's own python3 is the one whose start is quick and whose version is known.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
PREFIX ?= /usr/local
DESTDIR ?=
ARGS ?=
MESON_ARGS ?=

CACHE := $(or $(ASTRID_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/astrid)
THIRD_PARTY := $(CACHE)/third-party

RELEASE := --buildtype=release -Ddebug=true -Db_ndebug=false
# The sanitizers' reports need readable frames more than they need speed.
CHECKED := --buildtype=debugoptimized -Db_lundef=false

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# $(call compile,DIR,OPTIONS[,ENVIRONMENT]) configures DIR when its options changed, then builds it.
define compile
	@want='-Dthird_party=$(THIRD_PARTY) --prefix=$(PREFIX) $(2) $(MESON_ARGS)'; \
	if [ "$$want" != "$$(cat $(1)/.options 2>/dev/null)" ]; then \
	    again=; if [ -e $(1)/build.ninja ]; then again=--reconfigure; fi; \
	    $(3) meson setup $$again $(1) $$want && printf '%s\n' "$$want" > $(1)/.options; \
	fi
	@ninja -C $(1)
endef

.PHONY: help
help: ## list the targets (default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup setup-build
setup: ## install what the build and the tests need, fetch third-party code
	@$(PYTHON) tools/setup
setup-build:
	@$(PYTHON) tools/setup --for=build

.PHONY: build
build: setup-build ## build the programs into build/
	$(call compile,build,$(RELEASE))

.PHONY: run
run: build ## build, then start Astrid
	@$(PYTHON) tools/run $(ARGS)

.PHONY: check check-asan check-tsan
check: setup build ## build, then run every test
	@$(PYTHON) tools/check $(ARGS)
check-asan: setup build-asan ## the tests under the address and undefined-behaviour sanitizers
	@$(PYTHON) tools/check --build build-asan $(ARGS)
check-tsan: setup build-tsan ## the tests under the thread sanitizer
	@$(PYTHON) tools/check --build build-tsan $(ARGS)

.PHONY: crash
crash: setup build ## kill the daemon again and again under writes; nothing acknowledged may be lost
	@$(PYTHON) tools/crash $(ARGS)

.PHONY: bench
bench: build ## build, then measure
	@$(PYTHON) tools/bench $(ARGS)

.PHONY: fuzz
fuzz: setup build-fuzz ## fuzz the parsers, with clang
	@$(PYTHON) tools/fuzz --build build-fuzz $(ARGS)

.PHONY: stress
stress: setup build-tsan ## many threads at once, under the thread sanitizer
	@$(PYTHON) tools/stress --build build-tsan $(ARGS)

.PHONY: build-asan build-tsan build-fuzz
build-asan: setup
	$(call compile,build-asan,$(CHECKED) -Db_sanitize=address$(comma)undefined)
build-tsan: setup
	$(call compile,build-tsan,$(CHECKED) -Db_sanitize=thread)
build-fuzz: setup
	$(call compile,build-fuzz,$(CHECKED) -Dfuzz=true,CC=clang CXX=clang++)
comma := ,

.PHONY: format lint
format: setup ## rewrite the C sources in the house layout
	@git ls-files -z '*.c' '*.h' | xargs -0 -r clang-format -i
lint: setup build ## layout, clang-tidy and the house rules; changes nothing
	@git ls-files -z '*.c' '*.h' | xargs -0 -r clang-format --dry-run -Werror
	@run-clang-tidy -quiet -p build -extra-arg=-Wno-unknown-warning-option '$(CURDIR)/(src|sdk)/.*\.c$$'
	@$(PYTHON) tools/lint

.PHONY: install
install: build ## install below PREFIX (DESTDIR is put before it)
	@DESTDIR='$(DESTDIR)' meson install -C build --no-rebuild

.PHONY: clean
clean: ## remove every build directory
	rm -rf build build-asan build-tsan build-fuzz
