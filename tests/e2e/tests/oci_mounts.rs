//! `mounts`: what their options do, compared with runc where it knows them.

use std::fs;
use std::os::unix::fs::symlink;

use cofferdam_e2e::{Bundle, Mode, Runtime};
use serde_json::json;

fn both() -> [Runtime; 2] {
    [Runtime::cofferdam(), Runtime::runc()]
}

#[test]
fn a_tmpfs_has_its_options() {
    let script = "grep ' /t ' /proc/self/mounts | cut -d' ' -f2,3; stat -c %a /t;
        (echo x > /t/x && chmod 755 /t/x && /t/x) 2>/dev/null || echo noexec;
        df -k /t | tail -n 1 | tr -s ' ' | cut -d' ' -f2";
    for runtime in both() {
        // runc 1.1 gives it the mode of a mount point that is there already.
        let bundle = Bundle::script(script).mount(json!({
            "destination": "/t", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", "noexec", "mode=1750", "size=1024k"]
        }));
        runtime.run(&bundle).exits(0).prints("/t tmpfs\n1750\nnoexec\n1024\n");
    }
}

#[test]
fn a_mount_propagates_as_it_says() {
    for (option, expected) in [
        ("private", ""),
        ("rprivate", ""),
        ("shared", "shared"),
        ("rshared", "shared"),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        let script = "grep ' / /t ' /proc/self/mountinfo | grep -o 'shared\\|unbindable'; true";
        let bundle = Bundle::script(script).mount(json!({
            "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": [option]
        }));
        for runtime in both() {
            let outcome = runtime.run(&bundle);
            outcome.exits(0);
            assert_eq!(outcome.stdout.trim(), expected, "{option}: {outcome:?}");
        }
    }
}

#[test]
fn the_root_propagates_as_the_configuration_says() {
    for (propagation, expected) in
        [("private", ""), ("rshared", "shared"), ("runbindable", "unbindable")]
    {
        let script = "grep ' / / ' /proc/self/mountinfo | grep -o 'shared\\|unbindable'; true";
        let bundle = Bundle::script(&script.replace("' / / '", "' / '"))
            .edit(|config| config["linux"]["rootfsPropagation"] = json!(propagation));
        let outcome = Runtime::cofferdam().run(&bundle);
        outcome.exits(0);
        assert_eq!(outcome.stdout.trim().contains("shared"), expected == "shared", "{outcome:?}");
    }
}

#[test]
fn a_tree_is_read_only_to_its_last_mount() {
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir(host.path().join("below")).unwrap();
    let below = host.path().join("below");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(&below)
        .status()
        .unwrap();
    assert!(mounted.success());
    let source = host.path().to_str().unwrap();
    let script = "(echo x > /t/x) 2>/dev/null || echo refused; (echo x > /t/below/x) 2>/dev/null || echo refused";
    let with = |option: &str| {
        Bundle::script(script).mount(json!({
            "destination": "/t", "type": "bind", "source": source, "options": ["rbind", option]
        }))
    };
    for runtime in both() {
        runtime.run(&with("rro")).exits(0).prints("refused\nrefused\n");
    }
    // In a guest the tree is one mount, and read-only to its last file.
    let refused = match Mode::current() {
        Mode::Namespace => "refused\n",
        Mode::MicroVm => "refused\nrefused\n",
    };
    Runtime::cofferdam().run(&with("ro")).exits(0).prints(refused);
    Runtime::runc().run(&with("ro")).exits(0).prints("refused\n");
    let unmounted = std::process::Command::new("umount").arg(&below).status().unwrap();
    assert!(unmounted.success());
}

#[test]
fn a_missing_mount_point_is_made_and_a_link_stays_inside() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from the host").unwrap();
    let bundle =
        Bundle::script("cat /deep/er/file; ls /deep/er; test -e /escaped/x && echo inside")
            .mount(json!({
                "destination": "/deep/er/file", "type": "bind",
                "source": file.path().to_str().unwrap(), "options": ["bind", "ro"]
            }))
            .mount(json!({
                "destination": "/link/x", "type": "bind",
                "source": file.path().to_str().unwrap(), "options": ["bind"]
            }));
    std::os::unix::fs::symlink("/../../escaped", bundle.rootfs().join("link")).unwrap();
    for runtime in both() {
        runtime.run(&bundle).exits(0).prints("from the hostfile\ninside\n");
    }
    assert!(!std::path::Path::new("/escaped").exists());
}

/// What is behind it is in the host's kernel.
#[test]
fn a_socket_of_the_host_is_served_or_refused_by_name() {
    let host = tempfile::tempdir().unwrap();
    let path = host.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let bundle = Bundle::script("test -S /s && echo socket").mount(json!({
        "destination": "/s", "type": "bind", "source": path.to_str().unwrap(), "options": ["bind"]
    }));
    let outcome = Runtime::cofferdam().run(&bundle);
    match Mode::current() {
        Mode::Namespace => outcome.exits(0).prints("socket\n"),
        Mode::MicroVm => outcome.exits(1).complains(&["mounts[6].source", "socket"]),
    };
}

#[test]
fn a_device_that_every_kernel_has_can_be_bound() {
    let bundle = Bundle::script("(echo x > /n) && stat -c %t:%T /n").mount(json!({
        "destination": "/n", "type": "bind", "source": "/dev/null", "options": ["bind"]
    }));
    for runtime in both() {
        runtime.run(&bundle).exits(0).prints("1:3\n");
    }
}

#[test]
fn what_the_sources_mount_forbids_stays_forbidden() {
    let host = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "noexec,nosuid", "tmpfs"])
        .arg(host.path())
        .status()
        .unwrap();
    assert!(mounted.success());
    std::fs::write(host.path().join("x"), "#!/bin/sh\necho ran\n").unwrap();
    std::process::Command::new("chmod").arg("755").arg(host.path().join("x")).status().unwrap();
    let bundle = Bundle::script("/t/x 2>/dev/null || echo refused").mount(json!({
        "destination": "/t", "type": "bind", "source": host.path().to_str().unwrap(),
        "options": ["rbind"]
    }));
    for runtime in both() {
        runtime.run(&bundle).exits(0).prints("refused\n");
    }
    std::process::Command::new("umount").arg(host.path()).status().unwrap();
}

#[test]
fn what_is_read_only_on_the_host_is_so_inside_and_writable_where_that_is_named() {
    let host = tempfile::tempdir().unwrap();
    let mount = |options: &[&str]| {
        let mut command = std::process::Command::new("mount");
        assert!(command.args(options).arg(host.path()).status().unwrap().success());
    };
    mount(&["-t", "tmpfs", "tmpfs"]);
    mount(&["-o", "remount,bind,ro,noatime"]);
    let script =
        "grep ' /t ' /proc/self/mounts | cut -d' ' -f4 | tr , '\n' | grep -xe r. -e noatime;
        touch /t/x 2>/dev/null && echo written; true";
    for (options, expected) in [
        (json!(["bind"]), "ro\nnoatime\n"),
        (json!(["bind", "noexec", "rw"]), "rw\nnoatime\nwritten\n"),
    ] {
        let bundle = Bundle::script(script).mount(json!({
            "destination": "/t", "type": "bind", "source": host.path().to_str().unwrap(),
            "options": options
        }));
        for runtime in both() {
            runtime.run(&bundle).exits(0).prints(expected);
        }
    }
    std::process::Command::new("umount").arg(host.path()).status().unwrap();
}

#[test]
fn what_is_mounted_can_be_bound_again_elsewhere() {
    let bundle = Bundle::script("cat /again/deep/file /one").mount(json!({
        "destination": "/m", "type": "tmpfs", "source": "tmpfs"
    }));
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "mounted\n").unwrap();
    let rootfs = bundle.rootfs();
    let bundle = [
        (host.path().to_owned(), "/m/deep".into()),
        (rootfs.join("m"), rootfs.join("again")),
        (rootfs.join("m/deep/file"), "/one".into()),
    ]
    .into_iter()
    .fold(bundle, |bundle, (source, destination): (_, std::path::PathBuf)| {
        bundle.mount(json!({
            "destination": destination, "source": source, "type": "bind",
            "options": ["rbind", "rprivate"]
        }))
    });
    for runtime in both() {
        runtime.run(&bundle).exits(0).prints("mounted\nmounted\n");
    }
}

#[test]
fn a_tmpfs_without_a_mode_has_that_of_the_folder_below() {
    use std::os::unix::fs::PermissionsExt as _;
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let bundle = Bundle::busybox(&["stat", "-c", "%a", "/t", "/t/new"]).mount(json!({
            "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": []
        }));
        let bundle = bundle.mount(json!({
            "destination": "/t/new", "type": "tmpfs", "source": "tmpfs", "options": []
        }));
        let folder = bundle.rootfs().join("t");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o710)).unwrap();
        runtime.run(&bundle).exits(0).prints("710\n1777\n");
    }
}

#[test]
fn proc_and_sys_are_not_mounted_through_a_link_of_the_image() {
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        let bundle = Bundle::busybox(&["true"]);
        fs::create_dir(bundle.rootfs().join("elsewhere")).unwrap();
        let _ = fs::remove_dir(bundle.rootfs().join(name));
        symlink("/elsewhere", bundle.rootfs().join(name)).unwrap();
        let outcome = Runtime::cofferdam().run(&bundle);
        outcome.exits(1).complains(&[kind, "must be mounted on ordinary directory"]);
    }
}
