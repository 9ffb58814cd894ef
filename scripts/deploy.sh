#!/usr/bin/env bash
# Deploys the registry, with the wrangler of package.json: npx may fetch another one where none is installed.
# Arguments go to `wrangler deploy`.
. "$(dirname "$0")/env.sh"

# A document with an error would refuse every request. Without a rule there is none to find.
for document in policy retention; do
  if grep -qvE '^[[:space:]]*(#|$)' "$document.toml"; then bash "scripts/$document.sh" check; fi
done
bash scripts/build.sh
exec wrangler deploy "$@"
