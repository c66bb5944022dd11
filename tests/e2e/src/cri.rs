//! A client of the Container Runtime Interface, as the kubelet is one: pods and their containers, over
//! the socket of a containerd.

use std::fs;
use std::path::{Path, PathBuf};

use protobuf::{Message, MessageField};

use crate::archive::NAME;
use crate::forwarding::Forwarding;
use crate::grpc::{self, Refusal};
use crate::patience::until;
use crate::{Containerd, Outcome};

/// The messages, generated from `proto/cri.proto`.
pub mod message {
    // Generated: its style is not ours to hold.
    #![allow(missing_docs, unreachable_pub, unused, nonstandard_style, rust_2018_idioms)]
    #![allow(clippy::all, clippy::pedantic)]
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    include!(concat!(env!("OUT_DIR"), "/cri.rs"));
}

use message::{
    ContainerConfig, ContainerId, ContainerSecurityContext, ContainerState, ContainerStats,
    ContainerStatus, CreateContainerRequest, Empty, ExecSyncRequest, ExecSyncResponse, ImageSpec,
    LinuxContainer, LinuxSandbox, NamespaceMode, NamespaceOption, PodId, RunPodSandboxRequest,
    SandboxConfig, SandboxMetadata, SandboxSecurityContext, SandboxStatus, SecurityProfile,
    StopContainerRequest,
};

/// What the kubelet asks to be hidden from, and not written to by, a container.
const MASKED: [&str; 4] = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"];
const READ_ONLY: [&str; 3] = ["/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// How long a program has between SIGTERM and SIGKILL, in seconds.
const GRACE: i64 = 30;

/// How long one that is asked for something may take, in seconds.
const EXEC_LIMIT: i64 = 120;

/// A client.
#[derive(Clone, Debug)]
pub struct Cri {
    socket: PathBuf,
    folder: PathBuf,
    /// Where the engine's own addresses are.
    network: PathBuf,
}

impl Cri {
    /// To a daemon that was started [`Containerd::with_cri`], once it knows the image.
    #[must_use]
    pub fn of(containerd: &Containerd) -> Self {
        let folder = containerd.folder().to_owned();
        let network = containerd.network();
        let cri = Self { socket: folder.join("sock"), folder, network };
        until("the image is known", || cri.knows_the_image());
        cri
    }

    fn knows_the_image(&self) -> bool {
        let image = message::ImageStatusRequest { image: image(), ..Default::default() };
        let status: Result<message::ImageStatusResponse, _> =
            grpc::call(&self.socket, "/runtime.v1.ImageService/ImageStatus", &image);
        status.is_ok_and(|status| status.image.is_some())
    }

    /// Runs a pod.
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod {
        self.try_pod(name, |_| {}).unwrap_or_else(|refusal| panic!("{refusal:?}"))
    }

    /// Runs a pod that is asked for otherwise than the others.
    ///
    /// # Errors
    /// The engine refuses.
    pub fn try_pod(
        &self,
        name: &str,
        edit: impl FnOnce(&mut SandboxConfig),
    ) -> Result<Pod, Refusal> {
        let mut config = self.sandbox(name);
        edit(&mut config);
        fs::create_dir_all(&config.log_directory).unwrap();
        let request = RunPodSandboxRequest {
            config: Some(config.clone()).into(),
            runtime_handler: "cofferdam".to_owned(),
            ..Default::default()
        };
        let made: PodId = self.call("RunPodSandbox", &request)?;
        Ok(Pod { cri: self.clone(), id: made.pod_sandbox_id, config })
    }

    /// As the kubelet asks for one.
    fn sandbox(&self, name: &str) -> SandboxConfig {
        let metadata = SandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            ..Default::default()
        };
        let security = SandboxSecurityContext {
            namespace_options: own_processes(),
            seccomp: Some(SecurityProfile::default()).into(),
            ..Default::default()
        };
        let linux = LinuxSandbox {
            cgroup_parent: format!("/{}-{name}", self.folder.file_name().unwrap().display()),
            security_context: Some(security).into(),
            ..Default::default()
        };
        SandboxConfig {
            metadata: Some(metadata).into(),
            hostname: name.to_owned(),
            log_directory: self.folder.join("logs").join(name).display().to_string(),
            linux: Some(linux).into(),
            ..Default::default()
        }
    }

    fn call<A: Message>(&self, method: &str, request: &impl Message) -> Result<A, Refusal> {
        grpc::call(&self.socket, &format!("/runtime.v1.RuntimeService/{method}"), request)
    }

    #[track_caller]
    fn succeed<A: Message>(&self, method: &str, request: &impl Message) -> A {
        self.call(method, request).unwrap_or_else(|refusal| panic!("{method}: {refusal:?}"))
    }
}

/// Each container has its own: the kubelet's default, and not CRI's.
fn own_processes() -> MessageField<NamespaceOption> {
    let pid = NamespaceMode::CONTAINER.into();
    Some(NamespaceOption { pid, ..Default::default() }).into()
}

fn image() -> MessageField<ImageSpec> {
    Some(ImageSpec { image: NAME.to_owned(), ..Default::default() }).into()
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    cri: Cri,
    /// Its sandbox's id, as the engine gave it.
    pub id: String,
    config: SandboxConfig,
}

impl Pod {
    fn named(&self) -> PodId {
        PodId { pod_sandbox_id: self.id.clone(), ..Default::default() }
    }

    /// What the engine says of it.
    #[must_use]
    pub fn status(&self) -> SandboxStatus {
        let answer: message::PodSandboxStatusResponse =
            self.cri.succeed("PodSandboxStatus", &self.named());
        answer.status.unwrap()
    }

    /// Whether it can have containers.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status().state == 0
    }

    /// Its address on its network.
    #[must_use]
    pub fn ip(&self) -> String {
        self.status().network.ip.clone()
    }

    /// Starts a container of it that runs a script.
    #[must_use]
    pub fn start(&self, name: &str, script: &str) -> PodContainer {
        self.start_with(name, script, |_| {})
    }

    /// The same, asked for otherwise than the others.
    #[must_use]
    pub fn start_with(
        &self,
        name: &str,
        script: &str,
        edit: impl FnOnce(&mut ContainerConfig),
    ) -> PodContainer {
        self.try_start(name, script, edit).unwrap_or_else(|refusal| panic!("{refusal:?}"))
    }

    /// The same, where it may be refused.
    ///
    /// # Errors
    /// The engine refuses to make or to start it.
    pub fn try_start(
        &self,
        name: &str,
        script: &str,
        edit: impl FnOnce(&mut ContainerConfig),
    ) -> Result<PodContainer, Refusal> {
        let mut config = container(name, script);
        edit(&mut config);
        let log = Path::new(&self.config.log_directory).join(&config.log_path);
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config).into(),
            sandbox_config: Some(self.config.clone()).into(),
            ..Default::default()
        };
        let made: ContainerId = self.cri.call("CreateContainer", &request)?;
        let container = PodContainer { cri: self.cri.clone(), id: made.container_id, log };
        let _: Empty = self.cri.call("StartContainer", &container.named())?;
        Ok(container)
    }

    /// A way to a port of it, as `kubectl port-forward` has the kubelet ask for one.
    #[must_use]
    pub fn forward(&self, port: u16) -> Forwarding {
        let request = message::PortForwardRequest {
            pod_sandbox_id: self.id.clone(),
            port: vec![port.into()],
            ..Default::default()
        };
        let answer: message::PortForwardResponse = self.cri.succeed("PortForward", &request);
        Forwarding::open(&self.cri.network, &answer.url)
    }

    /// Ends all of it.
    pub fn stop(&self) {
        let _: Empty = self.cri.succeed("StopPodSandbox", &self.named());
    }

    /// Takes it away with everything that is in it, and its control group, as the kubelet does: it is
    /// empty.
    pub fn remove(&self) {
        let _: Empty = self.cri.succeed("RemovePodSandbox", &self.named());
        let group = self.config.linux.cgroup_parent.trim_start_matches('/');
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
        for folder in hierarchies.chain([root.to_owned()]).map(|folder| folder.join(group)) {
            if folder.exists() {
                until("the pod's control group is empty", || fs::remove_dir(&folder).is_ok());
            }
        }
    }
}

/// As the kubelet asks for one.
fn container(name: &str, script: &str) -> ContainerConfig {
    let security = ContainerSecurityContext {
        namespace_options: own_processes(),
        seccomp: Some(SecurityProfile::default()).into(),
        masked_paths: MASKED.map(str::to_owned).to_vec(),
        readonly_paths: READ_ONLY.map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let metadata = message::ContainerMetadata { name: name.to_owned(), ..Default::default() };
    ContainerConfig {
        metadata: Some(metadata).into(),
        image: image(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainer {
            security_context: Some(security).into(),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

/// A container of a pod's.
#[derive(Debug)]
pub struct PodContainer {
    cri: Cri,
    /// As the engine gave it.
    pub id: String,
    log: PathBuf,
}

impl PodContainer {
    fn named(&self) -> ContainerId {
        ContainerId { container_id: self.id.clone(), ..Default::default() }
    }

    /// What the engine says of it.
    #[must_use]
    pub fn status(&self) -> ContainerStatus {
        let answer: message::ContainerStatusResponse =
            self.cri.succeed("ContainerStatus", &self.named());
        answer.status.unwrap()
    }

    /// Waits until it has ended; its code.
    #[must_use]
    pub fn ended(&self) -> i32 {
        let ended = ContainerState::CONTAINER_EXITED.into();
        until("the container has ended", || self.status().state == ended);
        self.status().exit_code
    }

    /// Runs a script in it.
    #[must_use]
    pub fn exec(&self, script: &str) -> Outcome {
        let request = ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: EXEC_LIMIT,
            ..Default::default()
        };
        let done: ExecSyncResponse = self.cri.succeed("ExecSync", &request);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome { code: done.exit_code, stdout: text(&done.stdout), stderr: text(&done.stderr) }
    }

    /// What it wrote: lines of its stream's name and the text.
    #[must_use]
    pub fn logged(&self) -> Vec<(String, String)> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        // Time, stream, whether it is a whole line, text.
        let parts = log.lines().filter_map(|line| {
            let mut words = line.splitn(4, ' ').skip(1);
            Some((words.next()?.to_owned(), words.nth(1)?.to_owned()))
        });
        parts.collect()
    }

    /// What it uses.
    #[must_use]
    pub fn stats(&self) -> ContainerStats {
        let answer: message::ContainerStatsResponse =
            self.cri.succeed("ContainerStats", &self.named());
        answer.stats.unwrap()
    }

    /// Gives it another limit of memory.
    pub fn limit_memory(&self, bytes: i64) {
        let limits = message::Resources { memory_limit_in_bytes: bytes, ..Default::default() };
        let request = message::UpdateContainerResourcesRequest {
            container_id: self.id.clone(),
            linux: Some(limits).into(),
            ..Default::default()
        };
        let _: Empty = self.cri.succeed("UpdateContainerResources", &request);
    }

    /// Ends it: SIGTERM first.
    pub fn stop(&self) {
        let request = StopContainerRequest {
            container_id: self.id.clone(),
            timeout: GRACE,
            ..Default::default()
        };
        let _: Empty = self.cri.succeed("StopContainer", &request);
    }

    /// Takes it away.
    pub fn remove(&self) {
        let _: Empty = self.cri.succeed("RemoveContainer", &self.named());
    }
}
