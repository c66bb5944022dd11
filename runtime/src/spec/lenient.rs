//! What the specification, or runc, does not take for a mistake although it names nothing that
//! there is: taken out of a document before it is read as what it should be.
//!
//! | there | becomes |
//! |---|---|
//! | a capability that Linux does not have | nothing, and a warning, as the specification demands |
//! | a process without `user` | user and group 0 |
//! | a scheduler flag by the specification's name | the name that `oci-spec` has for it |
//! | the letter `a` in what a device rule forbids | `rwm`: all of them |
//! | a namespace whose `path` is empty | one without `path`: a new one |
//!
//! A document without any of these is left as it is, so that errors in it have their place.

use oci_spec::runtime::Capability;
use serde_json::{Value, json};

/// The document without what is to be passed over; `None` where there is nothing of it.
pub(super) fn clean(document: Value) -> Option<Vec<u8>> {
    let mut value = document;
    let mut changed = false;
    if value.get("ociVersion").is_some() {
        if let Some(process) = value.get_mut("process") {
            changed |= clean_process(process);
        }
        changed |= clean_namespaces(&mut value);
        changed |= clean_device_rules(&mut value);
    } else if value.get("args").is_some() {
        changed |= clean_process(&mut value);
    }
    if changed { serde_json::to_vec(&value).ok() } else { None }
}

fn clean_process(process: &mut Value) -> bool {
    let Some(process) = process.as_object_mut() else { return false };
    let mut changed = false;
    if !process.contains_key("user") {
        process.insert("user".to_owned(), json!({"uid": 0, "gid": 0}));
        changed = true;
    }
    changed |= rename_scheduler_flags(process);
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    let mut unknown = std::collections::BTreeSet::new();
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        let Some(names) = set.as_array_mut() else { continue };
        names.retain(|name| match name.as_str() {
            Some(text) if !is_known(text) => {
                unknown.insert(text.to_owned());
                false
            }
            Some(_) | None => true,
        });
    }
    if !unknown.is_empty() {
        let unknown: Vec<_> = unknown.into_iter().collect();
        tracing::warn!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" "));
        changed = true;
    }
    changed
}

fn rename_scheduler_flags(process: &mut serde_json::Map<String, Value>) -> bool {
    let flags = process.get_mut("scheduler").and_then(|s| s.get_mut("flags"));
    let mut changed = false;
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let name = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
            Some(_) | None => continue,
        };
        *flag = Value::from(name);
        changed = true;
    }
    changed
}

fn is_known(capability: &str) -> bool {
    serde_json::from_value::<Capability>(Value::from(capability)).is_ok()
}

fn clean_namespaces(document: &mut Value) -> bool {
    let namespaces = document.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    let mut changed = false;
    for namespace in namespaces.into_iter().flatten() {
        if namespace.get("path").is_some_and(|path| path == "")
            && let Some(namespace) = namespace.as_object_mut()
        {
            namespace.remove("path");
            changed = true;
        }
    }
    changed
}

/// runc passes over the letter. In a rule that forbids it can only mean more.
fn clean_device_rules(document: &mut Value) -> bool {
    let rules = document.pointer_mut("/linux/resources/devices").and_then(Value::as_array_mut);
    let mut changed = false;
    for rule in rules.into_iter().flatten() {
        let forbids = rule.get("allow").is_some_and(|allow| allow == false);
        let access = rule.get("access").and_then(Value::as_str).unwrap_or_default();
        if forbids && access.contains('a') && access.chars().all(|letter| "arwm".contains(letter)) {
            rule["access"] = Value::from("rwm");
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(document: Value) -> Option<Value> {
        clean(document).map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn an_ordinary_document_is_left_as_it_is() {
        let template = serde_json::from_str(crate::spec::template::ROOTFUL).unwrap();
        assert_eq!(cleaned(template), None);
    }

    #[test]
    fn capabilities_that_are_none_are_passed_over() {
        let user = json!({"uid": 0, "gid": 0});
        let of = |names: &[&str]| {
            json!({
                "ociVersion": "1.0.2",
                "process": {"user": user, "capabilities": {"bounding": names}},
            })
        };
        assert_eq!(
            cleaned(of(&["CAP_KILL", "CAP_UNKNOWN", "UNKNOWN_CAP"])),
            Some(of(&["CAP_KILL"]))
        );
    }

    #[test]
    fn what_forbids_every_access_may_say_so_with_a_letter() {
        let of = |allow: bool, access: &str| {
            let rule = json!({"allow": allow, "type": "c", "major": 1, "access": access});
            json!({"ociVersion": "1.0.2", "linux": {"resources": {"devices": [rule]}}})
        };
        assert_eq!(cleaned(of(false, "rwa")), Some(of(false, "rwm")));
        assert_eq!(cleaned(of(false, "a")), Some(of(false, "rwm")));
        assert_eq!(cleaned(of(true, "rwa")), None);
        assert_eq!(cleaned(of(false, "rax")), None);
    }

    #[test]
    fn a_process_in_a_file_of_its_own_needs_no_user() {
        let process = cleaned(json!({"args": ["id"], "cwd": "/"})).unwrap();
        assert_eq!(process["user"], json!({"uid": 0, "gid": 0}));
    }

    #[test]
    fn a_namespace_with_an_empty_path_is_a_new_one() {
        let of =
            |namespace: Value| json!({"ociVersion": "1.0.2", "linux": {"namespaces": [namespace]}});
        assert_eq!(
            cleaned(of(json!({"type": "uts", "path": ""}))),
            Some(of(json!({"type": "uts"})))
        );
    }
}
