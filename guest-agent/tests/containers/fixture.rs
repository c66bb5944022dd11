//! An agent on the host, with a root file system to make containers from.

pub(crate) use std::fs;
pub(crate) use std::os::unix::fs::{PermissionsExt, symlink};
pub(crate) use std::path::{Path, PathBuf};
pub(crate) use std::time::Duration;

pub(crate) use cofferdam_agent::agent::{Agent, RequestError};
pub(crate) use cofferdam_agent::layout::Layout;
pub(crate) use cofferdam_agent::reaper::Reaper;
pub(crate) use cofferdam_agent::{StartError, process::Exit};
pub(crate) use cofferdam_protocol::id::{ContainerId, ProcessToken};
pub(crate) use cofferdam_protocol::lifeline::LifelineFrame;
pub(crate) use cofferdam_protocol::plan::*;
pub(crate) use cofferdam_protocol::stream::{StreamHeader, StreamKind, TerminalSize};
pub(crate) use tokio::io::{AsyncReadExt, AsyncWriteExt};
pub(crate) use tokio::net::UnixStream;
pub(crate) use tokio::sync::mpsc;

const BUSYBOX: &str = "/bin/busybox";
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
pub(crate) const INIT: ProcessToken = ProcessToken(1);
pub(crate) const OTHER: ProcessToken = ProcessToken(2);

/// An agent with one share: a root file system with busybox in it.
pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) agent: Agent,
    pub(crate) ends: mpsc::UnboundedReceiver<LifelineFrame>,
    pub(crate) id: ContainerId,
    pub(crate) cgroups: &'static str,
    reaper: Reaper,
}

impl Fixture {
    /// One more, with a container of another name.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.reaper.clone())
    }

    pub(crate) fn new(reaper: Reaper) -> Self {
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

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.folder.path().join("shares/0")
    }

    pub(crate) fn group(&self) -> PathBuf {
        Path::new(self.cgroups).join(self.id.as_str())
    }

    pub(crate) async fn create(&self, plan: &ContainerPlan) -> Result<(), RequestError> {
        self.agent.create(&self.id, INIT, plan).await
    }

    pub(crate) fn connect(&self, process: ProcessToken, kind: StreamKind) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.agent.connect(StreamHeader { process, kind }, Box::new(theirs));
        ours
    }

    /// Runs a container to its end: exit code and output.
    pub(crate) async fn run(&mut self, plan: &ContainerPlan) -> (u8, String) {
        self.create(plan).await.unwrap_or_else(|error| panic!("{}", failure(error)));
        let mut stdout = self.connect(INIT, StreamKind::Stdout);
        self.agent.start(&self.id).await.unwrap_or_else(|error| panic!("{}", failure(error)));
        let mut output = String::new();
        stdout.read_to_string(&mut output).await.unwrap();
        (self.end(INIT).await, output)
    }

    /// The end of a process, as the lifeline tells it.
    pub(crate) async fn end(&mut self, token: ProcessToken) -> u8 {
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

pub(crate) fn failure(error: RequestError) -> String {
    match error {
        RequestError::Start(error) => error.message(),
        other => other.to_string(),
    }
}

pub(crate) fn filesystem(fstype: &str, target: &str, data: &str) -> MountPlan {
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
        recursive_cleared: 0,
        propagation: Vec::new(),
    }
}

/// What this test has itself: on a machine that is a container, not everything.
pub(crate) fn all_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap()
}

pub(crate) fn process(args: &[&str]) -> ProcessPlan {
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
        scheduling: SchedulingPlan::default(),
        personality: None,
        seccomp: None,
        stdio: StdioPlan::Pipes { stdin: false, stdout: true, stderr: false },
    }
}

pub(crate) fn plan(args: &[&str]) -> ContainerPlan {
    ContainerPlan {
        pod: None,
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
        user_namespace: None,
        time_offsets: None,
        start_hooks: Vec::new(),
        hook_state: "{\"status\":\"created\"}".to_owned(),
        process: process(args),
    }
}

pub(crate) async fn running(fixture: &Fixture, script: &str) {
    let mut plan = plan(&["sh", "-c", script]);
    plan.process.stdio = StdioPlan::Pipes { stdin: false, stdout: false, stderr: false };
    fixture.create(&plan).await.unwrap();
    fixture.agent.start(&fixture.id).await.unwrap();
}

pub(crate) async fn read_until(stream: &mut UnixStream, wanted: &str) -> String {
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
