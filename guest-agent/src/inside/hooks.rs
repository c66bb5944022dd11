//! `startContainer` hooks: programs of the container's own, run just before its program.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use cofferdam_protocol::plan::HookPlan;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{PidfdFlags, pidfd_open};

use super::failure::{StartError, Step};
use crate::sys;

/// What of each of a failed hook's outputs is worth carrying to the host.
const MAX_OUTPUT_BYTES: u64 = 1 << 10;

/// Runs every hook in order. The first that fails ends it, in runc's words. `env` is what the
/// program will have.
pub(crate) fn run_all(hooks: &[HookPlan], env: &[CString], state: &str) -> Result<(), StartError> {
    for (number, hook) in hooks.iter().enumerate() {
        let what = format!("error running startContainer hook #{number}");
        let step = || format!("{what}: {}", hook.path);
        let mut output = Output::new().step(step)?;
        let status = run(hook, env, state, &output).step(step)?;
        if let Some(how) = how_it_ended(status) {
            return Err(StartError::Reported(format!("{what}: {how}, {}", output.last_words())));
        }
    }
    Ok(())
}

/// `None`: well.
fn how_it_ended(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (_, Some(signal)) => Some(format!("signal: {}", sys::signal_words(signal))),
        (code, None) => Some(format!("exit status {}", code.unwrap_or(-1))),
    }
}

/// What a hook writes.
struct Output {
    stdout: File,
    stderr: File,
}

impl Output {
    fn new() -> io::Result<Self> {
        Ok(Self { stdout: memory_file(b"")?, stderr: memory_file(b"")? })
    }

    fn last_words(&mut self) -> String {
        format!("stdout: {}, stderr: {}", said(&mut self.stdout), said(&mut self.stderr))
    }
}

/// A file has no reader to wait for: a hook that does not read its stdin, or that writes much,
/// blocks nobody.
fn memory_file(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn run(hook: &HookPlan, env: &[CString], state: &str, output: &Output) -> io::Result<ExitStatus> {
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    match &hook.env {
        Some(own) => command.envs(own.iter().filter_map(|entry| entry.split_once('='))),
        None => command.envs(env.iter().filter_map(variable)),
    };
    command.stdin(memory_file(state.as_bytes())?);
    command.stdout(output.stdout.try_clone()?).stderr(output.stderr.try_clone()?);
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

fn said(output: &mut File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read cannot be repeated.
    let _ = output.rewind().and_then(|()| output.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}
