#!/usr/bin/env bash
# Measures uploads. Arguments go to bench/bench.mjs.
. "$(dirname "$0")/env.sh"
bash scripts/build.sh --features test-endpoints >&2
exec node bench/bench.mjs "$@"
