//! User namespaces: `linux.uidMappings`, `gidMappings` and what follows from them.

// A test may fail by panicking; clippy knows tests by their attribute only.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use cofferdam_e2e::{Bundle, Runtime};
use serde_json::json;

const FIRST: u32 = 100_000;

/// A bundle whose files belong to the root of its user namespace.
fn mapped(script: &str) -> Bundle {
    let bundle = Bundle::script(script).edit(|config| {
        let range = json!([{ "containerID": 0, "hostID": FIRST, "size": 65_536 }]);
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        config["linux"]["uidMappings"] = range.clone();
        config["linux"]["gidMappings"] = range;
    });
    std::fs::set_permissions(bundle.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    give_away(&bundle.rootfs());
    bundle
}

fn give_away(path: &Path) {
    lchown(path, Some(FIRST), Some(FIRST)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        std::fs::read_dir(path).unwrap().for_each(|entry| give_away(&entry.unwrap().path()));
    }
}

#[test]
fn root_inside_is_an_ordinary_user_outside() {
    let script = "id -u; stat -c %u /bin/busybox; echo x > /new; stat -c %u /new;
        tr -s ' ' < /proc/self/uid_map; (echo x > /dev/null) && echo null";
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let bundle = mapped(script);
        runtime.run(&bundle).exits(0).prints("0\n0\n0\n 0 100000 65536\nnull\n");
        assert_eq!(std::fs::metadata(bundle.rootfs().join("new")).unwrap().uid(), FIRST);
    }
}

#[test]
fn root_inside_has_its_capabilities_over_what_is_its_own() {
    let bundle =
        mapped("hostname other; hostname; chown 5:6 /tmp; stat -c %u:%g /tmp").edit(|config| {
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_CHOWN"]);
            }
        });
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        runtime.run(&bundle).exits(0).prints("other\n5:6\n");
        assert_eq!(std::fs::metadata(bundle.rootfs().join("tmp")).unwrap().uid(), FIRST + 5);
        lchown(bundle.rootfs().join("tmp"), Some(FIRST), Some(FIRST)).unwrap();
    }
}

#[test]
fn who_comes_later_is_in_the_same_namespace() {
    let bundle = mapped("sleep 1000");
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle);
    let outcome = container.exec(&["sh", "-c", "id -u; tr -s ' ' < /proc/self/uid_map"]);
    outcome.exits(0).prints("0\n 0 100000 65536\n");
}

#[test]
fn a_mount_of_the_hosts_can_be_bound_whatever_it_says_of_access_times() {
    let host = tempfile::tempdir().unwrap();
    let mount = |options: &[&str]| {
        let mut command = std::process::Command::new("mount");
        assert!(command.args(options).arg(host.path()).status().unwrap().success());
    };
    mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"]);
    mount(&["-o", "remount,bind,ro,noatime,nodiratime"]);
    let script = "grep ' /t ' /proc/self/mounts | cut -d' ' -f4 | cut -d, -f1";
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let bundle = mapped(script).mount(json!({
            "destination": "/t", "type": "bind", "source": host.path().to_str().unwrap(),
            "options": ["rbind"]
        }));
        runtime.run(&bundle).exits(0).prints("ro\n");
    }
    std::process::Command::new("umount").arg(host.path()).status().unwrap();
}
