# Roost's commands. `make` lists them.
#
#   PROFILE=release  builds and runs the optimised binaries (run, demo); the default is the debug build, which is ready
#                    much sooner on a fresh clone. bench and chaos always use release.
#   ARGS="..."       is passed on by test (to cargo test), by bench and by chaos.
#   SCENARIO, SEED   pick what chaos does, and when.
#   DATABASE_URL, REDIS_URL, STRIPE_SECRET_KEY (a test key), SMTP_URL  replace the private server, sandbox or mailbox.

SHELL := /bin/sh
PROFILE ?= debug
ARGS ?=
CARGO ?= cargo

ifeq ($(filter $(PROFILE),debug release),)
$(error PROFILE is debug or release, not "$(PROFILE)")
endif

# Queries are checked against .sqlx, never against whatever DATABASE_URL names.
export SQLX_OFFLINE := true
release_flag = $(if $(filter release,$(PROFILE)),--release)
# Where cargo puts binaries, whatever its configuration says.
target_dir = $$($(CARGO) metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

.DEFAULT_GOAL := help
.PHONY: help run demo test bench chaos reset lint fmt sqlx-prepare provision

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22

run: provision ## Start everything on private servers, show one booking, stay up until Ctrl-C (PROFILE=release: optimised)
	@$(CARGO) build --workspace --locked $(release_flag)
	@exec "$(target_dir)/$(PROFILE)/roost-dev" run

demo: provision ## The same, but end after the booking: exit 0 only if every step was observed
	@$(CARGO) build --workspace --locked $(release_flag)
	@exec "$(target_dir)/$(PROFILE)/roost-dev" demo

test: ## Run all tests on private servers: unit, integration, docs (ARGS="name" picks some)
	@.config/provision --browser
	@$(CARGO) build --workspace --locked
	@exec "$(target_dir)/debug/roost-dev" test -- $(ARGS)

bench: ## Measure, release build, one JSON line a figure
	@.config/provision --bench
	@$(CARGO) build --workspace --locked --release
	@exec "$(target_dir)/release/roost-dev" beside --durable $(if $(findstring --statements,$(ARGS)),--counted) -- "$(target_dir)/release/bench" $(ARGS)

chaos: provision ## Break it on private servers, release build, one JSON line a scenario (SCENARIO=kill9 SEED=1 ARGS=--short)
	@$(CARGO) build --workspace --locked --release
	@exec "$(target_dir)/release/chaos" $(if $(SCENARIO),--scenario=$(SCENARIO)) $(if $(SEED),--seed=$(SEED)) $(ARGS)

reset: ## Forget the private servers and their data
	@if [ -d .roost ]; then $(CARGO) build --workspace --locked && exec "$(target_dir)/debug/roost-dev" reset; fi

lint: ## Formatting and clippy, warnings denied
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

fmt: ## Format the code
	@$(CARGO) fmt --all

sqlx-prepare: ## Regenerate .sqlx after a change of a query or a migration
	@.config/sqlx-prepare

provision:
	@.config/provision
