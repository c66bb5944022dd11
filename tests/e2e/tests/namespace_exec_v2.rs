//! Where a further process comes to be among the control groups of a container that has changed
//! them, which takes cgroup v2.

use std::fs;

use cofferdam_e2e::{Bundle, Runtime};
use serde_json::json;

/// A container that sees the host's groups and may change them.
fn bundle(group: &str) -> Bundle {
    Bundle::busybox(&["sleep", "1000"])
        .mount(json!({
            "destination": "/sys/fs/cgroup", "type": "bind", "source": "/sys/fs/cgroup",
            "options": ["rbind", "rw"]
        }))
        .edit(|config| {
            config["linux"]["cgroupsPath"] = json!(group);
            let namespaces = config["linux"]["namespaces"].as_array_mut();
            namespaces.into_iter().for_each(|list| list.retain(|entry| entry["type"] != "cgroup"));
        })
}

#[test]
fn a_named_group_that_takes_no_process_is_an_error_and_an_unnamed_one_is_the_first_processs() {
    let runtime = Runtime::cofferdam();
    let own = format!("/{}", runtime.id("divided"));
    let container = runtime.start(&bundle(&own));
    let group = format!("/sys/fs/cgroup{own}");
    let divide = format!(
        "mkdir {group}/below && echo 1 > {group}/below/cgroup.procs \\
         && echo $$ > {group}/below/cgroup.procs \\
         && echo +memory > {group}/cgroup.subtree_control"
    );
    container.exec(&["sh", "-ec", &divide]).exits(0);
    let here = ["cat", "/proc/self/cgroup"];
    container.exec(&here).exits(0).prints(&format!("0::{own}/below\n"));
    let named = container.exec_with(&["--cgroup", "/"], &here, b"");
    named.exits(255).complains(&["error adding pid ", " to cgroups", "busy"]);
    let below = container.exec_with(&["--cgroup", "below"], &here, b"");
    below.exits(0).prints(&format!("0::{own}/below\n"));
}

#[test]
fn when_its_group_is_gone_a_process_joins_the_first_one() {
    let runtime = Runtime::cofferdam();
    let own = format!("/{}", runtime.id("left"));
    let container = runtime.start(&bundle(&own));
    let elsewhere = format!("/{}", runtime.id("elsewhere"));
    let folder = format!("/sys/fs/cgroup{elsewhere}");
    fs::create_dir(&folder).unwrap();
    fs::write(format!("{folder}/cgroup.procs"), container.pid().to_string()).unwrap();
    fs::remove_dir(format!("/sys/fs/cgroup{own}")).unwrap();
    let here = container.exec(&["cat", "/proc/self/cgroup"]);
    drop(container);
    fs::remove_dir(&folder).unwrap();
    here.exits(0).prints(&format!("0::{elsewhere}\n"));
}
