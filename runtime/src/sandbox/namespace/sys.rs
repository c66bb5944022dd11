//! The system calls of namespace mode that no safe wrapper covers. Nothing here decides anything.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MountAttributes {
    pub(super) set: u64,
    pub(super) clear: u64,
    pub(super) propagation: u64,
    pub(super) userns_fd: u64,
}

/// mount_setattr(2) on what a descriptor stands for.
pub(super) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: MountAttributes,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the structure lives through the call and its true
    // size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor that this process was started with, by its number.
///
/// # Errors
/// When no such descriptor is open.
pub(super) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads nothing but the number.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the numbers come from our own parent, which made each for one owner.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC)?;
    Ok(owned)
}

/// Whether a descriptor of this number is open.
pub(super) fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD reads nothing but the number.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Which side of a fork this is.
pub(super) enum Fork {
    /// The new process, whose parent is the parent of the one that called.
    Child,
    /// The process that called, with the number of the new one as it sees it.
    Caller(i32),
}

/// `struct clone_args` of clone3(2), version 0.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// Forks a process that becomes a child of this process's parent. To be called by a process with
/// one thread only.
pub(super) fn fork_sibling() -> io::Result<Fork> {
    let arguments = CloneArguments {
        flags: u64::from(libc::CLONE_PARENT.cast_unsigned()),
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM the child gets a copy of everything, and the only thread of this
    // process goes on in it where it stands: no lock is held by a thread that is not there.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>())
    };
    match i32::try_from(result) {
        Ok(0) => Ok(Fork::Child),
        Ok(pid) if pid > 0 => Ok(Fork::Caller(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Forks an ordinary child. To be called by a process with one thread only.
pub(super) fn fork_child() -> io::Result<Fork> {
    clone_with(0)
}

/// Forks a child that sleeps in a new user namespace without mappings, until it is killed.
pub(super) fn fork_into_user_namespace() -> io::Result<nix::unistd::Pid> {
    match clone_with(u64::from(libc::CLONE_NEWUSER.cast_unsigned()))? {
        Fork::Caller(pid) => Ok(nix::unistd::Pid::from_raw(pid)),
        Fork::Child => loop {
            // SAFETY: pause touches no memory.
            unsafe { libc::pause() };
        },
    }
}

fn clone_with(flags: u64) -> io::Result<Fork> {
    let exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    let arguments = CloneArguments { flags, exit_signal, ..CloneArguments::default() };
    // SAFETY: as in `fork_sibling`.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>())
    };
    match i32::try_from(result) {
        Ok(0) => Ok(Fork::Child),
        Ok(pid) if pid > 0 => Ok(Fork::Caller(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// setns(2) with a descriptor of one namespace.
pub(super) fn enter_namespace(namespace: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: plain numbers.
    if unsafe { libc::setns(namespace.as_raw_fd(), kind) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The pid or user namespace above one.
pub(super) fn parent_namespace(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `_IO(0xb7, 2)`.
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    // SAFETY: takes no argument.
    let parent = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
    if parent < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(parent) })
}

/// What a signal is called, as Go has it: `bad system call`.
pub(super) fn signal_words(signal: i32) -> String {
    // SAFETY: strsignal gives a string that is valid until the next call in this thread.
    let words = unsafe {
        let text = libc::strsignal(signal);
        if text.is_null() {
            None
        } else {
            Some(CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    words.unwrap_or_else(|| signal.to_string()).to_lowercase()
}

/// Ends a forked process at once: no destructor and no exit handler of its parent's runs in it.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// setns(2) with a pidfd: enters the given kinds of namespaces of that process, all at once.
pub(super) fn enter_namespaces(pidfd: BorrowedFd<'_>, kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: plain numbers.
    if unsafe { libc::setns(pidfd.as_raw_fd(), kinds) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends any signal, real-time ones as well, to exactly the process behind a pidfd.
pub(super) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo means the one that kill(2) would send.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// kill(2).
pub(super) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Replaces the session keyring by a new one, which nobody else has.
pub(super) fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets this process, the first of its pid namespace, end by the signals that end others: the
/// kernel passes over those for which such a process has no handler.
pub(super) fn end_by_signals() {
    extern "C" fn end(signal: libc::c_int) {
        exit_now(128 + signal)
    }
    let handler = end as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does nothing but to end the process, which is safe in a handler.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Every signal back to its default action and none blocked, as a new program expects them.
pub(super) fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is valid for every signal; for those that cannot be changed and those
        // that libc keeps, the call fails and changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero sigset_t is the empty set on Linux, and it lives through the call.
    unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// SECCOMP_FILTER_FLAG_NEW_LISTENER.
pub(super) const NEW_LISTENER: u32 = 1 << 3;

/// Closes a descriptor that the kernel has just opened for this process.
pub(super) fn close(number: i32) -> io::Result<()> {
    // SAFETY: the caller got the number from the kernel and gave it to nobody else.
    if unsafe { libc::close(number) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One instruction of classic BPF.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    k: u32,
}

/// Loads a seccomp filter (`struct sock_filter` after `struct sock_filter`) for this thread and
/// what it starts. With [`NEW_LISTENER`] the number of a new descriptor, else 0.
pub(super) fn load_seccomp(program: &[u8], flags: u32) -> io::Result<i32> {
    let instructions: Vec<Instruction> = program
        .chunks_exact(size_of::<Instruction>())
        .map(|i| Instruction {
            code: u16::from_ne_bytes([i[0], i[1]]),
            jump_true: i[2],
            jump_false: i[3],
            k: u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
        })
        .collect();
    let length = u16::try_from(instructions.len())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: instructions.as_ptr().cast_mut().cast() };
    // SAFETY: the program points to `length` instructions of the kernel's layout, which live
    // through the call; the kernel checks the program itself.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    match i32::try_from(result) {
        Ok(listener) if listener >= 0 => Ok(listener),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Marks every descriptor from this number on to be closed when a program is executed.
pub(super) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: plain numbers; nothing is closed now.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this process and what it executes next may be traced and read by others.
pub(super) fn set_dumpable(dumpable: bool) -> io::Result<()> {
    // SAFETY: plain numbers.
    let result =
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the soft and hard limit of one resource of a process.
pub(super) fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the new limit lives through the call and the old one is not asked for.
    let result = unsafe { libc::prlimit64(pid, resource, &raw const limit, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The hard limit of one resource of this process.
pub(super) fn hard_limit(resource: u32) -> io::Result<u64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limit is given, and the old one is written to a structure that lives here.
    let result = unsafe { libc::prlimit64(0, resource, std::ptr::null(), &raw mut limit) };
    if result == 0 { Ok(limit.rlim_max) } else { Err(io::Error::last_os_error()) }
}

/// Moves a mount's propagation: `kind` is one of MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE,
/// with MS_REC or without.
pub(super) fn set_propagation(target: &CStr, kind: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the target is a C string; source, type and data are not used for this.
    let result = unsafe {
        libc::mount(std::ptr::null(), target.as_ptr(), std::ptr::null(), kind, std::ptr::null())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Switches the loopback interface of this network namespace on.
pub(super) fn bring_up_loopback() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero is a valid ifreq; the name that is copied in is shorter than its place and
    // so stays terminated.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = byte.cast_signed();
    }
    // SAFETY: the kernel reads the name and writes the flags of a structure that lives here.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let up = i16::try_from(libc::IFF_UP).unwrap_or(1);
    // SAFETY: the flags are the member that the call above has written.
    unsafe { request.ifr_ifru.ifru_flags |= up };
    // SAFETY: as above; the kernel only reads.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// personality(2): the ordinary one.
pub(super) const PER_LINUX: u64 = 0;
/// personality(2): `uname` says i686.
pub(super) const PER_LINUX32: u64 = 8;

/// Sets the execution domain of this process.
pub(super) fn set_personality(domain: u64) -> io::Result<()> {
    // SAFETY: a plain number.
    if unsafe { libc::personality(domain) } >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What sched_setattr(2) is told.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct SchedulerAttributes {
    pub(super) policy: u32,
    pub(super) flags: u64,
    pub(super) nice: i32,
    pub(super) priority: u32,
    pub(super) runtime: u64,
    pub(super) deadline: u64,
    pub(super) period: u64,
}

/// `struct sched_attr`, version 0.
#[repr(C)]
struct KernelSchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the scheduler of this thread.
pub(super) fn set_scheduler(said: &SchedulerAttributes) -> io::Result<()> {
    const SIZE: u32 = 48;
    let attributes = KernelSchedulerAttributes {
        size: SIZE,
        policy: said.policy,
        flags: said.flags,
        nice: said.nice,
        priority: said.priority,
        runtime: said.runtime,
        deadline: said.deadline,
        period: said.period,
    };
    // SAFETY: the structure has the size that it says and lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the I/O priority of this process and of its group, as runc does.
pub(super) fn set_io_priority(priority: i32) -> io::Result<()> {
    const WHO_PROCESS_GROUP: libc::c_int = 2;
    // SAFETY: plain numbers; 0 is this process's own group.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS_GROUP, 0, priority) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the memory policy of this thread.
pub(super) fn set_memory_policy(mode: i32, nodes: &[u64]) -> io::Result<()> {
    let empty = nodes.iter().all(|word| *word == 0);
    let (mask, length) =
        if empty { (std::ptr::null(), 0) } else { (nodes.as_ptr(), nodes.len() * 64) };
    // SAFETY: the mask has `length` bits, or is absent with none.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the CPUs of this thread.
pub(super) fn set_affinity(cpus: &[u64]) -> io::Result<()> {
    // SAFETY: the mask has as many bytes as are said.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
