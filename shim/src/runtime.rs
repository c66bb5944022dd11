//! The runtime's command line: one `cofferdam VERB` for each step.
//!
//! What it prints is kept in memory files, bounded, so that no pipe has to be emptied while it runs.
//! `create` and `exec` have the container's streams: what goes wrong is in their log.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use serde_json::Value;

use crate::options::Options;
use crate::reaper::Reaper;
use crate::stdio::ChildStreams;

const PROGRAM: &str = "cofferdam";

/// Where the state of an engine's containers lies: a folder for each of its namespaces.
const STATE_ROOT: &str = "/run/containerd/cofferdam";

/// Of what a verb prints: `ps` of a container with as many processes as a kernel can have.
const MAX_OUTPUT: u64 = 64 << 20;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// There is no runtime, or no memory.
    #[error("Cannot run {0}")]
    Run(PathBuf, #[source] io::Error),
    /// It says why.
    #[error("{message}")]
    Failed {
        /// In the runtime's words.
        message: String,
    },
    /// The shim is going away.
    #[error("The shim ends")]
    Ended,
    /// What it prints is not what it promises.
    #[error("The runtime's answer cannot be understood")]
    Answer(#[from] serde_json::Error),
}

/// The runtime with its global flags.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    program: PathBuf,
    flags: Vec<OsString>,
}

/// The runtime that was installed with this shim, or whichever is in `PATH`.
pub(crate) fn beside() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.with_file_name(PROGRAM);
    if beside.exists() { beside } else { PROGRAM.into() }
}

/// Where an engine's options put the state of a namespace's containers.
fn state_root(options: &Options, namespace: &str) -> PathBuf {
    options.root.clone().unwrap_or_else(|| STATE_ROOT.into()).join(namespace)
}

impl Runtime {
    /// Without a flag.
    pub(crate) fn plain(program: &Path) -> Self {
        Self { program: program.to_owned(), flags: Vec::new() }
    }

    /// For the containers of a namespace.
    pub(crate) fn of(options: &Options, namespace: &str) -> Self {
        let program = options.program.clone().unwrap_or_else(beside);
        let mut flags = vec!["--root".into(), state_root(options, namespace).into_os_string()];
        if let Some(config) = &options.config {
            flags.extend(["--config".into(), config.clone().into_os_string()]);
        }
        if options.systemd_cgroup {
            flags.push("--systemd-cgroup".into());
        }
        Self { program, flags }
    }

    /// The document that `features` prints.
    ///
    /// # Errors
    /// There is no runtime.
    pub(crate) fn features(&self) -> Result<Vec<u8>, RuntimeError> {
        Ok(self.run_here(&["features"])?.into_bytes())
    }

    /// Runs a verb where there is no [`Reaper`].
    ///
    /// # Errors
    /// What the runtime says.
    pub(crate) fn run_here(&self, arguments: &[&str]) -> Result<String, RuntimeError> {
        let output = self.command(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|error| RuntimeError::Run(self.program.clone(), error))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(failed(&String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// Runs a verb; what it prints.
    ///
    /// # Errors
    /// What the runtime says.
    pub(crate) async fn run(
        &self,
        reaper: &Arc<Reaper>,
        arguments: &[&str],
    ) -> Result<String, RuntimeError> {
        let failure = |error| RuntimeError::Run(self.program.clone(), error);
        let (mut stdout, mut stderr) = (memory().map_err(failure)?, memory().map_err(failure)?);
        let mut command = self.command(arguments);
        command.stdin(Stdio::null());
        command.stdout(stdout.try_clone().map_err(failure)?);
        command.stderr(stderr.try_clone().map_err(failure)?);
        match self.wait(reaper, command).await? {
            0 => text(&mut stdout).map_err(failure),
            _ => Err(failed(&text(&mut stderr).map_err(failure)?)),
        }
    }

    /// Runs `create` or `exec`, whose streams are the container's.
    ///
    /// # Errors
    /// The last error in the log, which is written beside the bundle.
    pub(crate) async fn run_with(
        &self,
        reaper: &Arc<Reaper>,
        arguments: &[&str],
        streams: ChildStreams,
        log: &Path,
    ) -> Result<(), RuntimeError> {
        // Another attempt's.
        let _ = fs::remove_file(log);
        let mut all: Vec<OsString> = vec!["--log".into(), log.into()];
        all.extend(["--log-format", "json"].map(OsString::from));
        all.extend(arguments.iter().map(OsString::from));
        let mut command = self.command(&all);
        command.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
        match self.wait(reaper, command).await? {
            0 => Ok(()),
            code => {
                let log = fs::read_to_string(log).unwrap_or_default();
                let message = last_error(&log);
                let message = message.unwrap_or_else(|| format!("exit code {code}"));
                Err(RuntimeError::Failed { message })
            }
        }
    }

    /// A verb, not yet run.
    pub(crate) fn command<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.flags).args(arguments);
        command
    }

    async fn wait(&self, reaper: &Arc<Reaper>, mut command: Command) -> Result<u32, RuntimeError> {
        let expectation = reaper.expect();
        let child = command.spawn();
        // The parent's copies of the streams are in it.
        drop(command);
        let child = child.map_err(|error| RuntimeError::Run(self.program.clone(), error))?;
        let exit = expectation.claim(child.id().cast_signed());
        Ok(exit.await.map_err(|_| RuntimeError::Ended)?.code)
    }
}

fn memory() -> io::Result<File> {
    Ok(rustix::fs::memfd_create(c"cofferdam-output", MemfdFlags::CLOEXEC)?.into())
}

fn text(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What is said on standard error, without the program's name: an engine puts its own before it.
fn failed(stderr: &str) -> RuntimeError {
    let said = stderr.trim();
    let said = said.rsplit_once("cofferdam: error: ").map_or(said, |(_, message)| message);
    RuntimeError::Failed { message: said.to_owned() }
}

fn last_error(log: &str) -> Option<String> {
    let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors = entries.rev().filter(|entry| entry["level"] == "error");
    errors.next()?["msg"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reaper::CHILDREN_OF_TESTS;

    #[test]
    fn a_failure_is_told_in_the_runtime_s_words() {
        let stderr = "cofferdam: warning: slow\ncofferdam: error: no such container\n";
        assert_eq!(failed(stderr).to_string(), "no such container");
        assert_eq!(failed("killed\n").to_string(), "killed");
        let log = "{\"level\":\"error\",\"msg\":\"one\"}\n{\"level\":\"error\",\"msg\":\"two\"}\n\
                   {\"level\":\"info\",\"msg\":\"x\"}\nno json";
        assert_eq!(last_error(log).as_deref(), Some("two"));
        assert_eq!(last_error(""), None);
    }

    #[test]
    fn each_namespace_has_its_own_state() {
        assert_eq!(state_root(&Options::default(), "moby"), Path::new(STATE_ROOT).join("moby"));
        let options = Options { root: Some("/r".into()), ..Options::default() };
        assert_eq!(state_root(&options, "moby"), Path::new("/r/moby"));
    }

    #[tokio::test]
    async fn what_a_verb_prints_and_how_it_fails_comes_back() {
        let _alone = CHILDREN_OF_TESTS.lock().await;
        let reaper = Arc::new(Reaper::default());
        let collecting = reaper.clone();
        let collector = tokio::spawn(async move {
            loop {
                collecting.collect();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
        let shell = Runtime { program: "/bin/sh".into(), flags: vec!["-c".into()] };
        assert_eq!(shell.run(&reaper, &["echo said"]).await.unwrap(), "said\n");
        let error = shell.run(&reaper, &["echo 'cofferdam: error: no' >&2; exit 1"]).await;
        assert_eq!(error.unwrap_err().to_string(), "no");
        assert!(matches!(
            Runtime::plain(Path::new("/nowhere")).run(&reaper, &[]).await,
            Err(RuntimeError::Run(..))
        ));
        collector.abort();
    }
}
