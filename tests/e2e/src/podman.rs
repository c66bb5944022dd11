//! A Podman of a scenario's own, whose runtime is Cofferdam in the mode of this run.
//!
//! There is no daemon: images, containers, networks and settings are in a folder of this one's. What
//! it takes for the host's network is a namespace, with which its bridges, its packet filter and its
//! published ports go.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::leftovers::{mounts, processes};
use crate::patience::until_nothing_is_left;
use crate::runtime::finish;
use crate::{Bundle, Mode, Outcome, User, setting};

/// The image of busybox.
pub const IMAGE: &str = "localhost/busybox:test";

/// What it has is in a folder, and ends when this is dropped.
#[derive(Debug)]
pub struct Podman {
    folder: TempDir,
    /// Who runs it, if not root.
    user: Option<User>,
    /// Whether it was seen that nothing is left: each start of Podman takes seconds in the lab.
    is_clean: Cell<bool>,
}

impl Podman {
    /// One that has the image [`IMAGE`].
    #[must_use]
    pub fn new() -> Self {
        Self::of(None)
    }

    /// The same of an ordinary user, in the host's own network.
    #[must_use]
    pub fn rootless() -> Self {
        Self::of(Some(User::ordinary()))
    }

    fn of(user: Option<User>) -> Self {
        // In memory: an overlay cannot lie on the lab's root, which is one.
        let folder = TempDir::with_prefix_in("cofferdam-podman-", "/run").unwrap();
        write_settings(folder.path(), user.as_ref());
        let podman = Self { folder, user, is_clean: Cell::new(false) };
        if podman.user.is_none() {
            run(Command::new("ip").args(["netns", "add", &podman.tag()]));
            run(Command::new("ip").args(["-n", &podman.tag(), "link", "set", "lo", "up"]));
        }
        podman.import();
        podman
    }

    fn import(&self) {
        let (bundle, archive) = (Bundle::busybox(&[]), self.folder().join("image.tar"));
        run(Command::new("tar").arg("-C").arg(bundle.rootfs()).arg("-cf").arg(&archive).arg("."));
        if let Some(user) = &self.user {
            user.give(self.folder());
        }
        self.podman(&["import", "--quiet", archive.to_str().unwrap(), IMAGE]).exits(0);
        fs::remove_file(archive).unwrap();
    }

    /// `podman ARGUMENTS`.
    #[must_use]
    pub fn podman(&self, arguments: &[&str]) -> Outcome {
        self.podman_with_input(arguments, b"")
    }

    /// `podman ARGUMENTS` with this on stdin.
    #[must_use]
    pub fn podman_with_input(&self, arguments: &[&str], input: &[u8]) -> Outcome {
        finish(self.on_its_host(&[&self.words(), arguments].concat()), input)
    }

    /// `podman ARGUMENTS` in a terminal, after `before` in its shell.
    #[must_use]
    pub fn podman_in_a_terminal(&self, before: &str, arguments: &[&str], input: &[u8]) -> Outcome {
        let words = [&self.words(), arguments].concat();
        let quoted = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let script = format!("{before}; exec {quoted}");
        finish(self.on_its_host(&["script", "-qec", &script, "/dev/null"]), input)
    }

    fn words(&self) -> Vec<&'static str> {
        let flag = match Mode::current() {
            Mode::Namespace => "isolation=namespace",
            Mode::MicroVm => "isolation=microvm",
        };
        vec!["podman", "--runtime-flag", flag]
    }

    /// `podman run FLAGS IMAGE PROGRAM`.
    #[must_use]
    pub fn run(&self, flags: &[&str], program: &[&str]) -> Outcome {
        self.podman(&self.run_arguments(flags, program))
    }

    /// The same with runc, the oracle.
    #[must_use]
    pub fn run_with_runc(&self, flags: &[&str], program: &[&str]) -> Outcome {
        let arguments = self.run_arguments(flags, program);
        finish(self.on_its_host(&[&["podman", "--runtime", "runc"], &arguments[..]].concat()), b"")
    }

    fn run_arguments<'a>(&self, flags: &[&'a str], program: &[&'a str]) -> Vec<&'a str> {
        [&["run"], flags, &[IMAGE], program].concat()
    }

    /// A program on what it takes for the host, with its settings.
    #[must_use]
    pub fn on_the_host(&self, program: &[&str]) -> Outcome {
        finish(self.on_its_host(program), b"")
    }

    fn on_its_host(&self, program: &[&str]) -> Command {
        let mut command = match &self.user {
            Some(user) => user.command(Path::new(program[0])),
            None => {
                // `ip netns exec` would hide the control groups.
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{}", self.tag())).arg(program[0]);
                command
            }
        };
        command.args(&program[1..]);
        // conmon writes of a container that has run out of memory where it was started.
        command
            .current_dir(self.folder())
            .env("CONTAINERS_CONF", self.folder().join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.folder().join("storage.conf"));
        command
    }

    /// A field of `inspect`, by its template.
    #[must_use]
    pub fn inspect(&self, container: &str, template: &str) -> String {
        let outcome = self.podman(&["inspect", "--format", template, container]);
        outcome.exits(0).stdout.trim().to_owned()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// In the name of all that is its own.
    fn tag(&self) -> String {
        self.folder().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// No container is known, and none has left a process, a mount, an interface or a state.
    #[track_caller]
    pub fn has_left_nothing(&self) {
        until_nothing_is_left(|| self.left());
        self.is_clean.set(true);
    }

    fn left(&self) -> Vec<String> {
        let containers =
            self.podman(&["ps", "--all", "--external", "--quiet"]).exits(0).stdout.clone();
        let mut left: Vec<String> =
            containers.lines().map(|id| format!("container {id}")).collect();
        left.extend(processes(&self.tag()));
        // The images' folder is a mount of Podman's, as long as it is there.
        let images = format!("{}/images/overlay ", self.folder().display());
        let mounts = mounts(&self.folder().display().to_string());
        left.extend(mounts.into_iter().filter(|line| !line.contains(&images)));
        if self.user.is_none() {
            let links = self.on_the_host(&["ip", "-o", "link", "show", "type", "veth"]).stdout;
            left.extend(links.lines().map(str::to_owned));
        }
        left.extend(self.states());
        left
    }

    /// The runtime's states of containers whose bundle is in the folder.
    fn states(&self) -> Vec<String> {
        let folders = fs::read_dir(self.state_root()).into_iter().flatten().filter_map(Result::ok);
        let files = folders.flat_map(|folder| fs::read_dir(folder.path())).flatten();
        let paths = files.filter_map(|file| Some(file.ok()?.path()));
        let is_ours = |path: &PathBuf| {
            let text = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&text).contains(&self.tag())
        };
        paths.filter(is_ours).map(|path| path.display().to_string()).collect()
    }

    fn state_root(&self) -> PathBuf {
        self.user
            .as_ref()
            .map_or_else(|| "/run".into(), |user| user.home().to_owned())
            .join("cofferdam")
    }
}

impl Default for Podman {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if !self.is_clean.get() {
            let _ = self.podman(&["pod", "rm", "--all", "--force", "--time", "0"]);
            let _ = self.podman(&["rm", "--all", "--force", "--time", "0"]);
        }
        if self.user.is_some() {
            // Ends the process that holds the user's namespaces.
            let _ = self.podman(&["system", "migrate"]);
        }
        for process in processes(&self.tag()) {
            let pid = process.split(' ').next().and_then(|pid| pid.parse().ok());
            let _ = pid.map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
        }
        if self.user.is_none() {
            let images = self.folder().join("images/overlay");
            let _ = Command::new("umount").args(["-q", "-l"]).arg(images).status();
            let _ = Command::new("ip").args(["netns", "del", &self.tag()]).status();
        }
    }
}

fn write_settings(folder: &Path, user: Option<&User>) {
    let programs = PathBuf::from(setting("COFFERDAM_BIN"));
    let programs = user.map_or_else(|| programs.clone(), |user| user.reachable(&programs));
    // What a user may mount depends on the kernel and on the file system: this needs nothing of them.
    let driver = if user.is_some() { "vfs" } else { "overlay" };
    let cofferdam = programs.join("cofferdam");
    let (folder, cofferdam) = (folder.display(), cofferdam.display());
    // Locks of its own: those in shared memory are of all Podmans together. Limits of a container that
    // a machine has which lets nobody raise its own; subnets of documentation's, which are no network
    // of this machine's.
    let containers = format!(
        "[containers]\nlog_driver = \"k8s-file\"\n\
         default_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n\
         [engine]\nruntime = \"cofferdam\"\ncgroup_manager = \"cgroupfs\"\n\
         events_logger = \"file\"\nlock_type = \"file\"\ntmp_dir = \"{folder}/tmp\"\n\
         [engine.runtimes]\ncofferdam = [\"{cofferdam}\"]\n\
         [network]\nnetwork_config_dir = \"{folder}/networks\"\n\
         default_subnet = \"192.0.2.0/24\"\n\
         default_subnet_pools = [{{ base = \"198.51.100.0/24\", size = 28 }}]\n"
    );
    let storage = format!(
        "[storage]\ndriver = \"{driver}\"\ngraphroot = \"{folder}/images\"\nrunroot = \"{folder}/run\"\n"
    );
    fs::write(format!("{folder}/containers.conf"), containers).unwrap();
    fs::write(format!("{folder}/storage.conf"), storage).unwrap();
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
