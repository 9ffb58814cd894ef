#!/usr/bin/env bash
# Deploys the registry, with the wrangler of package.json: npx may fetch another one where none is installed.
# Arguments go to `wrangler deploy`.
. "$(dirname "$0")/env.sh"

bash scripts/build.sh
exec wrangler deploy "$@"
