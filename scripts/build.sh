#!/usr/bin/env bash
# Builds the worker into build/. Arguments go to worker-build.
. "$(dirname "$0")/env.sh"
bash scripts/setup.sh
worker-build --release "$@"
