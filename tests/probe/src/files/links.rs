//! Names: hard links, symbolic links, files without a name, renames.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use nix::libc;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, linkat, mknodat, openat, renameat_with,
};
use rustix::path::DecInt;

use super::{Outcome, refused, same};

/// Two names of one file.
pub(super) fn hard_links(folder: &Path) -> Outcome {
    let (one, other) = (folder.join("one"), folder.join("other"));
    fs::write(&one, "content")?;
    fs::hard_link(&one, &other)?;
    let (a, b) = (fs::metadata(&one)?, fs::metadata(&other)?);
    same("inode and links", (b.ino(), b.nlink()), (a.ino(), 2))?;
    fs::write(&other, "changed")?;
    same("content by the first name", fs::read_to_string(&one)?, "changed".to_owned())?;
    fs::remove_file(&one)?;
    same("links that are left", fs::metadata(&other)?.nlink(), 1)?;
    refused("a link to a folder", fs::hard_link(folder, folder.join("x")), libc::EPERM)?;
    symlink("other", folder.join("symbolic"))?;
    linkat(CWD, folder.join("symbolic"), CWD, folder.join("second"), AtFlags::empty())?;
    same("a link of a symbolic link", fs::symlink_metadata(folder.join("second"))?.nlink(), 2)?;
    let pipe = folder.join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0)?;
    fs::hard_link(&pipe, folder.join("pipe too"))?;
    same("a pipe", fs::metadata(folder.join("pipe too"))?.file_type().is_fifo(), true)
}

fn unnamed(folder: &Path, flags: OFlags) -> Result<File, super::Failure> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | flags;
    Ok(openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// `O_TMPFILE`: a file that gets its name when it is whole.
pub(super) fn unnamed_file(folder: &Path) -> Outcome {
    let mut file = unnamed(folder, OFlags::empty())?;
    file.write_all(b"whole")?;
    same("names", (fs::read_dir(folder)?.count(), file.metadata()?.nlink()), (0, 0))?;
    let descriptors = File::open("/proc/self/fd")?;
    let name = DecInt::from_fd(&file);
    linkat(&descriptors, name, CWD, folder.join("named"), AtFlags::SYMLINK_FOLLOW)?;
    same("its content", fs::read_to_string(folder.join("named"))?, "whole".to_owned())?;
    let named = fs::metadata(folder.join("named"))?;
    let expected = (file.metadata()?.ino(), 1, 0o600);
    same("it is that file", (named.ino(), named.nlink(), named.mode() & 0o777), expected)?;
    file.write_all(b" again")?;
    same("its content later", fs::read_to_string(folder.join("named"))?, "whole again".to_owned())
}

/// With `O_EXCL` it never gets one.
pub(super) fn unnamed_file_for_ever(folder: &Path) -> Outcome {
    let mut file = unnamed(folder, OFlags::EXCL)?;
    file.write_all(b"secret")?;
    let descriptors = File::open("/proc/self/fd")?;
    let name = DecInt::from_fd(&file);
    let linked = linkat(&descriptors, name, CWD, folder.join("named"), AtFlags::SYMLINK_FOLLOW);
    refused("a name", linked, libc::ENOENT)
}

/// `RENAME_NOREPLACE` and `RENAME_EXCHANGE`.
pub(super) fn rename_flags(folder: &Path) -> Outcome {
    let (one, other) = (folder.join("one"), folder.join("other"));
    fs::write(&one, "one")?;
    fs::create_dir(&other)?;
    fs::write(other.join("inside"), "inside")?;
    let rename = |flags| renameat_with(CWD, &one, CWD, &other, flags);
    refused("over what is there", rename(RenameFlags::NOREPLACE), libc::EEXIST)?;
    rename(RenameFlags::EXCHANGE)?;
    same("a file is where the folder was", fs::read_to_string(&other)?, "one".to_owned())?;
    same("and the other way", fs::read_to_string(one.join("inside"))?, "inside".to_owned())?;
    fs::remove_file(&other)?;
    rename(RenameFlags::NOREPLACE)?;
    same("the folder moved", fs::read_to_string(other.join("inside"))?, "inside".to_owned())?;
    refused("exchange with nothing", rename(RenameFlags::EXCHANGE), libc::ENOENT)?;
    refused("into itself", fs::rename(&other, other.join("below")), libc::EINVAL)?;
    fs::create_dir(&one)?;
    refused("over a folder with something in it", fs::rename(&one, &other), libc::ENOTEMPTY)
}

/// They are what was written, however long, and wherever they lead.
pub(super) fn symbolic_links(folder: &Path) -> Outcome {
    let long = "x/".repeat(2000) + "end";
    for (name, target) in [("gone", "nowhere"), ("long", long.as_str()), ("up", "../../../../..")] {
        symlink(target, folder.join(name))?;
        same(
            name,
            fs::read_link(folder.join(name))?.to_string_lossy().into_owned(),
            target.to_owned(),
        )?;
        same("its length", fs::symlink_metadata(folder.join(name))?.len(), target.len() as u64)?;
    }
    symlink("loop", folder.join("loop"))?;
    refused("a loop", File::open(folder.join("loop")), libc::ELOOP)
}
