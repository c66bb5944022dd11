//! Who a process is.

use crate::fixture::*;

pub(crate) async fn the_process_is_who_the_plan_says(mut fixture: Fixture) {
    let script = "id -u; id -g; id -G; umask; ulimit -n; ulimit -Hn; pwd; busybox grep NoNewPrivs /proc/self/status;
        cat /proc/self/oom_score_adj; echo again > /dev/stdout";
    let mut plan = plan(&["sh", "-c", script]);
    plan.symlinks.push(("/dev/stdout".to_owned(), "/proc/self/fd/1".to_owned()));
    let process = &mut plan.process;
    (process.uid, process.gid, process.additional_gids) = (77, 78, vec![79, 80]);
    (process.umask, process.cwd) = (Some(0o027), "/made/for/it".to_owned());
    process.rlimits = vec![RlimitPlan { resource: 7, soft: 100, hard: 200 }];
    process.oom_score_adj = Some(500);
    process.capabilities = CapabilityPlan::default();
    let (_, output) = fixture.run(&plan).await;
    assert_eq!(
        output,
        "77\n78\n78 79 80\n0027\n100\n200\n/made/for/it\nNoNewPrivs:\t1\n500\nagain\n"
    );
}

pub(crate) async fn capabilities_are_exactly_those_of_the_plan(mut fixture: Fixture) {
    let mut plan = plan(&["busybox", "grep", "^Cap", "/proc/self/status"]);
    plan.process.uid = 77;
    plan.process.capabilities = CapabilityPlan {
        bounding: 0b1111,
        effective: 0b0110,
        permitted: 0b0111,
        inheritable: 0b0110,
        // Bit 0 is not inheritable: it cannot be ambient.
        ambient: 0b0111,
    };
    let (_, output) = fixture.run(&plan).await;
    // An ordinary program keeps of the permitted set what is ambient.
    let set = |bits: u64| format!("{bits:016x}");
    assert_eq!(
        output,
        format!(
            "CapInh:\t{0}\nCapPrm:\t{0}\nCapEff:\t{0}\nCapBnd:\t{1}\nCapAmb:\t{0}\n",
            set(0b0110),
            set(0b1111)
        )
    );
}

pub(crate) async fn an_unknown_capability_is_refused(fixture: Fixture) {
    let mut plan = plan(&["true"]);
    plan.process.capabilities.bounding |= 1 << 60;
    let error = failure(fixture.create(&plan).await.unwrap_err());
    assert!(error.contains("capability 60"), "{error}");
}

pub(crate) async fn a_filter_is_installed(mut fixture: Fixture) {
    // mkdir fails with EPERM, all else is allowed.
    let instruction = |code: u16, jt: u8, jf: u8, k: u32| {
        let mut bytes = code.to_le_bytes().to_vec();
        bytes.extend([jt, jf]);
        bytes.extend(k.to_le_bytes());
        bytes
    };
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let program = [
        instruction(LOAD, 0, 0, 0),
        instruction(JUMP_EQUAL, 0, 1, 83),
        instruction(RETURN, 0, 0, 0x0005_0001),
        instruction(RETURN, 0, 0, 0x7fff_0000),
    ]
    .concat();
    for no_new_privileges in [true, false] {
        let mut plan = plan(&[
            "sh",
            "-c",
            "busybox mkdir /made 2>&1; busybox grep ^Seccomp: /proc/self/status",
        ]);
        plan.process.no_new_privileges = no_new_privileges;
        plan.process.seccomp = Some(SeccompPlan { program: program.clone(), flags: 0 });
        let (_, output) = fixture.run(&plan).await;
        assert!(output.contains("Operation not permitted"), "{output}");
        assert!(output.contains("Seccomp:\t2"), "{output}");
        fixture = fixture.another();
    }
}

pub(crate) async fn names_are_the_containers_own(mut fixture: Fixture) {
    let mut plan =
        plan(&["sh", "-c", "hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/shmmni"]);
    plan.domainname = Some("realm".to_owned());
    plan.sysctl.insert("kernel.shmmni".to_owned(), "1234".to_owned());
    let (_, output) = fixture.run(&plan).await;
    assert_eq!(output, "inside\nrealm\n1234\n");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), "inside\n");
}

pub(crate) async fn home_comes_from_the_containers_passwd(mut fixture: Fixture) {
    let mut plan = plan(&["sh", "-c", "echo $HOME; echo $0", "zero"]);
    plan.process.uid = 77;
    assert_eq!(fixture.run(&plan).await.1, "/home/u\nzero\n");
}
