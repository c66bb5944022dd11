//! The hooks that are run while a container is made: in the runtime's namespaces and in the
//! container's. One that fails ends the making, and what it wrote is in the error.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use oci_spec::runtime::Hook;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::sys;
use crate::host::process::wait_within;

/// Most of a hook's output that is repeated in an error.
const MAX_OUTPUT: u64 = 2048;

/// What a hook reads on its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HookState {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) status: String,
    pub(super) pid: i32,
    pub(super) bundle: PathBuf,
    /// Where the hook starts, if not where the runtime is.
    #[serde(skip)]
    pub(super) folder: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(super) annotations: std::collections::BTreeMap<String, String>,
}

/// The words are runc's.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    /// It cannot be run.
    #[error("error running {moment} hook #{number}: {path}")]
    Run { moment: String, number: usize, path: PathBuf, source: io::Error },
    /// It ended otherwise than well.
    #[error("error running {moment} hook #{number}: {how}, stdout: {stdout}, stderr: {stderr}")]
    Failed { moment: String, number: usize, how: String, stdout: String, stderr: String },
}

/// Runs the hooks of one moment in their order, until one fails. Without an environment of their
/// own they get that one; without either, this process's.
pub(super) fn run_all(
    moment: &str,
    hooks: &[Hook],
    state: &HookState,
    env: Option<&[String]>,
) -> Result<(), HookError> {
    hooks.iter().enumerate().try_for_each(|(number, hook)| {
        let ended = run(hook, state, env).map_err(|source| HookError::Run {
            moment: moment.to_owned(),
            number,
            path: hook.path().clone(),
            source,
        })?;
        match ended.how {
            None => Ok(()),
            Some(how) => Err(HookError::Failed {
                moment: moment.to_owned(),
                number,
                how,
                stdout: ended.stdout,
                stderr: ended.stderr,
            }),
        }
    })
}

struct Ended {
    how: Option<String>,
    stdout: String,
    stderr: String,
}

fn run(hook: &Hook, state: &HookState, env: Option<&[String]>) -> io::Result<Ended> {
    let mut stdin = memory_file()?;
    stdin.write_all(&serde_json::to_vec(state)?)?;
    stdin.rewind()?;
    let (stdout, stderr) = (memory_file()?, memory_file()?);
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(rest);
    }
    if let Some(env) = hook.env().as_deref().or(env) {
        command.env_clear().envs(env.iter().filter_map(|entry| entry.split_once('=')));
    }
    if let Some(folder) = &state.folder {
        command.current_dir(folder);
    }
    command.stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mut child = command.spawn()?;
    let how = match hook.timeout() {
        None => how_it_ended(child.wait()?),
        Some(seconds) => {
            let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            match wait_within(&mut child, limit)? {
                Some(status) => how_it_ended(status),
                None => Some(format!("hook ran past specified timeout of {seconds}s")),
            }
        }
    };
    Ok(Ended { how, stdout: said(stdout), stderr: said(stderr) })
}

fn memory_file() -> io::Result<File> {
    Ok(memfd_create("hook", MemfdFlags::CLOEXEC)?.into())
}

fn said(mut file: File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read cannot be repeated.
    let _ = file.rewind().and_then(|()| file.take(MAX_OUTPUT).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

fn how_it_ended(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (_, Some(signal)) => Some(format!("signal: {}", sys::signal_words(signal))),
        (code, None) => Some(format!("exit status {}", code.unwrap_or(-1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_one(hook: serde_json::Value) -> Result<(), String> {
        let state = HookState {
            oci_version: "1.0.2".into(),
            id: "a".into(),
            status: "creating".into(),
            pid: 7,
            bundle: "/b".into(),
            folder: None,
            annotations: std::collections::BTreeMap::new(),
        };
        let hooks: Vec<Hook> = serde_json::from_value(serde_json::json!([hook])).unwrap();
        let env = ["PATH=/bin:/usr/bin".to_owned(), "OWN=1".to_owned()];
        run_all("prestart", &hooks, &state, Some(&env)).map_err(|e| e.to_string())
    }

    fn shell(script: &str) -> serde_json::Value {
        serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
    }

    #[test]
    fn a_hook_reads_the_state_and_has_the_environment() {
        run_one(shell("grep -q '\"ociVersion\":\"1.0.2\".*\"pid\":7' && [ $OWN = 1 ]")).unwrap();
    }

    #[test]
    fn what_a_failed_hook_wrote_is_in_the_error() {
        let error = run_one(shell("echo out; echo err >&2; exit 3")).unwrap_err();
        assert_eq!(
            error,
            "error running prestart hook #0: exit status 3, stdout: out, stderr: err"
        );
        let error = run_one(shell("kill -SYS $$")).unwrap_err();
        assert!(error.contains("signal: bad system call"), "{error}");
    }

    #[test]
    fn a_hook_has_its_time() {
        let mut hook = shell("exec sleep 60");
        hook["timeout"] = serde_json::json!(0);
        assert!(run_one(hook).unwrap_err().contains("timeout of 0s"));
    }
}
