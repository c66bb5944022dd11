//! What the kernel keeps for a process: its scheduler, its clocks, its personality.

use crate::fixture::*;

/// `policy` of `/proc/PID/sched` is the kernel's number.
const SCHEDULING: &str = "busybox grep -w policy /proc/self/sched | busybox tr -d ' ';
    busybox uname -m; busybox grep Cpus_allowed_list /proc/self/status";

pub(crate) async fn a_process_is_scheduled_as_the_plan_says(mut fixture: Fixture) {
    let mut plan = plan(&[
        "sh",
        "-c",
        "busybox cut -d' ' -f19 /proc/self/stat; busybox ionice; busybox uname -m",
    ]);
    plan.process.scheduling.scheduler = Some(SchedulerPlan { nice: 7, ..SchedulerPlan::default() });
    plan.process.scheduling.io_priority = Some(2 << 13 | 2);
    plan.process.personality = Some(8);
    let (_, output) = fixture.run(&plan).await;
    // A 32-bit personality says so in the machine's name.
    assert_eq!(output, "7\nbest-effort: prio 2\ni686\n");
}

pub(crate) async fn a_scheduler_that_cannot_be_is_named(fixture: Fixture) {
    let mut plan = plan(&["true"]);
    plan.process.scheduling.scheduler =
        Some(SchedulerPlan { policy: 4, ..SchedulerPlan::default() });
    let error = failure(fixture.create(&plan).await.unwrap_err());
    assert_eq!(error, "setting the scheduler (policy 4): invalid argument");
}

pub(crate) async fn one_more_process_has_its_own_processors_and_scheduler(mut fixture: Fixture) {
    running(&fixture, "sleep 100").await;
    let mut process = process(&["sh", "-c", SCHEDULING]);
    process.scheduling.scheduler = Some(SchedulerPlan { policy: 3, ..SchedulerPlan::default() });
    process.scheduling.initial_cpus = vec![0, 1];
    process.scheduling.final_cpus = vec![1];
    process.personality = Some(8);
    fixture.agent.exec(&fixture.id, OTHER, &process, None).await.unwrap();
    let mut output = String::new();
    fixture.connect(OTHER, StreamKind::Stdout).read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "policy:3\ni686\nCpus_allowed_list:\t1\n");
    process.scheduling.final_cpus = vec![4000];
    let token = ProcessToken(3);
    let error = failure(fixture.agent.exec(&fixture.id, token, &process, None).await.unwrap_err());
    assert_eq!(error, "keeping the process to the guest's processors [4000]: invalid argument");
    fixture.agent.signal(INIT, 9).unwrap();
    fixture.end(INIT).await;
}

pub(crate) async fn clocks_of_a_time_namespace_are_the_containers_own(mut fixture: Fixture) {
    let script = "cat /proc/self/timens_offsets /proc/uptime; read wait";
    let mut plan = plan(&["sh", "-c", script]);
    plan.process.stdio = StdioPlan::Pipes { stdin: true, stdout: true, stderr: false };
    let offset =
        |clock: &str, seconds| TimeOffsetPlan { clock: clock.to_owned(), seconds, nanoseconds: 5 };
    plan.time_offsets = Some(vec![offset("boottime", 1_000_000), offset("monotonic", -10)]);
    fixture.create(&plan).await.unwrap_or_else(|error| panic!("{}", failure(error)));
    let mut stdout = fixture.connect(INIT, StreamKind::Stdout);
    let stdin = fixture.connect(INIT, StreamKind::Stdin);
    fixture.agent.start(&fixture.id).await.unwrap_or_else(|error| panic!("{}", failure(error)));
    let output = read_until(&mut stdout, ".").await;
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(&words[..6], ["monotonic", "-10", "5", "boottime", "1000000", "5"]);
    assert!(words[6].split('.').next().unwrap().parse::<u64>().unwrap() >= 1_000_000);

    // Who comes later has the same clocks.
    let process = process(&["cat", "/proc/uptime"]);
    fixture.agent.exec(&fixture.id, OTHER, &process, None).await.unwrap();
    let mut later = String::new();
    fixture.connect(OTHER, StreamKind::Stdout).read_to_string(&mut later).await.unwrap();
    assert!(later.split('.').next().unwrap().parse::<u64>().unwrap() >= 1_000_000, "{later}");
    drop(stdin);
    fixture.end(INIT).await;
}
