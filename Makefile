# The face of the repository: each recipe is one or two cargo lines that work without make, too.
.DEFAULT_GOAL := help
SEEDS ?= 100000
DEMO ?=
BENCH ?=
# nextest where it is installed (one process and a time limit per test), else cargo's own runner.
RUN_TESTS := $(shell cargo nextest --version >/dev/null 2>&1 && echo nextest run --profile $(if $(CI),ci,default) || echo test --lib --bins --tests)

# Calls of each test, and seconds of each call, of `make talk`.
CALLS ?= 30
TALK ?= 60

# Seconds of each target of `make fuzz`.
SECONDS ?= 60

# How many people call at once in `make soak`.
PEOPLE ?= 200

.PHONY: fuzz help demo test check soak sim bench bench-route bench-dispatch docs python livekit talk reference dist man install-check

help: ## what there is
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 15

demo: ## two releases of a voice agent under live calls, none dropped (DEMO="--callers 80")
	cargo run --locked -p segue -- demo $(DEMO)

test: python ## every test: unit, simulator, model, black box, documentation
	cargo $(RUN_TESTS) --workspace --locked
	cargo test --workspace --locked --doc
	target/venv/bin/python -m pytest --quiet python/tests

python: ## the Python of the examples and their tests, in target/venv* (PYTHON=python3.12)
	@examples/python-env target/venv
	@examples/python-env target/venv-livekit examples/livekit-worker/requirements.txt
	@python/install target/venv
	@python/install target/venv-livekit

livekit: python ## LiveKit's workers of Node, too, and more jobs of all (needs node and npm)
	mkdir -p target/node-livekit && cp crates/dispatch/tests/node/* target/node-livekit
	npm --prefix target/node-livekit ci --ignore-scripts --no-audit --no-fund
	cargo test --locked -p segue-dispatch --test it -- --ignored --test-threads 1

talk: python ## agents that hear and speak, with more and longer calls (CALLS=40 TALK=120)
	SEGUE_TEST_CALLS=$(CALLS) SEGUE_TEST_SECONDS=$(TALK) cargo test --locked -p segue --test it -- --test-threads 1 receptionist:: pipecat::

check: ## formatting, lints, documentation, all without a warning
	cargo fmt --all --check && cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

soak: ## five deploys of every kind under calls that never stop, none dropped (PEOPLE=200)
	SEGUE_SOAK_CALLS=$(PEOPLE) cargo test --release --locked -p segue --test it -- --nocapture soak::

sim: ## the simulator over many seeds (SEEDS=1000000)
	SEGUE_SIM_SEEDS=$(SEEDS) cargo test --release --locked -p segue-core --test it sim::seeds -- --nocapture

fuzz: ## every parser of foreign bytes under libFuzzer (SECONDS=600, for each)
	crates/gateway/fuzz/run $(SECONDS)
	crates/membership/fuzz/run $(SECONDS)
	crates/dispatch/fuzz/run $(SECONDS)

# One that has found a fault does not keep the next one from being run.
bench: ## what a call costs, beside every proxy that is installed; 30 minutes (BENCH="--rounds 1")
	cargo build --release --locked --bin segue
	@echo 'three runs, together 30 minutes unless BENCH says otherwise'
	failed=0; \
	target/release/segue bench idle load rate handoff crash --save target/bench/plain $(BENCH) || failed=1; \
	target/release/segue bench idle load rate --tls --rounds 3 --save target/bench/tls $(BENCH) || failed=1; \
	target/release/segue bench slow --against relay --rounds 1 --save target/bench/slow $(BENCH) || failed=1; \
	exit $$failed

bench-route: ## timings of the hot decisions
	cargo bench --locked -p segue-core --bench route

bench-dispatch: ## how long a LiveKit job waits for its worker, and what a connected worker costs
	cargo bench --locked -p segue-dispatch --bench load -- --workers 100 --rate 200 --seconds 20
	cargo bench --locked -p segue-dispatch --bench load -- --workers 10000 --rate 200 --seconds 10

docs: ## the API documentation, in target/doc
	cargo doc --workspace --no-deps --locked --open

reference: ## docs/reference: config.md, its JSON Schema and openapi.json, anew from the code
	SEGUE_REGENERATE=1 cargo test --locked -p segue-core --lib published
	SEGUE_REGENERATE=1 cargo test --locked -p segue-controller --lib published

dist: ## a release with manual, completions and unit, and its checksum, in target/dist
	cargo build --release --locked -p segue
	deploy/dist target/release/segue target/dist

man: ## the manual pages, in target/man
	cargo run --locked -p segue -- man --dir target/man

install-check: ## whether `cargo install` makes a binary that works, in target/install
	cargo install --locked --path crates/cli --root target/install --force
	target/install/bin/segue --version && target/install/bin/segue completions bash >/dev/null
