#!/usr/bin/env bash
# Checks retention.toml (`check`), or says which tags of a repository stay and by which rule (`explain team/app v1=30d`).
. "$(dirname "$0")/env.sh"
if ! command -v cargo >/dev/null; then
  say "Rust is missing: install it from https://rustup.rs and start again"
  exit 1
fi
[ -f target/debug/retention ] || say "The first time builds the command: a minute or two"
exec cargo run --quiet --bin retention -- "$@"
