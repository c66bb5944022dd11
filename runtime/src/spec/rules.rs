//! What every configuration must satisfy, in whatever sandbox: a table of rules, each of which
//! names the property that breaks it, its value, and what is allowed.
//!
//! What has the wrong type, or is no name that the specification knows, has been refused by the
//! parser already, with the same three. What one kind of sandbox cannot do is that kind's to refuse.
//! Where the specification is stricter than runc and engines rely on that, runc is followed; the
//! rule says so.

mod linux;
mod mounts;
mod process;
mod resources;
mod seccomp;
mod value;

use std::path::PathBuf;

use oci_spec::runtime::{Hook, LinuxNamespaceType, Spec};

use value::{absolute, no_nul, text};

pub use process::check_process;
pub use resources::check_resources;

/// The newest minor version of the runtime specification whose properties are all known here.
const NEWEST_MINOR: u64 = 3;

/// Which property is wrong, by its JSON path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// `ociVersion`.
    #[error("ociVersion {found:?} is not supported: 1.0.0 to 1.{NEWEST_MINOR} are")]
    Version {
        /// What it is.
        found: String,
    },
    /// A section for another operating system, or for another's virtual machines.
    #[error("{path} is not for containers on Linux, or shaped by the operator's configuration")]
    Foreign {
        /// Which.
        path: &'static str,
    },
    /// A property that a container cannot be without.
    #[error("{path} is missing")]
    Missing {
        /// Which.
        path: &'static str,
    },
    /// A value that nothing can be done with.
    #[error("{path} is {value}; allowed is {allowed}")]
    Value {
        /// Which.
        path: String,
        /// What it is, as JSON would have it.
        value: String,
        /// What could be there.
        allowed: &'static str,
    },
    /// A property that means nothing without another.
    #[error("{path} is there without {needed}")]
    Without {
        /// Which.
        path: String,
        /// What it needs.
        needed: &'static str,
    },
    /// A list without an element.
    #[error("{path} is empty")]
    Empty {
        /// Which.
        path: String,
    },
    /// A path that must begin with a slash.
    #[error("{path} is {value:?}, which is not an absolute path")]
    NotAbsolute {
        /// Which.
        path: String,
        /// What it is.
        value: PathBuf,
    },
    /// A text that no system call takes.
    #[error("{path} has a NUL in it")]
    Nul {
        /// Which.
        path: String,
    },
    /// Two namespaces of one type.
    #[error("linux.namespaces[{index}] is a second {kind} namespace")]
    DuplicateNamespace {
        /// The second one.
        index: usize,
        /// Its type.
        kind: &'static str,
    },
    /// A container without a mount namespace would mount on the host: with `--compat` it may, in
    /// namespaces and as the host's own root user.
    #[error("linux.namespaces has no mount namespace")]
    NoMountNamespace,
    /// A user namespace of its own needs its mappings.
    #[error("linux.namespaces has a new user namespace, but {path} is missing")]
    NamespaceWithoutMapping {
        /// Which.
        path: &'static str,
    },
}

type Rule = fn(&Spec) -> Result<(), InvalidSpec>;

const RULES: [Rule; 15] = [
    version,
    foreign,
    root,
    annotations,
    has_process,
    has_linux,
    mounts::check,
    namespaces,
    names,
    user_namespace,
    hooks,
    linux::check,
    seccomp::check,
    resources::check,
    own_mounts,
];

/// Checks every rule.
///
/// # Errors
/// The first property that is wrong.
pub fn check(spec: &Spec) -> Result<(), InvalidSpec> {
    RULES.iter().try_for_each(|rule| rule(spec))
}

/// As runc: a masked or read-only path that does not begin with a slash is one from the root. The
/// specification forbids it.
pub fn complete_paths(spec: &mut Spec) {
    let Some(linux) = spec.linux_mut() else { return };
    let completed = |paths: Option<Vec<String>>| {
        let complete = |path: String| {
            if path.is_empty() || path.starts_with('/') {
                return path;
            }
            tracing::debug!("{path:?} is not an absolute path: taken for /{path}");
            format!("/{path}")
        };
        paths.map(|paths| paths.into_iter().map(complete).collect())
    };
    linux.set_masked_paths(completed(linux.masked_paths().clone()));
    linux.set_readonly_paths(completed(linux.readonly_paths().clone()));
}

fn version(spec: &Spec) -> Result<(), InvalidSpec> {
    let found = spec.version();
    let mut parts = found.split(['.', '-', '+']);
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
    match (number(), number(), number()) {
        (Some(1), Some(0..=NEWEST_MINOR), Some(_)) => Ok(()),
        _ => Err(InvalidSpec::Version { found: found.chars().take(64).collect() }),
    }
}

fn foreign(spec: &Spec) -> Result<(), InvalidSpec> {
    let sections = [
        ("windows", spec.windows().is_some()),
        ("solaris", spec.solaris().is_some()),
        ("zos", spec.zos().is_some()),
        ("vm", spec.vm().is_some()),
    ];
    match sections.into_iter().find(|(_, there)| *there) {
        Some((path, _)) => Err(InvalidSpec::Foreign { path }),
        None => Ok(()),
    }
}

fn root(spec: &Spec) -> Result<(), InvalidSpec> {
    match spec.root() {
        Some(root) => text("root.path", &root.path().to_string_lossy()),
        None => Err(InvalidSpec::Missing { path: "root" }),
    }
}

fn has_process(spec: &Spec) -> Result<(), InvalidSpec> {
    check_process(spec.process().as_ref().ok_or(InvalidSpec::Missing { path: "process" })?)
}

fn has_linux(spec: &Spec) -> Result<(), InvalidSpec> {
    spec.linux().as_ref().map(|_| ()).ok_or(InvalidSpec::Missing { path: "linux" })
}

/// The kernel takes 64 bytes. As with runc, a name needs a namespace to be set in: the host's is
/// not the container's to change.
fn names(spec: &Spec) -> Result<(), InvalidSpec> {
    const MAX_NAME: usize = 64;
    for (path, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else { continue };
        no_nul(path, name)?;
        if name.len() > MAX_NAME {
            return Err(value::refused(path, name, "at most 64 bytes"));
        }
        if !has_namespace(spec, LinuxNamespaceType::Uts) {
            let needed = "a uts namespace in linux.namespaces";
            return Err(InvalidSpec::Without { path: path.to_owned(), needed });
        }
    }
    Ok(())
}

fn annotations(spec: &Spec) -> Result<(), InvalidSpec> {
    match spec.annotations().iter().flatten().find(|(key, _)| key.is_empty()) {
        Some(_) => Err(value::refused("annotations", "", "keys that are not empty")),
        None => Ok(()),
    }
}

/// Whether the container has a user namespace, its own or one that it joins.
#[must_use]
pub fn has_user_namespace(spec: &Spec) -> bool {
    has_namespace(spec, LinuxNamespaceType::User)
}

fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let linux = spec.linux().as_ref();
    let mut namespaces = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    namespaces.any(|namespace| namespace.typ() == kind)
}

fn namespaces(spec: &Spec) -> Result<(), InvalidSpec> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
    let namespaces = namespaces.unwrap_or_default();
    for (index, namespace) in namespaces.iter().enumerate() {
        let kind = namespace.typ();
        if namespaces.iter().take(index).any(|earlier| earlier.typ() == kind) {
            return Err(InvalidSpec::DuplicateNamespace { index, kind: namespace_name(kind) });
        }
        if let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            absolute(&format!("linux.namespaces[{index}].path"), path)?;
        }
    }
    Ok(())
}

/// The last rule: whoever lets such a container through knows that the rest was looked at.
fn own_mounts(spec: &Spec) -> Result<(), InvalidSpec> {
    if shares_mounts(spec) { Err(InvalidSpec::NoMountNamespace) } else { Ok(()) }
}

/// Whether the container would be in the mount namespace of whoever creates it.
#[must_use]
pub fn shares_mounts(spec: &Spec) -> bool {
    !has_namespace(spec, LinuxNamespaceType::Mount)
}

/// A namespace's type as the configuration writes it.
#[must_use]
pub const fn namespace_name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

fn user_namespace(spec: &Spec) -> Result<(), InvalidSpec> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let mut namespaces = linux.namespaces().as_deref().unwrap_or_default().iter();
    let user = namespaces.find(|entry| entry.typ() == LinuxNamespaceType::User);
    let mappings = [
        ("linux.uidMappings", linux.uid_mappings().as_deref().unwrap_or_default()),
        ("linux.gidMappings", linux.gid_mappings().as_deref().unwrap_or_default()),
    ];
    for (path, list) in mappings {
        mounts::mappings(path, list)?;
        match (user, list.is_empty()) {
            (None, false) => {
                let needed = "a user namespace in linux.namespaces";
                return Err(InvalidSpec::Without { path: path.to_owned(), needed });
            }
            (Some(new), true) if new.path().is_none() => {
                return Err(InvalidSpec::NamespaceWithoutMapping { path });
            }
            (None | Some(_), _) => {}
        }
    }
    Ok(())
}

fn hooks(spec: &Spec) -> Result<(), InvalidSpec> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    #[allow(deprecated, reason = "engines still write prestart hooks")]
    let prestart = hooks.prestart();
    let lists = [
        ("prestart", prestart),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (name, list) in lists {
        for (index, hook) in list.as_deref().unwrap_or_default().iter().enumerate() {
            check_hook(&format!("hooks.{name}[{index}]"), hook)?;
        }
    }
    Ok(())
}

fn check_hook(path: &str, hook: &Hook) -> Result<(), InvalidSpec> {
    absolute(&format!("{path}.path"), hook.path())?;
    value::no_nuls(&format!("{path}.args"), hook.args().as_deref())?;
    value::no_nuls(&format!("{path}.env"), hook.env().as_deref())?;
    match hook.timeout() {
        Some(seconds) if !(1..=i64::from(u32::MAX)).contains(&seconds) => {
            Err(value::number(&format!("{path}.timeout"), seconds, "1 to 4294967295 seconds"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
