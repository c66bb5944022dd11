//! A containerd of the measurement's own, and `ctr`.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use super::handler::Handler;
use crate::process;

/// containerd is up in a second; on a processor in software in twenty.
const READY: Duration = Duration::from_secs(120);
/// What a container leaves to do in the background is done by then.
const SETTLED: Duration = Duration::from_millis(200);

/// A daemon with its state in a folder of its own; it ends when this is dropped, and its containers
/// before it.
pub(super) struct Containerd {
    folder: PathBuf,
    rootfs: PathBuf,
    namespace: String,
    daemon: Child,
}

/// What was done of one command's work, and by whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// From its beginning to its end, in microseconds.
    pub(super) whole_us: u64,
    /// Of that, what `ctr` and containerd had the processor for.
    pub(super) engine_us: u64,
}

impl Containerd {
    /// Starts one in an empty folder, for containers on this root file system. Its shims are looked for
    /// in these folders first.
    pub(super) fn start(folder: &Path, rootfs: &Path, programs: &Path) -> Result<Self> {
        let path = folder.display();
        let settings = format!(
            "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{path}/sock\"\n"
        );
        let file = folder.join("containerd.toml");
        fs::write(&file, settings)?;
        let log = File::create(folder.join("log"))?;
        let daemon = Command::new(program("containerd")?)
            .arg("--config")
            .arg(file)
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("Could not start containerd")?;
        let namespace = format!("cofferdam-bench-{}", std::process::id());
        let (folder, rootfs) = (folder.to_owned(), rootfs.to_owned());
        let containerd = Self { folder, rootfs, namespace, daemon };
        containerd.wait_until_ready()?;
        Ok(containerd)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let end = Instant::now() + READY;
        while self.run(&["--connect-timeout", "2s", "version"]).is_err() {
            if Instant::now() > end {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                bail!("containerd does not come up:\n{log}");
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Its folder, a part of each shim's command line.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The namespace of its containers: a part of the names of whatever they are made of.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The daemon's process.
    pub(super) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// The words of `run` of a program.
    pub(super) fn run_words(
        &self,
        handler: &Handler,
        options: &[String],
        id: &str,
        program: &[&str],
    ) -> Vec<String> {
        let own = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let rootfs = self.rootfs.display().to_string();
        let place = own(&["--rootfs", &rootfs, id]);
        [&own(&["run", "--env", "PATH=/bin"]), handler.flags(), options, &place, &own(program)]
            .concat()
    }

    /// Runs `ctr` to its end. What it says is looked at only if it fails.
    pub(super) fn run(&self, words: &[impl AsRef<str>]) -> Result<()> {
        self.begin(words)?.end()
    }

    /// The same, and what it took.
    pub(super) fn measured(&self, words: &[String]) -> Result<Sample> {
        thread::sleep(SETTLED);
        let (started, before) = (Instant::now(), self.processor_time()?);
        self.run(words)?;
        let (whole, engine) = (started.elapsed(), self.processor_time()?.saturating_sub(before));
        Ok(Sample {
            whole_us: u64::try_from(whole.as_micros())?,
            engine_us: u64::try_from(engine.as_micros())?,
        })
    }

    /// What the daemon and all its clients that have ended had the processor for.
    fn processor_time(&self) -> Result<Duration> {
        let pid = Pid::from_raw(i32::try_from(self.daemon.id())?);
        let daemon = Duration::from(clock_getcpuclockid(pid)?.now()?);
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let clients = usage.user_time() + usage.system_time();
        Ok(daemon + Duration::from_micros(u64::try_from(clients.num_microseconds())?))
    }

    /// Starts `ctr`, connected to nothing.
    pub(super) fn begin(&self, words: &[impl AsRef<str>]) -> Result<Client> {
        let mut command = self.command(words)?;
        // A file, since to read a pipe is work that would be measured.
        let said = tempfile::tempfile_in(&self.folder)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.try_clone()?);
        let child = command.spawn().context("Could not start ctr")?;
        let words = words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ");
        Ok(Client { words, child, said })
    }

    fn command(&self, words: &[impl AsRef<str>]) -> Result<Command> {
        let mut command = Command::new(program("ctr")?);
        command.arg("--address").arg(self.folder.join("sock"));
        command.args(["--namespace", &self.namespace]);
        command.args(words.iter().map(AsRef::as_ref));
        Ok(command)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Only what failed has left a container; what cannot be had any more is gone.
        let list = self.command(&["containers", "list", "--quiet"]);
        let list = list.and_then(|mut list| process::output(&mut list)).unwrap_or_default();
        for id in list.lines() {
            let _ = self.run(&["task", "delete", "--force", id]);
            let _ = self.run(&["container", "delete", id]);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A `ctr` that runs.
pub(super) struct Client {
    words: String,
    child: Child,
    said: File,
}

impl Client {
    /// Waits for its end. Another code than 0 is an error that holds what it wrote on stderr.
    pub(super) fn end(mut self) -> Result<()> {
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        let mut said = Vec::new();
        self.said.rewind()?;
        self.said.read_to_end(&mut said)?;
        let said = String::from_utf8_lossy(&said);
        bail!("ctr {}: {status}: {}", self.words, said.trim_end())
    }
}

/// Where one of the engine's programs is.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    process::find(name)
        .with_context(|| format!("There is no {name} here: `cargo xtask setup` installs it"))
}
