#!/usr/bin/env bash
# Measures: `reads`, `uploads`, `far`, or without a name all of them. What follows the name goes to bench/<name>.mjs.
. "$(dirname "$0")/env.sh"
bash scripts/build.sh --features test-endpoints >&2
if [ $# -gt 0 ]; then exec node "bench/$1.mjs" "${@:2}"; fi
node bench/reads.mjs
node bench/far.mjs
exec node bench/uploads.mjs
