//! The system calls that no safe wrapper covers.
//!
//! Every function here is safe to call: what it needs from its caller is in its types, or checked.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::{c_int, c_long};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use cofferdam_protocol::plan::SchedulerPlan;
use tokio::io::unix::AsyncFd;

/// Flags for [`spawn`]: `CLONE_NEW*` and so on.
pub(crate) type CloneFlags = c_int;

/// A process just made.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its pid in the agent's pid namespace.
    pub(crate) pid: u32,
    /// A descriptor that stands for it, and never for another.
    pub(crate) pidfd: OwnedFd,
}

/// `struct clone_args` of `linux/sched.h`, up to `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MountAttributes {
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(crate) clear: u64,
    /// `MS_PRIVATE` and its like, or 0.
    pub(crate) propagation: u64,
    /// Unused: no id-mapped mounts.
    pub(crate) userns_fd: u64,
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Starts a process that runs `child`, in new namespaces (`flags`) and in a cgroup.
///
/// The child is a copy of this process, as after `fork`. That is sound only where no other thread
/// could have held a lock at that moment, so a process with more than one thread is refused.
pub(crate) fn spawn(
    flags: CloneFlags,
    cgroup: BorrowedFd<'_>,
    child: impl FnOnce() -> Infallible,
) -> io::Result<Child> {
    refuse_threads()?;
    let mut pidfd: RawFd = -1;
    let args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()) | CLONE_PIDFD | CLONE_INTO_CGROUP,
        pidfd: (&raw mut pidfd).addr() as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        cgroup: u64::from(cgroup.as_raw_fd().cast_unsigned()),
        ..CloneArgs::default()
    };
    // SAFETY: `args` is a valid `clone_args` of the size given, without a stack of its own and
    // without CLONE_VM, so that the child goes on here on its own copy of all memory; `pidfd`
    // outlives the call; there is no other thread whose state the copy could tear.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        child();
    }
    // SAFETY: the kernel has just opened it for this process (CLONE_PIDFD), and nobody else has it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: u32::try_from(pid).map_err(io::Error::other)?, pidfd })
}

/// A folder's link count is two and one for each folder in it: `task` has one for each thread.
fn refuse_threads() -> io::Result<()> {
    let links = rustix::fs::stat("/proc/self/task")?.st_nlink;
    if links == 3 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EDEADLK)) }
}

/// Ends this process at once: no destructors, no exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// `mount_setattr(2)` on the mount that `mount` is the root of.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: &MountAttributes,
) -> io::Result<()> {
    let recursion = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a valid C string, and the attributes are of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursion,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    })?;
    Ok(())
}

/// `RLIMIT_NOFILE`, which libc gives another type with each C library.
pub(crate) const OPEN_FILES: u32 = 7;

/// `struct sched_attr` of `linux/sched/types.h`.
#[repr(C)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    clamps: [u32; 2],
}

/// `sched_setattr(2)` of this process.
pub(crate) fn set_scheduler(plan: &SchedulerPlan) -> io::Result<()> {
    let attributes = SchedulerAttributes {
        // A few dozen bytes.
        size: size_of::<SchedulerAttributes>() as u32,
        policy: plan.policy,
        flags: plan.flags,
        nice: plan.nice,
        priority: plan.priority,
        runtime: plan.runtime,
        deadline: plan.deadline,
        period: plan.period,
        clamps: [0; 2],
    };
    // SAFETY: pid 0 is this process, and the attributes are of the size that they name.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })?;
    Ok(())
}

/// `ioprio_set(2)` of this process: class and level in one number.
pub(crate) fn set_io_priority(priority: u16) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    let priority = c_int::from(priority);
    // SAFETY: the call takes numbers alone; 0 is this process.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) })?;
    Ok(())
}

/// `personality(2)` of this process.
pub(crate) fn set_personality(persona: u32) -> io::Result<()> {
    // SAFETY: the call takes a number alone.
    check(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(persona)) })?;
    Ok(())
}

/// `sched_setaffinity(2)` of this process.
pub(crate) fn set_affinity(cpus: &[u32]) -> io::Result<()> {
    const WORD_BITS: u32 = libc::c_ulong::BITS;
    let words = cpus.iter().max().map_or(0, |last| last / WORD_BITS + 1);
    let mut mask = vec![0 as libc::c_ulong; words as usize];
    for cpu in cpus {
        if let Some(word) = mask.get_mut((cpu / WORD_BITS) as usize) {
            *word |= 1 << (cpu % WORD_BITS);
        }
    }
    let bytes = size_of_val(mask.as_slice());
    // SAFETY: pid 0 is this process, and the mask has as many bytes as are named.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, mask.as_ptr()) })?;
    Ok(())
}

/// Sets a resource limit of this process by its number.
pub(crate) fn set_resource_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    set_resource_limit_of(0, resource, soft, hard)
}

/// Sets a resource limit of a process; 0 is this one.
pub(crate) fn set_resource_limit_of(
    pid: u32,
    resource: u32,
    soft: u64,
    hard: u64,
) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let old: *mut libc::rlimit64 = std::ptr::null_mut();
    // SAFETY: `limit` is valid, and no old limit is asked for.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, old) })?;
    Ok(())
}

/// Installs a seccomp filter for this thread: raw `struct sock_filter`s.
pub(crate) fn install_seccomp(program: &[u8], flags: u32) -> io::Result<()> {
    const SECCOMP_SET_MODE_FILTER: c_int = 1;
    let instructions: Vec<libc::sock_filter> = program
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| libc::sock_filter {
            code: u16::from_le_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_le_bytes([k0, k1, k2, k3]),
        })
        .collect();
    let whole = instructions.len() * 8 == program.len();
    let length = u16::try_from(instructions.len()).ok().filter(|_| whole);
    let length = length.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: instructions.as_ptr().cast_mut() };
    // SAFETY: `program` names `length` instructions that live until the call returns; the kernel
    // copies and validates them.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })?;
    Ok(())
}

/// `union bpf_attr` for `BPF_PROG_LOAD`, as far as it is used.
#[repr(C)]
struct BpfLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// `union bpf_attr` for `BPF_PROG_ATTACH`, as far as it is used.
#[repr(C)]
struct BpfAttach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: c_int, attributes: &T) -> io::Result<c_long> {
    // SAFETY: both callers pass the attributes of their command, which point to live memory; the
    // kernel takes missing ones as zero.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    })
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`: raw `struct bpf_insn`s.
pub(crate) fn load_device_program(program: &[u8]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const INSTRUCTION_BYTES: usize = 8;
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    if !program.len().is_multiple_of(INSTRUCTION_BYTES) {
        return Err(invalid());
    }
    let attributes = BpfLoad {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len() / INSTRUCTION_BYTES)
            .map_err(|_| invalid())?,
        instructions: program.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let descriptor = bpf(BPF_PROG_LOAD, &attributes)?;
    let descriptor = RawFd::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Attaches a device program to a cgroup, beside those that are there.
pub(crate) fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    const BPF_PROG_ATTACH: c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attributes = BpfAttach {
        target: cgroup.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attributes)?;
    Ok(())
}

/// Closes every descriptor from 3 on but these.
///
/// For a process just made by [`spawn`], which never returns into the code that owns the others.
pub(crate) fn close_all_but(kept: &mut [RawFd]) -> io::Result<()> {
    kept.sort_unstable();
    let mut first: u32 = 3;
    for &descriptor in kept.iter() {
        let Ok(descriptor) = u32::try_from(descriptor) else { continue };
        if descriptor > first {
            close_range(first, descriptor - 1)?;
        }
        first = first.max(descriptor.saturating_add(1));
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closing cannot break memory safety here: the descriptors' owners in this copy of
    // the process are never used or dropped (see `close_all_but`).
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    Ok(())
}

/// Signal dispositions and mask as a program expects to find them.
pub(crate) fn reset_signals() {
    // Rust's runtime ignores SIGPIPE, which execve would keep; no other has been changed.
    // SAFETY: the default disposition runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // Cannot fail with a valid set.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Lets this process, the first of its pid namespace, end by the signals that end others: the
/// kernel passes over those for which such a process has no handler. A program that it becomes has
/// the default again.
pub(crate) fn end_by_signals() {
    extern "C" fn end(signal: libc::c_int) {
        exit_now(128 + signal)
    }
    let handler = end as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does nothing but to end the process, which is safe in a handler.
        unsafe { libc::signal(signal, handler) };
    }
}

/// What a signal is called, as Go has it: `bad system call`.
pub(crate) fn signal_words(signal: i32) -> String {
    // SAFETY: strsignal gives a string that is valid until the next call in this thread.
    let words = unsafe {
        let text = libc::strsignal(signal);
        if text.is_null() {
            None
        } else {
            Some(std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    words.unwrap_or_else(|| signal.to_string()).to_lowercase()
}

/// Sends any signal, real-time ones included, to the process that `pidfd` stands for. False: it
/// had ended.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: u32) -> io::Result<bool> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: no siginfo is given; the kernel makes one.
    let result = check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0)
    });
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sets the wall clock.
pub(crate) fn set_wall_clock(now: std::time::Duration) -> io::Result<()> {
    let time = rustix::time::Timespec::try_from(now).map_err(io::Error::other)?;
    Ok(rustix::time::clock_settime(rustix::time::ClockId::Realtime, time)?)
}

/// As much as the kernel's generator is seeded with; more is of no use.
const MAX_ENTROPY_BYTES: usize = 64;

/// Gives the kernel's generator new randomness, and makes it use that at once.
pub(crate) fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203_u32 as libc::Ioctl;
    const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
    #[repr(C)]
    struct PoolInfo {
        bits: c_int,
        length: c_int,
        bytes: [u8; MAX_ENTROPY_BYTES],
    }
    let mut info = PoolInfo { bits: 0, length: 0, bytes: [0; MAX_ENTROPY_BYTES] };
    let count = bytes.len().min(MAX_ENTROPY_BYTES);
    info.bytes[..count].copy_from_slice(&bytes[..count]);
    (info.bits, info.length) = (count as c_int * 8, count as c_int);
    let random = std::fs::OpenOptions::new().write(true).open("/dev/random")?;
    // SAFETY: RNDADDENTROPY reads two integers and as many bytes as the second says, all of them
    // in `info`.
    let added = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    check(added.into())?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    let reseeded = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) };
    check(reseeded.into())?;
    Ok(())
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    check(result.into())?;
    Ok(())
}

/// Lets the runtime tell when a descriptor can be read or written.
pub(crate) fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open as long as it lives, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
