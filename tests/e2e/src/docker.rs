//! A Docker of a scenario's own, whose default runtime is Cofferdam in the mode of this run.
//!
//! The daemon has a network namespace of its own, which is the host as far as its containers can
//! tell: its bridge, its packet filter and its published ports go with it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

use crate::netns::NetworkNamespace;
use crate::patience::until_nothing_is_left;
use crate::runtime::{finish, finish_before_input};
use crate::{Bundle, Mode, Outcome, setting};

/// The daemon is up in three seconds; on a processor in software in a minute.
const READY: Duration = Duration::from_secs(180);

/// The image of busybox.
pub const IMAGE: &str = "busybox:test";

/// A runtime by whose configuration a container may have another's network.
pub const SHARING: &str = "sharing";

/// What the images of the demonstration stack are made from.
const STACK_IMAGE: &str = "stack:test";

/// A daemon with its state in a folder of its own; both end when this is dropped.
#[derive(Debug)]
pub struct Docker {
    folder: TempDir,
    daemon: Child,
    namespace: NetworkNamespace,
}

impl Docker {
    /// Starts one that has the image [`IMAGE`].
    #[must_use]
    pub fn start() -> Self {
        let docker = Self::without_images();
        docker.import(&Bundle::busybox(&[]).rootfs(), IMAGE);
        docker
    }

    /// Starts one that has the image `stack:test`, of the programs of the demonstration stack. To take
    /// them in would take the lab minutes: the image's one layer leads to the tree in the cache.
    #[must_use]
    pub fn start_with_stack() -> Self {
        let docker = Self::without_images();
        docker.import(TempDir::new().unwrap().path(), STACK_IMAGE);
        let layer = docker.inspect(STACK_IMAGE, "{{.GraphDriver.Data.UpperDir}}");
        fs::remove_dir(&layer).unwrap();
        symlink(setting("COFFERDAM_STACK"), layer).unwrap();
        docker
    }

    fn without_images() -> Self {
        let namespace = NetworkNamespace::new("docker");
        // In memory: an overlay cannot lie on the lab's root, which is one.
        let folder = TempDir::with_prefix_in("cofferdam-docker-", "/run").unwrap();
        let daemon = daemon(folder.path(), &namespace);
        let docker = Self { folder, daemon, namespace };
        docker.wait_until_ready();
        docker
    }

    fn wait_until_ready(&self) {
        let end = Instant::now() + READY;
        while self.docker(&["version"]).code != 0 {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "dockerd does not come up: {log}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn import(&self, rootfs: &Path, image: &str) {
        let archive = self.folder.path().join("image.tar");
        run(Command::new("tar").arg("-C").arg(rootfs).arg("-cf").arg(&archive).arg("."));
        self.docker(&["import", archive.to_str().unwrap(), image]).exits(0);
        fs::remove_file(archive).unwrap();
    }

    /// `docker ARGUMENTS`.
    #[must_use]
    pub fn docker(&self, arguments: &[&str]) -> Outcome {
        self.docker_with_input(arguments, b"")
    }

    /// `docker ARGUMENTS` with this on stdin.
    #[must_use]
    pub fn docker_with_input(&self, arguments: &[&str], input: &[u8]) -> Outcome {
        let mut command = self.client("docker");
        command.args(arguments);
        finish(command, input)
    }

    /// The same with more on stdin to come, as far as the client can tell. Docker gives what is attached
    /// to a container no more output once its input has ended, unless it is the container's only one.
    #[must_use]
    pub fn docker_with_lasting_input(&self, arguments: &[&str], input: &[u8]) -> Outcome {
        let mut command = self.client("docker");
        command.args(arguments);
        finish_before_input(command, input)
    }

    /// `docker ARGUMENTS` in a terminal, after `before` in its shell.
    #[must_use]
    pub fn docker_in_a_terminal(&self, before: &str, arguments: &[&str], input: &[u8]) -> Outcome {
        let quoted = arguments.iter().map(|word| format!(" '{word}'")).collect::<String>();
        let mut command = self.client("script");
        command.args(["-qec", &format!("{before}; exec docker{quoted}"), "/dev/null"]);
        finish(command, input)
    }

    /// A program that talks to the daemon.
    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let socket = self.folder.path().join("sock");
        command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        // The builder whose steps are containers of the default runtime.
        command.env("DOCKER_BUILDKIT", "0");
        command
    }

    /// `docker run FLAGS IMAGE PROGRAM`.
    #[must_use]
    pub fn run(&self, flags: &[&str], program: &[&str]) -> Outcome {
        let all = [&["run"], flags, &[IMAGE], program].concat();
        self.docker(&all)
    }

    /// A program on what the daemon takes for the host.
    #[must_use]
    pub fn on_the_host(&self, program: &[&str]) -> Outcome {
        finish(self.command_on_the_host(program), b"")
    }

    /// The same, not yet run.
    #[must_use]
    pub fn command_on_the_host(&self, program: &[&str]) -> Command {
        let mut command = NetworkNamespace::command(Some(&self.namespace), program[0]);
        command.args(&program[1..]);
        command
    }

    /// A field of `inspect`, by its template.
    #[must_use]
    pub fn inspect(&self, container: &str, template: &str) -> String {
        let outcome = self.docker(&["inspect", "--format", template, container]);
        outcome.exits(0).stdout.trim().to_owned()
    }

    /// The daemon's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// No container is known, and none has left a mount, a process or a state.
    #[track_caller]
    pub fn has_left_nothing(&self) {
        until_nothing_is_left(|| self.left());
    }

    fn left(&self) -> Vec<String> {
        let containers = self.docker(&["ps", "--all", "--quiet"]).exits(0).stdout.clone();
        let mut left: Vec<String> =
            containers.lines().map(|id| format!("container {id}")).collect();
        let layers = format!("{}/data/overlay2/", self.folder.path().display());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(&layers)).map(str::to_owned));
        for runtime in ["cofferdam", SHARING] {
            let state = self.folder.path().join(format!("exec/runtime-{runtime}/moby"));
            let state = fs::read_dir(state).into_iter().flatten();
            left.extend(state.map(|entry| entry.unwrap().path().display().to_string()));
        }
        left
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let containers = self.docker(&["ps", "--all", "--quiet"]).stdout;
        let containers: Vec<&str> = containers.lines().collect();
        if !containers.is_empty() {
            let _ = self.docker(&[&["rm", "--force"], containers.as_slice()].concat());
        }
        // It ends its containerd.
        let _ = kill(Pid::from_raw(self.daemon.id().cast_signed()), Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}

fn daemon(folder: &Path, namespace: &NetworkNamespace) -> Child {
    let path = |name: &str| folder.join(name).display().to_string();
    let program = Path::new(&setting("COFFERDAM_BIN")).join("cofferdam");
    fs::write(folder.join("sharing.toml"), "[microvm]\njoined_network = \"share\"\n").unwrap();
    let isolation = Mode::current().flag();
    let settings = json!({
        "runtimes": {
            "cofferdam": { "path": program, "runtimeArgs": ["--isolation", isolation] },
            SHARING: {
                "path": program,
                "runtimeArgs": ["--isolation", isolation, "--config", path("sharing.toml")],
            },
        },
        "default-runtime": "cofferdam",
        "data-root": path("data"),
        "exec-root": path("exec"),
        "pidfile": path("pid"),
        "hosts": [format!("unix://{}", path("sock"))],
        // Of documentation's: no network of this machine's.
        "bip": "192.0.2.1/24",
        "default-address-pools": [{ "base": "198.51.100.0/24", "size": 28 }],
        "storage-driver": "overlay2",
    });
    fs::write(folder.join("daemon.json"), settings.to_string()).unwrap();
    let log = File::create(folder.join("log")).unwrap();
    NetworkNamespace::command(Some(namespace), "dockerd")
        .arg("--config-file")
        .arg(folder.join("daemon.json"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("dockerd: {error}: run `cargo xtask setup`"))
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
