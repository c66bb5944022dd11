//! What a container sees of files.

use crate::fixture::*;

pub(crate) async fn mounts_are_where_the_plan_says(mut fixture: Fixture) {
    let shares = fixture.folder.path().join("shares");
    fs::create_dir(shares.join("1")).unwrap();
    fs::write(shares.join("1/inner"), "folder share").unwrap();
    fs::write(shares.join("2"), "file share").unwrap();
    let share = |index, folder, target: &str, flags| MountPlan {
        target: target.to_owned(),
        source: MountSource::Share { index, recursive: true, folder },
        flags,
        recursive_attributes: 0,
        recursive_cleared: 0,
        propagation: vec![libc::MS_PRIVATE],
    };
    let script =
        "cat /data/deep/inner /file; echo; grep -c ' /data/deep .*ro,.*nodev' /proc/mounts;
        (echo x > /data/deep/new) 2>/dev/null || echo read-only; cat /cg/cgroup.procs | wc -l";
    let mut plan = plan(&[
        "busybox",
        "sh",
        "-c",
        &script.replace("grep", "busybox grep").replace("wc", "busybox wc"),
    ]);
    plan.mounts.push(share(1, true, "/data/deep", libc::MS_RDONLY | libc::MS_NODEV));
    plan.mounts.push(share(2, false, "/file", 0));
    plan.mounts.push(MountPlan { source: MountSource::Cgroup, ..filesystem("", "/cg", "") });
    let (code, output) = fixture.run(&plan).await;
    assert_eq!(code, 0);
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some("folder sharefile share"));
    assert_eq!(lines.next(), Some("1"));
    assert_eq!(lines.next(), Some("read-only"));
    // Its own cgroup is the root of what it sees.
    assert!(lines.next().unwrap().parse::<u32>().unwrap() >= 1);
}

pub(crate) async fn a_mount_point_behind_a_link_stays_inside(mut fixture: Fixture) {
    symlink("/../../../etc", fixture.rootfs().join("escape")).unwrap();
    let mut plan = plan(&["sh", "-c", "mount"]);
    plan.mounts.push(filesystem("tmpfs", "/escape/made-by-test", ""));
    let (_, output) = fixture.run(&plan).await;
    assert!(output.contains(" on /etc/made-by-test "), "{output}");
    assert!(!Path::new("/etc/made-by-test").exists());
}

pub(crate) async fn a_tmpfs_begins_with_what_it_hides(mut fixture: Fixture) {
    let mut plan = plan(&["sh", "-c", "cat /etc/passwd; echo new > /etc/new; stat -f -c %T /etc"]);
    let mut etc = filesystem("tmpfs", "/etc", "");
    if let MountSource::Filesystem { copy_up, .. } = &mut etc.source {
        *copy_up = true;
    }
    plan.mounts.push(etc);
    let (code, output) = fixture.run(&plan).await;
    assert_eq!(code, 0);
    assert!(output.starts_with("root:x:0:0"), "{output}");
    assert!(output.ends_with("tmpfs\n"), "{output}");
    assert!(!fixture.rootfs().join("etc/new").exists());
}

pub(crate) async fn paths_are_masked_and_read_only(mut fixture: Fixture) {
    fs::create_dir(fixture.rootfs().join("secret")).unwrap();
    fs::write(fixture.rootfs().join("secret/file"), "x").unwrap();
    let script = "echo [$(echo /secret/*)] [$(cat /etc/passwd)];
        (echo x > /bin/new) 2>/dev/null || echo root-ro;
        (echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo proc-ro; echo y > /dev/null && echo dev";
    let mut plan = plan(&["sh", "-c", script]);
    plan.masked_paths = ["/secret", "/etc/passwd", "/absent"].map(str::to_owned).to_vec();
    plan.readonly_paths = ["/proc/sys", "/absent"].map(str::to_owned).to_vec();
    plan.rootfs_readonly = true;
    let (_, output) = fixture.run(&plan).await;
    assert_eq!(output, "[/secret/*] []\nroot-ro\nproc-ro\ndev\n");
}

pub(crate) async fn devices_have_their_modes_and_owners(mut fixture: Fixture) {
    let mut plan = plan(&[
        "sh",
        "-c",
        "stat -c '%a %u %g %t %T %F' /dev/null /dev/x /dev/pipe; readlink /dev/ptmx",
    ]);
    let node = |path: &str, kind, mode, uid| DeviceNodePlan {
        path: path.to_owned(),
        kind,
        major: 7,
        minor: 300,
        mode,
        uid,
        gid: 9,
    };
    plan.devices.push(node("/dev/x", DeviceKind::Block, 0o604, 5));
    plan.devices.push(node("/dev/pipe", DeviceKind::Fifo, 0o622, 6));
    let (_, output) = fixture.run(&plan).await;
    assert_eq!(
        output,
        "666 0 0 1 3 character special file\n604 5 9 7 12c block special file\n622 6 9 0 0 fifo\npts/ptmx\n"
    );
}

pub(crate) async fn device_rules_hold_for_the_program_alone(mut fixture: Fixture) {
    // r0 = 0; exit: nothing is allowed. The nodes themselves were made before.
    const REFUSE: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut plan = plan(&["sh", "-c", "(echo x > /dev/null) 2>&1; stat -c %t /dev/null"]);
    plan.cgroup.device_program = Some(REFUSE.to_vec());
    let (_, output) = fixture.run(&plan).await;
    assert!(output.contains("Operation not permitted"), "{output}");
    assert!(output.ends_with("1\n"), "{output}");
    plan.cgroup.device_program = Some(vec![0; 12]);
    let refused = failure(fixture.another().create(&plan).await.unwrap_err());
    assert_eq!(refused, "setting the device rules: invalid argument");
}

pub(crate) async fn a_mount_keeps_its_propagation_whatever_the_roots_is(mut fixture: Fixture) {
    for (root, expected) in [
        (0, "/ \n/t shared\n"),
        (libc::MS_SHARED | libc::MS_REC, "/ shared\n/t shared\n"),
        (libc::MS_PRIVATE | libc::MS_REC, "/ \n/t shared\n"),
    ] {
        let script = r#"busybox awk '$5 == "/" || $5 == "/t" {
            print $5, $7 ~ /shared/ ? "shared" : "" }' /proc/self/mountinfo"#;
        let mut plan = plan(&["sh", "-c", script]);
        plan.rootfs_propagation = root;
        let shared =
            MountPlan { propagation: vec![libc::MS_SHARED], ..filesystem("tmpfs", "/t", "") };
        plan.mounts.push(shared);
        assert_eq!(fixture.run(&plan).await.1, expected, "{root:x}");
        fixture = fixture.another();
    }
}
