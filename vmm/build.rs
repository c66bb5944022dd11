//! Compiles the seccomp filters, so that the monitor installs ready programs.
//!
//! ```text
//!  architecture ─▶ number of the call ─▶ binary search ─▶ the rules of that call ─▶ allow
//!                                                       └─▶ anything else ─────────▶ kill
//! ```
//!
//! The kernel tries a filter with every number there is when it is installed, and a sandbox installs half a
//! dozen: comparing with one call after another would be a millisecond and more of each start.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use seccompiler::{BpfProgram, TargetArch, compile_from_json, sock_filter};
use serde_json::{Value, json};

const ROLES: [&str; 6] = ["main", "vcpu", "devices", "fs", "watch", "disks"];

/// What each program of the compiler begins with: the architecture's check, and the call's number.
const HEADER: usize = 4;

/// Goes on at one of two places, by whether the number is at least so much (`linux/bpf_common.h`).
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP: u16 = 0x05;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=seccomp");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    for role in ROLES {
        let source = format!("seccomp/{role}.json");
        let text = std::fs::read_to_string(&source).with_context(|| source.clone())?;
        let program = compile(role, &text).with_context(|| source.clone())?;
        std::fs::write(out.join(role).with_extension("bpf"), bytes(&program))?;
    }
    Ok(())
}

fn compile(role: &str, text: &str) -> Result<BpfProgram> {
    let document: Value = serde_json::from_str(text)?;
    let filter = document.get(role).with_context(|| format!("There is no {role}"))?;
    let rules = filter["filter"].as_array().context("There are no rules")?;
    let mut calls: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for rule in rules {
        let call = rule["syscall"].as_str().context("A rule without a call")?;
        calls.entry(call).or_default().push(rule);
    }
    let mut header = BpfProgram::new();
    let mut bodies = BTreeMap::new();
    for rules in calls.values() {
        let mut program = compile_one(role, filter, rules)?;
        let body = program.split_off(HEADER);
        // It begins by comparing the number, and ends with the answer to another one.
        bodies.insert(body.first().context("An empty program")?.k, body);
        header = program;
    }
    let bodies: Vec<_> = bodies.into_iter().collect();
    header.extend(search(&bodies)?);
    header.extend(bodies.into_iter().flat_map(|(_, body)| body));
    Ok(header)
}

/// What the compiler makes of the rules of one call.
fn compile_one(role: &str, filter: &Value, rules: &[&Value]) -> Result<BpfProgram> {
    let mut alone = filter.clone();
    alone["filter"] = json!(rules);
    let document = json!({ role: alone }).to_string();
    let mut programs = compile_from_json(document.as_bytes(), TargetArch::x86_64)?;
    programs.remove(role).context("The compiler made no program")
}

/// Finds the body for a number, of those that follow.
fn search(bodies: &[(u32, BpfProgram)]) -> Result<BpfProgram> {
    // Each inner node is a comparison, each leaf a jump.
    let length = 2 * bodies.len() - 1;
    let mut start = length;
    let starts: Vec<usize> = bodies
        .iter()
        .map(|(_, body)| {
            let this = start;
            start += body.len();
            this
        })
        .collect();
    let mut program = BpfProgram::new();
    descend(bodies, &starts, &mut program)?;
    ensure!(program.len() == length, "The search has {} instructions", program.len());
    Ok(program)
}

fn descend(bodies: &[(u32, BpfProgram)], starts: &[usize], program: &mut BpfProgram) -> Result<()> {
    if let [start] = starts {
        let distance = u32::try_from(start - program.len() - 1)?;
        program.push(sock_filter { code: JUMP, jt: 0, jf: 0, k: distance });
        return Ok(());
    }
    let (low, high) = bodies.split_at(bodies.len() / 2);
    let (low_starts, high_starts) = starts.split_at(low.len());
    let first = high.first().context("No call")?.0;
    let over_low = u8::try_from(2 * low.len() - 1).context("Too many calls for one jump")?;
    program.push(sock_filter { code: JUMP_IF_AT_LEAST, jt: over_low, jf: 0, k: first });
    descend(low, low_starts, program)?;
    descend(high, high_starts, program)
}

/// The instructions as the kernel takes them, one after the other.
fn bytes(program: &BpfProgram) -> Vec<u8> {
    let instruction = |i: &sock_filter| {
        let [c0, c1] = i.code.to_le_bytes();
        let [k0, k1, k2, k3] = i.k.to_le_bytes();
        [c0, c1, i.jt, i.jf, k0, k1, k2, k3]
    };
    program.iter().flat_map(instruction).collect()
}
