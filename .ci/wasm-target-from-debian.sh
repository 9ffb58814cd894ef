#!/usr/bin/env bash
# Makes a Rust toolchain with the wasm32 target from Debian's packages, for machines where `rustup target add` has
# nowhere to download from. Debian packages the compiler and the source of its standard library, but not the
# library built for wasm32: this builds it. Prints the folder to put first on PATH.
set -euo pipefail

target=wasm32-unknown-unknown
toolchain="${XDG_CACHE_HOME:-$HOME/.cache}/pierhead/debian-rust"
packages=(rustc-web cargo-web rust-web-src rust-web-clippy rustfmt-web lld-22)

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "$0: needs root on Debian" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends "${missing[@]}" >&2
fi

mkdir -p "$toolchain/bin"
for tool in cargo rustc rustdoc cargo-clippy clippy-driver cargo-fmt rustfmt; do
  ln -sf "/usr/bin/$tool" "$toolchain/bin/"
done
ln -sf "$(command -v lld-22)" "$toolchain/bin/rust-lld" # the linker's name in the compiler
export PATH="$toolchain/bin:$PATH"

# The library belongs to one release of the compiler.
release=$(rustc --version)
library=$(rustc --print target-libdir --target $target)
if [ "$(cat "$library/release" 2>/dev/null)" != "$release" ]; then
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  mkdir "$build/src"
  : >"$build/src/lib.rs"
  printf '[package]\nname = "seed"\nversion = "0.0.0"\nedition = "2021"\n' >"$build/Cargo.toml"
  (
    cd "$build"
    # The bootstrap variable allows -Zbuild-std here. Nothing else is compiled with it.
    RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target cargo build --release --target $target -Zbuild-std=std,panic_abort,test
  ) >&2
  rm -rf "$library"
  mkdir -p "$library"
  find "$build/target/$target/release/deps" -name '*.rlib' ! -name 'libseed-*' -exec cp {} "$library" \;
  echo "$release" >"$library/release"
fi

echo "$toolchain/bin"
