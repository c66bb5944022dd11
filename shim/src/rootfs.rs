//! The mounts that containerd asks for on a bundle's root file system: a snapshot's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// As much as mount(2) copies: a page, with the zero at its end.
const MAX_DATA: usize = 4095;

/// Why a root file system is not there. Nothing of it is mounted then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootfsError {
    /// It cannot be made a folder.
    #[error("Cannot make the folder {0}")]
    Folder(PathBuf, #[source] io::Error),
    /// The kernel refuses.
    #[error("Cannot mount {kind} on the container's root file system")]
    Mount {
        /// `overlay`, ...
        kind: String,
        /// Why not.
        source: Errno,
    },
    /// Only mount(8) knows it.
    #[error("The mount option {0} of the root file system is not supported")]
    Option(String),
    /// An image of very many layers whose paths have nothing in common.
    #[error(
        "The mount options of the root file system are {0} bytes long: {MAX_DATA} are possible"
    )]
    TooLong(usize),
}

/// What mount(2) takes.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    flags: MsFlags,
    propagation: MsFlags,
    /// To be in while mounting, for what is relative in `data`.
    folder: Option<PathBuf>,
    data: String,
}

/// Mounts all of them on top of each other. None: the root file system is there already.
///
/// # Errors
/// The first that cannot be mounted.
pub(crate) fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<(), RootfsError> {
    if mounts.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(rootfs).map_err(|error| RootfsError::Folder(rootfs.into(), error))?;
    for one in mounts {
        plan(&one.options).and_then(|plan| perform(one, &plan, rootfs)).inspect_err(|_| {
            unmount(rootfs);
        })?;
    }
    Ok(())
}

/// Takes every mount away. There may be none.
pub(crate) fn unmount(rootfs: &Path) {
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    while umount2(rootfs, flags).is_ok() {}
}

fn plan(options: &[String]) -> Result<Plan, RootfsError> {
    let (mut flags, mut propagation) = (MsFlags::empty(), MsFlags::empty());
    let mut data = Vec::new();
    for option in options {
        match flag(option) {
            Some((true, flag)) if PROPAGATION.intersects(flag) => propagation |= flag,
            Some((true, flag)) => flags |= flag,
            Some((false, flag)) => flags &= !flag,
            None if option == "loop" => return Err(RootfsError::Option(option.clone())),
            None => data.push(option.as_str()),
        }
    }
    let (folder, data) = shorten(&data);
    match data.len() > MAX_DATA {
        true => Err(RootfsError::TooLong(data.len())),
        false => Ok(Plan { flags, propagation, folder, data }),
    }
}

const PROPAGATION: MsFlags = MsFlags::MS_PRIVATE
    .union(MsFlags::MS_SHARED)
    .union(MsFlags::MS_SLAVE)
    .union(MsFlags::MS_UNBINDABLE);

/// The flag of an option, and whether it is set by it.
fn flag(option: &str) -> Option<(bool, MsFlags)> {
    Some(match option {
        "defaults" => (true, MsFlags::empty()),
        "ro" => (true, MsFlags::MS_RDONLY),
        "rw" => (false, MsFlags::MS_RDONLY),
        "bind" => (true, MsFlags::MS_BIND),
        "rbind" => (true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
        "remount" => (true, MsFlags::MS_REMOUNT),
        "nosuid" => (true, MsFlags::MS_NOSUID),
        "suid" => (false, MsFlags::MS_NOSUID),
        "nodev" => (true, MsFlags::MS_NODEV),
        "dev" => (false, MsFlags::MS_NODEV),
        "noexec" => (true, MsFlags::MS_NOEXEC),
        "exec" => (false, MsFlags::MS_NOEXEC),
        "noatime" => (true, MsFlags::MS_NOATIME),
        "atime" => (false, MsFlags::MS_NOATIME),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME),
        "diratime" => (false, MsFlags::MS_NODIRATIME),
        "relatime" => (true, MsFlags::MS_RELATIME),
        "norelatime" => (false, MsFlags::MS_RELATIME),
        "strictatime" => (true, MsFlags::MS_STRICTATIME),
        "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "private" => (true, MsFlags::MS_PRIVATE),
        "rprivate" => (true, MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
        "shared" => (true, MsFlags::MS_SHARED),
        "rshared" => (true, MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
        "slave" => (true, MsFlags::MS_SLAVE),
        "rslave" => (true, MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
        _ => return None,
    })
}

/// Joins the options. Where they are too long for a page, an overlay's layers are named from the
/// folder that they have in common.
fn shorten(data: &[&str]) -> (Option<PathBuf>, String) {
    let whole = data.join(",");
    let lower = data.iter().find_map(|option| option.strip_prefix("lowerdir="));
    let (true, Some(lower)) = (whole.len() > MAX_DATA, lower) else { return (None, whole) };
    let layers: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let common = layers[0].ancestors().skip(1).find(|folder| {
        folder.parent().is_some() && layers.iter().all(|layer| layer.starts_with(folder))
    });
    let Some(common) = common else { return (None, whole) };
    let below = layers.iter().filter_map(|layer| layer.strip_prefix(common).ok());
    let below: Vec<String> = below.map(|layer| layer.display().to_string()).collect();
    let relative = format!("lowerdir={}", below.join(":"));
    let short: Vec<&str> = data
        .iter()
        .map(|option| if option.starts_with("lowerdir=") { relative.as_str() } else { option })
        .collect();
    (Some(common.to_owned()), short.join(","))
}

fn perform(one: &Mount, plan: &Plan, rootfs: &Path) -> Result<(), RootfsError> {
    let failed = |source| RootfsError::Mount { kind: one.type_.clone(), source };
    let call = || {
        let data = (!plan.data.is_empty()).then_some(plan.data.as_str());
        mount(Some(one.source.as_str()), rootfs, Some(one.type_.as_str()), plan.flags, data)?;
        // A bind takes its other flags in a second step.
        if plan.flags.contains(MsFlags::MS_BIND) && plan.flags.contains(MsFlags::MS_RDONLY) {
            let again = plan.flags | MsFlags::MS_REMOUNT;
            mount(None::<&str>, rootfs, None::<&str>, again, None::<&str>)?;
        }
        if !plan.propagation.is_empty() {
            mount(None::<&str>, rootfs, None::<&str>, plan.propagation, None::<&str>)?;
        }
        Ok(())
    };
    match &plan.folder {
        None => call(),
        Some(folder) => inside(folder, call),
    }
    .map_err(failed)
}

/// Calls with another working folder, in a thread that has one of its own.
fn inside(folder: &Path, call: impl FnOnce() -> Result<(), Errno> + Send) -> Result<(), Errno> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(folder)?;
            call()
        });
        thread.join().unwrap_or(Err(Errno::EIO))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(options: &[&str]) -> Vec<String> {
        options.iter().map(|&option| option.to_owned()).collect()
    }

    #[test]
    fn flags_are_flags_and_the_rest_is_the_file_system_s() {
        let plan = plan(&owned(&["ro", "nosuid", "upperdir=/u", "rprivate", "suid", "x=y"]));
        let plan = plan.unwrap();
        assert_eq!(plan.flags, MsFlags::MS_RDONLY);
        assert_eq!(plan.propagation, MsFlags::MS_PRIVATE | MsFlags::MS_REC);
        assert_eq!((&*plan.data, plan.folder), ("upperdir=/u,x=y", None));
    }

    #[test]
    fn a_hundred_layers_are_named_from_their_common_folder() {
        let folder = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
        let layers: Vec<String> = (0..100).map(|n| format!("{folder}/{n}/fs")).collect();
        let options = owned(&[&format!("lowerdir={}", layers.join(":")), "index=off"]);
        let plan = plan(&options).unwrap();
        assert_eq!(plan.folder, Some(folder.into()));
        assert!(plan.data.starts_with("lowerdir=0/fs:1/fs:"), "{}", plan.data);
        assert!(plan.data.ends_with(":99/fs,index=off"));
    }

    #[test]
    fn what_cannot_be_mounted_is_refused_by_its_name() {
        let error = plan(&owned(&["loop"])).unwrap_err();
        assert!(error.to_string().contains("loop"), "{error}");
        let long = format!("lowerdir=/{}:/b", "a".repeat(5000));
        assert!(matches!(plan(&[long]), Err(RootfsError::TooLong(_))));
    }
}
