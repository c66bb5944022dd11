//! Compiles the seccomp filters, so that the monitor installs ready programs.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use seccompiler::{BpfProgram, TargetArch, compile_from_json};

const ROLES: [&str; 6] = ["main", "vcpu", "devices", "fs", "watch", "disks"];

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=seccomp");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    for role in ROLES {
        let source = format!("seccomp/{role}.json");
        let file = File::open(&source).with_context(|| source.clone())?;
        let mut programs =
            compile_from_json(file, TargetArch::x86_64).with_context(|| source.clone())?;
        let program = programs.remove(role).with_context(|| format!("{source} has no {role}"))?;
        std::fs::write(out.join(role).with_extension("bpf"), bytes(&program))?;
    }
    Ok(())
}

/// The instructions as the kernel takes them, one after the other.
fn bytes(program: &BpfProgram) -> Vec<u8> {
    let instruction = |i: &seccompiler::sock_filter| {
        let [c0, c1] = i.code.to_le_bytes();
        let [k0, k1, k2, k3] = i.k.to_le_bytes();
        [c0, c1, i.jt, i.jf, k0, k1, k2, k3]
    };
    program.iter().flat_map(instruction).collect()
}
