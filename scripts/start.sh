#!/usr/bin/env bash
# Serves the registry on http://localhost:8787, storing in .pierhead/. Whoever reaches this port may push:
# it listens on this machine only. Arguments go to `wrangler dev`, and replace the defaults below.
. "$(dirname "$0")/env.sh"

[ -f build/index_bg.wasm ] || say "The first start installs tools and builds the worker: 5 to 10 minutes"
bash scripts/build.sh

# The simulator keeps an edge cache on the same disk as the bucket: a copy of every blob, and nothing saved.
defaults=(--port 8787 --persist-to .pierhead --var ANONYMOUS:push --var EDGE_CACHE_MIB:0)

# wrangler refuses a flag that is given twice. Only `--var` may be repeated, and the last value of a name counts.
options=()
for ((i = 0; i < ${#defaults[@]}; i += 2)); do
  flag=${defaults[i]}
  given=
  for argument in "$@"; do
    case $argument in "$flag" | "$flag"=*) [ "$flag" = --var ] || given=yes ;; esac
  done
  [ -n "$given" ] || options+=("$flag" "${defaults[i + 1]}")
done
exec wrangler dev "${options[@]}" "$@"
