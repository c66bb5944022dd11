//! A container: its steps in their order, each the runtime's command and the event that tells of it.
//!
//! What is made is kept by the runtime; what is here is what only a living process can have: the
//! streams, and who waits for what.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::{CheckpointTaskRequest, CreateTaskRequest, ExecProcessRequest};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim::oci::CheckpointOptions;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::sync::oneshot;

use crate::console::ConsoleSocket;
use crate::logger::Logged;
use crate::options::Options;
use crate::process::{Process, State};
use crate::reaper::Exit;
use crate::rootfs;
use crate::runtime::{Runtime, RuntimeError};
use crate::shared::Shared;
use crate::stdio::{ChildStreams, Names, Streams};
use crate::step::StepError;
use crate::told::Told;
use crate::watch::{self, OutOfMemory};

/// What a process is said to have ended with whose end nobody saw.
const LOST: u32 = 255;

/// How long who was killed may take to end: a machine of many GiB gives its memory back.
const END: Duration = Duration::from_secs(30);

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its name.
    pub(crate) id: String,
    /// Its folder.
    pub(crate) bundle: PathBuf,
    /// Its first process.
    pub(crate) init: Arc<Process>,
    /// Whether the runtime knows it.
    is_made: AtomicBool,
    /// Whether `pause` was last.
    pub(crate) is_paused: AtomicBool,
    runtime: Runtime,
    /// With which it is made.
    pub(crate) options: Options,
    shared: Arc<Shared>,
    /// The image that it goes on from.
    checkpoint: Option<PathBuf>,
    execs: Mutex<HashMap<String, Exec>>,
    next: AtomicU64,
    out_of_memory: Mutex<Option<OutOfMemory>>,
}

#[derive(Clone, Debug)]
struct Exec {
    process: Arc<Process>,
    /// Its `process` section, until it is started.
    spec: Arc<Vec<u8>>,
}

impl Container {
    /// Mounts the root file system and makes the container. Nothing is left when it fails.
    ///
    /// # Errors
    /// What failed.
    pub(crate) async fn create(
        shared: &Arc<Shared>,
        request: &CreateTaskRequest,
        options: Options,
    ) -> Result<Arc<Self>, StepError> {
        let container = Arc::new(Self::planned(shared, request, options));
        let saved = container.options.save(&container.bundle);
        saved.map_err(|error| container.unusable(error))?;
        rootfs::mount_all(&request.rootfs, &container.rootfs())?;
        if let Err(error) = container.make().await {
            container.unmake().await;
            return Err(error);
        }
        container.told().created(request, container.init.state().pid());
        Ok(container)
    }

    fn planned(shared: &Arc<Shared>, request: &CreateTaskRequest, options: Options) -> Self {
        let names = Names {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        Self {
            id: request.id.clone(),
            bundle: request.bundle.clone().into(),
            init: Arc::new(Process::new(String::new(), names)),
            is_made: AtomicBool::default(),
            is_paused: AtomicBool::default(),
            runtime: Runtime::of(&options, &shared.namespace),
            options,
            shared: shared.clone(),
            checkpoint: (!request.checkpoint.is_empty()).then(|| request.checkpoint.clone().into()),
            execs: Mutex::default(),
            next: AtomicU64::default(),
            out_of_memory: Mutex::default(),
        }
    }

    /// A container that goes on from an image is made when it is started.
    async fn make(self: &Arc<Self>) -> Result<(), StepError> {
        if self.checkpoint.is_some() {
            return Ok(());
        }
        let mut verb = self.making("create");
        verb.push(self.id.clone());
        let pid = self.bring_up(&self.init, verb, |process, pid| {
            process.set(State::Created(pid));
        });
        pid.await.map(drop)
    }

    /// After a failure: of the shim's own when the runtime has made the container.
    async fn unmake(&self) {
        if self.is_made.load(Ordering::Relaxed) {
            // It is told why the container is not there, and not why it is.
            let _ = self.run(&["delete", "--force", &self.id]).await;
        }
        rootfs::unmount(&self.rootfs());
    }

    /// `create`, or `restore`, with what they have in common.
    fn making(&self, verb: &str) -> Vec<String> {
        let bundle = self.bundle.display().to_string();
        let mut arguments = vec![verb.to_owned(), "--bundle".to_owned(), bundle];
        if self.options.no_pivot {
            arguments.push("--no-pivot".to_owned());
        }
        if self.options.no_new_keyring && verb == "create" {
            arguments.push("--no-new-keyring".to_owned());
        }
        arguments
    }

    /// Starts a process of it: its first by default.
    ///
    /// # Errors
    /// What failed; the process is as it was then.
    pub(crate) async fn start(self: &Arc<Self>, exec_id: &str) -> Result<u32, StepError> {
        let process = self.process(exec_id)?;
        let _starting = process.starting.lock().await;
        let pid = match (exec_id.is_empty(), process.state()) {
            (true, State::Created(pid)) => {
                self.run(&["start", &self.id]).await?;
                process.set(State::Running(pid));
                pid
            }
            (true, State::Added) => self.restore().await?,
            (false, State::Added) => self.start_exec(&process).await?,
            (_, state) => return Err(self.not_now(exec_id, state)),
        };
        self.tell_start(exec_id, pid.cast_unsigned());
        Ok(pid.cast_unsigned())
    }

    async fn restore(self: &Arc<Self>) -> Result<i32, StepError> {
        let image = self.checkpoint.clone().unwrap_or_default().display().to_string();
        let mut verb = self.making("restore");
        verb.extend(["--detach", "--image-path", &image].map(str::to_owned));
        verb.push(self.id.clone());
        let running = |process: &Process, pid| process.set(State::Running(pid));
        self.bring_up(&self.init, verb, running).await
    }

    async fn start_exec(self: &Arc<Self>, process: &Arc<Process>) -> Result<i32, StepError> {
        let spec = self.execs().get(&process.exec_id).map(|exec| exec.spec.clone());
        let spec = self.file(&spec.unwrap_or_default())?;
        let path = spec.path().display().to_string();
        let verb = ["exec", "--detach", "--process", &path, &self.id].map(str::to_owned).to_vec();
        let running = |process: &Process, pid| process.set(State::Running(pid));
        self.bring_up(process, verb, running).await
    }

    /// Runs a verb that leaves a process behind: its streams, its number, and who awaits its end.
    async fn bring_up(
        self: &Arc<Self>,
        process: &Arc<Process>,
        mut verb: Vec<String>,
        reached: impl Fn(&Process, i32),
    ) -> Result<i32, StepError> {
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.bundle.join(format!("{name}-{serial}"));
        let (pid_file, log) = (file("pid"), self.log(serial));
        // The id is last.
        let flags = ["--pid-file".to_owned(), pid_file.display().to_string()];
        verb.splice(1..1, flags);
        let expectation = self.shared.reaper.expect();
        let streams = self.with_streams(process, verb, &log).await?;
        let pid = fs::read_to_string(&pid_file).map_err(|error| self.unusable(error))?;
        let pid: i32 = pid.trim().parse().map_err(|_| self.unusable(io::ErrorKind::InvalidData))?;
        let _ = fs::remove_file(&pid_file);
        process.connect(streams);
        reached(process, pid);
        tokio::spawn(self.clone().attend(process.clone(), pid, expectation.claim(pid)));
        Ok(pid)
    }

    async fn with_streams(
        &self,
        process: &Process,
        mut verb: Vec<String>,
        log: &Path,
    ) -> Result<Streams, StepError> {
        let reaper = &self.shared.reaper;
        let mut streams = Streams::default();
        let outputs = process.names.outputs(self.logged(), &mut streams).await?;
        if !process.names.terminal {
            let child = process.names.inherited(outputs, &mut streams)?;
            let verb: Vec<&str> = verb.iter().map(String::as_str).collect();
            self.runtime.run_with(reaper, &verb, child, log).await?;
            self.is_made.store(true, Ordering::Relaxed);
            return Ok(streams);
        }
        let socket = ConsoleSocket::listen().map_err(StepError::Terminal)?;
        verb.splice(1..1, ["--console-socket".to_owned(), socket.path().display().to_string()]);
        let verb: Vec<&str> = verb.iter().map(String::as_str).collect();
        self.runtime.run_with(reaper, &verb, ChildStreams::none(), log).await?;
        self.is_made.store(true, Ordering::Relaxed);
        let master = socket.receive().map_err(StepError::Terminal)?;
        process.names.connect(master, outputs, &mut streams)?;
        Ok(streams)
    }

    fn logged(&self) -> Logged<'_> {
        Logged {
            reaper: &self.shared.reaper,
            namespace: &self.shared.namespace,
            container_id: &self.id,
            bundle: &self.bundle,
        }
    }

    /// The runtime's log: that of the container's making is where people look for it.
    fn log(&self, serial: u64) -> PathBuf {
        match serial {
            0 => self.bundle.join("log.json"),
            _ => self.bundle.join(format!("log-{serial}.json")),
        }
    }

    /// Waits for a process's end, and tells of it: after its start, and after its last output.
    async fn attend(
        self: Arc<Self>,
        process: Arc<Process>,
        pid: i32,
        exit: oneshot::Receiver<Exit>,
    ) {
        let lost = Exit { code: LOST, at: std::time::SystemTime::now() };
        let exit = exit.await.unwrap_or(lost);
        let _starting = process.starting.lock().await;
        if process.exec_id.is_empty() {
            self.end_the_rest().await;
        }
        if let Some(streams) = process.disconnect() {
            process.leave(streams.finish().await);
        }
        process.set(State::Stopped(pid, exit));
        self.told().exited(self.name_of(&process), pid.cast_unsigned(), exit);
    }

    /// Where the container has no process namespace of its own, its other processes outlive the first.
    async fn end_the_rest(&self) {
        self.out_of_memory().take();
        if !watch::has_own_processes(&self.bundle) {
            // There may be none.
            let _ = self.run(&["kill", "--all", &self.id, "KILL"]).await;
        }
    }

    fn tell_start(self: &Arc<Self>, exec_id: &str, pid: u32) {
        if !exec_id.is_empty() {
            return self.told().exec_started(exec_id, pid);
        }
        let container = self.clone();
        let reaper = &self.shared.reaper;
        let tell = move || container.told().out_of_memory();
        let watched = OutOfMemory::watch(&self.runtime, reaper, &self.id, &self.bundle, tell);
        *self.out_of_memory() = watched;
        self.told().started(pid);
    }

    fn told(&self) -> Told<'_> {
        Told { events: &self.shared.events, container_id: &self.id }
    }

    /// A further process, to be started.
    ///
    /// # Errors
    /// There is one of this name.
    pub(crate) fn exec(&self, request: &ExecProcessRequest) -> Result<(), StepError> {
        let exec_id = request.exec_id.clone();
        let names = Names {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let process = Arc::new(Process::new(exec_id.clone(), names));
        let exec = Exec { process, spec: Arc::new(request.spec.value.clone()) };
        let mut execs = self.execs();
        if execs.contains_key(&exec_id) {
            return Err(StepError::Exists(format!("The process {exec_id}")));
        }
        execs.insert(exec_id.clone(), exec);
        drop(execs);
        self.told().exec_added(&request.exec_id);
        Ok(())
    }

    /// Takes a process away that has ended, or was never started; with its first one the container.
    ///
    /// # Errors
    /// It runs, or the runtime says why not.
    pub(crate) async fn delete(&self, exec_id: &str) -> Result<(u32, Exit), StepError> {
        let process = self.process(exec_id)?;
        let state = process.state();
        let never = Exit { code: 0, at: std::time::SystemTime::now() };
        let ended = match state {
            State::Stopped(_, exit) => exit,
            State::Added => never,
            State::Created(_) if exec_id.is_empty() => never,
            _ => return Err(self.not_now(exec_id, state)),
        };
        process.is_logged().await;
        if !exec_id.is_empty() {
            self.execs().remove(exec_id);
            return Ok((state.pid(), ended));
        }
        if state != State::Added {
            let force = matches!(state, State::Created(_));
            let verb =
                if force { vec!["delete", "--force", &self.id] } else { vec!["delete", &self.id] };
            self.run(&verb).await?;
        }
        let exit = if matches!(state, State::Created(_)) { process.exit().await } else { ended };
        process.is_logged().await;
        rootfs::unmount(&self.rootfs());
        self.told().deleted(state.pid(), exit);
        Ok((state.pid(), exit))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Nobody is there to take it.
    pub(crate) async fn kill(
        &self,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<(), StepError> {
        let process = self.process(exec_id)?;
        match (process.state(), exec_id.is_empty()) {
            (State::Stopped(..), _) => Err(StepError::NotFound(self.called(exec_id))),
            (State::Added, _) => Err(self.not_now(exec_id, State::Added)),
            (State::Created(_) | State::Running(_), true) => {
                let signal = signal.to_string();
                let mut verb = vec!["kill"];
                verb.extend(all.then_some("--all"));
                verb.extend([self.id.as_str(), signal.as_str()]);
                self.run(&verb).await.map(drop)
            }
            (State::Created(pid) | State::Running(pid), false) => self.send(exec_id, pid, signal),
        }
    }

    /// Kills it, if it has not ended, and waits for that.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn end(&self, all: bool) -> Result<(), StepError> {
        if self.init.state() == State::Added {
            return Ok(());
        }
        // It may be about to end by itself: then there is nobody to be killed.
        let killed = self.kill("", Signal::SIGKILL as u32, all).await;
        match tokio::time::timeout(END, self.init.exit()).await {
            Ok(_) => Ok(()),
            Err(_) => killed.and(Err(StepError::State {
                what: format!("The container {}", self.id),
                state: "killed and has not ended",
            })),
        }
    }

    /// To the process of the host that stands for an exec's.
    fn send(&self, exec_id: &str, pid: i32, signal: u32) -> Result<(), StepError> {
        let known = i32::try_from(signal).ok().and_then(|number| Signal::try_from(number).ok());
        let known = known.ok_or(StepError::Signal(signal, nix::Error::EINVAL))?;
        match self.shared.reaper.signal(pid, known) {
            Ok(true) => Ok(()),
            Ok(false) => Err(StepError::NotFound(self.called(exec_id))),
            Err(errno) => Err(StepError::Signal(signal, errno)),
        }
    }

    /// `pause` or `resume`.
    ///
    /// # Errors
    /// The runtime says why not.
    pub(crate) async fn set_paused(&self, paused: bool) -> Result<(), StepError> {
        self.run(&[if paused { "pause" } else { "resume" }, &self.id]).await?;
        self.is_paused.store(paused, Ordering::Relaxed);
        self.told().paused(paused);
        Ok(())
    }

    /// Saves it.
    ///
    /// # Errors
    /// The runtime says why not.
    pub(crate) async fn checkpoint(
        &self,
        request: &CheckpointTaskRequest,
    ) -> Result<(), StepError> {
        let options = CheckpointOptions::parse_from_bytes(&request.options.value)?;
        let mut verb = checkpoint_flags(&request.path, &options);
        verb.push(self.id.clone());
        let verb: Vec<&str> = verb.iter().map(String::as_str).collect();
        self.run(&verb).await?;
        self.told().checkpointed(&request.path);
        Ok(())
    }

    /// Sets other limits: a `resources` section.
    ///
    /// # Errors
    /// The runtime says why not.
    pub(crate) async fn update(&self, resources: &[u8]) -> Result<(), StepError> {
        let file = self.file(resources)?;
        let path = file.path().display().to_string();
        self.run(&["update", "--resources", &path, &self.id]).await.map(drop)
    }

    /// The processes of the host's that it is: all of them in namespaces, in a microVM those that stand
    /// for its own.
    ///
    /// # Errors
    /// The runtime says why it cannot tell.
    pub(crate) async fn processes(&self) -> Result<Vec<u32>, StepError> {
        let list = self.run(&["ps", "--format", "json", &self.id]).await?;
        let mut pids: Vec<u32> = serde_json::from_str(&list).map_err(RuntimeError::from)?;
        pids.extend(self.execs().values().filter_map(|exec| exec.process.state().running()));
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// What it uses, as `events --stats` has it.
    ///
    /// # Errors
    /// The runtime says why it cannot tell.
    pub(crate) async fn statistics(&self) -> Result<Value, StepError> {
        let text = self.run(&["events", "--stats", &self.id]).await?;
        Ok(serde_json::from_str(&text).map_err(RuntimeError::from)?)
    }

    /// One of its processes.
    ///
    /// # Errors
    /// There is none of this name.
    pub(crate) fn process(&self, exec_id: &str) -> Result<Arc<Process>, StepError> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        let found = self.execs().get(exec_id).map(|exec| exec.process.clone());
        found.ok_or_else(|| StepError::NotFound(self.called(exec_id)))
    }

    /// The exec that a process of this number is, if it is one.
    pub(crate) fn exec_of(&self, pid: u32) -> Option<String> {
        let execs = self.execs();
        let found = execs.values().find(|exec| exec.process.state().pid() == pid)?;
        Some(found.process.exec_id.clone())
    }

    async fn run(&self, arguments: &[&str]) -> Result<String, StepError> {
        Ok(self.runtime.run(&self.shared.reaper, arguments).await?)
    }

    /// A file that the runtime reads: root's alone, and gone with it.
    fn file(&self, bytes: &[u8]) -> Result<NamedTempFile, StepError> {
        let written = NamedTempFile::with_prefix_in("request-", &self.bundle)
            .and_then(|mut file| file.write_all(bytes).map(|()| file));
        written.map_err(|error| self.unusable(error))
    }

    fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    fn unusable(&self, error: impl Into<io::Error>) -> StepError {
        StepError::Bundle(self.bundle.clone(), error.into())
    }

    fn name_of<'a>(&'a self, process: &'a Process) -> &'a str {
        if process.exec_id.is_empty() { &self.id } else { &process.exec_id }
    }

    fn called(&self, exec_id: &str) -> String {
        match exec_id.is_empty() {
            true => format!("The running process of the container {}", self.id),
            false => format!("The running process {exec_id} of the container {}", self.id),
        }
    }

    fn not_now(&self, exec_id: &str, state: State) -> StepError {
        let what = match exec_id.is_empty() {
            true => format!("The container {}", self.id),
            false => format!("The process {exec_id}"),
        };
        let state = match state {
            State::Added => "not started",
            State::Created(_) => "created and not started",
            State::Running(_) => "running",
            State::Stopped(..) => "stopped",
        };
        StepError::State { what, state }
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Exec>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn out_of_memory(&self) -> MutexGuard<'_, Option<OutOfMemory>> {
        self.out_of_memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn checkpoint_flags(path: &str, options: &CheckpointOptions) -> Vec<String> {
    let image = if options.image_path.is_empty() { path } else { &options.image_path };
    let mut flags = vec!["checkpoint", "--image-path", image];
    if !options.work_path.is_empty() {
        flags.extend(["--work-path", &options.work_path]);
    }
    if !options.cgroups_mode.is_empty() {
        flags.extend(["--manage-cgroups-mode", &options.cgroups_mode]);
    }
    for kind in &options.empty_namespaces {
        flags.extend(["--empty-ns", kind]);
    }
    for (wanted, flag) in [
        (!options.exit, "--leave-running"),
        (options.open_tcp, "--tcp-established"),
        (options.external_unix_sockets, "--ext-unix-sk"),
        (options.terminal, "--shell-job"),
        (options.file_locks, "--file-locks"),
    ] {
        flags.extend(wanted.then_some(flag));
    }
    flags.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_s_options_are_the_runtime_s_flags() {
        let options = CheckpointOptions {
            open_tcp: true,
            work_path: "/w".into(),
            empty_namespaces: vec!["network".into()],
            ..Default::default()
        };
        let expected = "checkpoint --image-path /i --work-path /w --empty-ns network \
                        --leave-running --tcp-established";
        assert_eq!(checkpoint_flags("/i", &options).join(" "), expected);
        let ended = CheckpointOptions { exit: true, image_path: "/o".into(), ..Default::default() };
        assert_eq!(checkpoint_flags("/i", &ended).join(" "), "checkpoint --image-path /o");
    }
}
