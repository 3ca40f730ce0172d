# What people and CI run. Anything with logic is in xtask/.
CARGO = cargo
LOCKED = --locked

.PHONY: run test check fix fuzz bench soak drills drill-obs web

# The server with a demo source; prints the page to open.
run:
	@$(CARGO) xtask setup run
	@$(CARGO) build $(LOCKED) --release --quiet --package throughline-server
	@$(CARGO) xtask run

# Everything that must pass; a test that hangs ends with all.
TEST_SECONDS_MAX = 2400
test: check
	@$(CARGO) xtask setup test
	timeout --foreground $(TEST_SECONDS_MAX) $(CARGO) test $(LOCKED) --workspace
	@$(MAKE) --no-print-directory fuzz

# Format, lints, documentation, direction of dependencies, citations.
check:
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps --quiet
	$(CARGO) xtask layers
	$(CARGO) xtask specs
	$(CARGO) xtask bar
	$(CARGO) xtask web-hash

fix:
	$(CARGO) fmt
	$(CARGO) clippy $(LOCKED) --workspace --all-targets --fix --allow-dirty --allow-staged

# The player page: sources in web/src, result in web/dist, which is committed. Needs Node 20.19 or newer.
web:
	cd web && npm ci --no-audit --no-fund && npm run build
	$(CARGO) xtask web-hash write

# Delay, processor time and memory, beside a peer in the same run. Results: docs/benchmarks.md. WHAT=delay runs one alone.
bench:
	@$(CARGO) xtask setup test
	@$(CARGO) build $(LOCKED) --release --quiet --package throughline-server --package throughline-testkit
	@$(CARGO) xtask bench $(WHAT)

# An hour of 4K at 60 Mbit/s beside 720p: memory must be flat and PROGRAM-DATE-TIME within 50 ms of the clock.
MINUTES = 60
soak:
	@$(CARGO) xtask setup run
	@$(CARGO) build $(LOCKED) --release --quiet --package throughline-server --package throughline-testkit
	@$(CARGO) xtask soak $(MINUTES)

# Paths, encoders and the server die, and players that are not ours count what they lost; needs root, to lose packets of TCP. Results:
# docs/drills.md. WHAT=copies, mixed, srt, encoders, reconnect, flaps, key, slate, blip, sparse or restart runs one kind alone; WHAT=alternation runs for ROUNDS minutes.
ROUNDS = 100
drills:
	@$(CARGO) xtask setup test
	@$(CARGO) build $(LOCKED) --release --quiet --package throughline-server --package throughline-testkit
	@target/release/drills target/release/throughline $(ROUNDS) $(WHAT)

# A real OBS Studio, without a screen, publishes for 24 seconds over RTMP, then over SRT; then over RTMP and a path that stands still at times.
drill-obs:
	@$(CARGO) xtask setup test
	@$(CARGO) build $(LOCKED) --release --quiet --package throughline-server --package throughline-testkit
	@$(CARGO) xtask drill-obs
	@target/release/drills target/release/throughline 1 obs

# Every fuzz target for FUZZ_SECONDS; crashes become unit tests. Needs no nightly.
FUZZ_SECONDS = 10
fuzz:
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --quiet --locked cargo-fuzz@0.13.2
	@$(CARGO) fuzz build --sanitizer none 2>/dev/null || $(CARGO) fuzz build --sanitizer none
	@for target in $$($(CARGO) fuzz list); do echo "fuzz $$target, $(FUZZ_SECONDS) s"; \
	  mkdir -p fuzz/corpus/$$target; \
	  $(CARGO) fuzz run --sanitizer none $$target fuzz/corpus/$$target $$($(CARGO) xtask fuzz-seeds $$target) -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=100000 > target/fuzz.log 2>&1 \
	    || { tail -40 target/fuzz.log; exit 1; }; done
