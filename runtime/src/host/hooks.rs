//! Hooks: programs of the operator that the configuration runs at fixed moments of a container's
//! life, with its state on standard input.
//!
//! What this is not: it knows no moment. Who calls it decides what a failure means: before the
//! program runs it fails the creation, after the container is gone it is a warning.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use oci_spec::runtime::Hook;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Serialize;

use crate::host::process;

/// Why a hook failed. The words are runc's.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// Its standard input cannot be made.
    #[error("error running {moment} hook #{number}: cannot prepare {path}")]
    Prepare {
        /// `prestart`, …
        moment: &'static str,
        /// Which of that moment's, from 0.
        number: usize,
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be run or waited for.
    #[error("error running {moment} hook #{number}: {path}")]
    Run {
        /// `prestart`, …
        moment: &'static str,
        /// Which of that moment's, from 0.
        number: usize,
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It said that it failed.
    #[error("error running {moment} hook #{number}: {path} failed ({status})")]
    Failed {
        /// `prestart`, …
        moment: &'static str,
        /// Which of that moment's, from 0.
        number: usize,
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// It did not end in its time, and was killed.
    #[error("error running {moment} hook #{number}: {path} did not end within {seconds} s")]
    Timeout {
        /// `prestart`, …
        moment: &'static str,
        /// Which of that moment's, from 0.
        number: usize,
        /// The program.
        path: PathBuf,
        /// Its time.
        seconds: i64,
    },
}

/// Runs the hooks of one moment in their order. Each reads the container's state, as `state` shows
/// it, on its standard input.
///
/// # Errors
/// The first that fails; those after it are not run.
pub fn run_all(
    moment: &'static str,
    hooks: Option<&Vec<Hook>>,
    state: &impl Serialize,
) -> Result<(), HookError> {
    hooks.into_iter().flatten().enumerate().try_for_each(|hook| run(moment, hook, state))
}

/// Runs the hooks of one moment in their order, each whatever became of those before.
pub fn run_each(moment: &'static str, hooks: Option<&Vec<Hook>>, state: &impl Serialize) {
    for hook in hooks.into_iter().flatten().enumerate() {
        if let Err(error) = run(moment, hook, state) {
            tracing::warn!("{}", crate::host::log::with_causes(&error));
        }
    }
}

fn run(
    moment: &'static str,
    (number, hook): (usize, &Hook),
    state: &impl Serialize,
) -> Result<(), HookError> {
    let path = hook.path();
    let stdin = state_file(state).map_err(|source| HookError::Prepare {
        moment,
        number,
        path: path.clone(),
        source,
    })?;
    let failed = |source| HookError::Run { moment, number, path: path.clone(), source };
    let mut child = command(hook, stdin).spawn().map_err(failed)?;
    let status = match hook.timeout() {
        None => child.wait().map_err(failed)?,
        Some(seconds) => {
            let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            process::wait_within(&mut child, limit)
                .map_err(failed)?
                .ok_or_else(|| HookError::Timeout { moment, number, path: path.clone(), seconds })?
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(HookError::Failed { moment, number, path: path.clone(), status })
}

/// The state in a file of memory: a hook that does not read it cannot block the runtime.
fn state_file(state: &impl Serialize) -> io::Result<File> {
    let mut file = File::from(memfd_create("state", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(state)?)?;
    file.rewind()?;
    Ok(file)
}

/// The first argument is the program's name for itself. Without an environment of its own it has
/// the runtime's, as with runc.
fn command(hook: &Hook, stdin: File) -> Command {
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(rest);
    }
    if let Some(env) = hook.env() {
        let pairs = env.iter().filter_map(|entry| entry.split_once('='));
        command.env_clear().envs(pairs.map(|(name, value)| (OsStr::new(name), OsStr::new(value))));
    }
    command.stdin(stdin).stdout(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::state::record::tests::record;
    use crate::state::status::Status;

    fn run_one(hook: Value) -> Result<(), HookError> {
        let hooks: Vec<Hook> = serde_json::from_value(json!([hook])).unwrap();
        run_all("prestart", Some(&hooks), &record("a").hook_view(Status::Creating))
    }

    fn shell(script: &str) -> Value {
        json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
    }

    #[test]
    fn a_hook_gets_the_state_and_its_environment_only() {
        let mut hook = shell("grep -q '\"status\":\"creating\"' && [ \"$A$HOME\" = b ]");
        hook["env"] = json!(["A=b", "PATH=/bin:/usr/bin"]);
        run_one(hook).unwrap();
    }

    #[test]
    fn a_hook_that_fails_fails() {
        assert!(matches!(run_one(shell("exit 3")), Err(HookError::Failed { .. })));
        assert!(matches!(run_one(json!({"path": "/none"})), Err(HookError::Run { .. })));
    }

    #[test]
    fn a_hook_has_its_time() {
        let mut hook = shell("exec sleep 60");
        hook["timeout"] = json!(0);
        assert!(matches!(run_one(hook), Err(HookError::Timeout { seconds: 0, .. })));
    }

    #[test]
    fn of_the_last_moment_each_is_run() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let hooks = json!([shell("exit 1"), shell(&format!("touch {}", mark.display()))]);
        let hooks: Vec<Hook> = serde_json::from_value(hooks).unwrap();
        run_each("poststop", Some(&hooks), &record("a").hook_view(Status::Stopped));
        assert!(mark.exists());
    }
}
