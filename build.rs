//! Compacts the description of the admin API that is compiled into the worker: without line breaks and indentation.
//! Texts in JSON have neither.

use std::{env, fs, io, path::PathBuf};

const SOURCE: &str = "src/api/openapi.json";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={SOURCE}");
    let compact: String = fs::read_to_string(SOURCE)?.lines().map(str::trim_start).collect();
    let target = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    fs::write(target.join("openapi.json"), compact)
}
