//! What every configuration must satisfy, in whatever sandbox: a table of rules, each of which
//! names the property that breaks it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

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
    /// A list without an element.
    #[error("{path} is empty")]
    Empty {
        /// Which.
        path: &'static str,
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
    /// A container without a mount namespace would mount on the host.
    #[error("linux.namespaces has no mount namespace")]
    NoMountNamespace,
    /// Mappings for a user namespace that is not asked for.
    #[error("{path} is there without a user namespace in linux.namespaces")]
    MappingWithoutNamespace {
        /// Which.
        path: &'static str,
    },
    /// A user namespace of its own needs its mappings.
    #[error("linux.namespaces has a new user namespace, but {path} is missing")]
    NamespaceWithoutMapping {
        /// Which.
        path: &'static str,
    },
}

type Rule = fn(&Spec) -> Result<(), InvalidSpec>;

const RULES: [Rule; 9] =
    [version, foreign, root, has_process, has_linux, mounts, namespaces, user_namespace, hooks];

/// Checks every rule.
///
/// # Errors
/// The first property that is wrong.
pub fn check(spec: &Spec) -> Result<(), InvalidSpec> {
    RULES.iter().try_for_each(|rule| rule(spec))
}

/// The rules for a process, be it the container's first or another.
///
/// # Errors
/// The first property that is wrong.
pub fn check_process(process: &Process) -> Result<(), InvalidSpec> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        return Err(InvalidSpec::Empty { path: "process.args" });
    }
    absolute("process.cwd", process.cwd())?;
    no_nul("process.args", args)?;
    no_nul("process.env", process.env().as_deref().unwrap_or_default())
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
        Some(root) if !root.path().as_os_str().is_empty() => Ok(()),
        Some(_) => Err(InvalidSpec::Empty { path: "root.path" }),
        None => Err(InvalidSpec::Missing { path: "root" }),
    }
}

fn has_process(spec: &Spec) -> Result<(), InvalidSpec> {
    check_process(spec.process().as_ref().ok_or(InvalidSpec::Missing { path: "process" })?)
}

fn has_linux(spec: &Spec) -> Result<(), InvalidSpec> {
    spec.linux().as_ref().map(|_| ()).ok_or(InvalidSpec::Missing { path: "linux" })
}

/// Mount targets without a leading slash are from the root: the specification says absolute, but
/// runc takes both, and engines rely on it. What must be is a target at all.
fn mounts(spec: &Spec) -> Result<(), InvalidSpec> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    if mounts.iter().any(|mount| mount.destination().as_os_str().is_empty()) {
        return Err(InvalidSpec::Empty { path: "mounts[].destination" });
    }
    Ok(())
}

fn namespaces(spec: &Spec) -> Result<(), InvalidSpec> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
    let namespaces = namespaces.unwrap_or_default();
    for (index, namespace) in namespaces.iter().enumerate() {
        let kind = namespace.typ();
        if namespaces.iter().take(index).any(|earlier| earlier.typ() == kind) {
            return Err(InvalidSpec::DuplicateNamespace { index, kind: namespace_name(kind) });
        }
        if let Some(path) = namespace.path() {
            absolute(&format!("linux.namespaces[{index}].path"), path)?;
        }
    }
    let has_mount = namespaces.iter().any(|entry| entry.typ() == LinuxNamespaceType::Mount);
    if has_mount { Ok(()) } else { Err(InvalidSpec::NoMountNamespace) }
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
    for (path, mapping) in mappings {
        match (user, mapping.is_empty()) {
            (None, false) => return Err(InvalidSpec::MappingWithoutNamespace { path }),
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
            absolute(&format!("hooks.{name}[{index}].path"), hook.path())?;
        }
    }
    Ok(())
}

fn absolute(path: &str, value: &Path) -> Result<(), InvalidSpec> {
    if value.is_absolute() {
        return Ok(());
    }
    Err(InvalidSpec::NotAbsolute { path: path.to_owned(), value: value.to_path_buf() })
}

fn no_nul(path: &str, texts: &[String]) -> Result<(), InvalidSpec> {
    match texts.iter().position(|text| text.contains('\0')) {
        Some(index) => Err(InvalidSpec::Nul { path: format!("{path}[{index}]") }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The template with one value replaced (or removed, by null), checked.
    fn check_with(pointer: &str, value: Value) -> Result<(), InvalidSpec> {
        let mut document: Value = serde_json::from_str(crate::spec::template::ROOTFUL).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = document.pointer_mut(parent).unwrap();
        match (parent, value) {
            (Value::Object(object), Value::Null) => {
                object.remove(key);
            }
            (Value::Object(object), value) => {
                object.insert(key.to_owned(), value);
            }
            (other, value) => other[key.parse::<usize>().unwrap()] = value,
        }
        check(&serde_json::from_value(document).unwrap())
    }

    fn refusal(pointer: &str, value: Value) -> String {
        check_with(pointer, value).unwrap_err().to_string()
    }

    #[test]
    fn the_template_passes() {
        check_with("/hostname", json!("x")).unwrap();
    }

    #[test]
    fn versions_up_to_the_newest_known_pass() {
        for version in ["1.0.0", "1.0.2-dev", "1.1.0-rc.2", "1.2.1", "1.3.0+dev"] {
            check_with("/ociVersion", json!(version)).unwrap();
        }
        for version in ["", "1", "1.2", "0.9.0", "2.0.0", "1.4.0", "1.x.0", "one"] {
            let expected = format!("ociVersion {version:?} is not supported: 1.0.0 to 1.3 are");
            assert_eq!(refusal("/ociVersion", json!(version)), expected);
        }
    }

    #[test]
    fn what_is_missing_or_empty_is_named() {
        assert_eq!(refusal("/root", json!(null)), "root is missing");
        assert_eq!(refusal("/root/path", json!("")), "root.path is empty");
        assert_eq!(refusal("/process", json!(null)), "process is missing");
        assert_eq!(refusal("/process/args", json!([])), "process.args is empty");
        assert_eq!(refusal("/process/args", json!(null)), "process.args is empty");
        assert_eq!(refusal("/linux", json!(null)), "linux is missing");
    }

    #[test]
    fn sections_for_other_systems_are_refused_by_name() {
        let refused = refusal("/windows", json!({"layerFolders": []}));
        assert!(refused.starts_with("windows is not for"), "{refused}");
    }

    #[test]
    fn what_must_be_absolute_is() {
        assert_eq!(
            refusal("/process/cwd", json!("home")),
            "process.cwd is \"home\", which is not an absolute path"
        );
        assert_eq!(
            refusal("/hooks", json!({"poststop": [{"path": "/ok"}, {"path": "x"}]})),
            "hooks.poststop[1].path is \"x\", which is not an absolute path"
        );
    }

    #[test]
    fn a_nul_is_refused_by_its_place() {
        assert_eq!(
            refusal("/process/args", json!(["a", "b\0"])),
            "process.args[1] has a NUL in it"
        );
    }

    #[test]
    fn namespaces_are_unique_and_include_mount() {
        assert_eq!(
            refusal(
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "pid"}, {"type": "pid"}])
            ),
            "linux.namespaces[2] is a second pid namespace"
        );
        assert_eq!(
            refusal("/linux/namespaces", json!([{"type": "pid"}])),
            "linux.namespaces has no mount namespace"
        );
    }

    #[test]
    fn mappings_and_user_namespace_come_together() {
        let mapping = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        assert_eq!(
            refusal("/linux/uidMappings", mapping),
            "linux.uidMappings is there without a user namespace in linux.namespaces"
        );
        assert_eq!(
            refusal("/linux/namespaces", json!([{"type": "mount"}, {"type": "user"}])),
            "linux.namespaces has a new user namespace, but linux.uidMappings is missing"
        );
    }
}
