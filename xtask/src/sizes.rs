//! The sizes that `docs/specification.md` promises for the programs.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::build::{self, MUSL, Profile};
use crate::tally::Tally;
use crate::workspace;

/// What is loaded for every sandbox is small.
const LIMITS: [(&str, u64); 3] =
    [("cofferdam-vmm", 6 << 20), ("cofferdam-agent", 3 << 20), (build::SHIM, 6 << 20)];

/// `cargo xtask check-sizes`.
pub(crate) fn run() -> Result<ExitCode> {
    for (program, _) in LIMITS {
        build::compiled(Profile::Release, program, Some(MUSL))?;
    }
    let tally = gate()?;
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compares what was built with the limits.
pub(crate) fn gate() -> Result<Tally> {
    let folder = workspace::cargo_target().join(MUSL).join("release");
    let mut tally = Tally::default();
    for (program, limit) in LIMITS {
        tally += Tally::one(keeps(&folder.join(program), limit)?);
    }
    Ok(tally)
}

fn keeps(program: &Path, limit: u64) -> Result<bool> {
    let metadata =
        fs::metadata(program).with_context(|| format!("{} is not built", program.display()))?;
    let bytes = metadata.len();
    let verdict = if bytes <= limit { "ok" } else { "FAILED" };
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    eprintln!("{name:<28} {bytes:>9} bytes of {limit:>9}: {verdict}");
    Ok(bytes <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_too_many_is_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, [0; 11]).unwrap();
        assert!(keeps(&program, 11).unwrap());
        assert!(!keeps(&program, 10).unwrap());
    }
}
