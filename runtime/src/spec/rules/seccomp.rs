//! `linux.seccomp`.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSyscall, Spec};

use super::InvalidSpec;
use super::value::{no_nuls, number, within};

/// An error number in a return value (`MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;
/// What a tracer is told has two bytes.
const MAX_TRACE: u32 = 65_535;
/// A system call has six arguments.
const MAX_INDEX: usize = 5;

/// The rules. Names of calls that this machine does not know are allowed, as runc has it.
pub(super) fn check(spec: &Spec) -> Result<(), InvalidSpec> {
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let Some(seccomp) = seccomp else { return Ok(()) };
    let (action, errno) = (seccomp.default_action(), seccomp.default_errno_ret());
    errno_of("linux.seccomp.defaultErrnoRet", action, errno)?;
    listener(seccomp)?;
    for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        check_rule(&format!("linux.seccomp.syscalls[{index}]"), rule)?;
    }
    Ok(())
}

fn check_rule(path: &str, rule: &LinuxSyscall) -> Result<(), InvalidSpec> {
    if rule.names().is_empty() {
        return Err(InvalidSpec::Empty { path: format!("{path}.names") });
    }
    no_nuls(&format!("{path}.names"), Some(rule.names()))?;
    errno_of(&format!("{path}.errnoRet"), rule.action(), rule.errno_ret())?;
    for (index, argument) in rule.args().iter().flatten().enumerate() {
        let number = argument.index();
        let path = format!("{path}.args[{index}].index");
        within(&path, number, number <= MAX_INDEX, "0 to 5")?;
    }
    Ok(())
}

/// The specification wants an error for a number that the action has no use for.
fn errno_of(path: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<(), InvalidSpec> {
    let Some(errno) = errno else { return Ok(()) };
    match action {
        LinuxSeccompAction::ScmpActErrno => within(path, errno, errno <= MAX_ERRNO, "0 to 4095"),
        LinuxSeccompAction::ScmpActTrace => within(path, errno, errno <= MAX_TRACE, "0 to 65535"),
        _ => Err(number(path, errno, "no number but with SCMP_ACT_ERRNO and SCMP_ACT_TRACE")),
    }
}

fn listener(seccomp: &LinuxSeccomp) -> Result<(), InvalidSpec> {
    let path = seccomp.listener_path().as_ref().map(|path| path.to_string_lossy());
    super::value::no_nul("linux.seccomp.listenerPath", path.as_deref().unwrap_or_default())?;
    let metadata = seccomp.listener_metadata().as_ref().is_some_and(|text| !text.is_empty());
    if metadata && path.is_none_or(|path| path.is_empty()) {
        let path = "linux.seccomp.listenerMetadata".to_owned();
        return Err(InvalidSpec::Without { path, needed: "linux.seccomp.listenerPath" });
    }
    Ok(())
}
