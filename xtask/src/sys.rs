//! What the compiler cannot check: code between `fork` and `exec`, and the processor's counter.

#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// Has the kernel kill the program when this process dies, however it dies. The program is put in
/// a process group of its own, so that ctrl-C reaches us alone and we end it in order.
///
/// The signal is sent when the *thread* that starts the program ends: call from the main thread,
/// or from one that outlives the program.
pub(crate) fn bind_to_this_process(command: &mut Command) -> &mut Command {
    command.process_group(0);
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe
    // calls are allowed: prctl is one, and nothing is allocated or locked.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) }
}

/// The processor's time stamp counter, in ticks of a fixed frequency since some time.
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: RDTSC reads a register, and every x86-64 processor has it; Linux lets programs use it
    // unless they asked otherwise (PR_SET_TSC), which nothing here does.
    unsafe { std::arch::x86_64::_rdtsc() }
}
