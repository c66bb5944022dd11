//! Mount option strings to kernel flags, with the meaning that mount(8) and the runtime
//! specification give them.

use nix::libc;
use oci_spec::runtime::Mount;

/// What the options of one mount say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// `MS_*`, `MS_BIND` and `MS_REC` among them.
    pub(crate) flags: u64,
    /// `MS_*` that the options take away by name: `exec`, `suid`.
    pub(crate) cleared: u64,
    /// `MOUNT_ATTR_*` for the whole tree.
    pub(crate) recursive_attributes: u64,
    /// `MOUNT_ATTR_*` taken away from the whole tree.
    pub(crate) recursive_cleared: u64,
    /// One `mount(2)` call for each.
    pub(crate) propagation: Vec<u64>,
    /// `tmpcopyup`.
    pub(crate) copy_up: bool,
    /// The file system's own options, joined by commas.
    pub(crate) data: String,
    /// An option that asks for mapped owners.
    pub(crate) idmap: Option<String>,
}

enum Meaning {
    Set(u64),
    Clear(u64),
    SetTree(u64),
    ClearTree(u64),
    Propagation(u64),
    CopyUp,
    Idmap,
    Data,
}

/// All access-time modes are one field of `struct mount_attr`.
const ATTR_ATIME: u64 = libc::MOUNT_ATTR__ATIME;

impl MountOptions {
    /// Reads the options of a mount.
    pub(crate) fn of(mount: &Mount) -> Self {
        Self::parse(mount.options().as_deref().unwrap_or_default())
    }

    /// Reads the options, in order: a later one overrides an earlier one.
    pub(crate) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        let mut data: Vec<&str> = Vec::new();
        for option in options {
            match meaning(option) {
                Meaning::Set(flags) => {
                    parsed.flags |= flags;
                    parsed.cleared &= !flags;
                }
                Meaning::Clear(flags) => {
                    parsed.flags &= !flags;
                    parsed.cleared |= flags;
                }
                Meaning::SetTree(attributes) => parsed.set_tree(attributes),
                Meaning::ClearTree(attributes) => parsed.clear_tree(attributes),
                Meaning::Propagation(flags) => parsed.propagation.push(flags),
                Meaning::CopyUp => parsed.copy_up = true,
                Meaning::Idmap => parsed.idmap = Some(option.clone()),
                Meaning::Data => data.push(option),
            }
        }
        parsed.data = data.join(",");
        parsed
    }

    /// All access-time modes are one field, which the kernel wants cleared before it is set.
    const fn set_tree(&mut self, attributes: u64) {
        let field = if attributes & ATTR_ATIME != 0 { ATTR_ATIME } else { 0 };
        self.recursive_attributes = self.recursive_attributes & !field | attributes;
        self.recursive_cleared = self.recursive_cleared & !attributes | field;
    }

    const fn clear_tree(&mut self, attributes: u64) {
        self.recursive_attributes &= !attributes;
        self.recursive_cleared |= attributes;
    }

    /// Whether the options say that this is a bind mount.
    pub(crate) const fn is_bind(&self) -> bool {
        self.flags & libc::MS_BIND != 0
    }

    /// Whether what is mounted below the source comes along.
    pub(crate) const fn is_recursive(&self) -> bool {
        self.flags & libc::MS_REC != 0
    }

    /// The flags without those that say what kind of call it is.
    pub(crate) const fn attributes(&self) -> u64 {
        self.flags & !(libc::MS_BIND | libc::MS_REC | libc::MS_REMOUNT)
    }
}

fn meaning(option: &str) -> Meaning {
    flag(option).or_else(|| tree_attribute(option)).or_else(|| propagation(option)).unwrap_or(
        match option {
            "tmpcopyup" => Meaning::CopyUp,
            "idmap" | "ridmap" => Meaning::Idmap,
            _ => Meaning::Data,
        },
    )
}

fn flag(option: &str) -> Option<Meaning> {
    use Meaning::{Clear, Set};
    // Not in the libc crate: `MS_NOSYMFOLLOW` of linux/mount.h.
    const MS_NOSYMFOLLOW: u64 = 1 << 8;
    Some(match option {
        "" | "defaults" => Set(0),
        "async" => Clear(libc::MS_SYNCHRONOUS),
        "atime" => Clear(libc::MS_NOATIME),
        "bind" => Set(libc::MS_BIND),
        "dev" => Clear(libc::MS_NODEV),
        "diratime" => Clear(libc::MS_NODIRATIME),
        "dirsync" => Set(libc::MS_DIRSYNC),
        "exec" => Clear(libc::MS_NOEXEC),
        "iversion" => Set(libc::MS_I_VERSION),
        "lazytime" => Set(libc::MS_LAZYTIME),
        "loud" => Clear(libc::MS_SILENT),
        "mand" => Set(libc::MS_MANDLOCK),
        "noatime" => Set(libc::MS_NOATIME),
        "nodev" => Set(libc::MS_NODEV),
        "nodiratime" => Set(libc::MS_NODIRATIME),
        "noexec" => Set(libc::MS_NOEXEC),
        "noiversion" => Clear(libc::MS_I_VERSION),
        "nolazytime" => Clear(libc::MS_LAZYTIME),
        "nomand" => Clear(libc::MS_MANDLOCK),
        "norelatime" => Clear(libc::MS_RELATIME),
        "nostrictatime" => Clear(libc::MS_STRICTATIME),
        "nosuid" => Set(libc::MS_NOSUID),
        "nosymfollow" => Set(MS_NOSYMFOLLOW),
        "rbind" => Set(libc::MS_BIND | libc::MS_REC),
        "relatime" => Set(libc::MS_RELATIME),
        "remount" => Set(libc::MS_REMOUNT),
        "ro" => Set(libc::MS_RDONLY),
        "rw" => Clear(libc::MS_RDONLY),
        "silent" => Set(libc::MS_SILENT),
        "strictatime" => Set(libc::MS_STRICTATIME),
        "suid" => Clear(libc::MS_NOSUID),
        "symfollow" => Clear(MS_NOSYMFOLLOW),
        "sync" => Set(libc::MS_SYNCHRONOUS),
        _ => return None,
    })
}

/// The options that `mount_setattr(AT_RECURSIVE)` gave names to.
fn tree_attribute(option: &str) -> Option<Meaning> {
    use Meaning::{ClearTree, SetTree};
    // Not in the libc crate: `MOUNT_ATTR_NOSYMFOLLOW` of linux/mount.h.
    const NOSYMFOLLOW: u64 = 0x0020_0000;
    Some(match option {
        "rro" => SetTree(libc::MOUNT_ATTR_RDONLY),
        "rrw" => ClearTree(libc::MOUNT_ATTR_RDONLY),
        "rnosuid" => SetTree(libc::MOUNT_ATTR_NOSUID),
        "rsuid" => ClearTree(libc::MOUNT_ATTR_NOSUID),
        "rnodev" => SetTree(libc::MOUNT_ATTR_NODEV),
        "rdev" => ClearTree(libc::MOUNT_ATTR_NODEV),
        "rnoexec" => SetTree(libc::MOUNT_ATTR_NOEXEC),
        "rexec" => ClearTree(libc::MOUNT_ATTR_NOEXEC),
        "rnodiratime" => SetTree(libc::MOUNT_ATTR_NODIRATIME),
        "rdiratime" => ClearTree(libc::MOUNT_ATTR_NODIRATIME),
        "rnosymfollow" => SetTree(NOSYMFOLLOW),
        "rsymfollow" => ClearTree(NOSYMFOLLOW),
        "rnoatime" => SetTree(libc::MOUNT_ATTR_NOATIME),
        "rstrictatime" => SetTree(libc::MOUNT_ATTR_STRICTATIME),
        // Relative access times are the field's zero and every mount's default.
        "ratime" | "rrelatime" | "rnorelatime" | "rnostrictatime" => ClearTree(ATTR_ATIME),
        _ => return None,
    })
}

/// Propagation types, as options of a mount and as `linux.rootfsPropagation`.
fn propagation(option: &str) -> Option<Meaning> {
    propagation_flags(option).map(Meaning::Propagation)
}

/// The `mount(2)` flags of a propagation type.
pub(crate) fn propagation_flags(name: &str) -> Option<u64> {
    Some(match name {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        "rprivate" => libc::MS_PRIVATE | libc::MS_REC,
        "rshared" => libc::MS_SHARED | libc::MS_REC,
        "rslave" => libc::MS_SLAVE | libc::MS_REC,
        "runbindable" => libc::MS_UNBINDABLE | libc::MS_REC,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        MountOptions::parse(&options)
    }

    #[test]
    fn what_the_kernel_does_not_know_goes_to_the_file_system() {
        let parsed = parse(&["nosuid", "strictatime", "mode=755", "size=65536k"]);
        assert_eq!(parsed.flags, libc::MS_NOSUID | libc::MS_STRICTATIME);
        assert_eq!(parsed.data, "mode=755,size=65536k");
    }

    #[test]
    fn a_later_option_overrides_an_earlier_one() {
        assert_eq!(parse(&["ro", "noexec", "rw"]).flags, libc::MS_NOEXEC);
        assert_eq!(parse(&["rro", "rrw"]).recursive_attributes, 0);
        let atime = parse(&["rstrictatime", "rnoatime"]).recursive_attributes;
        assert_eq!(atime, libc::MOUNT_ATTR_NOATIME);
    }

    #[test]
    fn a_recursive_bind_is_a_bind_and_its_attributes_are_apart() {
        let parsed = parse(&["rbind", "ro", "rprivate"]);
        assert!(parsed.is_bind() && parsed.is_recursive());
        assert_eq!(parsed.attributes(), libc::MS_RDONLY);
        assert_eq!(parsed.propagation, [libc::MS_PRIVATE | libc::MS_REC]);
    }

    #[test]
    fn options_of_ours_alone_are_no_data() {
        let parsed = parse(&["tmpcopyup", "ridmap", "defaults", ""]);
        assert!(parsed.copy_up && parsed.data.is_empty());
        assert_eq!(parsed.idmap.as_deref(), Some("ridmap"));
    }
}
