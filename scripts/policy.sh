#!/usr/bin/env bash
# Checks policy.toml (`check`), or says who may do what and by which rule (`explain ann push team/app`).
. "$(dirname "$0")/env.sh"
if ! command -v cargo >/dev/null; then
  say "Rust is missing: install it from https://rustup.rs and start again"
  exit 1
fi
[ -f target/debug/policy ] || say "The first time builds the command: a minute or two"
exec cargo run --quiet --bin policy -- "$@"
