#!/usr/bin/env bash
# Serves the registry on http://localhost:8787, storing in .pierhead/. Whoever reaches this port may push:
# it listens on this machine only. Arguments go to `wrangler dev`, and replace the defaults below.
. "$(dirname "$0")/env.sh"

[ -f build/index_bg.wasm ] || say "The first start installs tools and builds the worker: 5 to 20 minutes"
bash scripts/build.sh

# The simulator keeps an edge cache on the same disk as the bucket: a copy of every blob, and nothing saved.
defaults=(--port 8787 --persist-to .pierhead --var ANONYMOUS:push --var SIGNING_SECRET:generated --var EDGE_CACHE_MIB:0)
# It also reads objects of several parts slowly: the settle job puts them together.
defaults+=(--var SETTLE:on)

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
port=8787
previous=
for argument in "$@"; do
  case $argument in
    --persist-to=*) folder=${argument#*=} ;;
    --port=*) port=${argument#*=} ;;
  esac
  case $previous in
    --persist-to) folder=$argument ;;
    --port) port=$argument ;;
  esac
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

# The simulator does not run the schedule, so this does, every five minutes, for as long as this process lives.
(
  exec 9>&- >/dev/null 2>&1
  for ((seconds = 10; ; seconds += 10)); do
    sleep 10
    kill -0 $$ || exit 0
    ((seconds % 300)) || curl -fsS "http://localhost:$port/cdn-cgi/local/scheduled" || true
  done
) &
exec wrangler dev "${options[@]}" "$@"
