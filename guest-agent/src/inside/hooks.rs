//! `startContainer` hooks: programs of the container's own, run just before its program.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use cofferdam_protocol::plan::HookPlan;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{PidfdFlags, pidfd_open};

use super::failure::{StartError, Step};

/// What of a failed hook's stderr is worth carrying to the host.
const MAX_STDERR_BYTES: u64 = 1 << 10;

/// Runs every hook in order. The first that fails ends it. `env` is what the program will have.
pub(crate) fn run_all(hooks: &[HookPlan], env: &[CString], state: &str) -> Result<(), StartError> {
    for hook in hooks {
        let step = || format!("running the startContainer hook {}", hook.path);
        let mut stderr = memory_file(b"").step(step)?;
        let status = run(hook, env, state, &stderr).step(step)?;
        if !status.success() {
            let said = last_words(&mut stderr);
            let text = format!("{}: {status}{said}", step());
            return Err(StartError::Reported(text));
        }
    }
    Ok(())
}

/// A file has no reader to wait for: a hook that does not read its stdin, or that writes much,
/// blocks nobody.
fn memory_file(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn run(hook: &HookPlan, env: &[CString], state: &str, stderr: &File) -> io::Result<ExitStatus> {
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    match &hook.env {
        Some(own) => command.envs(own.iter().filter_map(|entry| entry.split_once('='))),
        None => command.envs(env.iter().filter_map(variable)),
    };
    command.stdin(memory_file(state.as_bytes())?).stdout(Stdio::null()).stderr(stderr.try_clone()?);
    let mut child = command.spawn()?;
    let Some(seconds) = hook.timeout_s else { return child.wait() };
    if ends_within(&child, Duration::from_secs(seconds.into()))? {
        return child.wait();
    }
    child.kill()?;
    child.wait()?;
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("not done after {seconds} s")))
}

fn variable(entry: &CString) -> Option<(&OsStr, &OsStr)> {
    let bytes = entry.as_bytes();
    let (name, value) = bytes.split_at(bytes.iter().position(|byte| *byte == b'=')?);
    Some((OsStr::from_bytes(name), OsStr::from_bytes(value.get(1..)?)))
}

fn ends_within(child: &std::process::Child, time: Duration) -> io::Result<bool> {
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&time))?;
    Ok(ended > 0)
}

fn last_words(stderr: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = stderr.rewind().and_then(|()| stderr.take(MAX_STDERR_BYTES).read_to_end(&mut bytes));
    match (read, String::from_utf8_lossy(&bytes).trim()) {
        (Ok(_), said) if !said.is_empty() => format!(": {said}"),
        _ => String::new(),
    }
}
