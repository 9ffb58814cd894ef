#!/usr/bin/env bash
# Serves the registry on http://localhost:8787, storing in .pierhead/. Whoever reaches this port may push:
# it listens on this machine only. Arguments go to `wrangler dev`, and replace the defaults below.
. "$(dirname "$0")/env.sh"

[ -f build/index_bg.wasm ] || say "The first start installs tools and builds the worker: 5 to 20 minutes"
bash scripts/build.sh

# The simulator keeps an edge cache on the same disk as the bucket: a copy of every blob, and nothing saved.
defaults=(--port 8787 --persist-to .pierhead --var ANONYMOUS:push --var SIGNING_SECRET:generated --var EDGE_CACHE_MIB:0)

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

# Two processes must not serve one folder: each would run Durable Objects of its own on it.
folder=.pierhead
previous=
for argument in "$@"; do
  case $argument in --persist-to=*) folder=${argument#*=} ;; esac
  [ "$previous" != --persist-to ] || folder=$argument
  previous=$argument
done

# The lock lasts as long as this process, which becomes wrangler, has the file open: a crash leaves none behind. macOS
# has no `flock`, but perl. Status 1: another process holds the lock.
mkdir -p "$folder"
exec 9>>"$folder/lock"
status=0
if command -v flock >/dev/null; then
  flock -n 9 || status=$?
else
  perl -MFcntl=:flock -e 'open my $lock, ">&=", 9 or exit 2; exit !flock $lock, LOCK_EX | LOCK_NB' || status=$?
fi
if [ $status = 1 ]; then
  say "Another process serves ${folder%/}/ already. Stop it with Ctrl-C, or serve another folder on another port:"
  say "npm start -- --port 9000 --persist-to .pierhead-9000"
  exit 1
fi
exec wrangler dev "${options[@]}" "$@"
