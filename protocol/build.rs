//! Generates the agent's RPC types and service from `proto/agent.proto`. Pure Rust: no `protoc`.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=proto/agent.proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    // The agent's half is async, the runtime's blocking; one build may want both.
    let async_server = env::var_os("CARGO_FEATURE_RPC_SERVER").is_some();
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .input("proto/agent.proto")
        .include("proto")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize { async_server, ..Default::default() })
        .run()?;
    drop_inner_attributes(&out.join("agent.rs"))?;
    drop_inner_attributes(&out.join("agent_ttrpc.rs"))
}

/// `include!` cannot take a file that begins with `#![...]` or `//!`.
fn drop_inner_attributes(file: &Path) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let kept: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("#![") && !line.starts_with("//!")).collect();
    fs::write(file, kept.join("\n"))
}
