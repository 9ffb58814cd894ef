#!/usr/bin/env bash
# Builds the worker into build/, unless it is current. Arguments go to worker-build.
. "$(dirname "$0")/env.sh"
bash scripts/setup.sh
SECONDS=0

stamp() { node scripts/stamp.mjs "$(rustc --version)" $WORKER_BUILD_VERSION $WASM_BINDGEN_VERSION "$@"; }

before=$(stamp "$@")
[ "$(cat build/.stamp 2>/dev/null)" != "$before" ] || exit 0
say "Building the worker: about a minute, and a few more the first time"
rm -f build/.stamp
worker-build --release "$@"
node scripts/strip.mjs build/index_bg.wasm
# The sources as they were before the build: they may have changed since.
printf '%s\n' "$(head -n 1 <<<"$before")" "$(stamp "$@" | tail -n 1)" >build/.stamp
say "Built the worker in $SECONDS s"
