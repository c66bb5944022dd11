use serde_json::{Value, json};

use super::*;

const FACTS: HostFacts =
    HostFacts { pids_controller: true, memory_controller: true, device_rules: true };

fn spec(linux: Value, process: Value) -> Spec {
    let mut all = json!({
        "ociVersion": "1.0.2",
        "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh"]},
        "linux": linux,
    });
    for (key, value) in process.as_object().unwrap() {
        all["process"][key] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn bare() -> Spec {
    spec(json!({"namespaces": [{"type": "mount"}, {"type": "pid"}]}), json!({}))
}

fn hardened(spec: &Spec) -> Hardened {
    harden(spec, &NamespaceConfig::default(), FACTS)
}

#[test]
fn a_spec_that_leaves_everything_open_gets_everything() {
    let hardened = hardened(&bare());
    insta::assert_json_snapshot!(
        "bare",
        json!({
            "added": hardened.added,
            "omitted": hardened.omitted,
            "process": hardened.spec.process(),
            "namespaces": hardened.spec.linux().as_ref().unwrap().namespaces(),
            "resources": hardened.spec.linux().as_ref().unwrap().resources(),
            "maskedPaths": hardened.spec.linux().as_ref().unwrap().masked_paths(),
            "readonlyPaths": hardened.spec.linux().as_ref().unwrap().readonly_paths(),
        })
    );
}

#[test]
fn what_the_spec_says_stays() {
    let said = spec(
        json!({
            "namespaces": [{"type": "mount"}, {"type": "cgroup"}],
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
            "maskedPaths": [],
            "readonlyPaths": [],
            "resources": {
                "devices": [{"allow": true, "access": "rwm"}],
                "pids": {"limit": -1},
            },
        }),
        json!({"noNewPrivileges": false}),
    );
    let hardened = hardened(&said);
    assert_eq!(hardened.added, Vec::<&str>::new());
    assert_eq!(hardened.spec, said);
}

#[test]
fn hardening_what_is_hardened_changes_nothing() {
    let once = hardened(&bare());
    let twice = hardened(&once.spec);
    assert_eq!(twice.added, Vec::<&str>::new());
    assert_eq!(twice.spec, once.spec);
}

#[test]
fn each_switch_of_the_configuration_leaves_its_addition_out() {
    let off = NamespaceConfig {
        pids_limit: 0,
        memory_mib: 0,
        seccomp: false,
        no_new_privileges: false,
        masked_paths: false,
        cgroup_namespace: false,
    };
    assert_eq!(harden(&bare(), &off, FACTS).added, ["device allow-list"]);
}

#[test]
fn capabilities_are_cut_to_those_that_the_lists_agree_on() {
    let said = spec(
        json!({}),
        json!({"capabilities": {
            "bounding": ["CAP_KILL", "CAP_CHOWN"],
            "permitted": ["CAP_KILL", "CAP_SYS_ADMIN"],
            "effective": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_KILL", "CAP_CHOWN"],
            "ambient": ["CAP_KILL"],
        }}),
    );
    let hardened = hardened(&said);
    let capabilities = hardened.spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    let only_kill = Some(Capabilities::from([Capability::Kill]));
    assert_eq!(capabilities.permitted(), &only_kill);
    assert_eq!(capabilities.effective(), &only_kill);
    assert_eq!(capabilities.inheritable(), &only_kill);
    assert!(hardened.added.contains(&"capabilities"));
}

#[test]
fn a_device_of_the_spec_stays_usable() {
    let said = spec(
        json!({"devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]}),
        json!({}),
    );
    let hardened = hardened(&said);
    let linux = hardened.spec.linux().as_ref().unwrap();
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    assert!(!rules[0].allow());
    assert_eq!((rules[1].allow(), rules[1].minor()), (true, Some(229)));
}

#[test]
fn a_fifo_gets_no_rule_and_an_unbuffered_device_that_of_a_character_device() {
    let said = spec(
        json!({"devices": [
            {"path": "/dev/pipe", "type": "p"},
            {"path": "/dev/raw", "type": "u", "major": 10, "minor": 229},
        ]}),
        json!({}),
    );
    let hardened = hardened(&said);
    let linux = hardened.spec.linux().as_ref().unwrap();
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    assert_eq!(rules.len(), 2);
    assert_eq!((rules[1].typ(), rules[1].minor()), (Some(LinuxDeviceType::C), Some(229)));
}

#[test]
fn an_administrator_gets_no_mask_that_it_could_take_off() {
    let said = spec(
        json!({"namespaces": [{"type": "mount"}]}),
        json!({"capabilities": {"bounding": ["CAP_SYS_ADMIN"]}}),
    );
    let hardened = hardened(&said);
    assert!(!hardened.added.contains(&"masked paths"));
    assert!(hardened.added.contains(&"seccomp"));
    assert!(hardened.omitted.iter().any(|o| o.starts_with("masked paths")));
}

#[test]
fn a_host_without_the_controller_gets_no_limit_and_says_so() {
    let facts = HostFacts { pids_controller: false, memory_controller: false, device_rules: true };
    let config = NamespaceConfig { memory_mib: 64, ..NamespaceConfig::default() };
    let hardened = harden(&bare(), &config, facts);
    assert!(!hardened.added.contains(&"pids limit"));
    assert!(hardened.omitted.iter().any(|o| o.starts_with("pids limit")));
    assert!(hardened.omitted.iter().any(|o| o.starts_with("memory limit")));
}

#[test]
fn the_host_s_mounted_hierarchy_keeps_its_meaning() {
    let mut said = bare();
    said.set_mounts(
        serde_json::from_value(json!([
            {"destination": "/sys/fs/cgroup", "type": "bind", "source": "/sys/fs/cgroup",
             "options": ["rbind", "ro"]},
        ]))
        .unwrap(),
    );
    assert!(!hardened(&said).added.contains(&"cgroup namespace"));
}

#[test]
fn compat_adds_nothing() {
    let unchanged = Hardened::unchanged(&bare());
    assert_eq!(unchanged.spec, bare());
    assert!(unchanged.added.is_empty());
}
