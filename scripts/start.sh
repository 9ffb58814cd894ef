#!/usr/bin/env bash
# Serves the registry on http://localhost:8787, storing in .pierhead/. Whoever reaches this port may push:
# it listens on this machine only. Arguments go to `wrangler dev`.
. "$(dirname "$0")/env.sh"
bash scripts/setup.sh
exec wrangler dev --port 8787 --persist-to .pierhead --var ANONYMOUS:push "$@"
