//! Every field of the OCI runtime specification for Linux, and who does what it says: one
//! declarative table, from which `docs/oci.md` is made.
//!
//! The tables of what is refused ([`crate::plan::unsupported`] and that of namespaces) are code,
//! because most of them look at values. A test gives both a configuration with every field set and
//! holds them to this table; another holds the table to the types of `oci-spec`, so that no field
//! is missing. What is checked whatever the sandbox is in [`super::rules`].

mod processes;
mod resources;
mod sections;
mod values;

/// What a field, or a value of a field, gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// The agent or the guest's kernel does it.
    Guest,
    /// The runtime, the monitor or the host's kernel does it.
    Host,
    /// Both, so that it holds twice.
    Both,
    /// Nothing needs to be done, and why.
    Void(&'static str),
    /// The host does it where it can, else it is refused; what it takes.
    Where(&'static str),
    /// An error that names the field, and why.
    Refused(&'static str),
}

/// A field by its JSON path: `[]` for each element of a list, `*` for each key of a map.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Where it is in `config.json`.
    pub path: &'static str,
    /// In a microVM.
    pub microvm: Treatment,
    /// In namespaces.
    pub namespace: Treatment,
}

/// A value that is treated otherwise than the rest of its field.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// Where it is in `config.json`.
    pub path: &'static str,
    /// Which value, in words.
    pub value: &'static str,
    /// A configuration that has it, as a patch (RFC 7396) of an ordinary one.
    pub patch: &'static str,
    /// In a microVM.
    pub microvm: Treatment,
    /// In namespaces.
    pub namespace: Treatment,
}

/// Every field, in the order of the specification.
pub const FIELDS: [&[Field]; 3] = [sections::FIELDS, processes::FIELDS, resources::FIELDS];

/// Every value that differs from its field.
pub const VALUES: &[Value] = values::VALUES;

/// Devices, caches, processors.
pub const HOST_HARDWARE: &str = "it is about the host's hardware, which a guest does not see";
/// File systems with a device or a server.
pub const FOREIGN_MOUNT: &str =
    "only bind, proc, sysfs, tmpfs, devpts, mqueue and cgroup mounts are to be had in a guest";
/// The host's namespaces by default.
pub const OWN_KERNEL: &str = "a guest has a kernel of its own and cannot share the host's";
/// The host's namespaces by name.
pub const JOINING: &str = "joining a namespace of the host is not possible from a guest";
/// The host's network by default.
pub const HOST_NETWORK: &str =
    "the host's network cannot be had in a microVM: a guest has a network stack of its own";
/// `linux.personality.flags`.
pub const NO_PERSONALITY_FLAGS: &str = "the specification names no flag";
/// AppArmor, SELinux.
pub const NO_SECURITY_MODULE: &str = "the guest kernel has no such security module";
/// Huge pages of other processors.
pub const OTHER_PAGES: &str = "a guest has pages of 2MB and 1GB";
/// Windows and others.
pub const OTHER_PLATFORM: &str = "it is for another platform";
/// What only the first version could.
pub const NOT_IN_VERSION_TWO: &str = "cgroup version 2, which the guest has, cannot do it";
/// `createContainer`.
pub const HOST_PROGRAM: &str = "it is a program of the host that runs in the container's \
                                namespaces, and these are in the guest";
/// `SCMP_ACT_NOTIFY`.
pub const HOST_LISTENER: &str = "its listener is a process of the host";

const fn field(path: &'static str, microvm: Treatment, namespace: Treatment) -> Field {
    Field { path, microvm, namespace }
}
