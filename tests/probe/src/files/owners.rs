//! Who owns files, and what others may do with them.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use super::{Outcome, could, role, same};

fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::symlink_metadata(path)?.mode() & 0o7777)
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// A new file is its maker's; in a folder with the set-group-ID bit the group is the folder's.
pub(super) fn new_files_owner(folder: &Path) -> Outcome {
    set_mode(folder, 0o777)?;
    let path = folder.join("file");
    same("a user makes it", could(role("make", &path).uid(1000).gid(1001))?, true)?;
    let seen = fs::metadata(&path)?;
    same("its owner", (seen.uid(), seen.gid()), (1000, 1001))?;
    chown(folder, Some(0), Some(2000))?;
    set_mode(folder, 0o2777)?;
    let path = folder.join("of the folder's group");
    same("a user makes it there", could(role("make", &path).uid(1000).gid(1001))?, true)?;
    let seen = fs::metadata(&path)?;
    same("its owner there", (seen.uid(), seen.gid()), (1000, 2000))?;
    fs::create_dir(folder.join("below"))?;
    same("a folder inherits the bit", mode(&folder.join("below"))? & 0o2000, 0o2000)
}

/// A write takes a file's set-id bits away, but for who may keep them.
pub(super) fn set_id_bits(folder: &Path) -> Outcome {
    set_mode(folder, 0o777)?;
    let path = folder.join("file");
    fs::write(&path, "content")?;
    set_mode(&path, 0o6777)?;
    same("the bits stay with the owner's mode", mode(&path)?, 0o6777)?;
    same("a user writes", could(role("overwrite", &path).uid(1000).gid(1000))?, true)?;
    same("then the bits are gone", mode(&path)?, 0o777)?;
    set_mode(&path, 0o6755)?;
    chown(&path, Some(1000), Some(1000))?;
    same("a change of owner takes them, too", mode(&path)?, 0o755)?;
    set_mode(&path, 0o4755)?;
    OpenOptions::new().write(true).open(&path)?.write_all(b"by root")?;
    same("root's write leaves them", mode(&path)?, 0o4755)
}

/// The other process of the case above.
pub(super) fn overwrite(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(b"overwritten")
}

/// Who is let in by a group that is not their first.
pub(super) fn supplementary_group(folder: &Path) -> Outcome {
    chown(folder, Some(0), Some(3000))?;
    set_mode(folder, 0o770)?;
    let path = folder.join("file");
    same("a stranger", could(role("make", &path).uid(1000).gid(1000))?, false)?;
    same("a member", could(&mut role("make-as-member", &path))?, true)?;
    same("the file's group", fs::metadata(&path)?.gid(), 1000)
}

/// The other process of the case above.
pub(super) fn make_as_member(path: &Path) -> io::Result<()> {
    setgroups(&[Gid::from_raw(3000)])?;
    setgid(Gid::from_raw(1000))?;
    setuid(Uid::from_raw(1000))?;
    fs::write(path, "made")
}

/// In a sticky folder files are removed by their owner.
pub(super) fn sticky_folder(folder: &Path) -> Outcome {
    set_mode(folder, 0o1777)?;
    let path = folder.join("file");
    same("a user makes it", could(role("make", &path).uid(1000).gid(1000))?, true)?;
    same("another removes it", could(role("remove", &path).uid(1001).gid(1001))?, false)?;
    same("its owner removes it", could(role("remove", &path).uid(1000).gid(1000))?, true)
}
