//! Containers made on the host exactly as the agent makes them in the guest, without a guest: in
//! fresh namespaces, from a root file system with busybox in it. What the plan promised is
//! asserted from inside.
//!
//! The agent copies its own process, so it must own its only thread: this test has no harness.
//! It needs root, a cgroup v2 tree and a static busybox, and says so where they are missing.

// All of it is tests, which without a harness the lints cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use cofferdam_agent::agent::{Agent, RequestError};
use cofferdam_agent::layout::Layout;
use cofferdam_agent::reaper::Reaper;
use cofferdam_agent::{StartError, process::Exit};
use cofferdam_protocol::id::{ContainerId, ProcessToken};
use cofferdam_protocol::lifeline::LifelineFrame;
use cofferdam_protocol::plan::{
    CapabilityPlan, CgroupPlan, ContainerPlan, DeviceKind, DeviceNodePlan, HookPlan, MountPlan,
    MountSource, ProcessPlan, RlimitPlan, SeccompPlan, StdioPlan,
};
use cofferdam_protocol::stream::{StreamHeader, StreamKind, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

const BUSYBOX: &str = "/bin/busybox";
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
const INIT: ProcessToken = ProcessToken(1);
const OTHER: ProcessToken = ProcessToken(2);
/// Nothing here takes a second; a hang is a failure.
const DEADLINE: Duration = Duration::from_secs(20);

type Case = (&'static str, fn(Fixture) -> Pin<Box<dyn Future<Output = ()>>>);

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), |fixture| Box::pin($name(fixture)))),*]
    };
}

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let cases: [Case; 25] = cases![
        exit_codes_are_a_shells,
        output_is_sent_before_the_end_is_told,
        input_reaches_the_program_and_its_end_too,
        a_program_that_is_not_there_is_not_found,
        a_file_that_is_no_program_fails_at_the_start,
        mounts_are_where_the_plan_says,
        a_mount_point_behind_a_link_stays_inside,
        a_tmpfs_begins_with_what_it_hides,
        paths_are_masked_and_read_only,
        devices_have_their_modes_and_owners,
        the_process_is_who_the_plan_says,
        capabilities_are_exactly_those_of_the_plan,
        an_unknown_capability_is_refused,
        a_filter_is_installed,
        names_are_the_containers_own,
        home_comes_from_the_containers_passwd,
        hooks_run_at_the_start_and_can_fail_it,
        a_failed_create_leaves_nothing,
        one_more_process_shares_everything,
        one_more_process_that_fails_leaves_nothing,
        a_terminal_is_one_in_both_kinds_of_process,
        signals_reach_their_process,
        the_end_of_init_is_the_end_of_all,
        processes_are_listed,
        a_child_that_keeps_the_pipe_does_not_hold_up_the_end,
    ];
    for (name, case) in cases {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            println!("case {name}");
            run_case(case);
        }
    }
    println!("containers: all cases passed");
}

fn run_case(case: fn(Fixture) -> Pin<Box<dyn Future<Output = ()>>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let fixture = Fixture::new(Reaper::start().unwrap());
        tokio::time::timeout(DEADLINE, case(fixture)).await.expect("the case hangs");
    });
}

/// An agent with one share: a root file system with busybox in it.
struct Fixture {
    folder: tempfile::TempDir,
    agent: Agent,
    ends: mpsc::UnboundedReceiver<LifelineFrame>,
    id: ContainerId,
    cgroups: &'static str,
    reaper: Reaper,
}

impl Fixture {
    /// One more, with a container of another name.
    fn another(&self) -> Self {
        Self::new(self.reaper.clone())
    }

    fn new(reaper: Reaper) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["shares/0/bin", "shares/0/etc", "root"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::copy(BUSYBOX, path("shares/0/bin/busybox")).expect("busybox-static is installed");
        for applet in ["sh", "cat", "true", "sleep", "id", "stat", "mount", "hostname", "readlink"]
        {
            symlink("busybox", path("shares/0/bin").join(applet)).unwrap();
        }
        fs::write(path("shares/0/etc/passwd"), "root:x:0:0::/root:/bin/sh\nu:x:77:77::/home/u:\n")
            .unwrap();
        let cgroups =
            CGROUPS.into_iter().find(|root| Path::new(root).join("cgroup.procs").exists());
        let cgroups = cgroups.expect("there is a cgroup v2 tree");
        let text = |name: &str| path(name).to_str().unwrap().to_owned();
        let layout =
            Layout { shares: text("shares"), scratch: text("root"), cgroups: cgroups.to_owned() };
        let (sender, ends) = mpsc::unbounded_channel();
        let agent = Agent::new(layout, reaper.clone(), sender);
        let name = folder.path().file_name().unwrap().to_str().unwrap();
        let id = format!("agent-test{name}").parse().unwrap();
        Self { folder, agent, ends, id, cgroups, reaper }
    }

    fn rootfs(&self) -> PathBuf {
        self.folder.path().join("shares/0")
    }

    fn group(&self) -> PathBuf {
        Path::new(self.cgroups).join(self.id.as_str())
    }

    async fn create(&self, plan: &ContainerPlan) -> Result<(), RequestError> {
        self.agent.create(&self.id, INIT, plan).await
    }

    fn connect(&self, process: ProcessToken, kind: StreamKind) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.agent.connect(StreamHeader { process, kind }, Box::new(theirs));
        ours
    }

    /// Runs a container to its end: exit code and output.
    async fn run(&mut self, plan: &ContainerPlan) -> (u8, String) {
        self.create(plan).await.unwrap_or_else(|error| panic!("{}", failure(error)));
        let mut stdout = self.connect(INIT, StreamKind::Stdout);
        self.agent.start(&self.id).await.unwrap_or_else(|error| panic!("{}", failure(error)));
        let mut output = String::new();
        stdout.read_to_string(&mut output).await.unwrap();
        (self.end(INIT).await, output)
    }

    /// The end of a process, as the lifeline tells it.
    async fn end(&mut self, token: ProcessToken) -> u8 {
        loop {
            match self.ends.recv().await.unwrap() {
                LifelineFrame::Exit { process, code, .. } if process == token => return code,
                _ => {}
            }
        }
    }
}

impl Drop for Fixture {
    /// Whatever a case leaves running.
    fn drop(&mut self) {
        for _ in 0..1000 {
            let _ = fs::write(self.group().join("cgroup.kill"), "1");
            let _ = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
            if !self.group().exists() || fs::remove_dir(self.group()).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn failure(error: RequestError) -> String {
    match error {
        RequestError::Start(error) => error.message(),
        other => other.to_string(),
    }
}

fn filesystem(fstype: &str, target: &str, data: &str) -> MountPlan {
    MountPlan {
        target: target.to_owned(),
        source: MountSource::Filesystem {
            fstype: fstype.to_owned(),
            source: fstype.to_owned(),
            data: data.to_owned(),
            copy_up: false,
        },
        flags: 0,
        recursive_attributes: 0,
        propagation: Vec::new(),
    }
}

/// What this test has itself: on a machine that is a container, not everything.
fn all_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap()
}

fn process(args: &[&str]) -> ProcessPlan {
    ProcessPlan {
        args: args.iter().copied().map(str::to_owned).collect(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        uid: 0,
        gid: 0,
        additional_gids: Vec::new(),
        umask: None,
        capabilities: CapabilityPlan {
            bounding: all_capabilities(),
            effective: all_capabilities(),
            permitted: all_capabilities(),
            inheritable: 0,
            ambient: 0,
        },
        rlimits: Vec::new(),
        no_new_privileges: true,
        oom_score_adj: None,
        seccomp: None,
        stdio: StdioPlan::Pipes { stdin: false, stdout: true, stderr: false },
    }
}

fn plan(args: &[&str]) -> ContainerPlan {
    ContainerPlan {
        rootfs_share: 0,
        rootfs_readonly: false,
        rootfs_propagation: libc::MS_PRIVATE | libc::MS_REC,
        hostname: Some("inside".to_owned()),
        domainname: None,
        mounts: vec![
            filesystem("proc", "/proc", ""),
            filesystem("tmpfs", "/dev", "mode=755,size=65536k"),
            filesystem("devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ],
        devices: vec![DeviceNodePlan {
            path: "/dev/null".to_owned(),
            kind: DeviceKind::Char,
            major: 1,
            minor: 3,
            mode: 0o666,
            uid: 0,
            gid: 0,
        }],
        symlinks: vec![("/dev/ptmx".to_owned(), "pts/ptmx".to_owned())],
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
        sysctl: std::collections::BTreeMap::new(),
        cgroup: CgroupPlan::default(),
        start_hooks: Vec::new(),
        hook_state: "{\"status\":\"created\"}".to_owned(),
        process: process(args),
    }
}

async fn exit_codes_are_a_shells(mut fixture: Fixture) {
    assert_eq!(fixture.run(&plan(&["sh", "-c", "exit 7"])).await.0, 7);
    // An init takes no signal of its own that it does not handle: its child does, and tells.
    let killed = plan(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]);
    let mut again = fixture.another();
    assert_eq!(again.run(&killed).await.0, 137);
}

async fn output_is_sent_before_the_end_is_told(mut fixture: Fixture) {
    let text = "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done";
    fixture.create(&plan(&["sh", "-c", text])).await.unwrap();
    let mut stdout = fixture.connect(INIT, StreamKind::Stdout);
    fixture.agent.start(&fixture.id).await.unwrap();
    let reader = tokio::spawn(async move {
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).await.unwrap();
        output.len()
    });
    assert_eq!(fixture.end(INIT).await, 0);
    assert_eq!(reader.await.unwrap(), 20000 * 11);
}

async fn input_reaches_the_program_and_its_end_too(mut fixture: Fixture) {
    let mut plan = plan(&["cat"]);
    plan.process.stdio = StdioPlan::Pipes { stdin: true, stdout: true, stderr: true };
    fixture.create(&plan).await.unwrap();
    let mut stdin = fixture.connect(INIT, StreamKind::Stdin);
    let mut stdout = fixture.connect(INIT, StreamKind::Stdout);
    fixture.agent.start(&fixture.id).await.unwrap();
    stdin.write_all(b"to and fro").await.unwrap();
    stdin.shutdown().await.unwrap();
    let mut output = String::new();
    stdout.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "to and fro");
    assert_eq!(fixture.end(INIT).await, 0);
}

async fn a_program_that_is_not_there_is_not_found(fixture: Fixture) {
    let error = fixture.create(&plan(&["no-such-program"])).await.unwrap_err();
    assert!(matches!(error, RequestError::Start(StartError::NotFound(_))));
    assert_eq!(failure(error), "exec: \"no-such-program\": executable file not found in $PATH");
    let error = fixture.create(&plan(&["/etc/passwd"])).await.unwrap_err();
    assert!(matches!(error, RequestError::Start(StartError::NotExecutable(_))));
    assert!(!fixture.group().exists());
}

async fn a_file_that_is_no_program_fails_at_the_start(mut fixture: Fixture) {
    let file = fixture.rootfs().join("bin/rubbish");
    fs::write(&file, "no program\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    fixture.create(&plan(&["rubbish"])).await.unwrap();
    let error = fixture.agent.start(&fixture.id).await.unwrap_err();
    assert!(matches!(error, RequestError::Start(StartError::NotExecutable(_))));
    assert_eq!(failure(error), "exec /bin/rubbish: exec format error");
    assert_eq!(fixture.end(INIT).await, 1);
}

async fn mounts_are_where_the_plan_says(mut fixture: Fixture) {
    let shares = fixture.folder.path().join("shares");
    fs::create_dir(shares.join("1")).unwrap();
    fs::write(shares.join("1/inner"), "folder share").unwrap();
    fs::write(shares.join("2"), "file share").unwrap();
    let share = |index, folder, target: &str, flags| MountPlan {
        target: target.to_owned(),
        source: MountSource::Share { index, recursive: true, folder },
        flags,
        recursive_attributes: 0,
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

async fn a_mount_point_behind_a_link_stays_inside(mut fixture: Fixture) {
    symlink("/../../../etc", fixture.rootfs().join("escape")).unwrap();
    let mut plan = plan(&["sh", "-c", "mount"]);
    plan.mounts.push(filesystem("tmpfs", "/escape/made-by-test", ""));
    let (_, output) = fixture.run(&plan).await;
    assert!(output.contains(" on /etc/made-by-test "), "{output}");
    assert!(!Path::new("/etc/made-by-test").exists());
}

async fn a_tmpfs_begins_with_what_it_hides(mut fixture: Fixture) {
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

async fn paths_are_masked_and_read_only(mut fixture: Fixture) {
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

async fn devices_have_their_modes_and_owners(mut fixture: Fixture) {
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

async fn the_process_is_who_the_plan_says(mut fixture: Fixture) {
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

async fn capabilities_are_exactly_those_of_the_plan(mut fixture: Fixture) {
    let mut plan = plan(&["busybox", "grep", "^Cap", "/proc/self/status"]);
    plan.process.uid = 77;
    plan.process.capabilities = CapabilityPlan {
        bounding: 0b1111,
        effective: 0b0110,
        permitted: 0b0111,
        inheritable: 0b0110,
        ambient: 0b0110,
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

async fn an_unknown_capability_is_refused(fixture: Fixture) {
    let mut plan = plan(&["true"]);
    plan.process.capabilities.bounding |= 1 << 60;
    let error = failure(fixture.create(&plan).await.unwrap_err());
    assert!(error.contains("capability 60"), "{error}");
}

async fn a_filter_is_installed(mut fixture: Fixture) {
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

async fn names_are_the_containers_own(mut fixture: Fixture) {
    let mut plan =
        plan(&["sh", "-c", "hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/shmmni"]);
    plan.domainname = Some("realm".to_owned());
    plan.sysctl.insert("kernel.shmmni".to_owned(), "1234".to_owned());
    let (_, output) = fixture.run(&plan).await;
    assert_eq!(output, "inside\nrealm\n1234\n");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), "inside\n");
}

async fn home_comes_from_the_containers_passwd(mut fixture: Fixture) {
    let mut plan = plan(&["sh", "-c", "echo $HOME; echo $0", "zero"]);
    plan.process.uid = 77;
    assert_eq!(fixture.run(&plan).await.1, "/home/u\nzero\n");
}

async fn hooks_run_at_the_start_and_can_fail_it(mut fixture: Fixture) {
    let hook = |script: &str, timeout_s| HookPlan {
        path: "/bin/busybox".to_owned(),
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned(), "MARK=here".to_owned()],
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

async fn a_failed_create_leaves_nothing(fixture: Fixture) {
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

async fn running(fixture: &Fixture, script: &str) {
    let mut plan = plan(&["sh", "-c", script]);
    plan.process.stdio = StdioPlan::Pipes { stdin: false, stdout: false, stderr: false };
    fixture.create(&plan).await.unwrap();
    fixture.agent.start(&fixture.id).await.unwrap();
}

async fn one_more_process_shares_everything(mut fixture: Fixture) {
    running(&fixture, "echo here > /mark; sleep 60").await;
    let script = "while ! cat /mark 2>/dev/null; do :; done; hostname; cat /proc/self/cgroup | busybox grep ^0; echo $$";
    let pid = fixture.agent.exec(&fixture.id, OTHER, &process(&["sh", "-c", script])).await;
    let pid = pid.unwrap_or_else(|error| panic!("{}", failure(error)));
    let mut output = String::new();
    fixture.connect(OTHER, StreamKind::Stdout).read_to_string(&mut output).await.unwrap();
    assert_eq!(output, format!("here\ninside\n0::/\n{pid}\n"));
    assert_eq!(fixture.agent.wait(OTHER).await.unwrap(), Exit { code: 0, oom: false });
    assert_eq!(fixture.end(OTHER).await, 0);
}

async fn one_more_process_that_fails_leaves_nothing(fixture: Fixture) {
    running(&fixture, "sleep 60").await;
    let mut absent_folder = process(&["true"]);
    absent_folder.cwd = "/absent".to_owned();
    let error = failure(fixture.agent.exec(&fixture.id, OTHER, &absent_folder).await.unwrap_err());
    assert_eq!(error, "entering the working folder /absent: no such file or directory");
    let absent = fixture.agent.exec(&fixture.id, OTHER, &process(&["absent"])).await;
    assert!(matches!(absent, Err(RequestError::Start(StartError::NotFound(_)))));
    assert!(matches!(fixture.agent.wait(OTHER).await, Err(RequestError::NoProcess(OTHER))));
    assert!(fixture.agent.exec(&fixture.id, OTHER, &process(&["true"])).await.is_ok());
}

async fn a_terminal_is_one_in_both_kinds_of_process(mut fixture: Fixture) {
    let script = "busybox stty size; busybox tty; stat -c %t /dev/console; read line; busybox stty size; echo got $line; exit 5";
    let mut plan = plan(&["sh", "-c", script]);
    plan.process.stdio = StdioPlan::Terminal { rows: 30, columns: 90 };
    fixture.create(&plan).await.unwrap();
    for token in [INIT, OTHER] {
        if token == INIT {
            fixture.agent.start(&fixture.id).await.unwrap();
        } else {
            let mut other = process(&[
                "sh",
                "-c",
                "busybox stty size; read line; busybox stty size; echo got $line; exit 5",
            ]);
            other.stdio = plan.process.stdio;
            fixture = fixture.another();
            running(&fixture, "sleep 60").await;
            fixture.agent.exec(&fixture.id, OTHER, &other).await.unwrap();
        }
        let mut terminal = fixture.connect(token, StreamKind::Terminal);
        let mut size = fixture.connect(token, StreamKind::TerminalSize);
        let mut seen = read_until(&mut terminal, "30 90\r\n").await;
        size.write_all(&TerminalSize { rows: 40, columns: 100 }.to_bytes()).await.unwrap();
        fixture.agent.resize(token, TerminalSize { rows: 40, columns: 100 }).unwrap();
        terminal.write_all(b"word\n").await.unwrap();
        seen.push_str(&read_until(&mut terminal, "got word\r\n").await);
        assert!(seen.contains("40 100\r\n"), "{seen}");
        assert_eq!(fixture.end(token).await, 5);
    }
}

async fn read_until(stream: &mut UnixStream, wanted: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        assert!(
            stream.read_buf(&mut seen).await.unwrap() > 0,
            "{}",
            String::from_utf8_lossy(&seen)
        );
    }
    String::from_utf8(seen).unwrap()
}

async fn signals_reach_their_process(mut fixture: Fixture) {
    running(&fixture, "trap 'exit 9' TERM; while :; do sleep 0.05; done").await;
    fixture.agent.exec(&fixture.id, OTHER, &process(&["sleep", "60"])).await.unwrap();
    assert!(fixture.agent.signal(OTHER, 15).unwrap());
    assert_eq!(fixture.end(OTHER).await, 143);
    assert!(!fixture.agent.signal(OTHER, 15).unwrap());
    let third = ProcessToken(3);
    fixture.agent.exec(&fixture.id, third, &process(&["sleep", "60"])).await.unwrap();
    // Real-time signals have no name.
    assert!(fixture.agent.signal(third, 40).unwrap());
    assert_eq!(fixture.end(third).await, 168);
    assert!(fixture.agent.signal(INIT, 15).unwrap());
    assert_eq!(fixture.end(INIT).await, 9);
    assert!(matches!(fixture.agent.signal(ProcessToken(8), 9), Err(RequestError::NoProcess(_))));
}

async fn the_end_of_init_is_the_end_of_all(mut fixture: Fixture) {
    running(&fixture, "while [ ! -e /end ]; do sleep 0.05; done; exit 4").await;
    fixture.agent.exec(&fixture.id, OTHER, &process(&["sleep", "60"])).await.unwrap();
    fs::write(fixture.rootfs().join("end"), "").unwrap();
    assert_eq!(fixture.end(OTHER).await, 137);
    assert_eq!(fixture.end(INIT).await, 4);
    assert_eq!(fixture.agent.wait(INIT).await.unwrap().code, 4);
    while fixture.group().exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(fixture.agent.start(&fixture.id).await, Err(RequestError::NoContainer(_))));
}

async fn processes_are_listed(mut fixture: Fixture) {
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

async fn a_child_that_keeps_the_pipe_does_not_hold_up_the_end(mut fixture: Fixture) {
    running(&fixture, "sleep 60").await;
    let background = process(&["sh", "-c", "(sleep 0.3; echo late) & echo early"]);
    fixture.agent.exec(&fixture.id, OTHER, &background).await.unwrap();
    let mut stdout = fixture.connect(OTHER, StreamKind::Stdout);
    assert_eq!(fixture.end(OTHER).await, 0);
    assert_eq!(read_until(&mut stdout, "early\n").await, "early\n");
    assert_eq!(read_until(&mut stdout, "late\n").await, "late\n");
}
