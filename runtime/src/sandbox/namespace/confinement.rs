//! What a container may do, seen twice: what its configuration asked for, and what the kernel says
//! of its threads. Both are in an image, so that nothing comes back with fewer restrictions.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;

use oci_spec::runtime::{LinuxIdMapping, Mount, Spec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::process::{ProcessPlan, SeccompFile};
use crate::host::digest;

/// What `/proc/<pid>/status` has of a thread's privileges.
const PRIVILEGES: [&str; 11] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
];

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// What the configuration, hardened, asked for: by the names of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Confinement(BTreeMap<String, Value>);

impl Confinement {
    /// Of a container that is made with this plan for its process.
    ///
    /// # Errors
    /// When the compiled filter cannot be read.
    pub(super) fn of(spec: &Spec, process: &ProcessPlan) -> io::Result<Self> {
        let linux = spec.linux().as_ref();
        let paths = |paths: Option<&Vec<String>>| json!(paths.cloned().unwrap_or_default());
        let mappings =
            |list: Option<&Vec<LinuxIdMapping>>| json!(list.cloned().unwrap_or_default());
        let fields = [
            ("process.capabilities", json!(process.capabilities)),
            ("process.noNewPrivileges", json!(process.no_new_privileges)),
            ("process.apparmorProfile", json!(process.apparmor_profile)),
            ("linux.seccomp", json!(filter(process.seccomp.as_ref())?)),
            ("linux.maskedPaths", paths(linux.and_then(|l| l.masked_paths().as_ref()))),
            ("linux.readonlyPaths", paths(linux.and_then(|l| l.readonly_paths().as_ref()))),
            ("linux.uidMappings", mappings(linux.and_then(|l| l.uid_mappings().as_ref()))),
            ("linux.gidMappings", mappings(linux.and_then(|l| l.gid_mappings().as_ref()))),
            ("linux.namespaces", json!(namespaces(spec))),
            ("mounts", mounts(spec)),
            ("process.user", json!(spec.process().as_ref().map(|process| process.user()))),
            ("process.rlimits", json!(spec.process().as_ref().and_then(|p| p.rlimits().clone()))),
            ("linux.sysctl", json!(linux.and_then(|linux| linux.sysctl().clone()))),
            ("root.readonly", json!(spec.root().as_ref().and_then(|r| r.readonly()) == Some(true))),
        ];
        Ok(Self(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
    }

    /// The first field in which two differ.
    pub(super) fn difference<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let names = self.0.keys().chain(other.0.keys());
        names.map(String::as_str).find(|name| self.0.get(*name) != other.0.get(*name))
    }
}

fn filter(seccomp: Option<&SeccompFile>) -> io::Result<Option<String>> {
    let Some(file) = seccomp else { return Ok(None) };
    let text = digest::sha256(&mut File::open(&file.path)?)?;
    Ok(Some(format!("{text} {}", file.flags)))
}

/// Where each is and what it may be used for; where it comes from is the bundle's to say.
fn mounts(spec: &Spec) -> Value {
    let of = |mount: &Mount| json!([mount.destination(), mount.typ(), mount.options()]);
    spec.mounts().iter().flatten().map(of).collect()
}

/// Their kinds, and whether each is one that exists already.
fn namespaces(spec: &Spec) -> Vec<String> {
    let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let mut kinds: Vec<_> = all
        .into_iter()
        .flatten()
        .map(|one| format!("{}{}", one.typ(), if one.path().is_some() { " joined" } else { "" }))
        .collect();
    kinds.sort();
    kinds
}

/// What the kernel says of a container's processes: each thread by its number in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Observed {
    threads: BTreeMap<i32, BTreeMap<String, String>>,
    /// The namespaces of the first process that are not the caller's.
    namespaces: Vec<String>,
}

impl Observed {
    /// What is to be seen now of these processes, the first of them `init`.
    ///
    /// # Errors
    /// When the first process cannot be looked at.
    pub(super) fn now(init: i32, all: &[i32]) -> io::Result<Self> {
        let level = numbers(&fs::read_to_string(format!("/proc/{init}/status"))?).len();
        let mut threads = BTreeMap::new();
        for pid in all {
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                threads.extend(thread(&task.path(), level));
            }
        }
        let own = |kind: &&str| {
            let (theirs, ours) =
                (format!("/proc/{init}/ns/{kind}"), format!("/proc/self/ns/{kind}"));
            fs::read_link(theirs).ok() != fs::read_link(ours).ok()
        };
        let namespaces = NAMESPACES.into_iter().filter(own).map(str::to_owned).collect();
        Ok(Self { threads, namespaces })
    }

    /// Whether no thread could gain privileges.
    pub(super) fn gains_nothing(&self) -> bool {
        self.threads.values().all(|thread| thread.get("NoNewPrivs").is_some_and(|set| set == "1"))
    }

    /// The first thing that is not as it was saved, in words.
    pub(super) fn difference(&self, saved: &Self) -> Option<String> {
        if let Some(kind) = saved.namespaces.iter().find(|kind| !self.namespaces.contains(kind)) {
            return Some(format!("its {kind} namespace is the caller's"));
        }
        for (number, was) in &saved.threads {
            let Some(is) = self.threads.get(number) else {
                return Some(format!("there is no thread {number}"));
            };
            if let Some((name, was)) = was.iter().find(|(name, was)| is.get(*name) != Some(*was)) {
                let is = is.get(name).map_or("", String::as_str);
                return Some(format!("{name} of thread {number} is {is:?} and was {was:?}"));
            }
        }
        let new = self.threads.keys().find(|number| !saved.threads.contains_key(number));
        new.map(|number| format!("there is a thread {number} that was not saved"))
    }
}

/// A thread's number in the container and its privileges; none: it has ended.
fn thread(folder: &std::path::Path, level: usize) -> Option<(i32, BTreeMap<String, String>)> {
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let fields = || status.lines().filter_map(|line| line.split_once(':'));
    let state = fields().find(|(name, _)| *name == "State")?.1.trim();
    if state.starts_with(['Z', 'X']) {
        return None;
    }
    let number = *numbers(&status).get(level.checked_sub(1)?)?;
    let mut privileges: BTreeMap<String, String> = fields()
        .filter(|(name, _)| PRIVILEGES.contains(name))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    // Of a security module, where there is one.
    let label = fs::read_to_string(folder.join("attr/current")).unwrap_or_default();
    privileges.insert("label".to_owned(), label.trim_end_matches(['\0', '\n']).to_owned());
    Some((number, privileges))
}

/// A thread's numbers, from the caller's namespace to its own.
fn numbers(status: &str) -> Vec<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.unwrap_or_default().split_whitespace().filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed() -> Observed {
        let own = std::process::id().cast_signed();
        Observed::now(own, &[own]).unwrap()
    }

    #[test]
    fn what_did_not_change_is_the_same() {
        let saved = observed();
        assert!(saved.threads.values().all(|thread| thread.contains_key("Seccomp")));
        assert_eq!(saved.difference(&saved), None);
    }

    #[test]
    fn a_thread_with_other_privileges_is_named() {
        let saved = observed();
        let mut restored = saved.clone();
        let number = *restored.threads.keys().next().unwrap();
        let thread = restored.threads.get_mut(&number).unwrap();
        thread.insert("NoNewPrivs".to_owned(), "7".to_owned());
        let said = restored.difference(&saved).unwrap();
        assert!(said.contains("NoNewPrivs") && said.contains(&number.to_string()), "{said}");
    }

    #[test]
    fn a_namespace_that_is_not_the_container_s_any_more_is_named() {
        let mut saved = observed();
        let restored = saved.clone();
        saved.namespaces.push("net".to_owned());
        assert!(restored.difference(&saved).unwrap().contains("net namespace"));
    }

    #[test]
    fn another_configuration_is_named_by_its_field() {
        let of = |no_new_privileges| {
            let mut plan = ProcessPlan::from_spec(&Default::default(), None, None);
            plan.no_new_privileges = no_new_privileges;
            Confinement::of(&Spec::default(), &plan).unwrap()
        };
        assert_eq!(of(true).difference(&of(true)), None);
        assert_eq!(of(true).difference(&of(false)), Some("process.noNewPrivileges"));
    }

    #[test]
    fn a_restriction_that_the_bundle_adds_is_a_difference() {
        let of = |spec: Value| {
            let mut all = json!({ "ociVersion": "1.2.0" });
            all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let spec: Spec = serde_json::from_value(all).unwrap();
            let plan = ProcessPlan::from_spec(&Default::default(), None, None);
            Confinement::of(&spec, &plan).unwrap()
        };
        let bind = |source: &str, options: Value| {
            of(json!({ "mounts": [
                { "destination": "/d", "type": "bind", "source": source, "options": options }
            ] }))
        };
        let saved = bind("/here", json!(["bind"]));
        assert_eq!(saved.difference(&bind("/there", json!(["bind"]))), None);
        assert_eq!(saved.difference(&bind("/here", json!(["bind", "ro"]))), Some("mounts"));
        let limited = |soft: u64| {
            of(json!({ "process": {
                "cwd": "/", "user": { "uid": 0, "gid": 0 }, "args": ["sh"],
                "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 64, "soft": soft }]
            } }))
        };
        assert_eq!(limited(9).difference(&limited(9)), None);
        assert_eq!(limited(9).difference(&limited(8)), Some("process.rlimits"));
    }
}
