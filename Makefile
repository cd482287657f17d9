# The face of the repository: each recipe is one or two cargo lines that work without make, too.
.DEFAULT_GOAL := help
SEEDS ?= 100000
DEMO ?=
# nextest where it is installed (one process and a time limit per test), else cargo's own runner.
RUN_TESTS := $(shell cargo nextest --version >/dev/null 2>&1 && echo nextest run --profile $(if $(CI),ci,default) || echo test --lib --bins --tests)

.PHONY: help demo test check sim bench docs

help: ## what there is
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

demo: ## two releases of a voice agent under live calls, none dropped (DEMO="--callers 80")
	cargo run --locked -p segue -- demo $(DEMO)

test: ## every test: unit, simulator, model, black box, documentation
	cargo $(RUN_TESTS) --workspace --locked
	cargo test --workspace --locked --doc

check: ## formatting, lints, documentation, all without a warning
	cargo fmt --all --check && cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

sim: ## the simulator over many seeds (SEEDS=1000000)
	SEGUE_SIM_SEEDS=$(SEEDS) cargo test --release --locked -p segue-core --test it sim::seeds -- --nocapture

bench: ## timings of the hot decisions
	cargo bench --locked -p segue-core --bench route

docs: ## the API documentation, in target/doc
	cargo doc --workspace --no-deps --locked --open
