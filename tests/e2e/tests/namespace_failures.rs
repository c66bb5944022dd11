//! A create that fails, at every stage that `libcontainer` has: it says why, and nothing is left.

use cofferdam_e2e::{Bundle, Leftovers, Runtime};
use serde_json::{Value, json};

/// Runs a bundle that is changed so that it cannot be made.
fn fails(change: impl FnOnce(&mut Value), words: &[&str]) {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let bundle = Bundle::busybox(&["sleep", "1000"]).edit(change);
    runtime.run(&bundle).exits(1).complains(words);
    before.none_since(&runtime);
}

fn add_mount(config: &mut Value, mount: Value) {
    let mounts = config["mounts"].as_array_mut();
    mounts.into_iter().for_each(|mounts| mounts.push(mount.clone()));
}

#[test]
fn a_file_system_that_the_kernel_does_not_have() {
    let mount = json!({ "destination": "/x", "type": "no-such-fs", "source": "x" });
    fails(|config| add_mount(config, mount), &["/x", "ENODEV"]);
}

#[test]
fn a_mount_option_that_the_file_system_does_not_have() {
    let mount =
        json!({ "destination": "/x", "type": "tmpfs", "source": "x", "options": ["bogus=1"] });
    fails(|config| add_mount(config, mount), &["mounts[6]", "/x", "Invalid argument"]);
}

#[test]
fn a_mount_over_a_file_of_the_kernel() {
    let mount = json!({ "destination": "/proc/self", "type": "tmpfs", "source": "x" });
    fails(|config| add_mount(config, mount), &["/proc/self"]);
}

#[test]
fn a_network_namespace_that_is_not_there() {
    let join = |config: &mut Value| {
        for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "network" {
                namespace["path"] = json!("/no-such-namespace");
            }
        }
    };
    fails(join, &["/no-such-namespace"]);
}

#[test]
fn processors_that_the_machine_does_not_have() {
    fails(|config| config["linux"]["resources"]["cpu"] = json!({ "cpus": "900" }), &["cpuset"]);
}

#[test]
fn a_control_group_that_leads_out_of_the_hierarchy() {
    let climb = |config: &mut Value| config["linux"]["cgroupsPath"] = json!("/a/../../b");
    fails(climb, &["linux.cgroupsPath"]);
}

#[test]
fn hooks_that_fail() {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let hook = |config: &mut Value| {
            config["hooks"] = json!({});
            config["hooks"][kind] = json!([{ "path": "/bin/false" }]);
        };
        fails(hook, &["hook"]);
    }
}

#[test]
fn a_hook_that_takes_too_long() {
    let hook = |config: &mut Value| {
        config["hooks"]["createRuntime"] =
            json!([{ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }]);
    };
    fails(hook, &["timeout"]);
}
