#!/usr/bin/env bash
# Installs what is missing to build and run the registry, and with `tests` to test it. Does nothing when
# nothing is.
. "$(dirname "$0")/env.sh"

at_least() { # version, oldest version that will do
  [ "$(printf '%s\n' "$2" "${1#v}" | sort -V | head -n 1)" = "$2" ]
}

# The Node that installs the packages, one of which is the Node that everything else runs on.
bootstrap_node() {
  local node npm
  node=$(node --version 2>/dev/null || echo none)
  npm=$(npm --version 2>/dev/null || echo none)
  if [ "$node" != none ] && at_least "$node" $OLDEST_NODE && at_least "$npm" $OLDEST_NPM; then return; fi
  say "Node.js $OLDEST_NODE or newer with npm $OLDEST_NPM or newer is needed; found Node.js $node, npm $npm"
  say "Install a current release from https://nodejs.org and start again"
  exit 1
}

node_packages() {
  local installed=node_modules/.package-lock.json
  [ "$installed" -nt package-lock.json ] && [ "$installed" -nt package.json ] && return
  bootstrap_node
  say "Installing node packages (about half a minute)"
  # Not `npm ci`: it insists on the packages of other platforms, which not every mirror has. Without warnings: they
  # are about the Node that installs, not the one that it brings.
  npm install --no-save --no-fund --no-audit --loglevel error >&2
  touch "$installed"
  at_least "$(node --version)" $OLDEST_WRANGLER_NODE && return
  say "Wrangler needs Node.js $OLDEST_WRANGLER_NODE or newer; found $(node --version)"
  say "npm did not install the one in package.json (perhaps ignore-scripts is set). Install Node.js from https://nodejs.org"
  rm -f "$installed"
  exit 1
}

rust() {
  command -v cargo >/dev/null && return
  say "Rust is missing: install it from https://rustup.rs and start again"
  exit 1
}

has_wasm_target() { [ -d "$(rustc --print target-libdir --target $WASM_TARGET 2>/dev/null)" ]; }

wasm_target() {
  has_wasm_target && return
  say "Adding the Rust target $WASM_TARGET"
  if command -v rustup >/dev/null && rustup target add $WASM_TARGET && has_wasm_target; then return; fi
  say "Rust cannot compile to WebAssembly here. Install the target: rustup target add $WASM_TARGET"
  command -v rustup >/dev/null || say "(This Rust was installed without rustup: get it from https://rustup.rs)"
  exit 1
}

cargo_tool() { # crate, version, a binary of it, more arguments
  "$tools/bin/$3" --version 2>/dev/null | grep -qw "${2//./\\.}" && return
  say "Building $1 $2: some minutes, once for all checkouts"
  cargo install --root "$tools" --version "$2" "$1" "${@:4}" >&2
}

node_packages
node scripts/simulator.mjs
rust
wasm_target
cargo_tool wasm-bindgen-cli $WASM_BINDGEN_VERSION wasm-bindgen
cargo_tool worker-build $WORKER_BUILD_VERSION worker-build
if [ "${1:-}" = tests ]; then
  cargo_tool s3s-fs $S3S_FS_VERSION s3s-fs --locked --features binary
  cargo_tool cargo-deny $CARGO_DENY_VERSION cargo-deny
fi
