# Sourced by the other scripts: where the tools are that `setup.sh` installs, and which versions they have.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

WASM_BINDGEN_VERSION=0.2.130 # exactly the library's, in Cargo.toml
WORKER_BUILD_VERSION=0.8.7   # exactly the library's, in Cargo.toml
S3S_FS_VERSION=0.14.1       # the S3 server that the tests store in
WASM_TARGET=wasm32-unknown-unknown

# Tools outlive a checkout: a second one need not build them again.
tools="${XDG_CACHE_HOME:-$HOME/.cache}/pierhead/tools"
# A compiler of Debian's with a standard library for wasm32, where rustup cannot fetch one.
debian_rust="${XDG_CACHE_HOME:-$HOME/.cache}/pierhead/debian-rust"

export PATH="$PWD/node_modules/.bin:$tools/bin:$PATH"
export WASM_BINDGEN_BIN="$tools/bin/wasm-bindgen"
export ESBUILD_BIN="$PWD/node_modules/.bin/esbuild"
export WASM_OPT_BIN="$PWD/node_modules/.bin/wasm-opt"
export WRANGLER_SEND_METRICS=false
export CI="${CI:-}"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

# Runs a command with the compiler that can build for wasm32.
with_wasm() {
  if [ -e "$debian_rust/ready" ]; then
    PATH="$debian_rust/bin:$PATH" CARGO_TARGET_DIR="$PWD/target/debian" "$@"
  else
    "$@"
  fi
}
