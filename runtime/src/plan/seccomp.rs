//! `linux.seccomp` to a program for the kernel, compiled by libseccomp on the host: the guest only
//! installs it.
//!
//! As runc has it: names that this library does not know are skipped (the calls get the default
//! action), and where the default refuses, calls newer than every one that the profile names get
//! `ENOSYS`, so that C libraries fall back to older calls.

use std::fs::File;
use std::io::{self, Read, Seek};

use cofferdam_protocol::plan::SeccompPlan;
use libseccomp::error::SeccompError as LibraryError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use nix::libc;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use rustix::fs::{MemfdFlags, memfd_create};

/// System call numbers from here on are the x32 ABI's.
const X32_BIT: u32 = 0x4000_0000;

/// A system call has six arguments.
const MAX_ARGUMENTS: usize = 6;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// Someone outside would have to answer for each call.
    #[error(
        "linux.seccomp: SCMP_ACT_NOTIFY is not possible in a guest: its listener is a process of the host"
    )]
    Notify,
    /// An argument index over 5.
    #[error("linux.seccomp.syscalls: a system call has no argument {0}")]
    Argument(usize),
    /// No memory for the program.
    #[error("The filter's program cannot be kept in memory")]
    Memory(#[source] io::Error),
    /// The library.
    #[error("libseccomp refused the filter")]
    Library(#[source] LibraryError),
}

impl From<LibraryError> for SeccompError {
    fn from(error: LibraryError) -> Self {
        Self::Library(error)
    }
}

/// Compiles a filter for a guest, where nobody outside can answer for a call.
pub(crate) fn compile(seccomp: &LinuxSeccomp) -> Result<SeccompPlan, SeccompError> {
    let notify = LinuxSeccompAction::ScmpActNotify;
    let mut rules = seccomp.syscalls().iter().flatten();
    if seccomp.default_action() == notify || rules.any(|rule| rule.action() == notify) {
        return Err(SeccompError::Notify);
    }
    compile_with_listener(seccomp)
}

/// Compiles a filter, some of whose calls may be answered by a program.
pub(crate) fn compile_with_listener(seccomp: &LinuxSeccomp) -> Result<SeccompPlan, SeccompError> {
    compile_as(Search::Binary, seccomp)
}

/// How a program finds the rules of a call: `SCMP_FLTATR_CTL_OPTIMIZE`.
#[derive(Clone, Copy, Debug)]
enum Search {
    /// One after the other: what the library does by itself.
    #[cfg(test)]
    Linear = 1,
    /// By halves of the sorted numbers. The kernel runs a program for every call's number when it is
    /// installed, and after that for each call whose arguments it looks at.
    Binary = 2,
}

fn compile_as(search: Search, seccomp: &LinuxSeccomp) -> Result<SeccompPlan, SeccompError> {
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let architectures = architectures(seccomp);
    let mut filter = ScmpFilterContext::new(default)?;
    filter.set_ctl_nnp(false)?;
    // Of an older library or kernel than that the program is a longer one that says the same.
    let _ = filter.set_ctl_optimize(search as u32);
    for architecture in &architectures {
        filter.add_arch(*architecture)?;
    }
    for rule in seccomp.syscalls().iter().flatten() {
        add_rule(&mut filter, rule, default)?;
    }
    let mut program = newer_calls(seccomp, &architectures);
    program.extend(export(&filter)?);
    Ok(SeccompPlan { program, flags: flags(seccomp) })
}

/// The library of Debian 12 writes a program to a descriptor only: one in memory, so that this
/// is as pure as it looks from outside.
fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>, SeccompError> {
    let memory = memfd_create("seccomp", MemfdFlags::CLOEXEC).map_err(io::Error::from);
    let mut memory = memory.map(File::from).map_err(SeccompError::Memory)?;
    filter.export_bpf(&memory)?;
    let mut program = Vec::new();
    memory.rewind().map_err(SeccompError::Memory)?;
    memory.read_to_end(&mut program).map_err(SeccompError::Memory)?;
    Ok(program)
}

/// The architectures that a guest can run; others in the list are left out, as no program of
/// theirs can run to be filtered.
fn architectures(seccomp: &LinuxSeccomp) -> Vec<ScmpArch> {
    let mut found = vec![ScmpArch::X8664];
    for architecture in seccomp.architectures().iter().flatten() {
        let architecture = match architecture {
            Arch::ScmpArchX86 => ScmpArch::X86,
            Arch::ScmpArchX32 => ScmpArch::X32,
            _ => continue,
        };
        if !found.contains(&architecture) {
            found.push(architecture);
        }
    }
    found
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, SeccompError> {
    let errno = errno.unwrap_or(libc::EPERM.unsigned_abs());
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno.cast_signed()),
        LinuxSeccompAction::ScmpActTrace => {
            ScmpAction::Trace(u16::try_from(errno).unwrap_or(u16::MAX))
        }
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
    })
}

fn add_rule(
    filter: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    default: ScmpAction,
) -> Result<(), SeccompError> {
    let action = action(rule.action(), rule.errno_ret())?;
    let arguments = rule.args().as_deref().unwrap_or_default();
    // The library refuses rules that say what happens anyway.
    if action == default {
        return Ok(());
    }
    for syscall in rule.names().iter().filter_map(|name| ScmpSyscall::from_name(name).ok()) {
        for conditions in alternatives(arguments)? {
            filter.add_rule_conditional(action, syscall, &conditions)?;
        }
    }
    Ok(())
}

/// Conditions of one rule hold together, but where an argument occurs twice each condition is a
/// rule of its own: so does runc, and profiles are written for it.
fn alternatives(arguments: &[LinuxSeccompArg]) -> Result<Vec<Vec<ScmpArgCompare>>, SeccompError> {
    let mut seen = [false; MAX_ARGUMENTS];
    let mut repeated = false;
    for argument in arguments {
        let index = argument.index();
        let seen = seen.get_mut(index).ok_or(SeccompError::Argument(index))?;
        repeated |= *seen;
        *seen = true;
    }
    let conditions: Vec<ScmpArgCompare> = arguments.iter().map(condition).collect();
    if repeated {
        return Ok(conditions.into_iter().map(|condition| vec![condition]).collect());
    }
    Ok(vec![conditions])
}

fn condition(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let value = argument.value();
    // Checked to be below six.
    let index = u32::try_from(argument.index()).unwrap_or_default();
    let (operator, datum) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(value), argument.value_two().unwrap_or_default())
        }
    };
    ScmpArgCompare::new(index, operator, datum)
}

/// `SECCOMP_FILTER_FLAG_*` of linux/seccomp.h. A filter that is installed in a process with one
/// thread, before its program runs, needs no synchronising.
fn flags(seccomp: &LinuxSeccomp) -> u32 {
    let notify = LinuxSeccompAction::ScmpActNotify;
    let has_listener = seccomp.syscalls().iter().flatten().any(|rule| rule.action() == notify);
    seccomp.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1 << 0,
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
                // Nothing without a listener, and the kernel refuses it then.
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if has_listener => 1 << 5,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
            }
    })
}

/// Instructions before the filter: `ENOSYS` for calls with numbers above all that the profile
/// names. Nothing where the default does not refuse.
fn newer_calls(seccomp: &LinuxSeccomp, architectures: &[ScmpArch]) -> Vec<u8> {
    let refuses = !matches!(
        seccomp.default_action(),
        LinuxSeccompAction::ScmpActAllow
            | LinuxSeccompAction::ScmpActLog
            | LinuxSeccompAction::ScmpActTrace
            | LinuxSeccompAction::ScmpActNotify
    );
    let mut code = Vec::new();
    if !refuses {
        return code;
    }
    for architecture in architectures {
        let Some(audit) = audit_number(*architecture) else { continue };
        let names = seccomp.syscalls().iter().flatten().flat_map(LinuxSyscall::names);
        let newest = names
            .filter_map(|name| ScmpSyscall::from_name_by_arch(name, *architecture).ok())
            .filter_map(|call| u32::try_from(call.as_raw_syscall()).ok())
            .max();
        if let Some(newest) = newest {
            code.extend(newer_than(newest, audit));
        }
    }
    code
}

/// `AUDIT_ARCH_*`. x32 shares x86-64's and has numbers of its own above it: left to the filter.
const fn audit_number(architecture: ScmpArch) -> Option<u32> {
    match architecture {
        ScmpArch::X8664 => Some(0xc000_003e),
        ScmpArch::X86 => Some(0x4000_0003),
        _ => None,
    }
}

fn newer_than(newest: u32, audit: u32) -> Vec<u8> {
    // Classic BPF over `struct seccomp_data`: the call's number is at 0, the architecture at 4.
    const LOAD: u16 = 0x20; // LD | W | ABS
    const JUMP_EQUAL: u16 = 0x15; // JMP | JEQ | K
    const JUMP_GREATER: u16 = 0x25; // JMP | JGT | K
    const JUMP_GREATER_EQUAL: u16 = 0x35; // JMP | JGE | K
    const RETURN: u16 = 0x06; // RET | K
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    [
        statement(LOAD, 0, 0, 4),
        statement(JUMP_EQUAL, 0, 4, audit),
        statement(LOAD, 0, 0, 0),
        statement(JUMP_GREATER_EQUAL, 2, 0, X32_BIT),
        statement(JUMP_GREATER, 0, 1, newest),
        statement(RETURN, 0, 0, REFUSE),
    ]
    .concat()
}

/// A `struct sock_filter`.
fn statement(code: u16, if_true: u8, if_false: u8, operand: u32) -> [u8; 8] {
    let [c0, c1] = code.to_le_bytes();
    let [k0, k1, k2, k3] = operand.to_le_bytes();
    [c0, c1, if_true, if_false, k0, k1, k2, k3]
}

#[cfg(test)]
mod tests;
