//! Block devices of the host's in a microVM: `linux.devices`, `docker run --device`, raw volumes of a pod.

// A fixture is part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use cofferdam_e2e::{Bundle, Container, Disk, Leftovers, Outcome, Runtime, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const KIND: &str = "io.kubernetes.cri.container-type";
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// A container that waits, with these devices and rules.
fn with(devices: &[Value], rules: &[Value]) -> Bundle {
    Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        let none = json!({ "allow": false, "access": "rwm" });
        let rules: Vec<_> = [&none].into_iter().chain(rules).cloned().collect();
        config["linux"]["devices"] = json!(devices);
        config["linux"]["resources"]["devices"] = json!(rules);
    })
}

/// The same in a pod.
fn member(sandbox: &Container<'_>, bundle: Bundle) -> Bundle {
    let pid = sandbox.pid();
    bundle.edit(|config| {
        config["annotations"] = json!({ KIND: "container", SANDBOX: sandbox.id });
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            let found = namespaces.iter_mut().find(|namespace| namespace["type"] == kind);
            found.unwrap()["path"] = json!(format!("/proc/{pid}/ns/{file}"));
        }
    })
}

fn exec(container: &Container<'_>, script: &str) -> Outcome {
    container.exec(&["sh", "-c", script])
}

fn inside(container: &Container<'_>, script: &str) -> String {
    let outcome = exec(container, script);
    assert_eq!(outcome.code, 0, "{script}: {}{}", outcome.stdout, outcome.stderr);
    outcome.stdout.trim().to_owned()
}

#[test]
fn a_disk_is_read_and_written_at_the_path_that_was_asked_for() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let disk = Disk::of(8 * MIB + 512);
    disk.write(b"from the host");
    {
        let bundle = with(&[disk.device("/dev/data/disk")], &[disk.rule("rwm")]);
        let container = runtime.start(&bundle);
        assert_eq!(
            inside(&container, "stat -c '%F %a %u' /dev/data/disk"),
            "block special file 600 0"
        );
        assert_eq!(inside(&container, "head -c 13 /dev/data/disk"), "from the host");
        assert_eq!(inside(&container, "wc -c < /dev/data/disk"), (8 * MIB + 512).to_string());
        let write =
            "echo from the guest | dd of=/dev/data/disk bs=1 seek=4194304 conv=notrunc,fsync";
        inside(&container, write);
        assert!(disk.content()[4 << 20..].starts_with(b"from the guest\n"));
    }
    assert!(disk.is_free());
    before.none_since(&runtime);
}

#[test]
fn a_file_system_of_the_hosts_is_mounted_and_written_by_the_guests_kernel() {
    let runtime = Runtime::cofferdam();
    let disk = Disk::of(32 * MIB);
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk.path()).status().unwrap();
    assert!(made.success());
    let bundle = with(&[disk.device("/dev/disk")], &[disk.rule("rw")]).edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
        }
    });
    {
        let container = runtime.start(&bundle);
        let write = "mkdir -p /disk && mount -t ext4 /dev/disk /disk && seq 100000 > /disk/numbers && umount /disk";
        inside(&container, write);
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = |args: &[&std::ffi::OsStr]| Command::new("mount").args(args).status().unwrap();
    let mounted =
        mount(&["-o".as_ref(), "ro".as_ref(), disk.path().as_ref(), folder.path().as_ref()]);
    assert!(mounted.success());
    let numbers = std::fs::read_to_string(folder.path().join("numbers"));
    assert!(Command::new("umount").arg(folder.path()).status().unwrap().success());
    assert_eq!(numbers.unwrap().lines().count(), 100_000);
}

#[test]
fn a_disk_that_may_only_be_read_is_not_written_and_one_without_a_rule_not_opened() {
    let runtime = Runtime::cofferdam();
    let (read, closed) = (Disk::of(MIB), Disk::of(MIB));
    let devices = [read.device("/dev/read"), closed.device("/dev/closed")];
    let container = runtime.start(&with(&devices, &[read.rule("r")]));
    inside(&container, "head -c 512 /dev/read > /dev/null");
    let refused = exec(&container, "echo no > /dev/read");
    assert!(refused.code != 0 && refused.stderr.contains("not permitted"), "{}", refused.stderr);
    // Not by the guest's kernel alone.
    let ways = inside(&container, "cat /sys/block/vd*/ro");
    assert_eq!(ways.split_whitespace().collect::<Vec<_>>(), ["1", "1"]);
    let refused = exec(&container, "head -c 1 /dev/closed");
    assert!(refused.code != 0 && refused.stderr.contains("not permitted"), "{}", refused.stderr);
    assert!(read.content().iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_no_disk_and_more_than_there_is_room_for_is_refused_by_name() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let device = |minor: u32| json!({ "path": format!("/dev/{minor}"), "type": "b", "major": 250, "minor": minor });
    let refused = runtime.run(&with(&[device(77)], &[]));
    refused.exits(1).complains(&["linux.devices[0]", "this host has no block device 250:77"]);
    let many: Vec<_> = (0..9).map(device).collect();
    let refused = runtime.run(&with(&many, &[]));
    refused.exits(1).complains(&["linux.devices: 9 block devices: a microVM can have 8"]);
    before.none_since(&runtime);
}

#[test]
fn a_pod_s_containers_share_a_disk_and_it_goes_with_the_last_of_them() {
    let runtime = Runtime::cofferdam();
    let sandbox = Bundle::busybox(&["sleep", "10000"])
        .edit(|config| config["annotations"] = json!({ KIND: "sandbox" }));
    let sandbox = runtime.start(&sandbox);
    let disk = Disk::of(MIB);
    let one = |path: &str, access: &str| {
        member(&sandbox, with(&[disk.device(path)], &[disk.rule(access)]))
    };
    let writer = runtime.start(&one("/dev/written", "rw"));
    let reader = runtime.start(&one("/dev/read", "r"));
    inside(&writer, "echo shared | dd of=/dev/written conv=notrunc");
    assert_eq!(inside(&reader, "head -c 6 /dev/read"), "shared");
    assert_ne!(exec(&reader, "echo no > /dev/read").code, 0);
    let stranger = runtime.start(&member(&sandbox, with(&[], &[])));
    let node = "mknod /dev/own b $(sed 's/:/ /' /sys/block/vda/dev) && head -c 6 /dev/own";
    assert_ne!(exec(&stranger, node).code, 0);
    drop(writer);
    assert_eq!(inside(&reader, "head -c 6 /dev/read"), "shared");
    drop(reader);
    assert_eq!(inside(&stranger, "ls /sys/block | grep -c '^vd'; true"), "0");
    assert!(disk.is_free());
    // There is room again, as often as somebody comes.
    for _ in 0..5 {
        let disk = Disk::of(MIB);
        let bundle = member(&sandbox, with(&[disk.device("/dev/disk")], &[disk.rule("r")]));
        inside(&runtime.start(&bundle), "head -c 512 /dev/disk > /dev/null");
        assert!(disk.is_free());
    }
}

#[test]
fn a_monitor_that_was_killed_has_no_disk_and_one_with_a_disk_is_not_saved() {
    let runtime = Runtime::cofferdam();
    let disk = Disk::of(MIB);
    let container = runtime.start(&with(&[disk.device("/dev/disk")], &[disk.rule("rw")]));
    let image = tempfile::tempdir().unwrap();
    let folder = image.path().display().to_string();
    let refused = runtime.verb(&["checkpoint", "--image-path", &folder, &container.id]);
    refused.exits(1).complains(&["A microVM with block devices (linux.devices) cannot be saved"]);
    inside(&container, "head -c 512 /dev/disk > /dev/null");
    kill(Pid::from_raw(container.pid()), Signal::SIGKILL).unwrap();
    until("it has ended", || container.state()["status"] == "stopped");
    drop(container);
    assert!(disk.is_free());
}
