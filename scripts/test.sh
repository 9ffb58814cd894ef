#!/usr/bin/env bash
# Runs every test. Stops at the first kind that fails.
. "$(dirname "$0")/env.sh"
bash scripts/setup.sh tests

step() {
  say "== $*"
  local start=$SECONDS
  "$@"
  say "   $((SECONDS - start)) s"
}

has_component() { cargo "$1" --version >/dev/null 2>&1; }

no_javascript_in_core() {
  ! cargo tree --edges normal --prefix none | grep -E '^(worker|wasm-bindgen|js-sys|web-sys) v'
}

wasm_tests() {
  CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER="$tools/bin/wasm-bindgen-test-runner" \
    WASM_BINDGEN_TEST_TIMEOUT=300 NODE_OPTIONS="--import $PWD/tests/bindings.mjs" \
    with_wasm cargo test --lib --target $WASM_TARGET
}

step prettier --check --log-level warn .
step oxlint
if has_component fmt; then step cargo fmt --check; else say "SKIPPED: cargo fmt is not installed"; fi
if has_component clippy; then
  step cargo clippy --all-targets -- -D warnings
  if [ ! -e "$debian_rust/ready" ]; then step cargo clippy --all-targets --target $WASM_TARGET -- -D warnings; fi
else
  say "SKIPPED: cargo clippy is not installed"
fi
step no_javascript_in_core
step env RUSTDOCFLAGS=-Dwarnings cargo doc --quiet --no-deps --document-private-items
step cargo test
step wasm_tests
step bash scripts/build.sh --features test-endpoints
step node --test --test-concurrency=1 --test-reporter=spec 'tests/e2e/*.test.mjs'
