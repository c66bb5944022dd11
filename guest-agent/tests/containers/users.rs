//! A user namespace of the container's own.

use crate::fixture::*;

const FIRST: u32 = 100_000;

/// The files belong to the namespace's root, as engines prepare them.
fn mapped(fixture: &Fixture, args: &[&str]) -> ContainerPlan {
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(fixture.folder.path(), open).unwrap();
    give_away(&fixture.rootfs());
    let mut plan = plan(args);
    let range = vec![IdMappingPlan { inside: 0, outside: FIRST, count: 1000 }];
    plan.user_namespace = Some(UserNamespacePlan { uids: range.clone(), gids: range });
    plan
}

fn give_away(path: &Path) {
    std::os::unix::fs::lchown(path, Some(FIRST), Some(FIRST)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().for_each(|entry| give_away(&entry.unwrap().path()));
    }
}

pub(crate) async fn users_of_a_namespace_are_the_containers_own(mut fixture: Fixture) {
    let script =
        "busybox tr -s ' ' < /proc/self/uid_map; id -u; stat -c %u /etc/passwd /made/here .;
        echo x > /new; echo again > /dev/stdout; hostname; hostname other; hostname;
        busybox mount -t tmpfs x /mnt && echo mounted; (echo x > /dev/null) && echo null;
        cat /proc/sys/kernel/shmmni; grep -c ' /sys ' /proc/mounts";
    let script = script.replace("grep", "busybox grep");
    let mut plan = mapped(&fixture, &["sh", "-c", &script]);
    plan.mounts.push(filesystem("sysfs", "/sys", ""));
    plan.mounts.push(filesystem("mqueue", "/dev/mqueue", ""));
    plan.mounts.push(MountPlan { source: MountSource::Cgroup, ..filesystem("", "/cg", "") });
    plan.mounts.push(filesystem("tmpfs", "/mnt", ""));
    plan.symlinks.push(("/dev/stdout".to_owned(), "/proc/self/fd/1".to_owned()));
    plan.sysctl.insert("kernel.shmmni".to_owned(), "1234".to_owned());
    plan.process.cwd = "/made/here".to_owned();
    plan.process.oom_score_adj = Some(7);
    plan.process.rlimits = vec![RlimitPlan { resource: 7, soft: 100, hard: 200 }];
    let (_, output) = fixture.run(&plan).await;
    assert_eq!(
        output,
        " 0 100000 1000\n0\n0\n0\n0\nagain\ninside\nother\nmounted\nnull\n1234\n1\n"
    );
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(fixture.rootfs().join("new")).unwrap());
    assert_eq!(owner, FIRST);
}

pub(crate) async fn a_user_who_is_not_mapped_is_refused(fixture: Fixture) {
    let mut plan = mapped(&fixture, &["true"]);
    plan.process.uid = 5000;
    let error = failure(fixture.create(&plan).await.unwrap_err());
    assert_eq!(error, "becoming user 5000: invalid argument");
}

pub(crate) async fn one_more_process_joins_the_user_namespace(mut fixture: Fixture) {
    let mut plan = mapped(&fixture, &["sleep", "100"]);
    plan.time_offsets = Some(vec![TimeOffsetPlan {
        clock: "boottime".to_owned(),
        seconds: 1_000_000,
        nanoseconds: 0,
    }]);
    plan.symlinks.push(("/dev/stdout".to_owned(), "/proc/self/fd/1".to_owned()));
    fixture.create(&plan).await.unwrap_or_else(|error| panic!("{}", failure(error)));
    fixture.agent.start(&fixture.id).await.unwrap_or_else(|error| panic!("{}", failure(error)));
    let script = "id -u; id -g; busybox tr -s ' ' < /proc/self/uid_map; echo again > /dev/stdout;
        ulimit -n; busybox cut -c1-2 /proc/uptime; (echo x > /etc/passwd) 2>/dev/null || echo refused";
    let mut process = process(&["sh", "-c", script]);
    (process.uid, process.gid) = (77, 78);
    process.rlimits = vec![RlimitPlan { resource: 7, soft: 100, hard: 200 }];
    let joined = fixture.agent.exec(&fixture.id, OTHER, &process, None).await;
    joined.unwrap_or_else(|error| panic!("{}", failure(error)));
    let mut output = String::new();
    fixture.connect(OTHER, StreamKind::Stdout).read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "77\n78\n 0 100000 1000\nagain\n100\n10\nrefused\n");
    fixture.agent.signal(INIT, 9).unwrap();
    fixture.end(INIT).await;
}
