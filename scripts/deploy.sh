#!/usr/bin/env bash
# Deploys the registry, with the wrangler of package.json: npx may fetch another one where none is installed.
# Arguments go to `wrangler deploy`.
. "$(dirname "$0")/env.sh"

# A policy with an error would refuse every request. Without a rule there is none to find.
if grep -qvE '^[[:space:]]*(#|$)' policy.toml; then bash scripts/policy.sh check; fi
bash scripts/build.sh
exec wrangler deploy "$@"
