//! How containers begin, fail and end.

use crate::fixture::*;

pub(crate) async fn exit_codes_are_a_shells(mut fixture: Fixture) {
    assert_eq!(fixture.run(&plan(&["sh", "-c", "exit 7"])).await.0, 7);
    // An init takes no signal of its own that it does not handle: its child does, and tells.
    let killed = plan(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]);
    let mut again = fixture.another();
    assert_eq!(again.run(&killed).await.0, 137);
}

pub(crate) async fn signals_reach_their_process(mut fixture: Fixture) {
    running(&fixture, "trap 'exit 9' TERM; while :; do sleep 0.05; done").await;
    fixture.agent.exec(&fixture.id, OTHER, &process(&["sleep", "60"]), None).await.unwrap();
    assert!(fixture.agent.signal(OTHER, 15).unwrap());
    assert_eq!(fixture.end(OTHER).await, 143);
    assert!(!fixture.agent.signal(OTHER, 15).unwrap());
    let third = ProcessToken(3);
    fixture.agent.exec(&fixture.id, third, &process(&["sleep", "60"]), None).await.unwrap();
    // Real-time signals have no name.
    assert!(fixture.agent.signal(third, 40).unwrap());
    assert_eq!(fixture.end(third).await, 168);
    assert!(fixture.agent.signal(INIT, 15).unwrap());
    assert_eq!(fixture.end(INIT).await, 9);
    assert!(matches!(fixture.agent.signal(ProcessToken(8), 9), Err(RequestError::NoProcess(_))));
}

pub(crate) async fn the_end_of_init_is_the_end_of_all(mut fixture: Fixture) {
    running(&fixture, "while [ ! -e /end ]; do sleep 0.05; done; exit 4").await;
    fixture.agent.exec(&fixture.id, OTHER, &process(&["sleep", "60"]), None).await.unwrap();
    fs::write(fixture.rootfs().join("end"), "").unwrap();
    assert_eq!(fixture.end(OTHER).await, 137);
    assert_eq!(fixture.end(INIT).await, 4);
    assert_eq!(fixture.agent.wait(INIT).await.unwrap().code, 4);
    while fixture.group().exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(fixture.agent.start(&fixture.id).await, Err(RequestError::NoContainer(_))));
}

pub(crate) async fn processes_are_listed(mut fixture: Fixture) {
    running(&fixture, "sleep 50 & sleep 60; true").await;
    let wanted = ["sh -c sleep 50 & sleep 60; true", "sleep 50", "sleep 60"];
    loop {
        let listed = fixture.agent.processes(&fixture.id).unwrap();
        let commands: Vec<&str> = listed.iter().map(|entry| entry.command.as_str()).collect();
        if wanted.iter().all(|wanted| commands.contains(wanted)) {
            assert!(listed.iter().all(|entry| entry.uid == 0 && entry.started_ms > 0));
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(fixture.agent.signal_all(&fixture.id, 9).unwrap());
    assert_eq!(fixture.end(INIT).await, 137);
}

pub(crate) async fn a_failed_create_leaves_nothing(fixture: Fixture) {
    let mut bad_mount = plan(&["true"]);
    bad_mount.mounts.push(filesystem("no-such-fs", "/x", ""));
    let error = failure(fixture.create(&bad_mount).await.unwrap_err());
    assert_eq!(error, "mounting no-such-fs at /x: no such device");
    let mut bad_file = plan(&["true"]);
    bad_file.cgroup.files = vec![("no.such.file".to_owned(), "1".to_owned())];
    let error = failure(fixture.create(&bad_file).await.unwrap_err());
    assert!(error.contains("no.such.file"), "{error}");
    let mut bad_root = plan(&["true"]);
    bad_root.rootfs_share = 9;
    assert!(failure(fixture.create(&bad_root).await.unwrap_err()).contains("share 9"));
    assert!(!fixture.group().exists());
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(fixture.folder.path().to_str().unwrap()), "{mounts}");
    fixture.create(&plan(&["true"])).await.unwrap();
}

pub(crate) async fn a_program_that_is_not_there_is_not_found(fixture: Fixture) {
    let error = fixture.create(&plan(&["no-such-program"])).await.unwrap_err();
    assert!(matches!(error, RequestError::Start(StartError::NotFound(_))));
    assert_eq!(failure(error), "exec: \"no-such-program\": executable file not found in $PATH");
    let error = fixture.create(&plan(&["/etc/passwd"])).await.unwrap_err();
    assert!(matches!(error, RequestError::Start(StartError::NotExecutable(_))));
    assert!(!fixture.group().exists());
}

pub(crate) async fn a_file_that_is_no_program_fails_at_the_start(mut fixture: Fixture) {
    let file = fixture.rootfs().join("bin/rubbish");
    fs::write(&file, "no program\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    fixture.create(&plan(&["rubbish"])).await.unwrap();
    let error = fixture.agent.start(&fixture.id).await.unwrap_err();
    assert!(matches!(error, RequestError::Start(StartError::NotExecutable(_))));
    assert_eq!(failure(error), "exec /bin/rubbish: exec format error");
    assert_eq!(fixture.end(INIT).await, 1);
}

pub(crate) async fn hooks_run_at_the_start_and_can_fail_it(mut fixture: Fixture) {
    let hook = |script: &str, timeout_s| HookPlan {
        path: "/bin/busybox".to_owned(),
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: Some(vec!["PATH=/bin".to_owned(), "MARK=here".to_owned()]),
        timeout_s,
    };
    let mut good = plan(&["sh", "-c", "cat /state /mark"]);
    good.start_hooks = vec![hook("cat > /state; echo $MARK > /mark", None)];
    assert_eq!(fixture.run(&good).await.1, "{\"status\":\"created\"}here\n");

    for (script, said) in
        [("echo no way >&2; exit 3", "no way"), ("sleep 60", "not done after 1 s")]
    {
        let mut fixture = fixture.another();
        let mut bad = plan(&["true"]);
        bad.start_hooks = vec![hook(script, Some(1))];
        fixture.create(&bad).await.unwrap();
        let error = failure(fixture.agent.start(&fixture.id).await.unwrap_err());
        assert!(error.contains("startContainer hook") && error.contains(said), "{error}");
        assert_eq!(fixture.end(INIT).await, 1);
    }
}
