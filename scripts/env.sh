# Sourced by the other scripts: where the tools are that `setup.sh` installs, and which versions they have.
# In an interactive shell it only sets the variables, for commands that are pasted.
[[ $- == *i* ]] || set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.."

WASM_BINDGEN_VERSION=0.2.130 # exactly the library's, in Cargo.toml
WORKER_BUILD_VERSION=0.8.7   # exactly the library's, in Cargo.toml
S3S_FS_VERSION=0.14.1        # the S3 server that the tests store in
CARGO_DENY_VERSION=0.20.2
OLDEST_NODE=18.0.0 # to install the packages
OLDEST_NPM=9.0.0
OLDEST_WRANGLER_NODE=22.12.0 # the packages bring one
WASM_TARGET=wasm32-unknown-unknown

# Tools outlive a checkout: a second one need not build them again.
tools="${XDG_CACHE_HOME:-$HOME/.cache}/pierhead/tools"

export PATH="$PWD/node_modules/.bin:$tools/bin:$PATH"
export WASM_BINDGEN_BIN="$tools/bin/wasm-bindgen"
export ESBUILD_BIN="$PWD/node_modules/.bin/esbuild"
export WASM_OPT_BIN="$PWD/node_modules/.bin/wasm-opt"
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER="$tools/bin/wasm-bindgen-test-runner"
export WASM_BINDGEN_TEST_TIMEOUT=300
export WRANGLER_SEND_METRICS=false
# Otherwise the simulator asks for the location of this machine, and logs a stack trace when it is offline.
export CLOUDFLARE_CF_FETCH_ENABLED=false
export CI="${CI:-}"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
