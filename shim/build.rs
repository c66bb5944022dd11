//! Generates the messages of `proto/pod.proto`. Pure Rust: no `protoc`.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=proto/pod.proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .input("proto/pod.proto")
        .include("proto")
        .rust_protobuf()
        .run()?;
    drop_inner_attributes(&out.join("pod.rs"))
}

/// `include!` cannot take a file that begins with `#![...]` or `//!`.
fn drop_inner_attributes(file: &Path) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let kept: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("#![") && !line.starts_with("//!")).collect();
    fs::write(file, kept.join("\n"))
}
