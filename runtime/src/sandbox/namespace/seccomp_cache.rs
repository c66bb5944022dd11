//! Compiled seccomp profiles, kept from start to start.
//!
//! libseccomp copies the whole filter for each rule that is added: the default profile, of some 380
//! calls on two architectures, is what a start would otherwise spend most of its time on.
//! A machine uses few profiles, mostly one. So what was compiled stays in `/var/cache/cofferdam`, or
//! in an ordinary user's own cache, each file with everything that it was compiled from, which is
//! compared on every use.
//!
//! Used is only a folder that nobody but this user can write to: what is in there decides what a
//! container may do. Whatever is odd about it, the profile is compiled.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cofferdam_protocol::plan::SeccompPlan;
use oci_spec::runtime::LinuxSeccomp;

use crate::places::{self, Places};
use crate::plan::seccomp::{self, SeccompError};

/// What it is called in the cache.
const FOLDER: &str = "seccomp";

/// With more files than this the folder is emptied: every version of the program, and every
/// profile that was ever used, leaves one.
const MAX_FILES: usize = 64;

/// Compiles a profile, or takes what was compiled from the same before.
pub(super) fn compile(profile: &LinuxSeccomp) -> Result<SeccompPlan, SeccompError> {
    let (Some(key), Some(folder)) =
        (key(profile), Places::current().cache.and_then(|cache| folder(&cache.join(FOLDER))))
    else {
        return seccomp::compile_with_listener(profile);
    };
    let file = folder.join(format!("{:016x}", digest(&key)));
    if let Some(kept) = fs::read(&file).ok().and_then(|bytes| decode(&bytes, &key)) {
        return Ok(kept);
    }
    let compiled = seccomp::compile_with_listener(profile)?;
    if let Err(e) = keep(&folder, &file, &encode(&compiled, &key)) {
        tracing::debug!("The compiled seccomp profile is not kept: {e}");
    }
    Ok(compiled)
}

/// Everything that the result depends on: the profile, this very program (libseccomp is in it) and
/// the kernel, whose features libseccomp looks at.
fn key(profile: &LinuxSeccomp) -> Option<Vec<u8>> {
    let program = fs::metadata("/proc/self/exe").ok()?;
    let program = (program.ino(), program.size(), program.mtime(), program.mtime_nsec());
    let kernel = rustix::system::uname();
    serde_json::to_vec(&(program, kernel.release().to_str().ok()?, profile)).ok()
}

/// The folder, if only this user can write to it; made where it is missing.
fn folder(path: &Path) -> Option<PathBuf> {
    if !path.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).ok()?;
    }
    places::is_private(path).then(|| path.to_owned())
}

/// FNV-1a: against accidents, not against an attacker, who would have to be this user.
fn digest(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Length of the key, key, flags, digest of the program, program: a file that lost its end in a
/// crash is seen to be none.
fn encode(plan: &SeccompPlan, key: &[u8]) -> Vec<u8> {
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(key.len() + plan.program.len() + 16);
    bytes.extend(length.to_le_bytes());
    bytes.extend(key);
    bytes.extend(plan.flags.to_le_bytes());
    bytes.extend(digest(&plan.program).to_le_bytes());
    bytes.extend(&plan.program);
    bytes
}

fn decode(bytes: &[u8], key: &[u8]) -> Option<SeccompPlan> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (kept, rest) = rest.split_at_checked(length)?;
    let (flags, rest) = rest.split_first_chunk::<4>()?;
    let (sum, program) = rest.split_first_chunk::<8>()?;
    let is_whole = !program.is_empty() && digest(program) == u64::from_le_bytes(*sum);
    (kept == key && is_whole)
        .then(|| SeccompPlan { program: program.to_vec(), flags: u32::from_le_bytes(*flags) })
}

/// Puts a file in its place, completely or not at all.
fn keep(folder: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    let files: Vec<_> = fs::read_dir(folder)?.filter_map(Result::ok).collect();
    if files.len() >= MAX_FILES {
        for old in files {
            fs::remove_file(old.path())?;
        }
    }
    let draft = folder.join(format!("{}.new", std::process::id()));
    let mut new =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    new.write_all(bytes)?;
    fs::rename(&draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> SeccompPlan {
        SeccompPlan { program: vec![7; 16], flags: 2 }
    }

    #[test]
    fn what_was_kept_comes_back() {
        assert_eq!(decode(&encode(&plan(), b"key"), b"key"), Some(plan()));
    }

    #[test]
    fn another_key_is_none_even_under_the_same_name() {
        assert_eq!(decode(&encode(&plan(), b"key"), b"kez"), None);
    }

    #[test]
    fn a_file_that_was_cut_anywhere_is_none() {
        let whole = encode(&plan(), b"key");
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length], b"key"), None);
        }
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let open = parent.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(folder(&open), None);
    }

    #[test]
    fn a_full_folder_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        for i in 0..MAX_FILES {
            fs::write(folder.path().join(i.to_string()), "").unwrap();
        }
        keep(folder.path(), &folder.path().join("new"), b"x").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
