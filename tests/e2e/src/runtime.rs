//! An OCI runtime under test, or as the oracle: a program with its own state root.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Bundle, Mode, Outcome, Systemd, User, setting};

/// A verb that takes longer hangs: no test is of how fast it is on this machine, which may be a lab
/// with another beside it.
const DEADLINE: Duration = Duration::from_secs(300);

/// A runtime with a state root of its own, which must be empty when it is dropped.
#[derive(Debug)]
pub struct Runtime {
    program: PathBuf,
    flags: Vec<String>,
    root: TempDir,
    /// Who runs it, if not root.
    user: Option<Arc<User>>,
    /// The control group (v2) that it is started in, if not the test's own.
    group: Option<PathBuf>,
    /// The process whose namespaces it is started in, if not the test's own.
    beside: Option<i32>,
    /// How many descriptors its processes may have, if not what the test's may.
    descriptors: Option<u32>,
}

impl Runtime {
    /// Cofferdam in the mode of this run.
    #[must_use]
    pub fn cofferdam() -> Self {
        Self::cofferdam_with(&["--isolation", Mode::current().flag()])
    }

    /// Cofferdam with these global flags.
    #[must_use]
    pub fn cofferdam_with(flags: &[&str]) -> Self {
        let program = Path::new(&setting("COFFERDAM_BIN")).join("cofferdam");
        Self::new(program, flags)
    }

    /// Cofferdam in the mode of this run, as an ordinary user.
    #[must_use]
    pub fn cofferdam_of(user: &Arc<User>) -> Self {
        let program = user.reachable(Path::new(&setting("COFFERDAM_BIN"))).join("cofferdam");
        Self::new(program, &["--isolation", Mode::current().flag()]).of(user)
    }

    /// The oracle, as an ordinary user.
    #[must_use]
    pub fn runc_of(user: &Arc<User>) -> Self {
        Self::runc().of(user)
    }

    fn of(mut self, user: &Arc<User>) -> Self {
        user.give(self.root.path());
        self.user = Some(user.clone());
        self
    }

    /// The same, started in a control group.
    #[must_use]
    pub fn in_group(mut self, group: &Path) -> Self {
        self.group = Some(group.to_owned());
        self
    }

    /// The same, started where a systemd is process 1.
    #[must_use]
    pub fn under(mut self, systemd: &Systemd) -> Self {
        self.beside = Some(systemd.process());
        self.in_group(&systemd.own_group())
    }

    /// The same, with few descriptors, and without the privilege to have more.
    #[must_use]
    pub fn with_descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// runc, the oracle.
    #[must_use]
    pub fn runc() -> Self {
        Self::new("runc".into(), &[])
    }

    fn new(program: PathBuf, flags: &[&str]) -> Self {
        let root = TempDir::with_prefix("cofferdam-root-").unwrap();
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let (user, group, beside, descriptors) = (None, None, None, None);
        Self { program, flags, root, user, group, beside, descriptors }
    }

    /// What the names of this runtime's containers have in common with no other's.
    #[must_use]
    pub fn tag(&self) -> String {
        let name = self.root.path().file_name().unwrap().to_string_lossy();
        name.trim_start_matches("cofferdam-root-").to_owned()
    }

    /// An id that only this runtime uses.
    #[must_use]
    pub fn id(&self, name: &str) -> String {
        format!("e2e-{}-{name}", self.tag())
    }

    fn fresh_id(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.id(&NEXT.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// The state root.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A verb with its arguments, not yet run.
    #[must_use]
    pub fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = match &self.user {
            Some(user) => user.command(&self.program),
            None => Command::new(&self.program),
        };
        command.arg("--root").arg(self.root.path()).args(&self.flags).args(args);
        if let Some(process) = self.beside {
            command = beside(process, &command);
        }
        if let Some(group) = &self.group {
            command = within(group, &command);
        }
        if let Some(most) = self.descriptors {
            command = limited(most, &command);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end.
    #[must_use]
    pub fn verb<A: AsRef<OsStr>>(&self, args: &[A]) -> Outcome {
        finish(self.command(args), b"")
    }

    /// Runs a bundle in the foreground.
    #[must_use]
    pub fn run(&self, bundle: &Bundle) -> Outcome {
        self.run_with_input(bundle, b"")
    }

    /// Runs a bundle in the foreground with this on stdin.
    #[must_use]
    pub fn run_with_input(&self, bundle: &Bundle, input: &[u8]) -> Outcome {
        let id = self.fresh_id();
        let path = bundle.path().to_str().unwrap();
        finish(self.command(&["run", "--bundle", path, &id]), input)
    }

    /// Makes a container, its output going nowhere; it is deleted when it is dropped.
    #[must_use]
    pub fn create<'a>(&'a self, bundle: &Bundle) -> Container<'a> {
        let id = self.fresh_id();
        let path = bundle.path().to_str().unwrap();
        let outcome = finish_detaching(self.command(&["create", "--bundle", path, &id]));
        assert_eq!(outcome.code, 0, "create failed: {}", outcome.stderr);
        Container { runtime: self, id, _bundle: bundle.clone() }
    }

    /// Makes and starts a container.
    #[must_use]
    pub fn start<'a>(&'a self, bundle: &Bundle) -> Container<'a> {
        let container = self.create(bundle);
        container.verb("start").exits(0);
        container
    }
}

/// A container that exists.
#[derive(Debug)]
pub struct Container<'a> {
    pub(crate) runtime: &'a Runtime,
    /// Its id.
    pub id: String,
    _bundle: Bundle,
}

impl Container<'_> {
    /// A verb on this container without further arguments.
    #[must_use]
    pub fn verb(&self, verb: &str) -> Outcome {
        self.runtime.verb(&[verb, &self.id])
    }

    /// `kill ID SIGNAL`.
    #[must_use]
    pub fn kill(&self, signal: &str) -> Outcome {
        self.runtime.verb(&["kill", &self.id, signal])
    }

    /// `exec ID ARGS`.
    #[must_use]
    pub fn exec(&self, args: &[&str]) -> Outcome {
        self.exec_with(&[], args, b"")
    }

    /// `exec FLAGS ID ARGS` with this on stdin.
    #[must_use]
    pub fn exec_with(&self, flags: &[&str], args: &[&str], input: &[u8]) -> Outcome {
        let mut all = vec!["exec"];
        all.extend(flags);
        all.push(&self.id);
        all.extend(args);
        finish(self.runtime.command(&all), input)
    }

    /// The document that `state` prints.
    #[must_use]
    pub fn state(&self) -> Value {
        let outcome = self.verb("state");
        outcome.exits(0);
        serde_json::from_str(&outcome.stdout).unwrap()
    }

    /// `status` of [`Self::state`].
    #[must_use]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    /// The host process that `state` names.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().unwrap()).unwrap()
    }

    /// Waits until the status is this.
    #[track_caller]
    pub fn becomes(&self, status: &str) {
        let end = Instant::now() + DEADLINE;
        while self.status() != status {
            assert!(Instant::now() < end, "{} does not become {status}", self.id);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.runtime.verb(&["delete", "--force", &self.id]);
    }
}

/// The same command with so many descriptors. `CAP_SYS_RESOURCE` is what could raise the limit.
fn limited(descriptors: u32, command: &Command) -> Command {
    let mut limited = Command::new("setpriv");
    limited.args(["--inh-caps=-sys_resource", "--bounding-set=-sys_resource", "prlimit"]);
    limited.arg(format!("--nofile={descriptors}:{descriptors}"));
    limited.arg(command.get_program()).args(command.get_args()).env_clear();
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

/// The same command, by a shell that enters the control group first.
fn within(group: &Path, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"echo $$ > "$0"/cgroup.procs && exec "$@""#]).arg(group);
    shell.arg(command.get_program()).args(command.get_args()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

/// The same command, where a process has its mounts, process numbers and control groups.
fn beside(process: i32, command: &Command) -> Command {
    let mut entering = Command::new("nsenter");
    entering.args(["--mount", "--pid", "--cgroup", "--target", &process.to_string()]);
    entering.arg(command.get_program()).args(command.get_args());
    entering
}

/// Runs the probe under a runtime and returns what it found.
#[must_use]
pub fn probe(runtime: &Runtime, bundle: &Bundle) -> Value {
    let outcome = runtime.run(bundle);
    outcome.exits(0);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| {
        panic!("the probe printed {:?}: {error}; {}", outcome.stdout, outcome.stderr)
    })
}

/// Runs a command to its end with this input, at most [`DEADLINE`] long.
pub(crate) fn finish(command: Command, input: &[u8]) -> Outcome {
    finish_and(command, input, |stdin| {
        drop(stdin);
        None
    })
}

/// The same with an input that goes on, without a word, until the command has ended.
pub(crate) fn finish_before_input(command: Command, input: &[u8]) -> Outcome {
    finish_and(command, input, Some)
}

/// `afterwards` may keep what the input was written to until the command has ended.
fn finish_and(
    mut command: Command,
    input: &[u8],
    afterwards: fn(ChildStdin) -> Option<ChildStdin>,
) -> Outcome {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        // A command that ends before it has read everything is not an error of the test.
        let _ = stdin.write_all(&input);
        afterwards(stdin)
    });
    let watchdog = Watchdog::of(&child);
    let outcome = child.wait_with_output().unwrap().into();
    drop(watchdog);
    drop(writer.join().unwrap());
    outcome
}

/// Runs a command that leaves a process with its output behind, as `create` does; what it wrote on
/// stdout is not kept. At most [`DEADLINE`] long.
#[must_use]
pub fn finish_detaching(mut command: Command) -> Outcome {
    let stderr = tempfile::NamedTempFile::new().unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr.reopen().unwrap());
    let mut child =
        command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let watchdog = Watchdog::of(&child);
    let status = child.wait().unwrap();
    drop(watchdog);
    let stderr = std::fs::read(stderr.path()).unwrap();
    std::process::Output { status, stdout: Vec::new(), stderr }.into()
}

/// Kills a command that takes longer than [`DEADLINE`], unless it is dropped before.
struct Watchdog {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    fn of(child: &Child) -> Self {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (done, timer) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            if timer.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        });
        Self { done: Some(done), thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
