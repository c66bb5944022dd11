//! Measurements read memory only: everything that they use of this machine is copied into RAM and
//! mounted over the original.
//!
//! In the lab a file's every `open` goes to the host and waits there for a time that is real, not
//! virtual. What is bound here is no longer asked for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// Copies programs, the libraries that they are linked with and the loader into a folder in RAM,
/// and binds each copy over its original.
pub(super) fn bind_into_memory(programs: &[PathBuf], memory: &Path) -> Result<()> {
    fs::create_dir_all(memory)?;
    let mut files = BTreeSet::from([PathBuf::from("/etc/ld.so.cache")]);
    for program in programs {
        files.insert(program.canonicalize()?);
        // It fails for a static program, which has no libraries.
        let listing = Command::new("ldd").arg(program).output().context("Could not start ldd")?;
        for path in libraries(&String::from_utf8_lossy(&listing.stdout)) {
            files.insert(path.canonicalize()?);
        }
    }
    for (index, file) in files.iter().enumerate() {
        let copy = memory.join(index.to_string());
        fs::copy(file, &copy).with_context(|| format!("Could not copy {}", file.display()))?;
        process::run(Command::new("mount").arg("--bind").arg(&copy).arg(file))?;
    }
    Ok(())
}

/// The paths in what `ldd` prints: `libc.so.6 => /lib/.../libc.so.6 (0x...)`, or the loader's
/// path alone.
fn libraries(listing: &str) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| {
            let target = line.rsplit_once("=> ").map_or(line, |(_, target)| target);
            let path = target.trim().split(" (").next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_the_loader() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f01)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(listing), expected.map(PathBuf::from));
    }
}
