//! What namespace mode does itself, where `libcontainer` would not: joining, hooks, sealing.

use std::fs;

use cofferdam_e2e::{Bundle, Runtime};
use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::{Value, json};

/// The container's root is a user of the host without any right.
fn in_user_namespace(args: &[&str]) -> Bundle {
    Bundle::busybox(args).edit(|config| {
        let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        let linux = &mut config["linux"];
        let namespaces = linux["namespaces"].as_array_mut();
        namespaces.into_iter().for_each(|all| all.push(json!({ "type": "user" })));
        linux["uidMappings"] = mapping.clone();
        linux["gidMappings"] = mapping;
    })
}

/// The bundle's folder is root's own; the mapped root must get through it.
fn let_through(bundle: &Bundle) {
    use std::os::unix::fs::PermissionsExt;
    let changed = fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o755));
    assert!(changed.is_ok());
}

const MAPPED: &str = "         0     100000      65536\n";

#[test]
fn exec_joins_the_user_namespace() {
    let bundle = in_user_namespace(&["sleep", "1000"]);
    let_through(&bundle);
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle);
    container.exec(&["cat", "/proc/self/uid_map"]).exits(0).prints(MAPPED);
    container.exec(&["id", "-u"]).exits(0).prints("0\n");
    let filter = container.exec(&["grep", "Seccomp:", "/proc/self/status"]);
    filter.exits(0).prints("Seccomp:\t2\n");
}

#[test]
fn a_user_namespace_maps_the_first_process() {
    let bundle = in_user_namespace(&["cat", "/proc/self/uid_map"]);
    let_through(&bundle);
    Runtime::cofferdam().run(&bundle).exits(0).prints(MAPPED);
}

#[test]
fn hooks_run_in_order_and_see_the_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let hook = |name: &str| {
        let script = format!("echo {name} >> {0}; cat >> {0}; echo >> {0}", log.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
    };
    let bundle = Bundle::busybox(&["true"]).edit(|config| {
        config["hooks"] = json!({
            "prestart": hook("prestart"),
            "createRuntime": hook("createRuntime"),
            "createContainer": hook("createContainer"),
            "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "cat > /started"] }],
            "poststart": hook("poststart"),
            "poststop": hook("poststop"),
        });
    });
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let _ = fs::remove_file(&log);
        runtime.run(&bundle).exits(0);
        let told = fs::read_to_string(&log).unwrap();
        let (states, names): (Vec<&str>, Vec<&str>) =
            told.lines().filter(|line| !line.is_empty()).partition(|line| line.starts_with('{'));
        let order = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
        assert_eq!(names, order);
        let started = fs::read_to_string(bundle.rootfs().join("started")).unwrap();
        for state in states.into_iter().chain([started.as_str()]) {
            let state: Value = serde_json::from_str(state).unwrap();
            assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
        }
    }
}

#[test]
fn a_start_hook_that_fails_fails_the_start() {
    let bundle = Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        config["hooks"] = json!({ "startContainer": [{ "path": "/bin/false" }] });
    });
    let runtime = Runtime::cofferdam();
    let container = runtime.create(&bundle);
    container.verb("start").exits(1).complains(&["startContainer"]);
    container.becomes("stopped");
}

#[test]
fn what_enters_a_container_is_not_the_hosts_program_to_write_to() {
    let runtime = Runtime::cofferdam();
    let container = runtime.create(&Bundle::busybox(&["true"]));
    let program = format!("/proc/{}/exe", container.pid());
    let mount = statvfs(program.as_str()).unwrap();
    assert!(mount.flags().contains(FsFlags::ST_RDONLY));
}

#[test]
fn read_only_control_groups_refuse_writes() {
    let script = "f=$(find /sys/fs/cgroup -name pids.max | head -n 1); \
                  test -n \"$f\" && ! echo 5 > $f";
    let bundle = Bundle::script(script).mount(json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "ro"],
    }));
    Runtime::cofferdam().run(&bundle).exits(0).complains(&["Read-only file system"]);
}

#[test]
fn a_new_network_namespace_has_its_loopback_on() {
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        runtime
            .run(&Bundle::busybox(&["ping", "-c", "1", "127.0.0.1"]).edit(|config| {
                for set in ["bounding", "effective", "permitted"] {
                    config["process"]["capabilities"][set] = json!(["CAP_NET_RAW"]);
                }
            }))
            .exits(0);
    }
}

#[test]
fn limits_hold_for_another_user_as_well() {
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
        let said = container.exec_with(&["--user", "1000"], &["sh", "-c", "ulimit -n"], b"");
        said.exits(0).prints("1024\n");
    }
}

#[test]
fn a_working_folder_that_is_missing_is_made_on_a_read_only_root() {
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let bundle = Bundle::busybox(&["pwd"]).edit(|config| {
            config["root"]["readonly"] = json!(true);
            config["process"]["cwd"] = json!("/made/for/this");
        });
        runtime.run(&bundle).exits(0).prints("/made/for/this\n");
    }
}

#[test]
fn what_cannot_be_served_is_named() {
    let idmap = Bundle::busybox(&["true"]).mount(json!({
        "destination": "/x", "type": "bind", "source": "/", "options": ["rbind", "idmap"],
    }));
    Runtime::cofferdam().run(&idmap).exits(1).complains(&["mounts[6]", "id-mapped"]);
    let listener = Bundle::busybox(&["true"]).edit(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }],
        });
    });
    Runtime::cofferdam().run(&listener).exits(1).complains(&["linux.seccomp.syscalls[0].action"]);
}
