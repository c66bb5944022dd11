//! A shim without containerd: a bundle of its own, `start`, and its calls, each as containerd makes it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim_protos::api::{
    ConnectRequest, CreateTaskRequest, DeleteRequest, ShutdownRequest, StartRequest, WaitRequest,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, PingRequest, PlatformRequest, PlatformResponse, SandboxMetricsRequest,
    SandboxMetricsResponse, SandboxStatusRequest, SandboxStatusResponse, ShutdownSandboxRequest,
    StartSandboxRequest, StopSandboxRequest, WaitSandboxRequest,
};
use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use containerd_shim_protos::ttrpc::{self, context};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::cri::message::SandboxConfig;
use crate::netns::NetworkNamespace;
use crate::{Bundle, Mode, setting};

/// Where the state of its containers is, in a folder for each of containerd's namespaces.
const STATES: &str = "/run/containerd/cofferdam";

/// On a processor in software, under load.
const PATIENCE_NS: i64 = 240_000_000_000;

/// A shim for a pod; it ends when this is dropped.
pub struct Shim {
    id: String,
    /// containerd's namespace is called like it.
    folder: TempDir,
    network: NetworkNamespace,
    events: Runtime,
    sandbox: SandboxClient,
    task: TaskClient,
}

/// A method's answer, or the shim's words.
type Answer<T> = Result<T, String>;

impl Shim {
    /// Starts one in a bundle without a configuration, as containerd does for a sandbox.
    #[must_use]
    pub fn start(id: &str) -> Self {
        // In memory: an overlay cannot lie on the lab's root, which is one.
        let folder = TempDir::with_prefix_in("cofferdam-shim-", "/run").unwrap();
        let config = folder.path().join("cofferdam.toml");
        let policy = format!("[isolation]\npolicy = \"{}\"\n", Mode::current().flag());
        fs::write(&config, policy).unwrap();
        fs::create_dir_all(folder.path().join("bundle/rootfs")).unwrap();
        let address = start(folder.path(), id, &options(&config));
        let events = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = events.block_on(Client::connect(&address)).unwrap();
        let (sandbox, task) = (SandboxClient::new(client.clone()), TaskClient::new(client));
        let network = NetworkNamespace::new("shim");
        Self { id: id.to_owned(), folder, network, events, sandbox, task }
    }

    /// Its bundle.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    fn call<T>(&self, call: impl Future<Output = ttrpc::Result<T>>) -> Answer<T> {
        self.events.block_on(call).map_err(|error| error.to_string())
    }

    /// `CreateSandbox`, for a pod in a network of its own.
    ///
    /// # Errors
    /// The shim's words.
    pub fn create(&self, pod: &SandboxConfig) -> Answer<()> {
        let network = self.network.path().display().to_string();
        self.create_from(any("runtime.v1.PodSandboxConfig", pod.write_to_bytes().unwrap()), network)
    }

    /// `CreateSandbox`, of anything.
    ///
    /// # Errors
    /// The shim's words.
    pub fn create_from(&self, options: Any, netns_path: String) -> Answer<()> {
        let request = CreateSandboxRequest {
            sandbox_id: self.id.clone(),
            bundle_path: self.bundle().display().to_string(),
            options: Some(options).into(),
            netns_path,
            ..Default::default()
        };
        self.call(self.sandbox.create_sandbox(patiently(), &request)).map(drop)
    }

    /// `StartSandbox`: its process.
    #[must_use]
    pub fn start_sandbox(&self) -> u32 {
        let request = StartSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        self.call(self.sandbox.start_sandbox(patiently(), &request)).unwrap().pid
    }

    /// `SandboxStatus`.
    ///
    /// # Errors
    /// The shim's words.
    pub fn status(&self) -> Answer<SandboxStatusResponse> {
        let request = SandboxStatusRequest {
            sandbox_id: self.id.clone(),
            verbose: true,
            ..Default::default()
        };
        self.call(self.sandbox.sandbox_status(patiently(), &request))
    }

    /// `Platform`.
    #[must_use]
    pub fn platform(&self) -> PlatformResponse {
        let request = PlatformRequest { sandbox_id: self.id.clone(), ..Default::default() };
        self.call(self.sandbox.platform(patiently(), &request)).unwrap()
    }

    /// `PingSandbox`.
    ///
    /// # Errors
    /// The shim's words.
    pub fn ping(&self, id: &str) -> Answer<()> {
        let request = PingRequest { sandbox_id: id.to_owned(), ..Default::default() };
        self.call(self.sandbox.ping_sandbox(patiently(), &request)).map(drop)
    }

    /// `SandboxMetrics`.
    #[must_use]
    pub fn metrics(&self) -> SandboxMetricsResponse {
        let request = SandboxMetricsRequest { sandbox_id: self.id.clone(), ..Default::default() };
        self.call(self.sandbox.sandbox_metrics(patiently(), &request)).unwrap()
    }

    /// `StopSandbox`, and `WaitSandbox` while it does: the sandbox's code.
    #[must_use]
    pub fn stop(&self) -> u32 {
        let id = || self.id.clone();
        let (stop, wait) = (
            StopSandboxRequest { sandbox_id: id(), ..Default::default() },
            WaitSandboxRequest { sandbox_id: id(), ..Default::default() },
        );
        let both = async {
            let stopped = self.sandbox.stop_sandbox(patiently(), &stop);
            tokio::try_join!(self.sandbox.wait_sandbox(patiently(), &wait), stopped)
        };
        self.call(both).unwrap().0.exit_status
    }

    /// `ShutdownSandbox`.
    pub fn shutdown(&self) {
        let request = ShutdownSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        self.call(self.sandbox.shutdown_sandbox(patiently(), &request)).unwrap();
    }

    /// `Shutdown` of the Task service, which containerd calls after a pod's last container.
    pub fn shutdown_tasks(&self) {
        let request = ShutdownRequest { id: self.id.clone(), ..Default::default() };
        self.call(self.task.shutdown(patiently(), &request)).unwrap();
    }

    /// Runs a container of the pod's to its end: its code, and what it wrote.
    #[must_use]
    pub fn run(&self, id: &str, bundle: &Bundle) -> (u32, String) {
        self.start_container(id, bundle);
        let wait = WaitRequest { id: id.to_owned(), ..Default::default() };
        let code = self.call(self.task.wait(patiently(), &wait)).unwrap().exit_status;
        let delete = DeleteRequest { id: id.to_owned(), ..Default::default() };
        self.call(self.task.delete(patiently(), &delete)).unwrap();
        (code, fs::read_to_string(self.log(id)).unwrap())
    }

    /// Starts a container of the pod's.
    pub fn start_container(&self, id: &str, bundle: &Bundle) {
        let uri = format!("file://{}", self.log(id).display());
        let create = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.path().display().to_string(),
            stdout: uri.clone(),
            stderr: uri,
            options: Some(self.options()).into(),
            ..Default::default()
        };
        self.call(self.task.create(patiently(), &create)).unwrap();
        let start = StartRequest { id: id.to_owned(), ..Default::default() };
        self.call(self.task.start(patiently(), &start)).unwrap();
    }

    fn log(&self, id: &str) -> PathBuf {
        self.folder.path().join(format!("{id}.log"))
    }

    /// Kills the shim, and has what it left taken away, as containerd 1.7 does: by the sandbox's name.
    pub fn kill(&self) {
        let connect = ConnectRequest { id: self.id.clone(), ..Default::default() };
        let shim = self.call(self.task.connect(patiently(), &connect)).unwrap().shim_pid;
        kill(Pid::from_raw(shim.cast_signed()), Signal::SIGKILL).unwrap();
        let mut delete = command(self.folder.path(), &self.id);
        let output = delete.arg("-bundle").arg(self.bundle()).arg("delete").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn options(&self) -> Any {
        options(&self.folder.path().join("cofferdam.toml"))
    }

    /// What there is of it still: processes, mounts, and states of containers.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let tag = name(self.folder.path());
        let mut left: Vec<String> = crate::leftovers::processes(tag).into_iter().collect();
        left.extend(crate::leftovers::mounts(tag));
        let states = fs::read_dir(Path::new(STATES).join(tag)).into_iter().flatten();
        left.extend(states.map(|entry| entry.unwrap().path().display().to_string()));
        left
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let request = ShutdownSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        // It has, mostly.
        let _ = self.call(self.sandbox.shutdown_sandbox(patiently(), &request));
        let _ = fs::remove_dir(Path::new(STATES).join(name(self.folder.path())));
    }
}

fn name(folder: &Path) -> &str {
    folder.file_name().unwrap().to_str().unwrap()
}

fn patiently() -> context::Context {
    context::with_timeout(PATIENCE_NS)
}

fn any(kind: &str, value: Vec<u8>) -> Any {
    Any { type_url: kind.to_owned(), value, ..Default::default() }
}

/// The runtime's options, which name a configuration file: `config_path` (2).
fn options(config: &Path) -> Any {
    let path = config.display().to_string();
    let length = u8::try_from(path.len()).unwrap();
    any("runtimeoptions.v1.Options", [&[0x12, length], path.as_bytes()].concat())
}

/// `start`, in the bundle; the address that it prints.
fn start(folder: &Path, id: &str, options: &Any) -> String {
    let mut shim = command(folder, id);
    let shim = shim.arg("start").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shim = shim.spawn().unwrap();
    shim.stdin.take().unwrap().write_all(&options.write_to_bytes().unwrap()).unwrap();
    let output = shim.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn command(folder: &Path, id: &str) -> Command {
    let program = Path::new(&setting("COFFERDAM_BIN")).join("containerd-shim-cofferdam-v2");
    let mut command = Command::new(program);
    command.args(["-namespace", name(folder), "-id", id, "-address"]).arg(folder.join("sock"));
    command.current_dir(folder.join("bundle")).stdin(Stdio::null());
    command
}
