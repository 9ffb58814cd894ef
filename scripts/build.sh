#!/usr/bin/env bash
# Builds the worker into build/. Arguments go to worker-build.
. "$(dirname "$0")/env.sh"
bash scripts/setup.sh
with_wasm worker-build --release "$@"
