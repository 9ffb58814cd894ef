#!/usr/bin/env bash
# Runs every test, cheap steps first, and stops at the first failure. To run one step alone, read scripts/env.sh
# into a shell (`. scripts/env.sh`) and paste the command that is printed.
. "$(dirname "$0")/env.sh"

times=()
skipped=()
build= # the process that builds the worker

summary() {
  local status=$? line
  trap - EXIT
  if [ -n "$build" ]; then kill -- -$build 2>/dev/null || true; fi
  say "== Summary"
  for line in ${times[@]+"${times[@]}"}; do say "$line"; done
  for line in ${skipped[@]+"${skipped[@]}"}; do say "skipped: $line"; done
  if [ $status = 0 ]; then say "passed in $SECONDS s"; else say "FAILED after $SECONDS s"; fi
  exit $status
}
trap summary EXIT

took() { # the time it started, its status, the command
  times+=("$(printf '%5d s  %s' $((SECONDS - $1)) "$3")")
  [ "$2" = 0 ] || say "FAILED (exit status $2): $3"
  return "$2"
}

step() { # a command
  local start=$SECONDS status=0
  say "== $1"
  bash -euo pipefail -c "$1" || status=$?
  took $start $status "$1"
}

# For a step that cannot run here. In CI that is a failure; elsewhere the summary lists it.
unavailable() { # the step, what to do
  if [ -n "$CI" ]; then
    say "FAILED: $1 cannot run, and in CI nothing is skipped. $2"
    exit 1
  fi
  skipped+=("$1. $2")
}

# Clippy must be of the same release as the compiler, or it cannot read the wasm32 library.
has_clippy() {
  cargo clippy --version >/dev/null 2>&1 && [ "$(clippy-driver --rustc --version)" = "$(rustc --version)" ]
}

step "bash scripts/setup.sh tests"
step "cargo fetch --locked --quiet"
step "prettier --check --log-level warn ."
step "oxlint"
step "node scripts/costs.mjs --check"
if cargo fmt --version >/dev/null 2>&1; then
  step "cargo fmt --check"
else
  unavailable "cargo fmt" "Install it: rustup component add rustfmt (or Debian's rustfmt-web)"
fi
step "cargo deny --offline check licenses bans sources"
# The database is a repository on GitHub, which some machines cannot reach.
if cargo deny fetch db >/dev/null 2>&1; then
  step "cargo deny check advisories"
else
  skipped+=("cargo deny check advisories. The advisory database could not be fetched")
fi
step "! cargo tree --edges normal --prefix none | grep -E '^(worker|wasm-bindgen|js-sys|web-sys) v'"
# In the background: most of the time this keeps one core busy, and the steps that follow use the other.
worker="bash scripts/build.sh --features test-endpoints"
worker_started=$SECONDS
say "== $worker (in the background)"
mkdir -p target
set -m # a process group of its own, for `kill`
$worker >target/worker.log 2>&1 &
build=$!
set +m

if has_clippy; then
  step "cargo clippy --all-targets --all-features -- -D warnings"
  step "cargo clippy --all-targets --all-features --target $WASM_TARGET -- -D warnings"
else
  unavailable "cargo clippy" "Install the one of $(rustc --version): rustup component add clippy (or Debian's rust-web-clippy)"
fi

step "RUSTDOCFLAGS=-Dwarnings cargo doc --quiet --no-deps --document-private-items"
step "cargo test"
step "NODE_OPTIONS=\"--import \$PWD/tests/bindings.mjs\" cargo test --lib --target $WASM_TARGET"

status=0
wait $build || status=$?
build=
[ $status = 0 ] || cat target/worker.log >&2
took $worker_started $status "$worker (in the background)"
step "node scripts/size.mjs"
# What waits for what depends on how fast a body is read: nothing else may keep the machine busy.
step "node --test --test-concurrency=1 --test-reporter=spec 'tests/e2e/alone/*.test.mjs'"
# Files start in the order of their names: a long one must not be the last.
step "node --test --test-concurrency=2 --test-reporter=spec 'tests/e2e/*.test.mjs'"
