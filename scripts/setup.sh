#!/usr/bin/env bash
# Installs what is missing to build and run the registry, and with `tests` to test it. Does nothing when
# nothing is.
. "$(dirname "$0")/env.sh"

node_packages() {
  local installed=node_modules/.package-lock.json
  [ "$installed" -nt package-lock.json ] && [ "$installed" -nt package.json ] && return
  say "Installing node packages"
  # Not `npm ci`: it insists on the packages of other platforms, which not every mirror has.
  npm install --no-save --no-fund --no-audit >&2
  touch "$installed"
}

rust() {
  command -v cargo >/dev/null && return
  say "Rust is missing: install it from https://rustup.rs and start again"
  exit 1
}

wasm_target() {
  [ -e "$debian_rust/ready" ] && return
  if command -v rustup >/dev/null; then
    rustup target list --installed | grep -qx $WASM_TARGET && return
    say "Adding the Rust target $WASM_TARGET"
    rustup target add $WASM_TARGET && return
  elif [ -d "$(rustc --print sysroot)/lib/rustlib/$WASM_TARGET/lib" ]; then
    return
  fi
  debian_wasm_target
}

# Debian carries a compiler with its library's source: build the library for wasm32 from it, once.
debian_wasm_target() {
  say "That failed: building the wasm32 library from Debian's Rust instead"
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    say "This needs Debian and root. Otherwise: rustup target add $WASM_TARGET"
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends rustc-web cargo-web rust-web-src >&2
  local lld build sysroot
  lld=$(find "$(rustc --print sysroot)" "$HOME/.rustup/toolchains" /usr/lib -name rust-lld -type f 2>/dev/null | head -n 1)
  [ -n "$lld" ] || { say "No rust-lld was found: install the package lld"; exit 1; }
  rm -rf "$debian_rust" && mkdir -p "$debian_rust/bin"
  ln -s "$lld" "$debian_rust/bin/rust-lld"
  ln -s /usr/bin/cargo /usr/bin/rustc /usr/bin/rustdoc "$debian_rust/bin/"
  build=$(mktemp -d)
  mkdir "$build/src"
  printf '[package]\nname = "seed"\nversion = "0.0.0"\nedition = "2021"\n' >"$build/Cargo.toml"
  : >"$build/src/lib.rs"
  (
    cd "$build"
    PATH="$debian_rust/bin:$PATH" RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc /usr/bin/cargo build --release \
      --target $WASM_TARGET -Zbuild-std=std,panic_abort,test
  ) >&2
  sysroot="$(/usr/bin/rustc --print sysroot)/lib/rustlib/$WASM_TARGET/lib"
  mkdir -p "$sysroot"
  find "$build/target/$WASM_TARGET/release/deps" -name '*.rlib' ! -name 'libseed-*' -exec cp {} "$sysroot" \;
  rm -rf "$build"
  touch "$debian_rust/ready"
}

cargo_tool() { # crate, version, a binary of it, more arguments
  "$tools/bin/$3" --version 2>/dev/null | grep -qw "${2//./\\.}" && return
  say "Building $1 $2 (a few minutes, once)"
  cargo install --quiet --root "$tools" --version "$2" "$1" "${@:4}" >&2
}

node_packages
rust
wasm_target
cargo_tool wasm-bindgen-cli $WASM_BINDGEN_VERSION wasm-bindgen
cargo_tool worker-build $WORKER_BUILD_VERSION worker-build
if [ "${1:-}" = tests ]; then cargo_tool s3s-fs $S3S_FS_VERSION s3s-fs --locked --features binary; fi
