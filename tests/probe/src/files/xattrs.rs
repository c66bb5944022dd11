//! Extended attributes.

use std::fs;
use std::path::Path;

use nix::libc;
use rustix::fs::{XattrFlags, getxattr, lgetxattr, listxattr, removexattr, setxattr};

use super::{Failure, Outcome, refused, same};

fn value(path: &Path, name: &str) -> Result<Vec<u8>, Failure> {
    let mut value = vec![0; 4096];
    let length = getxattr(path, name, value.as_mut_slice())?;
    value.truncate(length);
    Ok(value)
}

/// Set, replaced, listed, removed; on files and folders.
pub(super) fn attributes(folder: &Path) -> Outcome {
    let path = folder.join("file");
    fs::write(&path, "")?;
    for subject in [path.as_path(), folder] {
        setxattr(subject, "user.one", b"1", XattrFlags::CREATE)?;
        setxattr(subject, "user.two", &[7; 1000], XattrFlags::empty())?;
        let again = setxattr(subject, "user.one", b"2", XattrFlags::CREATE);
        refused("made twice", again, libc::EEXIST)?;
        setxattr(subject, "user.one", b"2", XattrFlags::REPLACE)?;
        same("its value", value(subject, "user.one")?, b"2".to_vec())?;
        same("a long one", value(subject, "user.two")?, vec![7; 1000])?;
        let short = getxattr(subject, "user.two", [0u8; 10].as_mut_slice());
        refused("too little room", short, libc::ERANGE)?;
        let mut names = vec![0; 4096];
        let length = listxattr(subject, names.as_mut_slice())?;
        let names = String::from_utf8_lossy(names.get(..length).unwrap_or_default()).into_owned();
        let ours = names.split('\0').filter(|name| name.starts_with("user.")).count();
        same("names", ours, 2)?;
        removexattr(subject, "user.one")?;
        let gone = lgetxattr(subject, "user.one", [0u8; 10].as_mut_slice());
        refused("when it is gone", gone, libc::ENODATA)?;
    }
    Ok(())
}
