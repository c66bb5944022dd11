//! A containerd of a scenario's own, whose containers are Cofferdam's in the mode of this run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::archive::{NAME, archive};
use crate::netns::NetworkNamespace;
use crate::patience::{until, until_nothing_is_left};
use crate::runtime::finish;
use crate::{Bundle, Leftovers, Mode, Outcome, setting};

/// containerd is up in a second; on a processor in software in twenty.
const READY: Duration = Duration::from_secs(120);

const RUNTIME: &str = "io.containerd.cofferdam.v2";

/// Where the shims keep the state of their containers, a folder for each of containerd's namespaces.
const STATE_ROOT: &str = "/run/containerd/cofferdam";

/// Whose containers CRI's are.
const CRI_NAMESPACE: &str = "k8s.io";

/// A daemon with its state in a folder of its own; both end when this is dropped.
#[derive(Debug)]
pub struct Containerd {
    folder: TempDir,
    daemon: Child,
    /// What `--rootfs` names.
    bundle: Bundle,
    /// The host, as far as CRI's pods can tell: their bridge goes with it.
    network: Option<NetworkNamespace>,
}

impl Containerd {
    /// Starts one, for containers on a busybox root file system.
    #[must_use]
    pub fn start() -> Self {
        Self::of(|_| "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n".to_owned(), None)
    }

    /// Starts one that serves CRI, with a network for pods and an image of busybox for them.
    #[must_use]
    pub fn with_cri() -> Self {
        let containerd = Self::of(cri_settings, Some(NetworkNamespace::new("containerd")));
        let image = archive(&containerd.rootfs(), containerd.folder());
        let import = ["--namespace", CRI_NAMESPACE, "image", "import", image.to_str().unwrap()];
        containerd.ctr(&import).exits(0);
        containerd
    }

    fn of(settings: impl FnOnce(&Path) -> String, network: Option<NetworkNamespace>) -> Self {
        // In memory: an overlay cannot lie on the lab's root, which is one.
        let folder = TempDir::with_prefix_in("cofferdam-containerd-", "/run").unwrap();
        let path = folder.path().display();
        let general = format!("version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n");
        let socket = format!("[grpc]\naddress = \"{path}/sock\"\n");
        let settings = [general, settings(folder.path()), socket].concat();
        fs::write(folder.path().join("containerd.toml"), settings).unwrap();
        let policy = format!("[isolation]\npolicy = \"{}\"\n", Mode::current().flag());
        fs::write(folder.path().join("cofferdam.toml"), policy).unwrap();
        let daemon = daemon(folder.path(), network.as_ref());
        Self { folder, daemon, bundle: Bundle::busybox(&[]), network }
    }

    /// Kills the daemon and starts another one on the same state.
    pub fn restart(&mut self) {
        self.restart_after(|| {});
    }

    /// The same, with something that happens while there is none.
    pub fn restart_after(&mut self, happens: impl FnOnce()) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        happens();
        let _ = fs::remove_file(self.folder.path().join("sock"));
        self.daemon = daemon(self.folder.path(), self.network.as_ref());
    }

    /// The network namespace that the daemon takes for the host's.
    #[must_use]
    pub fn network(&self) -> PathBuf {
        let own = || PathBuf::from("/proc/self/ns/net");
        self.network.as_ref().map_or_else(own, NetworkNamespace::path)
    }

    /// A program on what the daemon takes for the host.
    #[must_use]
    pub fn on_the_host(&self, program: &[&str]) -> Outcome {
        let mut command = NetworkNamespace::command(self.network.as_ref(), program[0]);
        command.args(&program[1..]);
        finish(command, b"")
    }

    /// Nothing more is there of this daemon's pods than was before.
    #[track_caller]
    pub fn no_pod_is_left_since(&self, before: &Leftovers) {
        if let Some(left) = before.unlike(|| self.leftovers()) {
            panic!("{left}");
        }
    }

    /// What there is of this daemon's pods: processes, mounts, control groups and states.
    #[must_use]
    pub fn leftovers(&self) -> Leftovers {
        let tag = self.folder.path().file_name().unwrap().to_str().unwrap();
        let daemon = self.daemon.id();
        let root = Path::new(STATE_ROOT).join(CRI_NAMESPACE);
        Leftovers::tagged(tag, &root)
            .without(daemon)
            .without_sockets_at(&self.folder.path().join("sock"))
            .without_states_of_others(tag, &root)
    }

    /// `ctr ARGUMENTS`.
    #[must_use]
    pub fn ctr(&self, arguments: &[&str]) -> Outcome {
        self.ctr_with_input(arguments, b"")
    }

    /// `ctr ARGUMENTS` with this on stdin.
    #[must_use]
    pub fn ctr_with_input(&self, arguments: &[&str], input: &[u8]) -> Outcome {
        finish(self.command(arguments), input)
    }

    /// `ctr ARGUMENTS`, not yet run.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.folder.path().join("sock")).args(arguments);
        command
    }

    /// The arguments of `run FLAGS` on the busybox root file system.
    #[must_use]
    pub fn run_arguments(&self, flags: &[&str], id: &str, program: &[&str]) -> Vec<String> {
        let rootfs = self.bundle.rootfs().display().to_string();
        let mut all = self.run_flags(flags);
        all.extend(["--rootfs".to_owned(), rootfs, id.to_owned()]);
        all.extend(program.iter().map(|&word| word.to_owned()));
        all
    }

    /// `run FLAGS` on the busybox root file system.
    #[must_use]
    pub fn run(&self, flags: &[&str], id: &str, program: &[&str]) -> Outcome {
        self.ctr(&borrowed(&self.run_arguments(flags, id, program)))
    }

    /// `run --detach FLAGS`, seen running.
    pub fn start_container(&self, flags: &[&str], id: &str, program: &[&str]) {
        let flags: Vec<&str> = flags.iter().copied().chain(["--detach"]).collect();
        self.run(&flags, id, program).exits(0);
        self.becomes(id, "RUNNING");
    }

    /// `run` of the image, which [`archive`] wrote.
    #[must_use]
    pub fn run_image(&self, id: &str, program: &[&str]) -> Outcome {
        let mut all = self.run_flags(&["--rm"]);
        all.extend([NAME.to_owned(), id.to_owned()]);
        all.extend(program.iter().map(|&word| word.to_owned()));
        self.ctr(&borrowed(&all))
    }

    fn run_flags(&self, flags: &[&str]) -> Vec<String> {
        let config = self.folder.path().join("cofferdam.toml").display().to_string();
        let fixed = ["run", "--env", "PATH=/bin", "--runtime", RUNTIME, "--runtime-config-path"];
        let fixed = [fixed.as_slice(), &[config.as_str()]].concat();
        fixed.iter().chain(flags).map(|&word| word.to_owned()).collect()
    }

    /// What `task ls` says of a container; none: it has no task.
    #[must_use]
    pub fn status(&self, id: &str) -> Option<String> {
        let tasks = self.ctr(&["task", "ls"]).exits(0).stdout.clone();
        let line = tasks.lines().find(|line| line.split_whitespace().next() == Some(id))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    }

    /// Waits until [`Self::status`] is this.
    #[track_caller]
    pub fn becomes(&self, id: &str, status: &str) {
        until(&format!("{id} is {status}"), || self.status(id).as_deref() == Some(status));
    }

    /// The root file system that the containers share.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.bundle.rootfs()
    }

    /// The daemon's folder, a part of the command line of each shim.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The shims of this daemon.
    #[must_use]
    pub fn shims(&self) -> Vec<i32> {
        let address = self.folder.path().join("sock").display().to_string();
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words);
            words.contains("containerd-shim-cofferdam-v2") && words.contains(&address)
        })
        .collect()
    }

    /// Where the shim of a container listens.
    #[must_use]
    pub fn shim_socket(&self, id: &str) -> PathBuf {
        let bundle =
            self.folder.path().join("state/io.containerd.runtime.v2.task/default").join(id);
        let address = fs::read_to_string(bundle.join("address")).unwrap();
        PathBuf::from(address.trim().trim_start_matches("unix://"))
    }

    /// No shim, no mount and no state of a container is there any more.
    #[track_caller]
    pub fn has_left_nothing(&self) {
        until_nothing_is_left(|| self.left());
    }

    fn left(&self) -> Vec<String> {
        let mut left: Vec<String> =
            self.shims().iter().map(|pid| format!("the shim {pid}")).collect();
        let folder = self.folder.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned));
        let state = fs::read_dir(Path::new(STATE_ROOT).join("default")).into_iter().flatten();
        left.extend(state.map(|entry| entry.unwrap().path().display().to_string()));
        left
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for namespace in ["default", CRI_NAMESPACE] {
            let tasks = self.ctr(&["--namespace", namespace, "task", "ls", "--quiet"]).stdout;
            for id in tasks.lines() {
                let delete = ["--namespace", namespace, "task", "delete", "--force", id];
                let _ = self.ctr(&delete);
            }
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// CRI with one runtime, which is ours, and a network of documentation's addresses. Scores against the lack
/// of memory are lowered only where the machine lets root do it, which those of CI often do not.
fn cri_settings(folder: &Path) -> String {
    let path = folder.display();
    fs::create_dir(folder.join("cni")).unwrap();
    let network = json!({
        "cniVersion": "0.4.0", "name": "pods", "plugins": [{
            "type": "bridge", "bridge": "pods", "isGateway": true,
            "ipam": { "type": "host-local", "dataDir": folder.join("addresses"),
                      "ranges": [[{ "subnet": "192.0.2.0/24" }]],
                      "routes": [{ "dst": "0.0.0.0/0" }] }
        }]
    });
    fs::write(folder.join("cni/pods.conflist"), network.to_string()).unwrap();
    let plugin = "plugins.\"io.containerd.grpc.v1.cri\"";
    format!(
        "[{plugin}]\nsandbox_image = \"{NAME}\"\nnetns_mounts_under_state_dir = true\nrestrict_oom_score_adj = true\n\
         [{plugin}.cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"{path}/cni\"\n\
         [{plugin}.containerd]\ndefault_runtime_name = \"cofferdam\"\n\
         [{plugin}.containerd.runtimes.cofferdam]\nruntime_type = \"{RUNTIME}\"\n\
         [{plugin}.containerd.runtimes.cofferdam.options]\n\
         ConfigPath = \"{path}/cofferdam.toml\"\n"
    )
}

fn daemon(folder: &Path, network: Option<&NetworkNamespace>) -> Child {
    let path = format!("{}:{}", setting("COFFERDAM_BIN"), std::env::var("PATH").unwrap());
    let log = File::options().append(true).create(true).open(folder.join("log")).unwrap();
    let daemon = NetworkNamespace::command(network, "containerd")
        .arg("--config")
        .arg(folder.join("containerd.toml"))
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("containerd: {error}: run `cargo xtask setup`"));
    wait_until_ready(folder);
    daemon
}

fn wait_until_ready(folder: &Path) {
    let end = Instant::now() + READY;
    let mut version = Command::new("ctr");
    version.arg("--address").arg(folder.join("sock")).args(["--connect-timeout", "2s", "version"]);
    version.stdout(Stdio::null()).stderr(Stdio::null());
    while !version.status().unwrap().success() {
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(Instant::now() < end, "containerd does not come up: {log}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
