# What people and CI run. Anything with logic is in xtask/.
CARGO = cargo
LOCKED = --locked

.PHONY: run test check unit e2e fix fuzz bench soak web

# The server with a demo source; prints the page to open.
run:
	@$(CARGO) xtask setup run
	@$(CARGO) build $(LOCKED) --release --quiet --package throughline-server
	@$(CARGO) xtask run

# Everything that must pass.
test: check
	@$(CARGO) xtask setup test
	$(CARGO) test $(LOCKED) --workspace

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
